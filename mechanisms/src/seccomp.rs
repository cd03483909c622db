#![doc = include_str!("seccomp.md")]

use std::collections::BTreeMap;

use portcullis_core::lowering::NoteTime;
use portcullis_core::mechanism::{
    Declaration, Demonstration, Host, Mechanism, OpenError, Opening, Phase, Policy, Repeat, Stop,
    Support,
};
use portcullis_core::program::{BpfInstruction, Op};
use portcullis_core::state::RefusalReason;
use portcullis_core::{Lowering, Params};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use serde::{Deserialize, Serialize};
use syscalls::Sysno;

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
    summary: "answers EPERM to the system calls that are denied, and kills foreign architectures",
    kernel_floor: "3.17",
    params: "{? deny: [* tstr], ? deny_new_tasks: bool, ? deny_inet_sockets: bool, \
             ? deny_terminal_injection: bool}",
    example: r#"{"deny": ["ptrace"], "deny_new_tasks": true, "deny_inet_sockets": true}"#,
    guide: include_str!("seccomp.md"),
    demonstration: Demonstration {
        policy: r#"{"deny": ["mkdir", "mkdirat"]}"#,
        with: &[],
        script: "mkdir @folder/new 2>/dev/null && echo made || echo denied",
        shows: "denied",
    },
};

/// What a policy says, and a plan carries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seccomp {
    /// The system calls to deny, by the names of their manual pages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// Denies clone, clone3, fork and vfork: no thread and no process is made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deny_new_tasks: bool,
    /// Denies the ioctls `TIOCSTI` and `TIOCLINUX`, which put input into a terminal that others read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deny_terminal_injection: bool,
    /// Denies socket: of every family, for the kernel has other ways to the network than inet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deny_inet_sockets: bool,
}

impl Policy for Seccomp {
    const ID: &'static str = ID;
}

impl Seccomp {
    /// The names of what is denied, those of architectures that have them.
    fn names(&self) -> impl Iterator<Item = (&str, bool)> {
        let tasks: &[&str] =
            if self.deny_new_tasks { &["clone", "clone3", "fork", "vfork"] } else { &[] };
        let sockets: &[&str] = if self.deny_inet_sockets { &["socket"] } else { &[] };
        let groups = tasks.iter().chain(sockets).map(|name| (*name, false));
        groups.chain(self.deny.iter().map(|name| (name.as_str(), true)))
    }

    /// The numbers of what is denied. A name that this architecture lacks is an error when it was
    /// given by name; of a group's, the kernel has nothing to deny.
    fn numbers(&self) -> Result<Vec<i64>, String> {
        let mut numbers = Vec::new();
        for (name, required) in self.names() {
            match name.parse::<Sysno>() {
                Ok(number) => numbers.push(i64::from(number.id())),
                Err(()) if required => return Err(format!("{name:?} is no system call here")),
                Err(()) => {}
            }
        }
        Ok(numbers)
    }

    /// Everything that is denied: a call without a rule always, one with rules where one of them fits.
    fn rules(&self) -> Result<Rules, String> {
        let mut rules: Rules = self.numbers()?.into_iter().map(|it| (it, vec![])).collect();
        if self.deny_terminal_injection && !rules.contains_key(&libc::SYS_ioctl) {
            rules.insert(libc::SYS_ioctl, terminal_rules().map_err(|error| error.to_string())?);
        }
        Ok(rules)
    }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What the child itself calls after the last filter is installed.
const OWN_CALLS: &[(&str, i64)] = &[
    ("execveat", libc::SYS_execveat),
    ("exit_group", libc::SYS_exit_group),
    ("write", libc::SYS_write),
];

struct Apply;

portcullis_core::register!(Apply);

impl Mechanism for Apply {
    fn declaration(&self) -> &'static Declaration {
        &DECLARATION
    }

