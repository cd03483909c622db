//! Who the launcher is, and how its child becomes somebody else.

use std::fs;

use portcullis_core::Lowering;
use portcullis_core::mechanism::Stop;
use portcullis_core::program::Op;

use crate::capability::CapabilitySet;

/// The launcher's credentials, as
/// [proc_pid_status(5)](https://man7.org/linux/man-pages/man5/proc_pid_status.5.html) has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Launcher {
    /// Real, effective, saved and file-system uid.
    pub(crate) uids: [u32; 4],
    /// Real, effective, saved and file-system gid.
    pub(crate) gids: [u32; 4],
    /// The supplementary groups, sorted.
    pub(crate) groups: Vec<u32>,
    pub(crate) inheritable: CapabilitySet,
    pub(crate) permitted: CapabilitySet,
    pub(crate) effective: CapabilitySet,
    pub(crate) bounding: CapabilitySet,
    pub(crate) no_new_privs: bool,
}

impl Launcher {
    const STATUS: &'static str = "/proc/self/status";

    /// Asks the kernel.
    ///
    /// # Errors
    ///
    /// A fault, where there is no procfs to ask.
    pub(crate) fn read() -> Result<Self, Stop> {
        let path = Self::STATUS;
        let status = fs::read_to_string(path)
            .map_err(|error| Stop::fault(format!("reading {path}: {error}")))?;
        Self::parse(&status).ok_or_else(|| Stop::fault(format!("{path} lacks a line")))
    }

    fn parse(status: &str) -> Option<Self> {
        let field =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let ids = |name: &str| -> Option<Vec<u32>> {
            field(name)?.split_whitespace().map(|id| id.parse().ok()).collect()
        };
        let set = |name: &str| u64::from_str_radix(field(name)?.trim(), 16).ok().map(CapabilitySet);
        let mut groups = ids("Groups")?;
        groups.sort_unstable();
        Some(Self {
            uids: ids("Uid")?.try_into().ok()?,
            gids: ids("Gid")?.try_into().ok()?,
            groups,
            inheritable: set("CapInh")?,
            permitted: set("CapPrm")?,
            effective: set("CapEff")?,
            bounding: set("CapBnd")?,
            no_new_privs: field("NoNewPrivs")?.trim() == "1",
        })
    }
}

/// All capabilities that this kernel has.
///
/// # Errors
///
/// A fault, where it does not say.
pub(crate) fn all_capabilities() -> Result<CapabilitySet, Stop> {
    let path = "/proc/sys/kernel/cap_last_cap";
    let text = fs::read_to_string(path)
        .map_err(|error| Stop::fault(format!("reading {path}: {error}")))?;
    let last = text.trim().parse();
    let last =
        last.map_err(|_| Stop::fault(format!("{path} holds {text:?}, which is no number")))?;
    Ok(CapabilitySet::up_to(last))
}

/// Has the child become `uid` and `gid`.
pub(crate) fn become_user(launch: &mut Lowering<'_>, uid: u32, gid: u32) {
    // A user that is not root may set no group: so the group first.
    launch.push(Op::set_gid(gid));
    launch.push(Op::set_uid(uid));
    // commit_creds of the kernel's kernel/cred.c: a change of credentials makes the memory, which is the
    // launcher's too, as dumpable as fs.suid_dumpable says, and forgets the parent-death signal.
    launch.push(Op::not_dumpable());
    launch.rearm_parent_death_signal();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_and_one_that_lacks_a_line_is_not() {
        let status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 3 \nCapInh:\t0\n\
                      CapPrm:\t000001fffeffffff\nCapEff:\t80\nCapBnd:\t1\nCapAmb:\t0\nNoNewPrivs:\t1\n";
        let launcher = Launcher::parse(status).unwrap();
        assert_eq!((launcher.uids, launcher.gids), ([1, 2, 3, 4], [5, 6, 7, 8]));
        assert_eq!(launcher.groups, [3, 9]);
        assert_eq!(launcher.permitted.0, 0x1ff_feff_ffff);
        assert_eq!(launcher.effective.0, 0x80);
        assert!(launcher.no_new_privs);
        for line in status.lines().filter(|line| !line.contains("Name") && !line.contains("CapAmb"))
        {
            let without = status.replace(&format!("{line}\n"), "");
            assert_eq!(Launcher::parse(&without), None, "{line}");
        }
    }

    #[test]
    fn the_kernel_says_who_this_is() {
        let launcher = Launcher::read().unwrap();
        assert_eq!(launcher.uids[1], rustix::process::geteuid().as_raw());
        assert!(launcher.permitted.minus(all_capabilities().unwrap()).is_empty());
    }
}
