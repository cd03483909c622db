#![doc = include_str!("landlock.md")]

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, Scope as KernelScope,
};
use portcullis_core::descriptor::{DescriptorKind, DescriptorRole};
use portcullis_core::mechanism::{
    Declaration, Demonstration, Host, Mechanism, OpenError, Opening, Phase, Policy, Repeat, Stop,
    Support,
};
use portcullis_core::program::Op;
use portcullis_core::state::RefusalReason;
use portcullis_core::{Lowering, OsText, Params};
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;

use crate::open_path::open_path;

/// The lowering id.
pub const ID: &str = "linux.landlock.apply.v1";
/// The oldest ABI that is good enough: before it, truncation was not covered.
pub const FLOOR: u8 = 3;
/// The newest ABI whose file-system rights are known here.
pub const NEWEST: u8 = 10;
/// The ABI that scopes came with.
pub const SCOPES: u8 = 6;

static DECLARATION: Declaration = Declaration {
    id: ID,
    version: 1,
    phase: Phase::Policy,
    rank: 0,
    rank_reason: "before seccomp, whose filter may deny Landlock's own calls",
    repeat: Repeat::Layers,
    requires: &[],
    conflicts: &[],
    summary: "denies every file-system access that no rule grants",
    kernel_floor: "6.2 (ABI 3)",
    params: "{abi: 3..10, ? rules: [* {slot: uint, access: [+ \"read\" / \"exec\" / \"write\"]}], \
             ? scope: [* \"signal\" / \"abstract-unix-socket\"]}",
    example: r#"{"abi": 3, "read": ["/usr"], "exec": ["/usr"], "write": ["/tmp"]}"#,
    guide: include_str!("landlock.md"),
    demonstration: Demonstration {
        policy: r#"{"abi": 3, "read": ["/"], "exec": ["/"]}"#,
        with: &[],
        script: "echo 43 2>/dev/null >@folder/file && echo written || echo denied",
        shows: "denied",
    },
};

/// What a policy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Landlock {
    /// The ABI whose file-system rights are handled, and whose scopes may be asked for.
    #[serde(default = "floor")]
    pub abi: u8,
    /// Files and hierarchies that may be read: `ReadFile` and `ReadDir`.
    #[serde(default)]
    pub read: Vec<OsText>,
    /// Files and hierarchies that programs may be executed from: `Execute`.
    #[serde(default)]
    pub exec: Vec<OsText>,
    /// Files and hierarchies in which everything is allowed that the ABI has a right for.
    #[serde(default)]
    pub write: Vec<OsText>,
    /// What is confined to the workload and its descendants.
    #[serde(default)]
    pub scope: Vec<Scope>,
}

impl Policy for Landlock {
    const ID: &'static str = ID;
}

impl Default for Landlock {
    fn default() -> Self {
        Self { abi: FLOOR, read: vec![], exec: vec![], write: vec![], scope: vec![] }
    }
}

fn floor() -> u8 {
    FLOOR
}

/// What can be confined to the workload and its descendants, from ABI 6 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Signals reach no process outside.
    Signal,
    /// Abstract Unix sockets of processes outside can't be connected to.
    AbstractUnixSocket,
}

/// A group of file-system rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Access {
    Read,
    Exec,
    Write,
}

impl Access {
    fn rights(self, abi: ABI) -> BitFlags<AccessFs> {
        match self {
            Self::Read => AccessFs::ReadFile | AccessFs::ReadDir,
            Self::Exec => AccessFs::Execute.into(),
            Self::Write => AccessFs::from_write(abi),
        }
    }
}

/// What a plan carries.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    abi: u8,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rules: Vec<Rule>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    scope: Vec<Scope>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    slot: u32,
    access: Vec<Access>,
}

struct Apply;

portcullis_core::register!(Apply);

