//! Lowering: from a schedule's entries to the program of system calls that a child makes.

use std::borrow::Cow;
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;

use crate::Params;
use crate::descriptor::{DescriptorRole, DescriptorSlot};
use crate::mechanism::Stop;
use crate::plan::Target;
use crate::program::{Op, OpId, Owner, Program};
use crate::schedule::Schedule;
use crate::state::RefusalReason;

/// A declared slot whose fd was seen to be what it is declared as.
#[derive(Debug, Clone, Copy)]
pub struct OpenSlot<'a> {
    /// The row of the plan's table.
    pub slot: DescriptorSlot,
    /// The fd.
    pub fd: BorrowedFd<'a>,
}

/// How the child is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CloneRequest {
    /// `CLONE_NEW…` flags of [clone(2)](https://man7.org/linux/man-pages/man2/clone.2.html).
    pub namespaces: u64,
    /// The cgroup that the child is born in.
    pub cgroup: Option<RawFd>,
    /// Whether the child waits until the mechanisms that asked for it have attended.
    pub rendezvous: bool,
}

/// When a note of a mechanism is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoteTime {
    /// After the clone.
    Created,
    /// After the mechanisms have attended and the child was released.
    Released,
}

/// What a mechanism has to say beside what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remark {
    /// It leaves this open.
    Residual,
    /// It was asked for this where the kernel has it, and the kernel does not.
    Missing,
}

/// What is to be done when the workload has ended, or the launch has stopped: by the launcher, in the
/// reverse order of the lowering.
///
/// What was not [run](Self::run) is done when this is dropped.
#[derive(Default)]
pub struct Teardown(Vec<(Owner, Step)>);

type Step = Box<dyn FnOnce() -> Result<(), String>>;

impl Teardown {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Does it, and says of each step whose it was and how it went.
    pub fn run(&mut self) -> Vec<(Owner, Result<(), String>)> {
        self.0.drain(..).rev().map(|(owner, step)| (owner, step())).collect()
    }
}

impl Drop for Teardown {
    fn drop(&mut self) {
        self.run();
    }
}

impl fmt::Debug for Teardown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(owner, _)| owner)).finish()
    }
}

#[derive(Debug, Clone)]
enum Item {
    Op(Owner, Op),
    CloseGaps(Owner),
    RearmParentDeathSignal(Owner, Option<i32>),
}

/// A program in the making: what a mechanism's `lower` works on.
#[derive(Debug)]
pub struct Lowering<'a> {
    target: &'a Target,
    slots: &'a [OpenSlot<'a>],
    owner: Owner,
    made: Made,
    teardown: Teardown,
    schedule: Option<&'a Schedule<'a>>,
    shares_launcher: bool,
    inherited_death_signal: Option<i32>,
    exec_nonce: Option<u64>,
}

