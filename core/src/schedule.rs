//! The classifier: a plan's entries to mechanisms, by id, version and phase code.

use crate::mechanism::{Fault, Mechanism, Phase, Refusal, Repeat};
use crate::plan::LoweringEntry;
use crate::program::Owner;
use crate::registry::Registry;
use crate::state::RefusalReason;

/// An entry and the mechanism that it names.
#[derive(Clone, Copy)]
pub struct Scheduled<'a> {
    /// The entry.
    pub entry: &'a LoweringEntry,
    /// Its mechanism.
    pub mechanism: &'static dyn Mechanism,
    /// Its place in the registry.
    place: usize,
}

impl std::fmt::Debug for Scheduled<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduled").field("entry", &self.entry).finish_non_exhaustive()
    }
}

/// What a plan schedules, in the order in which it is applied: by phase, by rank within the phase,
/// and in the plan's order where those are the same. It ends in the one exec.
#[derive(Debug, Clone)]
pub struct Schedule<'a>(Vec<Scheduled<'a>>);

impl<'a> Schedule<'a> {
    /// Classifies a plan's entries.
    ///
    /// # Errors
    ///
    /// A [`Refusal`]:
    /// - `MissingPrimitive` for an unknown id, a version or a phase code that is not the mechanism's,
    ///   and for a plan without an exec;
    /// - `PlanInvalid` for a mechanism that is scheduled more often than it allows (the exec is one), and
    ///   for one that is scheduled with another that it conflicts with;
    /// - `IdentityMismatch` for a `decl_digest` that is not the digest of the mechanism's declaration.
    pub fn classify(entries: &'a [LoweringEntry], registry: &Registry) -> Result<Self, Refusal> {
        let refuse = |reason, detail| Err(Refusal { reason, detail });
        let mut scheduled = Vec::with_capacity(entries.len());
        for entry in entries {
            let id = &entry.id;
            let Some(place) = registry.place(id) else {
                let detail = format!("{id}: no such mechanism is linked into this launcher");
                return refuse(RefusalReason::MissingPrimitive, detail);
            };
            let mechanism = registry.mechanism_at(place);
            let declared = mechanism.declaration();
            if entry.version != declared.version {
                let (asked, known) = (entry.version, declared.version);
                let detail =
                    format!("{id}: version {asked} is asked for, and this is version {known}");
                return refuse(RefusalReason::MissingPrimitive, detail);
            }
            let (asked, known) = (entry.phase_code, declared.phase.code());
            if asked != known {
                let detail =
                    format!("{id}: phase code {asked} is asked for, and its phase is {known}");
                return refuse(RefusalReason::MissingPrimitive, detail);
            }
            scheduled.push(Scheduled { entry, mechanism, place });
        }
        let is_exec = |it: &Scheduled<'_>| it.mechanism.declaration().phase == Phase::Launch;
        match scheduled.iter().filter(|it| is_exec(it)).count() {
            1 => {}
            0 => {
                let detail = "no entry is an exec, so nothing would run".to_owned();
                return refuse(RefusalReason::MissingPrimitive, detail);
            }
            more => {
                let detail = format!("{more} entries are an exec, and a launch has one");
                return refuse(RefusalReason::PlanInvalid, detail);
            }
        }
        for (at, it) in scheduled.iter().enumerate() {
            let declared = it.mechanism.declaration();
            let id = declared.id;
            let again = scheduled[..at].iter().any(|other| other.entry.id == it.entry.id);
            if again && declared.repeat == Repeat::Once {
                let detail = format!("{id} is scheduled twice, and once is all that it allows");
                return refuse(RefusalReason::PlanInvalid, detail);
            }
            let digests = it.entry.decl_digest.map(|found| (found, registry.digest_at(it.place)));
            if let Some((found, known)) = digests.filter(|(found, known)| found != known) {
                let detail = format!(
                    "{id}: the plan was made for the declaration {found}, and the launcher's is {known}; \
                     supervisor and launcher are of different builds"
                );
                return refuse(RefusalReason::IdentityMismatch, detail);
            }
            for conflict in declared.conflicts {
                if scheduled.iter().any(|other| other.entry.id == conflict.id) {
                    let (other, reason) = (conflict.id, conflict.reason);
                    let detail = format!("{id} is scheduled with {other}: {reason}");
                    return refuse(RefusalReason::PlanInvalid, detail);
                }
            }
        }
        scheduled.sort_by_key(|it| {
            let declared = it.mechanism.declaration();
            (declared.phase, declared.rank)
        });
        Ok(Self(scheduled))
    }

    /// What is scheduled, in the order of its application.
    pub fn entries(&self) -> &[Scheduled<'a>] {
        &self.0
    }

