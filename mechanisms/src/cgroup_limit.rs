#![doc = include_str!("cgroup_limit.md")]

use std::fmt::Write as _;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use portcullis_core::descriptor::DescriptorRole;
use portcullis_core::lowering::NoteTime;
use portcullis_core::mechanism::{
    Conflict, Declaration, Demonstration, Host, Mechanism, OpenError, Opening, Phase, Policy,
    Repeat, Stop, Support,
};
use portcullis_core::state::RefusalReason;
use portcullis_core::{Lowering, OsText, Params};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{
    Access, AtFlags, CWD, Dir, FileType, FsWord, Mode, OFlags, accessat, fstatfs, mkdirat, openat,
    unlinkat,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::open_path::open_path;

/// The lowering id.
pub const ID: &str = "linux.cgroup.limit.v1";

/// Why it and `linux.cgroup.enter.v1` are not scheduled together.
pub(crate) const ONE_BIRTHPLACE: &str = "a process is born in one cgroup";

static DECLARATION: Declaration = Declaration {
    id: ID,
    version: 1,
    phase: Phase::Namespace,
    rank: 2,
    rank_reason: "part of the clone, as the namespaces are",
    repeat: Repeat::Once,
    requires: &[],
    conflicts: &[Conflict { id: cgroup::ID, reason: ONE_BIRTHPLACE }],
    summary: "the workload is born in a cgroup of its own, with limits, and all that is in it ends with \
              the workload",
    kernel_floor: "5.14 (cgroup.kill)",
    params: "{? memory_max: uint, ? memory_high: uint, ? memory_swap_max: uint, ? pids_max: uint, \
             ? cpu_max: {quota_us: uint, ? period_us: uint}, ? cpu_weight: uint, ? io_max: [* tstr]}",
    example: r#"{"parent": "/sys/fs/cgroup/jobs", "memory_max": 268435456, "pids_max": 64}"#,
    guide: include_str!("cgroup_limit.md"),
    demonstration: Demonstration {
        policy: r#"{"parent": "@cgroup"}"#,
        with: &[],
        script: "grep -q 'portcullis-demonstration.*/portcullis-' /proc/self/cgroup && echo inside || \
                 echo outside",
        shows: "inside",
    },
};

/// What a policy says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CgroupLimit {
    /// The directory of the cgroup below which the workload's is made.
    pub parent: OsText,
    /// The most memory, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<u64>,
    /// The memory above which the workload is slowed down, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_high: Option<u64>,
    /// The most swap, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_swap_max: Option<u64>,
    /// The most processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<u64>,
    /// The most CPU time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_max: Option<CpuMax>,
    /// The share of CPU time among siblings, 1 to 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u16>,
    /// For each device, `MAJOR:MINOR` and the most of `rbps`, `wbps`, `riops`, `wiops`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub io_max: Vec<String>,
}

impl CgroupLimit {
    /// No limit, in a cgroup below this one.
    pub fn below(parent: impl Into<PathBuf>) -> Self {
        Self {
            parent: parent.into().as_os_str().into(),
            memory_max: None,
            memory_high: None,
            memory_swap_max: None,
            pids_max: None,
            cpu_max: None,
            cpu_weight: None,
            io_max: Vec::new(),
        }
    }
}

impl Policy for CgroupLimit {
    const ID: &'static str = ID;
}

/// CPU time, of all CPUs together, in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuMax {
    /// Microseconds of CPU time in a period, 1000 at the least.
    pub quota_us: u64,
    /// The length of a period in microseconds, 1000 to 1000000.
    #[serde(default = "usual_period")]
    pub period_us: u64,
}

fn usual_period() -> u64 {
    100_000
}

/// What a plan carries: the parent is a slot of the role `CgroupDir`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memory_max: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memory_high: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memory_swap_max: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pids_max: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cpu_max: Option<CpuMax>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cpu_weight: Option<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    io_max: Vec<String>,
}

/// A value for a file of a cgroup.
struct Setting {
    controller: &'static str,
    file: &'static str,
    value: String,
}

