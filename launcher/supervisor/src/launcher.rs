//! Which launcher is run, and what it can do.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis_core::Params;
use portcullis_core::plan::{LoweringEntry, Standing};
use portcullis_core::program::{FdArg, Op};
use rustix::process::{Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::control::wait_for;
use crate::spawn::{Placement, place};
use crate::{Error, Report};

/// A launcher to run.
#[derive(Debug, Clone)]
pub(crate) enum Launcher {
    /// The embedded one.
    #[cfg(bundled)]
    Bundled,
    /// One that was given by path.
    Path(PathBuf),
}

impl Launcher {
    /// The path of one that is named, by `path` or by `BVISOR_LAUNCHER_BIN`.
    pub(crate) fn named(path: Option<&Path>) -> Option<PathBuf> {
        let path = path.map(Path::to_owned);
        path.or_else(|| std::env::var_os("BVISOR_LAUNCHER_BIN").map(PathBuf::from))
    }

    /// The one at `path`; without it, that of `BVISOR_LAUNCHER_BIN`; without that, the embedded one.
    #[cfg_attr(
        bundled,
        allow(clippy::unnecessary_wraps, reason = "without an embedded one there may be none")
    )]
    pub(crate) fn choose(path: Option<&Path>) -> Result<Self, Error> {
        match Self::named(path) {
            // The launcher starts in the program's working directory, and its path is of this one.
            Some(path) => match std::path::absolute(&path) {
                Ok(absolute) => Ok(Self::Path(absolute)),
                Err(error) => Err(Self::Path(path).error(error)),
            },
            #[cfg(bundled)]
            None => Ok(Self::Bundled),
            #[cfg(not(bundled))]
            None => Err(Error::Launcher {
                launcher: "portcullis-launcher".into(),
                source: io::Error::other(
                    "none is embedded (feature bundled-launcher); name one in code or in \
                     BVISOR_LAUNCHER_BIN",
                ),
            }),
        }
    }

    /// The fd that it is executed from, unless it is executed by its path.
    pub(crate) fn image(&self) -> Result<Option<RawFd>, Error> {
        match self {
            #[cfg(bundled)]
            Self::Bundled => {
                bundled::fd().map(|fd| Some(fd.as_raw_fd())).map_err(|error| self.error(error))
            }
            Self::Path(_) => Ok(None),
        }
    }

    /// The op that execs it, from its image where it has one, with these arguments after its name.
    pub(crate) fn exec(
        &self,
        image: Option<FdArg>,
        arguments: &[&str],
        envp: Vec<CString>,
    ) -> Result<Op, Error> {
        let c_string = |bytes: &[u8]| CString::new(bytes).map_err(|error| self.error(error.into()));
        let argv =
            ["portcullis-launcher"].iter().chain(arguments).map(|it| c_string(it.as_bytes()));
        let argv = argv.collect::<Result<Vec<_>, _>>()?;
        match (image, self) {
            (Some(image), _) => Ok(Op::execveat(image, argv, envp)),
            (None, Self::Path(path)) => {
                Ok(Op::execve(c_string(path.as_os_str().as_bytes())?, argv, envp))
            }
            #[cfg(bundled)]
            (None, Self::Bundled) => Err(self.error(io::Error::from_raw_os_error(libc::EBADF))),
        }
    }

    /// Its mechanisms, as it describes them.
    pub(crate) fn mechanisms(&self) -> Result<Vec<MechanismInfo>, Error> {
        let limit = Duration::from_secs(30);
        let answer = ask(self, &["--mechanisms"], Placement::default(), limit)?;
        MechanismInfo::parse(&answer)
    }

    pub(crate) fn error(&self, source: io::Error) -> Error {
        let launcher = match self {
            #[cfg(bundled)]
            Self::Bundled => "that is embedded".into(),
            Self::Path(path) => path.display().to_string(),
        };
        Error::Launcher { launcher, source }
    }
}

#[cfg(bundled)]
mod bundled {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::sync::OnceLock;

    use rustix::fs::MemfdFlags;

    use crate::spawn::sealed;

    pub(super) static IMAGE: &[u8] = include_bytes!(env!("PORTCULLIS_BUNDLED_LAUNCHER"));
    static MEMFD: OnceLock<OwnedFd> = OnceLock::new();

    /// The embedded launcher in a memfd that nobody can write to, made once for the process.
    pub(super) fn fd() -> io::Result<&'static OwnedFd> {
        if let Some(fd) = MEMFD.get() {
            return Ok(fd);
        }
        let fd = sealed("portcullis-launcher", MemfdFlags::EXEC, IMAGE)?;
        // Another thread may have been faster, and its fd is as good.
        Ok(MEMFD.get_or_init(|| fd))
    }
}

/// The embedded launcher's file, for a supervisor that starts it by itself; `None` without the feature
/// `bundled-launcher`.
pub fn bundled_launcher() -> Option<&'static [u8]> {
    #[cfg(bundled)]
    return Some(bundled::IMAGE);
    #[cfg(not(bundled))]
    return None;
}

