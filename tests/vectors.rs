//! Golden vectors of version 2: bodies, their canonical bytes and digests, checked here and by the example
//! in Python, so that a second implementation can be held against them.

use std::fs;
use std::process::{Command, ExitCode};

use portcullis_core::descriptor::DescriptorSlot;
use portcullis_core::frame::HEADER_LEN;
use portcullis_core::plan::{
    LaunchBody, LaunchPlan, LoweringEntry, Standing, Target, lowering_digest,
};
use portcullis_core::{Digest, OsText, Params};
use portcullis_tests::{Host, Need, launcher, python, run, tests};
use serde::Deserialize;
use serde_json::{Value, json};

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors");
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/python/launch.py");

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn digest(hex: &Value) -> Digest {
    <[u8; 32]>::try_from(bytes(hex)).unwrap().into()
}

fn os_text(value: &Value) -> OsText {
    use std::os::unix::ffi::OsStringExt;
    match value.as_str() {
        Some(text) => text.into(),
        None => std::ffi::OsString::from_vec(bytes(&value["hex"])).into(),
    }
}

fn number(value: &Value) -> u32 {
    u32::deserialize(value).unwrap()
}

fn entry(value: &Value) -> LoweringEntry {
    let params = Params::of(&value["params"]).unwrap();
    LoweringEntry {
        id: value["id"].as_str().unwrap().into(),
        version: number(&value["version"]),
        phase_code: number(&value["phase_code"]),
        param_digest: params.digest(),
        params,
        decl_digest: Some(digest(&value["decl_digest"])),
        standing: Standing::Scheduled,
    }
}

fn body(value: &Value) -> LaunchBody {
    let list = |value: &Value| value.as_array().unwrap().clone();
    let lowering: Vec<_> = list(&value["lowering"]).iter().map(entry).collect();
    let target = &value["target"];
    let variable = |pair: &Value| (os_text(&pair[0]), os_text(&pair[1]));
    LaunchBody {
        attempt_id: digest(&value["attempt_id"]),
        plan_id: digest(&value["plan_id"]),
        h_a: digest(&value["h_a"]),
        h_p: digest(&value["h_p"]),
        h_l: lowering_digest(&lowering),
        lowering,
        descriptor_table: Vec::<DescriptorSlot>::deserialize(&value["descriptor_table"]).unwrap(),
        target: Target {
            argv: list(&target["argv"]).iter().map(os_text).collect(),
            envp: list(&target["envp"]).iter().map(variable).collect(),
            exe_slot: number(&target["exe_slot"]),
        },
    }
}

/// `UPDATE=1` writes what is expected anew.
fn each_vector_is_encoded_and_decoded_as_expected() {
    let mut checked = 0;
    for file in fs::read_dir(VECTORS).unwrap() {
        let path = file.unwrap().path();
        let mut vector: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let body = body(&vector["body"]);
        let frame = LaunchPlan::encode(&body).unwrap();
        let digests = body.lowering.iter().map(|it| it.param_digest.to_string());
        let found = json!({
            "body": hex(&frame[HEADER_LEN..]),
            "h_l": body.h_l.to_string(),
            "param_digests": digests.collect::<Vec<_>>(),
            "frame": hex(&frame),
        });
        if std::env::var_os("UPDATE").is_some() {
            vector["expected"] = found.clone();
            fs::write(&path, serde_json::to_string_pretty(&vector).unwrap() + "\n").unwrap();
        }
        assert_eq!(vector["expected"], found, "{}", path.display());
        let decoded = LaunchPlan::decode(&bytes(&found["frame"])).unwrap();
        assert_eq!(decoded.body(), &body, "{}", path.display());
        decoded.verify_identity().unwrap();
        checked += 1;
    }
    assert!(checked >= 6, "{checked}");
}

fn the_example_in_python_agrees_with_every_vector() {
    let output = python().args([EXAMPLE, "--check", VECTORS]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.trim(), format!("{} vectors agree", fs::read_dir(VECTORS).unwrap().count()));
}

fn the_example_in_python_launches_a_confined_program() {
    let host = Host::default();
    let secret = host.folder().join("secret");
    fs::write(&secret, "42").unwrap();
    let run = |script: &str| {
        let mut command = python();
        command.arg(EXAMPLE).arg(launcher()).args(["/bin/sh", "-c", script]).arg("sh").arg(&secret);
        command.output().unwrap()
    };
    let output = run("echo confined; exit 7");
    let transcript = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        (output.status.code(), &output.stdout[..]),
        (Some(7), &b"confined\n"[..]),
        "{transcript}"
    );
    assert!(transcript.contains("ExecSucceeded\n# workload exited code=7"), "{transcript}");
    assert!(transcript.contains("applied=linux.landlock.apply.v1"), "{transcript}");
    // What it did not grant; and the control.
    let denied = run("cat \"$1\"");
    assert!(denied.status.code() == Some(1) && denied.stdout.is_empty());
    let control = Command::new("/bin/sh").args(["-c", "cat \"$1\"", "sh"]).arg(&secret).output();
    assert_eq!(control.unwrap().stdout, b"42");
}

fn main() -> ExitCode {
    run(tests![
        each_vector_is_encoded_and_decoded_as_expected: [],
        the_example_in_python_agrees_with_every_vector: [Need::Cbor2],
        the_example_in_python_launches_a_confined_program:
            [Need::Cbor2, Need::Mechanism("linux.landlock.apply.v1"), Need::Mechanism("linux.seccomp.apply.v1")],
    ])
}
