//! A process that this one started, and reaps exactly once.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use portcullis_launcher::process::wait;
use rustix::io::retry_on_intr;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid,
};

use crate::control::wait_for;

/// A launcher's process.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    /// What signals go by: the number may be another's where somebody else waits for this process's children.
    pidfd: Option<OwnedFd>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// The process of this pid, which is a child of this one.
    pub(crate) fn new(pid: Pid) -> Self {
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok();
        Self { pid, pidfd, ended: None }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// How it ended, if it has been reaped.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        self.ended
    }

    pub(crate) fn kill(&self) {
        if let (None, Some(pidfd)) = (self.ended, &self.pidfd) {
            // One that has ended needs no signal.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }

    /// Kills it unless it ends by itself in time.
    pub(crate) fn kill_after(&self, limit: Duration) {
        if self.ended.is_some() {
            return;
        }
        let pidfd = self.pidfd.as_ref();
        let ended = pidfd.is_some_and(|pidfd| wait_for(&pidfd.as_fd(), Some(limit)) == Ok(true));
        if !ended {
            self.kill();
        }
    }

    /// Its end, if that has come.
    pub(crate) fn try_reap(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            let ended = retry_on_intr(|| waitpid(Some(self.pid), WaitOptions::NOHANG))?;
            self.ended = ended.map(|(_, status)| ExitStatus::from_raw(status.as_raw()));
        }
        Ok(self.ended)
    }

    /// Waits for the end of a workload that this process has become: how it ended is told nowhere else.
    pub(crate) fn status(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        let status = ExitStatus::from_raw(wait(self.pid)?.as_raw());
        self.ended = Some(status);
        Ok(status)
    }

    /// Waits for its end.
    pub(crate) fn reap(&mut self) -> io::Result<ExitStatus> {
        let status = match self.status() {
            Ok(status) => status,
            // A process that ignores SIGCHLD, or has another part that waits for every child, is not told
            // how its launcher ended. What counts of that of a child is in the transcript.
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => ExitStatus::default(),
            Err(error) => return Err(error),
        };
        self.ended = Some(status);
        Ok(status)
    }
}
