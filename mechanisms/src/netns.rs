#![doc = include_str!("netns.md")]

use portcullis_core::lowering::NoteTime;
use portcullis_core::mechanism::{
    Declaration, Demonstration, Host, Mechanism, OpenError, Opening, Phase, Policy, Repeat,
    Requirement, Stop, Support,
};
use portcullis_core::{Lowering, Params};
use serde::{Deserialize, Serialize};

use crate::userns;

/// The lowering id.
pub const ID: &str = "linux.netns.enter.v1";

static DECLARATION: Declaration = Declaration {
    id: ID,
    version: 1,
    phase: Phase::Namespace,
    rank: 1,
    rank_reason: "after the user namespace that owns it",
    repeat: Repeat::Once,
    requires: &[Requirement {
        id: userns::ID,
        reason: "a network namespace that the launcher's own user namespace owned would leave the \
                 launcher's capabilities over it to the workload",
        note: "network_namespace=requested_without_userns fail_closed",
    }],
    conflicts: &[],
    summary: "a new network namespace with nothing in it but a loopback that is down",
    kernel_floor: "5.3 (clone3)",
    params: "{}",
    example: "{}",
    guide: include_str!("netns.md"),
    demonstration: Demonstration {
        policy: "{}",
        with: &[(userns::ID, "{}")],
        script: "grep -q 127.0.0.1 /proc/net/fib_trie && echo connected || echo isolated",
        shows: "isolated",
    },
};

/// It takes no parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkNamespace {}

impl Policy for NetworkNamespace {
    const ID: &'static str = ID;
}

struct Enter;

portcullis_core::register!(Enter);

impl Mechanism for Enter {
    fn declaration(&self) -> &'static Declaration {
        &DECLARATION
    }

    fn open(&self, policy: &Params, _: &mut Opening) -> Result<Params, OpenError> {
        policy.parse::<NetworkNamespace>()?;
        Ok(Params::default())
    }

    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        params.parse::<NetworkNamespace>()?;
        launch.enter_namespaces(u64::from(libc::CLONE_NEWNET.unsigned_abs()));
        launch.reusable();
        launch.note(NoteTime::Released, "network_namespace=empty_netns child_isolated");
        Ok(())
    }

    fn probe(&self, host: &dyn Host) -> Support {
        let attempt = host.rehearse(&mut |launch| {
            let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNET;
            launch.enter_namespaces(u64::from(flags.unsigned_abs()));
            Ok(())
        });
        Support::of(attempt, "with a user namespace", "")
    }
}

#[cfg(test)]
mod tests {
    use portcullis_core::plan::Target;

    use super::*;

    #[test]
    fn it_asks_for_the_namespace() {
        let target = Target::default();
        let mut launch = Lowering::new(&target, &[]);
        Enter.lower(&Params::default(), &mut launch).unwrap();
        assert_eq!(launch.finish(vec![]).clone.namespaces, 0x4000_0000);
    }
}
