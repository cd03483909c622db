#![doc = include_str!("landlock.md")]

use portcullis_core::descriptor::DescriptorRole;
use portcullis_core::mechanism::{
    Declaration, Demonstration, Host, Mechanism, OpenError, Opening, Phase, Policy, Repeat, Stop,
    Support,
};
use portcullis_core::state::RefusalReason;
use portcullis_core::{Lowering, OsText, Params};
use serde::{Deserialize, Serialize};

use crate::open_path::open_path;

mod residual;
mod rights;
mod ruleset;
mod running;

use residual::residual;
pub use rights::{Access, LogFlag, SCOPES, Scope};
use rights::{Features, Known};
use ruleset::{Rule, Wire, restrict};
use running::Running;
pub use running::running_abi;

/// The lowering id.
pub const ID: &str = "linux.landlock.apply.v1";
/// The oldest ABI that is good enough: before it, truncation was not covered.
pub const FLOOR: u8 = 3;
/// The newest ABI whose rights are known here.
pub const NEWEST: u8 = landlock::ABI::V10 as u8;
/// The most layers that a process can be in: `LANDLOCK_MAX_NUM_LAYERS` of the kernel.
pub const MOST_LAYERS: usize = 16;

static DECLARATION: Declaration = Declaration {
    id: ID,
    version: 1,
    phase: Phase::Policy,
    rank: 0,
    rank_reason: "before seccomp, whose filter may deny Landlock's own calls",
    repeat: Repeat::Layers,
    requires: &[],
    conflicts: &[],
    summary: "denies every file-system access that no rule grants, and TCP, UDP, signals and \
              abstract Unix sockets where asked to",
    kernel_floor: "6.2 (ABI 3)",
    params: "{abi: 3..10, ? rules: [* {slot: uint, access: [+ \"read\" / \"exec\" / \"write\" / \
             \"create\" / \"remove\" / \"modify\" / \"ioctl\" / \"unix\" / \"read-file\" / \
             \"read-dir\" / \"execute\" / \"write-file\" / \"make-dir\" / \"make-reg\" / \
             \"make-sym\" / \"make-fifo\" / \"make-sock\" / \"make-char\" / \"make-block\" / \
             \"remove-dir\" / \"remove-file\" / \"refer\" / \"truncate\" / \"ioctl-dev\" / \
             \"resolve-unix\"]}], ? scope: [* \"signal\" / \"abstract-unix-socket\"], \
             ? connect: [* 0..65535], ? bind: [* 0..65535], ? connect_udp: [* 0..65535], \
             ? bind_udp: [* 0..65535], ? log: [* \"same-exec-off\" / \"new-exec-on\" / \
             \"subdomains-off\"], ? compat: \"require\" / \"prefer\"}",
    example: r#"{"abi": 6, "read": ["/usr"], "exec": ["/usr"], "write": ["/tmp"], "paths": [{"path": "/dev", "access": ["read", "write-file", "ioctl"]}], "scope": ["signal", "abstract-unix-socket"], "connect": [443], "bind": []}"#,
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
    /// The ABI whose file-system rights are handled, all of them, and of which everything that is named
    /// must be.
    #[serde(default = "floor")]
    pub abi: u8,
    /// Files and hierarchies that may be read: `ReadFile` and `ReadDir`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read: Vec<OsText>,
    /// Files and hierarchies that programs may be executed from: `Execute`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exec: Vec<OsText>,
    /// Files and hierarchies in which everything is allowed that the ABI has a right for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub write: Vec<OsText>,
    /// Files and hierarchies, each with the rights that it is granted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathGrant>,
    /// What is confined to the workload and its descendants.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scope: Vec<Scope>,
    /// The TCP ports that may be connected to. Absent, all may; empty, none may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<Vec<u16>>,
    /// The TCP ports that may be bound to; 0 stands for those that the kernel chooses. Absent, all may;
    /// empty, none may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<Vec<u16>>,
    /// The UDP ports that may be connected and sent to. Absent, all may; empty, none may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_udp: Option<Vec<u16>>,
    /// The UDP ports that may be bound to; 0 stands for those that the kernel chooses, also for a socket
    /// that sends without having been bound. Absent, all may; empty, none may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind_udp: Option<Vec<u16>>,
    /// What the kernel's audit log says of denials.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<LogFlag>,
    /// What becomes of what this kernel lacks.
    #[serde(default, skip_serializing_if = "Compat::is_require")]
    pub compat: Compat,
}

