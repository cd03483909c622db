//! What a mechanism is: the trait that one implements, and what it declares of itself.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::descriptor::{DescriptorKind, DescriptorRole, DescriptorShape, DescriptorSlot};
use crate::lowering::Lowering;
use crate::params::encode;
use crate::plan::{LoweringEntry, Standing, Target};
use crate::state::RefusalReason;
use crate::{Digest, Params, ParamsError};

/// A phase of the launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[repr(u8)]
pub enum Phase {
    /// Code 0: namespaces are created, the child is born in its cgroup.
    #[serde(rename = "namespace create")]
    Namespace = 0,
    /// Code 1: the file system that the workload sees.
    #[serde(rename = "file-system set-up")]
    FileSystem = 1,
    /// Code 2: privileges are dropped.
    #[serde(rename = "privilege drop")]
    Privilege = 2,
    /// Code 3: inherited file descriptors are closed.
    #[serde(rename = "fd hygiene")]
    FdHygiene = 3,
    /// Code 4: Landlock and seccomp.
    #[serde(rename = "policy install")]
    Policy = 4,
    /// Code 5: the exec.
    #[serde(rename = "launch")]
    Launch = 5,
}

impl Phase {
    /// The code that a plan's entry carries.
    pub fn code(self) -> u32 {
        u32::from(self as u8)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Namespace => "namespace create",
            Self::FileSystem => "file-system set-up",
            Self::Privilege => "privilege drop",
            Self::FdHygiene => "fd hygiene",
            Self::Policy => "policy install",
            Self::Launch => "launch",
        })
    }
}

/// How often a plan may schedule a mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Repeat {
    /// Once: a second entry contradicts the first.
    Once,
    /// Any number of times: each entry is one more layer.
    Layers,
}

/// Another mechanism without which this one must not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Requirement {
    /// The other's lowering id.
    pub id: &'static str,
    /// Why.
    pub reason: &'static str,
    /// What the transcript notes where the other is not scheduled.
    pub note: &'static str,
}

/// Another mechanism with which this one must not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// The other's lowering id.
    pub id: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// What a mechanism does, shown: a shell's script that prints one thing where the mechanism is applied
/// and another where it is not. The conformance suite runs it, `portcullis doctor` does, and the
/// reference quotes it.
///
/// In the policies and the script, `@folder` stands for a fresh folder that everybody may write to, with
/// a file `file` in it that holds `42`; `@cgroup` for a fresh cgroup of version 2, whose name starts with
/// `portcullis-demonstration`. An fd 99 that is not close-on-exec is open where the launcher starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Demonstration {
    /// What the policy says of the mechanism, in JSON.
    pub policy: &'static str,
    /// Ids and policies of what is scheduled with it, in both cases.
    pub with: &'static [(&'static str, &'static str)],
    /// What `/bin/sh -c` runs.
    pub script: &'static str,
    /// What it prints where the mechanism is applied, without the newline. It prints something else
    /// where it is not.
    pub shows: &'static str,
}

/// What a mechanism declares of itself: constant, and the same in the supervisor and the launcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Declaration {
    /// The lowering id, `linux.<what>.<verb>.v<n>`.
    pub id: &'static str,
    /// The version of the contract.
    pub version: u32,
    /// The phase it runs in.
    pub phase: Phase,
    /// Its place within the phase: lower first.
    pub rank: u8,
    /// Why it has that place.
    pub rank_reason: &'static str,
    /// How often a plan may schedule it.
    pub repeat: Repeat,
    /// What must be scheduled with it.
    pub requires: &'static [Requirement],
    /// What must not be scheduled with it.
    pub conflicts: &'static [Conflict],
    /// One line: what it does.
    pub summary: &'static str,
    /// The oldest kernel that has what it needs.
    pub kernel_floor: &'static str,
    /// The grammar of its parameters on the wire, in CDDL ([RFC 8610]).
    ///
    /// [RFC 8610]: https://www.rfc-editor.org/rfc/rfc8610.html
    pub params: &'static str,
    /// An example of what a policy says of it, in JSON.
    pub example: &'static str,
    /// What there is to know of it, in Markdown without a title: what it does and why, what the fields of
    /// a policy mean, how it fails, what it leaves open. It is the reference's page, and the module's
    /// documentation too.
    pub guide: &'static str,
    /// What it does, shown.
    pub demonstration: Demonstration,
}

