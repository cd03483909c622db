//! What a mechanism opens and lowers, in this process: nothing is launched.

use std::os::fd::{AsFd, OwnedFd};

use super::declared::workload;
use super::filled::{Filled, params};
use super::{Check, Subject, UNKNOWN};
use crate::descriptor::DescriptorSlot;
use crate::lowering::{Lowered, OpenSlot};
use crate::mechanism::{Opening, Stop};
use crate::plan::{LaunchBody, LaunchPlan, LoweringEntry, Target, lowering_digest};
use crate::program::{Arg, Op, Owner};
use crate::schedule::Schedule;
use crate::state::RefusalReason;
use crate::{Digest, Lowering, Params};

/// All that a plan of the demonstration is made from.
pub(super) struct Composition {
    target: Target,
    slots: Vec<(DescriptorSlot, OwnedFd)>,
    /// What is scheduled; the subject is the last.
    entries: Vec<LoweringEntry>,
}

/// What a subject lowers to.
#[derive(Debug, PartialEq)]
pub(super) struct Own {
    /// Its ops.
    pub(super) ops: Vec<Op>,
    /// What it asks of the clone.
    pub(super) of_clone: OfClone,
    /// Whether the launch can be made in place.
    pub(super) in_place: bool,
    notes: Vec<String>,
}

/// What a mechanism asks of the clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct OfClone {
    /// New namespaces.
    pub(super) namespaces: bool,
    /// A cgroup to be born in.
    pub(super) cgroup: bool,
}

impl Composition {
    /// Opens what the demonstration's policies ask for, and the same policies once more.
    pub(super) fn open(subject: &Subject<'_>, filled: &Filled) -> Result<Self, (Check, String)> {
        let first = Self::once(subject, filled)?;
        let second = Self::once(subject, filled)?;
        if first.entries != second.entries {
            let what = "the same policy, opened twice, has two meanings".to_owned();
            return Err((Check::Params, what));
        }
        Ok(first)
    }

    fn once(subject: &Subject<'_>, filled: &Filled) -> Result<Self, (Check, String)> {
        let mut scheduled = Vec::new();
        let asked = filled.entries(subject.id());
        for id in subject.laboratory.always() {
            let absent = asked.iter().all(|(other, _)| other != id);
            if let Some(it) = subject.registry.find(id).filter(|_| absent) {
                let policy = params(it.declaration().demonstration.policy);
                scheduled.push((*id, policy.map_err(|what| (Check::Schedule, what))?));
            }
        }
        scheduled.extend(asked);
        let mut opening = Opening::new(workload());
        let mut entries = Vec::new();
        for (id, policy) in scheduled {
            let Some(mechanism) = subject.registry.find(id) else {
                let what = format!("demonstration.with: no crate that is linked here has {id}");
                return Err((Check::Schedule, what));
            };
            let opened = mechanism.open(&policy, &mut opening);
            let params = opened.map_err(|error| {
                (Check::Policy, format!("demonstration: {id} does not open its policy: {error}"))
            })?;
            entries.push(mechanism.declaration().entry(params));
        }
        let (target, slots) = opening.finish();
        Ok(Self { target, slots, entries })
    }

    fn subject(&self) -> Option<&LoweringEntry> {
        self.entries.last()
    }

    /// Lowers all of it, as a launcher does, and returns what is the subject's own.
    fn lower(&self, subject: &Subject<'_>) -> Result<Own, String> {
        let schedule = Schedule::classify(&self.entries, subject.registry)
            .map_err(|refusal| Stop::Refused(refusal).to_string())?;
        schedule.check_requirements().map_err(|fault| fault.what)?;
        let slots: Vec<_> = self.slots.iter().map(open_slot).collect();
        let mut lowering = Lowering::new(&self.target, &slots).within(&schedule);
        let (mut own, mut of_clone) = (None, OfClone::default());
        for (index, it) in schedule.entries().iter().enumerate() {
            let before = lowering.clone_request();
            let id = &it.entry.id;
            lowering.set_owner(Owner::Entry(index));
            it.mechanism
                .lower(&it.entry.params, &mut lowering)
                .map_err(|stop| format!("{id} does not lower: {stop}"))?;
            if id == subject.id() {
                own = Some(Owner::Entry(index));
                let after = lowering.clone_request();
                of_clone.namespaces = after.namespaces != before.namespaces;
                of_clone.cgroup = after.cgroup != before.cgroup;
            }
        }
        let in_place = lowering.bound_to_child().is_none();
        let Lowered { program, notes, .. } = lowering.finish(vec![]);
        let is_own = |owner: &Owner| Some(*owner) == own;
        let ops = program.ops().iter().filter(|(owner, _)| is_own(owner));
        let notes = notes.iter().filter(|(_, owner, _)| is_own(owner));
        Ok(Own {
            ops: ops.map(|(_, op)| op.clone()).collect(),
            of_clone,
            in_place,
            notes: notes.map(|(_, _, text)| without_numbers(text)).collect(),
        })
    }
}