    /// The lowering id of an owner of ops; `launcher` for the launcher's own.
    pub fn id_of(&self, owner: Owner) -> &'static str {
        match owner {
            Owner::Launcher => "launcher",
            Owner::Entry(index) => self.0[index].mechanism.declaration().id,
        }
    }

    /// Checks that what each mechanism requires is scheduled too.
    ///
    /// # Errors
    ///
    /// A [`Fault`] with the note of the first requirement that is not met.
    pub fn check_requirements(&self) -> Result<(), Fault> {
        for it in &self.0 {
            let declared = it.mechanism.declaration();
            for required in declared.requires {
                if !self.0.iter().any(|other| other.entry.id == required.id) {
                    let (id, other, reason) = (declared.id, required.id, required.reason);
                    let what = format!("{id} is scheduled without {other}: {reason}");
                    return Err(Fault { what, note: Some(required.note) });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mechanism::{Conflict, Declaration, Requirement};
    use crate::registry::tests::{declaration, registry};
    use crate::{Digest, Params};

    const SCRUB: &str = "linux.ambient.scrub.v1";
    const EXEC: &str = "linux.exec.v1";

    fn declarations() -> Vec<Declaration> {
        let mut layered = declaration("layered", Phase::Policy, 0);
        layered.repeat = Repeat::Layers;
        let mut needy = declaration("needy", Phase::Namespace, 1);
        needy.requires = &[Requirement { id: "base", reason: "it needs it", note: "base=missing" }];
        let mut rival = declaration("rival", Phase::Namespace, 2);
        rival.conflicts = &[Conflict { id: "base", reason: "there is room for one" }];
        vec![
            declaration(SCRUB, Phase::FdHygiene, 0),
            declaration(EXEC, Phase::Launch, 0),
            declaration("last", Phase::Policy, 255),
            declaration("base", Phase::Namespace, 0),
            layered,
            needy,
            rival,
        ]
    }

    fn entries(ids: &[&str]) -> Vec<LoweringEntry> {
        let declarations = declarations();
        let entry = |id: &&str| {
            declarations.iter().find(|it| it.id == *id).unwrap().entry(Params::default())
        };
        ids.iter().map(entry).collect()
    }

    fn refused(entries: &[LoweringEntry]) -> RefusalReason {
        Schedule::classify(entries, &registry(&declarations()).unwrap()).unwrap_err().reason
    }

    #[test]
    fn what_is_not_registered_as_asked_is_a_missing_primitive() {
        let mut unknown = entries(&[SCRUB, EXEC]);
        unknown[0].id = "linux.unknown.v1".into();
        assert_eq!(refused(&unknown), RefusalReason::MissingPrimitive);
        for code in (0..=255).filter(|code| *code != 3) {
            let mut wrong_phase = entries(&[SCRUB, EXEC]);
            wrong_phase[0].phase_code = code;
            assert_eq!(refused(&wrong_phase), RefusalReason::MissingPrimitive, "{code}");
        }
        let mut version = entries(&[SCRUB, EXEC]);
        version[1].version = 2;
        assert_eq!(refused(&version), RefusalReason::MissingPrimitive);
        assert_eq!(refused(&entries(&[SCRUB])), RefusalReason::MissingPrimitive);
        assert_eq!(refused(&[]), RefusalReason::MissingPrimitive);
    }

    #[test]
    fn what_contradicts_itself_is_an_invalid_plan() {
        assert_eq!(refused(&entries(&[SCRUB, EXEC, EXEC])), RefusalReason::PlanInvalid);
        assert_eq!(refused(&entries(&[SCRUB, SCRUB, EXEC])), RefusalReason::PlanInvalid);
        for both in [["rival", "base"], ["base", "rival"]] {
            let plan = entries(&[SCRUB, both[0], both[1], EXEC]);
            assert_eq!(refused(&plan), RefusalReason::PlanInvalid);
        }
    }

    #[test]
    fn a_declaration_of_another_build_is_a_mismatch_of_identity() {
        let mut other = entries(&[SCRUB, EXEC]);
        other[0].decl_digest = Some(Digest::ZERO);
        assert_eq!(refused(&other), RefusalReason::IdentityMismatch);
    }

    #[test]
    fn the_order_is_phase_then_rank_then_the_plans() {
        let mut plan = entries(&[EXEC, "last", "layered", SCRUB, "layered", "base"]);
        plan[2].params = Params::of(&std::collections::BTreeMap::from([("layer", 1)])).unwrap();
        let registry = registry(&declarations()).unwrap();
        let schedule = Schedule::classify(&plan, &registry).unwrap();
        let order: Vec<_> = schedule.entries().iter().map(|it| it.entry.id.as_str()).collect();
        assert_eq!(order, ["base", SCRUB, "layered", "layered", "last", EXEC]);
        assert!(!schedule.entries()[2].entry.params.is_empty());
        assert!(schedule.entries()[3].entry.params.is_empty());
    }

    #[test]
    fn a_requirement_that_is_not_met_is_a_fault_with_its_note() {
        let registry = registry(&declarations()).unwrap();
        let alone = entries(&["needy", SCRUB, EXEC]);
        let fault =
            Schedule::classify(&alone, &registry).unwrap().check_requirements().unwrap_err();
        assert_eq!(fault.note, Some("base=missing"));
        let both = entries(&["needy", "base", SCRUB, EXEC]);
        assert_eq!(Schedule::classify(&both, &registry).unwrap().check_requirements(), Ok(()));
    }
}
