//! A process that this one started, and reaps exactly once.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use portcullis_launcher::process::wait;
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};

use crate::control::wait_for;

/// A launcher's process. While its end is not known here its pid is its own.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    ended: Option<ExitStatus>,
}

impl Process {
    /// The process of this pid, which is a child of this one.
    pub(crate) fn new(pid: Pid) -> Self {
        Self { pid, ended: None }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// How it ended, if it has been reaped.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        self.ended
    }

    pub(crate) fn kill(&self) {
        if self.ended.is_none() {
            let _ = kill_process(self.pid, Signal::KILL);
        }
    }

    /// Kills it unless it ends by itself in time.
    pub(crate) fn kill_after(&self, limit: Duration) {
        if self.ended.is_some() {
            return;
        }
        let ended = pidfd_open(self.pid, PidfdFlags::empty())
            .is_ok_and(|pidfd| wait_for(&pidfd.as_fd(), Some(limit)) == Ok(true));
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

    /// Waits for its end.
    pub(crate) fn reap(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        let status = match wait(self.pid) {
            Ok(status) => ExitStatus::from_raw(status.as_raw()),
            // A process that ignores SIGCHLD, or has another part that waits for every child, is not told
            // how its launcher ended. What counts of that is in the transcript.
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => ExitStatus::default(),
            Err(error) => return Err(error),
        };
        self.ended = Some(status);
        Ok(status)
    }
}
