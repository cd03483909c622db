//! A supervisor of a resident launcher that says whatever a test has it say.

use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use command_fds::{CommandFdExt, FdMapping};
use portcullis_core::message::{Asks, LaunchMessage, MAX_FDS};
use portcullis_core::state::LauncherState;
use portcullis_core::transcript::Transcript;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};
use tempfile::TempDir;

use crate::{Host, Outcome, launcher};

/// A resident launcher, and its socket.
pub struct Resident {
    socket: Option<OwnedFd>,
    child: Child,
}

/// A launch that was asked for.
pub struct Asked {
    control: BufReader<File>,
    text: String,
    stdout: File,
    folder: Rc<TempDir>,
}

/// A launch that it was asked to keep.
pub struct Kept {
    number: u32,
    /// What it told of that.
    pub told: Outcome,
    folder: Rc<TempDir>,
}

impl Resident {
    /// The standard one.
    pub fn start() -> Self {
        Self::of(Command::new(launcher()), None)
    }

    /// The one that `command` is, run by `user` where that is not this one.
    pub fn of(mut command: Command, user: Option<u32>) -> Self {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("a pair of sockets");
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        command.arg("--resident").env("PORTCULLIS_RESIDENT_FD", "3");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mapping = FdMapping { parent_fd: theirs, child_fd: 3 };
        command.fd_mappings(vec![mapping]).expect("no number twice");
        let child = command.spawn().expect("the launcher runs");
        Self { socket: Some(socket), child }
    }

