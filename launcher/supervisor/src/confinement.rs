//! What a program may do: the policies of the built-in mechanisms, as a command collects them.

use std::collections::BTreeMap;

use portcullis_core::mechanism::{OpenError, Policy};
use portcullis_mechanisms::capabilities::{Capabilities, Capability};
use portcullis_mechanisms::credentials::Credentials;
use portcullis_mechanisms::landlock::{self, Compat, Landlock, Scope, running_abi};
use portcullis_mechanisms::netns::NetworkNamespace;
use portcullis_mechanisms::no_new_privs::NoNewPrivs;
use portcullis_mechanisms::process_attributes::ProcessAttributes;
use portcullis_mechanisms::rlimits::{Bound, Limit, Resource, Rlimits};
use portcullis_mechanisms::seccomp::{Profile, Seccomp};
use portcullis_mechanisms::userns::UserNamespace;
use rustix::process::geteuid;

use crate::error::Error;
use crate::plan::Request;

/// The most processes and threads of a strictly confined program, and the most fds, soft and hard.
const STRICT_TASKS: u64 = 256;
const STRICT_FILES: (u64, u64) = (1024, 4096);

/// The ABI of Landlock that TCP ports came with.
const TCP: u8 = 4;

/// What a program may do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Confinement {
    pub(crate) landlock: Option<Landlock>,
    /// The filter that single denials add to.
    pub(crate) denials: Option<Seccomp>,
    /// Filters of their own.
    pub(crate) filters: Vec<Seccomp>,
    /// A user namespace with an empty network namespace.
    pub(crate) namespaces: bool,
    pub(crate) user: Option<(u32, u32)>,
    pub(crate) limits: BTreeMap<Resource, Limit>,
    pub(crate) new_session: bool,
    /// `None` leaves them all, and an empty list drops them all.
    pub(crate) dropped: Option<Dropped>,
    pub(crate) strict: bool,
}

/// Which capabilities are dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Dropped {
    All,
    These(Vec<Capability>),
}

impl Confinement {
    /// What is asked of the built-in mechanisms. What strictness alone would ask of one is left to
    /// `explicit` where that has the mechanism.
    pub(crate) fn requests(
        &self,
        explicit: &[Request],
        preferred: &[String],
    ) -> Result<Vec<Request>, Error> {
        let said = |id: &str| explicit.iter().any(|it| it.id() == id);
        // What strictness alone asks for gives way to what is said in full.
        let strictly = |id: &str| self.strict && !said(id);
        let mut requests = Vec::new();
        let mut add = |request: Request| requests.push(request);
        if self.landlock.is_some() || strictly(landlock::ID) {
            add(Request::of(&self.landlock(preferred))?);
        }
        for filter in self.filters() {
            add(Request::of(&filter)?);
        }
        let is_root = geteuid().is_root();
        let in_namespace =
            self.namespaces || (self.user.is_some() && !is_root) || strictly(UserNamespace::ID);
        if in_namespace {
            add(Request::of(&self.user_namespace())?);
        }
        if let Some((uid, gid)) = self.user.filter(|_| is_root) {
            // In a namespace too, which leaves a process the groups that it has.
            add(Request::of(&Credentials { uid, gid, groups: vec![] })?);
        }
        if self.namespaces || strictly(NetworkNamespace::ID) {
            add(Request::of(&NetworkNamespace {})?);
        }
        let limits = self.limits(strictly(Rlimits::ID));
        if !limits.0.is_empty() {
            add(Request::of(&limits)?);
        }
        if self.new_session || strictly(ProcessAttributes::ID) {
            let policy = ProcessAttributes { new_session: true, ..ProcessAttributes::default() };
            add(Request::of(&policy)?);
        }
        match &self.dropped {
            Some(Dropped::These(dropped)) => {
                let kept = Capabilities::all_but(dropped, in_namespace);
                add(Request::of(&kept.map_err(OpenError::Unusable)?)?);
            }
            Some(Dropped::All) => add(Request::of(&Capabilities::default())?),
            None if strictly(Capabilities::ID) => add(Request::of(&Capabilities::default())?),
            None => {}
        }
        // With it no exec gains what was dropped, and so none clears the parent-death signal.
        if (self.dropped.is_some() && !said(NoNewPrivs::ID)) || strictly(NoNewPrivs::ID) {
            add(Request::of(&NoNewPrivs {})?);
        }
        Ok(requests)
    }

    fn landlock(&self, preferred: &[String]) -> Landlock {
        let mut policy = self.landlock.clone().unwrap_or_default();
        let prefers = preferred.iter().any(|id| id == landlock::ID);
        if prefers {
            policy.compat = Compat::Prefer;
        }
        if self.strict {
            // What this kernel has is demanded; where more is preferred, the report tells what it lacks.
            let newest = if prefers { Some(landlock::NEWEST) } else { running_abi() };
            policy.abi = policy.abi.max(newest.unwrap_or(landlock::FLOOR));
            if policy.abi >= landlock::SCOPES {
                policy.scope = vec![Scope::Signal, Scope::AbstractUnixSocket];
            }
            if policy.abi >= TCP {
                policy.connect.get_or_insert_default();
                policy.bind.get_or_insert_default();
            }
        }
        policy.abi = policy.abi.max(policy.least_abi());
        policy
    }

    fn filters(&self) -> Vec<Seccomp> {
        let strict: &[Profile] = if self.strict && self.filters.is_empty() {
            &[Profile::Baseline, Profile::NoMetadata]
        } else {
            &[]
        };
        let profile = |profile: &Profile| Seccomp { profile: Some(*profile), ..Seccomp::default() };
        let own = self.denials.iter().chain(&self.filters).cloned();
        own.chain(strict.iter().map(profile)).collect()
    }

    /// The namespace in which the program is who it is to be: for root the ids outside are those inside,
    /// for anybody else the one that is outside is theirs.
    fn user_namespace(&self) -> UserNamespace {
        let Some((uid, gid)) = self.user else { return UserNamespace::default() };
        let mut policy = UserNamespace { uid, gid, ..UserNamespace::default() };
        if geteuid().is_root() {
            policy.uid_map = vec![[uid, uid, 1].into()];
            policy.gid_map = vec![[gid, gid, 1].into()];
        }
        policy
    }

    fn limits(&self, strictly: bool) -> Rlimits {
        let mut limits = self.limits.clone();
        if strictly {
            let at = |soft: u64, hard: u64, resource: Resource| {
                let most = match resource.hard() {
                    Bound::At(most) => most,
                    Bound::Unlimited => u64::MAX,
                };
                Limit { soft: soft.min(most).into(), hard: hard.min(most).into() }
            };
            let (soft, hard) = STRICT_FILES;
            limits.entry(Resource::Core).or_insert_with(|| 0.into());
            limits.entry(Resource::Nofile).or_insert_with(|| at(soft, hard, Resource::Nofile));
            let tasks = at(STRICT_TASKS, STRICT_TASKS, Resource::Nproc);
            limits.entry(Resource::Nproc).or_insert(tasks);
        }
        Rlimits(limits)
    }
}
