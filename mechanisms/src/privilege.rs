//! Privileges that the kernel asks for in the initial user namespace.

use std::fs;
use std::os::unix::fs::MetadataExt;

use portcullis_core::Lowering;

use crate::capability::Capability;
use crate::identity::Launcher;
use crate::userns;

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
    initial && Launcher::read().is_ok_and(|launcher| launcher.effective.has(capability))
}

/// Whether the child of `launch` has it too, which it has not in a user namespace of its own.
pub(crate) fn child_has(capability: Capability, launch: &Lowering<'_>) -> bool {
    !launch.schedules(userns::ID) && has(capability)
}
