//! Runs a program behind a gate that only goes down: confined as asked, or not at all.
//!
//! # Overview
//!
//! [`Command`] is shaped like [`std::process::Command`]. What it adds is what the program may do: the
//! files it may read, execute and write, and any mechanism that the launcher has. What it leaves out
//! is inheritance: no variable and no fd of this process reaches the program unless it is named.
//!
//! ```
//! use portcullis::Command;
//!
//! let mut command = Command::new("cat");
//! for root in ["/usr", "/bin", "/lib", "/lib64"] {
//!     if std::path::Path::new(root).exists() {
//!         command.read(root).exec(root);
//!     }
//! }
//! let output = command.arg("/etc/passwd").no_network().output()?;
//! assert!(!output.status.success(), "/etc is not among the roots");
//! assert!(output.report.applied().any(|id| id == "linux.landlock.apply.v1"));
//! # Ok::<(), portcullis::Error>(())
//! ```
//!
//! # Concepts
//!
//! - The *launcher* is a small program that this library starts for each launch. The standard one is
//!   embedded and runs from a sealed memfd: no path is looked up, and nobody can change it.
//! - A *mechanism* is one way of confining, known by its lowering id. [`Command::mechanism`] takes the
//!   parameters of those in [`portcullis_mechanisms`]; [`Command::policy`] and [`Command::entry`] take
//!   any, for launchers that have others.
//! - The *report* says what was applied, as the launcher observed it.
//!
//! # Limits
//!
//! Linux 5.11 and newer, on `x86_64` and `aarch64`; each mechanism names its own kernel floor. What a
//! mechanism does not cover it does not cover: see each one's documentation.
//!
//! # Processes
//!
//! The launcher is this process's child, and becomes the workload or has it as its own child;
//! [`Command::exec_here`] makes this process itself the workload. A [`Child`] that is
//! dropped is killed and reaped, unless it was [detached](Child::detach).

#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod child;
mod command;
mod confinement;
mod control;
mod error;
mod here;
mod launcher;
mod page;
mod plan;
mod process;
mod report;
mod resident;
mod spawn;
mod stdio;
mod template;
#[cfg(feature = "testkit")]
pub mod testkit;

pub use child::{Child, Output};
pub use command::Command;
pub use error::Error;
pub use launcher::{
    ConflictInfo, DemonstrationInfo, MechanismInfo, RequirementInfo, bundled_launcher, mechanisms,
};
pub use portcullis_core::Params;
pub use portcullis_core::mechanism::OpenError;
pub use portcullis_core::plan::LoweringEntry;
pub use portcullis_core::state::{LauncherState, PhaseGroup, PhaseResult, RefusalReason};
pub use portcullis_mechanisms as mechanism;
pub use report::{Remark, Report, Stopped, Way};
pub use resident::Resident;
pub use stdio::Stdio;
pub use template::Template;
