//! From a command to a sealed plan: where paths become fds.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use portcullis_core::descriptor::DescriptorSlot;
use portcullis_core::mechanism::{OpenError, Opening, Policy};
use portcullis_core::plan::{LaunchBody, LaunchPlan, LoweringEntry, Target, lowering_digest};
use portcullis_core::registry::Registry;
use portcullis_core::{Digest, OsText, Params};
use portcullis_launcher::process::children_are_kept;
use portcullis_mechanisms::ambient_scrub::AmbientScrub;
use portcullis_mechanisms::exec::Exec;
use rustix::fs::MemfdFlags;

use crate::launcher::{Launcher, MechanismInfo};
use crate::spawn::sealed;
use crate::{Error, Remark};

/// One thing that a command asks a launcher for.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    /// What a policy says of a mechanism, or, of one that is not linked in here, a plan.
    Policy(String, Params),
    /// An entry as the plan carries it.
    Entry(LoweringEntry),
}

impl Request {
    /// The lowering id.
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Policy(id, _) => id,
            Self::Entry(entry) => &entry.id,
        }
    }

    /// The request of a policy that is a type.
    pub(crate) fn of<P: Policy>(policy: &P) -> Result<Self, Error> {
        let params = Params::of(policy).map_err(portcullis_core::mechanism::OpenError::from)?;
        Ok(Self::Policy(P::ID.to_owned(), params))
    }
}

/// Everything that a plan is made from.
pub(crate) struct Draft<'c> {
    pub(crate) target: Target,
    pub(crate) exec: Exec,
    pub(crate) requests: &'c [Request],
    /// Ids of what is left out where the launcher can't do it here.
    pub(crate) preferred: &'c [String],
}

/// What a plan is of, and the fds that go with it.
pub(crate) struct Opened {
    /// What it says. What names it is set when it is [sealed](Self::seal).
    pub(crate) body: LaunchBody,
    /// The fds, each with its slot.
    pub(crate) slots: Vec<(DescriptorSlot, OwnedFd)>,
    /// What was preferred and is left out, and why.
    pub(crate) left_out: Vec<Remark>,
    /// The mechanisms that opened it.
    pub(crate) registry: Registry,
}

/// A plan and the fds that go with it.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The frame, sealed in a memfd.
    pub(crate) frame: OwnedFd,
    /// What the frame says.
    body: LaunchBody,
    /// The fds, each with its slot.
    pub(crate) slots: Arc<[(DescriptorSlot, OwnedFd)]>,
    /// What was preferred and is left out, and why.
    pub(crate) left_out: Vec<Remark>,
}

/// Who is to make the launch, and knows what it can do here.
#[derive(Clone, Copy)]
pub(crate) enum Maker<'l> {
    /// A launcher.
    Launcher(&'l Launcher),
    /// This process, by what is linked into it.
    ThisProcess,
}

impl Maker<'_> {
    fn mechanisms(self) -> Result<Vec<MechanismInfo>, Error> {
        match self {
            Self::Launcher(launcher) => launcher.mechanisms(),
            // What is tried out in a child that can't be waited for looks as if it could not be done.
            Self::ThisProcess if !children_are_kept() => Err(Error::NeedsLauncher {
                why: "this process ignores SIGCHLD, and what is preferred is tried out in children"
                    .into(),
            }),
            Self::ThisProcess => {
                let answer = portcullis_launcher::mechanisms().map_err(Error::Answer)?;
                MechanismInfo::parse(&answer)
            }
        }
    }
}

/// The maker's mechanisms, asked for when they are first needed.
struct Known<'l> {
    maker: Maker<'l>,
    mechanisms: Option<Vec<MechanismInfo>>,
}

impl Known<'_> {
    fn find(&mut self, id: &str) -> Result<Option<&MechanismInfo>, Error> {
        if self.mechanisms.is_none() {
            self.mechanisms = Some(self.maker.mechanisms()?);
        }
        Ok(self.mechanisms.iter().flatten().find(|it| it.id == id))
    }

    /// Why it can't be done here, if it can't.
    fn lacks(&mut self, id: &str) -> Result<Option<String>, Error> {
        Ok(match self.find(id)? {
            None => Some("no such mechanism is linked into the launcher".into()),
            Some(known) if known.is_supported() => None,
            Some(known) => Some(known.why.clone().unwrap_or_else(|| "not supported here".into())),
        })
    }
}