    fn open(&self, policy: &Params, _: &mut Opening) -> Result<Params, OpenError> {
        let policy: Seccomp = policy.parse()?;
        if policy.rules().map_err(OpenError::Unusable)?.is_empty() {
            return Err(OpenError::Unusable("the seccomp policy denies nothing".into()));
        }
        Ok(Params::of(&policy)?)
    }

    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        let missing = |why: String| Stop::refuse(RefusalReason::MissingPrimitive, why);
        let wire: Seccomp = params.parse()?;
        let rules = wire.rules().map_err(missing)?;
        if rules.is_empty() {
            return Err(missing(format!("{ID} is scheduled, and it denies nothing")));
        }
        for (name, number) in OWN_CALLS {
            if rules.contains_key(number) {
                let detail = format!(
                    "{name} is denied, and the launch itself makes that call after the filter is \
                     installed"
                );
                return Err(Stop::refuse(RefusalReason::PlanInvalid, detail));
            }
        }
        let filter = compile(rules).map_err(missing)?;
        launch.push_once(Op::no_new_privs());
        launch.push(Op::seccomp_set_filter(filter, 0));
        launch.note(NoteTime::Created, "seccomp=denylist_installed mode=filter");
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

/// Compiles the denials.
fn compile(rules: Rules) -> Result<Vec<BpfInstruction>, String> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| e.to_string())?;
    let deny = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, deny, architecture)
        .map_err(|error| error.to_string())?;
    let compiled = BpfProgram::try_from(filter).map_err(|error| error.to_string())?;
    let compiled =
        compiled.iter().map(|it| BpfInstruction { code: it.code, jt: it.jt, jf: it.jf, k: it.k });
    Ok(kill_x32().into_iter().chain(compiled).collect())
}

/// An ioctl is known by the low 32 bits of its second argument: the kernel looks at no more, so what is in
/// the high ones must not matter ([ioctl(2)](https://man7.org/linux/man-pages/man2/ioctl.2.html)).
fn terminal_rules() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let rule = |request: u64| {
        let is = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request)?;
        SeccompRule::new(vec![is])
    };
    [TIOCSTI, TIOCLINUX].into_iter().map(rule).collect()
}

/// Of asm-generic/ioctls.h: puts a byte into a terminal's input.
const TIOCSTI: u64 = 0x5412;
/// Of asm-generic/ioctls.h: among other things, pastes the console's selection.
const TIOCLINUX: u64 = 0x541c;

