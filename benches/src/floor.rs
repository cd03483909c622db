//! What a launch is compared with: the same program, started without a launcher and not confined.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use nix::sched::CloneFlags;
use nix::spawn::{self, PosixSpawnAttr, PosixSpawnFileActions};
use nix::sys::wait::{WaitStatus, waitpid};
use portcullis_child::CloneOptions;
use portcullis_core::program::{Op, Program};
use portcullis_launcher::process::{self, Child, Progress};

use crate::measure::Launch;
use crate::workload::Workload;

/// The floor that ratios are to:
/// [posix_spawn(3)](https://man7.org/linux/man-pages/man3/posix_spawn.3.html), called with nothing to do but the exec.
pub const POSIX_SPAWN: &str = "posix_spawn";
/// [`std::process::Command`], which calls `posix_spawn` where nothing asks for more, and does some things before.
pub const STANDARD_LIBRARY: &str = "std::process::Command";
/// `clone3` with `CLONE_VM` and `CLONE_VFORK`, then an exec and nothing else: what a launcher itself
/// could be at best.
pub const VFORK: &str = "vfork and exec";
/// [`VFORK`] into a user and a network namespace, with nothing mapped: what these two cost in the kernel.
pub const NAMESPACES: &str = "that into a user and a network namespace";
/// `fork`, which copies the page tables of its caller.
pub const FORK: &str = "fork and exec";

/// [`POSIX_SPAWN`].
pub fn posix_spawn(workload: &Workload) -> Launch {
    let (path, argv) = call(workload);
    let none: [CString; 0] = [];
    Arc::new(move || {
        let actions = PosixSpawnFileActions::init().expect("no actions");
        let attributes = PosixSpawnAttr::init().expect("no attributes");
        let pid = spawn::posix_spawn(path.as_c_str(), &actions, &attributes, &argv, &none);
        let end = waitpid(pid.expect("posix_spawn"), None).expect("its end");
        assert!(matches!(end, WaitStatus::Exited(_, 0)), "{end:?}");
    })
}

/// [`STANDARD_LIBRARY`].
pub fn standard_library(workload: &Workload) -> Launch {
    let workload = workload.clone();
    Arc::new(move || assert!(unconfined(&workload).status().expect("a child").success()))
}

/// [`FORK`]: a uid to take is what `posix_spawn` can't say, and this one is the own.
pub fn fork(workload: &Workload) -> Launch {
    let (workload, uid) = (workload.clone(), rustix::process::getuid().as_raw());
    Arc::new(move || assert!(unconfined(&workload).uid(uid).status().expect("fork").success()))
}

/// [`VFORK`].
pub fn vfork(workload: &Workload) -> Launch {
    exec_alone(workload, CloneOptions::default())
}

/// [`NAMESPACES`]; `None` where this machine does not let them be made.
pub fn namespaces(workload: &Workload) -> Option<Launch> {
    let namespaces = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET;
    let namespaces = u64::try_from(namespaces.bits()).ok()?;
    let options = CloneOptions { namespaces, ..CloneOptions::default() };
    let nothing = Program::of([Op::empty_signal_mask()]);
    process::spawn(nothing, None, options).ok()?.wait().ok()?;
    Some(exec_alone(workload, options))
}

fn exec_alone(workload: &Workload, options: CloneOptions) -> Launch {
    let (path, argv) = call(workload);
    Arc::new(move || {
        let exec = Op::execve(path.clone(), argv.clone(), vec![]);
        let program = Program::of([Op::empty_signal_mask(), exec]);
        let mut child = start_in(program, options).expect("clone3");
        assert_eq!(child.wait().expect("its end").exit_status(), Some(0));
    })
}

/// What an exec of it is called with.
fn call(workload: &Workload) -> (CString, Vec<CString>) {
    let text = |bytes: &[u8]| CString::new(bytes).expect("no zero in it");
    let argv = workload.argv().map(|it| text(it.as_bytes())).collect();
    (text(workload.program.as_os_str().as_bytes()), argv)
}

/// Runs a program in a child, and returns when it has become what it execs.
///
/// # Errors
///
/// Those of `clone3`, and that of the step that failed.
pub(crate) fn start(program: Program) -> io::Result<Child> {
    start_in(program, CloneOptions::default())
}

fn start_in(program: Program, options: CloneOptions) -> io::Result<Child> {
    let child = process::spawn(program, None, options)?;
    match child.progress() {
        Progress::Failed { errno, .. } => Err(io::Error::from_raw_os_error(errno)),
        _ => Ok(child),
    }
}

fn unconfined(workload: &Workload) -> Command {
    let mut command = Command::new(&workload.program);
    command.args(workload.arguments).env_clear();
    command
}
