#![doc = include_str!("rlimits.md")]

use std::collections::BTreeMap;
use std::fmt;

use portcullis_core::mechanism::{
    Declaration, Demonstration, Host, Mechanism, OpenError, Opening, Phase, Policy, Repeat, Stop,
    Support,
};
use portcullis_core::program::Op;
use portcullis_core::state::RefusalReason;
use portcullis_core::{Lowering, Params};
use rustix::process::{Resource as Kernel, getrlimit};
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::capability::Capability;
use crate::privilege;

/// The lowering id.
pub const ID: &str = "linux.rlimits.set.v1";

static DECLARATION: Declaration = Declaration {
    id: ID,
    version: 1,
    phase: Phase::Privilege,
    rank: 10,
    rank_reason: "early: raising a hard limit takes a capability that later ranks drop",
    repeat: Repeat::Once,
    requires: &[],
    conflicts: &[],
    summary: "limits what the workload's processes may use",
    kernel_floor: "2.6.36 (prlimit)",
    params: "{+ resource => limit}; \
             resource = \"as\" / \"core\" / \"cpu\" / \"data\" / \"fsize\" / \"locks\" / \"memlock\" / \
             \"msgqueue\" / \"nice\" / \"nofile\" / \"nproc\" / \"rss\" / \"rtprio\" / \"rttime\" / \
             \"sigpending\" / \"stack\"; \
             limit = bound / {soft: bound, hard: bound}; bound = uint / \"unlimited\"",
    example: r#"{"nofile": 64, "core": 0, "cpu": {"soft": 1, "hard": 2}, "stack": "unlimited"}"#,
    guide: include_str!("rlimits.md"),
    demonstration: Demonstration {
        policy: r#"{"nofile": 17}"#,
        with: &[],
        script: "ulimit -n",
        shows: "17",
    },
};

/// What a policy says, and a plan carries: limits by what they limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rlimits(pub BTreeMap<Resource, Limit>);

impl Policy for Rlimits {
    const ID: &'static str = ID;
}

/// What is limited: an `RLIMIT_…` of [getrlimit(2)].
///
/// [getrlimit(2)]: https://man7.org/linux/man-pages/man2/getrlimit.2.html
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    /// Address space, in bytes.
    As,
    /// A core dump, in bytes.
    Core,
    /// CPU time, in seconds.
    Cpu,
    /// The data segment, in bytes.
    Data,
    /// A file that is written, in bytes.
    Fsize,
    /// Locks and leases; counts on Linux 2.4 alone.
    Locks,
    /// Memory that is locked, in bytes.
    Memlock,
    /// POSIX message queues of the user, in bytes.
    Msgqueue,
    /// The nice value that may be reached: 20 less this.
    Nice,
    /// File descriptors: one more than the highest.
    Nofile,
    /// Processes and threads of the user.
    Nproc,
    /// Resident memory, in bytes; counts on Linux 2.4 alone.
    Rss,
    /// The real-time priority that may be reached.
    Rtprio,
    /// CPU time of a real-time task without a blocking call, in microseconds.
    Rttime,
    /// Signals that are queued for the user.
    Sigpending,
    /// The stack, in bytes.
    Stack,
}

impl Resource {
    const ALL: [(Self, Kernel, &'static str); 16] = [
        (Self::As, Kernel::As, "as"),
        (Self::Core, Kernel::Core, "core"),
        (Self::Cpu, Kernel::Cpu, "cpu"),
        (Self::Data, Kernel::Data, "data"),
        (Self::Fsize, Kernel::Fsize, "fsize"),
        (Self::Locks, Kernel::Locks, "locks"),
        (Self::Memlock, Kernel::Memlock, "memlock"),
        (Self::Msgqueue, Kernel::Msgqueue, "msgqueue"),
        (Self::Nice, Kernel::Nice, "nice"),
        (Self::Nofile, Kernel::Nofile, "nofile"),
        (Self::Nproc, Kernel::Nproc, "nproc"),
        (Self::Rss, Kernel::Rss, "rss"),
        (Self::Rtprio, Kernel::Rtprio, "rtprio"),
        (Self::Rttime, Kernel::Rttime, "rttime"),
        (Self::Sigpending, Kernel::Sigpending, "sigpending"),
        (Self::Stack, Kernel::Stack, "stack"),
    ];

    fn kernels(self) -> Kernel {
        Self::ALL[self as usize].1
    }

    /// The names of all.
    pub fn names() -> [&'static str; 16] {
        Self::ALL.map(|(_, _, name)| name)
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, _, known)| *known == name).map(|(resource, ..)| *resource)
    }

    /// The present hard limit of this process.
    pub fn hard(self) -> Bound {
        getrlimit(self.kernels()).maximum.map_or(Bound::Unlimited, Bound::At)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[*self as usize].2)
    }
}

