//! Facts of the machine that mechanisms depend on, and what each means for a launch.

use std::fs;
use std::path::PathBuf;

use rustix::process::{getegid, geteuid};
use rustix::system::uname;
use serde::Serialize;

/// One of them.
#[derive(Serialize)]
pub(super) struct Fact {
    pub(super) name: &'static str,
    pub(super) value: String,
    /// What follows, where it stands in the way of something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) means: Option<&'static str>,
}

/// A file of one line that the kernel keeps, and what follows where its value is bad.
struct Knob {
    name: &'static str,
    file: &'static str,
    is_bad: fn(&str) -> bool,
    means: &'static str,
}

const KNOBS: &[Knob] = &[
    Knob {
        name: "user namespaces, most",
        file: "/proc/sys/user/max_user_namespaces",
        is_bad: |value| value == "0",
        means: "no user namespace can be made: sysctl user.max_user_namespaces",
    },
    Knob {
        name: "unprivileged userns",
        file: "/proc/sys/kernel/unprivileged_userns_clone",
        is_bad: |value| value == "0",
        means: "only root makes user namespaces: sysctl kernel.unprivileged_userns_clone=1",
    },
    Knob {
        name: "AppArmor and userns",
        file: "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        is_bad: |value| value == "1",
        means: "AppArmor takes a user namespace's capabilities from unprivileged users without a profile \
                that says userns: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or a profile",
    },
    Knob {
        name: "security modules",
        file: "/sys/kernel/security/lsm",
        is_bad: |value| !value.split(',').any(|it| it == "landlock"),
        means: "Landlock is off: name it in the boot parameter lsm=",
    },
    Knob {
        name: "ptrace_scope (Yama)",
        file: "/proc/sys/kernel/yama/ptrace_scope",
        is_bad: |value| value == "0",
        means: "processes of one user may trace each other; a workload is kept from it by Landlock, a \
                seccomp filter or a user namespace",
    },
    Knob {
        name: "io_uring_disabled",
        file: "/proc/sys/kernel/io_uring_disabled",
        is_bad: |value| value == "0",
        means: "io_uring makes calls that no filter sees; the seccomp profile baseline denies it",
    },
    Knob {
        name: "legacy_tiocsti",
        file: "/proc/sys/dev/tty/legacy_tiocsti",
        is_bad: |value| value == "1",
        means: "a program can type into its terminal; portcullis run denies the ioctl",
    },
    Knob {
        name: "memfd_noexec",
        file: "/proc/sys/vm/memfd_noexec",
        is_bad: |value| value == "2",
        means: "the built-in launcher can't be executed from memory: --launcher names one on disk",
    },
];

/// What is found here.
pub(super) fn facts() -> Vec<Fact> {
    let system = uname();
    let fact = |name, value: String, means| Fact { name, value, means };
    let mut facts = vec![
        fact(
            "kernel",
            format!(
                "{} {}",
                system.release().to_string_lossy(),
                system.machine().to_string_lossy()
            ),
            None,
        ),
        fact("user", format!("uid {}, gid {}", geteuid().as_raw(), getegid().as_raw()), None),
    ];
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.map_or_else(|| "unknown".to_owned(), |value| value.trim().to_owned())
    };
    facts.push(fact("capabilities", field("CapEff"), None));
    let filters = field("Seccomp_filters");
    let filtered = field("Seccomp") == "2";
    facts.push(fact(
        "seccomp filters",
        if filtered { filters } else { "none".into() },
        filtered.then_some("a filter is in force already: it judges the launcher's own calls too"),
    ));
    let bound = field("NoNewPrivs") == "1";
    facts.push(fact(
        "no_new_privs",
        if bound { "set" } else { "not set" }.into(),
        bound.then_some("no set-user-ID program gives a privilege here, newuidmap among them"),
    ));
    for Knob { name, file, is_bad, means } in KNOBS {
        if let Ok(value) = fs::read_to_string(file) {
            let value = value.trim().to_owned();
            let means = is_bad(&value).then_some(*means);
            facts.push(fact(name, value, means));
        }
    }
    facts.extend(cgroups());
    facts
}

fn cgroups() -> Vec<Fact> {
    let Some(own) = own_cgroup() else {
        return vec![Fact {
            name: "cgroup",
            value: "no cgroup2 file system is mounted".into(),
            means: Some("no workload can be placed in a cgroup, nor limited by one"),
        }];
    };
    let read = |file: &str| fs::read_to_string(own.join(file)).unwrap_or_default();
    let writable =
        rustix::fs::access(own.join("cgroup.procs"), rustix::fs::Access::WRITE_OK).is_ok();
    let controllers = read("cgroup.controllers");
    let controllers = controllers.trim();
    let lacking =
        !["memory", "pids", "cpu"].iter().all(|it| controllers.split(' ').any(|has| has == *it));
    vec![
        Fact {
            name: "cgroup",
            value: own.display().to_string(),
            means: (!writable).then_some(
                "it is not delegated to this user: systemd-run --user -p Delegate=yes makes one that is",
            ),
        },
        Fact {
            name: "cgroup controllers",
            value: if controllers.is_empty() { "none".into() } else { controllers.into() },
            means: lacking.then_some(
                "what is missing of memory, pids and cpu can't be limited: they may be of cgroup version \
                 1 here, or not delegated",
            ),
        },
    ]
}

/// The cgroup above this process's own, or that where it is the first: cgroups(7), "no internal processes",
/// lets none but the first have both processes and cgroups with limits.
pub(crate) fn cgroup_above() -> Option<PathBuf> {
    let own = own_cgroup()?;
    let above = own.parent().filter(|above| above.join("cgroup.procs").exists());
    Some(above.map_or_else(|| own.clone(), PathBuf::from))
}

/// The folder of this process's own cgroup, of version 2.
pub(super) fn own_cgroup() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let root = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let at = fields.next()?;
        (fields.next() == Some("cgroup2")).then(|| PathBuf::from(at))
    })?;
    let cgroup = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(root.join(path))
}
