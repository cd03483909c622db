//! A launch of a resident launcher, from its child's clone until all is told and done.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use portcullis_core::mechanism::Stop;
use portcullis_core::transcript::TranscriptWriter;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::coordinator::{End, note_end, note_stop};
use crate::launching::{FIRST_LOOK, LAST_LOOK, Launched, Launching};
use crate::outbox::Outbox;
use crate::process;
use crate::request::Request;

/// How long nothing may be told of a launch at the most. Few are on their way as long, or, where the end is waited
/// for, run as long; what there is to tell of the others is told at once.
const SILENCE: Duration = Duration::from_millis(10);

/// What is still to be told of a launch, and to be done.
///
/// Its fields are dropped in their order: who waits for the end of the control channel waits for nothing else.
pub(crate) struct Flight {
    transcript: TranscriptWriter<Outbox>,
    /// When something is to be told at the latest; `None` once it has been.
    due: Option<Instant>,
    /// Whether nothing need be told before the workload's end.
    at_end: bool,
    /// Whether the control channel's reader is gone.
    left: bool,
    stage: Stage,
    /// When it is looked again for what nothing shows: that a child that was made ahead has fds of its own, and, without
    /// an error pipe, the exec; `None` where there is nothing to look for.
    look: Option<(Instant, Duration)>,
    /// Fds that are of no more use, and are closed once something has been told, for until then somebody waits, or
    /// when another launch is to have its own.
    spent: Option<(Request, Option<OwnedFd>)>,
}

/// A child that has ended: dropped, it is reaped.
struct Unreaped(Pid);

impl Drop for Unreaped {
    fn drop(&mut self) {
        let _ = process::wait(self.0);
    }
}

/// What happened to a flight.
#[derive(Clone, Copy, Default)]
pub(crate) struct Happened {
    /// What its stage waits for may have come.
    pub(crate) came: bool,
    /// Its control channel's reader is gone.
    pub(crate) left: bool,
    /// There is room in its control channel.
    pub(crate) room: bool,
}

impl Happened {
    /// Whether nothing did.
    pub(crate) fn is_nothing(self) -> bool {
        !(self.came || self.left || self.room)
    }

