//! The built-in profiles: lists of rules, each with what it is for.

use portcullis_core::plan::Target;
use serde::{Deserialize, Serialize};

use super::filter::Rules;
use super::policy::{Action, Comparison, Condition, Errno};

/// A built-in list of rules. What none of them decides is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// What the default profiles of container runtimes deny, and more that only attacks on the kernel
    /// and on other processes have in common. Ordinary programs do not notice.
    Baseline,
    /// [`Baseline`](Self::Baseline) and [`NoNetwork`](Self::NoNetwork), and after its start no new
    /// program and no new process: threads alone.
    Compute,
    /// No change of a file's mode, owner, times, attributes and flags, which Landlock does not cover.
    NoMetadata,
    /// No socket but connected pairs, and no ring of `io_uring`.
    NoNetwork,
}

/// The profiles, by name.
pub fn profiles() -> &'static [Profile] {
    &[Profile::Baseline, Profile::Compute, Profile::NoMetadata, Profile::NoNetwork]
}

impl Profile {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Compute => "compute",
            Self::NoMetadata => "no-metadata",
            Self::NoNetwork => "no-network",
        }
    }

    /// Its rules, in the order in which they are tried.
    fn rules(self) -> &'static [&'static [Fixed]] {
        match self {
            Self::Baseline => &[BASELINE],
            Self::Compute => &[COMPUTE, NO_NETWORK, BASELINE],
            Self::NoMetadata => &[NO_METADATA],
            Self::NoNetwork => &[NO_NETWORK],
        }
    }

    /// Adds its rules to others.
    pub(super) fn add_to(self, rules: &mut Rules<'_>) {
        for Fixed { calls, when, action } in self.rules().iter().copied().flatten() {
            rules.add_from_table(calls, when, *action);
        }
    }
}

/// A rule of a profile.
struct Fixed {
    calls: &'static [&'static str],
    when: &'static [Condition],
    action: Action,
}

const fn allow(calls: &'static [&'static str], when: &'static [Condition]) -> Fixed {
    Fixed { calls, when, action: Action::Allow }
}

const fn deny(calls: &'static [&'static str], when: &'static [Condition]) -> Fixed {
    Fixed { calls, when, action: Action::EPERM }
}

const fn fail(calls: &'static [&'static str], when: &'static [Condition], errno: Errno) -> Fixed {
    Fixed { calls, when, action: Action::Errno(errno) }
}

const fn is(argument: u8, value: u64) -> Condition {
    Condition::int(argument, Comparison::Eq(value))
}

const fn masked(argument: u8, mask: u64, value: u64) -> Condition {
    Condition::int(argument, Comparison::MaskedEq { mask, value })
}

/// An ioctl is known by the low 32 bits of its second argument: the kernel looks at no more, so what is in
/// the high ones must not matter ([ioctl(2)](https://man7.org/linux/man-pages/man2/ioctl.2.html)).
const fn request(number: u64) -> Condition {
    is(1, number)
}

/// `TIOCSTI` of asm-generic/ioctls.h puts a byte into a terminal's input.
pub(super) const TIOCSTI: &[Condition] = &[request(0x5412)];
/// `TIOCLINUX` of asm-generic/ioctls.h: among other things, pastes the console's selection.
pub(super) const TIOCLINUX: &[Condition] = &[request(0x541c)];

/// The flags `CLONE_NEW…` of [clone(2)](https://man7.org/linux/man-pages/man2/clone.2.html), but for
/// `CLONE_NEWTIME`: its bit belongs to clone's signal.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// `CLONE_NEWTIME`, which [unshare(2)](https://man7.org/linux/man-pages/man2/unshare.2.html) takes.
const NEW_TIME: u64 = 0x80;
const CLONE_THREAD: u64 = 0x0001_0000;

