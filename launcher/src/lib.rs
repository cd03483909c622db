//! The launcher: a sealed plan and a set of fds come in, a confined workload goes out.
//!
//! # Overview
//!
//! A supervisor execs the launcher with four fd numbers in its environment and every fd of the plan in
//! its slot. The launcher verifies the plan, checks the fds, lowers every scheduled mechanism to a
//! program of system calls, clones a child that runs the program and execs the workload, and writes
//! the states it went through to the control channel. What it can't do or prove it refuses by name.
//!
//! # Use
//!
//! The package's binary, `portcullis-launcher`, links the built-in mechanisms. A launcher with other
//! mechanisms is a binary of a few lines, as that one is:
//!
//! ```no_run
//! #![no_main]
//!
//! # /*
//! use portcullis_mechanisms as _; // the built-in ones
//! use my_mechanisms as _; // and mine: a crate that nothing refers to is not linked
//! # */
//!
//! portcullis_launcher::main!();
//! ```
//!
//! # Modules
//!
//! `coordinator` is the run, from top to bottom. [`process`] turns a program into a child, and is what
//! a supervisor uses to start the launcher itself. [`here`] makes the run without a launcher, in a process that
//! becomes the workload.

#![deny(missing_docs, unsafe_code)]

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

mod assembly;
mod coordinator;
mod explain;
mod flight;
pub mod here;
mod host;
mod in_place;
mod kept;
mod launching;
mod outbox;
mod outline;
pub mod process;
mod request;
mod resident;
mod spare;
#[allow(unsafe_code, reason = "the parent's system calls, behind safe functions")]
mod sys;
mod trace;
mod wiring;

use coordinator::{Purpose, Way};
pub use host::mechanisms;
pub use sys::Arena;

/// The exit status of a launch that was refused.
pub const REFUSED: u8 = 3;
/// The exit status of a launch that faulted, or of a launcher that was not started as one.
pub const FAULTED: u8 = 4;

const HELP: &str = "\
portcullis-launcher launches a program that a sealed plan confines. A supervisor starts it, with
BVISOR_CONTROL_FD, BVISOR_LAUNCH_PLAN_FD, BVISOR_ERROR_FD and BVISOR_ERROR_READ_FD set to fd numbers.
To confine a program from a shell, use `portcullis run`.

  (no argument)        launch: a child becomes the program, and the launcher waits for its end
  --in-place           launch: the launcher itself becomes the program, or refuses
  --prefer-in-place    launch: in place where the plan allows that, and as a child otherwise
  --resident           launch whatever is asked for by messages on the Unix socket (SOCK_SEQPACKET) of
                       PORTCULLIS_RESIDENT_FD, as children, until its other end is closed
  --explain            before one of those or alone: say what the launch would do, on standard output,
                       and launch nothing
  --mechanisms         the mechanisms that are linked in, and whether this kernel supports them, as JSON
  --version            the version
  --help               this text";

/// Makes a binary with `#![no_main]` a launcher: its memory an [`Arena`], its entry C's `main`.
///
/// Rust's own runtime, which is left out, sets up what a launcher has no use for: a signal stack, a
/// message for a stack that overflows, an ignored SIGPIPE. In a guest that is a tenth of a launch.
#[macro_export]
macro_rules! main {
    () => {
        #[global_allocator]
        static MEMORY: $crate::Arena = $crate::Arena::new();

        #[allow(unsafe_code, reason = "the C runtime's entry has no safe form")]
        // SAFETY: nothing else in a binary without Rust's runtime has this name.
        #[unsafe(no_mangle)]
        extern "C" fn main(argc: i32, argv: *const *const ::core::ffi::c_char) -> i32 {
            // SAFETY: the C runtime passes its own arguments.
            unsafe { $crate::start(argc, argv, &MEMORY) }
        }
    };
}

/// What [`main!`] calls.
///
/// # Safety
///
/// The arguments must be those that the C runtime calls `main` with.
#[doc(hidden)]
#[allow(unsafe_code, reason = "it takes the C runtime's arguments")]
pub unsafe fn start(argc: i32, argv: *const *const std::ffi::c_char, memory: &Arena) -> i32 {
    // SAFETY: the caller's.
    obey(&unsafe { sys::arguments(argc, argv) }, Some(memory)).into()
}

/// The launcher's main function, for a binary with Rust's runtime.
///
/// Exits with 0 when the workload was exec'd, 3 when the plan was refused, 4 on a fault.
pub fn main() -> ExitCode {
    obey(&std::env::args_os().skip(1).collect::<Vec<_>>(), None).into()
}

fn obey(arguments: &[OsString], memory: Option<&Arena>) -> u8 {
    sys::expect_children();
    let arguments: Vec<_> = arguments.iter().map(|it| it.to_str().unwrap_or("?")).collect();
    let (purpose, way) = match arguments.split_first() {
        Some((&"--explain", rest)) => (Purpose::Explain, rest),
        _ => (Purpose::Launch, &arguments[..]),
    };
    match (way, purpose) {
        ([], _) => coordinator::run(purpose, Way::Child),
        (["--in-place"], _) => coordinator::run(purpose, Way::InPlace),
        (["--prefer-in-place"], _) => coordinator::run(purpose, Way::InPlaceIfPossible),
        (["--resident"], Purpose::Launch) => resident::run(memory),
        (["--mechanisms"], Purpose::Launch) => host::describe(),
        (["--version"], Purpose::Launch) => {
            print(concat!("portcullis-launcher ", env!("CARGO_PKG_VERSION")))
        }
        (["--help" | "-h"], Purpose::Launch) => print(HELP),
        ([first, rest @ ..], _) => {
            let unexpected = rest.first().unwrap_or(first);
            complain(&format_args!("{unexpected:?} is not expected here; --help tells what is"));
            FAULTED
        }
    }
}

fn print(text: &str) -> u8 {
    // Who does not read it does not want it.
    let _ = writeln!(std::io::stdout(), "{text}");
    0
}

/// A line on standard error. Where it can't be written, the exit status still says it.
fn complain(what: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "portcullis-launcher: {what}");
}
