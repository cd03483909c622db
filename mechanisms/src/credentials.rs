#![doc = include_str!("credentials.md")]

use portcullis_core::lowering::Remark;
use portcullis_core::mechanism::{
    Declaration, Demonstration, Host, Mechanism, OpenError, Opening, Phase, Policy, Repeat, Stop,
    Support,
};
use portcullis_core::program::Op;
use portcullis_core::state::RefusalReason;
use portcullis_core::{Lowering, Params};
use serde::{Deserialize, Serialize};

use crate::capability::Capability;
use crate::identity::{Launcher, become_user};
use crate::userns::{self, UserNamespace};

/// The lowering id.
pub const ID: &str = "linux.credentials.set.v1";

static DECLARATION: Declaration = Declaration {
    id: ID,
    version: 1,
    phase: Phase::Privilege,
    rank: 100,
    rank_reason: "after limits and attributes, which may need root, and before the capabilities that \
                  it needs are given up",
    repeat: Repeat::Once,
    requires: &[],
    conflicts: &[],
    summary: "the workload has this uid, this gid and these supplementary groups",
    kernel_floor: "2.6.26",
    params: "{uid: uint, gid: uint, ? groups: [* uint]}",
    example: r#"{"uid": 65534, "gid": 65534, "groups": [100]}"#,
    guide: include_str!("credentials.md"),
    demonstration: Demonstration {
        policy: r#"{"uid": 65533, "gid": 65533}"#,
        with: &[],
        script: "id -u",
        shows: "65533",
    },
};

/// The most supplementary groups that the kernel takes: `NGROUPS_MAX`.
const MAX_GROUPS: usize = 65536;

/// What a policy says, and a plan carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The real, effective and saved uid.
    pub uid: u32,
    /// The real, effective and saved gid.
    pub gid: u32,
    /// The supplementary groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<u32>,
}

impl Policy for Credentials {
    const ID: &'static str = ID;
}

impl Credentials {
    /// To the kernel the highest number means "leave it as it is".
    fn check(&self) -> Result<(), String> {
        let Self { uid, gid, groups } = self;
        if [uid, gid].into_iter().chain(groups).any(|id| *id == u32::MAX) {
            return Err(format!("{} stands for no uid and no gid", u32::MAX));
        }
        if groups.len() > MAX_GROUPS {
            let count = groups.len();
            return Err(format!("{count} groups, and the kernel takes {MAX_GROUPS}"));
        }
        Ok(())
    }

    /// Whether the groups are to be set, by a launcher that is in the namespace of the workload. They
    /// are not where there is nothing to change and no capability to do it with.
    fn sets_groups_here(&self, launcher: &Launcher) -> Result<bool, Stop> {
        let may = |needed| launcher.effective.has(needed);
        let mut groups = self.groups.clone();
        groups.sort_unstable();
        let same_groups = groups == launcher.groups;
        let lacking = [
            (Capability::SETUID, launcher.uids.iter().all(|own| *own == self.uid)),
            (Capability::SETGID, same_groups && launcher.gids.iter().all(|own| *own == self.gid)),
        ];
        for (needed, unchanged) in lacking {
            if !may(needed) && !unchanged {
                let Self { uid, gid, .. } = self;
                let detail = format!(
                    "uid {uid}, gid {gid}, groups {groups:?} are not the launcher's own ({}, {}, {:?}), \
                     and it has not {needed}; a launcher that has it, or {} with a map of these ids, \
                     would help",
                    launcher.uids[1],
                    launcher.gids[1],
                    launcher.groups,
                    userns::ID,
                );
                return Err(Stop::refuse(RefusalReason::MissingPrimitive, detail));
            }
        }
        Ok(may(Capability::SETGID))
    }

    /// Whether the groups are to be set, inside a user namespace.
    fn sets_groups_in(&self, namespace: &UserNamespace, launcher: &Launcher) -> Result<bool, Stop> {
        let invalid = |detail| Err(Stop::refuse(RefusalReason::PlanInvalid, detail));
        if !namespace.has_uid(self.uid) {
            return invalid(format!("uid {} is not mapped by {}", self.uid, userns::ID));
        }
        if let Some(gid) =
            [self.gid].iter().chain(&self.groups).find(|gid| !namespace.has_gid(**gid))
        {
            return invalid(format!("gid {gid} is not mapped by {}", userns::ID));
        }
        if namespace.allows_setgroups(launcher.gids[1]) {
            return Ok(true);
        }
        if !self.groups.is_empty() {
            return invalid(format!(
                "groups are asked for, and setgroups is denied in the user namespace: {} needs a gid_map \
                 of more than the launcher's own gid",
                userns::ID
            ));
        }
        if !launcher.groups.is_empty() {
            let detail = format!(
                "the launcher's groups {:?} can't be dropped, for setgroups is denied in the user \
                 namespace; a launcher without them, or a gid_map of more than its own gid, would help",
                launcher.groups
            );
            return Err(Stop::refuse(RefusalReason::MissingPrimitive, detail));
        }
        Ok(false)
    }
}

struct Set;

portcullis_core::register!(Set);