impl Mechanism for Apply {
    fn declaration(&self) -> &'static Declaration {
        &DECLARATION
    }

    fn open(&self, policy: &Params, opening: &mut Opening) -> Result<Params, OpenError> {
        let policy: Landlock = policy.parse()?;
        // A path that is named for several purposes is one slot and one rule.
        let mut grants: Vec<(&OsText, Vec<Access>)> = Vec::new();
        let read = policy.read.iter().map(|path| (path, &[Access::Read][..]));
        let exec = policy.exec.iter().map(|path| (path, &[Access::Exec][..]));
        let all = &[Access::Read, Access::Exec, Access::Write][..];
        let write = policy.write.iter().map(|path| (path, all));
        for (path, access) in read.chain(exec).chain(write) {
            match grants.iter_mut().find(|(known, _)| *known == path) {
                Some((_, known)) => {
                    for it in access {
                        if !known.contains(it) {
                            known.push(*it);
                        }
                    }
                }
                None => grants.push((path, access.to_vec())),
            }
        }
        let mut rules = Vec::with_capacity(grants.len());
        for (path, access) in grants {
            let (fd, kind) = open_path("root", path)?;
            let role = if access.contains(&Access::Write) {
                DescriptorRole::WriteRoot
            } else {
                DescriptorRole::ReadRoot
            };
            let slot = opening.declare(fd, role, kind, false);
            rules.push(Rule { slot, access });
        }
        Ok(Params::of(&Wire { abi: policy.abi, rules, scope: policy.scope })?)
    }

    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        let wire: Wire = params.parse()?;
        if wire.rules.is_empty() {
            let detail = "no rule grants anything, so the workload itself could not be executed";
            return Err(Stop::refuse(RefusalReason::HandleMismatch, detail));
        }
        restrict(&wire, launch)
    }

    fn probe(&self, host: &dyn Host) -> Support {
        let Some(abi) = running_abi() else {
            return Support::no(
                "Landlock is not in this kernel or not enabled; it comes with Linux 6.2 as ABI 3, built \
                 with CONFIG_SECURITY_LANDLOCK and named in the boot parameter lsm=",
            );
        };
        let wire = Wire { abi, rules: vec![], scope: vec![] };
        let attempt = host.rehearse(&mut |launch| restrict(&wire, launch));
        Support::of(attempt, &format!("ABI {abi} or newer"), "")
    }
}

/// The newest ABI, of those that bring something that is used here, that the running kernel has.
///
/// ```
/// use portcullis_mechanisms::landlock::{FLOOR, running_abi};
///
/// assert!(running_abi().is_none_or(|abi| abi >= FLOOR));
/// ```
pub fn running_abi() -> Option<u8> {
    (FLOOR..=NEWEST).rev().find(|&abi| {
        let version = ABI::from(i32::from(abi));
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let ruleset = ruleset.handle_access(AccessFs::from_all(version));
        // An ABI that brings no right of its own is indistinguishable from the one before it.
        let adds_rights = AccessFs::from_all(version)
            != AccessFs::from_all(ABI::from(i32::from(abi) - 1))
            || abi == SCOPES;
        match ruleset {
            Ok(ruleset) if abi >= SCOPES => {
                adds_rights && ruleset.scope(KernelScope::from_all(version)).is_ok()
            }
            Ok(_) => adds_rights,
            Err(_) => false,
        }
    })
}

fn restrict(wire: &Wire, launch: &mut Lowering<'_>) -> Result<(), Stop> {
    let fd = launch.keep(ruleset(wire, launch)?);
    launch.push_once(Op::no_new_privs());
    launch.push(Op::landlock_restrict_self(fd, 0));
    Ok(())
}

fn ruleset(wire: &Wire, launch: &Lowering<'_>) -> Result<OwnedFd, Stop> {
    if !(FLOOR..=NEWEST).contains(&wire.abi) {
        let detail =
            format!("Landlock ABI {} is asked for, and {FLOOR} to {NEWEST} are known", wire.abi);
        return Err(Stop::refuse(RefusalReason::MissingPrimitive, detail));
    }
    let abi = ABI::from(i32::from(wire.abi));
    let missing = |error: RulesetError| {
        let asked = wire.abi;
        let detail = format!(
            "Landlock at ABI {asked} is asked for, and this kernel can't: {}; a newer kernel, or a \
             plan of an older ABI, would help",
            with_sources(&error)
        );
        Stop::refuse(RefusalReason::MissingPrimitive, detail)
    };
    let hard = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let mut ruleset = hard.handle_access(AccessFs::from_all(abi)).map_err(missing)?;
    if !wire.scope.is_empty() {
        if wire.abi < SCOPES {
            let detail =
                format!("scopes are of Landlock ABI {SCOPES}, and the plan's is {}", wire.abi);
            return Err(Stop::refuse(RefusalReason::PlanInvalid, detail));
        }
        let scope = |scope: &Scope| match scope {
            Scope::Signal => KernelScope::Signal,
            Scope::AbstractUnixSocket => KernelScope::AbstractUnixSocket,
        };
        let scopes: BitFlags<KernelScope> = wire.scope.iter().map(scope).collect();
        ruleset = ruleset.scope(scopes).map_err(missing)?;
    }
    let mut created = ruleset.create().map_err(missing)?;
    for rule in &wire.rules {
        created = created.add_rule(beneath(rule, abi, launch)?).map_err(|error| {
            let detail = format!("slot {}, {:?}: {}", rule.slot, rule.access, with_sources(&error));
            Stop::refuse(RefusalReason::HandleMismatch, detail)
        })?;
    }
    // None stands for a ruleset that the kernel never saw.
    Option::<OwnedFd>::from(created).ok_or_else(|| {
        Stop::refuse(RefusalReason::MissingPrimitive, "the kernel made no Landlock ruleset")
    })
}

