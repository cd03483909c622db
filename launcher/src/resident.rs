//! The resident launcher: one process that makes any number of launches, each asked for by a message.
//!
//! It has one thread, which makes a launch's child and goes on: the child's exec, and the workload's end,
//! it waits for beside everything else that it waits for.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use portcullis_core::mechanism::{Fault, Stop};
use portcullis_core::plan::LaunchPlan;
use portcullis_core::state::{LauncherState, RefusalReason};
use portcullis_core::transcript::TranscriptWriter;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;
use rustix::process::{DumpableBehavior, dumpable_behavior, fchdir};
use rustix::thread::capabilities;

use crate::coordinator::{self, Outcome, Purpose, Way};
use crate::flight::{Flight, Happened};
use crate::kept::{Kept, KeptLaunch};
use crate::outbox::Outbox;
use crate::request::{Handed, Makings, Received};
use crate::{Arena, FAULTED, complain, process, sys, trace, wiring};

/// After how long without any event a child is made ahead, which takes about as long: what comes meanwhile waits for
/// it. That may be the end of a workload, where there is one.
const QUIET: Duration = Duration::from_millis(1);
const QUIET_BESIDE: Duration = Duration::from_millis(10);

const SOCKET: &str = "PORTCULLIS_RESIDENT_FD";

/// Serves until the supervisor is gone, and says with which status to exit.
// Inlined, its frame would be that of every launcher.
#[inline(never)]
pub(crate) fn run(memory: Option<&Arena>) -> u8 {
    if let Some(memory) = memory {
        memory.recycle();
    }
    match Resident::start() {
        Ok(resident) => resident.serve(),
        Err(what) => {
            complain(&what);
            FAULTED
        }
    }
}

/// Refuses a plan that is not in a sealed memfd, where reading it must not block.
pub(crate) fn refuse_to_block(way: Way<'_>) -> Result<(), Stop> {
    if !matches!(way, Way::Resident { .. }) {
        return Ok(());
    }
    let detail =
        "a resident launcher takes a plan in a sealed memfd alone: anything else may block it";
    Err(Stop::refuse(RefusalReason::PlanInvalid, detail))
}

/// Refuses a plan of version 1, whose hosts know of no resident launcher.
pub(crate) fn refuse_version_1(way: Way<'_>, plan: &LaunchPlan) -> Result<(), Stop> {
    if plan.version() >= 2 || !matches!(way, Way::Resident { .. }) {
        return Ok(());
    }
    let detail = "the plan is of version 1, and a resident launcher takes those of version 2";
    Err(Stop::refuse(RefusalReason::MissingPrimitive, detail))
}

struct Resident {
    socket: BorrowedFd<'static>,
    /// The working directory that this process was started in.
    home: OwnedFd,
    /// How dumpable it has to be for its child's maps to be its own to write; `None` where they are anyway.
    dumpable: Option<DumpableBehavior>,
    /// Whether a child may be on its way to the exec while another launch is made.
    overlaps: bool,
    kept: Kept,
    flights: Vec<Flight>,
    /// When something last happened.
    since: Instant,
}

impl Resident {
    fn start() -> Result<Self, String> {
        let socket = wiring::named(SOCKET)?;
        // Messages must stay apart, and must come from one supervisor.
        if socket_type(socket) != Ok(SocketType::SEQPACKET) {
            return Err(format!("{SOCKET} is no socket of the type SOCK_SEQPACKET"));
        }
        fcntl_setfd(socket, FdFlags::CLOEXEC)
            .map_err(|errno| format!("setting close-on-exec of {SOCKET}: {errno}"))?;
        occupy_stdio().map_err(|errno| format!("opening /dev/null: {errno}"))?;
        let home = open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| format!("opening the working directory: {errno}"))?;
        let dumpable =
            dumpable_behavior().map_err(|errno| format!("prctl(PR_GET_DUMPABLE): {errno}"))?;
        coordinator::out_of_reach().map_err(|stop| stop.to_string())?;
        // A child shares this memory, so that its maps are whose this process's are.
        let in_reach = open("/proc/self/uid_map", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        let overlaps = in_reach.is_ok() || is_plain(dumpable);
        let dumpable = if in_reach.is_ok() { None } else { Some(dumpable) };
        process::hold_signals().map_err(|error| format!("blocking signals: {error}"))?;
        // Whatever goes wrong from here on is told on the control channel that it is about.
        std::panic::set_hook(Box::new(|_| {}));
        let kept = Kept::new(overlaps).map_err(|error| error.to_string())?;
        let (flights, since) = (Vec::new(), Instant::now());
        Ok(Self { socket, home, dumpable, overlaps, kept, flights, since })
    }

