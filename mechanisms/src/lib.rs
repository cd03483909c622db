//! The built-in mechanisms, a mechanism a file.
//!
//! A binary links them all with `use portcullis_mechanisms as _;`.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod ambient_scrub;
pub mod cgroup;
pub mod cwd;
pub mod exec;
pub mod landlock;
pub mod netns;
pub mod no_new_privs;
mod open_path;
mod privilege;
pub mod process_attributes;
pub mod rlimits;
pub mod seccomp;
pub mod stdio;
pub mod userns;
