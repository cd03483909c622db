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
//! mechanisms is a binary of a few lines:
//!
//! ```no_run
//! // use portcullis_mechanisms as _;  // the built-in ones
//! // use my_mechanisms as _;          // and mine: a crate that nothing refers to is not linked
//!
//! #[global_allocator]
//! static MEMORY: portcullis_launcher::Arena = portcullis_launcher::Arena::new();
//!
//! fn main() -> std::process::ExitCode {
//!     portcullis_launcher::main()
//! }
//! ```
//!
//! # Modules
//!
//! `coordinator` is the run, from top to bottom. [`process`] turns a program into a child, and is what
//! a supervisor uses to start the launcher itself.

#![deny(missing_docs, unsafe_code)]

use std::process::ExitCode;

mod assembly;
mod coordinator;
mod explain;
mod host;
pub mod process;
#[allow(unsafe_code, reason = "the parent's system calls, behind safe functions")]
mod sys;
mod trace;
mod wiring;

use coordinator::Purpose;
pub use sys::Arena;

/// The exit status of a launch that was refused.
pub const REFUSED: u8 = 3;
/// The exit status of a launch that faulted, or of a launcher that was not started as one.
pub const FAULTED: u8 = 4;

const HELP: &str = "\
portcullis-launcher launches a program that a sealed plan confines. A supervisor starts it, with
BVISOR_CONTROL_FD, BVISOR_LAUNCH_PLAN_FD, BVISOR_ERROR_FD and BVISOR_ERROR_READ_FD set to fd numbers.
To confine a program from a shell, use `portcullis run`.

  (no argument)  launch
  --explain      say what the launch would do, on standard output, and launch nothing
  --mechanisms   the mechanisms that are linked in, and whether this kernel supports them, as JSON
  --version      the version
  --help         this text";

/// The launcher's main function, for a binary that links the mechanisms it wants.
///
/// Exits with 0 when the workload was exec'd, 3 when the plan was refused, 4 on a fault.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next()) {
        (None, _) => coordinator::run(Purpose::Launch),
        (Some(argument), None) => match argument.to_str() {
            Some("--explain") => coordinator::run(Purpose::Explain),
            Some("--mechanisms") => host::describe(),
            Some("--version") => print(concat!("portcullis-launcher ", env!("CARGO_PKG_VERSION"))),
            Some("--help" | "-h") => print(HELP),
            _ => misused(&argument.to_string_lossy()),
        },
        (Some(_), Some(second)) => misused(&second.to_string_lossy()),
    }
}

fn print(text: &str) -> ExitCode {
    println!("{text}");
    ExitCode::SUCCESS
}

fn misused(argument: &str) -> ExitCode {
    eprintln!("portcullis-launcher: {argument:?} is not expected here; --help tells what is");
    FAULTED.into()
}