impl Opened {
    /// Names the plan, and seals it for a launcher.
    pub(crate) fn seal(self) -> Result<Plan, Error> {
        let Self { mut body, slots, left_out, .. } = self;
        body.attempt_id = attempt()?;
        body.h_l = lowering_digest(&body.lowering);
        // What was asked for is all in the lowering; no other authority and no policy is named.
        body.plan_id = body.h_l;
        Ok(Plan { frame: frame(&body)?, body, slots: slots.into(), left_out })
    }
}

impl Plan {
    /// The same plan, of the same attempt.
    pub(crate) fn try_clone(&self) -> Result<Self, Error> {
        let frame = self.frame.try_clone().map_err(Error::system("copying an fd"))?;
        let (slots, left_out) = (Arc::clone(&self.slots), self.left_out.clone());
        Ok(Plan { frame, body: self.body.clone(), slots, left_out })
    }

    /// The plan of another attempt, with these arguments after the program's name.
    pub(crate) fn with_arguments(
        &self,
        arguments: impl Iterator<Item = OsText>,
    ) -> Result<Self, Error> {
        let mut body = LaunchBody { attempt_id: attempt()?, ..self.body.clone() };
        body.target.argv.truncate(1);
        body.target.argv.extend(arguments);
        let (slots, left_out) = (Arc::clone(&self.slots), self.left_out.clone());
        Ok(Plan { frame: frame(&body)?, body, slots, left_out })
    }
}

impl Draft<'_> {
    /// Opens what the plan needs.
    pub(crate) fn open(self, maker: Maker<'_>) -> Result<Opened, Error> {
        let registry = Registry::collect()?;
        let mut known = Known { maker, mechanisms: None };
        // The exec first: that there is no such program is what a user wants to hear first.
        let mut requests = vec![Request::of(&self.exec)?, Request::of(&AmbientScrub {})?];
        requests.extend_from_slice(self.requests);
        let unasked = |id: &&String| !requests.iter().any(|request| request.id() == **id);
        if let Some(id) = self.preferred.iter().find(unasked) {
            let what = format!("{id} is preferred, and nothing asks for it");
            return Err(OpenError::Unusable(what).into());
        }
        let mut opening = Opening::new(self.target);
        let (mut lowering, mut left_out) = (Vec::with_capacity(requests.len()), Vec::new());
        for request in requests {
            let id = request.id();
            if self.preferred.iter().any(|preferred| preferred == id) {
                if let Some(what) = known.lacks(id)? {
                    left_out.push(Remark { id: id.to_owned(), what });
                    continue;
                }
            }
            lowering.push(entry(request, &registry, &mut known, &mut opening)?);
        }
        let (target, slots) = opening.finish();
        let body = LaunchBody {
            attempt_id: Digest::ZERO,
            plan_id: Digest::ZERO,
            h_a: Digest::ZERO,
            h_p: Digest::ZERO,
            h_l: Digest::ZERO,
            lowering,
            descriptor_table: slots.iter().map(|(slot, _)| *slot).collect(),
            target,
        };
        Ok(Opened { body, slots, left_out, registry })
    }
}

fn entry(
    request: Request,
    registry: &Registry,
    known: &mut Known<'_>,
    opening: &mut Opening,
) -> Result<LoweringEntry, Error> {
    let (id, params) = match request {
        Request::Entry(entry) => return Ok(entry),
        Request::Policy(id, params) => (id, params),
    };
    if let Some(mechanism) = registry.find(&id) {
        let params = mechanism.open(&params, opening)?;
        return registry.entry(&id, params).ok_or(Error::UnknownMechanism { id });
    }
    match known.find(&id)? {
        Some(known) => known.entry(params),
        None => Err(Error::UnknownMechanism { id }),
    }
}

/// The frame of a body, sealed in a memfd.
fn frame(body: &LaunchBody) -> Result<OwnedFd, Error> {
    let bytes = LaunchPlan::encode(body)?;
    sealed("plan", MemfdFlags::NOEXEC_SEAL, &bytes)
        .map_err(Error::system("sealing the plan in a memfd"))
}

/// A name for this attempt that no other has.
fn attempt() -> Result<Digest, Error> {
    use rustix::rand::{GetRandomFlags, getrandom};
    let mut bytes = [0u8; 32];
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(Error::system("getrandom"))?;
    Ok(bytes.into())
}
