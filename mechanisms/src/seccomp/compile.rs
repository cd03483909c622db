//! From what a filter means to the instructions that the kernel runs.
//!
//! The calls' numbers, all 2³² of them, are cut into runs that are treated alike, and a binary tree of
//! comparisons finds a call's run: what an ordinary call pays is the logarithm of the number of runs.
//! Where a run has conditions, a chain of comparisons of the arguments follows.
//!
//! A jump of classic BPF goes forward only, so the program is made from its end. A place is named by how
//! many instructions there are from it to the end.

use std::collections::BTreeMap;

use portcullis_core::program::BpfInstruction;

use super::filter::{Case, Chain, Filter};
use super::policy::{Action, Comparison, Condition, Width};

/// What the kernel takes (`BPF_MAXINSNS` of `linux/bpf_common.h`).
pub(super) const MOST_INSTRUCTIONS: usize = 4096;

/// Of `linux/bpf_common.h`: what each operation is made of there is told by its name.
mod code {
    pub(super) const LD_W_ABS: u16 = 0x20;
    pub(super) const ALU_AND_K: u16 = 0x54;
    pub(super) const JMP_JA: u16 = 0x05;
    pub(super) const JMP_JEQ_K: u16 = 0x15;
    pub(super) const JMP_JGT_K: u16 = 0x25;
    pub(super) const JMP_JGE_K: u16 = 0x35;
    pub(super) const RET_K: u16 = 0x06;
}

// Fields of struct seccomp_data (seccomp(2)).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// Where an argument's low and high half are.
const HALVES: (u32, u32) = if cfg!(target_endian = "little") { (0, 4) } else { (4, 0) };

/// `AUDIT_ARCH_…` of `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

/// The numbers of x32: `x86_64`'s, with bit 30 set. To the kernel they are of the same architecture, so a
/// filter that looks at nothing else has an unjudged twin for each call. The last number of all, -1, is
/// no call of anybody's: a tracer skips one with it (ptrace(2)).
#[cfg(target_arch = "x86_64")]
const FOREIGN: Option<(u32, u32)> = Some((0x4000_0000, u32::MAX - 1));
#[cfg(target_arch = "aarch64")]
const FOREIGN: Option<(u32, u32)> = None;

/// How the calls of a run are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Treatment<'c> {
    /// All the same.
    Always(Action),
    /// As their arguments are.
    ByArguments(Chain<'c>),
}

/// Compiles a filter.
pub(super) fn compile(filter: &Filter<'_>) -> Result<Vec<BpfInstruction>, String> {
    let runs = runs(filter);
    let mut program = Program::default();
    let tree = program.tree(filter, &runs);
    let number = program.load(NUMBER, tree);
    let kill = program.give(Action::KillProcess);
    let known = program.branch(code::JMP_JEQ_K, NATIVE, number, kill);
    program.load(ARCHITECTURE, known);
    let length = program.reversed.len();
    if length > MOST_INSTRUCTIONS {
        return Err(format!(
            "the filter takes {length} instructions, and the kernel takes {MOST_INSTRUCTIONS} at the most"
        ));
    }
    program.reversed.reverse();
    Ok(program.reversed)
}

/// The first number of each run, and its treatment. The first run begins at 0, each ends where the next
/// begins, and the last at the last number.
fn runs<'c>(filter: &'c Filter<'_>) -> Vec<(u32, Treatment<'c>)> {
    let mut runs = Vec::new();
    let mut next = 0;
    let default = Treatment::Always(filter.default);
    for (number, chain) in filter.calls() {
        if number > next {
            begin(&mut runs, next, default);
        }
        begin(&mut runs, number, treatment(filter, chain));
        next = number + 1;
    }
    begin(&mut runs, next, default);
    if let Some((first, last)) = FOREIGN {
        begin(&mut runs, first, Treatment::Always(Action::KillProcess));
        begin(&mut runs, last + 1, default);
    }
    runs
}

fn begin<'c>(runs: &mut Vec<(u32, Treatment<'c>)>, first: u32, treatment: Treatment<'c>) {
    if runs.last().is_none_or(|(_, last)| *last != treatment) {
        runs.push((first, treatment));
    }
}

