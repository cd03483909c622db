#![doc = include_str!("process_attributes.md")]

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};

use portcullis_core::mechanism::{
    Declaration, Demonstration, Host, Mechanism, OpenError, Opening, Phase, Policy, Repeat, Stop,
    Support,
};
use portcullis_core::program::Op;
use portcullis_core::state::RefusalReason;
use portcullis_core::{Lowering, Params};
use rustix::process::{Resource, getpgrp, getpid, getpriority_process, getrlimit};
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::capability::Capability;
use crate::privilege::child_has;
use crate::rlimits;

/// The lowering id.
pub const ID: &str = "linux.process.attributes.v1";

static DECLARATION: Declaration = Declaration {
    id: ID,
    version: 1,
    phase: Phase::Privilege,
    rank: 20,
    rank_reason: "after the limits, which say how far priorities go; before what drops capabilities",
    repeat: Repeat::Once,
    requires: &[],
    conflicts: &[],
    summary: "sets what the workload's process inherits beside limits and credentials",
    kernel_floor: "2.6.36; 3.15 for huge_pages",
    params: "{? umask: 0..511, ? nice: -20..19, ? oom_score_adj: -1000..1000, \
             ? parent_death_signal: 1..64, ? new_session: true, ? cpus: [+ uint], \
             ? scheduler: {policy: \"other\" / \"batch\" / \"idle\" / \"fifo\" / \"rr\", \
             ? priority: 1..99}, \
             ? io_priority: {class: \"none\" / \"realtime\" / \"best-effort\" / \"idle\", \
             ? level: 1..7}, \
             ? timer_slack_ns: uint, ? huge_pages: false, ? randomize_addresses: false}",
    example: r#"{"umask": "077", "nice": 5, "oom_score_adj": 500, "parent_death_signal": "TERM", "new_session": true, "cpus": [0], "scheduler": {"policy": "batch"}, "io_priority": {"class": "idle"}, "timer_slack_ns": 50000, "huge_pages": false, "randomize_addresses": false}"#,
    guide: include_str!("process_attributes.md"),
    demonstration: Demonstration {
        policy: r#"{"umask": "0127"}"#,
        with: &[],
        script: "umask",
        shows: "0127",
    },
};

/// What a policy says, and a plan carries. What is absent stays the launcher's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessAttributes {
    /// Permissions that files which are made do not get: 0 to 0o777. In a policy a number, or a string of
    /// octal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub umask: Option<Umask>,
    /// The nice value: -20 to 19.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nice: Option<i32>,
    /// How willingly the kernel ends it for want of memory: -1000 (never) to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// What is sent to the workload when the launcher dies, in place of SIGKILL. In a policy a name or a
    /// number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_death_signal: Option<DeathSignal>,
    /// Whether it leads a session of its own, without a controlling terminal.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub new_session: bool,
    /// The CPUs that it may run on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<BTreeSet<u32>>,
    /// The scheduling policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// The priority of its input and output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<IoPriority>,
    /// By how many nanoseconds its timers may be late to save wake-ups: 1 or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timer_slack_ns: Option<u64>,
    /// Whether it may have transparent huge pages; true leaves that to the system.
    #[serde(skip_serializing_if = "is_true")]
    pub huge_pages: bool,
    /// Whether its addresses are randomized; true leaves that to the system.
    #[serde(skip_serializing_if = "is_true")]
    pub randomize_addresses: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a field by reference")]
fn is_true(value: &bool) -> bool {
    *value
}

impl Default for ProcessAttributes {
    fn default() -> Self {
        Self {
            umask: None,
            nice: None,
            oom_score_adj: None,
            parent_death_signal: None,
            new_session: false,
            cpus: None,
            scheduler: None,
            io_priority: None,
            timer_slack_ns: None,
            huge_pages: true,
            randomize_addresses: true,
        }
    }
}

impl Policy for ProcessAttributes {
    const ID: &'static str = ID;
}

/// Permissions that files which are made do not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Umask(pub u32);

