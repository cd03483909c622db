//! What a confined launch *is*: the plan, the schedule, the mechanisms, the program, the transcript.
//!
//! # Overview
//!
//! A supervisor hands a launcher a sealed *plan*; the launcher verifies it, lowers every *mechanism*
//! that the plan schedules to a *program* of system calls, makes a child that runs the program and
//! execs the *workload*, and tells how it went in a *transcript*. This crate holds those words as
//! types. It makes no system call: the launcher does, with what this crate gives it.
//!
//! # Concepts, in the order of a launch
//!
//! - A [`Frame`](frame::Frame) is the envelope; a [`LaunchPlan`](plan::LaunchPlan) is what is in it.
//! - A [`DescriptorTable`](descriptor::DescriptorTable) says which fds come with the plan.
//! - The [`Registry`] holds the [mechanisms](mechanism::Mechanism) that are linked in.
//! - A [`Schedule`](schedule::Schedule) is the plan's entries, each with its mechanism, in order.
//! - A [`Lowering`] is a program in the making; a [`Program`](program::Program) is one that is made.
//! - A [`Transcript`](transcript::Transcript) is the states that the launch went through.
//!
//! Each is made from the one before it and by no other way.
//!
//! # The key decision
//!
//! Mechanisms run no code between clone and exec. They lower to data, and a loop of a few dozen lines
//! makes the calls. The alternative, a trait method that runs in the child, needs every author to
//! keep to the rules of async-signal safety, and no test can show that they did.
//!
//! # Minimum supported Rust version
//!
//! 1.85.

#![deny(missing_docs, unsafe_code)]

pub mod descriptor;
mod digest;
pub mod frame;
pub mod lowering;
pub mod mechanism;
pub mod message;
mod os_text;
mod params;
pub mod plan;
pub mod program;
pub mod registry;
pub mod schedule;
pub mod state;
#[cfg(feature = "testkit")]
pub mod testkit;
pub mod transcript;
mod wire;

pub use digest::{Digest, ParseDigestError};
pub use lowering::Lowering;
pub use os_text::OsText;
pub use params::{Params, ParamsError};
pub use registry::Registry;
pub use wire::WireError;

#[doc(hidden)]
pub mod __private {
    pub use inventory;
}
