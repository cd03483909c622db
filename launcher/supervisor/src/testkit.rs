//! The conformance suite on a real launcher: the whole test of a mechanism is a `main` of one line.
//!
//! ```no_run
//! # /*
//! use my_mechanism as _; // what is tested: a crate that nothing refers to is not linked
//! # */
//!
//! fn main() -> std::process::ExitCode {
//!     portcullis::testkit::main("target/debug/my-launcher") // or env!("CARGO_BIN_EXE_my-launcher")
//! }
//! ```
//!
//! It is a test without a harness: `harness = false` in its `[[test]]`.
//!
//! # How a kernel is made to answer
//!
//! What a kernel that lacks a call would answer, a seccomp filter does. It is in force for the launcher
//! and its child and for nobody else: each launch goes through a second process of the test's own
//! executable, which [`obey`] turns into the launcher once it has set the filter.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, IntoRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use portcullis_core::mechanism::Support;
use portcullis_core::registry::Registry;
pub use portcullis_core::testkit::{
    Answer, Check, End, Experiment, Finding, Findings, Laboratory, Outcome, Skipped, Way, check,
};
use portcullis_mechanisms::{ambient_scrub, exec};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use tempfile::TempDir;

use crate::control::wait_for;
use crate::spawn::pipe;
use crate::{Command, Error, MechanismInfo, Stdio, Stopped};

/// By this first argument a process knows that it is to become another program.
const BECOME: &str = "--portcullis-testkit-become";
/// In place of an answer, where the kernel is to answer for itself.
const UNANSWERED: &str = "-";
/// More than any demonstration takes.
const LIMIT: Duration = Duration::from_secs(30);
/// The fd that is open where a launcher starts, for the scrub to close.
const SENTINEL: i32 = 99;

/// A test's whole `main`: puts every mechanism that is linked into the test through the suite, on the
/// launcher at this path, and prints what it came to.
pub fn main(launcher: impl AsRef<Path>) -> ExitCode {
    obey();
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    match findings(launcher.as_ref()) {
        Ok(findings) => {
            print!("{findings}");
            if findings.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(what) => {
            eprintln!("{what}");
            ExitCode::FAILURE
        }
    }
}

fn findings(launcher: &Path) -> Result<Findings, String> {
    let bench = Bench::new(launcher).map_err(|error| error.to_string())?;
    let registry = Registry::collect().map_err(|error| error.to_string())?;
    // A test that links no mechanism would find nothing wrong with it.
    for it in &bench.mechanisms {
        if registry.find(&it.id).is_none() {
            return Err(format!(
                "the launcher has {}, and this test has not: it must say `use THE_CRATE as _;`",
                it.id
            ));
        }
    }
    Ok(check(&registry, &bench))
}

/// Does what a [`Bench`] has started this process for, and does not return; in a process that was started
/// for something else it does nothing. To be called first in the `main` of a test that has a bench, unless
/// [`main`] is all of it.
pub fn obey() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != BECOME) {
        return;
    }
    let answer = arguments.next().unwrap_or_default();
    let program = arguments.next().unwrap_or_default();
    let mut command = process::Command::new(program);
    command.args(arguments);
    let prepared = open_sentinel().and_then(|()| match answer.to_str() {
        Some(UNANSWERED) => Ok(()),
        Some(answer) => install(answer),
        None => Err(io::ErrorKind::InvalidInput.into()),
    });
    let error = match prepared {
        Ok(()) => command.exec(),
        Err(error) => error,
    };
    eprintln!("becoming {}: {error}", command.get_program().to_string_lossy());
    process::exit(1)
}

/// Opens the sentinel, without close-on-exec.
fn open_sentinel() -> io::Result<()> {
    let fd = fcntl_dupfd_cloexec(File::open("/dev/null")?, SENTINEL)?;
    if fd.as_raw_fd() != SENTINEL {
        return Err(io::Error::other(format!("fd {SENTINEL} is taken")));
    }
    fcntl_setfd(&fd, FdFlags::empty())?;
    let _ = fd.into_raw_fd();
    Ok(())
}

