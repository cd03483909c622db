//! An attacker. `escape NAME KEY=VALUE…` attempts one escape, prints what came of it as a line of JSON, and
//! exits with 0 when it is out, 1 when it was denied, 2 when there is nothing here to attempt.
//!
//! Harmless by construction: what it reads, writes, signals and connects to are files, processes and
//! listeners that its caller made for it and names in its arguments. A call that would change the
//! machine has an argument that is wrong in a way that the kernel looks at only after the permission, so
//! that it fails either way, with another errno. Every act is bounded.

mod attempt;
mod execution;
mod files;
mod identity;
mod ipc;
mod kernel;
mod namespaces;
mod network;
mod outsider;
mod process;
mod resources;
mod ring;
mod sockets;
mod sys;
mod terminal;

use std::env;
use std::process::ExitCode;

use attempt::{Escape, Outside, report};
use serde_json::json;
use sys::call;

/// Every escape, by theme.
fn escapes() -> impl Iterator<Item = &'static Escape> {
    [
        process::ESCAPES,
        files::ESCAPES,
        sockets::ESCAPES,
        network::ESCAPES,
        ipc::ESCAPES,
        kernel::ESCAPES,
        namespaces::ESCAPES,
        terminal::ESCAPES,
        execution::ESCAPES,
        identity::ESCAPES,
        resources::ESCAPES,
    ]
    .into_iter()
    .flatten()
}

/// The longest that an escape may take: seconds.
const PATIENCE: i64 = 60;

/// Has SIGALRM end an escape that hangs.
fn be_bounded() {
    let timer: Vec<u8> = [0, 0, PATIENCE, 0].into_iter().flat_map(i64::to_ne_bytes).collect();
    let _ = call!(libc::SYS_setitimer, libc::ITIMER_REAL, timer.as_slice(), 0);
}

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    match arguments.next().as_deref() {
        Some("--list") => {
            for Escape { group, name, about, .. } in escapes() {
                println!("{}", json!({"group": group, "name": name, "about": about.trim()}));
            }
            ExitCode::SUCCESS
        }
        Some("--outsider") => outsider::run(&arguments.next().unwrap_or_default()),
        Some("--identity") => {
            println!("{}", identity::own());
            ExitCode::SUCCESS
        }
        Some(name) => match escapes().find(|it| it.name == name) {
            Some(escape) => {
                be_bounded();
                let (line, status) = report(name, &(escape.attempt)(&Outside::new(arguments)));
                println!("{line}");
                status.into()
            }
            None => usage(),
        },
        None => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: escape NAME KEY=VALUE… | --list | --outsider TOKEN | --identity");
    ExitCode::from(64)
}
