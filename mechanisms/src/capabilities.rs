#![doc = include_str!("capabilities.md")]

use portcullis_core::lowering::Remark;
use portcullis_core::mechanism::{
    Declaration, Demonstration, Host, Mechanism, OpenError, Opening, Phase, Policy, Repeat, Stop,
    Support,
};
use portcullis_core::program::Op;
use portcullis_core::state::RefusalReason;
use portcullis_core::{Lowering, Params};
use serde::{Deserialize, Serialize};

use crate::capability::CapabilitySet;
pub use crate::capability::{Capability, UnknownCapability};
use crate::identity::{Launcher, all_capabilities};
use crate::{landlock, seccomp, userns};

/// The lowering id.
pub const ID: &str = "linux.capabilities.set.v1";

static DECLARATION: Declaration = Declaration {
    id: ID,
    version: 1,
    phase: Phase::Privilege,
    rank: 110,
    rank_reason: "after all that needs the capabilities, the change of credentials last",
    repeat: Repeat::Once,
    requires: &[],
    conflicts: &[],
    summary: "the workload's capability sets and securebits are these, empty unless named",
    kernel_floor: "4.3 (ambient capabilities)",
    params: "{? keep: [* tstr], ? bounding: [* tstr], ? permitted: [* tstr], ? effective: [* tstr], \
             ? inheritable: [* tstr], ? ambient: [* tstr], ? securebits: [* tstr]}",
    example: r#"{"keep": ["net_bind_service"]}"#,
    guide: include_str!("capabilities.md"),
    demonstration: Demonstration {
        policy: "{}",
        with: &[(userns::ID, "{}")],
        script: "while read -r name set; do case $name in CapEff:) echo $set;; esac; done \
                 </proc/self/status",
        shows: "0000000000000000",
    },
};

/// What sets `no_new_privs`, after which no exec gains a capability.
const NO_NEW_PRIVS: &[&str] = &[landlock::ID, seccomp::ID, "linux.no_new_privs.set.v1"];

/// What a policy says, and a plan carries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// What is in all five sets; not to be named with one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<Capability>,
    /// What an exec can gain, at the most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bounding: Vec<Capability>,
    /// What can be made effective.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permitted: Vec<Capability>,
    /// What the kernel looks at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effective: Vec<Capability>,
    /// What an exec of a file that inherits it hands on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inheritable: Vec<Capability>,
    /// What an exec of any file without privileges of its own hands on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ambient: Vec<Capability>,
    /// What changes the rules, from here on for all descendants.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub securebits: Vec<Securebit>,
}

impl Capabilities {
    /// All that this process has, or in a namespace of its own that there are, but for `dropped`. No exec
    /// gains those; none is inheritable.
    ///
    /// # Errors
    ///
    /// Where the kernel does not say which those are.
    pub fn all_but(dropped: &[Capability], in_namespace: bool) -> Result<Self, String> {
        let told = |stop: Stop| stop.to_string();
        let all = all_capabilities().map_err(told)?;
        let launcher = Launcher::read().map_err(told)?;
        let dropped: CapabilitySet = dropped.iter().collect();
        let (bounding, own) =
            if in_namespace { (all, all) } else { (launcher.bounding, launcher.permitted) };
        Ok(Self {
            bounding: bounding.minus(dropped).named().collect(),
            permitted: own.minus(dropped).named().collect(),
            effective: own.minus(dropped).named().collect(),
            ..Self::default()
        })
    }
}

impl Policy for Capabilities {
    const ID: &'static str = ID;
}

/// A flag of capabilities(7), "The securebits flags". A locked one can't be changed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Securebit {
    /// Uid 0 gains nothing by an exec.
    Noroot = 0,
    /// [`Noroot`](Self::Noroot) stays as it is.
    NorootLocked = 1,
    /// A change of uid from or to 0 changes no capability.
    NoSetuidFixup = 2,
    /// [`NoSetuidFixup`](Self::NoSetuidFixup) stays as it is.
    NoSetuidFixupLocked = 3,
    /// `PR_SET_KEEPCAPS` is of no effect any more.
    KeepCapsLocked = 5,
    /// No capability is made ambient.
    NoCapAmbientRaise = 6,
    /// [`NoCapAmbientRaise`](Self::NoCapAmbientRaise) stays as it is.
    NoCapAmbientRaiseLocked = 7,
}

/// The five sets of a thread, wanted or had.
#[derive(Debug, Clone, Copy, Default)]
struct Sets {
    bounding: CapabilitySet,
    permitted: CapabilitySet,
    effective: CapabilitySet,
    inheritable: CapabilitySet,
    ambient: CapabilitySet,
}

