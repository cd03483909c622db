//! Reading the control channel: the transcript, as it grows.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use portcullis_core::state::LauncherState;
use portcullis_core::transcript::Transcript;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, retry_on_intr};

use crate::Error;

/// More than any launcher has to say.
const LIMIT: usize = 1 << 20;

/// As long as a short program runs.
const SILENCE: Duration = Duration::from_millis(10);

/// A control channel, and what came by it so far.
#[derive(Debug)]
pub(crate) struct Control {
    fd: OwnedFd,
    pub(crate) transcript: Transcript,
    partial: Vec<u8>,
    total: usize,
    ended: bool,
}

impl Control {
    /// A channel that nothing came by yet.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, transcript: Transcript::default(), partial: Vec::new(), total: 0, ended: false }
    }

    /// The channel, to wait on.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Whether the launcher has told all but an exec of its own, which closed the channel.
    pub(crate) fn ended_by_exec(&self) -> bool {
        self.ended && self.transcript.states().last() == Some(&LauncherState::ReadyToExec)
    }

    /// Whether the launcher has closed it.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Whether neither a terminal state has come, nor the end of the channel.
    pub(crate) fn is_to_arrive(&self) -> bool {
        self.transcript.terminal().is_none() && !self.ended
    }

    /// Reads until a terminal state came, or the end of the channel.
    pub(crate) fn read_to_terminal(
        &mut self,
        deadline: &Deadline,
    ) -> Result<Option<LauncherState>, Error> {
        while self.is_to_arrive() {
            if !self.wait(deadline.left())? {
                return Err(deadline.passed());
            }
            self.read()?;
        }
        Ok(self.transcript.terminal())
    }

    /// Waits for the end of the channel, not woken by what comes before it: each wake takes a CPU from the launch.
    /// No longer than a short program runs, for the channel holds only so much.
    pub(crate) fn wait_for_end(&self, deadline: &Deadline) -> Result<(), Error> {
        let limit = deadline.left().map_or(SILENCE, |left| left.min(SILENCE));
        wait_for_any(&mut [PollFd::new(&self.fd, PollFlags::empty())], Some(limit))
            .map(drop)
            .map_err(Error::system("waiting for the launcher"))
    }

    /// Reads to the end of the channel.
    pub(crate) fn read_to_end(&mut self) -> Result<(), Error> {
        while !self.ended {
            self.read()?;
        }
        Ok(())
    }

    /// Reads to the end of the channel, or for as long as `limit`, and keeps an error to itself.
    pub(crate) fn read_to_end_within(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !self.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if !matches!(self.wait(Some(left)), Ok(true)) || self.read().is_err() {
                return;
            }
        }
    }

    /// Leaves the channel open for as long as this process lives.
    pub(crate) fn leave_open(&self) {
        if let Ok(copy) = self.fd.try_clone() {
            std::mem::forget(copy);
        }
    }

    /// Reads what is there; true at the channel's end.
    pub(crate) fn read_available(&mut self) -> Result<bool, Error> {
        while !self.ended && self.wait(Some(Duration::ZERO))? {
            self.read()?;
        }
        Ok(self.ended)
    }

    fn wait(&self, limit: Option<Duration>) -> Result<bool, Error> {
        wait_for(&self.fd, limit).map_err(Error::system("waiting for the launcher"))
    }

    /// Reads once, which blocks where nothing is there.
    pub(crate) fn read(&mut self) -> Result<(), Error> {
        let mut chunk = [0; 4096];
        let length = retry_on_intr(|| read(&self.fd, &mut chunk))
            .map_err(Error::system("reading the control channel"))?;
        if length == 0 {
            self.ended = true;
        }
        self.total += length;
        if self.total > LIMIT {
            return Err(Error::TranscriptTooLong { limit: LIMIT });
        }
        let mut lines = std::mem::take(&mut self.partial);
        lines.extend_from_slice(&chunk[..length]);
        let whole = lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.partial = lines.split_off(whole);
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            self.transcript.line(&line[..line.len() - 1])?;
        }
        Ok(())
    }
}

/// Until when a launcher has to be done.
pub(crate) struct Deadline {
    limit: Duration,
    /// `None` where that is beyond what the clock counts.
    at: Option<Instant>,
}

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Self {
        Self { limit, at: Instant::now().checked_add(limit) }
    }

    /// How long that is from now.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.at.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// What is wrong once there is nothing left.
    pub(crate) fn passed(&self) -> Error {
        Error::TimedOut { limit: self.limit }
    }
}

/// Waits until `fd` can be read, or has ended, for as long as `limit`; false where neither came.
pub(crate) fn wait_for(fd: &impl AsFd, limit: Option<Duration>) -> Result<bool, Errno> {
    wait_for_any(&mut [PollFd::new(fd, PollFlags::IN)], limit)
}

/// Waits until one of these has what it is polled for, for as long as `limit`; false where none has.
pub(crate) fn wait_for_any(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> Result<bool, Errno> {
    // One that is longer than the kernel can be told is none.
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    retry_on_intr(|| poll(fds, limit.as_ref())).map(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use rustix::io::write;
    use rustix::pipe::pipe;

    use super::*;

    fn after(bytes: &[u8]) -> Result<Option<LauncherState>, Error> {
        let (read, end) = pipe().unwrap();
        write(&end, bytes).unwrap();
        drop(end);
        Control::new(read).read_to_terminal(&Deadline::after(Duration::from_secs(5)))
    }

    #[test]
    fn a_transcript_that_ends_early_has_no_terminal() {
        assert_eq!(after(b"LauncherStarted\n").unwrap(), None);
        // Half a line is not a line.
        assert_eq!(after(b"LauncherStarted\nSetupRefused").unwrap(), None);
    }

    #[test]
    fn garbage_and_skipped_states_are_errors() {
        for text in [&b"hello\n"[..], b"LauncherStarted\nPlanVerified\n", b"\xff\n"] {
            assert!(matches!(after(text), Err(Error::Transcript(_))));
        }
    }

    #[test]
    fn what_is_told_is_there_when_the_end_was_waited_for_and_when_that_took_too_long() {
        for ends in [true, false] {
            let (read, end) = pipe().unwrap();
            write(&end, b"LauncherStarted\nSetupRefused\n").unwrap();
            let end = (!ends).then_some(end);
            let mut control = Control::new(read);
            let deadline = Deadline::after(Duration::MAX);
            control.wait_for_end(&deadline).unwrap();
            let told = control.read_to_terminal(&deadline).unwrap();
            assert_eq!(told, Some(LauncherState::SetupRefused));
            drop(end);
        }
    }

    #[test]
    fn a_launcher_that_says_nothing_runs_out_of_time() {
        let (read, _end) = pipe().unwrap();
        let result =
            Control::new(read).read_to_terminal(&Deadline::after(Duration::from_millis(20)));
        assert!(matches!(result, Err(Error::TimedOut { .. })));
    }

    #[test]
    fn a_launcher_that_never_stops_talking_is_cut_off() {
        let (read, end) = pipe().unwrap();
        let talk = std::thread::spawn(move || while write(&end, &[b'#'; 4096]).is_ok() {});
        let mut control = Control::new(read);
        let result = control.read_to_terminal(&Deadline::after(Duration::from_secs(30)));
        assert!(matches!(result, Err(Error::TranscriptTooLong { .. })));
        drop(control);
        talk.join().unwrap();
    }
}
