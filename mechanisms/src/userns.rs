#![doc = include_str!("userns.md")]

use std::fmt;
use std::fs;

use portcullis_core::lowering::{NoteTime, Remark};
use portcullis_core::mechanism::{
    Attendee, Declaration, Demonstration, Fault, Host, Mechanism, OpenError, Opening, Phase,
    Policy, Repeat, Stop, Support,
};
use portcullis_core::program::Op;
use portcullis_core::state::RefusalReason;
use portcullis_core::{Lowering, Params};
use rustix::fs::{Mode, OFlags, open};
use serde::{Deserialize, Serialize};

use crate::capability::Capability;
use crate::credentials;
use crate::identity::{Launcher, all_capabilities, become_user};

/// The lowering id.
pub const ID: &str = "linux.userns.enter.v1";

static DECLARATION: Declaration = Declaration {
    id: ID,
    version: 1,
    phase: Phase::Namespace,
    rank: 0,
    rank_reason: "it owns the namespaces that are made with it",
    repeat: Repeat::Once,
    requires: &[],
    conflicts: &[],
    summary: "a new user namespace, in which the workload is uid 0 or another, and outside of which it \
              is not",
    kernel_floor: "5.3 (clone3)",
    params: "{? uid: uint, ? gid: uint, ? uid_map: [+ [uint, uint, uint]], \
             ? gid_map: [+ [uint, uint, uint]]}",
    example: r#"{"uid": 1000, "gid": 1000}"#,
    guide: include_str!("userns.md"),
    demonstration: Demonstration {
        policy: "{}",
        with: &[],
        script: "read -r inside outside count </proc/self/uid_map; echo $count",
        shows: "1",
    },
};

/// The most lines that the kernel takes in a map.
const MAX_LINES: usize = 340;
/// The kernel takes less than a page in one write, and a map in no more than one.
const MAX_BYTES: usize = 4095;

/// What a policy says, and a plan carries. Nothing stands for uid 0 and gid 0, each mapped to the
/// launcher's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserNamespace {
    /// The workload's uid inside.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uid: u32,
    /// The workload's gid inside.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gid: u32,
    /// The uids of the namespace. Empty, it is `uid` alone, and that is the launcher's outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uid_map: Vec<IdRange>,
    /// The gids of the namespace. Empty, it is `gid` alone, and that is the launcher's outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gid_map: Vec<IdRange>,
}

impl Policy for UserNamespace {
    const ID: &'static str = ID;
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a field by reference")]
fn is_zero(id: &u32) -> bool {
    *id == 0
}

/// Ids that follow one another, written `[inside, outside, count]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u32; 3]", into = "[u32; 3]")]
pub struct IdRange {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside.
    pub outside: u32,
    /// How many ids.
    pub count: u32,
}

impl From<[u32; 3]> for IdRange {
    fn from([inside, outside, count]: [u32; 3]) -> Self {
        Self { inside, outside, count }
    }
}

impl From<IdRange> for [u32; 3] {
    fn from(IdRange { inside, outside, count }: IdRange) -> Self {
        [inside, outside, count]
    }
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.inside, self.outside, self.count)
    }
}

/// Whether `count` ids from `first` on hold `id`.
fn holds(first: u32, count: u32, id: u32) -> bool {
    id.checked_sub(first).is_some_and(|offset| offset < count)
}

impl IdRange {
    /// The id inside of an id outside.
    fn inside_of(self, outside: u32) -> Option<u32> {
        holds(self.outside, self.count, outside).then(|| self.inside + (outside - self.outside))
    }

    fn overlaps(self, other: Self) -> bool {
        let overlap = |one: u32, other: u32, counts: [u32; 2]| {
            holds(one, counts[0], other) || holds(other, counts[1], one)
        };
        let counts = [self.count, other.count];
        overlap(self.inside, other.inside, counts) || overlap(self.outside, other.outside, counts)
    }
}

/// A map of one kind of id, as the kernel takes it, and the id that the workload has in it.
struct IdMap<'a> {
    /// `uid` or `gid`.
    kind: &'static str,
    id: u32,
    ranges: &'a [IdRange],
}

