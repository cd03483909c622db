#![doc = include_str!("ambient_scrub.md")]

use portcullis_core::mechanism::{
    Declaration, Demonstration, Host, Mechanism, OpenError, Opening, Phase, Policy, Repeat, Stop,
    Support,
};
use portcullis_core::{Lowering, Params};
use serde::{Deserialize, Serialize};

/// The lowering id.
pub const ID: &str = "linux.ambient.scrub.v1";

static DECLARATION: Declaration = Declaration {
    id: ID,
    version: 1,
    phase: Phase::FdHygiene,
    rank: 255,
    rank_reason: "last: what others of the phase still need is theirs before",
    repeat: Repeat::Once,
    requires: &[],
    conflicts: &[],
    summary: "closes every file descriptor that nothing keeps",
    kernel_floor: "5.9",
    params: "{}",
    example: "{}",
    guide: include_str!("ambient_scrub.md"),
    demonstration: Demonstration {
        policy: "{}",
        with: &[],
        script: "[ -e /proc/self/fd/99 ] && echo open || echo closed",
        shows: "closed",
    },
};

/// It takes no parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmbientScrub {}

impl Policy for AmbientScrub {
    const ID: &'static str = ID;
}

struct Scrub;

portcullis_core::register!(Scrub);

impl Mechanism for Scrub {
    fn declaration(&self) -> &'static Declaration {
        &DECLARATION
    }

    fn open(&self, policy: &Params, _: &mut Opening) -> Result<Params, OpenError> {
        policy.parse::<AmbientScrub>()?;
        Ok(Params::default())
    }

    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        params.parse::<AmbientScrub>()?;
        launch.close_all_but_kept();
        launch.reusable();
        Ok(())
    }

    fn probe(&self, host: &dyn Host) -> Support {
        let attempt = host.rehearse(&mut |launch| self.lower(&Params::default(), launch));
        Support::of(attempt, "close_range", "close_range came with Linux 5.9")
    }
}

#[cfg(test)]
mod tests {
    use portcullis_core::plan::Target;

    use super::*;

    #[test]
    fn it_closes_the_gaps_between_what_is_kept() {
        let target = Target::default();
        let mut launch = Lowering::new(&target, &[]);
        launch.keep_borrowed(&7);
        Scrub.lower(&Params::default(), &mut launch).unwrap();
        let lowered = launch.finish(vec![]);
        let ops: Vec<_> = lowered.program.ops().iter().map(|(_, op)| op.to_string()).collect();
        assert_eq!(ops, ["close_range(3, 6, 0) = 0", "close_range(8, ~0, 0) = 0"]);
    }

    #[test]
    fn parameters_are_refused() {
        let params = Params::of(&std::collections::BTreeMap::from([("keep", 1)])).unwrap();
        let target = Target::default();
        assert!(Scrub.lower(&params, &mut Lowering::new(&target, &[])).is_err());
    }
}
