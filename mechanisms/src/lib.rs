//! The built-in mechanisms, a mechanism a file.
//!
//! A binary links them all with `use portcullis_mechanisms as _;`.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod ambient_scrub;
pub mod capabilities;
mod capability;
pub mod cgroup;
pub mod cgroup_limit;
pub mod credentials;
pub mod exec;
mod identity;
pub mod landlock;
pub mod netns;
mod open_path;
pub mod seccomp;
pub mod userns;
