#![doc = include_str!("cgroup.md")]

use std::os::fd::AsRawFd;

use portcullis_core::descriptor::{DescriptorKind, DescriptorRole};
use portcullis_core::lowering::NoteTime;
use portcullis_core::mechanism::{
    Conflict, Declaration, Demonstration, Host, Mechanism, OpenError, Opening, Phase, Policy,
    Repeat, Stop, Support,
};
use portcullis_core::state::RefusalReason;
use portcullis_core::{Lowering, OsText, Params};
use serde::{Deserialize, Serialize};

use crate::cgroup_limit;
use crate::open_path::open_path;

/// The lowering id.
pub const ID: &str = "linux.cgroup.enter.v1";

static DECLARATION: Declaration = Declaration {
    id: ID,
    version: 1,
    phase: Phase::Namespace,
    rank: 2,
    rank_reason: "part of the clone, as the namespaces are",
    repeat: Repeat::Once,
    requires: &[],
    conflicts: &[Conflict { id: cgroup_limit::ID, reason: cgroup_limit::ONE_BIRTHPLACE }],
    summary: "the workload is born in the cgroup of a slot",
    kernel_floor: "5.7",
    params: "{}",
    example: r#"{"path": "/sys/fs/cgroup/jobs/1"}"#,
    guide: include_str!("cgroup.md"),
    demonstration: Demonstration {
        policy: r#"{"path": "@cgroup"}"#,
        with: &[],
        script: "grep -q portcullis-demonstration /proc/self/cgroup && echo inside || echo outside",
        shows: "inside",
    },
};

/// What a policy says; a plan carries no parameters, for the slot's role says it all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cgroup {
    /// The directory of the cgroup.
    pub path: OsText,
}

impl Policy for Cgroup {
    const ID: &'static str = ID;
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {}

struct Enter;

portcullis_core::register!(Enter);

impl Mechanism for Enter {
    fn declaration(&self) -> &'static Declaration {
        &DECLARATION
    }

    fn open(&self, policy: &Params, opening: &mut Opening) -> Result<Params, OpenError> {
        let policy: Cgroup = policy.parse()?;
        let (fd, kind) = open_path("cgroup", &policy.path)?;
        opening.declare(fd, DescriptorRole::CgroupDir, kind, false);
        Ok(Params::default())
    }

    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        params.parse::<Wire>()?;
        let Some(open) = launch.slots(DescriptorRole::CgroupDir).next() else {
            let detail = format!("{ID} is scheduled, and no slot has the role CgroupDir");
            return Err(Stop::refuse(RefusalReason::HandleMismatch, detail));
        };
        if open.slot.expected.kind != DescriptorKind::Directory {
            let detail = format!("slot {} is no directory, so no cgroup", open.slot.slot_index);
            return Err(Stop::refuse(RefusalReason::HandleMismatch, detail));
        }
        launch.enter_cgroup(open.fd.as_raw_fd());
        launch.reusable();
        launch.note(NoteTime::Created, "cgroup_placement=clone_into_cgroup");
        Ok(())
    }

    fn probe(&self, _: &dyn Host) -> Support {
        match mounted() {
            Some(at) => Support::yes(format!(
                "cgroup2 at {at}; the launcher must be able to write to the cgroup"
            )),
            None => Support::no("no cgroup2 file system is mounted"),
        }
    }
}

/// Where cgroups of version 2 are mounted.
pub(crate) fn mounted() -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let at = fields.next()?;
        (fields.next() == Some("cgroup2")).then(|| at.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use portcullis_core::plan::Target;

    use super::*;

    #[test]
    fn without_a_slot_it_is_refused() {
        let target = Target::default();
        let mut launch = Lowering::new(&target, &[]);
        let Err(Stop::Refused(refusal)) = Enter.lower(&Params::default(), &mut launch) else {
            panic!("lowered");
        };
        assert_eq!(refusal.reason, RefusalReason::HandleMismatch);
    }
}