impl IdMap<'_> {
    /// Whether the kernel would take it from somebody, and the workload's id is in it.
    fn check(&self) -> Result<(), String> {
        let Self { kind, id, ranges } = *self;
        if id == u32::MAX {
            return Err(format!("{kind} {id} stands for no id"));
        }
        if ranges.is_empty() {
            return Ok(());
        }
        for range in ranges {
            let last = range.inside.max(range.outside).checked_add(range.count);
            if range.count == 0 || last.is_none() {
                return Err(format!(
                    "{kind}_map: the range {range} is empty, or reaches beyond {}",
                    u32::MAX - 1
                ));
            }
        }
        if ranges.len() > MAX_LINES {
            let lines = ranges.len();
            return Err(format!("{kind}_map: {lines} ranges, and the kernel takes {MAX_LINES}"));
        }
        for (at, range) in ranges.iter().enumerate() {
            if let Some(other) = ranges[..at].iter().find(|other| other.overlaps(*range)) {
                return Err(format!("{kind}_map: the ranges {other} and {range} overlap"));
            }
        }
        if !self.holds(id) {
            return Err(format!("{kind} {id} is in no range of {kind}_map"));
        }
        let bytes = self.text(0).len();
        if bytes > MAX_BYTES {
            return Err(format!("{kind}_map: {bytes} bytes, and the kernel takes {MAX_BYTES}"));
        }
        Ok(())
    }

    /// Whether an id inside is mapped.
    fn holds(&self, inside: u32) -> bool {
        let mut ranges = self.ranges.iter();
        let among = ranges.any(|range| holds(range.inside, range.count, inside));
        among || self.ranges.is_empty() && inside == self.id
    }

    /// What is written, for a launcher of the effective id `own`.
    fn text(&self, own: u32) -> String {
        if self.ranges.is_empty() {
            return format!("{} {own} 1", self.id);
        }
        self.ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    /// Whether anybody may write it whose effective id is `own`.
    fn is_anybodys(&self, own: u32) -> bool {
        match self.ranges {
            [] => true,
            [range] => range.outside == own && range.count == 1,
            _ => false,
        }
    }

    /// Whether a process of these ids outside has the workload's inside.
    fn is_home_to(&self, ids: [u32; 4]) -> bool {
        let inside = |id: u32| self.ranges.iter().find_map(|range| range.inside_of(id));
        self.ranges.is_empty() || ids.into_iter().all(|id| inside(id) == Some(self.id))
    }

    /// Refuses what the kernel would not let this launcher write.
    fn check_privilege(
        &self,
        launcher: &Launcher,
        needed: Capability,
        own: u32,
    ) -> Result<(), Stop> {
        let kind = self.kind;
        let missing = |detail| Err(Stop::refuse(RefusalReason::MissingPrimitive, detail));
        if self.is_anybodys(own) {
            return Ok(());
        }
        if !launcher.effective.has(needed) {
            return missing(format!(
                "{kind}_map maps more than the launcher's own {kind}, {own}, which needs {needed} in its \
                 user namespace; a launcher that has it, or a plan without {kind}_map, would help"
            ));
        }
        let zero = |range: &IdRange| range.outside == 0;
        if kind == "uid"
            && self.ranges.iter().any(zero)
            && !launcher.effective.has(Capability::SETFCAP)
        {
            return missing(
                "uid_map maps uid 0 of the launcher's user namespace, which needs setfcap there"
                    .to_owned(),
            );
        }
        let path = format!("/proc/self/{kind}_map");
        let text = fs::read_to_string(&path)
            .map_err(|error| Stop::fault(format!("reading {path}: {error}")))?;
        for range in self.ranges {
            if !is_within(*range, &text) {
                return missing(format!(
                    "{kind}_map: the range {range} holds ids that are not mapped in the launcher's own \
                     user namespace, or are not together there (see {path})"
                ));
            }
        }
        Ok(())
    }
}

/// Whether the outside ids of a range lie within one line of a map.
fn is_within(range: IdRange, map: &str) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), _, Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        let (outside, needed) = (u64::from(range.outside), u64::from(range.count));
        first <= outside && outside + needed <= first + count
    })
}

