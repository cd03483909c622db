#![doc = include_str!("seccomp.md")]

mod calls;
mod compile;
mod file;
mod filter;
#[cfg(test)]
mod machine;
mod oci;
mod policy;
mod profiles;
mod seccompiler_json;
mod sets;

use portcullis_core::lowering::NoteTime;
use portcullis_core::mechanism::{
    Declaration, Demonstration, Host, Mechanism, OpenError, Opening, Phase, Repeat, Stop, Support,
};
use portcullis_core::program::Op;
use portcullis_core::state::RefusalReason;
use portcullis_core::{Lowering, Params};
use rustix::rand::{GetRandomFlags, getrandom};

pub use self::policy::{Action, Comparison, Condition, Errno, Rule, Seccomp, Width};
pub use self::profiles::{Profile, profiles};
pub use self::sets::{Set, sets};

use self::filter::{Filter, Rules};
use self::profiles::{TIOCLINUX, TIOCSTI};

/// The lowering id.
pub const ID: &str = "linux.seccomp.apply.v1";

static DECLARATION: Declaration = Declaration {
    id: ID,
    version: 1,
    phase: Phase::Policy,
    rank: 255,
    rank_reason: "last: its filter judges every call after it, other mechanisms' too",
    repeat: Repeat::Layers,
    requires: &[],
    conflicts: &[],
    summary: "decides which system calls are made, and kills foreign architectures",
    kernel_floor: "4.14",
    params: "{? deny: [* tstr], ? deny_new_tasks: bool, ? deny_inet_sockets: bool, \
             ? deny_terminal_injection: bool, \
             ? profile: \"baseline\" / \"compute\" / \"no-metadata\" / \"no-network\", \
             ? default: \"allow\" / {errno: 1..4095 / tstr} / \"kill-process\" / \"trap\" / \"log\", \
             ? rules: [* {calls: [+ tstr], \
             action: \"allow\" / {errno: 1..4095 / tstr} / \"kill-process\" / \"trap\" / \"log\", \
             ? when: [* {arg: 0..5, \
             op: \"eq\" / \"ne\" / \"lt\" / \"le\" / \"gt\" / \"ge\" / \"masked-eq\", \
             value: uint, ? mask: uint, width: 32 / 64}]}], ? log: bool}",
    example: r#"{"profile": "baseline", "rules": [{"calls": ["mkdir"], "action": {"errno": "EROFS"}}]}"#,
    guide: include_str!("seccomp.md"),
    demonstration: Demonstration {
        policy: r#"{"deny": ["mkdir", "mkdirat"]}"#,
        with: &[],
        script: "mkdir @folder/new 2>/dev/null && echo made || echo denied",
        shows: "denied",
    },
};

/// `SECCOMP_FILTER_FLAG_LOG` of `linux/seccomp.h`.
const FILTER_FLAG_LOG: u32 = 1 << 1;

const NEW_TASKS: &[&str] = &["clone", "clone3", "fork", "vfork"];

impl Seccomp {
    /// Whether it says no more than denials can.
    fn is_denylist(&self) -> bool {
        let Self { profile, default, rules, log, .. } = self;
        profile.is_none() && default.is_none() && rules.is_empty() && !log
    }

    /// What it contradicts itself in.
    fn contradiction(&self) -> Option<String> {
        let Self { profile, default, file, .. } = self;
        if profile.is_some() && file.is_some() {
            return Some("a profile and a file are two filters: schedule them as two".into());
        }
        if default.is_some() && (profile.is_some() || file.is_some()) {
            return Some(
                "a profile or a file has a default of its own, and no other is taken".into(),
            );
        }
        let empty = |rule: &Rule| rule.calls.is_empty();
        self.rules.iter().any(empty).then(|| "a rule is for no call".into())
    }

