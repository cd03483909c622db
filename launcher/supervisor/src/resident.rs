//! A launcher that is kept, and asked for one launch after the other.

use std::io::{self, IoSlice, stderr, stdin, stdout};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use portcullis_core::message::{Asks, LaunchMessage, MAX_FDS};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};

use crate::child::{Child, Launcher as LauncherOf, Output, Pipes, lock};
use crate::control::{Control, Deadline};
use crate::error::Error;
use crate::launcher::Launcher;
use crate::process::Process;
use crate::spawn::{Placement, pipe, place};
use crate::stdio::{Stdio, Streams};
use crate::template::Template;

/// How long a launch's setup must be allowed to take for nothing to be told before the program's end: what a launcher
/// keeps to itself for a while must not look like a setup that takes too long.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a resident launcher may take to end its workloads and itself.
const END: Duration = Duration::from_secs(5);

/// A launcher that lives on: it makes any number of launches, and has nothing to start for one but the
/// program.
///
/// Threads may share it. Each launch is as it would be alone, many may run at once, and one that takes long
/// to reach its exec holds up no other. When this is dropped, or this process ends, the programs that run
/// are killed, and those that are on their way.
///
/// A program inherits from the resident launcher what it otherwise would from this process as it is at
/// the launch: limits, umask, nice value, session. Only the working directory is this process's own, as it
/// is then. What a policy sets in the launcher itself (`oom_score_adj` and `huge_pages` of
/// `linux.process.attributes.v1`) is refused.
///
/// ```
/// use portcullis::{Command, Resident};
///
/// let resident = Resident::start()?;
/// let template = Command::new("echo").read("/").exec("/").template()?;
/// for word in ["one", "two"] {
///     let output = resident.output(&template.with_arguments([word])?)?;
///     assert_eq!(output.stdout, format!("{word}\n").as_bytes());
/// }
/// # Ok::<(), portcullis::Error>(())
/// ```
#[derive(Debug)]
pub struct Resident {
    /// Taken when this is dropped.
    socket: Option<Arc<Socket>>,
    process: Arc<Mutex<Process>>,
    /// How many launches it was asked to keep.
    asked_to_keep: AtomicU32,
}

/// Our end of the socket.
#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
    /// What is to be kept no longer, and there was no room to say so.
    to_forget: Mutex<Vec<u32>>,
}

/// A launch that a resident launcher keeps, until this is dropped.
#[derive(Debug)]
pub(crate) struct KeptBy {
    socket: Weak<Socket>,
    number: u32,
}

impl Drop for KeptBy {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.upgrade() {
            lock(&socket.to_forget).push(self.number);
            socket.forget();
        }
    }
}

impl Resident {
    /// Starts the launcher that [`Command`](crate::Command) would run.
    ///
    /// # Errors
    ///
    /// [`Error::Launcher`] where it can't be run, [`Error::System`] where it can't be spoken to.
    pub fn start() -> Result<Self, Error> {
        Self::of(&Launcher::choose(None)?, false)
    }

    pub(crate) fn of(launcher: &Launcher, die_with_parent: bool) -> Result<Self, Error> {
        let (ours, socket) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(Error::system("making a pair of sockets"))?;
        let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(Error::system("opening /dev/null"))?;
        // It keeps no mount of ours in use.
        let root = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(Error::system("opening /"))?;
        let null = null.as_raw_fd();
        let with = Placement {
            fds: vec![(null, 0), (null, 1), (null, 2), (socket.as_raw_fd(), 3)],
            wiring: vec![("PORTCULLIS_RESIDENT_FD", 3)],
            directory: Some(root.as_raw_fd()),
            die_with_parent,
            ..Placement::default()
        };
        let process = Process::new(place(launcher, &["--resident"], &with)?.pid());
        Ok(Self {
            socket: Some(Arc::new(Socket { fd: ours, to_forget: Mutex::default() })),
            process: Arc::new(Mutex::new(process)),
            asked_to_keep: AtomicU32::new(0),
        })
    }