    fn serve(mut self) -> u8 {
        loop {
            let Some((asked, happened)) = self.wait() else { continue };
            if !asked.is_empty() || happened.iter().any(|it| !it.is_nothing()) {
                self.since = Instant::now();
            }
            if asked.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
                break;
            }
            let mut happened = happened.into_iter();
            self.flights
                .retain_mut(|flight| happened.next().is_none_or(|happened| flight.go_on(happened)));
            if self.spare_due().is_some_and(|due| due <= Instant::now()) {
                let Self { kept, home, dumpable, .. } = &self;
                if kept.spares.make(home, &kept.registry, *dumpable).is_err() {
                    break;
                }
            }
            if asked.contains(PollFlags::IN) && self.answer(asked).is_err() {
                break;
            }
            // A child that took on other credentials, or did not get its maps, may have left this memory
            // dumpable. Who can be traced must not go on.
            if coordinator::out_of_reach().is_err() {
                break;
            }
        }
        self.flights.iter().for_each(Flight::kill);
        self.flights.into_iter().for_each(Flight::conclude);
        // With the children that were made ahead.
        drop(self.kept);
        sys::exit(0)
    }

    /// Waits until something happens: to the socket, and to each flight.
    fn wait(&self) -> Option<(PollFlags, Vec<Happened>)> {
        let mut polled = Vec::with_capacity(1 + 2 * self.flights.len());
        polled.push(PollFd::new(&self.socket, PollFlags::IN | PollFlags::RDHUP));
        for flight in &self.flights {
            polled.extend(flight.awaited());
            polled.extend(flight.channel());
        }
        let due = self.flights.iter().filter_map(Flight::due).chain(self.spare_due()).min();
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        // What fails for want of memory is tried again: nothing is lost by that.
        poll(&mut polled, left.as_ref()).ok()?;
        let mut happened = polled.iter().map(PollFd::revents);
        let asked = happened.next()?;
        let each = self.flights.iter().map(|flight| {
            let awaited = flight.awaited().filter_map(|_| happened.next()).collect();
            let channel = flight.channel().and_then(|_| happened.next());
            Happened::of(awaited, channel)
        });
        Some((asked, each.collect()))
    }

    /// Takes one message and makes its launch. An error is the end of all messages.
    fn answer(&mut self, asked: PollFlags) -> Result<(), Errno> {
        // Its fds are as many as a plan has roots, and how many this process may have is soon reached.
        self.flights.iter_mut().for_each(Flight::let_go);
        let mut received = match Received::from(self.socket) {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR | Errno::NOMEM | Errno::NOBUFS) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        // An empty message looks as the end of them does.
        if received.is_empty() && asked.contains(PollFlags::RDHUP) {
            return Err(Errno::PIPE);
        }
        // Of a message without a channel there is nobody to tell.
        let Some(control) = received.control() else {
            received.forgets().into_iter().for_each(|number| self.kept.forget(number));
            return Ok(());
        };
        let number = control.as_raw_fd();
        let Ok(outbox) = Outbox::new(control) else { return Ok(()) };
        let mut transcript = TranscriptWriter::new(outbox);
        transcript.state(LauncherState::LauncherStarted);
        let request = received.request(number, &self.kept).map_err(Stop::Faulted);
        let launched = request.and_then(|request| {
            trace::set(request.trace);
            self.enter(request.directory.as_ref())?;
            let (kept, dumpable) = (&self.kept, self.dumpable);
            let way = Way::Resident { request: &request, kept, dumpable };
            let purpose = match request.makings {
                Makings::ToKeep(..) => Purpose::Keep,
                Makings::Handed(_) | Makings::Kept(_) => Purpose::Launch,
            };
            Ok((coordinator::launch(&mut transcript, purpose, way)?, request))
        });
        // A directory that is not left is left by the next launch.
        let _ = self.enter(None);
        let flight = match launched {
            Ok((Outcome::Launching(launching), request)) => {
                let alone =
                    !self.overlaps || self.dumpable.is_some() && launching.resets_dumpable();
                let mut flight = Flight::of(transcript, launching, request);
                (!alone || flight.land()).then_some(flight)
            }
            Ok((Outcome::ToKeep { plan, lowering }, request)) => {
                if let Makings::ToKeep(number, Handed { plan: frame, slots }) = request.makings {
                    // Who is told that it is kept finds nothing else of it here.
                    drop(frame);
                    transcript.note(&format!("kept={number} lowered={}", lowering.is_some()));
                    self.kept.keep(number, KeptLaunch { plan, slots, lowering });
                }
                Flight::none(transcript)
            }
            Ok((Outcome::Explained | Outcome::NeedsLauncher(_), _)) => Flight::none(transcript),
            Err(stop) => {
                coordinator::tell(&mut transcript, &stop);
                Flight::none(transcript)
            }
        };
        self.flights.extend(flight);
        Ok(())
    }

    /// When a child is to be made ahead, if nothing happens before.
    fn spare_due(&self) -> Option<Instant> {
        let quiet = if self.flights.is_empty() { QUIET } else { QUIET_BESIDE };
        self.kept.spares.is_wanting().then(|| self.since + quiet)
    }

    /// Goes to a directory, or home.
    fn enter(&self, directory: Option<&OwnedFd>) -> Result<(), Stop> {
        fchdir(directory.unwrap_or(&self.home)).map_err(|errno| {
            let what = format!("entering the working directory: {errno}");
            Stop::Faulted(Fault { what, note: None })
        })
    }
}

/// Whether this process is no more than its user, and was as dumpable as that at its start.
///
/// One that has to be dumpable while a child waits for its maps is so together with every other child that
/// has yet to exec, for they share its memory. Where none of them can be more than this process's own user,
/// that opens nothing that is not open with the process itself. Elsewhere a child may have taken on another
/// user's credentials, and that user could trace it, and with it this process.
fn is_plain(dumpable: DumpableBehavior) -> bool {
    let powers = capabilities(None).map(|sets| sets.permitted);
    dumpable == DumpableBehavior::Dumpable && powers.is_ok_and(|powers| powers.is_empty())
}

/// Sees to it that 0, 1 and 2 are open: a received fd at one of them would be in the way of a workload's
/// standard input and output.
fn occupy_stdio() -> Result<(), Errno> {
    loop {
        let null = open("/dev/null", OFlags::RDWR, Mode::empty())?;
        if null.as_raw_fd() > 2 {
            return Ok(());
        }
        std::mem::forget(null);
    }
}
