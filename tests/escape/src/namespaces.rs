//! Namespaces and mounts: capabilities regained in one's own, and others' joined.

use std::env;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::attempt::{Attempt, Outside, escapes, reached};
use crate::files::c;
use crate::process::pidfd;
use crate::resources::{end, reap};
use crate::sys::{call, owned};

/// Makes a namespace; as who may not, together with a user namespace in which it may.
fn unshare(flag: i32) -> Attempt {
    match call!(libc::SYS_unshare, flag) {
        Err(Errno::PERM) => call!(libc::SYS_unshare, flag | libc::CLONE_NEWUSER)?,
        other => other?,
    };
    Ok("made".into())
}

fn join(at: &Outside, name: &str, flag: i32) -> Attempt {
    let namespace = OwnedFd::from(File::open(at.victims(&format!("ns/{name}"))?)?);
    call!(libc::SYS_setns, &namespace, flag)?;
    Ok("joined".into())
}

/// Whether a process was made, which ends at once.
fn made(clone: Result<i64, Errno>) -> Attempt {
    match clone? {
        0 => end(0),
        pid => {
            reap(pid);
            Ok("made".into())
        }
    }
}

escapes! { "namespaces":
    /// Regains every capability in a user namespace of its own.
    fn unshare_user(_) {
        call!(libc::SYS_unshare, libc::CLONE_NEWUSER)?;
        let status = fs::read_to_string("/proc/self/status")?;
        let effective = status.lines().find(|line| line.starts_with("CapEff")).unwrap_or_default();
        Ok(effective.to_owned())
    }

    /// Makes a mount namespace.
    fn unshare_mounts(_) {
        unshare(libc::CLONE_NEWNS)
    }

    /// Makes a namespace of names.
    fn unshare_names(_) {
        unshare(libc::CLONE_NEWUTS)
    }

    /// Makes an IPC namespace.
    fn unshare_ipc(_) {
        unshare(libc::CLONE_NEWIPC)
    }

    /// Makes a network namespace.
    fn unshare_network(_) {
        unshare(libc::CLONE_NEWNET)
    }

    /// Makes a PID namespace.
    fn unshare_pids(_) {
        unshare(libc::CLONE_NEWPID)
    }

    /// Makes a cgroup namespace.
    fn unshare_cgroups(_) {
        unshare(libc::CLONE_NEWCGROUP)
    }

    /// Makes a time namespace.
    fn unshare_time(_) {
        unshare(libc::CLONE_NEWTIME)
    }

    /// Makes a process in a user namespace with clone.
    fn clone_user(_) {
        made(call!(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0))
    }

    /// Makes a process in a user namespace with clone3, whose flags no filter sees.
    fn clone3_user(_) {
        let mut arguments = [0; 88];
        arguments[..8].copy_from_slice(&(libc::CLONE_NEWUSER as u64).to_ne_bytes());
        arguments[32..40].copy_from_slice(&(libc::SIGCHLD as u64).to_ne_bytes());
        made(call!(libc::SYS_clone3, &mut arguments, 88))
    }

    /// Joins a process's mount namespace.
    fn join_mounts(at) {
        join(at, "mnt", libc::CLONE_NEWNS)
    }

    /// Joins a process's network namespace.
    fn join_network(at) {
        join(at, "net", libc::CLONE_NEWNET)
    }

    /// Joins a process's PID namespace.
    fn join_pids(at) {
        join(at, "pid", libc::CLONE_NEWPID)
    }

    /// Joins a process's network namespace by its pidfd.
    fn join_by_pidfd(at) {
        call!(libc::SYS_setns, &pidfd(at)?, libc::CLONE_NEWNET)?;
        Ok("joined".into())
    }

    /// Asks to mount a file system of a kind that there is not.
    fn mount(at) {
        let place = c(&at.writable("")?)?;
        let kind = c"portcullis-none";
        reached(call!(libc::SYS_mount, 0, place.as_c_str(), kind, 0, 0), &[Errno::NODEV])
    }

    /// Asks to unmount what is not mounted.
    fn unmount(at) {
        let place = c(&at.writable("")?)?;
        reached(call!(libc::SYS_umount2, place.as_c_str(), 0), &[Errno::INVAL])
    }

    /// Asks to move a mount, by flags that there are not.
    fn move_mount(_) {
        reached(call!(libc::SYS_move_mount, -1, c"", -1, c"", -1), &[Errno::INVAL])
    }

    /// Copies the mount of a folder outside.
    fn copy_mount(at) {
        const CLONE: i32 = 1;
        let place = c(&at.outside("")?)?;
        let fd = owned(call!(libc::SYS_open_tree, libc::AT_FDCWD, place.as_c_str(), CLONE)?)?;
        let again = format!("/proc/self/fd/{}/secret", std::os::fd::AsRawFd::as_raw_fd(&fd));
        Ok(fs::read_to_string(again)?)
    }

    /// Opens a new file system.
    fn open_file_system(_) {
        owned(call!(libc::SYS_fsopen, c"tmpfs", 0)?)?;
        Ok("open".into())
    }

    /// Opens a mounted file system to change it.
    fn pick_file_system(_) {
        owned(call!(libc::SYS_fspick, libc::AT_FDCWD, c"/", 0)?)?;
        Ok("open".into())
    }

    /// Asks to make a mount read-only that there is not.
    fn change_mount(_) {
        let read_only: Vec<u8> = [1_u64, 0, 0, 0].into_iter().flat_map(u64::to_ne_bytes).collect();
        let call = call!(libc::SYS_mount_setattr, -1, c"", libc::AT_EMPTY_PATH, read_only.as_slice(), 32);
        reached(call, &[Errno::BADF])
    }

    /// Asks to change the root mount for one that is not there.
    fn pivot_root(_) {
        let nowhere = c"/nonexistent/portcullis";
        reached(call!(libc::SYS_pivot_root, nowhere, nowhere), &[Errno::NOENT])
    }

    /// Changes its root directory.
    fn change_root(at) {
        let place = c(&at.outside("")?)?;
        call!(libc::SYS_chroot, place.as_c_str())?;
        env::set_current_dir("/")?;
        Ok(fs::read_to_string(PathBuf::from("/secret"))?)
    }

    /// Asks to name the machine, by a length that no name has.
    fn host_name(_) {
        reached(call!(libc::SYS_sethostname, c"", -1), &[Errno::INVAL])
    }

    /// Asks to name the machine's domain, by a length that no name has.
    fn domain_name(_) {
        reached(call!(libc::SYS_setdomainname, c"", -1), &[Errno::INVAL])
    }
}
