//! What is inside, what is outside, and how the outside learns that somebody came out.

use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::{self, BufRead as _, BufReader, IoSlice, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use portcullis_tests::{read_proc, write_program};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;
use tempfile::TempDir;

const NOBODY: u32 = 65534;

/// The folder of programs that may be executed, which all scenes share: the attacker, and as root copies of
/// it that have more rights than who executes them.
pub(crate) fn programs() -> &'static Path {
    let folder = PROGRAMS.get_or_init(|| {
        let folder = TempDir::new().expect("a temporary folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("chmod");
        let image =
            fs::read(env!("PORTCULLIS_ESCAPE")).expect("the program that build.rs has built");
        let write = |name: &str| {
            let path = folder.path().join(name);
            write_program(&path, &image);
            path
        };
        write("escape");
        if rustix::process::geteuid().is_root() {
            for (name, uid, gid, mode) in [
                ("set-user-id", Some(NOBODY), None, 0o4755),
                ("set-group-id", None, Some(NOBODY), 0o2755),
            ] {
                let path = write(name);
                chown(&path, uid, gid).expect("chown");
                fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
            }
            // struct vfs_cap_data, version 2, effective: CAP_NET_RAW.
            let words = [0x0200_0001_u32, 1 << 13, 0, 0, 0];
            let value: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
            let flags = XattrFlags::empty();
            rustix::fs::setxattr(write("capable"), "security.capability", &value, flags)
                .expect("setxattr");
        }
        folder
    });
    folder.path()
}

static PROGRAMS: OnceLock<TempDir> = OnceLock::new();

/// Removes them: a static is not dropped, and such programs are not to be left lying about.
pub(crate) fn remove_programs() {
    let _ = PROGRAMS.get().map(|folder| fs::remove_dir_all(folder.path()));
}

/// What the attacker has for standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// A pipe, by which it is told that the outside has done its part.
    Pipe,
    /// A file outside, open for reading only.
    File,
    /// A terminal that is no session's.
    Terminal,
}

/// The outside, made anew for each attempt.
#[derive(Debug)]
pub(crate) struct Scene {
    folder: TempDir,
    /// What the outside knows and the attacker is not told.
    token: String,
    /// What the attacker is to type, and to call.
    typed: String,
    outsider: Outsider,
    tcp: TcpListener,
    udp: UdpSocket,
    path: UnixListener,
    path_datagram: UnixDatagram,
    name: UnixListener,
    name_datagram: UnixDatagram,
    terminal: OwnedFd,
    slave: File,
    /// The connection to a port on which the attacker listens.
    visit: Option<TcpStream>,
    /// A file outside that is open here without close-on-exec.
    _leak: File,
}

#[derive(Debug)]
struct Outsider {
    process: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    tells: Value,
}

fn random() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("a random uuid");
    text.trim().to_owned()
}

