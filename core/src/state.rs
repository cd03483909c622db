//! The states of a launch, the results of its phases, and the predicates over them.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// A name from the protocol that this crate does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a name of the protocol")]
pub struct UnknownName(pub(crate) String);

/// Makes an enum whose variants are written and read by their names.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The protocol's name of it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $name {
            type Err = UnknownName;
            fn from_str(text: &str) -> Result<Self, UnknownName> {
                let found = Self::ALL.iter().find(|value| value.name() == text);
                found.copied().ok_or_else(|| UnknownName(text.to_owned()))
            }
        }
    };
}

named! {
    /// A line of the transcript. The order of declaration is the order of a launch that succeeds;
    /// the last three are terminal.
    LauncherState {
        /// The launcher runs and has a control channel.
        LauncherStarted,
        /// The plan's digests are those of what they name.
        IdentityVerified,
        /// The table is well formed and every entry names a registered mechanism.
        PlanVerified,
        /// Every declared fd is open and of the declared shape.
        HandlesVerified,
        /// The child exists.
        ChildCreated,
        /// Phases 0 and 2 are resolved.
        IdentityPhaseResolved,
        /// Phase 1 is resolved.
        VisibilityPhaseResolved,
        /// Phase 3 is resolved.
        AmbientAuthorityPhaseResolved,
        /// Phase 4 is resolved.
        ConfinementPhaseResolved,
        /// All that the plan scheduled before the exec was observed.
        ReadyToExec,
        /// The workload was exec'd.
        ExecSucceeded,
        /// Refused by name; the workload never ran.
        SetupRefused,
        /// Faulted; the workload never ran.
        SetupFaulted,
    }
}

impl LauncherState {
    /// Whether nothing but notes may follow.
    pub fn is_terminal(self) -> bool {
        self >= Self::ExecSucceeded
    }

    /// Whether `next` may follow: exactly one step on, or a refusal or fault after a state that is
    /// not terminal.
    pub fn may_precede(self, next: Self) -> bool {
        match next {
            Self::SetupRefused | Self::SetupFaulted => !self.is_terminal(),
            _ => !self.is_terminal() && next as usize == self as usize + 1,
        }
    }
}

named! {
    /// Why a launch is refused.
    RefusalReason {
        /// The plan does not decode, or contradicts itself.
        PlanInvalid,
        /// A digest is not the digest of what it names.
        IdentityMismatch,
        /// A mechanism is unknown, or this kernel can't do what is asked of it.
        MissingPrimitive,
        /// A declared fd is not of the declared shape, or is of no use for what it is declared for.
        HandleMismatch,
    }
}

named! {
    /// How a phase ended.
    PhaseResult {
        /// Something was scheduled, and exactly that was observed.
        Applied,
        /// Nothing was scheduled and nothing observed.
        NotRequired,
        /// Refused before the child was made.
        Refused,
        /// Something else was observed than was scheduled.
        Faulted,
    }
}

named! {
    /// The phases as the transcript reports them; several codes may resolve as one.
    PhaseGroup {
        /// Codes 0 and 2: namespaces, cgroup, credentials.
        Identity,
        /// Code 1: the file system that the workload sees.
        Visibility,
        /// Code 3: inherited file descriptors.
        AmbientAuthority,
        /// Code 4: Landlock and seccomp.
        Confinement,
    }
}

impl PhaseGroup {
    /// The group that a phase code resolves as; `None` for the launch itself and what the supervisor
    /// does after it.
    pub fn of_code(code: u32) -> Option<Self> {
        match code {
            0 | 2 => Some(Self::Identity),
            1 => Some(Self::Visibility),
            3 => Some(Self::AmbientAuthority),
            4 => Some(Self::Confinement),
            _ => None,
        }
    }

    /// The state that says that this group is resolved.
    pub fn state(self) -> LauncherState {
        match self {
            Self::Identity => LauncherState::IdentityPhaseResolved,
            Self::Visibility => LauncherState::VisibilityPhaseResolved,
            Self::AmbientAuthority => LauncherState::AmbientAuthorityPhaseResolved,
            Self::Confinement => LauncherState::ConfinementPhaseResolved,
        }
    }
}

/// What was scheduled and what was observed of one phase group.
#[derive(Debug, Clone, Copy)]
pub struct PhaseOutcome<'a, E> {
    /// The entries that the plan schedules in the group.
    pub scheduled: &'a [E],
    /// The entries whose every operation was counted off.
    pub observed: &'a [E],
}

impl<E: PartialEq> PhaseOutcome<'_, E> {
    /// How the phase resolves: `Applied` only where observed equals scheduled, one by one and in order.
    pub fn resolve(&self) -> PhaseResult {
        match (self.scheduled.is_empty(), self.observed.is_empty()) {
            (true, true) => PhaseResult::NotRequired,
            (false, _) if self.scheduled == self.observed => PhaseResult::Applied,
            _ => PhaseResult::Faulted,
        }
    }

    /// Whether `result` is what this outcome may be called.
    pub fn is_consistent_with(&self, result: PhaseResult) -> bool {
        match result {
            PhaseResult::NotRequired => self.scheduled.is_empty() && self.observed.is_empty(),
            PhaseResult::Applied => !self.scheduled.is_empty() && self.scheduled == self.observed,
            PhaseResult::Refused | PhaseResult::Faulted => true,
        }
    }
}

