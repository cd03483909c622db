//! A process becomes the workload by itself: what a launcher does in place, without a launcher.
//!
//! The steps are the launcher's, all of them, and so is their order. What differs is what a process brings
//! along that has lived before: fds at any number, handlers of signals, threads. What can't be dealt with is
//! left to a launcher, before anything is changed.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;

use portcullis_core::descriptor::DescriptorSlot;
use portcullis_core::mechanism::Stop;
use portcullis_core::plan::LaunchPlan;
use portcullis_core::program::Op;
use portcullis_core::registry::Registry;
use portcullis_core::state::LauncherState;
use portcullis_core::transcript::TranscriptWriter;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{DumpableBehavior, dumpable_behavior};

use crate::coordinator::{self, Outcome, Purpose, Way};
use crate::sys;
use crate::wiring::Channel;

/// What this process is to become.
pub struct Here<'h> {
    /// The plan.
    pub plan: Rc<LaunchPlan>,
    /// The mechanisms of this process.
    pub registry: &'h Registry,
    /// The fds of its slots, at whatever numbers they have here.
    pub slots: &'h [(DescriptorSlot, OwnedFd)],
    /// Fds, and at which of 0, 1 and 2 the workload is to have each, where it is not what this process has
    /// there.
    pub stdio: Vec<(RawFd, RawFd)>,
    /// The working directory, where it is not this process's.
    pub directory: Option<BorrowedFd<'h>>,
    /// The signals that this process may handle; `None` where that may be any. Whether it does the kernel is asked.
    pub handled: Option<&'h [i32]>,
    /// Is given the transcript of a launch that stopped when this process had been changed already, and says
    /// with which status it ends. All but writing may be forbidden by then, and fds but 0, 1 and 2 closed.
    pub failed: &'h dyn Fn(&[u8]) -> u8,
}

/// Why this process has not become the workload. It is as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotHere {
    /// It can't, for this reason; a launcher may.
    NeedsLauncher(String),
    /// The launch was refused or faulted: the transcript.
    Stopped(Vec<u8>),
}

/// Makes this process the workload. Returns where it is as it was; a launch that stops later ends it.
pub fn become_workload(here: &Here<'_>) -> NotHere {
    if let Err(why) = here.check() {
        return NotHere::NeedsLauncher(why);
    }
    // As they would be if this process had been started with them: whether one is closed on exec is a
    // mechanism's to say.
    here.close_on_exec(FdFlags::empty());
    let not_here = here.launch();
    here.close_on_exec(FdFlags::CLOEXEC);
    not_here
}

impl Here<'_> {
    /// Whether this process is one that a launcher could be; `Err` says why not.
    fn check(&self) -> Result<(), String> {
        let threads = coordinator::tasks().map_err(|stop| stop.to_string())?;
        if threads != 1 {
            return Err(format!(
                "this process has {threads} threads, and must have one: another could change what is \
                 being verified"
            ));
        }
        if dumpable_behavior() != Ok(DumpableBehavior::Dumpable) {
            return Err("this process is not dumpable, so it can't write its own uid's map".into());
        }
        let slots = self.slots.iter().map(|(_, fd)| fd.as_raw_fd());
        let others = self.stdio.iter().map(|(fd, _)| *fd);
        let directory = self.directory.iter().map(AsRawFd::as_raw_fd);
        if slots.chain(others).chain(directory).any(|fd| fd <= 2) {
            return Err(
                "0, 1 and 2 are the workload's, and one of them was closed and is used for another fd"
                    .into(),
            );
        }
        Ok(())
    }

    fn close_on_exec(&self, flags: FdFlags) {
        for (_, fd) in self.slots {
            // Of an fd that is open it does not fail.
            let _ = fcntl_setfd(fd, flags);
        }
    }

    fn launch(&self) -> NotHere {
        let told = Told { text: Vec::new(), failed: self.failed };
        let mut transcript = TranscriptWriter::new(told);
        transcript.state(LauncherState::LauncherStarted);
        // No handler of this process runs halfway.
        let launched = sys::block_signals()
            .map_err(|error| Stop::fault(format!("blocking signals: {error}")))
            .and_then(|_blocked| {
                coordinator::launch(&mut transcript, Purpose::Launch, Way::Here(self))
            });
        match launched {
            Ok(Outcome::NeedsLauncher(why)) => return NotHere::NeedsLauncher(why),
            Ok(Outcome::Launching(_) | Outcome::Explained | Outcome::ToKeep { .. }) => {}
            Err(stop) => coordinator::tell(&mut transcript, &stop),
        }
        NotHere::Stopped(std::mem::take(&mut transcript.channel_mut().text))
    }

    /// What is done before any mechanism's ops for what a launcher would not have: signals act as they will
    /// on the workload, and the working directory is its own.
    pub(crate) fn prologue(&self) -> impl Iterator<Item = Op> {
        // Who inherits an ignored SIGCHLD can wait for no child; SIGPIPE is seen to in any case.
        let seen_to = [libc::SIGCHLD, libc::SIGPIPE];
        let any = self.handled.is_none().then_some(1..=64).into_iter().flatten();
        let handled = sys::handled(self.handled.unwrap_or_default().iter().copied().chain(any));
        let handled = handled.filter(move |signal| !seen_to.contains(signal));
        let default = handled.chain([libc::SIGCHLD]).map(Op::default_action);
        default.chain(self.directory.iter().map(|fd| Op::fchdir(fd.as_raw_fd())))
    }
}

/// A transcript in memory, for who is told if there is no way back.
struct Told<'h> {
    text: Vec<u8>,
    failed: &'h dyn Fn(&[u8]) -> u8,
}

impl Write for Told<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Channel for Told<'_> {
    fn end(&mut self, _: &Stop) -> u8 {
        (self.failed)(&self.text)
    }
}