impl Capabilities {
    fn sets(&self) -> Result<Sets, String> {
        let named =
            [&self.bounding, &self.permitted, &self.effective, &self.inheritable, &self.ambient]
                .map(|set| set.iter().collect::<CapabilitySet>());
        if !self.keep.is_empty() {
            if named.iter().any(|set| !set.is_empty()) {
                return Err("keep stands for all five sets, and one of them is named too".into());
            }
            let all = self.keep.iter().collect();
            return Ok(Sets {
                bounding: all,
                permitted: all,
                effective: all,
                inheritable: all,
                ambient: all,
            });
        }
        let [bounding, permitted, effective, inheritable, ambient] = named;
        let within = |set: CapabilitySet, name: &str, whole: CapabilitySet, of: &str| {
            let outside = set.minus(whole);
            if outside.is_empty() {
                return Ok(());
            }
            Err(format!("the {name} set must be within the {of}, and {outside} is not"))
        };
        within(effective, "effective", permitted, "permitted set")?;
        within(ambient, "ambient", permitted & inheritable, "permitted and the inheritable set")?;
        Ok(Sets { bounding, permitted, effective, inheritable, ambient })
    }

    fn bits(&self) -> u32 {
        self.securebits.iter().fold(0, |all, bit| all | 1 << (*bit as u32))
    }
}

/// What the child starts from.
struct Start {
    sets: Sets,
    /// What this kernel has.
    all: CapabilitySet,
    securebits: u32,
    /// What makes the bounding set moot.
    no_new_privs: bool,
}

impl Start {
    /// In a user namespace that is made for the child: everything, over that namespace (capabilities(7),
    /// "Interaction with user namespaces").
    fn in_new_namespace() -> Result<Self, Stop> {
        let all = all_capabilities()?;
        let none = CapabilitySet::default();
        let sets = Sets {
            bounding: all,
            permitted: all,
            effective: all,
            inheritable: none,
            ambient: none,
        };
        Ok(Self { sets, all, securebits: 0, no_new_privs: false })
    }

    /// As the launcher is.
    fn here(launch: &Lowering<'_>) -> Result<Self, Stop> {
        let launcher = Launcher::read()?;
        let sets = Sets {
            bounding: launcher.bounding,
            permitted: launcher.permitted,
            effective: launcher.permitted,
            inheritable: launcher.inheritable,
            ambient: CapabilitySet::default(),
        };
        let bits = rustix::thread::capabilities_secure_bits()
            .map_err(|errno| Stop::fault(format!("prctl(PR_GET_SECUREBITS): {errno}")))?;
        let no_new_privs =
            launcher.no_new_privs || NO_NEW_PRIVS.iter().any(|id| launch.schedules(id));
        Ok(Self { sets, all: all_capabilities()?, securebits: bits.bits(), no_new_privs })
    }

