//! Why a confined program did not run, told to the person who can act.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use portcullis_core::mechanism::OpenError;
use portcullis_core::plan::PlanError;
use portcullis_core::registry::DuplicateId;
use portcullis_core::state::RefusalReason;
use portcullis_core::transcript::TranscriptError;

use crate::{Report, Stopped};

/// Why a confined program did not run, or how its launcher misbehaved.
///
/// Whatever the variant, the program never ran unless the variant says that it did.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The policy asks for what can't be: a path that does not exist, a system call that is none.
    #[error(transparent)]
    Policy(#[from] OpenError),
    /// No mechanism of this id is linked into this program or into the launcher.
    #[error("{id}: neither this program nor the launcher has such a mechanism")]
    UnknownMechanism {
        /// The lowering id.
        id: String,
    },
    /// Two mechanisms of one id are linked into this program.
    #[error(transparent)]
    Registry(#[from] DuplicateId),
    /// The plan breaks a limit of the protocol.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Something that a launch needs of the system could not be had.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The launcher itself could not be run.
    #[error("running the launcher {launcher}: {source}")]
    Launcher {
        /// Which one.
        launcher: String,
        /// Why not.
        source: io::Error,
    },
    /// This process can't become the program by itself ([`Command::exec_here`](crate::Command::exec_here)),
    /// and is as it was: a launcher may launch it.
    #[error("it takes a launcher: {why}")]
    NeedsLauncher {
        /// Why this process can't.
        why: String,
    },
    /// The launcher refused the plan, by name.
    #[error("refused, {reason}: {detail}")]
    Refused {
        /// The protocol's name for why.
        reason: RefusalReason,
        /// What, to what, and what would help.
        detail: String,
        /// What the launcher told.
        report: Box<Report>,
    },
    /// The program itself could not be executed, after everything else had been applied.
    #[error("{detail}")]
    Exec {
        /// The error of the exec.
        source: io::Error,
        /// What was being executed, and what the error means.
        detail: String,
        /// What the launcher told.
        report: Box<Report>,
    },
    /// Something failed that had no reason to.
    #[error("faulted: {what}")]
    Faulted {
        /// What was being done, to what, and why it failed.
        what: String,
        /// What the launcher told.
        report: Box<Report>,
    },
    /// What the launcher wrote is no transcript: it is not a launcher, or of another protocol. If the
    /// program ran, it was killed.
    #[error("the launcher's transcript: {0}")]
    Transcript(#[from] TranscriptError),
    /// The launcher wrote more than any transcript is long. If the program ran, it was killed.
    #[error("the launcher wrote more than {limit} bytes to its control channel")]
    TranscriptTooLong {
        /// The most that is read.
        limit: usize,
    },
    /// The launcher ended without saying how the launch did. If the program ran, it was killed.
    #[error("the launcher ended ({status}) after {after} and told no more")]
    LauncherEnded {
        /// How it ended.
        status: ExitStatus,
        /// The last state that it told, if any.
        after: String,
    },
    /// The launcher told nothing for longer than it was given. The launch was given up: its program was killed, and
    /// so was the launcher, unless it is a resident one.
    #[error("the launcher was not done within {limit:?}, and the launch was given up")]
    TimedOut {
        /// What it was given.
        limit: Duration,
    },
    /// The launcher's own answer to a question is not one.
    #[error("the launcher's answer: {0}")]
    Answer(String),
}

impl Error {
    /// For `map_err` where the system was asked for something.
    pub(crate) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { what, source: source.into() }
    }

    /// That of a launch that stopped, where the report says why it did.
    pub(crate) fn stopped(report: Report) -> Option<Self> {
        Some(match report.stopped.clone()? {
            Stopped::Refused { reason, detail } => {
                Self::Refused { reason, detail, report: Box::new(report) }
            }
            Stopped::Faulted { what, errno: Some(errno), owner: Some(owner) }
                if owner == portcullis_mechanisms::exec::ID =>
            {
                let source = io::Error::from_raw_os_error(errno);
                Self::Exec { source, detail: what, report: Box::new(report) }
            }
            Stopped::Faulted { what, .. } => Self::Faulted { what, report: Box::new(report) },
        })
    }

    /// What the launcher told, where it told anything.
    pub fn report(&self) -> Option<&Report> {
        match self {
            Self::Refused { report, .. }
            | Self::Exec { report, .. }
            | Self::Faulted { report, .. } => Some(report),
            _ => None,
        }
    }
}