    /// What these events of what its stage waits for and of its control channel mean.
    pub(crate) fn of(awaited: PollFlags, channel: Option<PollFlags>) -> Self {
        let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        Self {
            came: !awaited.is_empty(),
            left: channel.is_some_and(|events| events.intersects(gone)),
            room: channel.is_some_and(|events| events.contains(PollFlags::OUT)),
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
    /// There is nothing left to do but to tell, and to reap a workload of which nothing is to be told after that.
    Done(#[expect(dead_code, reason = "dropped, it reaps")] Option<Unreaped>),
}

struct Workload {
    pid: Pid,
    pidfd: OwnedFd,
    end: End,
}

impl Flight {
    /// The flight of a launch whose child is on its way.
    pub(crate) fn of(
        transcript: TranscriptWriter<Outbox>,
        launching: Launching,
        request: Request,
    ) -> Self {
        let now = Instant::now();
        let is_looked_for = launching.shares_files || launching.pipe().is_none();
        let (due, look) =
            (Some(now + SILENCE), is_looked_for.then_some((now + FIRST_LOOK, FIRST_LOOK)));
        let (at_end, spent) = (request.at_end, Some((request, None)));
        let stage = Stage::Launching(launching);
        Self { transcript, due, at_end, left: false, stage, look, spent }
    }

    /// The flight of a launch without a child, unless all of it has been told.
    pub(crate) fn none(transcript: TranscriptWriter<Outbox>) -> Option<Self> {
        let (due, look, spent, stage) = (None, None, None, Stage::Done(None));
        let mut flight = Self { transcript, due, at_end: false, left: false, stage, look, spent };
        flight.go_on(Happened { room: true, ..Happened::default() }).then_some(flight)
    }

    /// When it is to go on at the latest, whatever happens.
    pub(crate) fn due(&self) -> Option<Instant> {
        // Where it is waited for the end, that of the pipe is not.
        let look = self.look.filter(|_| !self.waits_for_end());
        [self.due, look.map(|(look, _)| look)].into_iter().flatten().min()
    }

    /// Whether it is waited for the workload's end, and nothing told before that.
    fn waits_for_end(&self) -> bool {
        self.at_end && self.due.is_some()
    }

    /// The control channel, to wait for room in it; that its reader is gone shows unasked.
    pub(crate) fn channel(&self) -> Option<PollFd<'_>> {
        let outbox = self.transcript.channel();
        let events = if outbox.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        (!self.left).then(|| PollFd::from_borrowed_fd(outbox.as_fd(), events))
    }

    /// What its stage waits for, any of it.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = PollFd<'_>> {
        let (pidfd, pipe) = match &self.stage {
            // Another child on its way may have a copy of this one's end of the pipe, and so has this process at
            // first where it was made ahead: the pipe shows the exec, and not every end.
            Stage::Launching(launching) => {
                let may_show = !self.waits_for_end() && !launching.shares_files;
                (launching.child.pidfd(), launching.pipe().filter(|_| may_show))
            }
            Stage::Stopped(launching, _) => (launching.child.pidfd(), None),
            Stage::Runs(workload) => (Some(workload.pidfd.as_fd()), None),
            Stage::Ended(_) | Stage::Done(_) => (None, None),
        };
        let pidfd = pidfd.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        // Its end alone, which shows unasked: a child that has written has yet to end.
        let pipe = pipe.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::empty()));
        pidfd.into_iter().chain(pipe)
    }

    /// Does and tells what there is to do and to tell now; false when that was all.
    pub(crate) fn go_on(&mut self, happened: Happened) -> bool {
        let Happened { came, left, room } = happened;
        let now = if self.due().is_some() { Some(Instant::now()) } else { None };
        let tell = room || self.due.is_some_and(|due| now >= Some(due));
        let mut looks = tell && self.waits_for_end();
        if let (Some((look, after)), Some(now), false) = (self.look, now, self.waits_for_end()) {
            if !self.is_looked_for() {
                self.look = None;
            } else if now >= look {
                let after = LAST_LOOK.min(after * 2);
                self.look = Some((now + after, after));
                looks = true;
            }
        }
        if left {
            // Its supervisor has dropped it, or is no more.
            self.left = true;
            self.kill();
        }
        let came = came || looks && self.has_arrived();
        if came {
            self.advance(WaitIdOptions::NOHANG);
        }
        // What came may be the workload's end as well.
        if came && self.waits_for_end() {
            self.advance(WaitIdOptions::NOHANG);
        }
        let on_its_way = matches!(self.stage, Stage::Launching(_) | Stage::Runs(_));
        let silent = self.waits_for_end() && on_its_way;
        if (tell || left || came && !silent) && self.tell() && matches!(self.stage, Stage::Ended(_))
        {
            self.advance(WaitIdOptions::NOHANG);
            self.tell();
        }
        !(matches!(self.stage, Stage::Done(_)) && self.transcript.channel().is_empty())
    }

    /// Waits until the child has exec'd or ended.
    pub(crate) fn land(&mut self) -> bool {
        if let Stage::Launching(launching) = &mut self.stage {
            launching.wait();
        }
        self.go_on(Happened { came: true, ..Happened::default() })
    }

    /// Whether the child is known to have exec'd or ended, where that has not been looked at.
    fn has_arrived(&mut self) -> bool {
        match &mut self.stage {
            Stage::Launching(launching) => launching.has_arrived(),
            _ => false,
        }
    }

    /// Whether it is to be looked for something that nothing shows: fds of the child's own, or its exec.
    fn is_looked_for(&mut self) -> bool {
        match &mut self.stage {
            Stage::Launching(launching) => !launching.has_own_files() || launching.pipe().is_none(),
            _ => false,
        }
    }

    /// Whether no child needs fds of this process any more.
    fn has_own_files(&mut self) -> bool {
        match &mut self.stage {
            Stage::Launching(launching) => launching.has_own_files(),
            _ => true,
        }
    }

    /// Closes what is of no more use.
    pub(crate) fn let_go(&mut self) {
        if self.has_own_files() {
            self.spent = None;
        }
    }

    /// Kills the child, or the workload that it has become.
    pub(crate) fn kill(&self) {
        match &self.stage {
            Stage::Launching(launching) => launching.child.kill(),
            Stage::Runs(workload) => workload.kill(),
            Stage::Stopped(..) | Stage::Ended(_) | Stage::Done(_) => {}
        }
    }

    /// Waits for its end, and tells what can be told without waiting for a reader.
    pub(crate) fn conclude(mut self) {
        while !matches!(self.stage, Stage::Done(_)) {
            if let Stage::Launching(launching) = &self.stage {
                while !launching.child.ends_within(Duration::from_secs(1)) {}
            }
            self.advance(WaitIdOptions::empty());
            self.tell();
        }
    }

    /// Whether all that there was to tell has been told, or has nobody to be told to.
    fn tell(&mut self) -> bool {
        self.due = None;
        let told = self.transcript.flush().is_err() || {
            let outbox = self.transcript.channel_mut();
            outbox.post().is_err() || outbox.is_empty()
        };
        // A flight of which all has been done and told is dropped at once, the control channel first.
        let is_over = match &self.stage {
            Stage::Done(_) => true,
            Stage::Ended(Workload { end, .. }) => end.teardown.is_empty(),
            _ => false,
        };
        if !(told && is_over) {
            self.let_go();
        }
        told
    }

    /// Goes to the next stage. What this one waits for has come, or is waited for here if `how` says so.
    fn advance(&mut self, how: WaitIdOptions) {
        let transcript = &mut self.transcript;
        self.stage = match std::mem::replace(&mut self.stage, Stage::Done(None)) {
            Stage::Launching(mut launching) => match launching.land(transcript) {
                Ok(()) => {
                    let Launched { pid, pidfd, end, pipe } = launching.launched();
                    self.spent = self.spent.take().map(|(request, _)| (request, pipe));
                    let pidfd = pidfd.expect("a resident launcher asks for one");
                    Stage::Runs(Workload { pid, pidfd, end })
                }
                Err(stop) => {
                    launching.child.kill();
                    Stage::Stopped(launching, stop)
                }
            },
            Stage::Stopped(launching, stop) => {
                drop(launching);
                note_stop(transcript, &stop);
                Stage::Done(None)
            }
            Stage::Runs(workload) if workload.note_end(transcript, how) => Stage::Ended(workload),
            Stage::Ended(Workload { pid, end, .. }) => {
                let unreaped = Unreaped(pid);
                if end.teardown.is_empty() {
                    Stage::Done(Some(unreaped))
                } else {
                    drop(unreaped);
                    end.tear_down(transcript);
                    Stage::Done(None)
                }
            }
            same @ (Stage::Runs(_) | Stage::Done(_)) => same,
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
