//! How far a program is confined: each stage is the one before it and something more.

use std::path::Path;

use portcullis::Command;

use crate::workload::Workload;

/// A stage.
#[derive(Debug, Clone, Copy)]
pub struct Stage {
    /// What tables call it.
    pub name: &'static str,
    /// Whether it makes a user and a network namespace.
    pub namespaces: bool,
    confine: fn(&mut Command),
}

/// All of them.
pub const STAGES: &[Stage] = &[
    Stage { name: "scrub and exec", namespaces: false, confine: |_| {} },
    Stage { name: "+ Landlock (6 roots)", namespaces: false, confine: roots },
    Stage { name: "+ seccomp", namespaces: false, confine: with_seccomp },
    Stage { name: "+ user and network namespace", namespaces: true, confine: with_namespaces },
    Stage { name: "everything", namespaces: true, confine: everything },
];

/// Programs, libraries and configuration may be read and executed, `/tmp` may be written to, and no
/// task may be made: what other sandboxes are compared at.
pub const FILES_AND_CALLS: Stage = STAGES[2];
/// [`FILES_AND_CALLS`] without a network: what those are compared at that make namespaces.
pub const NO_NETWORK: Stage = STAGES[3];

impl Stage {
    /// A command for the workload, confined.
    pub fn command(&self, workload: &Workload) -> Command {
        let mut command = Command::new(&workload.program);
        command.args(workload.arguments);
        (self.confine)(&mut command);
        command
    }
}

/// The directories that may be read and executed from, where there are such.
pub fn system_roots() -> impl Iterator<Item = &'static str> {
    ["/usr", "/bin", "/lib", "/lib64", "/etc"].into_iter().filter(|it| Path::new(it).exists())
}

fn roots(command: &mut Command) {
    for root in system_roots() {
        command.read(root).exec(root);
    }
    command.write("/tmp");
}

fn with_seccomp(command: &mut Command) {
    roots(command);
    command.no_new_tasks();
}

fn with_namespaces(command: &mut Command) {
    with_seccomp(command);
    command.no_network();
}

/// All that the library has of its own.
fn everything(command: &mut Command) {
    with_namespaces(command);
    command.no_terminal_injection();
    command.scope_where_supported();
}