// Families, types and protocols of socket(2). The flags SOCK_CLOEXEC and SOCK_NONBLOCK come with the
// type, which is in the low four bits.
const AF_UNIX: u64 = 1;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const TYPE: u64 = 0xf;
const SOCK_STREAM: u64 = 1;
const SOCK_SEQPACKET: u64 = 5;
const SOCK_DCCP: u64 = 6;
const SOCK_PACKET: u64 = 10;

/// Rings do what no filter sees: a call that is denied has an operation in them.
const RINGS: &[&str] = &["io_uring_enter", "io_uring_register", "io_uring_setup"];

const BASELINE: &[Fixed] = &[
    deny(RINGS, &[]),
    // Other processes' memory, fds and objects.
    deny(
        &[
            "kcmp",
            "pidfd_getfd",
            "process_madvise",
            "process_vm_readv",
            "process_vm_writev",
            "ptrace",
        ],
        &[],
    ),
    // Parts of the kernel that attacks on it begin with.
    deny(
        &[
            "add_key",
            "bpf",
            "keyctl",
            "lookup_dcookie",
            "perf_event_open",
            "request_key",
            "userfaultfd",
        ],
        &[],
    ),
    // Files without their paths, and watching everybody's.
    deny(&["fanotify_init", "open_by_handle_at"], &[]),
    // Mounts and roots.
    deny(
        &[
            "chroot",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "pivot_root",
            "umount2",
        ],
        &[],
    ),
    // The machine: modules, other kernels, ports, accounting, quotas, swap, names, time, the log.
    deny(
        &[
            "acct",
            "clock_settime",
            "delete_module",
            "finit_module",
            "init_module",
            "ioperm",
            "iopl",
            "kexec_file_load",
            "kexec_load",
            "quotactl",
            "quotactl_fd",
            "reboot",
            "setdomainname",
            "sethostname",
            "settimeofday",
            "swapoff",
            "swapon",
            "syslog",
            "vhangup",
        ],
        &[],
    ),
    // Where memory is on a machine of several nodes, other processes' too.
    deny(
        &[
            "get_mempolicy",
            "mbind",
            "migrate_pages",
            "move_pages",
            "set_mempolicy",
            "set_mempolicy_home_node",
        ],
        &[],
    ),
    // What no program has use for any more.
    deny(
        &[
            "_sysctl",
            "create_module",
            "get_kernel_syms",
            "nfsservctl",
            "query_module",
            "sysfs",
            "uselib",
            "ustat",
        ],
        &[],
    ),
    // Namespaces: in a new user namespace a program has every capability. clone3 has its flags in memory,
    // where a filter can't look; libcs take ENOSYS for an older kernel, and use clone.
    deny(&["setns"], &[]),
    fail(&["clone3"], &[], Errno::ENOSYS),
    allow(&["clone"], &[masked(0, NEW_NAMESPACES, 0)]),
    allow(&["unshare"], &[masked(0, NEW_NAMESPACES | NEW_TIME, 0)]),
    deny(&["clone", "unshare"], &[]),
    // Execution domains but PER_LINUX, PER_LINUX32, either with UNAME26, and asking which it is.
    allow(&["personality"], &[is(0, 0)]),
    allow(&["personality"], &[is(0, 8)]),
    allow(&["personality"], &[is(0, 0x2_0000)]),
    allow(&["personality"], &[is(0, 0x2_0008)]),
    allow(&["personality"], &[is(0, 0xffff_ffff)]),
    deny(&["personality"], &[]),
    // Typing into a terminal that others read.
    deny(&["ioctl"], TIOCSTI),
    deny(&["ioctl"], TIOCLINUX),
    // Unix sockets are allowed, and of the internet's those of TCP, UDP, ICMP and raw ones. A type alone
    // can choose a protocol, SOCK_SEQPACKET is SCTP and SOCK_DCCP is DCCP, and SOCK_PACKET a family.
    allow(&["socket", "socketpair"], &[is(0, AF_UNIX)]),
    fail(&["socket", "socketpair"], &[masked(1, TYPE, SOCK_SEQPACKET)], Errno::EPROTONOSUPPORT),
    fail(&["socket", "socketpair"], &[masked(1, TYPE, SOCK_DCCP)], Errno::EPROTONOSUPPORT),
    fail(&["socket", "socketpair"], &[masked(1, TYPE, SOCK_PACKET)], Errno::EAFNOSUPPORT),
    fail(&["socket", "socketpair"], &[is(2, IPPROTO_DCCP)], Errno::EPROTONOSUPPORT),
    fail(&["socket", "socketpair"], &[is(2, IPPROTO_L2TP)], Errno::EPROTONOSUPPORT),
    fail(&["socket", "socketpair"], &[is(2, IPPROTO_SCTP)], Errno::EPROTONOSUPPORT),
    fail(&["socket", "socketpair"], &[is(2, IPPROTO_SMC)], Errno::EPROTONOSUPPORT),
    fail(&["socket", "socketpair"], &[is(2, IPPROTO_MPTCP)], Errno::EPROTONOSUPPORT),
    allow(&["socket", "socketpair"], &[is(0, AF_INET)]),
    allow(&["socket", "socketpair"], &[is(0, AF_INET6)]),
    fail(&["socket", "socketpair"], &[], Errno::EAFNOSUPPORT),
];