/// Has the kernel answer as `answer` says, which is a call's number, an errno, and `PLACE=VALUE` for each
/// argument that counts, separated by commas.
fn install(answer: &str) -> io::Result<()> {
    let wrong = || io::Error::other(format!("{answer:?} is no answer"));
    let number = |text: &str| text.parse::<i64>().map_err(|_| wrong());
    let mut words = answer.split(',');
    let call = number(words.next().unwrap_or_default())?;
    let errno = number(words.next().unwrap_or_default())?;
    let mut conditions = Vec::new();
    for word in words {
        let (place, value) = word.split_once('=').ok_or_else(wrong)?;
        let place = place.parse().map_err(|_| wrong())?;
        let value = value.parse().map_err(|_| wrong())?;
        let (length, equal) = (SeccompCmpArgLen::Qword, SeccompCmpOp::Eq);
        let condition = SeccompCondition::new(place, length, equal, value);
        conditions.push(condition.map_err(io::Error::other)?);
    }
    // A call without a rule is meant whatever its arguments are.
    let mut rules = Vec::new();
    if !conditions.is_empty() {
        rules.push(SeccompRule::new(conditions).map_err(io::Error::other)?);
    }
    let errno = SeccompAction::Errno(errno.try_into().map_err(|_| wrong())?);
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let rules = BTreeMap::from([(call, rules)]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, errno, architecture);
    let filter = BpfProgram::try_from(filter.map_err(io::Error::other)?);
    seccompiler::apply_filter(&filter.map_err(io::Error::other)?).map_err(io::Error::other)
}

/// A [`Laboratory`] on the launcher of a path.
///
/// The `main` of whoever has one begins with [`obey`].
#[derive(Debug)]
pub struct Bench {
    launcher: PathBuf,
    /// This executable.
    own: PathBuf,
    mechanisms: Vec<MechanismInfo>,
    folders: Mutex<Vec<TempDir>>,
    cgroups: Mutex<Vec<PathBuf>>,
}

impl Bench {
    /// A laboratory on the launcher at this path.
    ///
    /// # Errors
    ///
    /// Those of [`mechanisms`](crate::mechanisms), and [`Error::System`] where this executable has no path.
    pub fn new(launcher: impl AsRef<Path>) -> Result<Self, Error> {
        let absolute = Error::system("finding the launcher");
        let launcher = std::path::absolute(launcher).map_err(absolute)?;
        let own = std::env::current_exe().map_err(Error::system("finding this executable"))?;
        let mechanisms = crate::mechanisms(Some(&launcher))?;
        let (folders, cgroups) = (Mutex::default(), Mutex::default());
        Ok(Self { launcher, own, mechanisms, folders, cgroups })
    }

    fn outcome(&self, experiment: &Experiment<'_>) -> Result<Outcome, Error> {
        let answer = experiment.answer.as_ref().map_or_else(|| UNANSWERED.to_owned(), words);
        let launcher = self.launcher.display().to_string();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", experiment.script])
            .env("PATH", Command::SEARCH_PATH)
            .through(&self.own, vec![BECOME.into(), answer, launcher])
            .way(match experiment.way {
                Way::Child => crate::Way::Child,
                Way::InPlace => crate::Way::InPlace,
            })
            .setup_limit(LIMIT);
        for (id, params) in experiment.entries {
            if !self.always().contains(id) {
                command.policy(*id, params.clone());
            }
        }
        let (stdout, stdout_end) = pipe()?;
        let (stderr, stderr_end) = pipe()?;
        command.stdin(Stdio::null()).stdout(stdout_end).stderr(stderr_end);
        let (stdout, stderr) = (reader(stdout), reader(stderr));
        let end = end(&mut command);
        // Our copies of the pipes' ends, without which they do not end.
        drop(command);
        Ok(Outcome { stdout: read(stdout), stderr: read(stderr), end })
    }
}

impl Laboratory for Bench {
    fn always(&self) -> &[&'static str] {
        &[exec::ID, ambient_scrub::ID]
    }

    fn support(&self, id: &str) -> Option<Support> {
        let found = self.mechanisms.iter().find(|it| it.id == id)?;
        Some(if found.is_supported() {
            Support::yes(found.detail.clone().unwrap_or_default())
        } else {
            Support::no(found.why.clone().unwrap_or_default())
        })
    }

