#![doc = include_str!("cwd.md")]

use std::os::fd::AsRawFd;

use portcullis_core::descriptor::{DescriptorKind, DescriptorRole};
use portcullis_core::mechanism::{
    Declaration, Demonstration, Host, Mechanism, OpenError, Opening, Phase, Policy, Repeat, Stop,
    Support,
};
use portcullis_core::program::Op;
use portcullis_core::state::RefusalReason;
use portcullis_core::{Lowering, OsText, Params};
use serde::{Deserialize, Serialize};

use crate::open_path::open_path;

/// The lowering id.
pub const ID: &str = "linux.cwd.set.v1";

static DECLARATION: Declaration = Declaration {
    id: ID,
    version: 1,
    phase: Phase::FileSystem,
    rank: 100,
    rank_reason: "by fd, before credentials change and with them who may enter the directory",
    repeat: Repeat::Once,
    requires: &[],
    conflicts: &[],
    summary: "the workload starts in the directory of a slot",
    kernel_floor: "3.5 (fchdir of an O_PATH fd)",
    params: "{slot: uint}",
    example: r#"{"path": "/srv/job"}"#,
    guide: include_str!("cwd.md"),
    demonstration: Demonstration {
        policy: r#"{"path": "@folder"}"#,
        with: &[],
        script: "[ . -ef @folder ] && echo inside || echo outside",
        shows: "inside",
    },
};

/// What a policy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkingDirectory {
    /// The directory.
    pub path: OsText,
}

impl Policy for WorkingDirectory {
    const ID: &'static str = ID;
}

/// What a plan carries.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    slot: u32,
}

struct Set;

portcullis_core::register!(Set);

impl Mechanism for Set {
    fn declaration(&self) -> &'static Declaration {
        &DECLARATION
    }

    fn open(&self, policy: &Params, opening: &mut Opening) -> Result<Params, OpenError> {
        const WHAT: &str = "working directory";
        let WorkingDirectory { path } = policy.parse()?;
        let (fd, kind) = open_path(WHAT, &path)?;
        if kind != DescriptorKind::Directory {
            let source = std::io::Error::from_raw_os_error(libc::ENOTDIR);
            return Err(OpenError::path(WHAT, path.as_os_str())(source));
        }
        // The role alone grants nothing: a Landlock rule names the slots that it is about.
        let slot = opening.declare(fd, DescriptorRole::ReadRoot, kind, false);
        Ok(Params::of(&Wire { slot })?)
    }

    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        let Wire { slot } = params.parse()?;
        let open = launch.slot(slot)?;
        let kind = open.slot.expected.kind;
        if kind != DescriptorKind::Directory {
            let detail = format!("slot {slot} is declared as {kind:?}, and is to be a directory");
            return Err(Stop::refuse(RefusalReason::HandleMismatch, detail));
        }
        // Not kept: by the time of the scrub the child is there.
        launch.push(Op::fchdir(open.fd.as_raw_fd()));
        launch.reusable();
        Ok(())
    }

    fn probe(&self, _: &dyn Host) -> Support {
        Support::yes("fchdir")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use portcullis_core::descriptor::{DescriptorShape, DescriptorSlot};
    use portcullis_core::lowering::OpenSlot;
    use portcullis_core::plan::Target;

    use super::*;

    fn lowered(kind: DescriptorKind, named: u32) -> Result<Vec<String>, RefusalReason> {
        let file = File::open("/").unwrap();
        let expected = DescriptorShape { kind, writable: false };
        let slot = DescriptorSlot { role: DescriptorRole::ReadRoot, expected, slot_index: 9 };
        let slots = [OpenSlot { slot, fd: file.as_fd() }];
        let target = Target::default();
        let mut launch = Lowering::new(&target, &slots);
        match Set.lower(&Params::of(&Wire { slot: named }).unwrap(), &mut launch) {
            Ok(()) => {
                let lowered = launch.finish(vec![]);
                Ok(lowered.program.ops().iter().map(|(_, op)| op.name().to_owned()).collect())
            }
            Err(Stop::Refused(refusal)) => Err(refusal.reason),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn the_child_changes_to_the_directory_by_its_fd() {
        assert_eq!(lowered(DescriptorKind::Directory, 9), Ok(vec!["fchdir".to_owned()]));
    }

    #[test]
    fn what_is_no_directory_is_a_mismatch_and_what_is_not_declared_an_invalid_plan() {
        assert_eq!(lowered(DescriptorKind::Regular, 9), Err(RefusalReason::HandleMismatch));
        assert_eq!(lowered(DescriptorKind::Directory, 8), Err(RefusalReason::PlanInvalid));
    }

    #[test]
    fn a_path_of_something_else_is_told_to_who_wrote_it() {
        for (path, errno) in [("/etc/passwd", libc::ENOTDIR), ("/no/such", libc::ENOENT)] {
            let policy = Params::of(&WorkingDirectory { path: path.into() }).unwrap();
            let Err(OpenError::Path { source, .. }) = Set.open(&policy, &mut Opening::default())
            else {
                panic!("{path} was opened");
            };
            assert_eq!(source.raw_os_error(), Some(errno), "{path}");
        }
    }
}
