//! A launch of a resident launcher, from its exec until all is told and done.

use std::os::fd::{AsFd, OwnedFd};

use portcullis_core::transcript::TranscriptWriter;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, pidfd_send_signal,
    waitid,
};

use crate::coordinator::{End, Launched, note_end};
use crate::outbox::Outbox;
use crate::process;

/// What is still to be told of a launch, and to be done.
pub(crate) struct Flight {
    transcript: TranscriptWriter<Outbox>,
    /// Whether the control channel's reader is gone.
    left: bool,
    stage: Stage,
}

/// What happened to a flight.
#[derive(Clone, Copy, Default)]
pub(crate) struct Happened {
    /// Its workload may have ended.
    ended: bool,
    /// Its control channel's reader is gone.
    left: bool,
}

impl Happened {
    /// What these events of its workload and its control channel mean.
    pub(crate) fn of(workload: Option<PollFlags>, channel: Option<PollFlags>) -> Self {
        let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        Self {
            ended: workload.is_some_and(|events| !events.is_empty()),
            left: channel.is_some_and(|events| events.intersects(gone)),
        }
    }
}

enum Stage {
    /// The workload runs.
    Runs(Workload),
    /// It has ended, and has not been reaped: until its end has been told its pid is no other's, so that a
    /// supervisor may send a signal to it.
    Ended(Workload),
    /// There is nothing left to do but to tell.
    Done,
}

struct Workload {
    pid: Pid,
    pidfd: OwnedFd,
    end: End,
}

impl Flight {
    /// The flight of a workload that was launched, unless it is over already.
    pub(crate) fn of(mut transcript: TranscriptWriter<Outbox>, launched: Launched) -> Option<Self> {
        let Launched { child, end } = launched;
        let pid = child.pid();
        let stage = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Stage::Runs(Workload { pid, pidfd, end }),
            // Nobody would see it end.
            Err(errno) => {
                transcript.note(&format!("workload not watched: {errno}"));
                let _ = kill_process(pid, Signal::KILL);
                let _ = process::wait(pid);
                note_end(&mut transcript, None, Some(Signal::KILL.as_raw()), false);
                end.tear_down(&mut transcript);
                Stage::Done
            }
        };
        let mut flight = Self { transcript, left: false, stage };
        flight.go_on(Happened::default()).then_some(flight)
    }

    /// The flight of a launch without a workload, unless all of it has been told.
    pub(crate) fn none(transcript: TranscriptWriter<Outbox>) -> Option<Self> {
        let mut flight = Self { transcript, left: false, stage: Stage::Done };
        flight.go_on(Happened::default()).then_some(flight)
    }

    /// The control channel, to wait for room in it; that its reader is gone shows unasked.
    pub(crate) fn channel(&self) -> Option<PollFd<'_>> {
        let outbox = self.transcript.channel();
        let events = if outbox.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        (!self.left).then(|| PollFd::from_borrowed_fd(outbox.as_fd(), events))
    }

    /// The workload that runs, to wait for its end.
    pub(crate) fn workload(&self) -> Option<PollFd<'_>> {
        match &self.stage {
            Stage::Runs(workload) => Some(PollFd::new(&workload.pidfd, PollFlags::IN)),
            Stage::Ended(_) | Stage::Done => None,
        }
    }

    /// Does and tells what there is to do and to tell now; false when that was all.
    pub(crate) fn go_on(&mut self, Happened { ended, left }: Happened) -> bool {
        self.left |= left;
        if let Stage::Runs(workload) = &self.stage {
            if left {
                // Its supervisor has dropped it, or is no more.
                workload.kill();
            }
            if ended && workload.note_end(&mut self.transcript, WaitIdOptions::NOHANG) {
                self.advance();
            }
        }
        if self.tell() && matches!(self.stage, Stage::Ended(_)) {
            self.advance();
            self.tell();
        }
        !(matches!(self.stage, Stage::Done) && self.transcript.channel().is_empty())
    }

    /// Kills the workload, where it runs.
    pub(crate) fn kill(&self) {
        if let Stage::Runs(workload) = &self.stage {
            workload.kill();
        }
    }

    /// Waits for the workload's end, and tells what can be told without waiting for a reader.
    pub(crate) fn conclude(mut self) {
        if let Stage::Runs(workload) = &self.stage {
            workload.note_end(&mut self.transcript, WaitIdOptions::empty());
            self.advance();
        }
        self.tell();
        self.advance();
        self.tell();
    }

    /// Whether all that there was to tell has been told, or has nobody to be told to.
    fn tell(&mut self) -> bool {
        if self.transcript.flush().is_err() {
            return true;
        }
        let outbox = self.transcript.channel_mut();
        outbox.post().is_err() || outbox.is_empty()
    }

    fn advance(&mut self) {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Runs(workload) => Stage::Ended(workload),
            Stage::Ended(Workload { pid, end, .. }) => {
                let _ = process::wait(pid);
                end.tear_down(&mut self.transcript);
                Stage::Done
            }
            Stage::Done => Stage::Done,
        };
    }
}

impl Workload {
    fn kill(&self) {
        // One that has ended needs it no more.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Notes its end, if that has come, and does not reap it.
    fn note_end(&self, transcript: &mut TranscriptWriter<Outbox>, how: WaitIdOptions) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | how;
        match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(Some(status)) => {
                let (code, signal) = (status.exit_status(), status.terminating_signal());
                note_end(transcript, code, signal, status.dumped());
            }
            Ok(None) => return false,
            Err(errno) => transcript.note(&format!("workload not waited for: {errno}")),
        }
        true
    }
}
