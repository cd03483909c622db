//! Becomes a shell that runs its first argument, confined, with standard input, a working directory and fds
//! that are not its own; or complains, with 3 where it is still as it was and with 4 where it was not.

use std::env::args;
use std::fs::File;
use std::process::ExitCode;
use std::thread;

use portcullis::Command;
use rustix::io::{FdFlags, fcntl_setfd};

fn main() -> ExitCode {
    let arguments: Vec<_> = args().skip(1).collect();
    let mut command = Command::new("sh");
    command.args(["-c", &arguments[0]]).read("/").exec("/").current_dir("/usr");
    let file = File::open("/etc/passwd").expect("a file");
    // An fd that anybody would inherit.
    fcntl_setfd(&file, FdFlags::empty()).expect("an fd");
    command.stdin(File::open("/etc/passwd").expect("a file"));
    match arguments.get(1).map(String::as_str) {
        Some("with a thread") => drop(thread::spawn(thread::park)),
        Some("with a launcher") => drop(command.launcher("/no/such/launcher")),
        Some("with a child") => drop(command.policy("linux.process.attributes.v1", {
            let signal = serde_json::json!({"parent_death_signal": "TERM"});
            portcullis::Params::of(&signal).expect("a policy")
        })),
        Some("with a digest") => {
            let registry = portcullis_core::Registry::collect().expect("the registry");
            let params = portcullis::Params::default();
            let entry = registry.entry("linux.userns.enter.v1", params).expect("an entry");
            let param_digest = [9; 32].into();
            command.entry(portcullis::LoweringEntry { param_digest, ..entry });
        }
        Some("with a preference") => drop(command.no_network().prefer("linux.netns.enter.v1")),
        _ => {}
    }
    let error = command.exec_here(|error| {
        eprintln!("{error}");
        4
    });
    eprintln!("{error}");
    3.into()
}