    /// Has the launcher keep all that a template is: each launch then is asked for by a number, its fds are sent
    /// once, and what is verified, and lowered by mechanisms that allow it, is that once. Returns the template to
    /// launch by. The launcher keeps it as long as that lives, up to 64 of them.
    ///
    /// It is an ordinary template elsewhere: with another resident launcher, without one, and
    /// [with other arguments](Template::with_arguments), which make it another plan.
    ///
    /// ```
    /// use portcullis::{Command, Resident};
    ///
    /// let resident = Resident::start()?;
    /// let template = Command::new("true").read("/").exec("/").template()?;
    /// let kept = resident.keep(&template)?;
    /// for _ in 0..3 {
    ///     assert!(resident.status(&kept)?.success());
    /// }
    /// # Ok::<(), portcullis::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] and [`Error::Faulted`] for what could not be launched, told now and not by its first
    /// launch, or where the launcher keeps as many as it may; [`Error::LauncherEnded`] where it is no more;
    /// [`Error::System`] for more fds than a message can carry, which is more than 251 roots and programs.
    pub fn keep(&self, template: &Template) -> Result<Template, Error> {
        let (control, theirs) = pipe()?;
        let next = |number: u32| number.checked_add(1);
        let number = self.asked_to_keep.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let number = number.map_err(|_| Error::System {
            what: "keeping a launch",
            source: io::Error::other("a resident launcher keeps 2^32 in all; start another"),
        })?;
        let slots = template.plan.slots.iter();
        let mut fds = vec![theirs.as_fd(), template.plan.frame.as_fd()];
        fds.extend(slots.clone().map(|(_, fd)| fd.as_fd()));
        let slots = slots.map(|(slot, _)| slot.slot_index).collect();
        let asks = Asks::Keep(number);
        self.ask(&LaunchMessage { asks, slots, ..LaunchMessage::default() }, &fds)?;
        drop(theirs);
        let asked = self.asked(template, control, Pipes::default());
        let socket = self.socket.as_ref().map(Arc::downgrade).unwrap_or_default();
        let kept = Arc::new(KeptBy { socket, number });
        asked.kept(&Deadline::after(template.setup_limit))?;
        template.kept_by(kept)
    }

    /// The pid of the launcher.
    pub fn id(&self) -> u32 {
        lock(&self.process).pid().as_raw_nonzero().get().unsigned_abs()
    }

    /// Starts the program with this process's standard input, output and error, and returns when it runs.
    ///
    /// # Errors
    ///
    /// As [`Template::spawn`]; [`Error::LauncherEnded`] where the resident launcher is no more; and
    /// [`Error::System`] for a launch with more fds than a message can carry, which is more than 247 roots
    /// and programs.
    pub fn spawn(&self, template: &Template) -> Result<Child, Error> {
        self.spawn_with(template, Stdio::INHERITED)
    }