impl Wire {
    /// What is written, to which file.
    fn settings(&self) -> Result<Vec<Setting>, String> {
        let mut settings = Vec::new();
        let mut set = |controller, file, value| settings.push(Setting { controller, file, value });
        for (file, value) in [
            ("memory.max", self.memory_max),
            ("memory.high", self.memory_high),
            ("memory.swap.max", self.memory_swap_max),
        ] {
            if let Some(bytes) = value {
                set("memory", file, bytes.to_string());
            }
        }
        if let Some(count) = self.pids_max {
            if count == 0 {
                return Err("pids_max: the workload itself is one".into());
            }
            set("pids", "pids.max", count.to_string());
        }
        if let Some(CpuMax { quota_us, period_us }) = self.cpu_max {
            if quota_us < 1000 || !(1000..=1_000_000).contains(&period_us) {
                return Err(format!(
                    "cpu_max: a quota is 1000 µs or more, a period 1000 to 1000000, and not {quota_us} \
                     and {period_us}"
                ));
            }
            set("cpu", "cpu.max", format!("{quota_us} {period_us}"));
        }
        if let Some(weight) = self.cpu_weight {
            if !(1..=10_000).contains(&weight) {
                return Err(format!("cpu_weight: {weight} is not from 1 to 10000"));
            }
            set("cpu", "cpu.weight", weight.to_string());
        }
        for line in &self.io_max {
            if !is_io_limit(line) {
                return Err(format!(
                    "io_max: {line:?} is not MAJOR:MINOR and limits as in \"8:0 rbps=1048576 wiops=max\""
                ));
            }
            set("io", "io.max", line.clone());
        }
        Ok(settings)
    }
}

fn is_io_limit(line: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let mut words = line.split(' ');
    let device = words.next().and_then(|device| device.split_once(':'));
    let limits: Vec<_> = words.map(|word| word.split_once('=')).collect();
    device.is_some_and(|(major, minor)| number(major) && number(minor))
        && !limits.is_empty()
        && limits.into_iter().all(|limit| {
            limit.is_some_and(|(name, value)| {
                ["rbps", "wbps", "riops", "wiops"].contains(&name)
                    && (value == "max" || number(value))
            })
        })
}

struct Limit;

portcullis_core::register!(Limit);

impl Mechanism for Limit {
    fn declaration(&self) -> &'static Declaration {
        &DECLARATION
    }

    fn open(&self, policy: &Params, opening: &mut Opening) -> Result<Params, OpenError> {
        let policy: CgroupLimit = policy.parse()?;
        let wire = Wire {
            memory_max: policy.memory_max,
            memory_high: policy.memory_high,
            memory_swap_max: policy.memory_swap_max,
            pids_max: policy.pids_max,
            cpu_max: policy.cpu_max,
            cpu_weight: policy.cpu_weight,
            io_max: policy.io_max,
        };
        wire.settings().map_err(OpenError::Unusable)?;
        let (fd, kind) = open_path("cgroup", &policy.parent)?;
        opening.declare(fd, DescriptorRole::CgroupDir, kind, false);
        Ok(Params::of(&wire)?)
    }

    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        let wire: Wire = params.parse()?;
        let settings =
            wire.settings().map_err(|why| Stop::refuse(RefusalReason::PlanInvalid, why))?;
        let Some(open) = launch.slots(DescriptorRole::CgroupDir).next() else {
            let detail = format!("{ID} is scheduled, and no slot has the role CgroupDir");
            return Err(Stop::refuse(RefusalReason::HandleMismatch, detail));
        };
        let parent = Parent::new(open.fd)?;
        let leaf = parent.make_leaf()?;
        // From here on the leaf goes, whatever comes of the launch.
        let (dir, name) = (leaf.dir.as_fd().try_clone_to_owned(), leaf.name.clone());
        launch.needs_child("its cgroup is removed when the workload has ended");
        launch.at_end(move || leaf.end());
        let dir = dir.map_err(|error| Stop::fault(format!("copying an fd: {error}")))?;
        parent.check_way_in()?;
        if let Err(errno) = openat(&dir, KILL, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            let detail = format!(
                "{KILL} of the leaf can't be written: {errno}; it comes with Linux 5.14, and without it \
                 nothing ends what outlives the workload"
            );
            return Err(Stop::refuse(RefusalReason::MissingPrimitive, detail));
        }
        // Last of what touches the parent, for it is not undone.
        parent.provide(&settings)?;
        let mut note = format!("cgroup_limits={name}");
        for Setting { file, value, .. } in &settings {
            write_file(&dir, file, value).map_err(|errno| cannot_set(file, value, errno))?;
            let _ = write!(note, " {file}={}", value.replace(' ', ","));
        }
        let fd = launch.keep(dir);
        launch.enter_cgroup(fd);
        launch.note(NoteTime::Created, note);
        Ok(())
    }

    fn probe(&self, _: &dyn Host) -> Support {
        let Some(at) = cgroup::mounted() else {
            return Support::no("no cgroup2 file system is mounted");
        };
        let controllers = fs::read_to_string(format!("{at}/cgroup.controllers"));
        let controllers = controllers.unwrap_or_default();
        let controllers = match controllers.trim() {
            "" => "no controllers, so no limits",
            some => &format!("controllers {some}"),
        };
        Support::yes(format!("cgroup2 at {at}, {controllers}; the parent must be delegated"))
    }
}

