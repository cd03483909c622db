//! The command line's options, one by one: what each does is seen from outside, and is not so without it.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::process::{Child, Command, ExitCode, Output, Stdio};

use portcullis_tests::{
    Need, Signal, cgroup2, launcher, portcullis, read_proc, run, send, shell_of, terminal, tests,
    write_program,
};
use serde_json::Value;
use tempfile::TempDir;

fn command(options: &[&str], program: &[&str]) -> Command {
    let mut command = Command::new(portcullis());
    command.arg("run").args(options).arg("--").args(program).stdin(Stdio::null());
    command
}

fn output(options: &[&str], program: &[&str]) -> Output {
    command(options, program).output().unwrap()
}

/// What a shell's script prints, where that went well.
fn says(options: &[&str], script: &str) -> String {
    let output = output(options, &["sh", "-c", script]);
    assert!(output.status.success(), "{options:?}: {}", text(&output.stderr));
    text(&output.stdout).trim_end().to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A complaint of one line, and the status that says that nothing ran.
fn refused(options: &[&str], parts: &[&str]) {
    let output = output(options, &["true"]);
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{options:?}: {complaint}");
    for part in parts {
        assert!(complaint.contains(part), "{part:?} is not in {complaint}");
    }
}

/// A shell that has said that it runs, and waits to be looked at and killed.
struct Waiting(Child);

impl Waiting {
    fn new(options: &[&str]) -> Self {
        let script = "echo; while :; do sleep 0.02; done";
        let mut child =
            command(options, &["sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Self(child)
    }

    /// The pid of the workload: portcullis itself, a child of it, or a child of a launcher that is one.
    fn workload(&self) -> u32 {
        shell_of(self.0.id())
    }

    fn status(&self, name: &str) -> String {
        let status = read_proc(self.workload(), "status");
        let found = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.unwrap_or_else(|| panic!("{name} is not in {status}")).trim().to_owned()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn strict_is_all_that_it_says() {
    let plain = Waiting::new(&[]);
    let strict = Waiting::new(&["--strict"]);
    let filters = |it: &Waiting| it.status("Seccomp_filters").parse::<u32>().unwrap();
    assert_eq!((filters(&plain), filters(&strict)), (1, 2));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(strict.status(set), "0000000000000000", "{set}");
    }
    assert_eq!(strict.status("NoNewPrivs"), "1");
    let limits = read_proc(strict.workload(), "limits");
    let limit = |name: &str| -> Vec<String> {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().take(2).map(str::to_owned).collect()
    };
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    assert_eq!(limit("Max processes"), ["256", "256"]);
    assert_eq!(limit("Max open files"), ["1024", "4096"]);
    let namespace = |it: &Waiting, name: &str| {
        fs::read_link(format!("/proc/{}/ns/{name}", it.workload())).unwrap()
    };
    for name in ["user", "net"] {
        assert_ne!(namespace(&plain, name), namespace(&strict, name), "{name}");
    }
    let session = |pid: u32| {
        let stat = read_proc(pid, "stat");
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        rest.split(' ').nth(3).unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(session(strict.workload()), strict.workload());
    assert_ne!(session(plain.workload()), plain.workload());
}

fn ordinary_programs_survive_strict() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().to_str().unwrap();
    let script = "import json, subprocess, threading, socket, tempfile\n\
                  pair = socket.socketpair()\n\
                  thread = threading.Thread(target=lambda: pair[0].send(b'x')); thread.start(); thread.join()\n\
                  assert pair[1].recv(1) == b'x'\n\
                  open('made', 'w').write(json.dumps({'ran': subprocess.check_output(['echo', 'it']).decode()}))";
    let ran = output(
        &[
            "--strict",
            "--read",
            "/usr",
            "--read",
            "/lib",
            "--read",
            "/lib64",
            "--read",
            "/bin",
            "--read-only",
            "/etc",
            "--write",
            out,
            "--write",
            "/dev",
            "--cwd",
            out,
        ],
        &["python3", "-c", script],
    );
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    assert_eq!(fs::read_to_string(folder.path().join("made")).unwrap(), r#"{"ran": "it\n"}"#);
    assert_eq!(
        says(&["--strict"], "echo one two | sort -r | tr a-z A-Z; (exit 3); echo $?"),
        "ONE TWO\n3"
    );
}

fn a_terminals_signal_reaches_a_session_of_its_own() {
    // The kernel sends it to portcullis alone, which hands it on, where the workload has left the group.
    let mut child = Waiting::new(&["--strict", "--report-file", "/dev/null"]);
    send(child.0.id(), Signal::INT);
    assert_eq!(child.0.wait().unwrap().code(), Some(128 + 2));
}

fn portcullis_stays_between_a_terminal_and_a_session_of_its_own() {
    let parent = |setsid: &[&str]| {
        let (terminal, _behind) = terminal();
        let script = r#""$0" run --strict --read / -- sh -c 'cat /proc/$PPID/comm'; :"#;
        let mut command = Command::new("setsid");
        command.args(setsid).args(["--wait", "sh", "-c", script]).arg(portcullis());
        let output = command.stdin(terminal).output().unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        text(&output.stdout)
    };
    assert_eq!(parent(&["--ctty"]), "portcullis\n");
    // The control: without a terminal there is nothing to hand on.
    assert_eq!(parent(&[]), "sh\n");
}

fn what_is_said_beside_strict_takes_the_place_of_its_part() {
    assert_eq!(says(&["--strict", "--limit", "nofile=77"], "ulimit -n; ulimit -c"), "77\n0");
    let filtered = Waiting::new(&["--strict", "--seccomp", "baseline"]);
    assert_eq!(filtered.status("Seccomp_filters"), "1");
    let rlimits = "linux.rlimits.set.v1={nofile = 55}";
    assert_eq!(says(&["--strict", "--mechanism", rlimits], "ulimit -n"), "55");
}

fn what_is_said_beside_strict_takes_nothing_else_from_it() {
    let denying = "linux.seccomp.apply.v1={deny = [\"mkdir\"]}";
    let layered = Waiting::new(&["--strict", "--mechanism", denying]);
    assert_eq!(layered.status("Seccomp_filters"), "3");
    refused(
        &["--strict", "--limit", "nofile=64", "--mechanism", "linux.rlimits.set.v1={core = 0}"],
        &["linux.rlimits.set.v1", "twice"],
    );
}

fn groups_do_not_come_along_to_another_user() {
    let groups = |options: &[&str]| {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--groups", "0,42"]).arg(portcullis()).arg("run").args(options);
        let output = setpriv.args(["--", "id", "-G"]).output().unwrap();
        text(&output.stdout).trim().to_owned()
    };
    assert_eq!(groups(&[]), "0 42");
    for more in [&[][..], &["--strict"], &["--no-network"]] {
        assert_eq!(groups(&[&["--user", "65534:65534"], more].concat()), "65534", "{more:?}");
    }
}

fn what_is_ignored_stays_so() {
    const HUP_AND_INT: u64 = 0b11;
    let ignored = |before: &str| {
        let script = format!("{before} exec \"$0\" run --read / -- grep SigIgn /proc/self/status");
        let output = Command::new("/bin/sh").args(["-c", &script]).arg(portcullis()).output();
        let line = text(&output.unwrap().stdout);
        u64::from_str_radix(line.trim().rsplit('\t').next().unwrap(), 16).unwrap()
    };
    assert_eq!(ignored("") & HUP_AND_INT, 0);
    assert_eq!(ignored("trap '' HUP INT;") & HUP_AND_INT, HUP_AND_INT);
}

fn an_explanation_empties_no_file() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("precious");
    fs::write(&file, "keep").unwrap();
    let stdio = format!("linux.stdio.set.v1={{stdout = \"{}\"}}", file.display());
    let explained = output(&["--explain", "--mechanism", &stdio], &["true"]);
    assert!(explained.status.success(), "{}", text(&explained.stderr));
    refused(&["--mechanism", &stdio, "--mechanism", "no.such.v1={}"], &["no.such.v1"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "keep");
    assert!(output(&["--mechanism", &stdio], &["true"]).status.success());
    assert_eq!(fs::read_to_string(&file).unwrap(), "");
}

fn a_profile_or_a_file_filters_system_calls() {
    let folder = TempDir::new().unwrap();
    let made = folder.path().join("made");
    let script = format!("mkdir {}", made.display());
    let write = ["--read", "/", "--write", folder.path().to_str().unwrap()];
    let file = folder.path().join("filter.json");
    let oci = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"],
        "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;
    fs::write(&file, oci).unwrap();
    let filtered = [&write[..], &["--seccomp", file.to_str().unwrap()]].concat();
    let denied = output(&filtered, &["sh", "-c", &script]);
    assert!(text(&denied.stderr).contains("No space left"), "{}", text(&denied.stderr));
    assert!(!made.exists());
    says(&write, &script);
    assert!(made.exists());
    let modes = [&write[..], &["--seccomp", "no-metadata"]].concat();
    let chmod = format!("chmod 700 {}", made.display());
    assert!(!output(&modes, &["sh", "-c", &chmod]).status.success());
    says(&write, &chmod);
    let layers = Waiting::new(&["--seccomp", "baseline", "--seccomp", "no-network"]);
    assert_eq!(layers.status("Seccomp_filters"), "3");
    refused(&["--seccomp", "no-such-profile"], &["no-such-profile", "No such file"]);
}

/// Whether a confined Python can connect to a port, which a listener of ours has.
fn connects(options: &[&str], port: u16) -> bool {
    let script = format!("import socket; socket.create_connection(('127.0.0.1', {port}), 5)");
    output(options, &["/usr/bin/python3", "-c", &script]).status.success()
}

fn ports_are_granted_one_by_one() {
    let [first, second] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [granted, other] = [&first, &second].map(|it| it.local_addr().unwrap().port());
    let option = granted.to_string();
    assert!(connects(&[], granted) && connects(&[], other));
    assert!(connects(&["--connect", &option], granted));
    assert!(!connects(&["--connect", &option], other));
    drop((first, second));
    let binds = |options: &[&str], port: u16| {
        let script = format!(
            "import socket; s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('127.0.0.1', {port}))"
        );
        output(options, &["/usr/bin/python3", "-c", &script]).status.success()
    };
    assert!(binds(&[], other) && binds(&["--bind", &option], granted));
    assert!(!binds(&["--bind", &option], other));
}

fn executing_is_granted_without_listing() {
    let folder = TempDir::new().unwrap();
    let program = folder.path().join("program");
    write_program(&program, &fs::read(launcher()).unwrap());
    let (folder, program) = (folder.path().to_str().unwrap(), program.to_str().unwrap());
    let runs = |options: &[&str]| output(options, &[program, "--version"]).status.success();
    assert!(runs(&["--exec", folder]) && !runs(&["--read-only", folder]));
    let read = ["--read", "/usr", "--read", "/lib", "--read", "/lib64", "--read", "/bin"];
    let lists =
        |options: &[&str]| output(&[&read[..], options].concat(), &["ls", folder]).status.success();
    assert!(!lists(&["--exec", folder]) && lists(&["--read-only", folder]));
}

fn limits_are_set_soft_and_hard() {
    assert_eq!(says(&["--limit", "nofile=64:80"], "ulimit -Sn; ulimit -Hn"), "64\n80");
    assert_ne!(says(&[], "ulimit -Sn"), "64");
    assert_eq!(says(&["--limit", "core=0", "--limit", "fsize=1M"], "ulimit -f"), "2048");
    let output = output(&["--limit", "files=1"], &["true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("nofile"), "{}", text(&output.stderr));
    refused(&["--limit", "nofile=2:1"], &["nofile"]);
}

fn a_cgroup_is_made_for_the_program_and_removed() {
    let parent = cgroup2().unwrap();
    let parent = parent.to_str().unwrap();
    let own = says(&["--cgroup", parent, "--read", "/"], "cat /proc/self/cgroup");
    let leaf = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    assert!(leaf.starts_with("portcullis-"), "{leaf}");
    assert!(!cgroup2().unwrap().join(leaf).exists());
}

fn a_controller_that_is_lacking_is_named() {
    let controllers = cgroup2().map(|root| fs::read_to_string(root.join("cgroup.controllers")));
    let has = controllers.and_then(Result::ok).is_some_and(|it| it.contains("memory"));
    if !has {
        refused(&["--memory", "512M"], &["memory", "controller"]);
    }
}

fn root_becomes_another_user() {
    let plain = Waiting::new(&[]);
    assert!(plain.status("Uid").starts_with("0\t"));
    let nobody = Waiting::new(&["--user", "65534:65534"]);
    assert_eq!(nobody.status("Uid"), "65534\t65534\t65534\t65534");
    assert_eq!(nobody.status("Groups"), "");
    assert_eq!(nobody.status("CapEff"), "0000000000000000");
    // With a namespace it is that user outside too.
    let strict = Waiting::new(&["--strict", "--user", "65534:65534"]);
    assert_eq!(strict.status("Uid"), "65534\t65534\t65534\t65534");
    assert_eq!(says(&["--strict", "--user", "65534"], "id -u"), "65534");
    refused(&["--user", "no-such-user-"], &["no-such-user-"]);
}

fn anybody_else_is_who_they_choose_inside_a_namespace() {
    assert_eq!(says(&["--strict", "--user", "4242:4343"], "id -u; id -g"), "4242\n4343");
}

fn capabilities_are_dropped_one_by_one_or_all() {
    const NET_RAW: u64 = 1 << 13;
    let set = |options: &[&str], name: &str| {
        u64::from_str_radix(&Waiting::new(options).status(name), 16).unwrap()
    };
    let before = set(&[], "CapEff");
    assert_ne!(before & NET_RAW, 0);
    for name in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(set(&["--cap-drop", "CAP_NET_RAW"], name), before & !NET_RAW, "{name}");
        assert_eq!(set(&["--cap-drop", "all"], name), 0, "{name}");
    }
    refused(&["--cap-drop", "net_paw"], &["net_paw"]);
}

fn a_name_and_a_digest_are_the_programs() {
    let name = output(&["--argv0", "another"], &["sh", "-c", "echo $0"]);
    assert_eq!(text(&name.stdout), "another\n");
    let folder = TempDir::new().unwrap();
    let program = folder.path().join("program");
    write_program(&program, b"#!/bin/sh\necho it\n");
    let digest = portcullis_core::Digest::of(&fs::read(&program).unwrap());
    let digest = format!("blake3:{digest}");
    let options = ["--read", "/", "--digest", &digest];
    let path = program.to_str().unwrap();
    assert_eq!(text(&output(&options, &[path]).stdout), "it\n");
    write_program(&program, b"#!/bin/sh\necho other\n");
    let changed = output(&options, &[path]);
    assert_eq!((changed.status.code(), changed.stdout.len()), (Some(125), 0));
    assert!(text(&changed.stderr).contains("HandleMismatch"), "{}", text(&changed.stderr));
}

fn a_mechanism_is_scheduled_by_json_toml_or_a_file() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("policy.toml");
    fs::write(&file, "umask = \"027\"\n").unwrap();
    let id = "linux.process.attributes.v1";
    for policy in
        ["{\"umask\": 23}".to_owned(), "{umask = 23}".into(), format!("@{}", file.display())]
    {
        assert_eq!(says(&["--mechanism", &format!("{id}={policy}")], "umask"), "0027");
    }
    assert_ne!(says(&[], "umask"), "0027");
    refused(&["--mechanism", &format!("{id}={{umsk = 1}}")], &["umsk"]);
    refused(&["--mechanism", "linux.no.such.v1={}"], &["linux.no.such.v1"]);
}

fn what_is_preferred_and_not_there_is_left_out_and_told() {
    let file = TempDir::new().unwrap();
    let report = file.path().join("report");
    let options = [
        "--mechanism",
        "linux.no.such.v1={}",
        "--prefer",
        "linux.no.such.v1",
        "--report",
        "json",
        "--report-file",
        report.to_str().unwrap(),
    ];
    assert!(output(&options, &["true"]).status.success());
    let report: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert_eq!(report["missing"][0]["id"], "linux.no.such.v1");
    assert!(
        report["residual"]
            .as_array()
            .unwrap()
            .iter()
            .any(|it| it["id"] == "linux.landlock.apply.v1")
    );
}

fn what_is_preferred_and_asked_for_by_nothing_is_refused() {
    refused(&["--prefer", "linux.lndlock.apply.v1"], &["linux.lndlock.apply.v1", "nothing asks"]);
}

fn the_doctor_sees_each_claim_hold() {
    let output = Command::new(portcullis()).args(["doctor", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stdout));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(told["host"].as_array().unwrap().iter().any(|it| it["name"] == "kernel"));
    let mechanisms = told["mechanisms"].as_array().unwrap();
    assert!(mechanisms.len() > 10);
    for it in mechanisms {
        let (verdict, supported) = (&it["proof"]["verdict"], &it["supported"]);
        assert!(verdict == "holds" || verdict == "not_tried", "{it}");
        assert!(verdict == "holds" || supported == false || it["proof"]["why"].is_string(), "{it}");
    }
    let holds = |id: &str| {
        let it = mechanisms.iter().find(|it| it["id"] == id).unwrap();
        it["proof"]["verdict"] == "holds"
    };
    assert!(holds("linux.landlock.apply.v1") && holds("linux.seccomp.apply.v1"));
    let words = Command::new(portcullis()).arg("doctor").output().unwrap();
    assert!(text(&words.stdout).contains("proved:"), "{}", text(&words.stdout));
}

fn main() -> ExitCode {
    const LANDLOCK: Need = Need::Mechanism("linux.landlock.apply.v1");
    const SECCOMP: Need = Need::Mechanism("linux.seccomp.apply.v1");
    const NETNS: Need = Need::Mechanism("linux.netns.enter.v1");
    run(tests![
        strict_is_all_that_it_says: [LANDLOCK, SECCOMP, NETNS, Need::LandlockScopes],
        ordinary_programs_survive_strict: [LANDLOCK, SECCOMP, NETNS, Need::Python],
        a_terminals_signal_reaches_a_session_of_its_own: [LANDLOCK, SECCOMP, NETNS],
        portcullis_stays_between_a_terminal_and_a_session_of_its_own: [LANDLOCK, SECCOMP, NETNS],
        what_is_said_beside_strict_takes_the_place_of_its_part: [LANDLOCK, SECCOMP, NETNS],
        what_is_preferred_and_asked_for_by_nothing_is_refused: [],
        what_is_said_beside_strict_takes_nothing_else_from_it: [LANDLOCK, SECCOMP, NETNS],
        groups_do_not_come_along_to_another_user:
            [LANDLOCK, SECCOMP, NETNS, Need::Root, Need::UtilLinux],
        what_is_ignored_stays_so: [LANDLOCK],
        an_explanation_empties_no_file: [LANDLOCK],
        a_profile_or_a_file_filters_system_calls: [LANDLOCK, SECCOMP],
        ports_are_granted_one_by_one: [Need::LandlockAbi(4), Need::Python],
        executing_is_granted_without_listing: [LANDLOCK],
        limits_are_set_soft_and_hard: [LANDLOCK],
        a_cgroup_is_made_for_the_program_and_removed: [LANDLOCK, Need::DelegatedCgroup],
        a_controller_that_is_lacking_is_named: [LANDLOCK, Need::DelegatedCgroup],
        root_becomes_another_user: [LANDLOCK, NETNS, Need::Root],
        anybody_else_is_who_they_choose_inside_a_namespace: [LANDLOCK, NETNS],
        capabilities_are_dropped_one_by_one_or_all: [LANDLOCK, Need::Root],
        a_name_and_a_digest_are_the_programs: [LANDLOCK],
        a_mechanism_is_scheduled_by_json_toml_or_a_file: [LANDLOCK],
        what_is_preferred_and_not_there_is_left_out_and_told: [LANDLOCK],
        the_doctor_sees_each_claim_hold: [LANDLOCK, SECCOMP],
    ])
}
