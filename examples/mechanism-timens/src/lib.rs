#![doc = include_str!("lib.md")]
#![forbid(unsafe_code)]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use portcullis_core::lowering::NoteTime;
use portcullis_core::mechanism::{
    Attendee, Declaration, Demonstration, Fault, Host, Mechanism, OpenError, Opening, Phase,
    Policy, Repeat, Stop, Support,
};
use portcullis_core::state::RefusalReason;
use portcullis_core::{Lowering, Params};
use serde::{Deserialize, Serialize};

/// `CLONE_NEWTIME` of sched.h, which clone3(2) alone takes.
const CLONE_NEWTIME: u64 = 0x80;

static DECLARATION: Declaration = Declaration {
    id: "example.timens.enter.v1",
    version: 1,
    phase: Phase::Namespace,
    rank: 1,
    rank_reason: "after the user namespace that owns it",
    repeat: Repeat::Once,
    requires: &[],
    conflicts: &[],
    summary: "a new time namespace, whose clocks are the machine's with an offset",
    kernel_floor: "6.3",
    params: "{? monotonic: int, ? boottime: int}",
    example: r#"{"boottime": 31536000}"#,
    guide: include_str!("lib.md"),
    demonstration: Demonstration {
        policy: r#"{"boottime": 1000000000}"#,
        with: &[("linux.userns.enter.v1", "{}")],
        script: "read -r up idle </proc/uptime; [ ${up%.*} -ge 1000000000 ] && echo shifted || echo plain",
        shows: "shifted",
    },
};

/// How far the clocks are from the machine's, in seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeNamespace {
    /// `CLOCK_MONOTONIC`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub monotonic: i64,
    /// `CLOCK_BOOTTIME`, of which `/proc/uptime` tells.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub boottime: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a field by reference")]
fn is_zero(offset: &i64) -> bool {
    *offset == 0
}

impl Policy for TimeNamespace {
    const ID: &'static str = DECLARATION.id;
}

struct Enter;

portcullis_core::register!(Enter);

impl Mechanism for Enter {
    fn declaration(&self) -> &'static Declaration {
        &DECLARATION
    }

    fn open(&self, policy: &Params, _: &mut Opening) -> Result<Params, OpenError> {
        Ok(Params::of(&policy.parse::<TimeNamespace>()?)?)
    }

    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        if params.parse::<TimeNamespace>()? == TimeNamespace::default() {
            let detail = "no clock has an offset; name `monotonic` or `boottime`";
            return Err(Stop::refuse(RefusalReason::PlanInvalid, detail));
        }
        if !Path::new("/proc/self/ns/time").exists() {
            let detail = "this kernel has no time namespaces (CONFIG_TIME_NS)";
            return Err(Stop::refuse(RefusalReason::MissingPrimitive, detail));
        }
        launch.enter_namespaces(CLONE_NEWTIME);
        launch.rendezvous();
        launch.note(NoteTime::Released, "time_namespace=offsets_written");
        Ok(())
    }

    /// The offsets can be set until a process is in the namespace; the child enters it when it execs.
    fn attend(&self, params: &Params, attendee: Attendee) -> Result<(), Fault> {
        let fault =
            |what: String| Fault { what: format!("{}: {what}", DECLARATION.id), note: None };
        let TimeNamespace { monotonic, boottime } =
            params.parse().map_err(|error| fault(error.to_string()))?;
        let path = format!("/proc/{}/timens_offsets", attendee.pid);
        // In one write: each call is taken as a whole.
        let offsets = format!("monotonic {monotonic} 0\nboottime {boottime} 0\n");
        let opened = OpenOptions::new().write(true).open(&path);
        opened.and_then(|mut file| file.write_all(offsets.as_bytes())).map_err(|error| {
            fault(format!(
                "writing {offsets:?} to {path}: {error} (it takes CAP_SYS_TIME in the user namespace that \
                 owns the time namespace, as linux.userns.enter.v1 gives; and no clock may be negative)"
            ))
        })
    }

    fn probe(&self, host: &dyn Host) -> Support {
        let attempt = host.rehearse(&mut |launch| {
            launch.enter_namespaces(CLONE_NEWTIME | CLONE_NEWUSER);
            Ok(())
        });
        Support::of(attempt, "with a user namespace", "it takes Linux 6.3, with CONFIG_TIME_NS")
    }
}

/// `CLONE_NEWUSER` of sched.h.
const CLONE_NEWUSER: u64 = 0x1000_0000;

#[cfg(test)]
mod tests {
    use portcullis_core::plan::Target;

    use super::*;

    #[test]
    fn it_asks_for_the_namespace_and_for_a_rendezvous() {
        let target = Target::default();
        let mut launch = Lowering::new(&target, &[]);
        let params = Params::of(&TimeNamespace { monotonic: 0, boottime: 1 }).unwrap();
        Enter.lower(&params, &mut launch).unwrap();
        let lowered = launch.finish(vec![]);
        assert_eq!(lowered.clone.namespaces, CLONE_NEWTIME);
        assert!(lowered.clone.rendezvous && lowered.program.ops().is_empty());
    }

    #[test]
    fn offsets_that_cannot_be_written_are_a_fault_that_names_the_mechanism() {
        // No process has the pid -1, so there is nothing at its path.
        let fault =
            Enter.attend(&Params::default(), Attendee { pid: -1, uid: 0, gid: 0 }).unwrap_err();
        assert!(fault.what.contains("example.timens.enter.v1"), "{}", fault.what);
    }
}
