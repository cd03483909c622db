//! `example.files.limit.v1`: how many files the workload may have open, in one file.

#![forbid(unsafe_code)]

use portcullis_core::mechanism::{
    Declaration, Demonstration, Host, Mechanism, OpenError, Opening, Phase, Policy, Repeat, Stop, Support,
};
use portcullis_core::program::Op;
use portcullis_core::state::RefusalReason;
use portcullis_core::{Lowering, Params};
use serde::{Deserialize, Serialize};

/// `RLIMIT_NOFILE` of getrlimit(2).
const NOFILE: u32 = 7;

// 1. What it declares of itself.
static DECLARATION: Declaration = Declaration {
    id: "example.files.limit.v1",
    version: 1,
    phase: Phase::Privilege,
    rank: 0,
    rank_reason: "no other mechanism opens a file in the child",
    repeat: Repeat::Once,
    requires: &[],
    conflicts: &[],
    summary: "limits how many files the workload may have open",
    kernel_floor: "2.6.36",
    params: "{most: uint}",
    example: r#"{"most": 64}"#,
    guide: "The soft and the hard limit, both.",
    demonstration: Demonstration {
        policy: r#"{"most": 17}"#,
        with: &[],
        script: "ulimit -n",
        shows: "17",
    },
};

// 2. What a policy says, and here a plan carries too.
/// How many files may be open.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenFiles {
    /// The most.
    pub most: u64,
}

impl Policy for OpenFiles {
    const ID: &'static str = DECLARATION.id;
}

struct Limit;

portcullis_core::register!(Limit);

impl Mechanism for Limit {
    fn declaration(&self) -> &'static Declaration {
        &DECLARATION
    }

    // 3. In the supervisor: paths would become fds here; there are none.
    fn open(&self, policy: &Params, _: &mut Opening) -> Result<Params, OpenError> {
        policy.parse::<OpenFiles>()?;
        Ok(policy.clone())
    }

    // 4. In the launcher: parameters become system calls, or a refusal by name.
    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        let OpenFiles { most } = params.parse()?;
        if most < 4 {
            let detail = format!("{most} files are fewer than a program needs to start");
            return Err(Stop::refuse(RefusalReason::PlanInvalid, detail));
        }
        launch.push(Op::prlimit(NOFILE, most, most));
        Ok(())
    }

    // 5. What this kernel says to it, tried out in a child.
    fn probe(&self, host: &dyn Host) -> Support {
        let attempt = host.rehearse(&mut |launch| {
            launch.push(Op::prlimit(NOFILE, 64, 64));
            Ok(())
        });
        Support::of(attempt, "prlimit", "")
    }
}