    /// What it means. `own_exec` is what tells the launch's own exec from others.
    fn filter<'a>(&'a self, own_exec: &'a [Condition]) -> Result<Filter<'a>, String> {
        let mut rules = Rules::new(self.default.unwrap_or(Action::Allow));
        if self.deny_new_tasks {
            rules.add_from_table(NEW_TASKS, &[], Action::EPERM);
        }
        if self.deny_inet_sockets {
            rules.add_from_table(&["socket"], &[], Action::EPERM);
        }
        if !self.deny.is_empty() {
            rules.add(&self.deny, &[], Action::EPERM)?;
        }
        if self.deny_terminal_injection {
            rules.add_from_table(&["ioctl"], TIOCSTI, Action::EPERM);
            rules.add_from_table(&["ioctl"], TIOCLINUX, Action::EPERM);
        }
        for Rule { calls, action, when } in &self.rules {
            rules.add(calls, when, *action)?;
        }
        if let Some(profile) = self.profile {
            if !own_exec.is_empty() {
                rules.add_from_table(&["execveat"], own_exec, Action::Allow);
            }
            profile.add_to(&mut rules);
        }
        let filter = rules.finish();
        if filter.allows_everything() {
            return Err(format!("{ID} is scheduled, and it denies nothing"));
        }
        Ok(filter)
    }
}

struct Apply;

portcullis_core::register!(Apply);

impl Mechanism for Apply {
    fn declaration(&self) -> &'static Declaration {
        &DECLARATION
    }

    fn open(&self, policy: &Params, _: &mut Opening) -> Result<Params, OpenError> {
        let mut policy: Seccomp = policy.parse()?;
        if let Some(what) = policy.contradiction() {
            return Err(OpenError::Unusable(what));
        }
        if let Some(path) = policy.file.take() {
            let read = file::read(&path)?;
            policy.default = Some(read.default);
            policy.rules.extend(read.rules);
            policy.log |= read.log;
        }
        let filter = policy.filter(&[]).map_err(OpenError::Unusable)?;
        compile::compile(&filter).map_err(OpenError::Unusable)?;
        Ok(Params::of(&policy)?)
    }

    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        let missing = |why: String| Stop::refuse(RefusalReason::MissingPrimitive, why);
        let invalid = |why: String| Stop::refuse(RefusalReason::PlanInvalid, why);
        let wire: Seccomp = params.parse()?;
        if wire.file.is_some() {
            return Err(invalid("a plan carries what is in a file, and not its path".into()));
        }
        if let Some(what) = wire.contradiction() {
            return Err(invalid(what));
        }
        let nonce = match wire.profile {
            Some(Profile::Compute) => Some(launch.exec_nonce(nonce)?),
            _ => None,
        };
        let own_exec = nonce.map(|nonce| profiles::own_exec(launch.target(), nonce));
        let own_exec = own_exec.as_ref().map_or(&[][..], |it| it);
        let filter = wire.filter(own_exec).map_err(missing)?;
        own_calls_pass(&filter, launch, nonce).map_err(invalid)?;
        let program = compile::compile(&filter).map_err(missing)?;
        let flags = if wire.log { FILTER_FLAG_LOG } else { 0 };
        launch.push_once(Op::no_new_privs());
        launch.push(Op::seccomp_set_filter(program, flags));
        if wire.is_denylist() {
            launch.note(NoteTime::Created, "seccomp=denylist_installed mode=filter");
        } else {
            let default = filter.default;
            let note = format!("seccomp=filter_installed default={default} mode=filter");
            launch.note(NoteTime::Created, note);
        }
        if nonce.is_none() {
            launch.reusable();
        }
        Ok(())
    }

    fn probe(&self, host: &dyn Host) -> Support {
        let policy = Seccomp { deny: vec!["ptrace".into()], ..Seccomp::default() };
        let attempt = Params::of(&policy)
            .map_err(Stop::from)
            .and_then(|params| host.rehearse(&mut |launch| self.lower(&params, launch)));
        Support::of(attempt, "filters", "")
    }
}

fn nonce() -> Result<u64, Stop> {
    let mut bytes = [0u8; 8];
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(8) => Ok(u64::from_ne_bytes(bytes)),
        Ok(_) => Err(Stop::fault("getrandom: it brought less than 8 bytes")),
        Err(errno) => Err(Stop::fault(format!("getrandom: {errno}"))),
    }
}