/// x32 calls come with the architecture of `x86_64` and bit 30 set in the number. seccompiler compares
/// whole numbers, so with a filter that allows by default each denied call would have an allowed twin.
#[cfg(target_arch = "x86_64")]
fn kill_x32() -> Vec<BpfInstruction> {
    const LOAD: u16 = 0x20;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const X32_SYSCALL_BIT: u32 = 0x4000_0000;
    let instruction = |code, jf, k| BpfInstruction { code, jt: 0, jf, k };
    vec![
        // The number is the first field of seccomp_data.
        instruction(LOAD, 0, 0),
        // -1, which ptrace(2) uses to skip a call, is no x32 number, and above them all.
        instruction(JUMP_IF_AT_LEAST, 1, X32_SYSCALL_BIT),
        instruction(RETURN, 0, libc::SECCOMP_RET_KILL_PROCESS),
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn kill_x32() -> Vec<BpfInstruction> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NATIVE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
    const I386: u32 = 0x4000_0003;
    const ALLOW: u32 = 0x7fff_0000;
    const DENY: u32 = 0x0005_0001;
    const KILL: u32 = 0x8000_0000;

    /// Runs a filter of the few instructions that one like this is made of.
    fn decide(filter: &[BpfInstruction], architecture: u32, number: u32) -> u32 {
        decide_with(filter, architecture, number, [0; 6])
    }

    fn decide_with(
        filter: &[BpfInstruction],
        architecture: u32,
        number: u32,
        arguments: [u64; 6],
    ) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let BpfInstruction { code, jt, jf, k } = filter[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { jt } else { jf });
            match code {
                0x20 => accumulator = load(k, architecture, number, arguments),
                0x05 => at += k as usize,
                0x15 => at += jump(accumulator == k),
                0x25 => at += jump(accumulator > k),
                0x35 => at += jump(accumulator >= k),
                0x06 => return k,
                other => panic!("{other:#x} is not expected in this filter"),
            }
        }
    }

    /// A word of `struct seccomp_data` of a little-endian machine.
    fn load(offset: u32, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        match offset {
            0 => number,
            4 => architecture,
            _ => {
                let word = usize::try_from(offset - 16).unwrap() / 4;
                let half = 32 * (word % 2);
                u32::try_from(arguments[word / 2] >> half & 0xffff_ffff).unwrap()
            }
        }
    }

    #[test]
    fn typing_into_a_terminal_is_denied_whatever_is_in_the_high_bits() {
        let policy = Seccomp { deny_terminal_injection: true, ..Seccomp::default() };
        let filter = compile(policy.rules().unwrap()).unwrap();
        let ioctl = u32::try_from(libc::SYS_ioctl).unwrap();
        for high in [0, 1, 0x8000_0000, 0xffff_ffff] {
            for (request, expected) in
                [(0x5412, DENY), (0x541c, DENY), (0x5413, ALLOW), (0x5411, ALLOW), (0, ALLOW)]
            {
                let arguments = [u64::MAX, high << 32 | request, u64::MAX, 0, 0, 0];
                let decided = decide_with(&filter, NATIVE, ioctl, arguments);
                assert_eq!(decided, expected, "{high:#x} {request:#x}");
                assert_eq!(decide_with(&filter, NATIVE, ioctl + 1, arguments), ALLOW);
                assert_eq!(decide_with(&filter, I386, ioctl, arguments), KILL);
            }
        }
    }

    #[test]
    fn each_number_of_each_architecture_is_decided_as_the_policy_means() {
        let policy = Seccomp {
            deny: vec!["ptrace".into(), "io_uring_setup".into()],
            deny_new_tasks: true,
            deny_inet_sockets: true,
            ..Seccomp::default()
        };
        let denied = policy.numbers().unwrap();
        assert!(denied.contains(&libc::SYS_clone3) && denied.contains(&libc::SYS_socket));
        let filter = compile(policy.rules().unwrap()).unwrap();
        for number in 0..1000 {
            let expected = if denied.contains(&i64::from(number)) { DENY } else { ALLOW };
            assert_eq!(decide(&filter, NATIVE, number), expected, "{number}");
            assert_eq!(decide(&filter, I386, number), KILL, "{number}");
            if cfg!(target_arch = "x86_64") {
                assert_eq!(decide(&filter, NATIVE, number | 0x4000_0000), KILL, "x32 {number}");
            }
        }
    }

    #[test]
    fn no_argument_of_a_call_matters_whatever_is_in_its_high_bits() {
        const LOAD_ABSOLUTE: u16 = 0x20;
        let policy =
            Seccomp { deny_new_tasks: true, deny_inet_sockets: true, ..Seccomp::default() };
        let filter = compile(policy.rules().unwrap()).unwrap();
        // Number and architecture are at 0 and 4 of seccomp_data, the arguments from 16 on; and no
        // instruction but a load brings anything into the accumulator.
        for BpfInstruction { code, k, .. } in filter {
            let class = code & 0x07;
            assert!(code == LOAD_ABSOLUTE && k <= 4 || class == 0x05 || class == 0x06, "{code:#x}");
        }
    }

    #[test]
    fn a_filter_that_would_stop_the_launch_itself_is_an_invalid_plan() {
        use portcullis_core::plan::Target;
        for (name, _) in OWN_CALLS {
            let policy = Seccomp { deny: vec![(*name).into()], ..Seccomp::default() };
            let (target, params) = (Target::default(), Params::of(&policy).unwrap());
            let Err(Stop::Refused(refusal)) =
                Apply.lower(&params, &mut Lowering::new(&target, &[]))
            else {
                panic!("{name} lowered");
            };
            assert_eq!(refusal.reason, RefusalReason::PlanInvalid);
            assert!(refusal.detail.contains(name));
        }
    }

    #[test]
    fn a_request_that_denies_nothing_or_names_no_call_is_a_missing_primitive() {
        use portcullis_core::plan::Target;
        let unknown = Seccomp { deny: vec!["no_such_call".into()], ..Seccomp::default() };
        for wire in [Seccomp::default(), unknown] {
            let target = Target::default();
            let params = Params::of(&wire).unwrap();
            let Err(Stop::Refused(refusal)) =
                Apply.lower(&params, &mut Lowering::new(&target, &[]))
            else {
                panic!("lowered");
            };
            assert_eq!(refusal.reason, RefusalReason::MissingPrimitive);
            assert!(Apply.open(&params, &mut Opening::default()).is_err());
        }
    }
}