const KILL: &str = "cgroup.kill";
const EVENTS: &str = "cgroup.events";
const SUBTREE_CONTROL: &str = "cgroup.subtree_control";
const CONTROLLERS: &str = "cgroup.controllers";

/// The cgroup of the slot, seen to be one of version 2.
struct Parent<'a>(BorrowedFd<'a>);

impl<'a> Parent<'a> {
    fn new(fd: BorrowedFd<'a>) -> Result<Self, Stop> {
        // linux/magic.h.
        const CGROUP2_SUPER_MAGIC: FsWord = 0x6367_7270;
        let found = fstatfs(fd)
            .map_err(|errno| Stop::fault(format!("fstatfs of the CgroupDir slot: {errno}")))?;
        if found.f_type != CGROUP2_SUPER_MAGIC {
            let detail =
                "the CgroupDir slot is on no cgroup2 file system, so no cgroup of version 2";
            return Err(Stop::refuse(RefusalReason::HandleMismatch, detail));
        }
        Ok(Self(fd))
    }

    /// Refuses where the clone would not get into the leaf: a process that goes from one cgroup to another
    /// writes to the `cgroup.procs` of the nearest that holds both (cgroups(7), "Cgroups delegation").
    /// Where paths do not tell which that is, the clone will.
    fn check_way_in(&self) -> Result<(), Stop> {
        let Some(ancestor) = self.ancestor_with_launcher() else { return Ok(()) };
        let procs = ancestor.join("cgroup.procs");
        match accessat(CWD, &procs, Access::WRITE_OK, AtFlags::EACCESS) {
            Err(errno @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => {
                let detail = format!(
                    "{} is of the nearest cgroup that holds both the launcher and the parent, and can't be \
                     written: {errno}; a launcher that runs in the delegated cgroup would help",
                    procs.display()
                );
                Err(Stop::refuse(RefusalReason::MissingPrimitive, detail))
            }
            _ => Ok(()),
        }
    }

    fn ancestor_with_launcher(&self) -> Option<PathBuf> {
        let mount = PathBuf::from(cgroup::mounted()?);
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let parent = fs::read_link(format!("/proc/self/fd/{}", self.0.as_raw_fd())).ok()?;
        common(&mount, Path::new(own), parent.strip_prefix(&mount).ok()?)
    }

    /// Sees to it that the leaf will have the controllers of these settings.
    fn provide(&self, settings: &[Setting]) -> Result<(), Stop> {
        if settings.is_empty() {
            return Ok(());
        }
        let read = |file: &str| {
            let fault = |errno| Stop::fault(format!("reading {file} of the parent: {errno}"));
            read_file(self.0, file).map_err(fault)
        };
        let (enabled, available) = (read(SUBTREE_CONTROL)?, read(CONTROLLERS)?);
        for Setting { controller, file, .. } in settings {
            let among = |list: &str| list.split_whitespace().any(|it| it == *controller);
            let missing = |why: &str| {
                let detail = format!(
                    "{file} needs the controller {controller}, {why}; a parent that the controller is \
                     delegated to would help (cgroups(7))"
                );
                Err(Stop::refuse(RefusalReason::MissingPrimitive, detail))
            };
            if among(&enabled) {
                continue;
            }
            if !among(&available) {
                return missing("and it is not in the parent's cgroup.controllers");
            }
            match write_file(self.0, SUBTREE_CONTROL, &format!("+{controller}")) {
                Ok(()) => {}
                Err(Errno::BUSY) => {
                    return missing(
                        "and the parent has processes of its own, so it can't enable it",
                    );
                }
                Err(errno) => {
                    return missing(&format!(
                        "and the parent can't enable it for the leaf: {errno}"
                    ));
                }
            }
        }
        Ok(())
    }

    fn make_leaf(&self) -> Result<Leaf, Stop> {
        let fault = |what: &str, errno: Errno| Stop::fault(format!("{what}: {errno}"));
        let parent = self.0.try_clone_to_owned();
        let parent = parent.map_err(|error| Stop::fault(format!("copying an fd: {error}")))?;
        let mut random = [0; 8];
        getrandom(&mut random, GetRandomFlags::empty()).map_err(|it| fault("getrandom", it))?;
        let name = format!("portcullis-{:016x}", u64::from_ne_bytes(random));
        mkdirat(&parent, &name, Mode::from_raw_mode(0o755)).map_err(|errno| {
            let state = rustix::fs::fstat(&parent).map_or_else(
                |errno| errno.to_string(),
                |it| format!("uid {}, gid {}, mode {:o}", it.st_uid, it.st_gid, it.st_mode & 0o7777),
            );
            let detail = format!(
                "making a cgroup in the parent ({state}), as uid {}: {errno}; a parent that is delegated \
                 to this user would help (cgroups(7), \"Cgroups delegation\")",
                rustix::process::geteuid().as_raw()
            );
            Stop::refuse(RefusalReason::MissingPrimitive, detail)
        })?;
        match open_dir(&parent, &name) {
            Ok(dir) => Ok(Leaf { parent, dir, name }),
            Err(errno) => {
                let _ = unlinkat(&parent, &name, AtFlags::REMOVEDIR);
                Err(fault("opening the cgroup that was made", errno))
            }
        }
    }
}

/// What two paths below `mount` have in common; `None` for one that leads out of a namespace.
fn common(mount: &Path, one: &Path, other: &Path) -> Option<PathBuf> {
    let is_name = |it: &Component<'_>| matches!(it, Component::Normal(_));
    if !one.components().chain(other.components()).all(|it| is_name(&it)) {
        return None;
    }
    let both = one.components().zip(other.components()).take_while(|(one, other)| one == other);
    Some(mount.join(both.map(|(one, _)| one).collect::<PathBuf>()))
}

fn cannot_set(file: &str, value: &str, errno: Errno) -> Stop {
    let (reason, hint) = match errno {
        Errno::NOENT => (RefusalReason::MissingPrimitive, "; this kernel has no such limit"),
        Errno::NODEV => (RefusalReason::MissingPrimitive, "; there is no such device"),
        Errno::INVAL | Errno::RANGE => {
            (RefusalReason::PlanInvalid, "; the kernel takes no such value")
        }
        _ => return Stop::fault(format!("writing {value:?} to {file}: {errno}")),
    };
    Stop::refuse(reason, format!("writing {value:?} to {file}: {errno}{hint}"))
}

/// A cgroup that was made for one workload.
struct Leaf {
    parent: OwnedFd,
    dir: OwnedFd,
    name: String,
}

impl Leaf {
    /// How long to wait for processes that were killed: one in the midst of a device's I/O takes its time.
    const PATIENCE: Duration = Duration::from_secs(5);

