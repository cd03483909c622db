#![doc = include_str!("no_new_privs.md")]

use portcullis_core::mechanism::{
    Declaration, Demonstration, Host, Mechanism, OpenError, Opening, Phase, Policy, Repeat, Stop,
    Support,
};
use portcullis_core::program::Op;
use portcullis_core::{Lowering, Params};
use serde::{Deserialize, Serialize};

/// The lowering id.
pub const ID: &str = "linux.no_new_privs.set.v1";

static DECLARATION: Declaration = Declaration {
    id: ID,
    version: 1,
    phase: Phase::Privilege,
    rank: 250,
    rank_reason: "when the others have made the privileges what they are to be, no exec adds to them",
    repeat: Repeat::Once,
    requires: &[],
    conflicts: &[],
    summary: "no exec grants the workload a privilege",
    kernel_floor: "3.5",
    params: "{}",
    example: "{}",
    guide: include_str!("no_new_privs.md"),
    demonstration: Demonstration {
        policy: "{}",
        with: &[],
        script: "while read -r name value; do [ \"$name\" = NoNewPrivs: ] && echo \"$value\"; done \
                 </proc/self/status",
        shows: "1",
    },
};

/// It takes no parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoNewPrivs {}

impl Policy for NoNewPrivs {
    const ID: &'static str = ID;
}

struct Set;

portcullis_core::register!(Set);

impl Mechanism for Set {
    fn declaration(&self) -> &'static Declaration {
        &DECLARATION
    }

    fn open(&self, policy: &Params, _: &mut Opening) -> Result<Params, OpenError> {
        policy.parse::<NoNewPrivs>()?;
        Ok(Params::default())
    }

    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        params.parse::<NoNewPrivs>()?;
        launch.push_once(Op::no_new_privs());
        launch.reusable();
        Ok(())
    }

    fn probe(&self, host: &dyn Host) -> Support {
        let attempt = host.rehearse(&mut |launch| self.lower(&Params::default(), launch));
        Support::of(attempt, "prctl", "")
    }
}

#[cfg(test)]
mod tests {
    use portcullis_core::plan::Target;

    use super::*;

    #[test]
    fn the_bit_is_set_once_whoever_else_needs_it() {
        let target = Target::default();
        let mut launch = Lowering::new(&target, &[]);
        Set.lower(&Params::default(), &mut launch).unwrap();
        launch.push_once(Op::no_new_privs());
        assert_eq!(launch.finish(vec![]).program.ops().len(), 1);
    }

    #[test]
    fn parameters_are_refused() {
        let params = Params::of(&std::collections::BTreeMap::from([("off", true)])).unwrap();
        let target = Target::default();
        assert!(Set.lower(&params, &mut Lowering::new(&target, &[])).is_err());
    }
}