/// A file or a hierarchy, and what is granted there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathGrant {
    /// The file, or the directory that the hierarchy is below.
    pub path: OsText,
    /// The rights. For a file, those that a file can have.
    pub access: Vec<Access>,
}

/// What becomes of what is asked for and this kernel lacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compat {
    /// The launch is refused.
    #[default]
    Require,
    /// It is left out, and the report says so, right by right. The floor stays required.
    Prefer,
}

impl Compat {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "what serde's skip_serializing_if takes")]
    fn is_require(&self) -> bool {
        *self == Self::Require
    }
}

impl Policy for Landlock {
    const ID: &'static str = ID;
}

impl Default for Landlock {
    fn default() -> Self {
        Self {
            abi: FLOOR,
            read: vec![],
            exec: vec![],
            write: vec![],
            paths: vec![],
            scope: vec![],
            connect: None,
            bind: None,
            connect_udp: None,
            bind_udp: None,
            log: vec![],
            compat: Compat::Require,
        }
    }
}

fn floor() -> u8 {
    FLOOR
}

impl Landlock {
    /// The oldest ABI that has everything that this policy names: what `abi` must be at the least. It is
    /// never below the [`FLOOR`].
    ///
    /// ```
    /// use portcullis_mechanisms::landlock::Landlock;
    ///
    /// let mut policy = Landlock { connect: Some(vec![443]), ..Landlock::default() };
    /// policy.abi = policy.abi.max(policy.least_abi());
    /// assert_eq!(policy.abi, 4);
    /// ```
    pub fn least_abi(&self) -> u8 {
        let rules = self.paths.iter().map(|it| Rule { slot: 0, access: it.access.clone() });
        self.wire(rules.collect()).least_abi()
    }

    fn wire(&self, rules: Vec<Rule>) -> Wire {
        Wire {
            abi: self.abi,
            rules,
            scope: self.scope.clone(),
            connect: self.connect.clone(),
            bind: self.bind.clone(),
            connect_udp: self.connect_udp.clone(),
            bind_udp: self.bind_udp.clone(),
            log: self.log.clone(),
            compat: self.compat,
        }
    }

    /// A path that is named for several purposes is one slot and one rule.
    fn grants(&self) -> Vec<(&OsText, Vec<Access>)> {
        let mut grants: Vec<(&OsText, Vec<Access>)> = Vec::new();
        let read = self.read.iter().map(|path| (path, &[Access::Read][..]));
        let exec = self.exec.iter().map(|path| (path, &[Access::Exec][..]));
        let all = &[Access::Read, Access::Exec, Access::Write][..];
        let write = self.write.iter().map(|path| (path, all));
        let paths = self.paths.iter().map(|it| (&it.path, &it.access[..]));
        for (path, access) in read.chain(exec).chain(write).chain(paths) {
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
        grants
    }
}

struct Apply;

portcullis_core::register!(Apply);

impl Mechanism for Apply {
    fn declaration(&self) -> &'static Declaration {
        &DECLARATION
    }