fn treatment<'c>(filter: &Filter<'_>, chain: Chain<'c>) -> Treatment<'c> {
    // Whatever fits, it comes to the same.
    let mut actions = filter.cases(chain).map(|case| case.action);
    let first = actions.next().unwrap_or(filter.default);
    let ends = filter.cases(chain).next_back().is_some_and(|case| case.when.is_empty());
    let same = actions.all(|action| action == first) && (ends || first == filter.default);
    if same { Treatment::Always(first) } else { Treatment::ByArguments(chain) }
}

/// A place, by how many instructions there are from it to the end.
type Place = usize;

#[derive(Default)]
struct Program<'c> {
    /// The last instruction first.
    reversed: Vec<BpfInstruction>,
    /// Where each treatment last was made.
    made: BTreeMap<Treatment<'c>, Place>,
}

impl<'c> Program<'c> {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Place {
        self.reversed.push(BpfInstruction { code, jt, jf, k });
        self.reversed.len()
    }

    /// How far what is pushed next would have to jump to `place`.
    fn distance(&self, place: Place) -> usize {
        self.reversed.len() - place
    }

    /// A place that does what `place` does, and is near enough for a comparison, even if one more
    /// instruction comes in between.
    fn reach(&mut self, place: Place) -> Place {
        if self.distance(place) < usize::from(u8::MAX) {
            return place;
        }
        let far = self.reversed[place - 1];
        if far.code == code::RET_K {
            // As long as a jump to it, and one instruction less on the way.
            self.push(far.code, 0, 0, far.k)
        } else {
            self.jump(place)
        }
    }

    fn jump(&mut self, place: Place) -> Place {
        let distance =
            u32::try_from(self.distance(place)).expect("less than the kernel takes, by far");
        self.push(code::JMP_JA, 0, 0, distance)
    }

    /// A comparison of what was loaded with `k`.
    fn branch(&mut self, code: u16, k: u32, yes: Place, no: Place) -> Place {
        let (yes, no) = (self.reach(yes), self.reach(no));
        let near = |place| u8::try_from(self.distance(place)).expect("it was reached");
        let (jt, jf) = (near(yes), near(no));
        self.push(code, jt, jf, k)
    }

    /// Loads a word of the call's data, and goes on at `next`.
    fn load(&mut self, offset: u32, next: Place) -> Place {
        if self.distance(next) > 0 {
            self.jump(next);
        }
        self.push(code::LD_W_ABS, 0, 0, offset)
    }

    /// A place where the filter ends with this action, near enough for some comparisons to share it.
    fn give(&mut self, action: Action) -> Place {
        let what = Treatment::Always(action);
        match self.made.get(&what) {
            Some(place) if self.distance(*place) < 128 => *place,
            _ => {
                let place = self.push(code::RET_K, 0, 0, action.code());
                self.made.insert(what, place);
                place
            }
        }
    }

