//! What a resident launcher keeps from one launch for others.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use portcullis_core::Registry;
use portcullis_core::descriptor::{DescriptorSlot, DescriptorTable};
use portcullis_core::lowering::{KeptLowering, OpenSlot};
use portcullis_core::mechanism::Stop;
use portcullis_core::plan::LaunchPlan;
use portcullis_core::registry::DuplicateId;
use rustix::process::{Resource, getrlimit};

use crate::spare::Spares;

/// How many plans are kept, and the longest of them in bytes.
const PLANS: usize = 8;
const LONGEST: usize = 16 << 10;
/// How many launches are kept at the most.
const LAUNCHES: usize = 64;

/// The mechanisms, the plans that were verified last, launches to be made again, and children made ahead.
///
/// A plan is what its bytes are, so that of the same bytes nothing needs to be verified again.
pub(crate) struct Kept {
    pub(crate) registry: Registry,
    plans: RefCell<Vec<(Vec<u8>, Rc<LaunchPlan>)>>,
    launches: RefCell<BTreeMap<u32, Rc<KeptLaunch>>>,
    pub(crate) spares: Spares,
}

/// A launch that is made any number of times: nothing of it is looked at again that can't have changed.
pub(crate) struct KeptLaunch {
    /// The plan, verified.
    pub(crate) plan: Rc<LaunchPlan>,
    /// The fds of its slots, each seen to be what it is declared as.
    pub(crate) slots: BTreeMap<u32, OwnedFd>,
    /// What it is lowered to, where that may be used again.
    pub(crate) lowering: Option<KeptLowering>,
}

impl KeptLaunch {
    /// The slots of its table, in the plan's order.
    pub(crate) fn slots(&self, table: DescriptorTable<'_>) -> Vec<OpenSlot<'_>> {
        let open = |slot: DescriptorSlot| {
            self.slots.get(&slot.slot_index).map(|fd| OpenSlot { slot, fd: fd.as_fd() })
        };
        table.slots().iter().copied().filter_map(open).collect()
    }
}

impl Kept {
    /// The mechanisms of this launcher, no plan, and no child, nor ever one where there may be none.
    ///
    /// # Errors
    ///
    /// That of [`Registry::collect`].
    pub(crate) fn new(may_have_spares: bool) -> Result<Self, DuplicateId> {
        let registry = Registry::collect()?;
        let spares = Spares::new(may_have_spares);
        Ok(Self { registry, plans: RefCell::default(), launches: RefCell::default(), spares })
    }

    /// Whether one more launch may be kept, by this number and with these fds.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(crate) fn may_keep<'fd>(
        &self,
        number: u32,
        fds: impl Iterator<Item = &'fd OwnedFd>,
    ) -> Result<(), String> {
        // The kernel gives the lowest number that is free, so that the highest says how many are taken.
        let highest = fds.map(AsRawFd::as_raw_fd).max().and_then(|fd| u64::try_from(fd).ok());
        let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        if highest.is_some_and(|highest| highest >= most / 2) {
            return Err(format!(
                "half of the fds that this process may have ({most}, RLIMIT_NOFILE) are for launches that \
                 are made, and it has no more for one that is kept; forget one"
            ));
        }
        let launches = self.launches.borrow();
        if launches.contains_key(&number) {
            return Err(format!("a launch is kept as {number} already"));
        }
        if launches.len() >= LAUNCHES {
            return Err(format!("{LAUNCHES} launches are kept, and no more can be; forget one"));
        }
        Ok(())
    }

    /// Keeps a launch by a number that it [may](Self::may_keep) have.
    pub(crate) fn keep(&self, number: u32, launch: KeptLaunch) {
        self.launches.borrow_mut().insert(number, Rc::new(launch));
    }

    /// The launch that is kept by this number.
    ///
    /// # Errors
    ///
    /// That there is none.
    pub(crate) fn launch(&self, number: u32) -> Result<Rc<KeptLaunch>, String> {
        let launch = self.launches.borrow().get(&number).map(Rc::clone);
        launch.ok_or_else(|| format!("no launch is kept as {number}"))
    }

    /// Keeps it no longer. Where it is on its way, its fds are open until that needs them no more.
    pub(crate) fn forget(&self, number: u32) {
        self.launches.borrow_mut().remove(&number);
    }

    /// The plan that these bytes are, which `verify` says where it has not been said lately.
    ///
    /// # Errors
    ///
    /// Those of `verify`.
    pub(crate) fn plan(
        &self,
        bytes: Vec<u8>,
        verify: impl FnOnce(&[u8]) -> Result<LaunchPlan, Stop>,
    ) -> Result<Rc<LaunchPlan>, Stop> {
        let mut plans = self.plans.borrow_mut();
        if let Some((_, plan)) = plans.iter().find(|(kept, _)| *kept == bytes) {
            return Ok(Rc::clone(plan));
        }
        let plan = Rc::new(verify(&bytes)?);
        if bytes.len() <= LONGEST {
            plans.truncate(PLANS - 1);
            plans.insert(0, (bytes, Rc::clone(&plan)));
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use portcullis_core::Digest;
    use portcullis_core::plan::{LaunchBody, Target};

    use super::*;

    /// A plan whose argument has this length.
    fn plan(length: usize) -> Vec<u8> {
        let target = Target { argv: vec!["-".repeat(length).as_str().into()], ..Target::default() };
        let body = LaunchBody {
            attempt_id: Digest::ZERO,
            plan_id: Digest::ZERO,
            h_a: Digest::ZERO,
            h_p: Digest::ZERO,
            h_l: Digest::ZERO,
            lowering: Vec::new(),
            descriptor_table: Vec::new(),
            target,
        };
        LaunchPlan::encode(&body).unwrap()
    }

    /// Whether a plan is verified to be had.
    fn is_verified(kept: &Kept, bytes: &[u8]) -> bool {
        let mut verified = false;
        let verify = |bytes: &[u8]| {
            verified = true;
            LaunchPlan::decode(bytes).map_err(|error| Stop::fault(error.to_string()))
        };
        let plan = kept.plan(bytes.to_vec(), verify).unwrap();
        assert_eq!(*plan, LaunchPlan::decode(bytes).unwrap());
        verified
    }

    #[test]
    fn the_latest_plans_are_verified_once() {
        let kept = Kept::new(false).unwrap();
        let plans: Vec<_> = (0..=PLANS).map(plan).collect();
        assert!(plans.iter().all(|bytes| is_verified(&kept, bytes)));
        assert!(!plans[1..].iter().any(|bytes| is_verified(&kept, bytes)));
        assert!(is_verified(&kept, &plans[0]));
    }

    #[test]
    fn a_long_plan_and_one_that_is_none_are_not_kept() {
        let (kept, long) = (Kept::new(false).unwrap(), plan(LONGEST));
        assert!(is_verified(&kept, &long) && is_verified(&kept, &long));
        for _ in 0..2 {
            let refused = kept.plan(b"none".to_vec(), |_| Err(Stop::fault("none")));
            assert!(refused.is_err());
        }
    }
}
