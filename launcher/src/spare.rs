//! Children that are made ahead: each is to become the workload of a launch like one before.

use std::cell::RefCell;
use std::os::fd::OwnedFd;

use portcullis_core::lowering::Lowering;
use portcullis_core::mechanism::Stop;
use portcullis_core::schedule::Schedule;
use portcullis_core::{Params, Registry};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::pread;
use rustix::process::{DumpableBehavior, Resource, Rlimit, fchdir, getrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::coordinator::{Way, attendee_of, out_of_reach, set_dumpable};
use crate::process::{self, Child, insist};

/// Of how many kinds of launches a child is kept.
const KINDS: usize = 4;

const NEWIPC: u64 = 0x0800_0000;
const NEWUSER: u64 = 0x1000_0000;
const NEWNET: u64 = 0x4000_0000;
/// The namespaces that are empty at first. Others begin as copies of the launcher's (mounts, the host's name), and so
/// as those were when they were made.
const EMPTY: u64 = NEWIPC | NEWUSER | NEWNET;

/// The children that are kept, one of a kind, and those that are missing.
///
/// The namespaces of a child are most of what its clone takes, and the maps of a user namespace are written
/// while it waits. Neither depends on anything of a launch but its kind.
pub(crate) struct Spares {
    /// The kinds of the last launches, the latest first.
    kinds: RefCell<Vec<(Kind, Option<Spare>)>>,
    /// This process's own cgroups, to read again; `None` where there are to be no children.
    cgroups: Option<OwnedFd>,
}

/// What a child has of its launch before it is handed its program.
#[derive(PartialEq)]
struct Kind {
    /// `CLONE_NEW…` flags.
    namespaces: u64,
    /// The mechanisms that attend to it, by id, with their parameters.
    attended: Vec<(String, Params)>,
}

/// A child that waits for its program.
struct Spare {
    child: Child,
    /// What this process was subject to when it was made, and so is it.
    subject: Subject,
}

/// What is set from outside, and a child has from its clone on. (Some limits a user namespace keeps as well.)
#[derive(PartialEq)]
struct Subject {
    /// What `/proc/self/cgroup` has.
    cgroups: Vec<u8>,
    limits: [Rlimit; LIMITS.len()],
}

const LIMITS: [Resource; 16] = [
    Resource::Cpu,
    Resource::Fsize,
    Resource::Data,
    Resource::Stack,
    Resource::Core,
    Resource::Rss,
    Resource::Nproc,
    Resource::Nofile,
    Resource::Memlock,
    Resource::As,
    Resource::Locks,
    Resource::Sigpending,
    Resource::Msgqueue,
    Resource::Nice,
    Resource::Rtprio,
    Resource::Rttime,
];

/// A child that was made ahead for launches like this one. Where there is none, one is wanted from now on, unless
/// the launch needs a child that is made for it alone.
///
/// # Errors
///
/// A fault: this process did not get its capabilities back.
pub(crate) fn of(
    way: Way<'_>,
    lowering: &Lowering<'_>,
    schedule: &Schedule<'_>,
) -> Result<Option<Child>, Stop> {
    let Way::Resident { request, kept, .. } = way else { return Ok(None) };
    let clone = lowering.clone_request();
    let namespaces = clone.namespaces;
    // Without namespaces the clone takes no longer than to wake a child.
    let worth = namespaces != 0 && namespaces & !EMPTY == 0;
    if !worth || clone.cgroup.is_some() || !lowering.may_attend_ahead() {
        return Ok(None);
    }
    let entries = lowering.attended().iter().map(|at| schedule.entries()[*at].entry);
    let attended = entries.map(|it| (it.id.clone(), it.params.clone())).collect();
    kept.spares.take(Kind { namespaces, attended }, || match &request.directory {
        Some(directory) if namespaces & NEWUSER != 0 => may_enter(directory),
        _ => Ok(true),
    })
}

/// Whether a child in a user namespace of its own may enter a directory where this process may, and is.
///
/// It has no capability over what is outside, and may have less there than this process. Without its capabilities
/// this process has no more.
fn may_enter(directory: &OwnedFd) -> Result<bool, Stop> {
    let fault = |errno| Stop::fault(format!("the launcher's own capabilities: {errno}"));
    let own = capabilities(None).map_err(fault)?;
    if own.effective.is_empty() {
        return Ok(true);
    }
    let none = CapabilitySets { effective: CapabilitySet::empty(), ..own };
    set_capabilities(None, none).map_err(fault)?;
    let may = fchdir(directory).is_ok();
    // They are its own to take back: the permitted set still has them.
    insist(|| set_capabilities(None, own)).map_err(fault)?;
    Ok(may)
}

impl Spares {
    /// None yet, and none ever where there `may_be` none, for one is a child on its way as others are, or where this
    /// process can't read which cgroups it is in.
    pub(crate) fn new(may_be: bool) -> Self {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let open = || open("/proc/self/cgroup", flags, Mode::empty()).ok();
        Self { kinds: RefCell::default(), cgroups: may_be.then(open).flatten() }
    }

    /// A child of this kind, if it may enter where it is to work; another is wanted from now on.
    fn take(
        &self,
        kind: Kind,
        may_enter: impl FnOnce() -> Result<bool, Stop>,
    ) -> Result<Option<Child>, Stop> {
        if self.cgroups.is_none() {
            return Ok(None);
        }
        let mut kinds = self.kinds.borrow_mut();
        let Some(at) = kinds.iter().position(|(known, _)| *known == kind) else {
            kinds.truncate(KINDS - 1);
            kinds.insert(0, (kind, None));
            return Ok(None);
        };
        kinds[..=at].rotate_right(1);
        let Some(spare) = kinds[0].1.take().filter(|spare| self.is_fit(spare)) else {
            return Ok(None);
        };
        if !may_enter()? {
            kinds[0].1 = Some(spare);
            return Ok(None);
        }
        Ok(Some(spare.child))
    }

    /// Whether one is missing.
    pub(crate) fn is_wanting(&self) -> bool {
        self.kinds.borrow().iter().any(|(_, spare)| spare.is_none())
    }

    /// Makes one that is missing, in this working directory. One that can't be made is no longer wanted: the next
    /// launch of its kind says why.
    ///
    /// # Errors
    ///
    /// That this process may have been left where it can be traced.
    pub(crate) fn make(
        &self,
        home: &OwnedFd,
        registry: &Registry,
        dumpable: Option<DumpableBehavior>,
    ) -> Result<(), Stop> {
        let mut kinds = self.kinds.borrow_mut();
        let Some(at) = kinds.iter().position(|(_, spare)| spare.is_none()) else { return Ok(()) };
        let made = self.make_one(&kinds[at].0, home, registry, dumpable);
        out_of_reach()?;
        match made {
            Ok(spare) => kinds[at].1 = Some(spare),
            Err(_) => drop(kinds.remove(at)),
        }
        Ok(())
    }

    /// Gives up those that there are, and says whether there were any.
    pub(crate) fn give_up(&self) -> bool {
        self.kinds.borrow_mut().iter_mut().filter_map(|(_, spare)| spare.take()).count() > 0
    }

    fn make_one(
        &self,
        kind: &Kind,
        home: &OwnedFd,
        registry: &Registry,
        dumpable: Option<DumpableBehavior>,
    ) -> Result<Spare, Stop> {
        fchdir(home).map_err(|errno| Stop::fault(format!("fchdir: {errno}")))?;
        let subject = self.subject().ok_or_else(|| Stop::fault("which cgroups?"))?;
        let child = process::spawn_ahead(kind.namespaces)
            .map_err(|error| Stop::fault(format!("clone3: {error}")))?;
        if let Some(dumpable) = dumpable.filter(|_| !kind.attended.is_empty()) {
            set_dumpable(dumpable)?;
        }
        let attendee = attendee_of(child.pid());
        for (id, params) in &kind.attended {
            let mechanism = registry.find(id).ok_or_else(|| Stop::fault("no mechanism"))?;
            mechanism.attend(params, attendee)?;
        }
        Ok(Spare { child, subject })
    }

    /// Whether nobody has killed or stopped it, and it is subject to what a child made now would be.
    fn is_fit(&self, spare: &Spare) -> bool {
        spare.child.waits() && self.subject().is_some_and(|now| now == spare.subject)
    }

    /// What this process is subject to now; `None` where that can't be read, or is longer than it ever is.
    fn subject(&self) -> Option<Subject> {
        let mut text = [0; 4096];
        let length = pread(self.cgroups.as_ref()?, &mut text, 0).ok()?;
        let cgroups = text.get(..length).filter(|it| it.len() < text.len())?.to_vec();
        Some(Subject { cgroups, limits: LIMITS.map(getrlimit) })
    }
}