impl<'de> Deserialize<'de> for Umask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Umask;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a string of octal digits such as \"077\"")
            }
            fn visit_u64<E: de::Error>(self, mask: u64) -> Result<Umask, E> {
                u32::try_from(mask)
                    .map(Umask)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(mask), &self))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Umask, E> {
                let octal = text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
                let mask = u32::from_str_radix(text, 8).ok().filter(|_| octal);
                mask.map(Umask).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A signal, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct DeathSignal(pub u32);

/// The names of [signal(7)](https://man7.org/linux/man-pages/man7/signal.7.html) in the order of their
/// numbers, from 1 on, as `x86_64` and `aarch64` have them.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

impl<'de> Deserialize<'de> for DeathSignal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = DeathSignal;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a signal such as \"TERM\", or its number")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<DeathSignal, E> {
                u32::try_from(number)
                    .map(DeathSignal)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<DeathSignal, E> {
                let name = text.strip_prefix("SIG").unwrap_or(text);
                let number = (1..).zip(SIGNALS).find(|(_, known)| *known == name);
                number
                    .map(|(number, _)| DeathSignal(number))
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A scheduling policy of [sched(7)](https://man7.org/linux/man-pages/man7/sched.7.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheduler {
    /// Which.
    pub policy: SchedulingPolicy,
    /// The static priority: 1 to 99 for `fifo` and `rr`, 0 for the others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: u32,
}

/// The names of the scheduling policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchedulingPolicy {
    /// `SCHED_OTHER`: the ordinary one.
    Other,
    /// `SCHED_BATCH`: for what computes, and seldom waits.
    Batch,
    /// `SCHED_IDLE`: when nothing else wants the CPU.
    Idle,
    /// `SCHED_FIFO`: real-time, until it waits.
    Fifo,
    /// `SCHED_RR`: real-time, in turns.
    Rr,
}

impl SchedulingPolicy {
    fn is_real_time(self) -> bool {
        matches!(self, Self::Fifo | Self::Rr)
    }

    fn kernels(self) -> i32 {
        match self {
            Self::Other => libc::SCHED_OTHER,
            Self::Batch => libc::SCHED_BATCH,
            Self::Idle => libc::SCHED_IDLE,
            Self::Fifo => libc::SCHED_FIFO,
            Self::Rr => libc::SCHED_RR,
        }
    }
}

/// A priority of [ioprio_set(2)](https://man7.org/linux/man-pages/man2/ioprio_set.2.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IoPriority {
    /// The class.
    pub class: IoClass,
    /// 0, the highest, to 7 for `realtime` and `best-effort`, 0 for the others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub level: u32,
}

/// The classes of priorities of input and output, with the kernel's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoClass {
    /// By the nice value.
    None = 0,
    /// Before all others.
    Realtime = 1,
    /// The ordinary one.
    BestEffort = 2,
    /// When nobody else wants the disk.
    Idle = 3,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a field by reference")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl ProcessAttributes {
    /// What is wrong with it, whoever asks for it.
    fn check(&self) -> Result<(), String> {
        if *self == Self::default() {
            return Err("no attribute is named".into());
        }
        let within = |name: &str, value: i64, least: i64, most: i64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(format!("{name} is {value}, and goes from {least} to {most}"))
        };
        if let Some(Umask(mask)) = self.umask.filter(|mask| mask.0 > 0o777) {
            return Err(format!("umask is {mask:#o}, and goes from 0 to 0o777"));
        }
        if let Some(nice) = self.nice {
            within("nice", nice.into(), -20, 19)?;
        }
        if let Some(adjustment) = self.oom_score_adj {
            within("oom_score_adj", adjustment.into(), -1000, 1000)?;
        }
        if let Some(DeathSignal(number)) = self.parent_death_signal {
            within("parent_death_signal", number.into(), 1, 64)?;
        }
        if self.cpus.as_ref().is_some_and(BTreeSet::is_empty) {
            return Err("cpus is empty, and names one at least".into());
        }
        if let Some(Scheduler { policy, priority }) = self.scheduler {
            let (least, most) = if policy.is_real_time() { (1, 99) } else { (0, 0) };
            within("scheduler.priority", priority.into(), least, most)?;
        }
        if let Some(IoPriority { class, level }) = self.io_priority {
            let most = if matches!(class, IoClass::Realtime | IoClass::BestEffort) { 7 } else { 0 };
            within("io_priority.level", level.into(), 0, most)?;
        }
        if self.timer_slack_ns == Some(0) {
            return Err("timer_slack_ns is 0, and is 1 at the least".into());
        }
        if self.timer_slack_ns.is_some()
            && self.scheduler.is_some_and(|it| it.policy.is_real_time())
        {
            return Err(
                "timer_slack_ns is named, and timers of a real-time policy have none".into()
            );
        }
        Ok(())
    }
}