    fn folder(&self) -> Result<String, String> {
        let make = || {
            let folder = TempDir::with_prefix("portcullis-demonstration-")?;
            fs::set_permissions(folder.path(), Permissions::from_mode(0o777))?;
            let file = folder.path().join("file");
            fs::write(&file, "42\n")?;
            fs::set_permissions(file, Permissions::from_mode(0o666))?;
            Ok(folder)
        };
        let folder = make().map_err(|error: io::Error| format!("making a folder: {error}"))?;
        let path = folder.path().display().to_string();
        self.folders.lock().map_err(|error| error.to_string())?.push(folder);
        Ok(path)
    }

    fn cgroup(&self) -> Result<String, String> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("portcullis-demonstration-{}-{number}", process::id());
        let mut why = "no cgroup2 file system is mounted".to_owned();
        for parent in cgroup_parents() {
            let path = parent.join(&name);
            match fs::create_dir(&path) {
                Ok(()) => {
                    self.cgroups.lock().map_err(|error| error.to_string())?.push(path.clone());
                    return Ok(path.display().to_string());
                }
                Err(error) => why = format!("making a cgroup, {}: {error}", path.display()),
            }
        }
        Err(why)
    }

    fn launch(&self, experiment: &Experiment<'_>) -> Outcome {
        self.outcome(experiment).unwrap_or_else(|error| {
            let end = End::Broken { what: error.to_string() };
            Outcome { stdout: String::new(), stderr: String::new(), end }
        })
    }

    fn bare(&self, script: &str) -> Result<String, String> {
        let output = process::Command::new(&self.own)
            .args([BECOME, UNANSWERED, "/bin/sh", "-c", script])
            .env_clear()
            .env("PATH", Command::SEARCH_PATH)
            .stdin(process::Stdio::null())
            .output();
        output.map(|output| text(&output.stdout)).map_err(|error| error.to_string())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for cgroup in self.cgroups.get_mut().into_iter().flatten() {
            remove_cgroup(cgroup);
        }
    }
}

/// Removes a cgroup and those below it. What can't be removed is left: it is empty.
fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

/// Where a cgroup may be made: below this process's own, or at the top.
fn cgroup_parents() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let at = fields.next()?;
        (fields.next() == Some("cgroup2")).then(|| PathBuf::from(at))
    });
    let Some(mount) = mount else { return Vec::new() };
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    vec![mount.join(own), mount]
}

/// How the command goes, to its end.
fn end(command: &mut Command) -> End {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return stopped(&error),
    };
    let launcher = i32::try_from(child.launcher_id()).ok().and_then(Pid::from_raw);
    let pidfd = launcher.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    if pidfd.is_some_and(|pidfd| wait_for(&pidfd, Some(LIMIT)) == Ok(false)) {
        // It is killed as it is dropped.
        return End::Broken { what: format!("the script still runs after {} s", LIMIT.as_secs()) };
    }
    match child.wait() {
        Ok(_) => End::Ran { applied: child.report().applied().map(str::to_owned).collect() },
        Err(error) => End::Broken { what: error.to_string() },
    }
}

fn stopped(error: &Error) -> End {
    let what = error.to_string();
    let owner = error.report().and_then(|report| match &report.stopped {
        Some(Stopped::Faulted { owner, .. }) => owner.clone(),
        _ => None,
    });
    match error {
        Error::Policy(_) | Error::Refused { .. } | Error::Exec { .. } | Error::Faulted { .. } => {
            End::Stopped { owner, what }
        }
        _ => End::Broken { what },
    }
}

/// An answer as [`install`] reads it.
fn words(answer: &Answer) -> String {
    let arguments = answer.arguments.iter().map(|(place, value)| format!(",{place}={value}"));
    format!("{},{}", answer.number, answer.errno) + &arguments.collect::<String>()
}

fn reader(fd: OwnedFd) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is what there is.
        let _ = File::from(fd).read_to_end(&mut bytes);
        bytes
    })
}

fn read(reader: JoinHandle<Vec<u8>>) -> String {
    text(&reader.join().unwrap_or_default())
}

fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.strip_suffix('\n').unwrap_or(&text).to_owned()
}
