//! `example.umask.set.v1`: the smallest mechanism that does something that one can see.

#![forbid(unsafe_code)]

// ANCHOR: imports
use portcullis_core::mechanism::{
    Declaration, Demonstration, Host, Mechanism, OpenError, Opening, Phase, Policy, Repeat, Stop,
    Support,
};
use portcullis_core::program::Op;
use portcullis_core::state::RefusalReason;
use portcullis_core::{Lowering, Params};
use serde::{Deserialize, Serialize};
// ANCHOR_END: imports

// ANCHOR: declaration
static DECLARATION: Declaration = Declaration {
    id: "example.umask.set.v1",
    version: 1,
    phase: Phase::Privilege,
    rank: 0,
    rank_reason: "no other mechanism makes a file in the child",
    repeat: Repeat::Once,
    requires: &[],
    conflicts: &[],
    summary: "sets which permissions a new file of the workload does not get",
    kernel_floor: "any",
    params: "{mask: 0..511}",
    example: r#"{"mask": 63}"#,
    guide: include_str!("lib.md"),
    demonstration: Demonstration {
        policy: r#"{"mask": 63}"#,
        with: &[],
        script: "umask",
        shows: "0077",
    },
};
// ANCHOR_END: declaration

// ANCHOR: policy
/// Which permissions a new file does not get.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Umask {
    /// The mask, of the nine bits of `rwxrwxrwx`.
    pub mask: u32,
}

impl Policy for Umask {
    const ID: &'static str = DECLARATION.id;
}
// ANCHOR_END: policy

// ANCHOR: register
struct Set;

portcullis_core::register!(Set);

impl Mechanism for Set {
    fn declaration(&self) -> &'static Declaration {
        &DECLARATION
    }
    // ANCHOR_END: register

    // ANCHOR: open
    fn open(&self, policy: &Params, _: &mut Opening) -> Result<Params, OpenError> {
        policy.parse::<Umask>()?;
        Ok(policy.clone())
    }
    // ANCHOR_END: open

    // ANCHOR: lower
    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        let Umask { mask } = params.parse()?;
        if mask > 0o777 {
            // The kernel would drop the other bits without a word.
            let detail =
                format!("the mask {mask:o} has bits that are no permission; 777 has them all");
            return Err(Stop::refuse(RefusalReason::PlanInvalid, detail));
        }
        launch.push(Op::umask(mask));
        Ok(())
    }
    // ANCHOR_END: lower

    // ANCHOR: probe
    fn probe(&self, host: &dyn Host) -> Support {
        let attempt = host.rehearse(&mut |launch| {
            launch.push(Op::umask(0o077));
            Ok(())
        });
        Support::of(attempt, "umask", "")
    }
    // ANCHOR_END: probe
}