    /// Its pid.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a message.
    ///
    /// # Errors
    ///
    /// Those of sendmsg.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let socket = self.socket.as_ref().expect("an open socket");
        sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
    }

    /// Asks for a launch, of which only the plan, the slots and the message can be wrong.
    pub fn ask(&self, host: Host) -> Asked {
        let (control, theirs) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        self.ask_with(host, control, theirs)
    }

    /// Asks for a launch with this control channel.
    pub fn ask_with(&self, host: Host, control: OwnedFd, theirs: OwnedFd) -> Asked {
        let null = File::open("/dev/null").expect("/dev/null");
        self.ask_all(host, &null.into(), control, theirs, false)
    }

    /// Asks for a launch whose workload has a standard input, which the launcher's `test.child.wait.v1`
    /// waits for a byte of. Returns the other end of it too.
    pub fn ask_piped(&self, host: Host) -> (Asked, File) {
        let (control, theirs) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        let (stdin, end) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        (self.ask_all(host, &stdin, control, theirs, false), end.into())
    }

    /// Asks for a launch whose end is waited for or is not, and whose writes to the control channel can be read
    /// [apart](Asked::write). Returns the other end of the workload's standard input too.
    pub fn ask_in_writes(&self, host: Host, at_end: bool) -> (Asked, File) {
        let apart = PipeFlags::CLOEXEC | PipeFlags::DIRECT;
        let (control, theirs) = pipe_with(apart).expect("a pipe");
        let (stdin, end) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        (self.ask_all(host, &stdin, control, theirs, at_end), end.into())
    }

    fn ask_all(
        &self,
        mut host: Host,
        stdin: &OwnedFd,
        control: OwnedFd,
        theirs: OwnedFd,
        at_end: bool,
    ) -> Asked {
        let plan = host.plan_fd();
        let slots = host.fds.keys().copied().collect();
        let directory = host.directory.is_some();
        let message = LaunchMessage { slots, at_end, directory, ..LaunchMessage::default() };
        let slots = host.fds.values().map(AsFd::as_fd);
        let directory = host.directory.as_ref().map(AsFd::as_fd);
        let after: Vec<_> = directory.into_iter().chain(slots).collect();
        let stdout = self.ask_for(&message, &[theirs.as_fd(), plan.as_fd()], stdin, &after);
        drop(theirs);
        Asked::new(control, stdout, host.into_folder().into())
    }

    /// Sends the message of a launch, with the fds that come before and after those of its streams, and returns
    /// what its workload will write.
    fn ask_for(
        &self,
        message: &LaunchMessage,
        before: &[BorrowedFd<'_>],
        stdin: &OwnedFd,
        after: &[BorrowedFd<'_>],
    ) -> File {
        let (stdout, end) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        let null = File::options().write(true).open("/dev/null").expect("/dev/null");
        let streams = [stdin.as_fd(), end.as_fd(), null.as_fd()];
        let fds = [before, &streams, after].concat();
        self.send(&message.encode(), &fds).expect("a resident launcher that takes messages");
        stdout.into()
    }

    /// Asks for a launch to be kept, and waits until it is, or is not.
    pub fn keep(&self, number: u32, mut host: Host) -> Kept {
        let (control, theirs) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        let plan = host.plan_fd();
        let slots = host.fds.keys().copied().collect();
        let message = LaunchMessage { asks: Asks::Keep(number), slots, ..LaunchMessage::default() };
        let mut fds = vec![theirs.as_fd(), plan.as_fd()];
        fds.extend(host.fds.values().map(AsFd::as_fd));
        self.send(&message.encode(), &fds).expect("a resident launcher that takes messages");
        drop(theirs);
        let null = File::open("/dev/null").expect("/dev/null");
        let folder = Rc::new(host.into_folder());
        let asked = Asked::new(control, null, Rc::clone(&folder));
        Kept { number, told: asked.end(), folder }
    }

    /// Asks for a launch that is kept, and returns the other end of the workload's standard input too.
    pub fn ask_kept(&self, kept: &Kept) -> (Asked, File) {
        let (control, theirs) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        let (stdin, end) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        let message = LaunchMessage { asks: Asks::Kept(kept.number), ..LaunchMessage::default() };
        let stdout = self.ask_for(&message, &[theirs.as_fd()], &stdin, &[]);
        drop(theirs);
        (Asked::new(control, stdout, Rc::clone(&kept.folder)), end.into())
    }

    /// Makes a launch that is kept. It leaves its mark anew.
    pub fn run_kept(&self, kept: &Kept) -> Outcome {
        let _ = std::fs::remove_file(mark(&kept.folder));
        let (asked, _) = self.ask_kept(kept);
        asked.end()
    }

    /// Asks for it to be kept no longer.
    pub fn forget(&self, kept: &Kept) {
        let message = LaunchMessage { asks: Asks::Forget(kept.number), ..LaunchMessage::default() };
        self.send(&message.encode(), &[]).expect("a resident launcher that takes messages");
    }

    /// Makes a launch. What its status would be, were the launcher there for it alone, is what its last
    /// state says.
    pub fn run(&self, host: Host) -> Outcome {
        self.ask(host).end()
    }

    /// Makes a launch with a working directory.
    pub fn run_in(&self, mut host: Host, directory: &Path) -> Outcome {
        host.directory = Some(File::open(directory).expect("a directory").into());
        self.run(host)
    }

    /// Closes the socket, and waits for the launcher's end.
    pub fn end(mut self) -> Option<i32> {
        drop(self.socket.take());
        self.child.wait().expect("wait").code()
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        drop(self.socket.take());
        let _ = self.child.wait();
    }
}

/// What a workload that ran has left in a host's folder.
fn mark(folder: &TempDir) -> PathBuf {
    folder.path().join("ran")
}

impl Asked {
    fn new(control: OwnedFd, stdout: File, folder: Rc<TempDir>) -> Self {
        Self { control: BufReader::new(control.into()), text: String::new(), stdout, folder }
    }

    /// Waits until the workload runs, and says which process it is.
    pub fn pid(&mut self) -> u32 {
        self.pid_once("ExecSucceeded")
    }

    /// Waits until there is a child, and says which process it is.
    pub fn child(&mut self) -> u32 {
        self.pid_once("child_pid=")
    }

    fn pid_once(&mut self, told: &str) -> u32 {
        while !self.text.contains(told) {
            let read = self.control.read_line(&mut self.text).expect("a transcript");
            assert!(read > 0, "{}", self.text);
        }
        let transcript = Transcript::parse(self.text.as_bytes()).expect("a transcript");
        transcript.value("child_pid").and_then(|pid| pid.parse().ok()).expect("a pid")
    }

    /// The next write to the control channel; empty at its end.
    pub fn write(&mut self) -> String {
        let write = self.control.fill_buf().expect("a transcript");
        let (text, length) = (String::from_utf8(write.to_vec()).expect("text"), write.len());
        self.control.consume(length);
        self.text += &text;
        text
    }

    /// Whether something has come by the control channel, or its end.
    pub fn has_told(&self) -> bool {
        let mut control = [PollFd::new(self.control.get_ref(), PollFlags::IN)];
        poll(&mut control, Some(&Timespec::default())).expect("poll") > 0
    }

    /// What came by the control channel, to its end, and what the workload wrote.
    pub fn end(mut self) -> Outcome {
        while !self.write().is_empty() {}
        let (text, mut stdout) = (self.text, String::new());
        self.stdout.read_to_string(&mut stdout).expect("text");
        let terminal = Transcript::parse(text.as_bytes()).ok().and_then(|it| it.terminal());
        let status = terminal.map(|state| match state {
            LauncherState::SetupRefused => 3,
            LauncherState::SetupFaulted => 4,
            _ => 0,
        });
        Outcome { status, text, stdout, stderr: String::new(), ran: mark(&self.folder).exists() }
    }
}
