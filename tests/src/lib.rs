//! What the capability tests share: needs that a kernel may not meet, and a supervisor of their own.

#![deny(missing_docs)]
#![forbid(unsafe_code)]
#![allow(clippy::missing_panics_doc, reason = "a test's helper panics where the test fails")]
#![allow(clippy::struct_excessive_bools, reason = "each is one way in which a host can be wrong")]

mod binary;
mod host;
mod need;
mod resident;
mod terminal;

pub use binary::portcullis;
pub use host::{
    Host, Outcome, VERSION_1_FRAMES, becomes, bystander, children, has_capability, is_gone,
    launcher, pid, read_proc, send, shell_of, status, waiting_children, workloads, write_program,
};
pub use need::{Need, Test, cgroup2, python, run};
pub use resident::{Asked, Kept, Resident};
pub use rustix::process::Signal;
pub use terminal::terminal;

/// The tests of a file, by their functions' names, each with what it needs.
///
/// ```
/// use portcullis_tests::{Need, tests};
///
/// fn two_and_two_are_four() {
///     assert_eq!(2 + 2, 4);
/// }
///
/// let listed = tests![two_and_two_are_four: [Need::Python]];
/// assert_eq!(listed[0].name, "two_and_two_are_four");
/// ```
#[macro_export]
macro_rules! tests {
    ($($function:ident: [$($need:expr),* $(,)?]),* $(,)?) => {
        vec![$($crate::Test {
            name: stringify!($function),
            needs: &[$($need),*],
            run: Box::new($function),
        }),*]
    };
}