impl Scene {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let token = random();
        let typed = format!("portcullis-{}", random());
        let at = |name: &str| folder.path().join(name);
        for name in ["outside", "readable", "writable"] {
            fs::create_dir(at(name)).expect("mkdir");
        }
        let write = |name: &str, text: &str| fs::write(at(name), text).expect("a file");
        write("outside/secret", &token);
        write("outside/plain", "plain");
        write("readable/file", "file");
        write("readable/script", "echo \"$1\"\n");
        write("writable/file", "file");
        symlink(&token, at("outside/link")).expect("a link");
        for name in ["outside/tool", "readable/tool"] {
            fs::hard_link(programs().join("escape"), at(name)).expect("a hard link");
        }
        fs::copy("/bin/echo", at("readable/dynamic")).expect("a copy");
        fs::set_permissions(at("readable/dynamic"), Permissions::from_mode(0o644)).expect("chmod");
        // Its image is its own: there is an escape that overwrites it.
        let image = fs::read(programs().join("escape")).expect("the program");
        write_program(&at("outside/outsider"), &image);
        let outsider = Outsider::start(&at("outside"), &token);
        let loopback = (Ipv4Addr::LOCALHOST, 0);
        let abstract_name =
            |name: &str| SocketAddr::from_abstract_name(format!("{name}-{typed}")).expect("a name");
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("a terminal");
        let slave = ptsname(&terminal, Vec::new()).expect("its name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(slave, flags, Mode::empty()).expect("its other end");
        let leak = File::open(at("outside/secret")).expect("a file");
        rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).expect("fcntl");
        Self {
            outsider,
            tcp: TcpListener::bind(loopback).expect("a listener"),
            udp: UdpSocket::bind(loopback).expect("a socket"),
            path: UnixListener::bind(at("outside/socket")).expect("a listener"),
            path_datagram: UnixDatagram::bind(at("outside/datagram")).expect("a socket"),
            name: UnixListener::bind_addr(&abstract_name("stream")).expect("a listener"),
            name_datagram: UnixDatagram::bind_addr(&abstract_name("datagram")).expect("a socket"),
            terminal,
            slave: slave.into(),
            visit: None,
            _leak: leak,
            typed,
            folder,
            token,
        }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the attacker is told.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut said: Vec<(&str, String)> = ["outside", "readable", "writable"]
            .map(|name| (name, self.at(name).display().to_string()))
            .into();
        let port = |address: io::Result<std::net::SocketAddr>| address.expect("a port").port();
        said.push(("programs", programs().display().to_string()));
        said.push(("victim", self.outsider.process.id().to_string()));
        said.push(("tcp", port(self.tcp.local_addr()).to_string()));
        said.push(("udp", port(self.udp.local_addr()).to_string()));
        said.push(("typed", self.typed.clone()));
        said.push(("abstract", format!("stream-{}", self.typed)));
        said.push(("abstract-datagram", format!("datagram-{}", self.typed)));
        for (key, value) in self.outsider.tells.as_object().expect("an object") {
            match value {
                Value::Null => {}
                Value::String(text) => said.push((key, text.clone())),
                other => said.push((key, other.to_string())),
            }
        }
        said.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    /// The attacker's standard input, where it is no pipe.
    pub(crate) fn input(&self, input: Input) -> Option<OwnedFd> {
        match input {
            Input::Pipe => None,
            Input::File => Some(File::open(self.at("outside/plain")).expect("a file").into()),
            Input::Terminal => Some(self.slave.try_clone().expect("an fd").into()),
        }
    }

    fn victim(&self) -> u32 {
        self.outsider.process.id()
    }
}

/// What the outside does when the attacker is ready for it.
impl Scene {
    pub(crate) fn send_descriptor(&mut self, _: &str) {
        let (socket, _) = self.path.accept().expect("a connection");
        let secret = File::open(self.at("outside/secret")).expect("a file");
        let fds = [secret.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&socket, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).expect("sendmsg");
    }

    pub(crate) fn end_victim(&mut self, _: &str) {
        self.outsider.end();
    }

    pub(crate) fn connect_to(&mut self, port: &str) {
        let port: u16 = port.parse().expect("a port");
        self.visit = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok();
    }

    pub(crate) fn send_to(&mut self, port: &str) {
        let port: u16 = port.parse().expect("a port");
        let _ = self.udp.send_to(self.token.as_bytes(), (Ipv4Addr::LOCALHOST, port));
    }

    pub(crate) fn make_file(&mut self, _: &str) {
        fs::write(self.at("outside").join(&self.token), "").expect("a file");
    }
}

/// How the outside learns of an escape. What the attacker says of itself is asked for only where it alone
/// can know.
impl Scene {
    /// It tells what only the outside knew.
    pub(crate) fn token_told(&mut self, said: &str) -> bool {
        said.contains(&self.token)
    }

    pub(crate) fn typed_told(&mut self, said: &str) -> bool {
        said.contains(&self.typed)
    }