/// A mechanism of a launcher, as the launcher itself describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MechanismInfo {
    /// The lowering id.
    pub id: String,
    /// The version of its contract.
    pub version: u32,
    /// The phase's name.
    pub phase: String,
    /// The phase's code.
    pub phase_code: u32,
    /// Its place within the phase.
    pub rank: u8,
    /// Why it has that place.
    pub rank_reason: String,
    /// How often a plan may schedule it: `Once` or `Layers`.
    pub repeat: String,
    /// What must be scheduled with it.
    pub requires: Vec<RequirementInfo>,
    /// What must not be scheduled with it.
    pub conflicts: Vec<ConflictInfo>,
    /// What it does.
    pub summary: String,
    /// The oldest kernel that has what it needs.
    pub kernel_floor: String,
    /// The grammar of its parameters on the wire, in CDDL.
    pub params: String,
    /// An example of what a policy says of it, in JSON.
    pub example: String,
    /// What there is to know of it, in Markdown.
    pub guide: String,
    /// The digest of its declaration, in hexadecimal.
    pub decl_digest: String,
    /// Whether this kernel, for this user, can do it.
    pub supported: String,
    /// To which degree, where it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What it leaves open here, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub residual: Vec<String>,
    /// What it does, shown.
    pub demonstration: DemonstrationInfo,
    /// Why, where it can't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Another mechanism without which one must not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequirementInfo {
    /// The other's lowering id.
    pub id: String,
    /// Why.
    pub reason: String,
    /// What the transcript notes where the other is not scheduled.
    pub note: String,
}

/// Another mechanism with which one must not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictInfo {
    /// The other's lowering id.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// What a mechanism does, shown: see
/// [`Demonstration`](portcullis_core::mechanism::Demonstration).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemonstrationInfo {
    /// What the policy says of the mechanism, in JSON.
    pub policy: String,
    /// Ids and policies of what is scheduled with it.
    pub with: Vec<(String, String)>,
    /// What `/bin/sh -c` runs.
    pub script: String,
    /// What it prints where the mechanism is applied.
    pub shows: String,
}

impl MechanismInfo {
    /// Reads a launcher's list.
    pub(crate) fn parse(list: &str) -> Result<Vec<Self>, Error> {
        serde_json::from_str(list).map_err(|error| Error::Answer(error.to_string()))
    }

    /// Whether this kernel, for this user, can do it.
    pub fn is_supported(&self) -> bool {
        self.supported == "yes"
    }

    /// An entry for this mechanism with parameters as the plan carries them.
    pub(crate) fn entry(&self, params: Params) -> Result<LoweringEntry, Error> {
        let digest = self.decl_digest.parse();
        Ok(LoweringEntry {
            id: self.id.clone(),
            version: self.version,
            phase_code: self.phase_code,
            param_digest: params.digest(),
            params,
            decl_digest: Some(digest.map_err(|error: portcullis_core::ParseDigestError| {
                Error::Answer(error.to_string())
            })?),
            standing: Standing::Scheduled,
        })
    }
}

/// Asks a launcher for its mechanisms: the one at `launcher`, or without a path the one that
/// [`Command`](crate::Command) would run.
///
/// ```
/// let mechanisms = portcullis::mechanisms(None)?;
/// assert!(mechanisms.iter().any(|it| it.id == "linux.exec.v1" && it.is_supported()));
/// # Ok::<(), portcullis::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Launcher`] where it can't be run, [`Error::Answer`] where it does not answer.
pub fn mechanisms(launcher: Option<&Path>) -> Result<Vec<MechanismInfo>, Error> {
    Launcher::choose(launcher)?.mechanisms()
}

/// Runs a launcher for what it prints.
pub(crate) fn ask(
    launcher: &Launcher,
    question: &[&str],
    mut with: Placement,
    limit: Duration,
) -> Result<String, Error> {
    let [(out, out_end), (err, err_end)] = [crate::spawn::pipe()?, crate::spawn::pipe()?];
    let null =
        File::options().read(true).open("/dev/null").map_err(Error::system("opening /dev/null"))?;
    let fds: [(BorrowedFd<'_>, u32); 3] =
        [(null.as_fd(), 0), (out_end.as_fd(), 1), (err_end.as_fd(), 2)];
    with.fds.extend(fds.map(|(fd, target)| (fd.as_raw_fd(), target)));
    let mut process = place(launcher, question, &with)?;
    drop((out_end, err_end));
    let answered =
        wait_for(&out, Some(limit)).map_err(Error::system("waiting for the launcher"))?;
    if !answered {
        let _ = kill_process(process.pid(), Signal::KILL);
        let _ = process.wait();
        return Err(Error::TimedOut { limit });
    }
    // One after the other is enough: what a launcher says of an error is less than a pipe holds.
    let (mut answer, mut complaint) = (String::new(), String::new());
    let read = File::from(out).read_to_string(&mut answer);
    let read = read.and_then(|_| File::from(err).read_to_string(&mut complaint));
    let status = match process.wait() {
        Ok(status) => status.exit_status(),
        // Who ignores SIGCHLD is not told; one that has nothing to complain of did well.
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
            complaint.is_empty().then_some(0)
        }
        Err(error) => return Err(Error::system("waiting for the launcher")(error)),
    };
    read.map_err(Error::system("reading the launcher's answer"))?;
    if status == Some(0) {
        return Ok(answer);
    }
    let complaint = complaint.trim();
    let complaint = complaint.strip_prefix("portcullis-launcher: ").unwrap_or(complaint);
    match status {
        Some(3) => Err(refused(complaint)),
        Some(4) => Err(Error::Faulted { what: complaint.into(), report: Box::default() }),
        _ => Err(Error::Answer(format!("{question:?} ended with {status:?}: {complaint}"))),
    }
}

fn refused(complaint: &str) -> Error {
    let (reason, detail) = complaint.split_once(": ").unwrap_or((complaint, ""));
    match reason.parse() {
        Ok(reason) => {
            Error::Refused { reason, detail: detail.into(), report: Box::<Report>::default() }
        }
        Err(_) => Error::Answer(complaint.into()),
    }
}

/// A variable of the launcher's environment.
pub(crate) fn variable(name: &str, value: &OsStr) -> Result<CString, Error> {
    CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())
        .map_err(|error| Error::System { what: "the launcher's environment", source: error.into() })
}