impl Mechanism for Set {
    fn declaration(&self) -> &'static Declaration {
        &DECLARATION
    }

    fn open(&self, policy: &Params, _: &mut Opening) -> Result<Params, OpenError> {
        let policy: Credentials = policy.parse()?;
        policy.check().map_err(OpenError::Unusable)?;
        Ok(Params::of(&policy)?)
    }

    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        let wire: Credentials = params.parse()?;
        wire.check().map_err(|why| Stop::refuse(RefusalReason::PlanInvalid, why))?;
        let launcher = Launcher::read()?;
        let sets_groups = match launch.params_of(userns::ID) {
            Some(namespace) => wire.sets_groups_in(&namespace.parse()?, &launcher)?,
            None => wire.sets_groups_here(&launcher)?,
        };
        // Whoever made a user namespace may signal what is in it.
        let stranger = !launch.schedules(userns::ID) && wire.uid != launcher.uids[1];
        if stranger && !launcher.effective.has(Capability::KILL) {
            let text = "the workload outlives a launcher that is killed: one without CAP_KILL may not \
                        signal another user's process";
            launch.remark(Remark::Residual, text);
        }
        launch.push(Op::keep_capabilities());
        if sets_groups {
            launch.push(Op::set_groups(&wire.groups));
        }
        become_user(launch, wire.uid, wire.gid);
        // To leave uid 0 clears it (capabilities(7), "Effect of user ID changes on capabilities"); a
        // launcher that has another uid, and ambient capabilities, would hand them on.
        launch.push(Op::clear_ambient_set());
        launch.reusable();
        Ok(())
    }

    fn probe(&self, _: &dyn Host) -> Support {
        let lacking = Launcher::read().map(|launcher| {
            let needed = [Capability::SETUID, Capability::SETGID];
            needed.into_iter().find(|needed| !launcher.effective.has(*needed))
        });
        match lacking {
            Ok(None) => Support::yes("any uid and gid"),
            Ok(Some(capability)) => Support::no(format!(
                "the launcher has not {capability}; in a user namespace it can choose among the ids that \
                 are mapped"
            )),
            Err(stop) => Support::no(stop.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use portcullis_core::plan::Target;

    use super::*;

    fn launcher(effective: &[Capability]) -> Launcher {
        Launcher {
            uids: [1000; 4],
            gids: [1000; 4],
            groups: vec![24, 100],
            effective: effective.iter().collect(),
            ..Launcher::read().unwrap()
        }
    }

    fn credentials(uid: u32, gid: u32, groups: &[u32]) -> Credentials {
        Credentials { uid, gid, groups: groups.to_vec() }
    }

    fn refused<T: std::fmt::Debug>(result: Result<T, Stop>, reason: RefusalReason, part: &str) {
        let Err(Stop::Refused(refusal)) = result else { panic!("{part}: {result:?}") };
        assert_eq!(refusal.reason, reason, "{}", refusal.detail);
        assert!(refusal.detail.contains(part), "{part}: {}", refusal.detail);
    }

    #[test]
    fn no_id_is_the_highest_number() {
        for wire in [
            credentials(u32::MAX, 1, &[]),
            credentials(1, u32::MAX, &[]),
            credentials(1, 1, &[5, u32::MAX]),
        ] {
            let target = Target::default();
            let params = Params::of(&wire).unwrap();
            let lowered = Set.lower(&params, &mut Lowering::new(&target, &[]));
            refused(lowered, RefusalReason::PlanInvalid, "4294967295");
            assert!(Set.open(&params, &mut Opening::new(Target::default())).is_err());
        }
        let many = credentials(1, 1, &vec![7; MAX_GROUPS + 1]);
        assert!(many.check().unwrap_err().contains("65536"));
    }

    #[test]
    fn without_the_capabilities_nothing_may_change() {
        let both = [Capability::SETUID, Capability::SETGID];
        let missing = RefusalReason::MissingPrimitive;
        let same = credentials(1000, 1000, &[100, 24]);
        assert_eq!(same.sets_groups_here(&launcher(&[])), Ok(false));
        for (wire, part) in [
            (credentials(0, 1000, &[24, 100]), "setuid"),
            (credentials(1000, 0, &[24, 100]), "setgid"),
            (credentials(1000, 1000, &[]), "setgid"),
        ] {
            refused(wire.sets_groups_here(&launcher(&[])), missing, part);
            assert_eq!(wire.sets_groups_here(&launcher(&both)), Ok(true));
        }
        let other = credentials(0, 0, &[]);
        refused(other.sets_groups_here(&launcher(&both[..1])), missing, "setgid");
        refused(other.sets_groups_here(&launcher(&both[1..])), missing, "setuid");
    }

    #[test]
    fn in_a_user_namespace_the_ids_are_those_that_it_maps() {
        let launcher = Launcher { groups: vec![], ..launcher(&[]) };
        let invalid = RefusalReason::PlanInvalid;
        let own = UserNamespace { uid: 5, gid: 6, ..UserNamespace::default() };
        let into = |wire: Credentials, namespace| wire.sets_groups_in(namespace, &launcher);
        assert_eq!(into(credentials(5, 6, &[]), &own), Ok(false));
        refused(into(credentials(0, 6, &[]), &own), invalid, "uid 0");
        refused(into(credentials(5, 0, &[]), &own), invalid, "gid 0");
        refused(into(credentials(5, 6, &[7]), &own), invalid, "gid 7");
        refused(into(credentials(5, 6, &[6]), &own), invalid, "setgroups is denied");
        let wide = UserNamespace {
            uid_map: vec![[0, 100_000, 10].into()],
            gid_map: vec![[0, 100_000, 10].into()],
            ..UserNamespace::default()
        };
        assert_eq!(into(credentials(9, 9, &[0, 3]), &wide), Ok(true));
        refused(into(credentials(9, 10, &[]), &wide), invalid, "gid 10");
        let with_groups = Launcher { groups: vec![24], ..launcher.clone() };
        let stuck = credentials(5, 6, &[]).sets_groups_in(&own, &with_groups);
        refused(stuck, RefusalReason::MissingPrimitive, "[24]");
    }
}