    /// Finds the run of the number that was loaded.
    fn tree(&mut self, filter: &Filter<'_>, runs: &[(u32, Treatment<'c>)]) -> Place {
        match runs {
            [] => self.give(filter.default),
            [(_, Treatment::Always(action))] => self.give(*action),
            [(_, what @ Treatment::ByArguments(chain))] => {
                if let Some(place) = self.made.get(what) {
                    return *place;
                }
                let place = self.chain(filter, *chain);
                self.made.insert(*what, place);
                place
            }
            _ => {
                let (lower, upper) = runs.split_at(runs.len() / 2);
                let first = upper[0].0;
                let upper = self.tree(filter, upper);
                let lower = self.tree(filter, lower);
                self.branch(code::JMP_JGE_K, first, upper, lower)
            }
        }
    }

    /// Tries the cases in their order.
    fn chain(&mut self, filter: &Filter<'_>, chain: Chain<'_>) -> Place {
        let mut next = self.give(filter.default);
        for Case { when, action } in filter.cases(chain).rev() {
            let mut fits = self.give(action);
            for condition in when.iter().rev() {
                fits = self.condition(*condition, fits, next);
            }
            next = fits;
        }
        next
    }

    /// Goes on at `yes` where the condition holds, and at `no` where it does not.
    fn condition(&mut self, condition: Condition, yes: Place, no: Place) -> Place {
        let wide = condition.width() == Width::All64;
        let argument = ARGUMENTS + 8 * u32::from(condition.argument());
        let half = Half { low: argument + HALVES.0, high: wide.then_some(argument + HALVES.1) };
        match condition.comparison() {
            Comparison::Eq(value) => self.equal(half, value, None, yes, no),
            Comparison::Ne(value) => self.equal(half, value, None, no, yes),
            Comparison::MaskedEq { mask, value } => self.equal(half, value, Some(mask), yes, no),
            Comparison::Gt(value) => self.more(half, code::JMP_JGT_K, value, yes, no),
            Comparison::Ge(value) => self.more(half, code::JMP_JGE_K, value, yes, no),
            Comparison::Le(value) => self.more(half, code::JMP_JGT_K, value, no, yes),
            Comparison::Lt(value) => self.more(half, code::JMP_JGE_K, value, no, yes),
        }
    }

    fn equal(&mut self, at: Half, value: u64, mask: Option<u64>, yes: Place, no: Place) -> Place {
        let (high, low) = split(value);
        let masks = mask.map(split);
        let lower = self.equal_half(at.low, low, masks.map(|it| it.1), yes, no);
        match at.high {
            // Bits that do not count need not be looked at.
            Some(_) if masks.is_some_and(|(mask, _)| mask == 0) => lower,
            Some(offset) => self.equal_half(offset, high, masks.map(|it| it.0), lower, no),
            None => lower,
        }
    }

    fn equal_half(
        &mut self,
        offset: u32,
        value: u32,
        mask: Option<u32>,
        yes: Place,
        no: Place,
    ) -> Place {
        let compared = self.branch(code::JMP_JEQ_K, value, yes, no);
        match mask {
            Some(mask) => {
                let masked = self.push(code::ALU_AND_K, 0, 0, mask);
                self.load(offset, masked)
            }
            None => self.load(offset, compared),
        }
    }

    /// More than `value`, or not less, as `code` says.
    fn more(&mut self, at: Half, code: u16, value: u64, yes: Place, no: Place) -> Place {
        let (high, low) = split(value);
        let compared = self.branch(code, low, yes, no);
        let lower = self.load(at.low, compared);
        let Some(offset) = at.high else { return lower };
        let same = self.branch(code::JMP_JEQ_K, high, lower, no);
        let higher = self.branch(code::JMP_JGT_K, high, yes, same);
        self.load(offset, higher)
    }
}

/// Where the halves of an argument are; the high one where it counts.
#[derive(Clone, Copy)]
struct Half {
    low: u32,
    high: Option<u32>,
}