    /// Pushes what leads from here to the sets that are wanted.
    fn lead_to(&self, wanted: Sets, bits: u32, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        let missing = |detail| Err(Stop::refuse(RefusalReason::MissingPrimitive, detail));
        let had = self.sets;
        let named = wanted.bounding | wanted.permitted | wanted.inheritable;
        let unknown = named.minus(self.all);
        if !unknown.is_empty() {
            return missing(format!("this kernel has no capability {unknown}"));
        }
        let inheritable = (had.inheritable | had.permitted) & (had.inheritable | had.bounding);
        for (set, name, whole) in [
            (wanted.bounding, "bounding", had.bounding),
            (wanted.permitted, "permitted", had.permitted),
            (wanted.inheritable, "inheritable", inheritable),
        ] {
            let gained = set.minus(whole);
            if !gained.is_empty() {
                return missing(format!(
                    "{gained} can't be in the {name} set, for the launcher has it not; a launcher that \
                     has it would help, or {} where it is meant over a namespace of the workload's own",
                    userns::ID
                ));
            }
        }
        let may_set = had.permitted.has(Capability::SETPCAP);
        let dropped = had.bounding.minus(wanted.bounding);
        let drops = may_set || dropped.is_empty();
        if !drops && !self.no_new_privs {
            return missing(format!(
                "the bounding set can't be reduced without setpcap, and an exec could gain from it; a \
                 launcher that has setpcap, {}, or one of {} (which set no_new_privs) would help",
                userns::ID,
                NO_NEW_PRIVS.join(", ")
            ));
        }
        if bits != 0 && !may_set {
            return missing("securebits need setpcap, and the launcher has it not".to_owned());
        }
        // The lock of a bit is the next one; what is locked can't be changed, and no lock be undone.
        let locked = self.securebits >> 1 & 0x5555_5555;
        if locked & bits & !self.securebits != 0 {
            return missing("securebits that the launcher has locked as they are".to_owned());
        }

        // Of the permitted set: a change from uid 0 to another has emptied the effective one. And
        // inheritable first, for nothing else can be made ambient.
        let (permitted, inheritable) = (had.permitted, wanted.inheritable);
        launch.push(Op::set_capabilities(permitted.0, permitted.0, inheritable.0));
        if drops {
            for capability in dropped.numbers() {
                launch.push(Op::drop_from_bounding_set(capability));
            }
        } else {
            let text = "without setpcap the bounding set is untouched; no_new_privs keeps an exec from \
                        gaining by it";
            launch.remark(Remark::Residual, text);
        }
        launch.push(Op::clear_ambient_set());
        for capability in wanted.ambient.numbers() {
            launch.push(Op::raise_ambient(capability));
        }
        if bits != 0 {
            launch.push(Op::set_securebits(bits | self.securebits));
        }
        let Sets { permitted, effective, inheritable, .. } = wanted;
        launch.push(Op::set_capabilities(effective.0, permitted.0, inheritable.0));
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
        let policy: Capabilities = policy.parse()?;
        policy.sets().map_err(OpenError::Unusable)?;
        Ok(Params::of(&policy)?)
    }

    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        let wire: Capabilities = params.parse()?;
        let wanted = wire.sets().map_err(|why| Stop::refuse(RefusalReason::PlanInvalid, why))?;
        let start = if launch.schedules(userns::ID) {
            Start::in_new_namespace()?
        } else {
            Start::here(launch)?
        };
        start.lead_to(wanted, wire.bits(), launch)?;
        launch.reusable();
        Ok(())
    }

    fn probe(&self, host: &dyn Host) -> Support {
        let here = host.rehearse(&mut |launch| self.lower(&Params::default(), launch));
        if here.is_ok() {
            return Support::yes("with setpcap, so all five sets");
        }
        let attempt = host.rehearse(&mut |launch| {
            launch.enter_namespaces(u64::from(libc::CLONE_NEWUSER.unsigned_abs()));
            Start::in_new_namespace()?.lead_to(Sets::default(), 0, launch)
        });
        match attempt {
            Ok(()) => Support::yes(
                "all five sets with a user namespace; all but the bounding set with no_new_privs",
            ),
            Err(_) => Support::Yes {
                detail: "with no_new_privs".into(),
                residual: vec!["the bounding set is untouched"],
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use portcullis_core::plan::Target;

    use super::*;

    fn named(names: &[&str]) -> Vec<Capability> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn set(names: &[&str]) -> CapabilitySet {
        named(names).iter().collect()
    }

    fn start(permitted: &[&str]) -> Start {
        let all = CapabilitySet::up_to(41);
        let permitted = set(permitted);
        let sets = Sets { bounding: all, permitted, effective: permitted, ..Sets::default() };
        Start { sets, all, securebits: 0, no_new_privs: false }
    }

    fn ops(start: &Start, wanted: &Capabilities) -> Result<(Vec<String>, usize), Stop> {
        let target = Target::default();
        let mut launch = Lowering::new(&target, &[]);
        start.lead_to(wanted.sets().unwrap(), wanted.bits(), &mut launch)?;
        let lowered = launch.finish(vec![]);
        let ops = lowered.program.ops().iter().map(|(_, op)| op.to_string()).collect();
        Ok((ops, lowered.remarks.len()))
    }

    fn missing(start: &Start, wanted: &Capabilities, part: &str) {
        let Err(Stop::Refused(refusal)) = ops(start, wanted) else { panic!("{part}: lowered") };
        assert_eq!(refusal.reason, RefusalReason::MissingPrimitive, "{}", refusal.detail);
        assert!(refusal.detail.contains(part), "{part}: {}", refusal.detail);
    }

    #[test]
    fn sets_that_contradict_each_other_are_an_invalid_plan() {
        let names = |names: &[&str]| named(names);
        for (policy, part) in [
            (
                Capabilities {
                    keep: names(&["kill"]),
                    bounding: names(&["kill"]),
                    ..Capabilities::default()
                },
                "keep",
            ),
            (Capabilities { effective: names(&["kill"]), ..Capabilities::default() }, "effective"),
            (
                Capabilities {
                    permitted: names(&["kill"]),
                    ambient: names(&["kill"]),
                    ..Capabilities::default()
                },
                "ambient",
            ),
            (
                Capabilities {
                    inheritable: names(&["kill"]),
                    ambient: names(&["kill"]),
                    ..Capabilities::default()
                },
                "ambient",
            ),
        ] {
            let params = Params::of(&policy).unwrap();
            let target = Target::default();
            let lowered = Set.lower(&params, &mut Lowering::new(&target, &[]));
            let Err(Stop::Refused(refusal)) = lowered else { panic!("{policy:?} lowered") };
            assert_eq!(refusal.reason, RefusalReason::PlanInvalid);
            assert!(refusal.detail.contains(part), "{}", refusal.detail);
            assert!(Set.open(&params, &mut Opening::new(Target::default())).is_err());
        }
    }

    #[test]
    fn a_name_that_is_none_is_an_invalid_plan() {
        let params = Params::of(&serde_json::json!({"keep": ["net_bind_servce"]})).unwrap();
        let target = Target::default();
        let Err(Stop::Refused(refusal)) = Set.lower(&params, &mut Lowering::new(&target, &[]))
        else {
            panic!("lowered");
        };
        assert_eq!(refusal.reason, RefusalReason::PlanInvalid);
        assert!(refusal.detail.contains("net_bind_servce"), "{}", refusal.detail);
    }

    #[test]
    fn the_bounding_set_goes_first_and_what_is_needed_for_it_last() {
        let start = start(&["setpcap", "net_raw"]);
        let wanted = Capabilities {
            keep: named(&["net_raw"]),
            securebits: vec![Securebit::NoCapAmbientRaise, Securebit::NoCapAmbientRaiseLocked],
            ..Capabilities::default()
        };
        let (ops, remarks) = ops(&start, &wanted).unwrap();
        assert_eq!(remarks, 0);
        assert!(ops[0].starts_with("capset"));
        // 41, which has no name here, among them; 13 is kept.
        assert_eq!(ops[1..42].iter().filter(|op| op.starts_with("prctl(24, ")).count(), 41);
        assert!(ops.contains(&"prctl(24, 41, 0, 0, 0) = 0".to_owned()));
        assert!(!ops.contains(&"prctl(24, 13, 0, 0, 0) = 0".to_owned()));
        assert_eq!(
            ops[42..45],
            [
                "prctl(47, 4, 0, 0, 0) = 0",
                "prctl(47, 2, 13, 0, 0) = 0",
                "prctl(28, 192, 0, 0, 0) = 0"
            ]
        );
        assert!(ops[45].starts_with("capset") && ops.len() == 46);
    }

    #[test]
    fn without_setpcap_the_bounding_set_must_not_matter() {
        let none = Capabilities::default();
        let mut start = start(&[]);
        missing(&start, &none, "bounding set can't be reduced");
        start.no_new_privs = true;
        let (steps, remarks) = ops(&start, &none).unwrap();
        assert_eq!((steps.len(), remarks), (3, 1), "{steps:?}");
        start.no_new_privs = false;
        start.sets.bounding = CapabilitySet::default();
        assert_eq!(ops(&start, &none).unwrap().1, 0);
    }

    #[test]
    fn what_the_launcher_has_not_can_not_be_given() {
        let start = start(&["setpcap", "net_raw"]);
        let keep = |name| Capabilities { keep: named(&[name]), ..Capabilities::default() };
        assert!(ops(&start, &keep("net_raw")).is_ok());
        missing(&start, &keep("net_admin"), "net_admin can't be in the permitted set");
        let mut bounded = start;
        bounded.sets.bounding = set(&["setpcap"]);
        missing(&bounded, &keep("net_raw"), "net_raw can't be in the bounding set");
        let inherit = Capabilities { inheritable: named(&["net_raw"]), ..Capabilities::default() };
        missing(&bounded, &inherit, "inheritable");
        bounded.all = CapabilitySet::up_to(12);
        missing(&bounded, &keep("net_raw"), "no capability net_raw");
    }

    #[test]
    fn securebits_that_the_launcher_locked_are_missing_and_its_own_stay() {
        let noroot =
            Capabilities { securebits: vec![Securebit::Noroot], ..Capabilities::default() };
        missing(&Start { no_new_privs: true, ..start(&[]) }, &noroot, "setpcap");
        let locked = Start { securebits: 0b10, ..start(&["setpcap"]) };
        missing(&locked, &noroot, "locked");
        let fixed = Start { securebits: 0b1100, ..start(&["setpcap"]) };
        let (ops, _) = ops(&fixed, &noroot).unwrap();
        assert!(ops.contains(&"prctl(28, 13, 0, 0, 0) = 0".to_owned()), "{ops:?}");
    }
}
