//! What of a schedule is still needed when its plan is gone: whose each step is, and which phase each
//! entry counts for.

use portcullis_core::mechanism::Stop;
use portcullis_core::plan::Standing;
use portcullis_core::program::Owner;
use portcullis_core::schedule::{Schedule, Scheduled};
use portcullis_core::state::{PhaseGroup, PhaseOutcome, PhaseResult};

/// The outline of a schedule.
pub(crate) struct Outline(Vec<Entry>);

struct Entry {
    id: &'static str,
    /// The group that it is scheduled in, where its phase is in one.
    group: Option<PhaseGroup>,
}

impl Outline {
    /// A schedule's.
    pub(crate) fn of(schedule: &Schedule<'_>) -> Self {
        let entry = |it: &Scheduled<'_>| Entry {
            id: it.mechanism.declaration().id,
            group: match it.entry.standing {
                Standing::Scheduled => PhaseGroup::of_code(it.entry.phase_code),
                Standing::Implied => None,
            },
        };
        Self(schedule.entries().iter().map(entry).collect())
    }

    /// The lowering ids, in the schedule's order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|it| it.id)
    }

    /// The lowering id of an owner; `launcher` for the launcher itself.
    pub(crate) fn id_of(&self, owner: Owner) -> &'static str {
        match owner {
            Owner::Launcher => "launcher",
            Owner::Entry(index) => self.0[index].id,
        }
    }

    /// The entries of a group.
    pub(crate) fn scheduled(&self, group: PhaseGroup) -> impl Iterator<Item = usize> {
        (0..self.0.len()).filter(move |index| self.0[*index].group == Some(group))
    }

    /// How each group resolves when the entries that `observed` says yes to were observed.
    pub(crate) fn resolve(
        &self,
        observed: impl Fn(usize) -> bool,
    ) -> Result<Vec<(PhaseGroup, PhaseResult)>, Stop> {
        let resolved = PhaseGroup::ALL.iter().map(|&group| {
            let scheduled: Vec<_> = self.scheduled(group).collect();
            let seen: Vec<_> = self.scheduled(group).filter(|it| observed(*it)).collect();
            let outcome = PhaseOutcome { scheduled: &scheduled, observed: &seen };
            let result = outcome.resolve();
            if matches!(result, PhaseResult::Faulted) || !outcome.is_consistent_with(result) {
                let what = format!("the {group} phase is not what was scheduled for it");
                return Err(Stop::fault(what));
            }
            Ok((group, result))
        });
        resolved.collect()
    }
}