impl Declaration {
    /// The digest that an entry carries as `decl_digest`: of the id, the version, the phase code, the
    /// rank and the grammar of the parameters, as a CBOR array in that order. What two sides must
    /// agree on is in it; what is written for people is not.
    pub fn digest(&self) -> Digest {
        Digest::of(&encode(&(self.id, self.version, self.phase.code(), self.rank, self.params)))
    }

    /// An entry for this mechanism with these parameters.
    pub fn entry(&self, params: Params) -> LoweringEntry {
        self.entry_with(params, self.digest())
    }

    /// The same, where the digest of this declaration is known.
    pub(crate) fn entry_with(&self, params: Params, digest: Digest) -> LoweringEntry {
        LoweringEntry {
            id: self.id.to_owned(),
            version: self.version,
            phase_code: self.phase.code(),
            param_digest: params.digest(),
            params,
            decl_digest: Some(digest),
            standing: Standing::Scheduled,
        }
    }
}

/// What a policy says of a mechanism, as a type: a supervisor's builder takes any.
pub trait Policy: Serialize {
    /// The lowering id of the mechanism.
    const ID: &'static str;
}

/// A refusal: the launch can't be what the plan asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The protocol's name for why.
    pub reason: RefusalReason,
    /// What, to what, why, and what would help.
    pub detail: String,
}

/// A fault: something failed that had no reason to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What was being done, to what, and why it failed.
    pub what: String,
    /// A note that the transcript carries before it.
    pub note: Option<&'static str>,
}

/// Why a launch stops before its workload runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// By name.
    Refused(Refusal),
    /// By accident.
    Faulted(Fault),
}

impl Stop {
    /// A refusal.
    pub fn refuse(reason: RefusalReason, detail: impl Into<String>) -> Self {
        Self::Refused(Refusal { reason, detail: detail.into() })
    }

    /// A fault.
    pub fn fault(what: impl Into<String>) -> Self {
        Self::Faulted(Fault { what: what.into(), note: None })
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(Refusal { reason, detail }) => write!(f, "{reason}: {detail}"),
            Self::Faulted(Fault { what, .. }) => f.write_str(what),
        }
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Faulted(fault)
    }
}

impl From<ParamsError> for Stop {
    fn from(error: ParamsError) -> Self {
        Self::refuse(RefusalReason::PlanInvalid, format!("params: {error}"))
    }
}

/// Why a policy can't be turned into a plan, told to the person who wrote it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A field of the policy is missing, unknown, or of another type.
    #[error("{0}")]
    Policy(#[from] ParamsError),
    /// A path can't be opened.
    #[error("{what} {path:?}: {source}")]
    Path {
        /// What the path was for.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// Why it can't be opened.
        source: std::io::Error,
    },
    /// What the policy asks for can't be.
    #[error("{0}")]
    Unusable(String),
}

impl OpenError {
    /// For `map_err` where `path`, which is for `what`, was opened.
    pub fn path(what: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Path { what, path, source }
    }
}

/// A plan that a supervisor is opening authority for: where paths become fds.
#[derive(Debug, Default)]
pub struct Opening {
    slots: Vec<(DescriptorSlot, OwnedFd)>,
    target: Target,
}

impl Opening {
    /// The first slot: 0, 1 and 2 are the workload's own.
    pub const FIRST_SLOT: u32 = 3;

    /// For a workload with these arguments and this environment.
    pub fn new(target: Target) -> Self {
        Self { slots: Vec::new(), target }
    }

    /// The workload.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Declares a descriptor and says at which slot the launcher will find it. The slot of a
    /// [`TargetExe`](DescriptorRole::TargetExe) becomes the target's.
    ///
    /// # Panics
    ///
    /// Never in practice: a process can't hold 2³² descriptors.
    pub fn declare(
        &mut self,
        fd: OwnedFd,
        role: DescriptorRole,
        kind: DescriptorKind,
        writable: bool,
    ) -> u32 {
        let count = u32::try_from(self.slots.len()).expect("fewer fds than 2³²");
        let slot_index = Self::FIRST_SLOT + count;
        if role == DescriptorRole::TargetExe {
            self.target.exe_slot = slot_index;
        }
        let expected = DescriptorShape { kind, writable };
        self.slots.push((DescriptorSlot { role, expected, slot_index }, fd));
        slot_index
    }