    /// Starts the program with these as its standard input, output and error.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub fn spawn_with(&self, template: &Template, stdio: [Stdio; 3]) -> Result<Child, Error> {
        let child = self.launch(template, stdio, false)?;
        child.running(&Deadline::after(template.setup_limit))
    }

    /// Asks for a launch, of which nothing need be told before the program's end where that is what is waited
    /// for.
    fn launch(&self, template: &Template, stdio: [Stdio; 3], at_end: bool) -> Result<Child, Error> {
        let (control, theirs) = pipe()?;
        let stdio = stdio.map(Some);
        let mut streams = Streams::open(&stdio, &Stdio::INHERITED)?;
        let here = match &template.directory {
            Some(_) => None,
            None => Some(
                open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                    .map_err(Error::system("opening the working directory"))?,
            ),
        };
        let (input, output, error) = (stdin(), stdout(), stderr());
        let [input, output, error] = streams.or([input.as_fd(), output.as_fd(), error.as_fd()]);
        let asks = self.kept(template).map_or(Asks::Launch, Asks::Kept);
        let is_kept = asks != Asks::Launch;
        let mut fds = vec![theirs.as_fd()];
        fds.extend((!is_kept).then(|| template.plan.frame.as_fd()));
        fds.extend([input, output, error]);
        fds.extend(template.directory.as_deref().or(here.as_ref()).map(AsFd::as_fd));
        let slots = if is_kept { &[][..] } else { &template.plan.slots };
        fds.extend(slots.iter().map(|(_, fd)| fd.as_fd()));
        let slots = slots.iter().map(|(slot, _)| slot.slot_index).collect();
        let (trace, at_end) = (template.trace, at_end && template.setup_limit >= PATIENCE);
        self.ask(&LaunchMessage { asks, trace, directory: true, at_end, slots }, &fds)?;
        let pipes = std::mem::take(&mut streams.pipes);
        // The launcher has its own copies: with ours open, no pipe would ever show its end.
        drop((theirs, streams));
        Ok(self.asked(template, control, pipes))
    }

    /// What was asked for, to be told of by this control channel.
    fn asked(&self, template: &Template, control: OwnedFd, pipes: Pipes) -> Child {
        let launcher = LauncherOf::Resident(Arc::clone(&self.process));
        Child::new(launcher, Control::new(control), pipes, template.plan.left_out.clone())
    }

    /// Runs the program to its end.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn). Of a program that ends soon nothing is told before its end, so that
    /// [`Error::LauncherEnded`] does not say whether it ran.
    pub fn status(&self, template: &Template) -> Result<ExitStatus, Error> {
        let child = self.launch(template, Stdio::INHERITED, true)?;
        child.running(&Deadline::after(template.setup_limit))?.wait()
    }

    /// Runs the program to its end and collects what it writes. Its standard input is `/dev/null`.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub fn output(&self, template: &Template) -> Result<Output, Error> {
        self.output_with(template, Stdio::COLLECTED)
    }

    /// Runs the program to its end with these as its standard input, output and error, and collects what it
    /// writes to pipes.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub fn output_with(&self, template: &Template, stdio: [Stdio; 3]) -> Result<Output, Error> {
        let child = self.launch(template, stdio, true)?;
        child.output(&Deadline::after(template.setup_limit))
    }

    /// The number that the launcher keeps this by.
    fn kept(&self, template: &Template) -> Option<u32> {
        let KeptBy { socket, number } = template.kept.as_deref()?;
        let is_ours = self.socket.as_ref().is_some_and(|ours| socket.as_ptr() == Arc::as_ptr(ours));
        is_ours.then_some(*number)
    }

    /// Sends a message, which no other thread's can come between.
    fn ask(&self, message: &LaunchMessage, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let what = "asking a resident launcher";
        if fds.len() > MAX_FDS {
            let found = message.slots.len();
            let most = MAX_FDS - (fds.len() - found);
            let source = io::Error::other(format!(
                "a message carries the fds of {most} slots at the most, and this plan has {found}; it \
                 can be launched by a launcher of its own"
            ));
            return Err(Error::System { what, source });
        }
        let socket =
            self.socket.as_ref().ok_or(Error::System { what, source: Errno::PIPE.into() })?;
        socket.forget();
        match socket.send(message, fds, SendFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::PIPE | Errno::CONNRESET) => {
                let mut process = lock(&self.process);
                process.kill_after(END);
                let status = process.reap().map_err(Error::system("waiting for the launcher"))?;
                Err(Error::LauncherEnded { status, after: "its start".into() })
            }
            Err(errno) => Err(Error::System { what, source: errno.into() }),
        }
    }
}

impl Socket {
    fn send(
        &self,
        message: &LaunchMessage,
        fds: &[BorrowedFd<'_>],
        flags: SendFlags,
    ) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let bytes = message.encode();
        let (bytes, flags) = ([IoSlice::new(&bytes)], flags | SendFlags::NOSIGNAL);
        retry_on_intr(|| sendmsg(&self.fd, &bytes, &mut ancillary, flags)).map(drop)
    }

    /// Says what is to be kept no longer, where there is room to say so without waiting: whoever drops a template
    /// waits for nobody.
    fn forget(&self) {
        let mut to_forget = lock(&self.to_forget);
        while let Some(number) = to_forget.last() {
            let message = LaunchMessage { asks: Asks::Forget(*number), ..LaunchMessage::default() };
            if self.send(&message, &[], SendFlags::DONTWAIT) == Err(Errno::AGAIN) {
                return;
            }
            to_forget.pop();
        }
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        drop(self.socket.take());
        let mut process = lock(&self.process);
        process.kill_after(END);
        let _ = process.reap();
    }
}