/// `confinement_installed` of the protocol: something was scheduled, and the phase is Applied.
pub fn confinement_installed(scheduled: usize, result: PhaseResult) -> bool {
    scheduled > 0 && result == PhaseResult::Applied
}

/// What must be so before the workload may run.
#[derive(Debug, Clone, Copy)]
pub struct Readiness<'a> {
    /// A child exists, or everything that makes one is ready.
    pub child_created: bool,
    /// How each phase group resolved.
    pub phases: &'a [(PhaseGroup, PhaseResult)],
    /// Whether the digest of what was observed is `h_l`.
    pub schedule_matches: bool,
}

impl Readiness<'_> {
    /// `ready_to_exec` of the protocol: a child, no phase refused or faulted, the scrub Applied, and
    /// the observed schedule the plan's.
    pub fn ready_to_exec(&self) -> bool {
        use PhaseResult::{Applied, Faulted, Refused};
        let none_failed =
            !self.phases.iter().any(|(_, result)| matches!(result, Refused | Faulted));
        let scrubbed = self.phases.contains(&(PhaseGroup::AmbientAuthority, Applied));
        self.child_created && none_failed && scrubbed && self.schedule_matches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::LoweringEntry;
    use crate::{Digest, Params};

    fn entry(id: &str) -> LoweringEntry {
        LoweringEntry {
            id: id.into(),
            version: 1,
            phase_code: 4,
            params: Params::default(),
            param_digest: Digest::ZERO,
            decl_digest: None,
            standing: crate::plan::Standing::Scheduled,
        }
    }

    #[test]
    fn states_go_one_step_on_and_a_refusal_or_fault_follows_any_non_terminal() {
        use LauncherState::{SetupFaulted, SetupRefused};
        for &from in LauncherState::ALL {
            for &to in LauncherState::ALL {
                let next = to as usize == from as usize + 1 && to < SetupRefused;
                let stops = matches!(to, SetupRefused | SetupFaulted);
                let allowed = !from.is_terminal() && (next || stops);
                assert_eq!(from.may_precede(to), allowed, "{from} {to}");
            }
        }
    }

    #[test]
    fn names_are_read_back() {
        for state in LauncherState::ALL {
            assert_eq!(state.name().parse(), Ok(*state));
        }
        assert!("LauncherStopped".parse::<LauncherState>().is_err());
    }

    #[test]
    fn applied_means_observed_field_for_field_in_order() {
        let (a, b) = (entry("a"), entry("b"));
        let changed = LoweringEntry { version: 2, ..entry("a") };
        let resolve = |scheduled: &[&LoweringEntry], observed: &[&LoweringEntry]| {
            PhaseOutcome { scheduled, observed }.resolve()
        };
        assert_eq!(resolve(&[], &[]), PhaseResult::NotRequired);
        assert_eq!(resolve(&[&a, &b], &[&a, &b]), PhaseResult::Applied);
        for observed in [&[][..], &[&a], &[&b, &a], &[&changed, &b]] {
            assert_eq!(resolve(&[&a, &b], observed), PhaseResult::Faulted);
        }
        assert_eq!(resolve(&[], &[&a]), PhaseResult::Faulted);
        let outcome = PhaseOutcome { scheduled: &[&a], observed: &[] };
        assert!(!outcome.is_consistent_with(PhaseResult::Applied));
        assert!(!outcome.is_consistent_with(PhaseResult::NotRequired));
    }

    #[test]
    fn confinement_is_installed_when_scheduled_and_applied() {
        assert!(confinement_installed(1, PhaseResult::Applied));
        assert!(!confinement_installed(0, PhaseResult::Applied));
        assert!(!confinement_installed(1, PhaseResult::Faulted));
    }

    #[test]
    fn ready_takes_all_of_its_conditions() {
        use PhaseGroup::{AmbientAuthority, Confinement};
        use PhaseResult::{Applied, Faulted, NotRequired, Refused};
        let good = [(AmbientAuthority, Applied), (Confinement, NotRequired)];
        let ready = Readiness { child_created: true, phases: &good, schedule_matches: true };
        assert!(ready.ready_to_exec());
        assert!(!Readiness { child_created: false, ..ready }.ready_to_exec());
        assert!(!Readiness { schedule_matches: false, ..ready }.ready_to_exec());
        for phases in [
            [(AmbientAuthority, NotRequired), (Confinement, Applied)],
            [(AmbientAuthority, Applied), (Confinement, Refused)],
            [(AmbientAuthority, Applied), (Confinement, Faulted)],
        ] {
            assert!(!Readiness { phases: &phases, ..ready }.ready_to_exec());
        }
    }
}
