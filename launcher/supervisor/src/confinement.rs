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
    /// What is asked of the built-in mechanisms, but for those that `explicit` says all of.
    pub(crate) fn requests(
        &self,
        explicit: &[Request],
        preferred: &[String],
    ) -> Result<Vec<Request>, Error> {
        let mut requests = Vec::new();
        let mut add = |request: Request, layers: bool| {
            // What is said in full takes the place of what strictness would say.
            let said = explicit.iter().any(|it| it.id() == request.id());
            if layers || !self.strict || !said {
                requests.push(request);
            }
        };
        if let Some(policy) = self.landlock(preferred) {
            add(Request::of(&policy)?, false);
        }
        for filter in self.filters(explicit) {
            add(Request::of(&filter)?, true);
        }
        let namespaces = self.namespaces || self.strict;
        if namespaces || (self.user.is_some() && !geteuid().is_root()) {
            add(Request::of(&self.user_namespace())?, false);
        } else if let Some((uid, gid)) = self.user {
            add(Request::of(&Credentials { uid, gid, groups: vec![] })?, false);
        }
        if namespaces {
            add(Request::of(&NetworkNamespace {})?, false);
        }
        let limits = self.limits();
        if !limits.0.is_empty() {
            add(Request::of(&limits)?, false);
        }
        if self.new_session || self.strict {
            let policy = ProcessAttributes { new_session: true, ..ProcessAttributes::default() };
            add(Request::of(&policy)?, false);
        }
        match &self.dropped {
            Some(Dropped::These(dropped)) => {
                let kept = Capabilities::all_but(dropped, namespaces);
                add(Request::of(&kept.map_err(OpenError::Unusable)?)?, false);
            }
            Some(Dropped::All) => add(Request::of(&Capabilities::default())?, false),
            None if self.strict => add(Request::of(&Capabilities::default())?, false),
            None => {}
        }
        if self.strict {
            add(Request::of(&NoNewPrivs {})?, false);
        }
        Ok(requests)
    }

    fn landlock(&self, preferred: &[String]) -> Option<Landlock> {
        let mut policy = match &self.landlock {
            Some(policy) => policy.clone(),
            None if self.strict => Landlock::default(),
            None => return None,
        };
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
        Some(policy)
    }

    fn filters(&self, explicit: &[Request]) -> Vec<Seccomp> {
        let own = self.denials.iter().chain(&self.filters).cloned();
        let chosen = !self.filters.is_empty() || explicit.iter().any(|it| it.id() == Seccomp::ID);
        let strict: &[Profile] =
            if self.strict && !chosen { &[Profile::Baseline, Profile::NoMetadata] } else { &[] };
        let profile = |profile: &Profile| Seccomp { profile: Some(*profile), ..Seccomp::default() };
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

    fn limits(&self) -> Rlimits {
        let mut limits = self.limits.clone();
        if self.strict {
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
