//! System calls by name.

use syscalls::Sysno;

/// The number of a call on this architecture, by the name of its manual page or of the kernel.
pub(super) fn number(name: &str) -> Option<u32> {
    // aarch64 has the call by its other name in the table.
    let found = name.parse::<Sysno>().or_else(|()| match name {
        "newfstatat" => "fstatat".parse(),
        _ => Err(()),
    });
    found.ok().and_then(|call| u32::try_from(call.id()).ok())
}

#[cfg(test)]
/// The name of the call that has this number.
pub(super) fn name(number: u32) -> &'static str {
    Sysno::new(number as usize).map_or("a call that has no name", |call| call.name())
}