impl UserNamespace {
    fn uids(&self) -> IdMap<'_> {
        IdMap { kind: "uid", id: self.uid, ranges: &self.uid_map }
    }

    fn gids(&self) -> IdMap<'_> {
        IdMap { kind: "gid", id: self.gid, ranges: &self.gid_map }
    }

    fn check(&self) -> Result<(), String> {
        self.uids().check()?;
        self.gids().check()
    }

    /// Has the child become `uid` and `gid`, where the maps do not make it so.
    fn settle(&self, launcher: &Launcher, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        if self.uids().is_home_to(launcher.uids) && self.gids().is_home_to(launcher.gids) {
            return Ok(());
        }
        // The launcher's own uid may be 0 inside, and to leave that one empties the effective set
        // (capabilities(7), "Effect of user ID changes on capabilities"). What else is set up in the
        // namespace needs it.
        launch.push(Op::keep_capabilities());
        become_user(launch, self.uid, self.gid);
        let all = all_capabilities()?.0;
        launch.push(Op::set_capabilities(all, all, 0));
        Ok(())
    }

    /// Whether the namespace has this uid.
    pub(crate) fn has_uid(&self, uid: u32) -> bool {
        self.uids().holds(uid)
    }

    /// Whether the namespace has this gid.
    pub(crate) fn has_gid(&self, gid: u32) -> bool {
        self.gids().holds(gid)
    }

    /// Whether setgroups stays allowed, where the launcher's effective gid is `own`.
    pub(crate) fn allows_setgroups(&self, own: u32) -> bool {
        !self.gids().is_anybodys(own)
    }
}

struct Enter;

portcullis_core::register!(Enter);

impl Mechanism for Enter {
    fn declaration(&self) -> &'static Declaration {
        &DECLARATION
    }

    fn open(&self, policy: &Params, _: &mut Opening) -> Result<Params, OpenError> {
        let policy: UserNamespace = policy.parse()?;
        policy.check().map_err(OpenError::Unusable)?;
        Ok(Params::of(&policy)?)
    }

    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        let wire: UserNamespace = params.parse()?;
        wire.check().map_err(|why| Stop::refuse(RefusalReason::PlanInvalid, why))?;
        launch.enter_namespaces(u64::from(libc::CLONE_NEWUSER.unsigned_abs()));
        launch.rendezvous_ahead();
        let (uids, gids) = (wire.uids(), wire.gids());
        if !(uids.ranges.is_empty() && gids.ranges.is_empty()) {
            let launcher = Launcher::read()?;
            uids.check_privilege(&launcher, Capability::SETUID, launcher.uids[1])?;
            gids.check_privilege(&launcher, Capability::SETGID, launcher.gids[1])?;
            if !(uids.is_anybodys(launcher.uids[1]) && gids.is_anybodys(launcher.gids[1])) {
                launch.needs_child("a map of others' ids is written from outside the namespace");
            }
            wire.settle(&launcher, launch)?;
        }
        let keeps_groups = rustix::process::getgroups().is_ok_and(|groups| !groups.is_empty());
        if keeps_groups && !launch.schedules(credentials::ID) {
            launch.remark(
                Remark::Residual,
                "the launcher's supplementary groups: a user namespace leaves them; root drops them by \
                 linux.credentials.set.v1",
            );
        }
        let UserNamespace { uid, gid, .. } = wire;
        let note = format!("user_namespace=mapped child_uid{uid}_egid{gid}");
        launch.note(NoteTime::Released, note);
        launch.reusable();
        Ok(())
    }

    fn attend(&self, params: &Params, child: Attendee) -> Result<(), Fault> {
        let write = |file: &str, text: &str| -> Result<(), Fault> {
            let path = format!("/proc/{}/{file}", child.pid);
            let opened = open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
            // A map is taken whole, by one write, or not at all (user_namespaces(7)).
            let written = opened.and_then(|map| rustix::io::write(map, text.as_bytes()));
            written.map(drop).map_err(|error| Fault {
                what: format!("writing {text:?} to {path}: {error}"),
                note: Some("user_namespace=map_write_failed fail_closed"),
            })
        };
        let wire: UserNamespace = params.parse().map_err(|error| Fault {
            what: format!("params: {error}"),
            note: Some("user_namespace=map_write_failed fail_closed"),
        })?;
        let Attendee { uid, gid, .. } = child;
        write("uid_map", &wire.uids().text(uid))?;
        if !wire.allows_setgroups(gid) {
            write("setgroups", "deny")?;
        }
        write("gid_map", &wire.gids().text(gid))
    }

    fn probe(&self, host: &dyn Host) -> Support {
        let attempt = host.rehearse(&mut |launch| {
            launch.enter_namespaces(u64::from(libc::CLONE_NEWUSER.unsigned_abs()));
            Ok(())
        });
        Support::of(
            attempt,
            "one uid and one gid are mapped",
            "see user.max_user_namespaces, kernel.unprivileged_userns_clone and \
             kernel.apparmor_restrict_unprivileged_userns in sysctl",
        )
    }
}