/// What mechanisms have made so far, and another launch could have as well.
#[derive(Debug, Clone)]
struct Made {
    items: Vec<Item>,
    kept: Vec<RawFd>,
    owned: Vec<Rc<OwnedFd>>,
    clone: CloneRequest,
    attended: Vec<usize>,
    attends_late: bool,
    notes: Vec<(NoteTime, Owner, Cow<'static, str>)>,
    remarks: Vec<(Remark, Owner, Cow<'static, str>)>,
    death_signal: Option<i32>,
    bound_to_child: Option<(Owner, &'static str)>,
    reusable: Vec<Owner>,
}

/// What a launch was lowered to, for [others](Lowering::of_kept) of the same plan with the same fds.
#[derive(Debug)]
pub struct KeptLowering(Made);

/// A lowering that is complete.
#[derive(Debug)]
pub struct Lowered {
    /// What the child does.
    pub program: Program,
    /// How the child is made.
    pub clone: CloneRequest,
    /// The entries whose mechanisms attend to the child.
    pub attended: Vec<usize>,
    /// What mechanisms note, when, and whose note it is.
    pub notes: Vec<(NoteTime, Owner, Cow<'static, str>)>,
    /// What mechanisms have to say beside, and whose word it is.
    pub remarks: Vec<(Remark, Owner, Cow<'static, str>)>,
    /// What is to be done at the end.
    pub teardown: Teardown,
}

impl<'a> Lowering<'a> {
    /// Nothing yet, for this workload and these verified descriptors.
    pub fn new(target: &'a Target, slots: &'a [OpenSlot<'a>]) -> Self {
        Self {
            target,
            slots,
            owner: Owner::Launcher,
            made: Made {
                items: Vec::with_capacity(16),
                // 0, 1 and 2 belong to the workload.
                kept: vec![0, 1, 2],
                owned: Vec::new(),
                clone: CloneRequest::default(),
                attended: Vec::new(),
                attends_late: false,
                notes: Vec::new(),
                remarks: Vec::new(),
                death_signal: None,
                bound_to_child: None,
                reusable: Vec::new(),
            },
            teardown: Teardown::default(),
            schedule: None,
            shares_launcher: false,
            inherited_death_signal: None,
            exec_nonce: None,
        }
    }

    /// What was lowered before, for the same workload and descriptors: every entry is.
    pub fn of_kept(kept: &KeptLowering, target: &'a Target, slots: &'a [OpenSlot<'a>]) -> Self {
        Self { made: kept.0.clone(), ..Self::new(target, slots) }
    }

    /// What was lowered, to be used again; `None` unless every scheduled mechanism
    /// [said](Self::reusable) that it may be. Known when everything is lowered.
    pub fn keep_lowering(&self) -> Option<KeptLowering> {
        let entries = self.schedule?.entries().len();
        let said = |index| self.made.reusable.contains(&Owner::Entry(index));
        let all = (0..entries).all(said);
        // Neither may be another launch's, whatever a mechanism says.
        let alone = self.teardown.0.is_empty() && self.exec_nonce.is_none();
        (all && alone).then(|| KeptLowering(self.made.clone()))
    }

    /// Says that what this mechanism asks for may serve any number of launches, also at once, of the same plan
    /// with the same fds: it follows from those, from the rest of the plan, and from what stays as it is as long as
    /// the launcher lives. (Where something else may come to forbid it, the kernel has to, in the child.) The fds
    /// that it [keeps](Self::keep) are then those of all these launches, and have to be close-on-exec. A resident
    /// launcher need not lower it anew for each.
    pub fn reusable(&mut self) {
        self.made.reusable.push(self.owner);
    }

    /// What else is scheduled: what [`schedules`](Self::schedules) answers from.
    #[must_use]
    pub fn within(mut self, schedule: &'a Schedule<'a>) -> Self {
        self.schedule = Some(schedule);
        self
    }

    /// The launcher makes other launches meanwhile: what [`shares_launcher`](Self::shares_launcher)
    /// answers.
    #[must_use]
    pub fn by_shared_launcher(mut self) -> Self {
        self.shares_launcher = true;
        self
    }

    /// Whether the launcher makes other launches meanwhile. What changes the launcher itself, or the memory
    /// that its children share until they exec, would change those too, and is to be refused.
    pub fn shares_launcher(&self) -> bool {
        self.shares_launcher
    }

    /// Which signal the workload gets when its parent dies, unless a mechanism
    /// [chooses another](Self::set_parent_death_signal).
    pub fn inherit_parent_death_signal(&mut self, signal: Option<i32>) {
        self.inherited_death_signal = signal;
    }

    /// Chooses the signal that the workload gets when its parent dies.
    pub fn set_parent_death_signal(&mut self, signal: i32) {
        self.made.death_signal = Some(signal);
        self.rearm_parent_death_signal();
    }

    /// Asks again for the signal that the workload gets when its parent dies. To be pushed after each
    /// change of credentials, which clears it (`commit_creds` of the kernel's kernel/cred.c).
    pub fn rearm_parent_death_signal(&mut self) {
        self.made.items.push(Item::RearmParentDeathSignal(self.owner, self.made.death_signal));
    }

    /// Says that this launch needs the launcher to outlive the exec, or to act on a child from outside:
    /// it can't be made in place.
    pub fn needs_child(&mut self, reason: &'static str) {
        self.made.bound_to_child.get_or_insert((self.owner, reason));
    }

    /// Whether a mechanism of this id is scheduled in this launch.
    pub fn schedules(&self, id: &str) -> bool {
        self.times_scheduled(id) > 0
    }

    /// How often a mechanism of this id is scheduled in this launch.
    pub fn times_scheduled(&self, id: &str) -> usize {
        let scheduled = self.schedule.iter().flat_map(|schedule| schedule.entries());
        scheduled.filter(|it| it.entry.id == id).count()
    }

    /// The parameters of the first entry of this id, where one is scheduled: for a mechanism whose own
    /// depend on another's.
    pub fn params_of(&self, id: &str) -> Option<&'a Params> {
        let mut scheduled = self.schedule.iter().flat_map(|schedule| schedule.entries());
        scheduled.find(|it| it.entry.id == id).map(|it| &it.entry.params)
    }

    /// Whether a mechanism of this id is scheduled after the one that is being lowered.
    pub fn schedules_later(&self, id: &str) -> bool {
        let Owner::Entry(own) = self.owner else { return false };
        let scheduled = self.schedule.iter().flat_map(|schedule| schedule.entries());
        scheduled.skip(own + 1).any(|it| it.entry.id == id)
    }

    /// From here on, what is pushed is `owner`'s.
    pub fn set_owner(&mut self, owner: Owner) {
        self.owner = owner;
    }

    /// The workload.
    pub fn target(&self) -> &'a Target {
        self.target
    }

    /// The slots of a role, in the plan's order.
    pub fn slots(&self, role: DescriptorRole) -> impl Iterator<Item = OpenSlot<'a>> + use<'a> {
        self.slots.iter().copied().filter(move |open| open.slot.role == role)
    }

    /// The slot at `index`.
    ///
    /// # Errors
    ///
    /// A refusal, `PlanInvalid`: parameters name a slot that no row of the table declares.
    pub fn slot(&self, index: u32) -> Result<OpenSlot<'a>, Stop> {
        let found = self.slots.iter().find(|open| open.slot.slot_index == index);
        found.copied().ok_or_else(|| {
            let detail = format!("slot {index} is used, and no row of the table declares it");
            Stop::refuse(RefusalReason::PlanInvalid, detail)
        })
    }

    /// Adds an op.
    pub fn push(&mut self, op: Op) -> OpId {
        self.made.items.push(Item::Op(self.owner, op));
        OpId::new(self.made.items.len() - 1)
    }

    /// Adds an op that need be made but once, unless the program has it.
    pub fn push_once(&mut self, op: Op) {
        let has = |item: &Item| matches!(item, Item::Op(_, present) if *present == op);
        if !self.made.items.iter().any(has) {
            self.push(op);
        }
    }

    /// Closes, at this point of the program, every fd that nothing keeps.
    pub fn close_all_but_kept(&mut self) {
        self.made.items.push(Item::CloseGaps(self.owner));
    }

    /// Keeps an fd open until the program ends. It should be close-on-exec.
    pub fn keep(&mut self, fd: OwnedFd) -> RawFd {
        let raw = self.keep_borrowed(&fd);
        self.made.owned.push(Rc::new(fd));
        raw
    }

    /// Keeps an fd of somebody else's, who must not close it before the program ends.
    pub fn keep_borrowed(&mut self, fd: &impl AsRawFd) -> RawFd {
        let raw = fd.as_raw_fd();
        self.made.kept.push(raw);
        raw
    }

    /// Asks for new namespaces: `CLONE_NEW…` flags.
    pub fn enter_namespaces(&mut self, flags: u64) {
        const CLONE_NEWPID: u64 = 0x2000_0000;
        if flags & CLONE_NEWPID != 0 {
            self.needs_child("a process can't enter a PID namespace: only its children are in it");
        }
        self.made.clone.namespaces |= flags;
    }

    /// Asks for the child to be born in the cgroup that `fd` is: a slot's, or one that is
    /// [kept](Self::keep).
    pub fn enter_cgroup(&mut self, fd: RawFd) {
        self.made.clone.cgroup = Some(fd);
    }

    /// Asks for the child to wait until the mechanism has attended to it.
    pub fn rendezvous(&mut self) {
        self.rendezvous_ahead();
        self.made.attends_late = true;
    }

    /// Asks for the same, of a mechanism whose [`attend`](crate::mechanism::Mechanism::attend) follows from its
    /// parameters alone and leaves nothing outside of the child: a resident launcher may have made the child, and
    /// the mechanism may have attended to it, before this launch was asked for.
    pub fn rendezvous_ahead(&mut self) {
        self.made.clone.rendezvous = true;
        if let Owner::Entry(own) = self.owner {
            if self.made.attended.last() != Some(&own) {
                self.made.attended.push(own);
            }
        }
    }

    /// The entries whose mechanisms attend, so far.
    pub fn attended(&self) -> &[usize] {
        &self.made.attended
    }

    /// Whether each of them may do so before the launch is asked for.
    pub fn may_attend_ahead(&self) -> bool {
        !self.made.attends_late
    }

    /// Notes something in the transcript.
    pub fn note(&mut self, time: NoteTime, text: impl Into<Cow<'static, str>>) {
        self.made.notes.push((time, self.owner, text.into()));
    }

    /// Says what the mechanism leaves open, or could not do: the report carries it.
    pub fn remark(&mut self, remark: Remark, text: impl Into<Cow<'static, str>>) {
        self.made.remarks.push((remark, self.owner, text.into()));
    }

    /// Has the launcher do `step` when the workload has ended, or the launch has stopped. An error says
    /// what could not be done, and is noted. A launch in place that succeeds has no launcher afterwards:
    /// a mechanism that can't do without [says so](Self::needs_child).
    pub fn at_end(&mut self, step: impl FnOnce() -> Result<(), String> + 'static) {
        self.teardown.0.push((self.owner, Box::new(step)));
    }

    /// What was asked of the clone; known when everything is lowered.
    pub fn clone_request(&self) -> CloneRequest {
        self.made.clone
    }

    /// Who needs a child of the launcher, and why, if any does; known when everything is lowered.
    pub fn bound_to_child(&self) -> Option<(Owner, &'static str)> {
        self.made.bound_to_child
    }

    /// The number that the launch's exec carries [as a nonce](Op::with_nonce), for a filter to know that
    /// exec from any other; `make` makes it where there is none yet.
    ///
    /// # Errors
    ///
    /// Those of `make`.
    pub fn exec_nonce<E>(&mut self, make: impl FnOnce() -> Result<u64, E>) -> Result<u64, E> {
        match self.exec_nonce {
            Some(nonce) => Ok(nonce),
            None => Ok(*self.exec_nonce.insert(make()?)),
        }
    }

    /// The nonce that [was asked for](Self::exec_nonce).
    pub fn asked_exec_nonce(&self) -> Option<u64> {
        self.exec_nonce
    }

    /// The ranges of fds that this launch has no use for: they are no slot's, not kept, and not among
    /// `own`.
    pub fn unused(&self, own: impl IntoIterator<Item = RawFd>) -> Vec<(u32, u32)> {
        let slots = self.slots.iter().map(|open| open.fd.as_raw_fd());
        let mut used: Vec<_> = self.made.kept.iter().copied().chain(slots).chain(own).collect();
        used.sort_unstable();
        gaps(&used)
    }

    /// The program: `prologue`, which is the launcher's own, then what was pushed.
    pub fn finish(mut self, prologue: Vec<Op>) -> Lowered {
        self.made.kept.sort_unstable();
        let gaps = gaps(&self.made.kept);
        let mut places = Vec::with_capacity(self.made.items.len());
        let mut ops: Vec<(Owner, Op)> =
            prologue.into_iter().map(|op| (Owner::Launcher, op)).collect();
        for item in self.made.items {
            places.push(ops.len());
            match item {
                Item::Op(owner, mut op) => {
                    op.relocate(&places);
                    ops.push((owner, op));
                }
                Item::RearmParentDeathSignal(owner, chosen) => {
                    if let Some(signal) = chosen.or(self.inherited_death_signal) {
                        let rearm = [Op::parent_death_signal(signal), Op::parent_is_alive()];
                        ops.extend(rearm.map(|op| (owner, op)));
                    }
                }
                Item::CloseGaps(owner) => {
                    let close = |&(first, last): &(u32, u32)| (owner, Op::close_range(first, last));
                    ops.extend(gaps.iter().map(close));
                }
            }
        }
        let program = Program { ops, owned: self.made.owned };
        Lowered {
            program,
            clone: self.made.clone,
            attended: self.made.attended,
            notes: self.made.notes,
            remarks: self.made.remarks,
            teardown: self.teardown,
        }
    }
}

/// The ranges between the fds of `kept`, which is sorted, and the one after the last of them.
fn gaps(kept: &[RawFd]) -> Vec<(u32, u32)> {
    let mut gaps = Vec::new();
    let mut next = 0u32;
    for fd in kept.iter().filter_map(|fd| u32::try_from(*fd).ok()) {
        if fd > next {
            gaps.push((next, fd - 1));
        }
        next = next.max(fd + 1);
    }
    gaps.push((next, u32::MAX));
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mechanism::Phase;
    use crate::program::Arg;
    use crate::registry::tests::{declaration, registry};

    #[test]
    fn the_gaps_and_what_is_kept_are_all_fds_and_share_none() {
        for kept in
            [&[0, 1, 2][..], &[0, 1, 2, 3], &[0, 1, 2, 10, 11, 40], &[0, 1, 2, 2, 5, 5], &[5]]
        {
            let gaps = gaps(kept);
            for fd in 0..100 {
                let closed = gaps.iter().any(|&(first, last)| first <= fd && fd <= last);
                assert_eq!(
                    closed,
                    !kept.contains(&(i32::try_from(fd).unwrap())),
                    "fd {fd} of {kept:?}"
                );
            }
            assert_eq!(gaps.last().unwrap().1, u32::MAX);
        }
    }

    #[test]
    fn a_result_follows_its_op_when_the_gaps_before_it_are_filled_in() {
        let target = Target::default();
        let mut lowering = Lowering::new(&target, &[]);
        lowering.keep_borrowed(&10);
        lowering.close_all_but_kept();
        let first = lowering.push(Op::parent_is_alive());
        lowering.push(Op::dup3(first, 7));
        let lowered = lowering.finish(vec![Op::empty_signal_mask()]);
        let ops = lowered.program.ops();
        let names: Vec<_> = ops.iter().map(|(_, op)| op.name()).collect();
        assert_eq!(names, ["rt_sigprocmask", "close_range", "close_range", "getppid", "dup3"]);
        let Arg::Result(id) = &ops[4].1.args()[0] else { panic!() };
        assert_eq!(id.index(), 3);
    }

    /// Whoever unshares a PID namespace stays outside of it, and only its children are in it.
    #[test]
    fn a_pid_namespace_takes_a_child_and_other_namespaces_do_not() {
        const NEWUSER: u64 = 0x1000_0000;
        const NEWPID: u64 = 0x2000_0000;
        const NEWNET: u64 = 0x4000_0000;
        let target = Target::default();
        let asked = |flags| {
            let mut lowering = Lowering::new(&target, &[]);
            lowering.enter_namespaces(flags);
            let why = lowering.bound_to_child().map(|(_, why)| why);
            (why, lowering.finish(vec![]).clone.namespaces)
        };
        let (why, namespaces) = asked(NEWUSER | NEWPID);
        assert!(why.is_some_and(|why| why.contains("PID namespace")), "{why:?}");
        assert_eq!(namespaces, NEWUSER | NEWPID);
        assert_eq!(asked(NEWUSER | NEWNET), (None, NEWUSER | NEWNET));
    }

    #[test]
    fn the_parent_death_signal_is_rearmed_as_it_was_chosen_or_inherited() {
        let target = Target::default();
        let program = |inherited, choose: bool| {
            let mut lowering = Lowering::new(&target, &[]);
            if choose {
                lowering.set_parent_death_signal(15);
            }
            lowering.rearm_parent_death_signal();
            lowering.inherit_parent_death_signal(inherited);
            let lowered = lowering.finish(vec![]);
            lowered
                .program
                .ops()
                .iter()
                .map(|(_, op)| op.args().get(1).cloned())
                .collect::<Vec<_>>()
        };
        assert_eq!(program(None, false), []);
        assert_eq!(program(Some(9), false), [Some(Arg::Int(9)), None]);
        assert_eq!(program(Some(9), true)[2..], [Some(Arg::Int(15)), None]);
    }

    #[test]
    fn an_op_that_is_needed_once_is_made_once() {
        let target = Target::default();
        let mut lowering = Lowering::new(&target, &[]);
        lowering.push_once(Op::no_new_privs());
        lowering.push_once(Op::no_new_privs());
        assert_eq!(lowering.finish(vec![]).program.ops().len(), 1);
    }

    /// What two entries are lowered to, where that may be used again.
    fn kept(says: [bool; 2], more: impl FnOnce(&mut Lowering<'_>)) -> Option<KeptLowering> {
        let declarations = [("first", Phase::Policy), ("exec", Phase::Launch)]
            .map(|(id, phase)| declaration(id, phase, 0));
        let registry = registry(&declarations).unwrap();
        let entries = declarations.map(|it| it.entry(Params::default()));
        let schedule = Schedule::classify(&entries, &registry).unwrap();
        let target = Target::default();
        let mut lowering = Lowering::new(&target, &[]).within(&schedule);
        for (index, says) in says.into_iter().enumerate() {
            lowering.set_owner(Owner::Entry(index));
            lowering.push(Op::umask(0));
            if says {
                lowering.reusable();
            }
        }
        more(&mut lowering);
        lowering.keep_lowering()
    }

    #[test]
    fn a_lowering_is_used_again_where_every_mechanism_says_so() {
        assert!(kept([true, true], |_| {}).is_some());
        for says in [[true, false], [false, true], [false, false]] {
            assert!(kept(says, |_| {}).is_none(), "{says:?}");
        }
        // What is one launch's alone, whoever says so.
        assert!(kept([true, true], |launch| launch.at_end(|| Ok(()))).is_none());
        let nonce = |launch: &mut Lowering<'_>| {
            launch.exec_nonce(|| Ok::<_, ()>(7)).unwrap();
        };
        assert!(kept([true, true], nonce).is_none());
    }

    #[test]
    fn what_is_lowered_again_is_the_same_program_and_keeps_more_fds() {
        let target = Target::default();
        let (mut raw, file) = (0, std::fs::File::open("/").unwrap().into());
        let kept = kept([true, true], |launch| {
            raw = launch.keep(file);
            launch.close_all_but_kept();
            launch.enter_namespaces(0x1000_0000);
            launch.rendezvous_ahead();
            launch.note(NoteTime::Created, "a note");
            launch.remark(Remark::Residual, "a remark");
        });
        let kept = kept.unwrap();
        for other in [raw + 1, raw + 10] {
            let mut again = Lowering::of_kept(&kept, &target, &[]);
            again.keep_borrowed(&other);
            let lowered = again.finish(vec![Op::setsid()]);
            let ops: Vec<_> =
                lowered.program.ops().iter().map(|(who, op)| (*who, op.name())).collect();
            let umask = |index| (Owner::Entry(index), "umask");
            assert_eq!(ops[..3], [(Owner::Launcher, "setsid"), umask(0), umask(1)]);
            let closes: Vec<_> =
                lowered.program.ops()[3..].iter().map(|(_, op)| op.clone()).collect();
            let open = [0, 1, 2, raw, other];
            let expected =
                gaps(&open).into_iter().map(|(first, last)| Op::close_range(first, last));
            assert_eq!(closes, expected.collect::<Vec<_>>());
            assert_eq!((lowered.clone.namespaces, lowered.attended), (0x1000_0000, vec![1]));
            assert_eq!((lowered.notes.len(), lowered.remarks.len()), (1, 1));
        }
    }

    #[test]
    fn an_exec_nonce_is_made_once() {
        let target = Target::default();
        let mut lowering = Lowering::new(&target, &[]);
        assert_eq!(lowering.asked_exec_nonce(), None);
        assert_eq!(lowering.exec_nonce(|| Err("no number")), Err("no number"));
        assert_eq!(lowering.exec_nonce(|| Ok::<_, ()>(7)), Ok(7));
        assert_eq!(lowering.exec_nonce(|| Ok::<_, ()>(8)), Ok(7));
        assert_eq!(lowering.asked_exec_nonce(), Some(7));
    }
}