struct Set;

portcullis_core::register!(Set);

impl Mechanism for Set {
    fn declaration(&self) -> &'static Declaration {
        &DECLARATION
    }

    fn open(&self, policy: &Params, _: &mut Opening) -> Result<Params, OpenError> {
        let policy: ProcessAttributes = policy.parse()?;
        policy.check().map_err(|why| OpenError::Unusable(format!("{ID}: {why}")))?;
        Ok(Params::of(&policy)?)
    }

    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        let wire: ProcessAttributes = params.parse()?;
        wire.check().map_err(|why| Stop::refuse(RefusalReason::PlanInvalid, why))?;
        if wire.new_session {
            if getpgrp() == getpid() {
                launch.needs_child("the leader of a process group can't have a session of its own");
            }
            launch.push(Op::setsid());
        }
        if let Some(Umask(mask)) = wire.umask {
            launch.push(Op::umask(mask));
        }
        if let Some(DeathSignal(number)) = wire.parent_death_signal {
            launch.needs_child("the signal is to tell of the launcher's death");
            launch.set_parent_death_signal(i32::try_from(number).unwrap_or(libc::SIGKILL));
        }
        if let Some(cpus) = &wire.cpus {
            launch.push(Op::set_affinity(affinity(cpus)?));
        }
        if let Some(nice) = wire.nice {
            may_be_nice(nice, launch)?;
            launch.push(Op::set_priority(nice));
        }
        if let Some(nanoseconds) = wire.timer_slack_ns {
            launch.push(Op::set_timer_slack(nanoseconds));
        }
        if let Some(scheduler) = wire.scheduler {
            may_be_scheduled(scheduler, launch)?;
            let priority = i32::try_from(scheduler.priority).unwrap_or(0);
            launch.push(Op::set_scheduler(scheduler.policy.kernels(), priority));
        }
        if let Some(priority) = wire.io_priority {
            may_have_io_priority(priority, launch)?;
            launch.push(Op::set_io_priority((priority.class as u32) << 13 | priority.level));
        }
        if !wire.huge_pages {
            // The kernel keeps it with the memory, which hands it on to all that is exec'd from there.
            needs_own_launcher("huge_pages", launch)?;
            launch.push(Op::disable_huge_pages());
        }
        if !wire.randomize_addresses {
            launch.push(Op::set_personality(personality()? | ADDR_NO_RANDOMIZE));
        }
        // Last: it is the launcher's own, and what is refused is to leave it as it was.
        if let Some(adjustment) = wire.oom_score_adj {
            adjust_oom_score(adjustment, launch)?;
        }
        Ok(())
    }

    fn probe(&self, host: &dyn Host) -> Support {
        let attempt = host.rehearse(&mut |launch| {
            launch.push(Op::setsid());
            launch.push(Op::umask(0o77));
            launch.push(Op::set_timer_slack(50_000));
            launch.push(Op::set_io_priority((IoClass::Idle as u32) << 13));
            launch.push(Op::set_scheduler(libc::SCHED_BATCH, 0));
            Ok(())
        });
        Support::of(attempt, "raising a priority takes a privilege", "")
    }
}

const ADDR_NO_RANDOMIZE: u32 = 0x0004_0000;

