//! Privileges that the kernel asks for in the initial user namespace.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;

use portcullis_core::Lowering;

use crate::userns;

/// A `CAP_SYS_…`, by its number in [capabilities(7)].
///
/// [capabilities(7)]: https://man7.org/linux/man-pages/man7/capabilities.7.html
#[derive(Debug, Clone, Copy)]
pub(crate) enum Capability {
    Admin = 21,
    Nice = 23,
    Resource = 24,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "CAP_SYS_ADMIN",
            Self::Nice => "CAP_SYS_NICE",
            Self::Resource => "CAP_SYS_RESOURCE",
        })
    }
}

/// Whether this process has `capability` where it counts for what is the whole machine's. What can't
/// be read is no capability.
///
/// Limits, priorities and the like are checked with the kernel's `capable`, which asks the initial user
/// namespace: the full set that the first process of another one has, is none there
/// ([user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html)).
pub(crate) fn has(capability: Capability) -> bool {
    // PROC_USER_INIT_INO of the kernel's include/linux/proc_ns.h.
    const INITIAL: u64 = 0xEFFF_FFFD;
    let initial = fs::metadata("/proc/self/ns/user").is_ok_and(|it| it.ino() == INITIAL);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    initial && effective.unwrap_or(0) >> (capability as u32) & 1 == 1
}

/// Whether the child of `launch` has it too, which it has not in a user namespace of its own.
pub(crate) fn child_has(capability: Capability, launch: &Lowering<'_>) -> bool {
    !launch.schedules(userns::ID) && has(capability)
}