fn beneath<'a>(
    rule: &Rule,
    abi: ABI,
    launch: &Lowering<'a>,
) -> Result<PathBeneath<std::os::fd::BorrowedFd<'a>>, Stop> {
    let open = launch.slot(rule.slot)?;
    let writes = rule.access.contains(&Access::Write);
    let role = open.slot.role;
    let fits = match role {
        DescriptorRole::WriteRoot => true,
        DescriptorRole::ReadRoot => !writes,
        _ => false,
    };
    let rights = rule.access.iter().fold(BitFlags::EMPTY, |all, it| all | it.rights(abi));
    // The kernel rejects a right over directories for a file that is none.
    let rights = match open.slot.expected.kind {
        DescriptorKind::Directory => rights,
        _ => rights & AccessFs::from_file(abi),
    };
    if !fits || rights.is_empty() {
        let detail =
            format!("slot {} is a {role:?}: {:?} can't be granted", rule.slot, rule.access);
        return Err(Stop::refuse(RefusalReason::HandleMismatch, detail));
    }
    Ok(PathBeneath::new(open.fd, rights))
}

fn with_sources(error: &dyn std::error::Error) -> String {
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

    use super::*;

    fn lower(wire: &Wire) -> Result<(), Stop> {
        let target = Target::default();
        let params = Params::of(wire).unwrap();
        Apply.lower(&params, &mut Lowering::new(&target, &[]))
    }

    fn refused(wire: &Wire) -> RefusalReason {
        let Err(Stop::Refused(refusal)) = lower(wire) else { panic!("lowered") };
        refusal.reason
    }

    #[test]
    fn an_abi_out_of_range_is_a_missing_primitive() {
        for abi in [0, 1, 2, NEWEST + 1, 255] {
            let wire = Wire { abi, rules: vec![], scope: vec![] };
            let target = Target::default();
            let Err(Stop::Refused(refusal)) = ruleset(&wire, &Lowering::new(&target, &[])) else {
                panic!("ABI {abi} made a ruleset");
            };
            assert_eq!(refusal.reason, RefusalReason::MissingPrimitive);
        }
    }

    #[test]
    fn what_grants_nothing_or_names_no_slot_is_refused() {
        let mut wire = Wire { abi: FLOOR, rules: vec![], scope: vec![] };
        assert_eq!(refused(&wire), RefusalReason::HandleMismatch);
        wire.rules = vec![Rule { slot: 20, access: vec![Access::Read] }];
        if running_abi().is_some() {
            assert_eq!(refused(&wire), RefusalReason::PlanInvalid);
        }
    }

    #[test]
    fn a_path_for_two_purposes_is_one_slot_and_a_file_is_a_root_too() {
        let policy = Landlock {
            read: vec!["/usr".into(), "/etc/passwd".into()],
            exec: vec!["/usr".into()],
            ..Landlock::default()
        };
        let mut opening = Opening::new(Target::default());
        let params = Apply.open(&Params::of(&policy).unwrap(), &mut opening).unwrap();
        let wire: Wire = params.parse().unwrap();
        assert_eq!(wire.rules.len(), 2);
        assert_eq!(wire.rules[0].access, [Access::Read, Access::Exec]);
        let (_, slots) = opening.finish();
        assert_eq!(slots[1].0.expected.kind, DescriptorKind::Regular);
    }

    #[test]
    fn a_root_that_is_missing_is_told_by_its_path() {
        let policy = Landlock { read: vec!["/no/such/root".into()], ..Landlock::default() };
        let mut opening = Opening::new(Target::default());
        let error = Apply.open(&Params::of(&policy).unwrap(), &mut opening).unwrap_err();
        assert!(error.to_string().contains("/no/such/root"), "{error}");
    }
}
