//! A supervisor that can be wrong in every way: each part of a launch can be replaced.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use portcullis_core::descriptor::{
    DescriptorKind, DescriptorRole, DescriptorShape, DescriptorSlot,
};
use portcullis_core::plan::{
    LaunchBody, LaunchPlan, LoweringEntry, Standing, Target, lowering_digest,
};
use portcullis_core::registry::Registry;
use portcullis_core::state::LauncherState;
use portcullis_core::transcript::Transcript;
use portcullis_core::{Digest, Params};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, open};
use rustix::io::pwrite;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::json;
use tempfile::TempDir;

/// Frames as a bvisor 0.10 host wrote them: scrub and exec; with Landlock; with seccomp; with user and
/// network namespace.
pub const VERSION_1_FRAMES: [&[u8]; 4] = [
    include_bytes!("../../core/tests/fixtures/bvisor-v1/plan0.bin"),
    include_bytes!("../../core/tests/fixtures/bvisor-v1/plan1.bin"),
    include_bytes!("../../core/tests/fixtures/bvisor-v1/plan2.bin"),
    include_bytes!("../../core/tests/fixtures/bvisor-v1/plan3.bin"),
];

/// A process outside of the gate, for workloads to signal: it lives until it is signalled, or nobody holds it
/// any more, however long what is tested takes to be built.
pub fn bystander() -> Child {
    Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat")
}

/// Makes a file that can be executed.
///
/// By another process: an fd that is open for writing here is for a moment also that of a child which
/// another thread has just made, and who executes the file in that moment is told `ETXTBSY`.
pub fn write_program(path: &Path, contents: &[u8]) {
    let mut shell = Command::new("/bin/sh")
        .args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut stdin = shell.stdin.take().expect("a pipe");
    stdin.write_all(contents).expect("a shell that reads");
    drop(stdin);
    assert!(shell.wait().expect("a shell that ends").success(), "{}", path.display());
}

/// Waits until something is so that takes another process a moment.
pub fn becomes(so: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !so() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(2));
    }
    true
}

/// The standard launcher, as a file.
pub fn launcher() -> &'static Path {
    static FILE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = FILE.get_or_init(|| {
        let folder = TempDir::new().expect("a temporary folder");
        let path = folder.path().join("portcullis-launcher");
        let image = portcullis::bundled_launcher().expect("the launcher is embedded");
        write_program(&path, image);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        (folder, path)
    });
    path
}

