//! From a plan's parameters to a ruleset of the kernel's.

use std::error::Error;
use std::io;
use std::iter::successors;
use std::os::fd::{BorrowedFd, OwnedFd};

use landlock::{
    AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, Scope as KernelScope,
};
use portcullis_core::Lowering;
use portcullis_core::descriptor::{DescriptorKind, DescriptorRole};
use portcullis_core::lowering::Remark;
use portcullis_core::mechanism::Stop;
use portcullis_core::program::Op;
use portcullis_core::state::RefusalReason;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::residual::residual;
use super::rights::{Access, Features, Known, LogFlag, Scope, kernel};
use super::running::Running;
use super::{Compat, FLOOR, NEWEST};

/// What a plan carries.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wire {
    pub(super) abi: u8,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) rules: Vec<Rule>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) scope: Vec<Scope>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) connect: Option<Vec<u16>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) bind: Option<Vec<u16>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) connect_udp: Option<Vec<u16>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) bind_udp: Option<Vec<u16>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) log: Vec<LogFlag>,
    #[serde(default, skip_serializing_if = "Compat::is_require")]
    pub(super) compat: Compat,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    pub(super) slot: u32,
    pub(super) access: Vec<Access>,
}

impl Rule {
    fn rights(&self, abi: u8) -> BitFlags<AccessFs> {
        self.access.iter().fold(BitFlags::EMPTY, |all, it| all | it.rights(abi))
    }
}

impl Wire {
    /// Everything of an ABI: what a probe tries.
    pub(super) fn everything(abi: u8) -> Self {
        let all = Features::of(abi);
        let none = |right| all.net.contains(right).then(Vec::new);
        Self {
            abi,
            rules: vec![],
            scope: if all.scope.is_empty() {
                vec![]
            } else {
                vec![Scope::Signal, Scope::AbstractUnixSocket]
            },
            connect: none(AccessNet::ConnectTcp),
            bind: none(AccessNet::BindTcp),
            connect_udp: none(AccessNet::ConnectSendUdp),
            bind_udp: none(AccessNet::BindUdp),
            log: if all.log == 0 {
                vec![]
            } else {
                vec![LogFlag::SameExecOff, LogFlag::NewExecOn, LogFlag::SubdomainsOff]
            },
            compat: Compat::Require,
        }
    }

    fn ports(&self) -> [(AccessNet, Option<&[u16]>); 4] {
        [
            (AccessNet::ConnectTcp, self.connect.as_deref()),
            (AccessNet::BindTcp, self.bind.as_deref()),
            (AccessNet::ConnectSendUdp, self.connect_udp.as_deref()),
            (AccessNet::BindUdp, self.bind_udp.as_deref()),
        ]
    }

    /// What is handled where the kernel has it all.
    fn asked(&self) -> Features {
        let scope = |scope: &Scope| match scope {
            Scope::Signal => KernelScope::Signal,
            Scope::AbstractUnixSocket => KernelScope::AbstractUnixSocket,
        };
        let ports = self.ports().into_iter().filter(|(_, ports)| ports.is_some());
        Features {
            fs: Features::of(self.abi).fs,
            net: ports.map(|(right, _)| right).collect(),
            scope: self.scope.iter().map(scope).collect(),
            log: self.log.iter().fold(0, |all, flag| all | flag.bit()),
        }
    }

    /// What is named: what `abi` must have.
    fn named(&self) -> Features {
        let rules = self.rules.iter();
        let fs = rules.fold(BitFlags::EMPTY, |all, rule| all | rule.rights(self.abi));
        Features { fs, ..self.asked() }
    }

    /// The first thing that is named, and that its own ABI does not have.
    pub(super) fn contradiction(&self) -> Option<&'static Known> {
        self.named().beyond(Features::of(self.abi)).next()
    }

    /// The oldest ABI, and not below the floor, that has everything that is named.
    pub(super) fn least_abi(&self) -> u8 {
        let named = self.named().beyond(Features::NONE);
        named.map(|it| it.since).max().unwrap_or(FLOOR).max(FLOOR)
    }
}

