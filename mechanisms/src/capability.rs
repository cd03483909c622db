//! Capabilities by their names and numbers, and sets of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The names of capabilities(7), each at its number, without `CAP_`.
const NAMES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// A capability that [capabilities(7)] names. It is read in any case, with `CAP_` or without.
///
/// ```
/// use portcullis_mechanisms::capabilities::Capability;
///
/// let capability: Capability = "CAP_NET_RAW".parse().unwrap();
/// assert_eq!(capability.to_string(), "net_raw");
/// assert_eq!(capability.number(), 13);
/// ```
///
/// [capabilities(7)]: https://man7.org/linux/man-pages/man7/capabilities.7.html
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Capability(u8);

impl Capability {
    pub(crate) const KILL: Self = Self(5);
    pub(crate) const SETGID: Self = Self(6);
    pub(crate) const SETUID: Self = Self(7);
    pub(crate) const SETPCAP: Self = Self(8);
    pub(crate) const SYS_ADMIN: Self = Self(21);
    pub(crate) const SYS_NICE: Self = Self(23);
    pub(crate) const SYS_RESOURCE: Self = Self(24);
    pub(crate) const SETFCAP: Self = Self(31);

    /// The kernel's name of it, with `CAP_`.
    pub(crate) fn kernel_name(self) -> String {
        format!("CAP_{self}").to_uppercase()
    }

    /// The kernel's number of it.
    pub fn number(self) -> u32 {
        self.0.into()
    }
}

/// A name that is no capability's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownCapability(String);

impl fmt::Display for UnknownCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no capability", self.0)
    }
}

impl std::error::Error for UnknownCapability {}

impl FromStr for Capability {
    type Err = UnknownCapability;

    fn from_str(text: &str) -> Result<Self, UnknownCapability> {
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_prefix("cap_").unwrap_or(&lower);
        let found = (0..).zip(NAMES).find(|(_, known)| *known == name);
        found.map(|(number, _)| Self(number)).ok_or_else(|| UnknownCapability(text.to_owned()))
    }
}

impl TryFrom<String> for Capability {
    type Error = UnknownCapability;

    fn try_from(text: String) -> Result<Self, UnknownCapability> {
        text.parse()
    }
}

impl From<Capability> for String {
    fn from(capability: Capability) -> Self {
        capability.to_string()
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(NAMES[usize::from(self.0)])
    }
}

/// A set of capabilities as the kernel has it: a bit for each, those without a name here included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CapabilitySet(pub(crate) u64);

impl CapabilitySet {
    /// All of a kernel whose last capability has the number `last`.
    pub(crate) fn up_to(last: u32) -> Self {
        Self(u64::MAX >> 63_u32.saturating_sub(last))
    }

    pub(crate) fn has(self, capability: Capability) -> bool {
        self.0 >> capability.number() & 1 != 0
    }

    /// What is in this set and not in the other.
    pub(crate) fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that have a name.
    pub(crate) fn named(self) -> impl Iterator<Item = Capability> {
        let names = (0_u8..).zip(NAMES).map(|(number, _)| Capability(number));
        names.filter(move |capability| self.has(*capability))
    }

    pub(crate) fn numbers(self) -> impl Iterator<Item = u32> {
        (0..u64::BITS).filter(move |number| self.0 >> number & 1 != 0)
    }
}

impl std::ops::BitAnd for CapabilitySet {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl std::ops::BitOr for CapabilitySet {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl<'c> FromIterator<&'c Capability> for CapabilitySet {
    fn from_iter<I: IntoIterator<Item = &'c Capability>>(capabilities: I) -> Self {
        Self(capabilities.into_iter().fold(0, |all, it| all | 1 << it.number()))
    }
}

impl fmt::Display for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, number) in self.numbers().enumerate() {
            let between = if place > 0 { ", " } else { "" };
            match NAMES.get(number as usize) {
                Some(name) => write!(f, "{between}{name}")?,
                None => write!(f, "{between}number {number}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_in_any_case_with_its_prefix_or_without() {
        for text in
            ["net_bind_service", "NET_BIND_SERVICE", "CAP_NET_BIND_SERVICE", "cap_Net_Bind_Service"]
        {
            assert_eq!(text.parse::<Capability>().unwrap().number(), 10, "{text}");
        }
        for text in ["", "cap_", "CAP_CAP_CHOWN", "net", "10", "all"] {
            assert!(text.parse::<Capability>().is_err(), "{text}");
        }
    }

    /// linux/capability.h is not ours, so it tells of a name that is missing or out of its place.
    #[test]
    fn the_numbers_are_the_kernels() {
        for (name, number) in [
            ("chown", 0),
            ("setpcap", 8),
            ("sys_admin", 21),
            ("mknod", 27),
            ("setfcap", 31),
            ("checkpoint_restore", 40),
        ] {
            assert_eq!(name.parse::<Capability>().unwrap().number(), number, "{name}");
        }
        let Ok(header) = std::fs::read_to_string("/usr/include/linux/capability.h") else { return };
        for line in header.lines().filter(|line| line.starts_with("#define CAP_")) {
            let words: Vec<_> = line.split_whitespace().collect();
            if let (Ok(capability), Some(Ok(number))) =
                (words[1].parse::<Capability>(), words.get(2).map(|it| it.parse::<u32>()))
            {
                assert_eq!(capability.number(), number, "{line}");
            }
        }
    }

    #[test]
    fn a_set_is_told_by_names_and_by_numbers_that_have_none() {
        assert_eq!(CapabilitySet(1 << 13 | 1 << 50).to_string(), "net_raw, number 50");
        assert_eq!(CapabilitySet::up_to(40).0, 0x1ff_ffff_ffff);
        assert_eq!(CapabilitySet::up_to(63).0, u64::MAX);
        assert_eq!(CapabilitySet::up_to(u32::MAX).0, u64::MAX);
    }
}