const IPPROTO_DCCP: u64 = 33;
const IPPROTO_L2TP: u64 = 115;
const IPPROTO_SCTP: u64 = 132;
const IPPROTO_SMC: u64 = 256;
const IPPROTO_MPTCP: u64 = 262;

const NO_NETWORK: &[Fixed] = &[
    deny(RINGS, &[]),
    // Of an fd that was inherited too: it may be a socket that is not connected yet.
    deny(&["accept", "accept4", "bind", "connect", "listen", "socket"], &[]),
    // A pair of datagram sockets is not bound to each other: sendmsg(2) takes an address, and reaches
    // whoever listens there. The kernel makes one of SOCK_RAW too (unix_create of net/unix/af_unix.c).
    allow(&["socketpair"], &[is(0, AF_UNIX), masked(1, TYPE, SOCK_STREAM)]),
    allow(&["socketpair"], &[is(0, AF_UNIX), masked(1, TYPE, SOCK_SEQPACKET)]),
    deny(&["socketpair"], &[]),
];

/// Requests that change a file's flags or attributes, of `linux/fs.h` and `linux/msdos_fs.h`, and one
/// of `linux/btrfs.h`.
const FS_IOC_SETFLAGS: &[Condition] = &[request(0x4008_6602)];
const FS_IOC_FSSETXATTR: &[Condition] = &[request(0x401c_5820)];
const FS_IOC_SETVERSION: &[Condition] = &[request(0x4008_7602)];
/// ext4's own, of the same purpose.
const EXT4_IOC_SETVERSION: &[Condition] = &[request(0x4008_6604)];
const FS_IOC_ENABLE_VERITY: &[Condition] = &[request(0x4080_6685)];
const FS_IOC_SET_ENCRYPTION_POLICY: &[Condition] = &[request(0x800c_6613)];
const FAT_IOCTL_SET_ATTRIBUTES: &[Condition] = &[request(0x4004_7211)];
const BTRFS_IOC_SUBVOL_SETFLAGS: &[Condition] = &[request(0x4008_941a)];