    /// Kills what is left in it, and removes it.
    fn end(self) -> Result<(), String> {
        let failed = |what: &'static str| move |errno: Errno| format!("{what}: {errno}");
        if self.is_populated().map_err(failed(EVENTS))? {
            write_file(&self.dir, KILL, "1").map_err(failed(KILL))?;
            self.wait_until_empty()?;
        }
        remove(&self.parent, &self.name, 0).map_err(|why| format!("{}: {why}", self.name))
    }

    fn is_populated(&self) -> Result<bool, Errno> {
        Ok(read_file(&self.dir, EVENTS)?.contains("populated 1"))
    }

    /// A change of `cgroup.events` since it was last read is told by `POLLPRI`.
    fn wait_until_empty(&self) -> Result<(), String> {
        let failed = |errno: Errno| format!("{EVENTS}: {errno}");
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let events = openat(&self.dir, EVENTS, flags, Mode::empty()).map_err(failed)?;
        let deadline = Instant::now() + Self::PATIENCE;
        let mut text = [0; 256];
        loop {
            let length = rustix::io::pread(&events, &mut text, 0).map_err(failed)?;
            if String::from_utf8_lossy(&text[..length]).contains("populated 0") {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("still populated {:?} after it was killed", Self::PATIENCE));
            }
            let left = Timespec::try_from(left).ok();
            let mut polled = [PollFd::new(&events, PollFlags::PRI)];
            retry_on_intr(|| poll(&mut polled, left.as_ref())).map_err(failed)?;
        }
    }
}