    fn open(&self, policy: &Params, opening: &mut Opening) -> Result<Params, OpenError> {
        let policy: Landlock = policy.parse()?;
        if let Some(grant) = policy.paths.iter().find(|it| it.access.is_empty()) {
            return Err(OpenError::Unusable(format!("{:?} is granted no access", grant.path)));
        }
        let mut rules = Vec::new();
        for (path, access) in policy.grants() {
            let (fd, kind) = open_path("root", path)?;
            let role = if access.iter().any(|it| it.writes()) {
                DescriptorRole::WriteRoot
            } else {
                DescriptorRole::ReadRoot
            };
            let slot = opening.declare(fd, role, kind, false);
            rules.push(Rule { slot, access });
        }
        let wire = policy.wire(rules);
        if let Some(Known { name, since, .. }) = wire.contradiction() {
            let (asked, least) = (wire.abi, wire.least_abi());
            return Err(OpenError::Unusable(format!(
                "{name} came with Landlock ABI {since}, and the policy's is {asked}; \"abi\": {least} \
                 has all that it names"
            )));
        }
        Ok(Params::of(&wire)?)
    }

    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        let wire: Wire = params.parse()?;
        if wire.rules.is_empty() {
            let detail = "no rule grants anything, so the workload itself could not be executed";
            return Err(Stop::refuse(RefusalReason::HandleMismatch, detail));
        }
        let layers = launch.times_scheduled(ID);
        if layers > MOST_LAYERS {
            let detail =
                format!("{layers} layers are scheduled, and the kernel stacks {MOST_LAYERS}");
            return Err(Stop::refuse(RefusalReason::PlanInvalid, detail));
        }
        restrict(&wire, launch)?;
        // A ruleset is copied into the domain of each process that restricts itself with it.
        launch.reusable();
        Ok(())
    }

    fn probe(&self, host: &dyn Host) -> Support {
        let running = Running::get();
        let abi = match running.abi() {
            Ok(abi) => abi,
            Err(why) => return Support::no(why),
        };
        let everything = Wire::everything(abi);
        match host.rehearse(&mut |launch| restrict(&everything, launch)) {
            Ok(()) => Support::Yes {
                detail: running.detail(abi),
                residual: residual(Features::of(abi)).collect(),
            },
            Err(stop) => Support::no(stop.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use portcullis_core::descriptor::DescriptorKind;
    use portcullis_core::plan::Target;

    use super::rights::tests::names_of;
    use super::*;

    fn open(policy: &str) -> Result<(Wire, Vec<DescriptorRole>), OpenError> {
        let policy: serde_json::Value = serde_json::from_str(policy).unwrap();
        let mut opening = Opening::new(Target::default());
        let params = Apply.open(&Params::of(&policy)?, &mut opening)?;
        let (_, slots) = opening.finish();
        Ok((params.parse()?, slots.into_iter().map(|(slot, _)| slot.role).collect()))
    }

    fn unusable(policy: &str) -> String {
        open(policy).unwrap_err().to_string()
    }

    #[test]
    fn what_grants_nothing_or_names_no_slot_is_refused() {
        let refused = |wire: &Wire| {
            let target = Target::default();
            let params = Params::of(wire).unwrap();
            match Apply.lower(&params, &mut Lowering::new(&target, &[])) {
                Err(Stop::Refused(refusal)) => refusal.reason,
                other => panic!("{other:?}"),
            }
        };
        let mut wire = Wire { abi: FLOOR, ..Wire::default() };
        assert_eq!(refused(&wire), RefusalReason::HandleMismatch);
        wire.rules = vec![Rule { slot: 20, access: vec![Access::Read] }];
        if running_abi().is_some() {
            assert_eq!(refused(&wire), RefusalReason::PlanInvalid);
        }
    }

    #[test]
    fn a_path_for_several_purposes_is_one_slot_and_a_file_is_a_root_too() {
        let policy = Landlock {
            read: vec!["/usr".into(), "/etc/passwd".into()],
            exec: vec!["/usr".into()],
            paths: vec![PathGrant {
                path: "/usr".into(),
                access: vec![Access::Read, Access::Refer],
            }],
            ..Landlock::default()
        };
        let mut opening = Opening::new(Target::default());
        let params = Apply.open(&Params::of(&policy).unwrap(), &mut opening).unwrap();
        let wire: Wire = params.parse().unwrap();
        assert_eq!(wire.rules.len(), 2);
        assert_eq!(wire.rules[0].access, [Access::Read, Access::Exec, Access::Refer]);
        let (_, slots) = opening.finish();
        assert_eq!(slots[1].0.expected.kind, DescriptorKind::Regular);
    }

    #[test]
    fn a_place_is_one_to_write_to_where_any_right_writes() {
        for (access, role) in [
            (r#"["read-file", "read-dir", "execute"]"#, DescriptorRole::ReadRoot),
            (r#"["read", "truncate"]"#, DescriptorRole::WriteRoot),
            (r#"["make-sock"]"#, DescriptorRole::WriteRoot),
        ] {
            let policy = format!(r#"{{"paths": [{{"path": "/", "access": {access}}}]}}"#);
            assert_eq!(open(&policy).unwrap().1, [role], "{access}");
        }
    }

    #[test]
    fn a_root_that_is_missing_is_told_by_its_path() {
        let error = unusable(r#"{"read": ["/no/such/root"]}"#);
        assert!(error.contains("/no/such/root"), "{error}");
    }

    #[test]
    fn a_name_that_is_unknown_is_told_with_those_that_are_known() {
        let of = |field: &str| unusable(&format!("{{{field}}}"));
        let access = of(r#""paths": [{"path": "/", "access": ["make-coffee"]}]"#);
        let known = names_of::<Access>();
        assert_eq!(known.len(), 25);
        for name in known.iter().map(String::as_str).chain(["make-coffee"]) {
            assert!(access.contains(name), "{access}");
        }
        let log = of(r#""log": ["all-off"]"#);
        assert!(log.contains("all-off") && log.contains("subdomains-off"), "{log}");
        let scope = of(r#""scope": ["pipe"]"#);
        assert!(scope.contains("pipe") && scope.contains("abstract-unix-socket"), "{scope}");
        let compat = of(r#""compat": "perhaps""#);
        assert!(compat.contains("perhaps") && compat.contains("prefer"), "{compat}");
        assert!(of(r#""listen": []"#).contains("connect"), "{}", of(r#""listen": []"#));
        for port in ["65536", "-1", "\"https\""] {
            let error = of(&format!(r#""connect": [{port}]"#));
            assert!(!error.is_empty(), "{port}");
        }
    }

    #[test]
    fn a_policy_that_contradicts_itself_is_told_what_would_help() {
        let error =
            unusable(r#"{"abi": 3, "read": ["/"], "connect": [1], "log": ["new-exec-on"]}"#);
        assert!(error.contains("port right connect") && error.contains("\"abi\": 7"), "{error}");
        let error = unusable(r#"{"abi": 4, "paths": [{"path": "/", "access": ["ioctl"]}]}"#);
        assert!(error.contains("ioctl-dev came with Landlock ABI 5"), "{error}");
        let error = unusable(r#"{"paths": [{"path": "/", "access": []}]}"#);
        assert!(error.contains("no access"), "{error}");
    }

    #[test]
    fn a_policy_is_written_as_it_is_read_and_what_is_unset_is_absent() {
        let text = r#"{"abi":10,"read":["/a"],"exec":["/b"],"write":["/c"],"paths":[{"path":"/d","access":["modify"]}],"scope":["signal"],"connect":[443],"bind":[],"connect_udp":[53],"bind_udp":[0],"log":["subdomains-off"],"compat":"prefer"}"#;
        let policy: Landlock = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&policy).unwrap(), text);
        assert_eq!(serde_json::to_string(&Landlock::default()).unwrap(), r#"{"abi":3}"#);
        let read: Landlock = serde_json::from_str("{}").unwrap();
        assert_eq!(read, Landlock::default());
    }
}