fn open_slot((slot, fd): &(DescriptorSlot, OwnedFd)) -> OpenSlot<'_> {
    OpenSlot { slot: *slot, fd: fd.as_fd() }
}

/// A note may hold a pid, an fd or a number, in hexadecimal too, that makes a name fresh.
fn without_numbers(text: &str) -> String {
    let words = text.split_inclusive(|it: char| !it.is_ascii_alphanumeric());
    let number = |word: &str| {
        let letters = word.trim_end_matches(|it: char| !it.is_ascii_alphanumeric());
        let digits = |byte: u8| byte.is_ascii_hexdigit();
        letters.len() >= 8 && letters.bytes().all(digits)
    };
    let plain = |word: &str| -> String {
        word.chars().map(|it| if it.is_ascii_digit() { '#' } else { it }).collect()
    };
    words.map(|word| if number(word) { "#".to_owned() } else { plain(word) }).collect()
}

impl Subject<'_> {
    /// The parameters come out of a plan as they went in, and `lower` knows each field of them.
    pub(super) fn params(&mut self, composition: &Composition) {
        let body = LaunchBody {
            attempt_id: Digest::ZERO,
            plan_id: Digest::ZERO,
            h_a: Digest::ZERO,
            h_p: Digest::ZERO,
            h_l: lowering_digest(&composition.entries),
            lowering: composition.entries.clone(),
            descriptor_table: composition.slots.iter().map(|(slot, _)| *slot).collect(),
            target: composition.target.clone(),
        };
        let back = LaunchPlan::encode(&body).and_then(|frame| LaunchPlan::decode(&frame));
        match back {
            Err(error) => self.fail(Check::Params, format!("a plan can't carry them: {error}")),
            Ok(plan) => {
                let same = plan.body().lowering == body.lowering && plan.verify_identity().is_ok();
                self.expect(same, Check::Params, || "a plan changes them".into());
            }
        }
        let Some(entry) = composition.subject() else { return };
        let slots: Vec<_> = composition.slots.iter().map(open_slot).collect();
        let lower = |params: &Params| {
            self.mechanism.lower(params, &mut Lowering::new(&composition.target, &slots))
        };
        let lowered = lower(&entry.params.with(UNKNOWN, 1));
        let refused = matches!(&lowered, Err(Stop::Refused(refusal))
            if refusal.reason == RefusalReason::PlanInvalid && refusal.detail.contains(UNKNOWN));
        self.expect(refused, Check::Params, || {
            let what = lowered.map_or_else(|stop| stop.to_string(), |()| "it was taken".into());
            format!(
                "lower does not refuse an unknown field by its name (deny_unknown_fields): {what}"
            )
        });
    }

    /// Lowers until three in a row are the same, for another thread of this process may take an fd number
    /// in between.
    pub(super) fn lowerings(&mut self, composition: &Composition) -> Result<Own, String> {
        const IN_A_ROW: usize = 3;
        let mut last = composition.lower(self)?;
        let mut same = 1;
        for _ in 0..3 * IN_A_ROW {
            let next = composition.lower(self)?;
            same = if alike(&next, &last) { same + 1 } else { 1 };
            last = next;
            if same == IN_A_ROW {
                return Ok(last);
            }
        }
        let ops: Vec<_> = last.ops.iter().map(ToString::to_string).collect();
        self.fail(Check::Lowering, format!("no two lowerings are alike; the last one: {ops:?}"));
        Ok(last)
    }
}

/// Whether two lowerings are the same but for the numbers of fds and for fresh names.
fn alike(one: &Own, other: &Own) -> bool {
    let same = |(one, other): (&Op, &Op)| {
        let same = |(one, other): (&Arg, &Arg)| {
            one == other || matches!((one, other), (Arg::Fd(_), Arg::Fd(_)))
        };
        one.number() == other.number()
            && one.expect() == other.expect()
            && one.args().len() == other.args().len()
            && one.args().iter().zip(other.args()).all(same)
    };
    one.of_clone == other.of_clone
        && one.notes == other.notes
        && one.ops.len() == other.ops.len()
        && one.ops.iter().zip(&other.ops).all(same)
}