/// A bit for each of `cpus`, in the kernel's words.
///
/// The kernel leaves out, without a word, each CPU that there is not or that the cpuset lacks; so none is
/// asked for but those that this process may run on.
fn affinity(cpus: &BTreeSet<u32>) -> Result<Vec<u8>, Stop> {
    let status = fs::read_to_string("/proc/self/status")
        .map_err(|error| Stop::fault(format!("reading /proc/self/status: {error}")))?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let list = list.unwrap_or_default().trim();
    let allowed = |cpu: u32| {
        list.split(',').any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let within = |first: u32, last: u32| (first..=last).contains(&cpu);
            matches!((first.parse(), last.parse()), (Ok(first), Ok(last)) if within(first, last))
        })
    };
    if let Some(cpu) = cpus.iter().find(|cpu| !allowed(**cpu)) {
        let detail = format!(
            "cpus names {cpu}, and the launcher may run on {list}; its cpuset and affinity, and which CPUs \
             are online, say on which"
        );
        return Err(Stop::refuse(RefusalReason::MissingPrimitive, detail));
    }
    let words = cpus.last().map_or(1, |last| *last as usize / 64 + 1);
    let mut mask = vec![0_u64; words];
    for cpu in cpus {
        mask[*cpu as usize / 64] |= 1 << (cpu % 64);
    }
    Ok(mask.into_iter().flat_map(u64::to_ne_bytes).collect())
}

/// Whether the soft limit of `resource`, where it is known, lets the child have `least`.
///
/// With limits of its own scheduled the child's are not this process's, and the child's call will tell.
fn limit_allows(resource: Resource, least: u64, launch: &Lowering<'_>) -> bool {
    launch.schedules(rlimits::ID) || getrlimit(resource).current.is_none_or(|soft| soft >= least)
}

/// Refuses what would be every launch's of a launcher that makes more than one.
fn needs_own_launcher(what: &str, launch: &Lowering<'_>) -> Result<(), Stop> {
    if !launch.shares_launcher() {
        return Ok(());
    }
    let detail = format!(
        "{what} is set in the launcher itself, and a resident one makes other launches, which would have \
         it too; a launcher of its own can make this one"
    );
    Err(Stop::refuse(RefusalReason::MissingPrimitive, detail))
}

fn missing<T>(what: impl fmt::Display, takes: impl fmt::Display) -> Result<T, Stop> {
    let detail = format!("{what} takes {takes}, which the workload does not have");
    Err(Stop::refuse(RefusalReason::MissingPrimitive, detail))
}

/// `can_nice` of the kernel's kernel/sched/syscalls.c.
fn may_be_nice(nice: i32, launch: &Lowering<'_>) -> Result<(), Stop> {
    let present = getpriority_process(None)
        .map_err(|errno| Stop::fault(format!("asking for the nice value: {errno}")))?;
    let least = u64::try_from(20 - nice).unwrap_or(0);
    if nice >= present
        || child_has(Capability::SYS_NICE, launch)
        || limit_allows(Resource::Nice, least, launch)
    {
        return Ok(());
    }
    let takes = format_args!(
        "{} in the initial user namespace, or RLIMIT_NICE {least}",
        Capability::SYS_NICE.kernel_name()
    );
    missing(format_args!("nice {nice}, below the launcher's {present},"), takes)
}

/// `user_check_sched_setscheduler` of the same file.
fn may_be_scheduled(scheduler: Scheduler, launch: &Lowering<'_>) -> Result<(), Stop> {
    let Scheduler { policy, priority } = scheduler;
    if !policy.is_real_time()
        || child_has(Capability::SYS_NICE, launch)
        || limit_allows(Resource::Rtprio, priority.into(), launch)
    {
        return Ok(());
    }
    let takes = format_args!(
        "{} in the initial user namespace, or RLIMIT_RTPRIO {priority}",
        Capability::SYS_NICE.kernel_name()
    );
    missing(format_args!("the scheduler {policy:?} with priority {priority}"), takes)
}

/// `ioprio_check_cap` of the kernel's block/ioprio.c.
fn may_have_io_priority(priority: IoPriority, launch: &Lowering<'_>) -> Result<(), Stop> {
    let capabilities = [Capability::SYS_ADMIN, Capability::SYS_NICE];
    if priority.class != IoClass::Realtime
        || capabilities.into_iter().any(|capability| child_has(capability, launch))
    {
        return Ok(());
    }
    let [admin, nice] = capabilities.map(Capability::kernel_name);
    let takes = format_args!("{nice} or {admin} in the initial user namespace");
    missing("the io_priority realtime", takes)
}