    /// The workload, and the descriptors that were declared, by rising slot.
    pub fn finish(self) -> (Target, Vec<(DescriptorSlot, OwnedFd)>) {
        (self.target, self.slots)
    }
}

/// Who becomes the workload: a child that exists, and has not been released, or the launcher itself, which
/// is by then in the namespaces that were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attendee {
    /// Its pid.
    pub pid: i32,
    /// The launcher's effective uid, as it was outside of those namespaces.
    pub uid: u32,
    /// The launcher's effective gid, as it was outside of them.
    pub gid: u32,
}

/// Whether this kernel and this user can do what a mechanism is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "supported", rename_all = "snake_case")]
pub enum Support {
    /// It can; to which degree, where there are degrees.
    Yes {
        /// The degree.
        detail: String,
        /// What it leaves open here that its name might promise, a line each.
        residual: Vec<&'static str>,
    },
    /// It can't.
    No {
        /// Why, and what would help.
        why: String,
    },
}

impl Support {
    /// It can, and leaves nothing open that needs telling.
    pub fn yes(detail: impl Into<String>) -> Self {
        Self::Yes { detail: detail.into(), residual: Vec::new() }
    }

    /// It can't.
    pub fn no(why: impl Into<String>) -> Self {
        Self::No { why: why.into() }
    }

    /// What an attempt says: `detail` where it succeeded, and otherwise why it did not, with `help`.
    pub fn of(attempt: Result<(), Stop>, detail: &str, help: &str) -> Self {
        match attempt {
            Ok(()) => Self::yes(detail),
            Err(stop) if help.is_empty() => Self::no(stop.to_string()),
            Err(stop) => Self::no(format!("{stop}; {help}")),
        }
    }
}

/// Where a mechanism tries itself out.
pub trait Host {
    /// Lowers what `lower` says and runs it in a child that ends there, without an exec.
    ///
    /// # Errors
    ///
    /// What `lower` returned, or a [`Stop::Faulted`] that names the op that failed, and how.
    fn rehearse(&self, lower: &mut Rehearsal<'_>) -> Result<(), Stop>;
}

/// What [`Host::rehearse`] is given: the lowering of what is to be tried.
pub type Rehearsal<'r> = dyn FnMut(&mut Lowering<'_>) -> Result<(), Stop> + 'r;

/// One way of confining a workload.
///
/// A mechanism is a value without state, registered with [`register!`](crate::register). Its life has
/// five steps, on two sides: the supervisor [opens](Self::open), the launcher [lowers](Self::lower)
/// and, rarely, [attends](Self::attend); either may [probe](Self::probe).
pub trait Mechanism: Sync {
    /// What it declares of itself.
    fn declaration(&self) -> &'static Declaration;

    /// In the supervisor: what a policy says becomes parameters, and paths become descriptors.
    ///
    /// # Errors
    ///
    /// [`OpenError`], told to the person who wrote the policy.
    fn open(&self, policy: &Params, opening: &mut Opening) -> Result<Params, OpenError>;

    /// In the launcher, before the child: parameters and verified descriptors become ops. Everything
    /// that allocates, opens, or can fail for a nameable reason happens here.
    ///
    /// # Errors
    ///
    /// [`Stop::Refused`] where the plan asks for what can't be, [`Stop::Faulted`] where something
    /// failed that had no reason to.
    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop>;

    /// In the launcher, after the clone: the parent's half of a rendezvous that
    /// [`lower`](Self::lower) asked for. The child is released when all that asked have attended. In a
    /// launch in place there is no child: the launcher attends to itself, from inside. A child that is made
    /// [ahead](Lowering::rendezvous_ahead) is attended to before its launch is lowered.
    ///
    /// # Errors
    ///
    /// A [`Fault`]: the child is then never released.
    fn attend(&self, params: &Params, child: Attendee) -> Result<(), Fault> {
        let _ = (params, child);
        Ok(())
    }

    /// Whether this kernel and this user can do it.
    fn probe(&self, host: &dyn Host) -> Support;
}