const NO_METADATA: &[Fixed] = &[
    // Two of their operations set extended attributes.
    deny(RINGS, &[]),
    deny(
        &[
            "chmod",
            "chown",
            "fchmod",
            "fchmodat",
            "fchmodat2",
            "fchown",
            "fchownat",
            "file_setattr",
            "fremovexattr",
            "fsetxattr",
            "futimesat",
            "lchown",
            "lremovexattr",
            "lsetxattr",
            "removexattr",
            "removexattrat",
            "setxattr",
            "setxattrat",
            "utime",
            "utimensat",
            "utimes",
        ],
        &[],
    ),
    deny(&["ioctl"], FS_IOC_SETFLAGS),
    deny(&["ioctl"], FS_IOC_FSSETXATTR),
    deny(&["ioctl"], FS_IOC_SETVERSION),
    deny(&["ioctl"], EXT4_IOC_SETVERSION),
    deny(&["ioctl"], FS_IOC_ENABLE_VERITY),
    deny(&["ioctl"], FS_IOC_SET_ENCRYPTION_POLICY),
    deny(&["ioctl"], FAT_IOCTL_SET_ATTRIBUTES),
    deny(&["ioctl"], BTRFS_IOC_SUBVOL_SETFLAGS),
];

/// What [`Compute`](Profile::Compute) has beside the other two. The launch's own exec is allowed before
/// these: see [`own_exec`].
const COMPUTE: &[Fixed] = &[
    deny(&["execve", "execveat"], &[]),
    fail(&["clone3"], &[], Errno::ENOSYS),
    allow(&["clone"], &[masked(0, CLONE_THREAD | NEW_NAMESPACES, CLONE_THREAD)]),
    deny(&["clone", "fork", "vfork"], &[]),
];

/// What tells the launch's own exec from every other: its fd, its flags, and a number that it carries in
/// the register of a sixth argument, which execveat does not have. The workload never learns the number:
/// the exec clears the registers and replaces the memory. Without it an fd of the same number would do.
pub(super) fn own_exec(target: &Target, nonce: u64) -> [Condition; 3] {
    [
        is(0, target.exe_slot.into()),
        is(4, libc::AT_EMPTY_PATH.unsigned_abs().into()),
        Condition::long(5, Comparison::Eq(nonce)),
    ]
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::seccomp::calls;

    /// What each profile does, a line a rule: in `profiles.txt`, so that no change goes unseen.
    /// `UPDATE=1` writes it anew.
    #[test]
    fn the_profiles_are_the_golden_ones() {
        let mut text = String::new();
        for profile in profiles() {
            let _ = writeln!(text, "{}", profile.name());
            for Fixed { calls, when, action } in profile.rules().iter().copied().flatten() {
                let _ = write!(text, "  {action}: {}", calls.join(" "));
                for condition in *when {
                    let _ = write!(text, " [{condition}]");
                }
                text.push('\n');
            }
        }
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/seccomp/profiles.txt");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(file, &text).unwrap();
        }
        let golden = std::fs::read_to_string(file).unwrap_or_default();
        assert!(text == golden, "{file}; UPDATE=1 writes it anew");
    }

    #[test]
    fn a_profile_names_calls_that_are_and_conditions_that_can_be() {
        for profile in profiles() {
            for Fixed { calls, when, .. } in profile.rules().iter().copied().flatten() {
                let known = |name: &&str| calls::number(name).is_some();
                assert!(calls.iter().all(known) || !cfg!(target_arch = "x86_64"), "{calls:?}");
                assert!(calls.is_sorted(), "{calls:?}");
                for it in *when {
                    let made = Condition::new(it.argument(), it.width(), it.comparison());
                    assert_eq!(made, Ok(*it));
                }
            }
        }
    }

    #[test]
    fn a_profile_is_written_by_its_name() {
        assert!(profiles().is_sorted_by(|one, next| one.name() < next.name()));
        for profile in profiles() {
            assert_eq!(serde_json::to_value(profile).unwrap(), profile.name());
        }
    }

    #[test]
    fn the_guide_names_all_that_a_profile_decides() {
        let guide = include_str!("seccomp.md");
        for profile in profiles() {
            for Fixed { calls, .. } in profile.rules().iter().copied().flatten() {
                for call in *calls {
                    assert!(guide.contains(&format!("`{call}`")), "{call} of {}", profile.name());
                }
            }
        }
    }
}