/// A file of `/proc/PID`, as another process sees it.
pub fn read_proc(pid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

/// A field of `/proc/PID/status`.
pub fn status(pid: u32, field: &str) -> String {
    let status = read_proc(pid, "status");
    let found = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    found.unwrap_or_else(|| panic!("{field} is not in {status}")).trim().to_owned()
}

/// Whether this process has a capability, by its number, in its effective set.
pub fn has_capability(number: u32) -> bool {
    let set = u64::from_str_radix(&status(std::process::id(), "CapEff"), 16).expect("a set");
    set >> number & 1 == 1
}

/// The children of a process, in the order in which it made them.
pub fn children(pid: u32) -> Vec<u32> {
    let children = read_proc(pid, &format!("task/{pid}/children"));
    children.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect()
}

/// The children of a process that have yet to exec.
pub fn waiting_children(pid: u32) -> Vec<u32> {
    let name = read_proc(pid, "comm");
    children(pid).into_iter().filter(|child| read_proc(*child, "comm") == name).collect()
}

/// Those that have.
pub fn workloads(pid: u32) -> Vec<u32> {
    let waiting = waiting_children(pid);
    children(pid).into_iter().filter(|child| !waiting.contains(child)).collect()
}

/// Whether there is no process of this pid, a zombie neither.
pub fn is_gone(pid: impl Display) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

/// The `sh` that a process is, or that its first child is, and so on.
pub fn shell_of(mut pid: u32) -> u32 {
    while !read_proc(pid, "cmdline").starts_with("sh\0") {
        pid = *children(pid).first().expect("a child");
    }
    pid
}

/// The pid of a number.
pub fn pid(number: u32) -> Pid {
    i32::try_from(number).ok().and_then(Pid::from_raw).expect("a pid")
}

/// Sends a signal to a process.
pub fn send(process: u32, signal: Signal) {
    kill_process(pid(process), signal).expect("a process of ours");
}

/// A launch in the making. As it begins it is good: it scrubs, and execs a shell that leaves a mark.
pub struct Host {
    /// The plan's body; `h_l` and `param_digest`s are filled in when it is encoded.
    pub body: LaunchBody,
    /// Whether they are.
    pub honest: bool,
    /// What is handed over in place of the encoded body.
    pub plan: Option<Vec<u8>>,
    /// Whether the plan's memfd is sealed.
    pub sealed: bool,
    /// Whether the plan comes by a pipe.
    pub piped: bool,
    /// The fds at their slots.
    pub fds: BTreeMap<u32, OwnedFd>,
    /// Variables in place of the right ones; `None` leaves one out.
    pub variables: BTreeMap<&'static str, Option<String>>,
    /// The working directory that is sent to a resident launcher.
    pub directory: Option<OwnedFd>,
    /// Who the launcher runs as, where it is not this user.
    pub user: Option<u32>,
    /// How many more fds the launcher inherits, every other one without close-on-exec.
    pub sentinels: usize,
    /// Which of 0, 1 and 2 are closed when the launcher starts.
    pub closed: Vec<i32>,
    /// Whether the supervisor itself writes to the error pipe.
    pub forged_error: bool,
    /// A fault for strace to inject, as its option `inject` takes it.
    pub inject: Option<String>,
    /// Where strace writes what the launcher and its child call, every constant as a number.
    pub strace: Option<PathBuf>,
    /// The launcher.
    pub launcher: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    folder: TempDir,
}

/// How a launch went, as its supervisor sees it.
#[derive(Debug)]
pub struct Outcome {
    /// The launcher's exit status.
    pub status: Option<i32>,
    /// What came by the control channel.
    pub text: String,
    /// What was written to standard output.
    pub stdout: String,
    /// What the launcher wrote to its standard error.
    pub stderr: String,
    /// Whether the workload left its mark.
    pub ran: bool,
}

impl Outcome {
    /// The transcript.
    pub fn transcript(&self) -> Transcript {
        Transcript::parse(self.text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The lines of the transcript, but for these; for the child's pid; and for which step of its program failed.
    pub fn told(&self, but: &[&str]) -> Vec<String> {
        let plain = |word: &str| match word.split_once('=') {
            Some(("child_pid", pid)) if pid.parse::<u32>().is_ok() => "child_pid=PID".to_owned(),
            Some(("step", step)) if step.parse::<u32>().is_ok() => "step=STEP".to_owned(),
            _ => word.to_owned(),
        };
        let lines = self.text.lines().filter(|line| !but.contains(line));
        lines.map(|line| line.split(' ').map(plain).collect::<Vec<_>>().join(" ")).collect()
    }

    /// Asserts that the launch was refused by this name, with `part` in what is said of it.
    pub fn refused(&self, reason: &str, part: &str) {
        let transcript = self.transcript();
        assert_eq!(transcript.terminal(), Some(LauncherState::SetupRefused), "{self:?}");
        assert_eq!(transcript.value("refusal"), Some(reason), "{self:?}");
        assert!(self.text.contains(part), "{part:?} is not in {self:?}");
        assert_eq!((self.status, self.ran, self.stderr.as_str()), (Some(3), false, ""), "{self:?}");
    }

    /// Asserts that the launch faulted, with `part` in what is said of it.
    pub fn faulted(&self, part: &str) {
        let transcript = self.transcript();
        assert_eq!(transcript.terminal(), Some(LauncherState::SetupFaulted), "{self:?}");
        assert!(transcript.text("fault").is_some(), "{self:?}");
        assert!(self.text.contains(part), "{part:?} is not in {self:?}");
        assert_eq!((self.status, self.ran, self.stderr.as_str()), (Some(4), false, ""), "{self:?}");
    }

    /// Asserts that the workload ran.
    pub fn succeeded(&self) {
        let transcript = self.transcript();
        assert_eq!(transcript.terminal(), Some(LauncherState::ExecSucceeded), "{self:?}");
        assert_eq!((self.status, self.ran), (Some(0), true), "{self:?}");
    }
}

impl Default for Host {
    fn default() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let script = format!(": > {}/ran", folder.path().display());
        let mut host = Self {
            body: LaunchBody {
                attempt_id: Digest::from([7; 32]),
                plan_id: Digest::from([1; 32]),
                h_a: Digest::from([2; 32]),
                h_p: Digest::from([3; 32]),
                h_l: Digest::ZERO,
                lowering: Vec::new(),
                descriptor_table: Vec::new(),
                target: Target {
                    argv: ["sh", "-c", &script].map(Into::into).to_vec(),
                    envp: vec![("PATH".into(), "/usr/bin:/bin".into())],
                    exe_slot: Self::EXE,
                },
            },
            honest: true,
            plan: None,
            sealed: true,
            piped: false,
            fds: BTreeMap::new(),
            variables: BTreeMap::new(),
            directory: None,
            user: None,
            sentinels: 0,
            closed: Vec::new(),
            forged_error: false,
            inject: None,
            strace: None,
            launcher: launcher().to_owned(),
            arguments: Vec::new(),
            folder,
        };
        host.slot(Self::EXE, DescriptorRole::TargetExe, "/bin/sh");
        host.schedule("linux.ambient.scrub.v1", &());
        host.schedule("linux.exec.v1", &());
        host
    }
}

impl Host {
    /// The executable's slot.
    pub const EXE: u32 = 10;
    const CHANNELS: [&'static str; 4] =
        ["BVISOR_CONTROL_FD", "BVISOR_LAUNCH_PLAN_FD", "BVISOR_ERROR_FD", "BVISOR_ERROR_READ_FD"];

    /// The folder that the workload's mark is left in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A launch of a version 1 frame: the program at 10, roots to read at 20 to 24, one to write at 16.
    pub fn version_1(frame: &[u8], program: &str) -> Self {
        let mut host = Self::default();
        host.fds.clear();
        host.slot(Self::EXE, DescriptorRole::TargetExe, program);
        let own = Path::new(program).parent().expect("an absolute path");
        for (slot, root) in [(20, "/usr"), (21, "/lib"), (22, "/lib64"), (23, "/proc")] {
            host.slot(slot, DescriptorRole::ReadRoot, root);
        }
        host.slot(24, DescriptorRole::ReadRoot, own);
        host.slot(16, DescriptorRole::WriteRoot, "/tmp");
        host.plan = Some(frame.to_vec());
        host
    }

    /// Opens a path with `O_PATH` at a slot, and declares it as what it is.
    pub fn slot(&mut self, slot_index: u32, role: DescriptorRole, path: impl AsRef<Path>) {
        let fd = open(path.as_ref(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("open");
        let kind = if path.as_ref().is_dir() {
            DescriptorKind::Directory
        } else {
            DescriptorKind::Regular
        };
        let expected = DescriptorShape { kind, writable: false };
        self.body.descriptor_table.push(DescriptorSlot { role, expected, slot_index });
        self.fds.insert(slot_index, fd);
    }

    /// Lets a workload that is another user leave its mark.
    pub fn open_to_all(&self) {
        fs::set_permissions(self.folder(), PermissionsExt::from_mode(0o777))
            .expect("its own folder");
    }

    /// The folder alone.
    pub(crate) fn into_folder(self) -> TempDir {
        self.folder
    }

    /// Has the workload leave the host's mark and do one thing more.
    pub fn script(&mut self, more: &str) {
        let mark = self.folder().join("ran");
        self.body.target.argv[2] = format!(": > {}; {more}", mark.display()).into();
    }

    /// Schedules a mechanism, without parameters, that this launcher has and these tests don't.
    pub fn foreign(&mut self, launcher: impl AsRef<Path>, id: &str) {
        let known = portcullis::mechanisms(Some(launcher.as_ref())).expect("its mechanisms");
        let found = known.into_iter().find(|it| it.id == id).expect("the mechanism");
        self.body.lowering.push(LoweringEntry {
            id: found.id,
            version: found.version,
            phase_code: found.phase_code,
            params: Params::default(),
            param_digest: Params::default().digest(),
            decl_digest: Some(found.decl_digest.parse().expect("a digest")),
            standing: Standing::Scheduled,
        });
    }

    /// Schedules what [`files_and_calls`](Self::files_and_calls) does, and a user and a network namespace.
    pub fn everything(&mut self) {
        self.files_and_calls();
        self.schedule("linux.userns.enter.v1", &());
        self.schedule("linux.netns.enter.v1", &());
    }

    /// Schedules Landlock with six roots, and a filter.
    pub fn files_and_calls(&mut self) {
        for (slot, root) in
            [(20, "/usr"), (21, "/bin"), (22, "/lib"), (23, "/lib64"), (24, "/proc")]
        {
            self.slot(slot, DescriptorRole::ReadRoot, root);
        }
        let folder = self.folder().to_owned();
        self.slot(16, DescriptorRole::WriteRoot, folder);
        let read = |slot: u32| json!({"slot": slot, "access": ["read", "exec"]});
        let write = json!({"slot": 16, "access": ["read", "write"]});
        let rules = json!([read(20), read(21), read(22), read(23), read(24), write]);
        self.schedule("linux.landlock.apply.v1", &json!({"abi": 3, "rules": rules}));
        self.schedule("linux.seccomp.apply.v1", &json!({"deny": ["ptrace"]}));
    }

    /// The declaration of a slot.
    pub fn declared(&mut self, slot_index: u32) -> &mut DescriptorSlot {
        let mut slots = self.body.descriptor_table.iter_mut();
        slots.find(|it| it.slot_index == slot_index).expect("a declared slot")
    }

    /// Schedules a registered mechanism with these parameters.
    pub fn schedule(&mut self, id: &str, params: &impl Serialize) -> &mut LoweringEntry {
        let registry = Registry::collect().expect("no duplicates");
        let mechanism = registry.find(id).unwrap_or_else(|| panic!("{id} is not registered"));
        let entry = mechanism.declaration().entry(Params::of(params).expect("params"));
        self.body.lowering.push(entry);
        self.body.lowering.last_mut().expect("just pushed")
    }

    /// The entry of an id.
    pub fn entry(&mut self, id: &str) -> &mut LoweringEntry {
        self.body.lowering.iter_mut().find(|it| it.id == id).expect("a scheduled entry")
    }

    /// Takes an id out of the schedule.
    pub fn unschedule(&mut self, id: &str) {
        self.body.lowering.retain(|it| it.id != id);
    }

    /// The frame that is handed over.
    pub fn frame(&mut self) -> Vec<u8> {
        if self.honest {
            for entry in &mut self.body.lowering {
                entry.param_digest = entry.params.digest();
            }
            self.body.h_l = lowering_digest(&self.body.lowering);
        }
        self.plan.clone().unwrap_or_else(|| LaunchPlan::encode(&self.body).expect("a body"))
    }

    /// The plan, on an fd as it is handed over.
    pub fn plan_fd(&mut self) -> OwnedFd {
        let frame = self.frame();
        if self.piped {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
            rustix::io::write(&write, &frame).expect("a plan that fits in a pipe");
            return read;
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = memfd_create("plan", flags).expect("a memfd");
        let mut done = 0;
        while done < frame.len() {
            done += pwrite(&fd, &frame[done..], done as u64).expect("a write");
        }
        if self.sealed {
            let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
            fcntl_add_seals(&fd, seals).expect("seals");
        }
        fd
    }

    /// Launches, and waits for the launcher's end for 30 s at the most.
    pub fn run(mut self) -> Outcome {
        let mark = self.folder.path().join("ran");
        let (control_read, control) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        let (error_read, error) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        if self.forged_error {
            rustix::io::write(&error, &[0; 8]).expect("a pipe that is empty");
        }
        let plan = self.plan_fd();
        let first = self.fds.keys().next_back().copied().unwrap_or(2).max(2) + 1;
        let mut mappings: Vec<FdMapping> = Vec::new();
        let mut map = |parent_fd: OwnedFd, child: u32| {
            let child_fd = child.try_into().expect("an fd number");
            mappings.push(FdMapping { parent_fd, child_fd });
        };
        for (slot, fd) in std::mem::take(&mut self.fds) {
            map(fd, slot);
        }
        let mut command = if self.strace.is_some() {
            // It stops until strace is there. To start it under strace would leave strace with a copy
            // of each fd, and the error pipe would never end.
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""]).arg(&self.launcher);
            command
        } else if self.sentinels > 0 {
            let mut command = Self::with_sentinels(self.sentinels);
            command.arg(&self.launcher);
            command
        } else if !self.closed.is_empty() {
            let mut script = "exec \"$0\" \"$@\"".to_owned();
            for fd in &self.closed {
                let _ = write!(script, " {fd}>&-");
            }
            let mut command = Command::new("/bin/sh");
            command.args(["-c", &script]).arg(&self.launcher);
            command
        } else {
            Command::new(&self.launcher)
        };
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command.args(&self.arguments).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (number, (name, fd)) in
            (first..).zip(Self::CHANNELS.into_iter().zip([control, plan, error, error_read]))
        {
            map(fd, number);
            command.env(name, number.to_string());
        }
        for (name, value) in &self.variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.fd_mappings(mappings).expect("no number twice");
        let mut child = command.spawn().expect("the launcher runs");
        // The mappings hold our copies of what was handed over.
        drop(command);
        let text = thread::spawn(move || read_all(File::from(control_read)));
        let stderr = child.stderr.take().expect("a pipe");
        let stderr = thread::spawn(move || read_all(stderr));
        let stdout = child.stdout.take().expect("a pipe");
        let stdout = thread::spawn(move || read_all(stdout));
        let strace =
            self.strace.as_deref().map(|log| attach(child.id(), log, self.inject.as_deref()));
        let deadline = Instant::now() + Duration::from_secs(30);
        let status = loop {
            if let Some(status) = child.try_wait().expect("wait") {
                break status;
            }
            if Instant::now() > deadline {
                child.kill().expect("kill");
                child.wait().expect("wait");
                panic!("the launcher hangs, with the fault {:?}", self.inject);
            }
            thread::sleep(Duration::from_millis(1));
        };
        if let Some(mut strace) = strace {
            strace.wait().expect("strace ends with what it traces");
        }
        Outcome {
            status: status.code(),
            text: text.join().expect("a reader"),
            stdout: stdout.join().expect("a reader"),
            stderr: stderr.join().expect("a reader"),
            ran: mark.exists(),
        }
    }

    /// A command that execs its arguments with as many fds more.
    fn with_sentinels(count: usize) -> Command {
        let script = "import fcntl, os, resource, sys\n\
                      count = int(sys.argv[1])\n\
                      most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n\
                      resource.setrlimit(resource.RLIMIT_NOFILE, (min(count + 1000, most), most))\n\
                      for number in range(count):\n    \
                          fd = os.open('/etc/passwd', os.O_RDONLY)\n    \
                          os.set_inheritable(fd, number % 10 != 0)\n\
                      os.execv(sys.argv[2], sys.argv[2:])\n";
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", script, &count.to_string()]);
        command
    }

    /// How many fds a shell has that is started with as many more.
    pub fn count_with_sentinels(count: usize) -> usize {
        let mut command = Self::with_sentinels(count);
        let script = "set -- /proc/self/fd/*; echo $#";
        let output = command.args(["/bin/sh", "-c", script]).output().expect("a shell");
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
    }

    /// Opens a file at a slot for writing.
    pub fn open_for_writing(&mut self, slot_index: u32, path: impl AsRef<Path>) {
        let file = File::options().write(true).create(true).truncate(false).open(path);
        self.fds
            .insert(slot_index, file.expect("a file").as_fd().try_clone_to_owned().expect("dup"));
    }
}

/// Attaches strace to a process that is about to stop itself, and lets it go on.
fn attach(pid: u32, log: &Path, inject: Option<&str>) -> Child {
    let stopped = becomes(|| read_proc(pid, "stat").contains(") T "));
    assert!(stopped, "the process that is to be traced does not stop");
    let mut strace = Command::new("strace");
    if let Some(fault) = inject {
        strace.args(["-e", &format!("inject={fault}")]);
    }
    let mut strace = strace
        .args(["-f", "-X", "raw", "-s", "0", "-p", &pid.to_string(), "-o"])
        .arg(log)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("strace runs");
    let mut told = BufReader::new(strace.stderr.take().expect("a pipe"));
    let mut line = String::new();
    told.read_line(&mut line).expect("strace says that it is there");
    assert!(line.contains("attached"), "{line}");
    // It says more, and is not to end for want of a listener.
    thread::spawn(move || read_all(told));
    send(pid, Signal::CONT);
    strace
}

fn read_all(mut from: impl Read) -> String {
    let mut text = Vec::new();
    let _ = from.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}
