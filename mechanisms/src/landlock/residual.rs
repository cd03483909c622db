//! What Landlock leaves open: one table, which a probe, a launch's report and the guide tell.

use landlock::{AccessFs, AccessNet, Scope as KernelScope};

use super::rights::{Feature, Features};

/// Something that a workload can still do.
#[derive(Debug)]
struct Gap {
    /// What, and what would close it.
    text: &'static str,
    /// When it is there.
    open: Open,
}

#[derive(Debug)]
enum Open {
    /// Whatever a ruleset handles.
    Always,
    /// Unless a ruleset handles this.
    Unless(Feature),
    /// Where a ruleset handles this: it promises more than it holds. Without, all of it is open anyway.
    Despite(Feature),
}

const CONNECT: Feature = Feature::Net(AccessNet::ConnectTcp);
const BIND: Feature = Feature::Net(AccessNet::BindTcp);

static GAPS: [Gap; 16] = [
    Gap {
        text: "metadata: stat, access, chdir, chmod, chown, utime, flock and extended attributes are \
               left to the file system's own permissions; a seccomp filter can deny the calls",
        open: Open::Always,
    },
    Gap {
        text: "open files: what is open already stays usable; the scrub leaves 0, 1 and 2, which the \
               supervisor chooses",
        open: Open::Always,
    },
    Gap {
        text: "interpreted code: a file that can be read can be run by an interpreter or a dynamic \
               loader that can be executed; grant no more of them than are needed",
        open: Open::Always,
    },
    Gap {
        text: "special files: pipes, sockets and namespaces that a process opens through /proc/PID/fd \
               and /proc/PID/ns are under no root; a root without /proc closes it",
        open: Open::Always,
    },
    Gap {
        text: "System V IPC and POSIX message queues: an IPC namespace closes it",
        open: Open::Always,
    },
    Gap {
        text: "ioctls on devices that can be opened: ioctl-dev (ABI 5, Linux 6.10) closes it",
        open: Open::Unless(Feature::Fs(AccessFs::IoctlDev)),
    },
    Gap {
        text: "pathname Unix sockets can be connected to: resolve-unix (ABI 9, Linux 7.1) closes it, \
               or a seccomp filter that denies sockets",
        open: Open::Unless(Feature::Fs(AccessFs::ResolveUnix)),
    },
    Gap {
        text: "abstract Unix sockets can be connected to: scope abstract-unix-socket (ABI 6, Linux \
               6.12) or a network namespace closes it",
        open: Open::Unless(Feature::Scope(KernelScope::AbstractUnixSocket)),
    },
    Gap {
        text: "signals reach every process of the same user: scope signal (ABI 6, Linux 6.12) or a PID \
               namespace closes it",
        open: Open::Unless(Feature::Scope(KernelScope::Signal)),
    },
    Gap {
        text: "TCP to any port: connect (ABI 4, Linux 6.7) or a network namespace closes it",
        open: Open::Unless(CONNECT),
    },
    Gap {
        text: "TCP Fast Open: sendmsg with MSG_FASTOPEN connects past connect; a network namespace \
               closes it, or net.ipv4.tcp_fastopen=0",
        open: Open::Despite(CONNECT),
    },
    Gap {
        text: "TCP from any port: bind (ABI 4, Linux 6.7) or a network namespace closes it",
        open: Open::Unless(BIND),
    },
    Gap {
        text: "TCP listeners: listen without a bind takes an ephemeral port past bind; a network \
               namespace closes it",
        open: Open::Despite(BIND),
    },
    Gap {
        text: "UDP to any port: connect_udp (ABI 10, Linux 7.2) or a network namespace closes it",
        open: Open::Unless(Feature::Net(AccessNet::ConnectSendUdp)),
    },
    Gap {
        text: "UDP from any port: bind_udp (ABI 10, Linux 7.2) or a network namespace closes it",
        open: Open::Unless(Feature::Net(AccessNet::BindUdp)),
    },
    Gap {
        text: "other sockets: MPTCP, SCTP, SMC, raw, packet, netlink and vsock have no right; a seccomp \
               filter that denies sockets closes it, and a network namespace all but vsock",
        open: Open::Always,
    },
];

/// What is left open where `handled` is handled, a line each.
pub(super) fn residual(handled: Features) -> impl Iterator<Item = &'static str> {
    let open = move |gap: &&Gap| match gap.open {
        Open::Always => true,
        Open::Unless(feature) => !handled.has(feature),
        Open::Despite(feature) => handled.has(feature),
    };
    GAPS.iter().filter(open).map(|gap| gap.text)
}

#[cfg(test)]
mod tests {
    use super::super::{DECLARATION, NEWEST};
    use super::*;

    fn tells(handled: Features, gap: &str) -> bool {
        residual(handled).any(|line| line.starts_with(gap))
    }

    #[test]
    fn the_guide_lists_every_gap() {
        let plain = DECLARATION.guide.replace('`', "");
        let unwrapped = plain.split_whitespace().collect::<Vec<_>>().join(" ");
        for gap in &GAPS {
            assert!(unwrapped.contains(gap.text), "the guide does not say: {}", gap.text);
        }
    }

    #[test]
    fn a_gap_is_told_from_the_abi_that_does_not_close_it() {
        for (gap, closed_by) in [
            ("ioctls", 5),
            ("pathname Unix", 9),
            ("abstract Unix", 6),
            ("signals", 6),
            ("TCP to", 4),
            ("TCP from", 4),
            ("UDP to", 10),
            ("UDP from", 10),
        ] {
            for abi in 3..=NEWEST {
                assert_eq!(tells(Features::of(abi), gap), abi < closed_by, "{gap} at ABI {abi}");
            }
        }
        for abi in 3..=NEWEST {
            assert_eq!(tells(Features::of(abi), "TCP Fast Open"), abi >= 4);
            assert!(tells(Features::of(abi), "metadata"));
        }
    }

    #[test]
    fn each_line_is_one_line_that_says_what_would_help() {
        for gap in &GAPS {
            assert!(!gap.text.contains('\n') && !gap.text.ends_with('.'), "{}", gap.text);
            assert!(gap.text.contains(": ") || gap.text.contains("; "), "{}", gap.text);
        }
    }
}
