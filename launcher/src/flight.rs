//! A launch of a resident launcher, from its child's clone until all is told and done.

use std::os::fd::{AsFd, OwnedFd};

use portcullis_core::mechanism::Stop;
use portcullis_core::transcript::TranscriptWriter;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::coordinator::{End, note_end, note_stop};
use crate::launching::{Launched, Launching};
use crate::outbox::Outbox;
use crate::process;

/// What is still to be told of a launch, and to be done.
pub(crate) struct Flight {
    transcript: TranscriptWriter<Outbox>,
    /// Whether nothing has been told yet, for there is soon more to tell at once.
    silent: bool,
    /// Whether the control channel's reader is gone.
    left: bool,
    stage: Stage,
}

/// What happened to a flight.
#[derive(Clone, Copy, Default)]
pub(crate) struct Happened {
    /// What its stage waits for may have come.
    pub(crate) came: bool,
    /// Its control channel's reader is gone.
    pub(crate) left: bool,
    /// There is room in its control channel, or nothing has happened to any flight for a while.
    pub(crate) tell: bool,
}

impl Happened {
    /// What these events of what its stage waits for and of its control channel mean.
    pub(crate) fn of(awaited: Option<PollFlags>, channel: Option<PollFlags>) -> Self {
        let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        Self {
            came: awaited.is_some_and(|events| !events.is_empty()),
            left: channel.is_some_and(|events| events.intersects(gone)),
            tell: channel.is_some_and(|events| events.contains(PollFlags::OUT)),
        }
    }
}

enum Stage {
    /// The child is on its way.
    Launching(Launching),
    /// It did not arrive, and was killed where it had not ended. What stopped it is told when it has been
    /// reaped.
    Stopped(Launching, Stop),
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
    /// The flight of a launch whose child is on its way.
    pub(crate) fn of(transcript: TranscriptWriter<Outbox>, launching: Launching) -> Self {
        let stage = Stage::Launching(launching);
        Self { transcript, silent: true, left: false, stage }
    }

    /// The flight of a launch without a child, unless all of it has been told.
    pub(crate) fn none(transcript: TranscriptWriter<Outbox>) -> Option<Self> {
        let mut flight = Self { transcript, silent: false, left: false, stage: Stage::Done };
        flight.go_on(Happened { tell: true, ..Happened::default() }).then_some(flight)
    }

    /// Whether nothing has been told yet.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    /// The control channel, to wait for room in it; that its reader is gone shows unasked.
    pub(crate) fn channel(&self) -> Option<PollFd<'_>> {
        let outbox = self.transcript.channel();
        let events = if outbox.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        (!self.left).then(|| PollFd::from_borrowed_fd(outbox.as_fd(), events))
    }

    /// What its stage waits for.
    pub(crate) fn awaited(&self) -> Option<PollFd<'_>> {
        let (fd, events) = match &self.stage {
            // Its end alone, which shows unasked: a child that has written has yet to end.
            Stage::Launching(launching) => (launching.pipe(), PollFlags::empty()),
            Stage::Stopped(launching, _) => (launching.child.pidfd()?, PollFlags::IN),
            Stage::Runs(workload) => (workload.pidfd.as_fd(), PollFlags::IN),
            Stage::Ended(_) | Stage::Done => return None,
        };
        Some(PollFd::from_borrowed_fd(fd, events))
    }

    /// Does and tells what there is to do and to tell now; false when that was all.
    pub(crate) fn go_on(&mut self, happened: Happened) -> bool {
        if happened.left {
            // Its supervisor has dropped it, or is no more.
            self.left = true;
            self.kill();
        }
        if happened.came {
            self.advance(WaitIdOptions::NOHANG);
        }
        let Happened { came, left, tell } = happened;
        if (came || left || tell) && self.tell() && matches!(self.stage, Stage::Ended(_)) {
            self.advance(WaitIdOptions::NOHANG);
            self.tell();
        }
        !(matches!(self.stage, Stage::Done) && self.transcript.channel().is_empty())
    }

    /// Waits until the child has exec'd or ended.
    pub(crate) fn land(&mut self) -> bool {
        self.go_on(Happened { came: true, ..Happened::default() })
    }

    /// Kills the child, or the workload that it has become.
    pub(crate) fn kill(&self) {
        match &self.stage {
            Stage::Launching(launching) => launching.child.kill(),
            Stage::Runs(workload) => workload.kill(),
            Stage::Stopped(..) | Stage::Ended(_) | Stage::Done => {}
        }
    }

    /// Waits for its end, and tells what can be told without waiting for a reader.
    pub(crate) fn conclude(mut self) {
        while !matches!(self.stage, Stage::Done) {
            self.advance(WaitIdOptions::empty());
            self.tell();
        }
    }

    /// Whether all that there was to tell has been told, or has nobody to be told to.
    fn tell(&mut self) -> bool {
        self.silent = false;
        if self.transcript.flush().is_err() {
            return true;
        }
        let outbox = self.transcript.channel_mut();
        outbox.post().is_err() || outbox.is_empty()
    }

    /// Goes to the next stage. What this one waits for has come, or is waited for here if `how` says so.
    fn advance(&mut self, how: WaitIdOptions) {
        let transcript = &mut self.transcript;
        self.stage = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Launching(mut launching) => match launching.land(transcript) {
                Ok(()) => Stage::Runs(Workload::of(launching.launched())),
                Err(stop) => {
                    launching.child.kill();
                    Stage::Stopped(launching, stop)
                }
            },
            Stage::Stopped(launching, stop) => {
                drop(launching);
                note_stop(transcript, &stop);
                Stage::Done
            }
            Stage::Runs(workload) if workload.note_end(transcript, how) => Stage::Ended(workload),
            Stage::Ended(Workload { pid, end, .. }) => {
                let _ = process::wait(pid);
                end.tear_down(transcript);
                Stage::Done
            }
            same @ (Stage::Runs(_) | Stage::Done) => same,
        };
    }
}

impl Workload {
    fn of(Launched { pid, pidfd, end }: Launched) -> Self {
        Self { pid, pidfd: pidfd.expect("a resident launcher asks for one"), end }
    }

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