#[cfg(test)]
mod tests {
    use portcullis_core::lowering::Lowered;
    use portcullis_core::plan::Target;

    use super::*;

    fn lower(namespace: &UserNamespace) -> Result<Lowered, Stop> {
        let target = Target::default();
        let mut launch = Lowering::new(&target, &[]);
        Enter.lower(&Params::of(namespace).unwrap(), &mut launch)?;
        Ok(launch.finish(vec![]))
    }

    fn invalid(namespace: &UserNamespace) -> String {
        let Err(Stop::Refused(refusal)) = lower(namespace) else { panic!("lowered") };
        assert_eq!(refusal.reason, RefusalReason::PlanInvalid);
        let params = Params::of(namespace).unwrap();
        let error = Enter.open(&params, &mut Opening::new(Target::default())).unwrap_err();
        assert_eq!(error.to_string(), refusal.detail);
        refusal.detail
    }

    fn uid_map(ranges: &[[u32; 3]]) -> UserNamespace {
        let uid_map = ranges.iter().copied().map(IdRange::from).collect();
        UserNamespace { uid_map, ..UserNamespace::default() }
    }

    #[test]
    fn it_asks_for_the_namespace_and_for_a_rendezvous() {
        let lowered = lower(&UserNamespace::default()).unwrap();
        assert_eq!(lowered.clone.namespaces, 0x1000_0000);
        assert!(lowered.clone.rendezvous);
        assert!(lowered.program.ops().is_empty());
        assert_eq!(lowered.notes[0].2, "user_namespace=mapped child_uid0_egid0");
    }

    #[test]
    fn other_ids_of_the_launchers_own_need_no_call_and_are_noted() {
        let lowered = lower(&UserNamespace { uid: 7, gid: 8, ..UserNamespace::default() }).unwrap();
        assert!(lowered.program.ops().is_empty());
        assert_eq!(lowered.notes[0].2, "user_namespace=mapped child_uid7_egid8");
    }

    #[test]
    fn no_parameters_and_zeros_are_the_same_plan() {
        assert!(Params::of(&UserNamespace::default()).unwrap().is_empty());
    }

    #[test]
    fn maps_that_no_kernel_takes_are_invalid() {
        for (ranges, part) in [
            (&[[0, 1, 0]][..], "empty"),
            (&[[0, 1, u32::MAX]], "beyond"),
            (&[[0, u32::MAX, 1]], "beyond"),
            (&[[0, 10, 5], [4, 20, 1]], "overlap"),
            (&[[4, 20, 1], [0, 10, 5]], "overlap"),
            (&[[0, 10, 5], [5, 14, 1]], "overlap"),
            (&[[0, 10, 5], [1, 11, 1]], "overlap"),
            (&[[1, 10, 5]], "uid 0 is in no range"),
        ] {
            let detail = invalid(&uid_map(ranges));
            assert!(detail.contains(part) && detail.contains("uid"), "{ranges:?}: {detail}");
        }
        let many: Vec<_> = (0..341).map(|id| [id, id, 1]).collect();
        assert!(invalid(&uid_map(&many)).contains("340"));
        let long: Vec<_> = (0..340).map(|id| [id, 1_000_000 + id, 1]).collect();
        assert!(invalid(&uid_map(&long)).contains("bytes"));
        let none = UserNamespace { gid: u32::MAX, ..UserNamespace::default() };
        assert!(invalid(&none).contains("gid 4294967295"));
    }