/// The high and the low half.
#[allow(clippy::cast_possible_truncation, reason = "each is half of it")]
fn split(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, value as u32)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule, TargetArch,
    };

    use super::*;
    use crate::seccomp::filter::Rules;
    use crate::seccomp::machine::{Call, I386, decide, run};
    use crate::seccomp::policy::Rule;
    use crate::seccomp::{Profile, Seccomp, calls};

    type TestRule = (u32, Vec<Condition>, Action);

    fn compiled(policy: &Seccomp) -> Vec<BpfInstruction> {
        compile(&policy.filter(&[]).unwrap()).unwrap()
    }

    /// Numbers of calls: at both ends, and some between that lie together and apart.
    fn number() -> impl Strategy<Value = u32> {
        prop_oneof![0..12u32, prop::sample::select(vec![16, 41, 56, 59, 101, 322, 435, 450, 462])]
    }

    /// Values among which an argument and a condition often meet.
    fn word() -> impl Strategy<Value = u32> {
        prop_oneof![
            prop::sample::select(vec![0, 1, 2, 0x7fff_ffff, 0x8000_0000, u32::MAX - 1, u32::MAX]),
            any::<u32>(),
        ]
    }

    fn value() -> impl Strategy<Value = u64> {
        (word(), word()).prop_map(|(high, low)| u64::from(high) << 32 | u64::from(low))
    }

    fn condition() -> impl Strategy<Value = Condition> {
        let comparison = |value: u64, mask: u64, which: u8| match which {
            0 => Comparison::Eq(value),
            1 => Comparison::Ne(value),
            2 => Comparison::Lt(value),
            3 => Comparison::Le(value),
            4 => Comparison::Gt(value),
            5 => Comparison::Ge(value),
            _ => Comparison::MaskedEq { mask, value: value & mask },
        };
        (0..6u8, any::<bool>(), value(), value(), 0..7u8).prop_map(
            move |(argument, wide, value, mask, which)| {
                let (width, bits) = if wide {
                    (Width::All64, u64::MAX)
                } else {
                    (Width::Low32, u64::from(u32::MAX))
                };
                let comparison = comparison(value & bits, mask & bits, which);
                Condition::new(argument, width, comparison).unwrap()
            },
        )
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            Just(Action::Allow),
            Just(Action::EPERM),
            Just(Action::KillProcess),
            Just(Action::Trap),
            Just(Action::Log),
        ]
    }

    fn conditions(least: usize) -> impl Strategy<Value = Vec<Condition>> {
        prop::collection::vec(condition(), least..4)
    }

    /// Arguments: any, and for each condition some that are at or beside what it compares with.
    fn arguments(rules: &[Vec<Condition>]) -> impl Strategy<Value = [u64; 6]> + use<> {
        let near: Vec<(usize, u64)> = rules
            .iter()
            .flatten()
            .map(|it| {
                let value = match it.comparison() {
                    Comparison::Eq(value)
                    | Comparison::Ne(value)
                    | Comparison::Lt(value)
                    | Comparison::Le(value)
                    | Comparison::Gt(value)
                    | Comparison::Ge(value)
                    | Comparison::MaskedEq { value, .. } => value,
                };
                (usize::from(it.argument()), value)
            })
            .collect();
        (prop::array::uniform6(value()), any::<u64>(), 0..5u64).prop_map(
            move |(mut arguments, taken, beside)| {
                for (bit, (argument, value)) in near.iter().enumerate() {
                    if taken >> (bit % 64) & 1 == 1 {
                        arguments[*argument] = match beside {
                            0 | 1 => *value,
                            2 => value.wrapping_add(1),
                            3 => value.wrapping_sub(1),
                            _ => *value ^ 1 << 32,
                        };
                    }
                }
                arguments
            },
        )
    }

    /// What a list of rules means, said once more and in another way.
    fn meaning(default: Action, rules: &[TestRule], call: &Call) -> u32 {
        let arguments = call.arguments.map(Some);
        let fits = |(number, when, _): &&TestRule| {
            *number == call.number && when.iter().all(|it| it.holds(&arguments) == Some(true))
        };
        rules.iter().find(fits).map_or(default, |(_, _, action)| *action).code()
    }

    fn theirs(condition: Condition) -> SeccompCondition {
        let (length, bits) = match condition.width() {
            Width::Low32 => (SeccompCmpArgLen::Dword, u64::from(u32::MAX)),
            Width::All64 => (SeccompCmpArgLen::Qword, u64::MAX),
        };
        let (op, value) = match condition.comparison() {
            Comparison::Eq(value) => (SeccompCmpOp::Eq, value),
            Comparison::Ne(value) => (SeccompCmpOp::Ne, value),
            Comparison::Lt(value) => (SeccompCmpOp::Lt, value),
            Comparison::Le(value) => (SeccompCmpOp::Le, value),
            Comparison::Gt(value) => (SeccompCmpOp::Gt, value),
            Comparison::Ge(value) => (SeccompCmpOp::Ge, value),
            Comparison::MaskedEq { mask, value } => (SeccompCmpOp::MaskedEq(mask & bits), value),
        };
        SeccompCondition::new(condition.argument(), length, op, value).unwrap()
    }

    /// seccompiler's program for the same, of rules that all have one action.
    fn by_seccompiler(default: Action, rules: &[TestRule]) -> Vec<BpfInstruction> {
        let action = |action: Action| match action {
            Action::Allow => SeccompAction::Allow,
            Action::Errno(_) => SeccompAction::Errno(1),
            Action::KillProcess => SeccompAction::KillProcess,
            Action::Trap => SeccompAction::Trap,
            Action::Log => SeccompAction::Log,
        };
        let mut map: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for (number, when, _) in rules {
            let conditions = when.iter().map(|it| theirs(*it)).collect();
            map.entry((*number).into()).or_default().push(SeccompRule::new(conditions).unwrap());
        }
        let architecture = TargetArch::try_from(std::env::consts::ARCH).unwrap();
        let matched = action(rules[0].2);
        let filter = SeccompFilter::new(map, action(default), matched, architecture).unwrap();
        let program = BpfProgram::try_from(filter).unwrap();
        program
            .iter()
            .map(|it| BpfInstruction { code: it.code, jt: it.jt, jf: it.jf, k: it.k })
            .collect()
    }

    /// Rules, and calls of which many are near what the rules are about.
    fn case(
        rule: impl Strategy<Value = TestRule>,
    ) -> impl Strategy<Value = (Vec<TestRule>, Vec<Call>)> {
        prop::collection::vec(rule, 1..12).prop_flat_map(|rules| {
            let when: Vec<_> = rules.iter().map(|(_, when, _)| when.clone()).collect();
            let numbers: Vec<_> = rules.iter().map(|(number, ..)| *number).collect();
            let number = prop_oneof![prop::sample::select(numbers), number(), any::<u32>()];
            let call = (number, arguments(&when))
                .prop_map(|(number, arguments)| Call::of(number, arguments));
            (Just(rules), prop::collection::vec(call, 32))
        })
    }

    fn filter_of(default: Action, rules: &[TestRule]) -> Filter<'_> {
        let mut made = Rules::new(default);
        for (number, when, action) in rules {
            made.add([calls::name(*number)], when, *action).unwrap();
        }
        made.finish()
    }

    fn is_x32(number: u32) -> bool {
        cfg!(target_arch = "x86_64") && (0x4000_0000..u32::MAX).contains(&number)
    }

    proptest! {
        #[test]
        fn a_filter_decides_as_its_rules_mean(
            default in action(),
            (rules, calls) in case((number(), conditions(0), action())),
        ) {
            let program = compile(&filter_of(default, &rules)).unwrap();
            for call in calls {
                let decided = decide(&program, &call);
                if is_x32(call.number) {
                    prop_assert_eq!(decided, Action::KillProcess.code());
                } else {
                    prop_assert_eq!(decided, meaning(default, &rules, &call), "{:?}", call);
                }
            }
        }

        #[test]
        fn seccompiler_decides_the_same_where_it_can_say_it(
            allows in any::<bool>(),
            (rules, calls) in case((number(), conditions(1), Just(Action::EPERM))),
        ) {
            // One action for all that matches, and another for the rest.
            let (default, action) =
                if allows { (Action::Trap, Action::Allow) } else { (Action::Allow, Action::EPERM) };
            let rules: Vec<_> =
                rules.into_iter().map(|(number, when, _)| (number, when, action)).collect();
            let ours = compile(&filter_of(default, &rules)).unwrap();
            let theirs = by_seccompiler(default, &rules);
            for call in calls {
                if is_x32(call.number) {
                    // The one difference: seccompiler knows nothing of x32.
                    prop_assert_eq!(decide(&ours, &call), Action::KillProcess.code());
                    prop_assert_eq!(decide(&theirs, &call), default.code());
                } else {
                    prop_assert_eq!(decide(&ours, &call), decide(&theirs, &call), "{:?}", call);
                }
                let foreign = Call { architecture: I386, ..call };
                prop_assert_eq!(decide(&ours, &foreign), Action::KillProcess.code());
                prop_assert_eq!(decide(&theirs, &foreign), Action::KillProcess.code());
            }
        }
    }

    #[test]
    fn jumps_over_more_than_255_instructions_land_where_they_should() {
        // Each call has a chain of its own, so that nothing is shared and all the tree's jumps are long.
        for per_call in [1, 20, 60, 130] {
            let numbers: Vec<u32> = (0..30).map(|it| it * 3).collect();
            let rules: Vec<TestRule> = numbers
                .iter()
                .flat_map(|number| {
                    (0..per_call).map(move |at: u32| {
                        let value = u64::from(number * 1000 + at);
                        let when = Condition::new(2, Width::Low32, Comparison::Eq(value)).unwrap();
                        let action = [Action::EPERM, Action::Trap, Action::Log][at as usize % 3];
                        (*number, vec![when], action)
                    })
                })
                .collect();
            let filter = filter_of(Action::Allow, &rules);
            if per_call == 130 {
                let error = compile(&filter).unwrap_err();
                assert!(error.contains("4096"), "{error}");
                continue;
            }
            let program = compile(&filter).unwrap();
            for number in 0..100 {
                for value in
                    [0, 1, u64::from(number * 1000), u64::from(number * 1000 + per_call - 1)]
                {
                    let call = Call::of(number, [9, 9, value, 9, 9, 9]);
                    let meant = meaning(Action::Allow, &rules, &call);
                    assert_eq!(decide(&program, &call), meant, "{call:?} of {per_call}");
                }
            }
        }
    }

    #[test]
    fn a_filter_may_have_4096_instructions_and_not_one_more() {
        let rule = |value: u64| Rule {
            calls: vec!["uname".into()],
            action: Action::EPERM,
            when: vec![Condition::int(0, Comparison::Eq(value))],
        };
        let mut policy = Seccomp::default();
        let mut longest = 0;
        for value in 0.. {
            policy.rules.push(rule(value));
            if value < 2000 {
                continue;
            }
            match compile(&policy.filter(&[]).unwrap()) {
                Ok(program) => longest = program.len(),
                Err(error) => {
                    assert!(error.contains("4096"), "{error}");
                    break;
                }
            }
        }
        assert!((4094..=4096).contains(&longest), "{longest}");
    }

    #[test]
    fn every_number_of_every_architecture_is_decided_under_each_profile() {
        for profile in crate::seccomp::profiles() {
            let policy = Seccomp { profile: Some(*profile), ..Seccomp::default() };
            let program = compiled(&policy);
            let filter = policy.filter(&[]).unwrap();
            for number in (0..1000).chain([0x3fff_ffff, u32::MAX]) {
                let arguments = [0; 6];
                let decided = decide(&program, &Call::of(number, arguments));
                let meant = filter.may_stop(number, &arguments.map(Some));
                assert_eq!(decided, meant.unwrap_or(Action::Allow).code(), "{number}");
                let foreign = Call { architecture: I386, ..Call::of(number, arguments) };
                assert_eq!(decide(&program, &foreign), Action::KillProcess.code());
                if cfg!(target_arch = "x86_64") && number < 1000 {
                    let x32 = Call::of(number | 0x4000_0000, arguments);
                    assert_eq!(decide(&program, &x32), Action::KillProcess.code(), "x32 {number}");
                }
            }
        }
    }

    /// docs/decisions/own-filter-compiler.md says these numbers.
    #[test]
    fn an_ordinary_call_pays_the_depth_of_a_tree() {
        let policy = Seccomp { profile: Some(Profile::Baseline), ..Seccomp::default() };
        let program = compiled(&policy);
        let steps = |name: &str| {
            let (decided, steps) = run(&program, &Call::of(calls::number(name).unwrap(), [0; 6]));
            assert_eq!(decided, Action::Allow.code(), "{name}");
            steps
        };
        let all: Vec<usize> = (0..1000)
            .map(|number| run(&program, &Call::of(number, [0; 6])))
            .filter(|(decided, _)| *decided == Action::Allow.code())
            .map(|(_, steps)| steps)
            .collect();
        if cfg!(target_arch = "x86_64") {
            assert_eq!((program.len(), all.iter().max()), (126, Some(&14)));
            assert_eq!(["read", "write", "openat"].map(steps), [10; 3]);
        }
        assert!(all.iter().all(|steps| *steps <= 24));
    }
}
