#![doc = include_str!("userns.md")]

use std::fs::OpenOptions;
use std::io::Write;

use portcullis_core::lowering::NoteTime;
use portcullis_core::mechanism::{
    Attendee, Declaration, Demonstration, Fault, Host, Mechanism, OpenError, Opening, Phase,
    Policy, Repeat, Stop, Support,
};
use portcullis_core::{Lowering, Params};
use serde::{Deserialize, Serialize};

/// The lowering id.
pub const ID: &str = "linux.userns.enter.v1";

static DECLARATION: Declaration = Declaration {
    id: ID,
    version: 1,
    phase: Phase::Namespace,
    rank: 0,
    rank_reason: "it owns the namespaces that are made with it",
    repeat: Repeat::Once,
    requires: &[],
    conflicts: &[],
    summary: "a new user namespace, in which the workload is uid 0 and outside of which it is not",
    kernel_floor: "5.3 (clone3)",
    params: "{}",
    example: "{}",
    guide: include_str!("userns.md"),
    demonstration: Demonstration {
        policy: "{}",
        with: &[],
        script: "read -r inside outside count </proc/self/uid_map; echo $count",
        shows: "1",
    },
};

/// It takes no parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserNamespace {}

impl Policy for UserNamespace {
    const ID: &'static str = ID;
}

struct Enter;

portcullis_core::register!(Enter);

impl Mechanism for Enter {
    fn declaration(&self) -> &'static Declaration {
        &DECLARATION
    }

    fn open(&self, policy: &Params, _: &mut Opening) -> Result<Params, OpenError> {
        policy.parse::<UserNamespace>()?;
        Ok(Params::default())
    }

    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        params.parse::<UserNamespace>()?;
        launch.enter_namespaces(u64::from(libc::CLONE_NEWUSER.unsigned_abs()));
        launch.rendezvous();
        launch.note(NoteTime::Released, "user_namespace=mapped child_uid0_egid0");
        Ok(())
    }

    fn attend(&self, _: &Params, child: Attendee) -> Result<(), Fault> {
        let Attendee { pid, uid, gid } = child;
        let write = |file: &str, text: String| -> Result<(), Fault> {
            let path = format!("/proc/{pid}/{file}");
            let opened = OpenOptions::new().write(true).open(&path);
            opened.and_then(|mut map| map.write_all(text.as_bytes())).map_err(|error| Fault {
                what: format!("writing {text:?} to {path}: {error}"),
                note: Some("user_namespace=map_write_failed fail_closed"),
            })
        };
        write("uid_map", format!("0 {uid} 1"))?;
        write("setgroups", "deny".into())?;
        write("gid_map", format!("0 {gid} 1"))
    }

    fn probe(&self, host: &dyn Host) -> Support {
        let attempt = host.rehearse(&mut |launch| {
            launch.enter_namespaces(u64::from(libc::CLONE_NEWUSER.unsigned_abs()));
            Ok(())
        });
        Support::of(
            attempt,
            "one uid and one gid are mapped",
            "see user.max_user_namespaces, kernel.unprivileged_userns_clone and \
             kernel.apparmor_restrict_unprivileged_userns in sysctl",
        )
    }
}

#[cfg(test)]
mod tests {
    use portcullis_core::plan::Target;

    use super::*;

    #[test]
    fn it_asks_for_the_namespace_and_for_a_rendezvous() {
        let target = Target::default();
        let mut launch = Lowering::new(&target, &[]);
        Enter.lower(&Params::default(), &mut launch).unwrap();
        let lowered = launch.finish(vec![]);
        assert_eq!(lowered.clone.namespaces, 0x1000_0000);
        assert!(lowered.clone.rendezvous);
        assert!(lowered.program.ops().is_empty());
    }

    #[test]
    fn maps_that_cannot_be_written_are_a_fault_with_the_protocols_note() {
        // No process has the pid -1, so there is nothing at its path.
        let fault =
            Enter.attend(&Params::default(), Attendee { pid: -1, uid: 0, gid: 0 }).unwrap_err();
        assert_eq!(fault.note, Some("user_namespace=map_write_failed fail_closed"));
        assert!(fault.what.contains("uid_map"), "{}", fault.what);
    }
}
