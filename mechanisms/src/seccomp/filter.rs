//! What a filter means: which of its rules are tried for each call, and what else becomes of a call.

use std::cmp::Ordering;

use super::policy::{Action, Condition};
use super::{calls, sets};

/// A rule without the calls that it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Case<'a> {
    pub(super) when: &'a [Condition],
    pub(super) action: Action,
}

/// A filter in the making.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    default: Action,
    cases: Vec<Case<'a>>,
    /// Calls, by their numbers, and the places in `cases` of what is tried for them.
    tried: Vec<(u32, u32)>,
}

impl<'a> Rules<'a> {
    /// No rules, and what becomes of a call that none decides.
    pub(super) fn new(default: Action) -> Self {
        Self { default, cases: Vec::with_capacity(16), tried: Vec::with_capacity(512) }
    }

    /// Adds a rule: it is tried after those that are there. A set's calls are those that this
    /// architecture has; a call that is named itself must be one.
    pub(super) fn add(
        &mut self,
        calls: impl IntoIterator<Item = impl AsRef<str>>,
        when: &'a [Condition],
        action: Action,
    ) -> Result<(), String> {
        let case = self.case(when, action);
        for name in calls {
            let name = name.as_ref();
            if name.starts_with('@') {
                let set = sets::find(name).ok_or_else(|| format!("{name:?} is no set of calls"))?;
                self.add_all(set.members, case);
            } else {
                let number = calls::number(name);
                let number = number.ok_or_else(|| format!("{name:?} is no system call here"))?;
                self.tried.push((number, case));
            }
        }
        Ok(())
    }

    /// Adds a rule of a table that is for every architecture: those of its calls that this one lacks are
    /// left out.
    pub(super) fn add_from_table(&mut self, calls: &[&str], when: &'a [Condition], action: Action) {
        let case = self.case(when, action);
        self.add_all(calls, case);
    }

    fn case(&mut self, when: &'a [Condition], action: Action) -> u32 {
        let case = Case { when, action };
        // One that is as the last is the last: then the calls of both share what is made of it.
        if self.cases.last() != Some(&case) {
            self.cases.push(case);
        }
        u32::try_from(self.cases.len() - 1).unwrap_or(u32::MAX)
    }

    fn add_all(&mut self, calls: &[&str], case: u32) {
        for name in calls {
            if name.starts_with('@') {
                self.add_all(sets::find(name).map_or(&[], |set| set.members), case);
            } else if let Some(number) = calls::number(name) {
                self.tried.push((number, case));
            }
        }
    }

    /// The filter.
    pub(super) fn finish(mut self) -> Filter<'a> {
        // Later cases have higher places, so that this keeps their order.
        self.tried.sort_unstable();
        self.tried.dedup();
        // Where it was handed out last, what it does not take is handed out again.
        self.tried.shrink_to_fit();
        Filter { default: self.default, cases: self.cases, tried: self.tried }
    }
}

/// A filter.
#[derive(Debug)]
pub(super) struct Filter<'a> {
    pub(super) default: Action,
    cases: Vec<Case<'a>>,
    /// Sorted: the cases of a call are together, in the order in which they are tried.
    tried: Vec<(u32, u32)>,
}

impl<'a> Filter<'a> {
    /// The calls that have rules, by rising number, each with the cases that are tried for it.
    pub(super) fn calls(&self) -> impl Iterator<Item = (u32, Chain<'_>)> {
        let same = |one: &(u32, u32), other: &(u32, u32)| one.0 == other.0;
        self.tried.chunk_by(same).map(|tried| (tried[0].0, self.chain(tried)))
    }

    fn chain<'f>(&'f self, tried: &'f [(u32, u32)]) -> Chain<'f> {
        // What comes after a case that always fits is never tried.
        let always = |(_, case): &(u32, u32)| self.cases[*case as usize].when.is_empty();
        let end = tried.iter().position(always).map_or(tried.len(), |at| at + 1);
        Chain(&tried[..end])
    }

    /// The cases of a chain, in the order in which they are tried.
    pub(super) fn cases(&self, chain: Chain<'_>) -> impl DoubleEndedIterator<Item = Case<'a>> {
        chain.0.iter().map(|(_, case)| self.cases[*case as usize])
    }

    /// Whether it lets every call pass, and so need not be.
    pub(super) fn allows_everything(&self) -> bool {
        let mut actions = self.cases.iter().map(|case| case.action);
        self.default == Action::Allow && actions.all(|action| action == Action::Allow)
    }

    /// What may become of a call of which some arguments are known, and keeps it from being made.
    pub(super) fn may_stop(&self, number: u32, arguments: &[Option<u64>; 6]) -> Option<Action> {
        let first = self.tried.partition_point(|(call, _)| *call < number);
        let end = self.tried.partition_point(|(call, _)| *call <= number);
        for case in self.cases(self.chain(&self.tried[first..end])) {
            let holds = || case.when.iter().map(|condition| condition.holds(arguments));
            if holds().any(|it| it == Some(false)) {
                continue;
            }
            if !case.action.lets_pass() {
                return Some(case.action);
            }
            if holds().all(|it| it == Some(true)) {
                return None;
            }
        }
        (!self.default.lets_pass()).then_some(self.default)
    }
}

/// The cases that are tried for a call. Two are the same where the cases are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chain<'f>(&'f [(u32, u32)]);

impl Chain<'_> {
    fn places(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|(_, case)| *case)
    }
}

impl Ord for Chain<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.places().cmp(other.places())
    }
}

impl PartialOrd for Chain<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Chain<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Chain<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::policy::Comparison;

    #[test]
    fn the_first_rule_that_fits_decides_and_what_comes_after_one_that_always_fits_is_not_tried() {
        let first = [Condition::int(0, Comparison::Eq(1))];
        let mut rules = Rules::new(Action::KillProcess);
        rules.add(["read"], &first, Action::EPERM).unwrap();
        rules.add(["read", "@basic-io"], &[], Action::Allow).unwrap();
        rules.add(["read"], &[], Action::Trap).unwrap();
        let filter = rules.finish();
        let read = calls::number("read").unwrap();
        let (_, chain) = filter.calls().find(|(number, _)| *number == read).unwrap();
        assert_eq!(filter.cases(chain).count(), 2);
        let with = |first| [first, None, None, None, None, None];
        assert_eq!(filter.may_stop(read, &with(Some(1))), Some(Action::EPERM));
        assert_eq!(filter.may_stop(read, &with(Some(2))), None);
        assert_eq!(filter.may_stop(read, &with(None)), Some(Action::EPERM), "nobody knows");
        assert_eq!(filter.may_stop(9999, &with(None)), Some(Action::KillProcess));
    }

    #[test]
    fn a_set_skips_what_this_architecture_lacks_and_a_name_must_be_one() {
        let mut rules = Rules::new(Action::Allow);
        rules.add(["@obsolete"], &[], Action::EPERM).unwrap();
        assert!(rules.add(["no_such_call"], &[], Action::EPERM).is_err());
        assert!(rules.add(["@no-such-set"], &[], Action::EPERM).is_err());
        rules.add_from_table(&["no_such_call", "read"], &[], Action::EPERM);
        let filter = rules.finish();
        assert!(!filter.allows_everything());
        assert!(filter.may_stop(calls::number("read").unwrap(), &[None; 6]).is_some());
    }
}