/// Checks that the filter lets pass what the child itself calls after it is installed: the filters that
/// come after it, the exec, and what tells of a failure.
fn own_calls_pass(
    filter: &Filter<'_>,
    launch: &Lowering<'_>,
    nonce: Option<u64>,
) -> Result<(), String> {
    let set_mode = Some(libc::SECCOMP_SET_MODE_FILTER.into());
    let fd = Some(launch.target().exe_slot.into());
    let flags = Some(libc::AT_EMPTY_PATH.unsigned_abs().into());
    let mut own = vec![
        ("execveat", libc::SYS_execveat, [fd, None, None, None, flags, nonce]),
        ("exit_group", libc::SYS_exit_group, [None; 6]),
        ("write", libc::SYS_write, [None; 6]),
    ];
    if launch.schedules_later(ID) {
        own.push(("seccomp", libc::SYS_seccomp, [set_mode, None, None, None, None, None]));
    }
    for (name, number, arguments) in own {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        if let Some(action) = filter.may_stop(number, &arguments) {
            return Err(format!(
                "{name} may be answered {action}, and the launch itself makes that call after the filter \
                 is installed; allow it for as much as the launch needs"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use portcullis_core::plan::Target;
    use portcullis_core::program::{Arg, BpfInstruction};
    use serde_json::{Value, json};

    use super::machine::{Call, I386, decide};
    use super::*;

    const ALLOW: u32 = 0x7fff_0000;
    const DENY: u32 = 0x0005_0001;
    const KILL: u32 = 0x8000_0000;

    fn compiled(policy: &Seccomp) -> Vec<BpfInstruction> {
        compile::compile(&policy.filter(&[]).unwrap()).unwrap()
    }

    fn number(name: &str) -> u32 {
        calls::number(name).unwrap()
    }

    fn lower(policy: &Value) -> Result<Vec<BpfInstruction>, Stop> {
        let target = Target { exe_slot: 7, ..Target::default() };
        let mut launch = Lowering::new(&target, &[]);
        Apply.lower(&Params::of(policy).unwrap(), &mut launch)?;
        let lowered = launch.finish(vec![]);
        let (_, op) = lowered.program.ops().last().unwrap();
        let Some(Arg::Filter(filter)) = op.args().last() else { panic!("{op}") };
        Ok(filter.to_vec())
    }

    fn refused(policy: &Value, reason: RefusalReason, part: &str) {
        let Err(Stop::Refused(refusal)) = lower(policy) else { panic!("{policy} lowered") };
        assert_eq!(refusal.reason, reason, "{policy}");
        assert!(refusal.detail.contains(part), "{policy}: {}", refusal.detail);
    }

    #[test]
    fn typing_into_a_terminal_is_denied_whatever_is_in_the_high_bits() {
        let filter = compiled(&Seccomp { deny_terminal_injection: true, ..Seccomp::default() });
        let ioctl = number("ioctl");
        for high in [0, 1, 0x8000_0000, 0xffff_ffff] {
            for (request, expected) in
                [(0x5412, DENY), (0x541c, DENY), (0x5413, ALLOW), (0x5411, ALLOW), (0, ALLOW)]
            {
                let arguments = [u64::MAX, high << 32 | request, u64::MAX, 0, 0, 0];
                let call = Call::of(ioctl, arguments);
                assert_eq!(decide(&filter, &call), expected, "{high:#x} {request:#x}");
                assert_eq!(decide(&filter, &Call { number: ioctl + 1, ..call }), ALLOW);
                assert_eq!(decide(&filter, &Call { architecture: I386, ..call }), KILL);
            }
        }
    }

    #[test]
    fn each_number_of_each_architecture_is_decided_as_the_denials_mean() {
        let filter = compiled(&Seccomp {
            deny: vec!["ptrace".into(), "io_uring_setup".into()],
            deny_new_tasks: true,
            deny_inet_sockets: true,
            ..Seccomp::default()
        });
        let names = ["ptrace", "io_uring_setup", "clone", "clone3", "fork", "vfork", "socket"];
        let denied: Vec<_> = names.iter().filter_map(|name| calls::number(name)).collect();
        for number in 0..1000 {
            let expected = if denied.contains(&number) { DENY } else { ALLOW };
            for argument in [0, 1, u64::MAX] {
                let call = Call::of(number, [argument; 6]);
                assert_eq!(decide(&filter, &call), expected, "{number}");
                assert_eq!(decide(&filter, &Call { architecture: I386, ..call }), KILL, "{number}");
                if cfg!(target_arch = "x86_64") {
                    let x32 = Call { number: number | 0x4000_0000, ..call };
                    assert_eq!(decide(&filter, &x32), KILL, "x32 {number}");
                }
            }
        }
    }

    #[test]
    fn what_is_denied_comes_before_the_rules_and_they_before_the_profile() {
        let filter = lower(&json!({
            "deny": ["uname"],
            "rules": [{"calls": ["uname", "ptrace", "mount"], "action": "allow"}],
            "profile": "baseline",
        }));
        let filter = filter.unwrap();
        for (name, expected) in
            [("uname", DENY), ("ptrace", ALLOW), ("mount", ALLOW), ("setns", DENY)]
        {
            assert_eq!(decide(&filter, &Call::of(number(name), [0; 6])), expected, "{name}");
        }
    }

    #[test]
    fn a_filter_that_would_stop_the_launch_itself_is_an_invalid_plan() {
        for name in ["execveat", "exit_group", "write"] {
            refused(&json!({"deny": [name]}), RefusalReason::PlanInvalid, name);
            for action in ["kill-process", "trap"] {
                let rules = json!({"rules": [{"calls": [name], "action": action}]});
                refused(&rules, RefusalReason::PlanInvalid, name);
            }
            let others = ["execveat", "exit_group", "write"].into_iter().filter(|it| *it != name);
            let calls: Vec<_> = others.collect();
            let rules =
                json!({"default": {"errno": 1}, "rules": [{"calls": calls, "action": "allow"}]});
            refused(&rules, RefusalReason::PlanInvalid, name);
        }
        // By its arguments: the exec of the launch is that of fd 7.
        let execveat = |fd: u32| {
            json!({"rules": [{"calls": ["execveat"], "action": "trap", "when": [
                {"arg": 0, "op": "eq", "value": fd, "width": 32},
            ]}]})
        };
        refused(&execveat(7), RefusalReason::PlanInvalid, "execveat");
        assert!(lower(&execveat(8)).is_ok());
        let path = json!({"rules": [{"calls": ["execveat"], "action": "trap", "when": [
            {"arg": 1, "op": "eq", "value": 0, "width": 64},
        ]}]});
        refused(&path, RefusalReason::PlanInvalid, "execveat");
        assert!(lower(&json!({"default": "log"})).is_ok());
    }

    #[test]
    fn a_request_that_denies_nothing_or_names_no_call_is_a_missing_primitive() {
        for (policy, part) in [
            (json!({}), "denies nothing"),
            (json!({"rules": [{"calls": ["read"], "action": "allow"}]}), "denies nothing"),
            (json!({"deny": ["no_such_call"]}), "no_such_call"),
            (json!({"deny": ["@no-such-set"]}), "@no-such-set"),
            (json!({"rules": [{"calls": ["no_such_call"], "action": "trap"}]}), "no_such_call"),
        ] {
            refused(&policy, RefusalReason::MissingPrimitive, part);
            assert!(Apply.open(&Params::of(&policy).unwrap(), &mut Opening::default()).is_err());
        }
    }

    #[test]
    fn what_contradicts_itself_is_an_invalid_plan_and_no_policy() {
        for (policy, part) in [
            (json!({"profile": "baseline", "default": "allow"}), "default of its own"),
            (json!({"rules": [{"calls": [], "action": "trap"}], "deny": ["mount"]}), "for no call"),
            (json!({"profile": "strictest"}), "strictest"),
        ] {
            refused(&policy, RefusalReason::PlanInvalid, part);
            let error = Apply.open(&Params::of(&policy).unwrap(), &mut Opening::default());
            assert!(error.unwrap_err().to_string().contains(part), "{policy}");
        }
        refused(&json!({"file": "/x"}), RefusalReason::PlanInvalid, "and not its path");
        for policy in [
            json!({"file": "/x", "default": "allow"}),
            json!({"file": "/x", "profile": "baseline"}),
        ] {
            assert!(Apply.open(&Params::of(&policy).unwrap(), &mut Opening::default()).is_err());
        }
    }

    #[test]
    fn a_files_rules_travel_and_its_path_does_not() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/seccomp/fixtures/engine.json");
        let policy = json!({"file": file, "rules": [{"calls": ["uname"], "action": "trap"}]});
        let params = Apply.open(&Params::of(&policy).unwrap(), &mut Opening::default()).unwrap();
        let wire: Seccomp = params.parse().unwrap();
        assert_eq!((wire.file, wire.default), (None, Some(Action::EPERM)));
        assert_eq!(wire.rules[0].action, Action::Trap);
        assert!(wire.rules.len() > 5);
    }

    #[test]
    fn compute_allows_one_exec_that_nobody_can_make_again() {
        let filter = lower(&json!({"profile": "compute"})).unwrap();
        let again = lower(&json!({"profile": "compute"})).unwrap();
        let execveat = |filter: &[BpfInstruction], nonce: u64| {
            let call = Call::of(number("execveat"), [7, 1, 2, 3, 0x1000, nonce]);
            decide(filter, &call)
        };
        for nonce in [0, 1, u64::MAX] {
            assert_eq!(execveat(&filter, nonce), DENY);
        }
        assert_ne!(filter, again, "the number is another each time");
        assert_eq!(decide(&filter, &Call::of(number("execve"), [0; 6])), DENY);
        let clone =
            |flags: u64| decide(&filter, &Call::of(number("clone"), [flags, 0, 0, 0, 0, 0]));
        // As glibc makes a thread, and as it forks.
        assert_eq!(clone(0x003d_0f00), ALLOW);
        assert_eq!(clone(0x0120_0011), DENY);
        assert_eq!(clone(0x103d_0f00), DENY, "CLONE_NEWUSER");
    }

    #[test]
    fn the_exec_carries_the_number_that_the_filters_know() {
        let target = Target { exe_slot: 7, ..Target::default() };
        let mut launch = Lowering::new(&target, &[]);
        let params = Params::of(&json!({"profile": "compute"})).unwrap();
        Apply.lower(&params, &mut launch).unwrap();
        Apply.lower(&params, &mut launch).unwrap();
        let nonce = launch.asked_exec_nonce().unwrap();
        let op = Op::execveat(7, vec![], vec![]).with_nonce(nonce);
        assert_eq!(op.args().last(), Some(&Arg::Nonce(nonce)));
        let lowered = launch.finish(vec![]);
        let filters = lowered.program.ops().iter().filter_map(|(_, op)| match op.args().last() {
            Some(Arg::Filter(filter)) => Some(filter),
            _ => None,
        });
        let call = Call::of(number("execveat"), [7, 1, 2, 3, 0x1000, nonce]);
        assert_eq!(filters.map(|filter| decide(filter, &call)).collect::<Vec<_>>(), [ALLOW; 2]);
    }

    #[test]
    fn datagrams_and_what_chooses_a_protocol_by_its_type_are_closed() {
        let decided = |profile: Profile, name: &str, arguments: [u64; 3]| {
            let [family, kind, protocol] = arguments;
            let filter = compiled(&Seccomp { profile: Some(profile), ..Seccomp::default() });
            let flags = 0o2_004_000; // SOCK_CLOEXEC | SOCK_NONBLOCK
            let high = 0xdead_0000_0000;
            let arguments = [family | high, kind | flags | high, protocol | high, 0, 0, 0];
            decide(&filter, &Call::of(number(name), arguments))
        };
        let errno = |number: u32| 0x0005_0000 | number;
        for (arguments, expected) in [
            ([1, 1, 0], ALLOW),
            ([1, 5, 0], ALLOW),
            ([2, 1, 0], ALLOW),
            ([10, 2, 17], ALLOW),
            ([2, 2, 1], ALLOW),
            ([2, 1, 262], errno(93)),
            ([10, 1, 132], errno(93)),
            ([2, 5, 0], errno(93)),
            ([2, 6, 33], errno(93)),
            ([2, 1, 256], errno(93)),
            ([2, 10, 3], errno(97)),
            ([16, 3, 0], errno(97)),
            ([38, 5, 0], errno(93)),
            ([40, 1, 0], errno(97)),
        ] {
            assert_eq!(decided(Profile::Baseline, "socket", arguments), expected, "{arguments:?}");
        }
        for (arguments, expected) in [
            ([1, 1, 0], ALLOW),
            ([1, 5, 0], ALLOW),
            ([1, 2, 0], DENY),
            ([1, 3, 0], DENY),
            ([30, 1, 0], DENY),
        ] {
            assert_eq!(
                decided(Profile::NoNetwork, "socketpair", arguments),
                expected,
                "{arguments:?}"
            );
        }
        assert_eq!(decided(Profile::NoNetwork, "socket", [1, 1, 0]), DENY);
    }
}