    pub(crate) fn inode_told(&mut self, said: &str) -> bool {
        let inode = fs::metadata(self.at("outside/secret")).expect("stat").ino();
        said == format!("inode {inode}")
    }

    pub(crate) fn descriptors_counted(&mut self, said: &str) -> bool {
        let open = fs::read_dir(format!("/proc/{}/fd", self.victim())).expect("its fds").count();
        said == format!("{open} descriptors")
    }

    pub(crate) fn memory_overwritten(&mut self, _: &str) -> bool {
        !self.token.eq(self.outsider.ask()["memory"].as_str().expect("its memory"))
    }

    pub(crate) fn semaphore_set(&mut self, _: &str) -> bool {
        self.outsider.ask()["semaphore"] == 7
    }

    pub(crate) fn last_at_disks(&mut self, _: &str) -> bool {
        const BEST_EFFORT_LAST: i32 = 2 << 13 | 7;
        self.outsider.ask()["io-priority"] == BEST_EFFORT_LAST
    }

    pub(crate) fn large_file_left(&mut self, _: &str) -> bool {
        fs::metadata(self.at("writable/large")).is_ok_and(|file| file.len() == 1 << 30)
    }

    pub(crate) fn image_overwritten(&mut self, _: &str) -> bool {
        fs::read(self.at("outside/outsider")).expect("its image").starts_with(b"overwritten")
    }

    pub(crate) fn signal_pending(&mut self, _: &str) -> bool {
        let status = read_proc(self.victim(), "status");
        let pending = status.lines().filter(|line| line.contains("Pnd:"));
        pending.into_iter().any(|line| line.contains(|digit| ('1'..='9').contains(&digit)))
    }

    pub(crate) fn limit_lowered(&mut self, _: &str) -> bool {
        let limits = read_proc(self.victim(), "limits");
        let files = limits.lines().find(|line| line.starts_with("Max open files"));
        files.and_then(|line| line.split_whitespace().nth(3)) == Some("77")
    }

    pub(crate) fn made_nice(&mut self, _: &str) -> bool {
        self.stat(19) == "7"
    }

    pub(crate) fn made_batch(&mut self, _: &str) -> bool {
        const SCHED_BATCH: &str = "3";
        self.stat(41) == SCHED_BATCH
    }

    pub(crate) fn on_one_processor(&mut self, _: &str) -> bool {
        let status = read_proc(self.victim(), "status");
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        allowed.is_some_and(|list| list.trim().parse::<u32>().is_ok())
    }

    pub(crate) fn offered(&mut self, _: &str) -> bool {
        read_proc(self.victim(), "oom_score_adj").trim() == "77"
    }

    /// A field of `/proc/PID/stat`, counted from 1; the name, which may have blanks, is the second.
    fn stat(&self, field: usize) -> String {
        let stat = read_proc(self.victim(), "stat");
        let (_, rest) = stat.rsplit_once(')').expect("a name in parentheses");
        rest.split_whitespace().nth(field - 3).expect("a field").to_owned()
    }

    pub(crate) fn outside_changed(&mut self, _: &str) -> bool {
        !fs::read(self.at("outside/plain")).is_ok_and(|text| text == b"plain")
    }

    pub(crate) fn outside_made(&mut self, _: &str) -> bool {
        self.at("outside/new").symlink_metadata().is_ok()
    }

    pub(crate) fn readable_changed(&mut self, _: &str) -> bool {
        !fs::read(self.at("readable/file")).is_ok_and(|text| text == b"file")
    }

    pub(crate) fn mode_changed(&mut self, _: &str) -> bool {
        self.readable().mode() & 0o777 == 0o777
    }

    pub(crate) fn times_changed(&mut self, _: &str) -> bool {
        self.readable().mtime() == 77
    }

    pub(crate) fn attribute_set(&mut self, _: &str) -> bool {
        let mut value = [0_u8; 16];
        rustix::fs::getxattr(self.at("readable/file"), "user.escape", &mut value).is_ok()
    }