/// What the launcher has, and so the child has before it changes it.
fn personality() -> Result<u32, Stop> {
    const FILE: &str = "/proc/self/personality";
    let text = fs::read_to_string(FILE)
        .map_err(|error| Stop::fault(format!("reading {FILE}: {error}")))?;
    u32::from_str_radix(text.trim(), 16)
        .map_err(|error| Stop::fault(format!("{FILE} holds {text:?}: {error}")))
}

/// Sets this process's own, which the clone hands on, until the end of the launch.
///
/// It is a file of /proc alone, and no path is for the child to open. For the launcher to write the
/// child's after the clone would set its own too, for the two share their memory
/// (`__set_oom_adj` of the kernel's fs/proc/base.c).
fn adjust_oom_score(adjustment: i32, launch: &mut Lowering<'_>) -> Result<(), Stop> {
    const FILE: &str = "/proc/self/oom_score_adj";
    needs_own_launcher("oom_score_adj", launch)?;
    let fault = |what: &str, error: &io::Error| Stop::fault(format!("{what} {FILE}: {error}"));
    // Held open to the end: of a launcher that is not dumpable, as it soon is, the file is root's.
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(FILE)
        .map_err(|error| fault("opening", &error))?;
    let mut before = String::new();
    file.read_to_string(&mut before).map_err(|error| fault("reading", &error))?;
    match file.write_all(adjustment.to_string().as_bytes()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let takes = format_args!(
                "{} in the initial user namespace, or a launcher that was allowed as little",
                Capability::SYS_RESOURCE.kernel_name()
            );
            let before = before.trim();
            let what = format_args!("oom_score_adj {adjustment}, below the launcher's {before},");
            return missing(what, takes);
        }
        Err(error) => return Err(fault("writing to", &error)),
    }
    launch.at_end(move || {
        let put_back = file.write_all(before.as_bytes());
        put_back.map_err(|error| format!("writing {before:?} to {FILE}: {error}"))
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use portcullis_core::plan::Target;
    use serde_json::json;

    use super::*;

    fn lower(policy: &serde_json::Value) -> Result<Vec<String>, Stop> {
        let target = Target::default();
        let mut launch = Lowering::new(&target, &[]);
        Set.lower(&Params::of(policy).unwrap(), &mut launch)?;
        let lowered = launch.finish(vec![]);
        Ok(lowered.program.ops().iter().map(|(_, op)| op.to_string()).collect())
    }

    #[test]
    fn each_attribute_is_a_call_and_no_other_is_made() {
        let policy = json!({
            "umask": 63, "nice": 19, "parent_death_signal": 15, "new_session": true,
            "scheduler": {"policy": "batch"}, "io_priority": {"class": "best-effort", "level": 7},
            "timer_slack_ns": 1, "huge_pages": false,
        });
        let calls = [
            "setsid() = no error",
            "umask(63) = no error",
            "prctl(1, 15) = 0",
            "getppid() = the launcher's pid",
            "setpriority(0, 0, 19) = 0",
            "prctl(29, 1, 0, 0, 0) = 0",
            "sched_setscheduler(0, 3, [0; 4]) = 0",
            "ioprio_set(1, 0, 16391) = 0",
            "prctl(41, 1, 0, 0, 0) = 0",
        ];
        assert_eq!(lower(&policy).unwrap(), calls);
    }

    #[test]
    fn addresses_are_fixed_and_the_rest_of_the_personality_stays() {
        let persona = personality().unwrap() | ADDR_NO_RANDOMIZE;
        let calls = lower(&json!({"randomize_addresses": false})).unwrap();
        assert_eq!(calls, [format!("personality({persona}) = no error")]);
    }

    #[test]
    fn what_a_policy_writes_as_text_is_a_number_on_the_wire() {
        let policy = json!({"umask": "077", "parent_death_signal": "SIGTERM", "cpus": [1, 0, 1]});
        let params = Set.open(&Params::of(&policy).unwrap(), &mut Opening::default()).unwrap();
        let wire = json!({"umask": 63, "parent_death_signal": 15, "cpus": [0, 1]});
        assert_eq!(params, Params::of(&wire).unwrap());
    }

    #[test]
    fn the_example_is_a_policy_and_what_it_becomes_says_the_same() {
        let example: serde_json::Value = serde_json::from_str(DECLARATION.example).unwrap();
        let params = Set.open(&Params::of(&example).unwrap(), &mut Opening::default()).unwrap();
        let again = Set.open(&params, &mut Opening::default()).unwrap();
        assert_eq!(params, again);
    }

    #[test]
    fn what_is_out_of_range_is_an_invalid_plan_by_name_and_range() {
        for (policy, parts) in [
            (json!({"umask": 512}), ["umask", "0o777"]),
            (json!({"umask": "1000"}), ["umask", "0o777"]),
            (json!({"nice": 20}), ["nice", "-20 to 19"]),
            (json!({"nice": -21}), ["nice", "-20 to 19"]),
            (json!({"oom_score_adj": 1001}), ["oom_score_adj", "-1000 to 1000"]),
            (json!({"parent_death_signal": 0}), ["parent_death_signal", "1 to 64"]),
            (json!({"parent_death_signal": 65}), ["parent_death_signal", "1 to 64"]),
            (json!({"cpus": []}), ["cpus", "one at least"]),
            (json!({"scheduler": {"policy": "batch", "priority": 1}}), ["priority", "0 to 0"]),
            (json!({"scheduler": {"policy": "fifo"}}), ["priority", "1 to 99"]),
            (json!({"scheduler": {"policy": "rr", "priority": 100}}), ["priority", "1 to 99"]),
            (json!({"io_priority": {"class": "idle", "level": 1}}), ["level", "0 to 0"]),
            (json!({"io_priority": {"class": "best-effort", "level": 8}}), ["level", "0 to 7"]),
            (json!({"timer_slack_ns": 0}), ["timer_slack_ns", "1"]),
            (
                json!({"timer_slack_ns": 1, "scheduler": {"policy": "fifo", "priority": 1}}),
                ["timer_slack_ns", "real-time"],
            ),
            (json!({}), ["no attribute", ""]),
            (json!({"huge_pages": true, "new_session": false}), ["no attribute", ""]),
        ] {
            let Err(Stop::Refused(refusal)) = lower(&policy) else { panic!("{policy} is lowered") };
            assert_eq!(refusal.reason, RefusalReason::PlanInvalid, "{policy}");
            let opened = Set.open(&Params::of(&policy).unwrap(), &mut Opening::default());
            for text in [refusal.detail, opened.unwrap_err().to_string()] {
                assert!(parts.iter().all(|part| text.contains(part)), "{policy}: {text}");
            }
        }
    }

    #[test]
    fn what_is_no_attribute_is_told_with_what_is() {
        for (policy, part) in [
            (json!({"dumpable": false}), "dumpable"),
            (json!({"umask": "8"}), "octal"),
            (json!({"umask": "+7"}), "octal"),
            (json!({"umask": ""}), "octal"),
            (json!({"parent_death_signal": "TREM"}), "TREM"),
            (json!({"scheduler": {"policy": "deadline"}}), "deadline"),
            (json!({"scheduler": {"policy": "idle", "nice": 1}}), "nice"),
        ] {
            let error =
                Set.open(&Params::of(&policy).unwrap(), &mut Opening::default()).unwrap_err();
            assert!(error.to_string().contains(part), "{policy}: {error}");
        }
    }

    #[test]
    fn a_cpu_that_the_launcher_may_not_use_is_a_missing_primitive() {
        for cpu in [100_000, u32::MAX] {
            let Err(Stop::Refused(refusal)) = lower(&json!({"cpus": [cpu]})) else {
                panic!("{cpu}")
            };
            assert_eq!(refusal.reason, RefusalReason::MissingPrimitive);
            assert!(refusal.detail.contains(&cpu.to_string()), "{}", refusal.detail);
        }
    }
}