/// A soft limit, which the workload may raise up to the hard one, and the hard one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What the kernel enforces.
    pub soft: Bound,
    /// How far it may be raised.
    pub hard: Bound,
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// This much, in the resource's unit.
    At(u64),
    /// `RLIM_INFINITY`.
    Unlimited,
}

impl Bound {
    fn raw(self) -> u64 {
        match self {
            Self::At(value) => value,
            Self::Unlimited => libc::RLIM_INFINITY,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(value) => value.fmt(f),
            Self::Unlimited => f.write_str(UNLIMITED),
        }
    }
}

const UNLIMITED: &str = "unlimited";

impl From<Bound> for Limit {
    fn from(both: Bound) -> Self {
        Self { soft: both, hard: both }
    }
}

impl From<u64> for Limit {
    fn from(both: u64) -> Self {
        Bound::from(both).into()
    }
}

impl From<u64> for Bound {
    fn from(value: u64) -> Self {
        // The kernel's number for no limit.
        if value == libc::RLIM_INFINITY { Self::Unlimited } else { Self::At(value) }
    }
}

impl Serialize for Bound {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::At(value) => serializer.serialize_u64(*value),
            Self::Unlimited => serializer.serialize_str(UNLIMITED),
        }
    }
}

impl<'de> Deserialize<'de> for Bound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Bound;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or \"unlimited\"")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Bound, E> {
                Ok(value.into())
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bound, E> {
                if text == UNLIMITED {
                    return Ok(Bound::Unlimited);
                }
                Err(E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Each {
    soft: Bound,
    hard: Bound,
}

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { soft, hard } = *self;
        if soft == hard {
            soft.serialize(serializer)
        } else {
            Each { soft, hard }.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Limit;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, \"unlimited\", or a map of soft and hard")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Limit, E> {
                Ok(value.into())
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Limit, E> {
                if text == UNLIMITED {
                    return Ok(Bound::Unlimited.into());
                }
                Err(E::invalid_value(de::Unexpected::Str(text), &self))
            }
            fn visit_map<M: de::MapAccess<'de>>(self, map: M) -> Result<Limit, M::Error> {
                let Each { soft, hard } = Each::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Limit { soft, hard })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Rlimits {
    /// What is wrong with it, whoever asks for it.
    fn check(&self) -> Result<(), String> {
        if self.0.is_empty() {
            return Err("no limit is named".into());
        }
        for (resource, Limit { soft, hard }) in &self.0 {
            if soft > hard {
                return Err(format!(
                    "{resource}: the soft limit, {soft}, is above the hard one, {hard}"
                ));
            }
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
        let policy: Rlimits = policy.parse()?;
        policy.check().map_err(|why| OpenError::Unusable(format!("{ID}: {why}")))?;
        Ok(Params::of(&policy)?)
    }

    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        let limits: Rlimits = params.parse()?;
        limits.check().map_err(|why| Stop::refuse(RefusalReason::PlanInvalid, why))?;
        for (resource, limit) in limits.0 {
            if limit.hard > resource.hard() {
                may_raise(resource, limit.hard, launch)?;
            }
            launch.push(Op::prlimit(resource.kernels() as u32, limit.soft.raw(), limit.hard.raw()));
        }
        // Hard limits that somebody lowers from outside are the kernel's to refuse then.
        launch.reusable();
        Ok(())
    }

    fn probe(&self, host: &dyn Host) -> Support {
        let attempt = host.rehearse(&mut |launch| {
            launch.push(Op::prlimit(Resource::Core.kernels() as u32, 0, 0));
            Ok(())
        });
        Support::of(attempt, "prlimit", "")
    }
}

/// Whether the child may raise the hard limit of `resource` to `hard`.
fn may_raise(resource: Resource, hard: Bound, launch: &Lowering<'_>) -> Result<(), Stop> {
    let missing = |why: String| {
        let present = resource.hard();
        let detail = format!("{resource}: the hard limit is {present} here, and {hard} {why}");
        Err(Stop::refuse(RefusalReason::MissingPrimitive, detail))
    };
    if !privilege::child_has(Capability::SYS_RESOURCE, launch) {
        let capability = Capability::SYS_RESOURCE.kernel_name();
        return missing(format!(
            "takes {capability} in the initial user namespace; ask for no more than that, or have \
             who starts the launcher raise it"
        ));
    }
    // Not even a privilege helps against that one (getrlimit(2), EPERM).
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
    match most.trim().parse() {
        Ok(most) if resource == Resource::Nofile && hard > Bound::At(most) => {
            missing(format!("is beyond fs.nr_open of sysctl, {most}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use portcullis_core::plan::Target;
    use serde_json::json;

    use super::*;

    fn parsed(policy: &serde_json::Value) -> Result<Rlimits, String> {
        Params::of(policy).unwrap().parse().map_err(|error| error.to_string())
    }

    fn refused(policy: &serde_json::Value) -> (RefusalReason, String) {
        let target = Target::default();
        let mut launch = Lowering::new(&target, &[]);
        match Set.lower(&Params::of(policy).unwrap(), &mut launch) {
            Err(Stop::Refused(refusal)) => (refusal.reason, refusal.detail),
            other => panic!("{policy} is not refused: {other:?}"),
        }
    }

    #[test]
    fn a_limit_is_a_number_unlimited_or_both_bounds() {
        let policy = json!({"nofile": 64, "cpu": {"soft": 1, "hard": 2}, "stack": "unlimited"});
        let limits = parsed(&policy).unwrap();
        let each = Limit { soft: Bound::At(1), hard: Bound::At(2) };
        let expected = [
            (Resource::Cpu, each),
            (Resource::Nofile, 64.into()),
            (Resource::Stack, Bound::Unlimited.into()),
        ];
        assert_eq!(limits.0, BTreeMap::from(expected));
        assert_eq!(Params::of(&limits).unwrap(), Params::of(&policy).unwrap());
    }

    #[test]
    fn what_says_the_same_has_one_form_on_the_wire() {
        let policy = json!({"core": {"soft": 0, "hard": 0}, "as": u64::MAX});
        let params = Set.open(&Params::of(&policy).unwrap(), &mut Opening::default()).unwrap();
        assert_eq!(params, Params::of(&json!({"core": 0, "as": "unlimited"})).unwrap());
    }

    #[test]
    fn what_is_no_limit_is_told_with_what_is() {
        for (policy, part) in [
            (json!({"no_file": 1}), "unknown variant"),
            (json!({"nofile": "many"}), "a number, \"unlimited\", or a map of soft and hard"),
            (json!({"nofile": -1}), "a number"),
            (json!({"nofile": {"soft": 1}}), "hard"),
            (json!({"nofile": {"soft": 1, "hard": 2, "max": 3}}), "max"),
        ] {
            let error = parsed(&policy).unwrap_err();
            assert!(error.contains(part), "{policy}: {error}");
        }
    }

    #[test]
    fn each_resource_has_the_kernels_number_and_its_name() {
        for (at, (resource, _, name)) in Resource::ALL.into_iter().enumerate() {
            assert_eq!(resource as usize, at, "{name}");
            assert_eq!(serde_json::to_value(resource).unwrap(), name);
        }
        let number = |resource: Resource| resource.kernels() as u32;
        let numbers =
            [Resource::Cpu, Resource::Core, Resource::Nofile, Resource::Rttime].map(number);
        assert_eq!(numbers, [0, 4, 7, 15]);
    }

    #[test]
    fn a_soft_limit_above_the_hard_one_and_no_limit_at_all_are_invalid_plans() {
        let (reason, detail) = refused(&json!({"nofile": {"soft": 2, "hard": 1}}));
        assert_eq!(reason, RefusalReason::PlanInvalid);
        assert!(detail.contains("nofile"), "{detail}");
        assert_eq!(refused(&json!({})).0, RefusalReason::PlanInvalid);
        let error = Set.open(&Params::default(), &mut Opening::default()).unwrap_err();
        assert!(error.to_string().contains(ID), "{error}");
    }

    #[test]
    fn more_files_than_any_process_may_have_are_a_missing_primitive_by_name() {
        let (reason, detail) = refused(&json!({"nofile": "unlimited"}));
        assert_eq!(reason, RefusalReason::MissingPrimitive);
        assert!(detail.contains("nofile") && detail.contains("unlimited"), "{detail}");
    }
}