/// Makes the ruleset, and has the child restrict itself with it.
pub(super) fn restrict(wire: &Wire, launch: &mut Lowering<'_>) -> Result<(), Stop> {
    let missing = |why: String| Stop::refuse(RefusalReason::MissingPrimitive, why);
    if !(FLOOR..=NEWEST).contains(&wire.abi) {
        let asked = wire.abi;
        let detail =
            format!("Landlock ABI {asked} is asked for, and {FLOOR} to {NEWEST} are known");
        return Err(missing(detail));
    }
    if let Some(Known { name, since, .. }) = wire.contradiction() {
        let asked = wire.abi;
        let detail = format!("{name} came with Landlock ABI {since}, and the plan's is {asked}");
        return Err(Stop::refuse(RefusalReason::PlanInvalid, detail));
    }
    let running = Running::get().abi().map_err(missing)?;
    let asked = wire.asked();
    let handled = asked.and(Features::of(running));
    let lacks = asked.beyond(handled).map(|Known { name, since, .. }| {
        format!("{name}: needs ABI {since}, and this kernel has ABI {running}")
    });
    match wire.compat {
        Compat::Prefer => lacks.for_each(|text| launch.remark(Remark::Missing, text)),
        Compat::Require => {
            let lacks = lacks.collect::<Vec<_>>();
            if !lacks.is_empty() {
                let detail = format!(
                    "{}; a newer kernel, a plan of an older ABI, or \"compat\": \"prefer\" would help",
                    lacks.join("; ")
                );
                return Err(missing(detail));
            }
        }
    }
    let fd = ruleset(wire, handled, launch)?;
    let fd = launch.keep(fd);
    launch.push_once(Op::no_new_privs());
    launch.push(Op::landlock_restrict_self(fd, handled.log));
    residual(handled).for_each(|line| launch.remark(Remark::Residual, line));
    Ok(())
}

fn ruleset(wire: &Wire, handled: Features, launch: &Lowering<'_>) -> Result<OwnedFd, Stop> {
    // What this kernel lacks is left out or refused by now; nothing else may fall away silently.
    let hard = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let cannot =
        |error: RulesetError| stopped(&error, RefusalReason::MissingPrimitive, "this kernel can't");
    let mut ruleset = hard.handle_access(handled.fs).map_err(cannot)?;
    if !handled.net.is_empty() {
        ruleset = ruleset.handle_access(handled.net).map_err(cannot)?;
    }
    if !handled.scope.is_empty() {
        ruleset = ruleset.scope(handled.scope).map_err(cannot)?;
    }
    let mut created = ruleset.create().map_err(cannot)?;
    for rule in &wire.rules {
        let (fd, rights) = place(rule, wire.abi, launch)?;
        let rights = rights & handled.fs;
        // A right that this kernel does not handle is everybody's.
        if rights.is_empty() {
            continue;
        }
        created = created.add_rule(PathBeneath::new(fd, rights)).map_err(|error| {
            let what = format!("slot {}, {:?}", rule.slot, rule.access);
            stopped(&error, RefusalReason::HandleMismatch, &what)
        })?;
    }
    for (right, ports) in wire.ports() {
        for port in ports.filter(|_| handled.net.contains(right)).unwrap_or_default() {
            created = created.add_rule(NetPort::new(*port, right)).map_err(cannot)?;
        }
    }
    // None stands for a ruleset that the kernel never saw.
    Option::<OwnedFd>::from(created).ok_or_else(|| {
        Stop::refuse(RefusalReason::MissingPrimitive, "the kernel made no Landlock ruleset")
    })
}

/// The place that a rule is about, and the rights that it grants there.
fn place<'a>(
    rule: &Rule,
    abi: u8,
    launch: &Lowering<'a>,
) -> Result<(BorrowedFd<'a>, BitFlags<AccessFs>), Stop> {
    let open = launch.slot(rule.slot)?;
    let role = open.slot.role;
    let fits = match role {
        DescriptorRole::WriteRoot => true,
        DescriptorRole::ReadRoot => !rule.access.iter().any(|it| it.writes()),
        _ => false,
    };
    let rights = rule.rights(abi);
    // The kernel rejects a right over directories for a file that is none.
    let rights = match open.slot.expected.kind {
        DescriptorKind::Directory => rights,
        _ => rights & AccessFs::from_file(kernel(abi)),
    };
    if !fits || rights.is_empty() {
        let detail =
            format!("slot {} is a {role:?}: {:?} can't be granted", rule.slot, rule.access);
        return Err(Stop::refuse(RefusalReason::HandleMismatch, detail));
    }
    Ok((open.fd, rights))
}

/// A refusal, unless what was lacking is an fd or memory: the next launch may have it.
fn stopped(error: &dyn Error, reason: RefusalReason, what: &str) -> Stop {
    let mut sources = successors(error.source(), |source| (*source).source());
    let errno = sources.find_map(|it| it.downcast_ref::<io::Error>()?.raw_os_error());
    match errno.map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => {
            Stop::fault(format!("making the Landlock ruleset: {what}: {}", with_sources(error)))
        }
        _ => Stop::refuse(reason, format!("{what}: {}", with_sources(error))),
    }
}

fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use portcullis_core::plan::Target;

    use super::super::running_abi;
    use super::*;

    fn refused(wire: &Wire) -> (RefusalReason, String) {
        let target = Target::default();
        match restrict(wire, &mut Lowering::new(&target, &[])) {
            Err(Stop::Refused(refusal)) => (refusal.reason, refusal.detail),
            other => panic!("{wire:?}: {other:?}"),
        }
    }

    fn wire(json: &str) -> Wire {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn an_abi_out_of_range_is_a_missing_primitive() {
        for abi in [0, 1, 2, NEWEST + 1, 255] {
            for compat in [Compat::Require, Compat::Prefer] {
                let (reason, detail) = refused(&Wire { abi, compat, ..Wire::default() });
                assert_eq!(reason, RefusalReason::MissingPrimitive);
                assert!(detail.contains(&format!("ABI {abi} ")), "{detail}");
            }
        }
    }

    #[test]
    fn what_the_plans_own_abi_lacks_contradicts_it() {
        for (json, name, since) in [
            (r#"{"abi": 3, "scope": ["signal"]}"#, "scope signal", 6),
            (r#"{"abi": 3, "connect": []}"#, "port right connect", 4),
            (r#"{"abi": 3, "bind": [1]}"#, "port right bind", 4),
            (r#"{"abi": 9, "bind_udp": []}"#, "port right bind_udp", 10),
            (r#"{"abi": 6, "log": ["new-exec-on"]}"#, "log flag new-exec-on", 7),
            (r#"{"abi": 4, "rules": [{"slot": 3, "access": ["read", "ioctl"]}]}"#, "ioctl-dev", 5),
            (r#"{"abi": 8, "rules": [{"slot": 3, "access": ["unix"]}]}"#, "resolve-unix", 9),
        ] {
            for compat in [Compat::Require, Compat::Prefer] {
                let mut wire = wire(json);
                wire.compat = compat;
                let (reason, detail) = refused(&wire);
                assert_eq!(reason, RefusalReason::PlanInvalid, "{json}");
                let says = format!("{name} came with Landlock ABI {since}");
                assert!(detail.contains(&says), "{detail}");
                assert_eq!(wire.least_abi(), since);
            }
        }
        // A group that grows is never more than the ABI has.
        let grows = wire(r#"{"abi": 3, "rules": [{"slot": 3, "access": ["write"]}]}"#);
        assert!(grows.contradiction().is_none());
        assert_eq!(grows.least_abi(), 3);
    }

    #[test]
    fn everything_of_an_abi_contradicts_nothing_and_is_all_that_it_has() {
        for abi in FLOOR..=NEWEST {
            let wire = Wire::everything(abi);
            assert!(wire.contradiction().is_none());
            assert_eq!(wire.asked(), Features::of(abi));
        }
    }

    #[test]
    fn what_the_kernel_lacks_is_refused_or_told_right_by_right() {
        let Some(running) = running_abi() else { return };
        let all = Wire::everything(NEWEST);
        let lacks: Vec<_> = Features::of(NEWEST).beyond(Features::of(running)).collect();
        if lacks.is_empty() {
            return;
        }
        let (reason, detail) = refused(&all);
        assert_eq!(reason, RefusalReason::MissingPrimitive);
        let target = Target::default();
        let mut launch = Lowering::new(&target, &[]);
        restrict(&Wire { compat: Compat::Prefer, ..all }, &mut launch).unwrap();
        let remarks = launch.finish(vec![]).remarks;
        let told = remarks.iter().filter(|(remark, ..)| *remark == Remark::Missing);
        let told: Vec<_> = told.map(|(_, _, text)| text.to_string()).collect();
        let expected = lacks.iter().map(|it| {
            let (name, since) = (it.name, it.since);
            format!("{name}: needs ABI {since}, and this kernel has ABI {running}")
        });
        let expected: Vec<_> = expected.collect();
        assert_eq!(told, expected);
        assert!(expected.iter().all(|text| detail.contains(text)), "{detail}");
    }

    #[test]
    fn parameters_are_written_as_they_are_read_and_what_is_unset_is_absent() {
        let all = r#"{"abi":10,"rules":[{"slot":3,"access":["read","make-dir"]}],"scope":["signal"],"connect":[443],"bind":[],"connect_udp":[53],"bind_udp":[0],"log":["same-exec-off"],"compat":"prefer"}"#;
        assert_eq!(serde_json::to_string(&wire(all)).unwrap(), all);
        let least = r#"{"abi":3}"#;
        assert_eq!(serde_json::to_string(&wire(least)).unwrap(), least);
        assert!(wire(least).connect.is_none(), "absent, all ports are allowed");
    }
}