/// Removes a cgroup, and first those that the workload may have made in it.
fn remove(parent: impl AsFd, name: &str, depth: u32) -> Result<(), String> {
    const DEEPEST: u32 = 64;
    match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::BUSY | Errno::NOTEMPTY) if depth < DEEPEST => {}
        Err(errno) => return Err(errno.to_string()),
    }
    let dir = open_dir(&parent, name).map_err(|errno| errno.to_string())?;
    for entry in Dir::read_from(&dir).map_err(|errno| errno.to_string())? {
        let entry = entry.map_err(|errno| errno.to_string())?;
        let child = entry.file_name().to_string_lossy();
        if entry.file_type() == FileType::Directory && child != "." && child != ".." {
            remove(&dir, &child, depth + 1)?;
        }
    }
    unlinkat(&parent, name, AtFlags::REMOVEDIR).map_err(|errno| errno.to_string())
}

fn open_dir(parent: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

fn read_file(dir: impl AsFd, file: &str) -> Result<String, Errno> {
    let file = openat(dir, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = [0; 4096];
    let length = retry_on_intr(|| rustix::io::read(&file, &mut text))?;
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}

fn write_file(dir: impl AsFd, file: &str, text: &str) -> Result<(), Errno> {
    let file = openat(dir, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    retry_on_intr(|| rustix::io::write(&file, text.as_bytes())).map(|_| ())
}

#[cfg(test)]
mod tests {
    use portcullis_core::descriptor::{DescriptorKind, DescriptorShape, DescriptorSlot};
    use portcullis_core::lowering::OpenSlot;
    use portcullis_core::plan::Target;

    use super::*;

    fn refused(wire: &Wire, parent: Option<&str>) -> (RefusalReason, String) {
        let target = Target::default();
        let fd = parent.map(|path| open_path("cgroup", &path.into()).unwrap().0);
        let expected = DescriptorShape { kind: DescriptorKind::Directory, writable: false };
        let slot = DescriptorSlot { role: DescriptorRole::CgroupDir, expected, slot_index: 3 };
        let slots: Vec<_> = fd.iter().map(|fd| OpenSlot { slot, fd: fd.as_fd() }).collect();
        let mut launch = Lowering::new(&target, &slots);
        let Err(Stop::Refused(refusal)) = Limit.lower(&Params::of(wire).unwrap(), &mut launch)
        else {
            panic!("lowered");
        };
        (refusal.reason, refusal.detail)
    }

    #[test]
    fn without_a_slot_or_with_one_that_is_no_cgroup_it_is_refused() {
        assert_eq!(refused(&Wire::default(), None).0, RefusalReason::HandleMismatch);
        let (reason, detail) = refused(&Wire::default(), Some("/"));
        assert_eq!(reason, RefusalReason::HandleMismatch);
        assert!(detail.contains("cgroup2"), "{detail}");
    }

    #[test]
    fn values_that_the_kernel_takes_from_nobody_are_invalid() {
        let cpu = |quota_us, period_us| Wire {
            cpu_max: Some(CpuMax { quota_us, period_us }),
            ..Wire::default()
        };
        let io = |line: &str| Wire { io_max: vec![line.into()], ..Wire::default() };
        for (wire, part) in [
            (cpu(999, 100_000), "cpu_max"),
            (cpu(1000, 999), "cpu_max"),
            (cpu(1000, 1_000_001), "cpu_max"),
            (Wire { cpu_weight: Some(0), ..Wire::default() }, "cpu_weight"),
            (Wire { cpu_weight: Some(10_001), ..Wire::default() }, "cpu_weight"),
            (Wire { pids_max: Some(0), ..Wire::default() }, "pids_max"),
            (io(""), "io_max"),
            (io("8:0"), "io_max"),
            (io("8 rbps=1"), "io_max"),
            (io("8:0 rbps=1\n8:16 rbps=1"), "io_max"),
            (io("8:0 rbps=-1"), "io_max"),
            (io("8:0 bps=1"), "io_max"),
        ] {
            let (reason, detail) = refused(&wire, None);
            assert_eq!(reason, RefusalReason::PlanInvalid);
            assert!(detail.contains(part), "{detail}");
        }
    }

    #[test]
    fn the_nearest_cgroup_that_holds_both_is_told_by_their_paths() {
        let common = |one: &str, other: &str| {
            common(Path::new("/m"), Path::new(one), Path::new(other))
                .map(|path| path.display().to_string())
        };
        for (one, other, both) in [
            ("", "a/b", "/m/"),
            ("a/b", "a/c/d", "/m/a"),
            ("a/b", "a/b", "/m/a/b"),
            ("ab", "a", "/m/"),
        ] {
            assert_eq!(common(one, other).as_deref(), Some(both), "{one} {other}");
        }
        assert_eq!(common("../x", "a"), None);
    }

    #[test]
    fn each_limit_is_a_file_of_its_controller() {
        let wire = Wire {
            memory_max: Some(1 << 20),
            memory_high: Some(1 << 19),
            memory_swap_max: Some(0),
            pids_max: Some(9),
            cpu_max: Some(CpuMax { quota_us: 5000, period_us: 10_000 }),
            cpu_weight: Some(50),
            io_max: vec!["8:0 rbps=1048576 wiops=max".into()],
        };
        let settings = wire.settings().unwrap();
        let told: Vec<_> = settings
            .iter()
            .map(|it| format!("{} {} {}", it.controller, it.file, it.value))
            .collect();
        assert_eq!(
            told,
            [
                "memory memory.max 1048576",
                "memory memory.high 524288",
                "memory memory.swap.max 0",
                "pids pids.max 9",
                "cpu cpu.max 5000 10000",
                "cpu cpu.weight 50",
                "io io.max 8:0 rbps=1048576 wiops=max",
            ]
        );
    }

    #[test]
    fn a_policy_without_a_period_has_the_usual_one() {
        let policy = serde_json::json!({"parent": "/", "cpu_max": {"quota_us": 2000}});
        let mut opening = Opening::new(Target::default());
        let params = Limit.open(&Params::of(&policy).unwrap(), &mut opening).unwrap();
        let wire: Wire = params.parse().unwrap();
        assert_eq!(wire.settings().unwrap()[0].value, "2000 100000");
    }
}