    pub(crate) fn flag_set(&mut self, _: &str) -> bool {
        let file = File::open(self.at("readable/file")).expect("a file");
        let flags = rustix::fs::ioctl_getflags(&file);
        flags.is_ok_and(|flags| flags.contains(rustix::fs::IFlags::NODUMP))
    }

    fn readable(&self) -> fs::Metadata {
        fs::metadata(self.at("readable/file")).expect("stat")
    }

    pub(crate) fn tcp_connected(&mut self, _: &str) -> bool {
        self.tcp.set_nonblocking(true).is_ok() && self.tcp.accept().is_ok()
    }

    pub(crate) fn tcp_answered(&mut self, _: &str) -> bool {
        let mut text = [0; 7];
        let answer = self.visit.as_mut().is_some_and(|it| it.read_exact(&mut text).is_ok());
        answer && text == *b"escaped"
    }

    pub(crate) fn udp_received(&mut self, _: &str) -> bool {
        self.udp.set_nonblocking(true).is_ok() && self.udp.recv(&mut [0; 64]).is_ok()
    }

    pub(crate) fn path_connected(&mut self, _: &str) -> bool {
        self.path.set_nonblocking(true).is_ok() && self.path.accept().is_ok()
    }

    pub(crate) fn path_received(&mut self, _: &str) -> bool {
        let socket = &self.path_datagram;
        socket.set_nonblocking(true).is_ok() && socket.recv(&mut [0; 64]).is_ok()
    }

    pub(crate) fn name_connected(&mut self, _: &str) -> bool {
        self.name.set_nonblocking(true).is_ok() && self.name.accept().is_ok()
    }

    pub(crate) fn name_received(&mut self, _: &str) -> bool {
        let socket = &self.name_datagram;
        socket.set_nonblocking(true).is_ok() && socket.recv(&mut [0; 64]).is_ok()
    }

    /// What is typed is echoed, and what is written is shown, at the terminal's other end.
    pub(crate) fn terminal_touched(&mut self, _: &str) -> bool {
        let mut shown = String::new();
        let patience = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut terminal = File::from(self.terminal.try_clone().expect("an fd"));
        loop {
            let mut polled = [PollFd::new(&self.terminal, PollFlags::IN)];
            let ready = poll(&mut polled, Some(&patience)).expect("poll");
            let mut bytes = [0; 256];
            match (ready, polled[0].revents().contains(PollFlags::IN)) {
                (1.., true) => match terminal.read(&mut bytes) {
                    Ok(length) if length > 0 => {
                        let _ = write!(shown, "{}", String::from_utf8_lossy(&bytes[..length]));
                    }
                    _ => break,
                },
                _ => break,
            }
        }
        shown.contains(&self.typed)
    }

    pub(crate) fn core_left(&mut self, _: &str) -> bool {
        let mut names = fs::read_dir(self.at("writable")).expect("a folder").flatten();
        names.any(|entry| entry.file_name().to_string_lossy().starts_with("core"))
    }

    pub(crate) fn device_made(&mut self, _: &str) -> bool {
        self.at("writable/device").symlink_metadata().is_ok()
    }
}

impl Outsider {
    fn start(folder: &Path, token: &str) -> Self {
        let mut process = Command::new(folder.join("outsider"))
            .args(["--outsider", token])
            .env("TOKEN", token)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process outside");
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut outsider = Self { process, stdin, stdout, tells: Value::Null };
        outsider.tells = outsider.hear();
        outsider
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// What became of it.
    fn ask(&mut self) -> Value {
        self.stdin.as_mut().expect("it lives").write_all(b"\n").expect("it lives");
        self.hear()
    }

    /// Ends it, when it has removed what would outlive it.
    fn end(&mut self) {
        self.stdin = None;
        let _ = self.process.wait();
    }
}

impl Drop for Outsider {
    fn drop(&mut self) {
        self.end();
    }
}