    #[test]
    fn the_last_id_there_is_can_be_mapped() {
        let all = uid_map(&[[0, 0, u32::MAX]]);
        assert_eq!(all.check(), Ok(()));
        assert!(all.has_uid(u32::MAX - 1) && !all.has_uid(u32::MAX));
    }

    fn launcher(effective: &[Capability]) -> Launcher {
        Launcher {
            uids: [1000; 4],
            gids: [1000; 4],
            effective: effective.iter().collect(),
            ..Launcher::read().unwrap()
        }
    }

    #[test]
    fn what_needs_a_privilege_that_the_launcher_lacks_is_a_missing_primitive() {
        let attempt = |ranges: &[[u32; 3]], capabilities: &[Capability]| {
            let namespace = uid_map(ranges);
            namespace.uids().check_privilege(&launcher(capabilities), Capability::SETUID, 1000)
        };
        assert_eq!(attempt(&[[0, 1000, 1]], &[]), Ok(()));
        for (ranges, capabilities, part) in [
            (&[[0, 1000, 2]][..], &[][..], "needs setuid"),
            (&[[0, 1001, 1]], &[Capability::SETGID], "needs setuid"),
            (&[[0, 0, 1]], &[Capability::SETUID], "setfcap"),
        ] {
            let Err(Stop::Refused(refusal)) = attempt(ranges, capabilities) else {
                panic!("{ranges:?}");
            };
            assert_eq!(refusal.reason, RefusalReason::MissingPrimitive);
            assert!(refusal.detail.contains(part), "{}", refusal.detail);
        }
    }

    #[test]
    fn a_child_that_the_maps_put_elsewhere_moves_and_has_its_capabilities_after() {
        let calls = |namespace: &UserNamespace| -> Vec<&str> {
            let target = Target::default();
            let mut launch = Lowering::new(&target, &[]);
            namespace.settle(&launcher(&[]), &mut launch).unwrap();
            launch.finish(vec![]).program.ops().iter().map(|(_, op)| op.name()).collect()
        };
        assert!(calls(&uid_map(&[[0, 1000, 1]])).is_empty());
        assert!(calls(&uid_map(&[[1, 5000, 1], [0, 1000, 1]])).is_empty());
        for ranges in [&[[0, 5000, 10]][..], &[[0, 5000, 1], [1, 1000, 1]]] {
            assert_eq!(
                calls(&uid_map(ranges)),
                ["prctl", "setresgid", "setresuid", "prctl", "capset"]
            );
        }
    }

    #[test]
    fn a_range_lies_within_one_line_of_the_launchers_own_map() {
        let map = "         0     100000      65536\n     65536          0          1\n";
        for (range, within) in [
            ([0, 0, 65536], true),
            ([0, 65535, 1], true),
            ([0, 65535, 2], false),
            ([0, 65536, 1], true),
            ([0, 65537, 1], false),
            ([0, 70000, 1], false),
        ] {
            assert_eq!(is_within(range.into(), map), within, "{range:?}");
        }
    }

    #[test]
    fn setgroups_is_denied_unless_the_map_is_a_privileged_one() {
        let gid_map = |ranges: &[[u32; 3]]| UserNamespace {
            gid_map: ranges.iter().copied().map(IdRange::from).collect(),
            ..UserNamespace::default()
        };
        assert!(!gid_map(&[]).allows_setgroups(1000));
        assert!(!gid_map(&[[0, 1000, 1]]).allows_setgroups(1000));
        assert!(gid_map(&[[0, 1000, 2]]).allows_setgroups(1000));
        assert!(gid_map(&[[0, 1001, 1]]).allows_setgroups(1000));
        assert!(gid_map(&[[0, 1000, 1], [1, 2000, 1]]).allows_setgroups(1000));
    }

    #[test]
    fn maps_that_cannot_be_written_are_a_fault_with_the_protocols_note() {
        // No process has the pid -1, so there is nothing at its path.
        let fault =
            Enter.attend(&Params::default(), Attendee { pid: -1, uid: 0, gid: 0 }).unwrap_err();
        assert_eq!(fault.note, Some("user_namespace=map_write_failed fail_closed"));
        assert!(fault.what.contains("uid_map"), "{}", fault.what);
    }
}
