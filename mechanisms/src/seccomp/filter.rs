//! What a filter means: which of its rules are tried for each call, and what else becomes of a call.

use std::collections::BTreeMap;

use super::policy::{Action, Condition};
use super::{calls, sets};

/// A rule without the calls that it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Case<'a> {
    pub(super) when: &'a [Condition],
    pub(super) action: Action,
}

/// The cases that are tried for a call, in order, by their places in [`Filter::cases`].
pub(super) type Chain = Vec<u32>;

/// A filter, with its calls by their numbers.
#[derive(Debug)]
pub(super) struct Filter<'a> {
    pub(super) default: Action,
    cases: Vec<Case<'a>>,
    chains: BTreeMap<u32, Chain>,
}

impl<'a> Filter<'a> {
    /// One that has no rules.
    pub(super) fn new(default: Action) -> Self {
        Self { default, cases: Vec::new(), chains: BTreeMap::new() }
    }

    /// Adds a rule: it is tried after those that are there. A set's calls are those that this
    /// architecture has; a call that is named itself must be one.
    pub(super) fn rule(
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
                self.append_all(set.members, case);
            } else {
                let number = calls::number(name);
                let number = number.ok_or_else(|| format!("{name:?} is no system call here"))?;
                self.append(number, case);
            }
        }
        Ok(())
    }

    /// Adds a rule of a table that is for every architecture: those of its calls that this one lacks are
    /// left out.
    pub(super) fn rule_of_table(&mut self, calls: &[&str], when: &'a [Condition], action: Action) {
        let case = self.case(when, action);
        self.append_all(calls, case);
    }

    fn case(&mut self, when: &'a [Condition], action: Action) -> u32 {
        let case = Case { when, action };
        // The last one often is the same: then the calls of both can share what is made of it.
        if self.cases.last() != Some(&case) {
            self.cases.push(case);
        }
        u32::try_from(self.cases.len() - 1).unwrap_or(u32::MAX)
    }

    fn append_all(&mut self, calls: &[&str], case: u32) {
        for name in calls {
            if let Some(set) = sets::find(name) {
                self.append_all(set.members, case);
            } else if let Some(number) = calls::number(name) {
                self.append(number, case);
            }
        }
    }

    fn append(&mut self, number: u32, case: u32) {
        let chain = self.chains.entry(number).or_default();
        // What comes after a case that always fits is never tried.
        let closed = chain.last().is_some_and(|last| self.cases[*last as usize].when.is_empty());
        if !closed && chain.last() != Some(&case) {
            chain.push(case);
        }
    }

    /// The calls that have rules, by rising number.
    pub(super) fn chains(&self) -> impl Iterator<Item = (u32, &Chain)> {
        self.chains.iter().map(|(number, chain)| (*number, chain))
    }

    /// The cases of a chain.
    pub(super) fn cases(&self, chain: &Chain) -> impl DoubleEndedIterator<Item = Case<'a>> {
        chain.iter().map(|case| self.cases[*case as usize])
    }

    /// Whether it lets every call pass, and so need not be.
    pub(super) fn allows_everything(&self) -> bool {
        let mut actions = self.cases.iter().map(|case| case.action);
        self.default == Action::Allow && actions.all(|action| action == Action::Allow)
    }

    /// What may become of a call of which some arguments are known, and keeps it from being made.
    pub(super) fn may_stop(&self, number: u32, arguments: &[Option<u64>; 6]) -> Option<Action> {
        for case in self.chains.get(&number).into_iter().flat_map(|chain| self.cases(chain)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::policy::Comparison;

    #[test]
    fn the_first_rule_that_fits_decides_and_what_comes_after_one_that_always_fits_is_not_tried() {
        let first = [Condition::int(0, Comparison::Eq(1))];
        let mut filter = Filter::new(Action::KillProcess);
        filter.rule(["read"], &first, Action::EPERM).unwrap();
        filter.rule(["read", "@basic-io"], &[], Action::Allow).unwrap();
        filter.rule(["read"], &[], Action::Trap).unwrap();
        let read = calls::number("read").unwrap();
        let (_, chain) = filter.chains().find(|(number, _)| *number == read).unwrap();
        assert_eq!(filter.cases(chain).count(), 2);
        let with = |first| [first, None, None, None, None, None];
        assert_eq!(filter.may_stop(read, &with(Some(1))), Some(Action::EPERM));
        assert_eq!(filter.may_stop(read, &with(Some(2))), None);
        assert_eq!(filter.may_stop(read, &with(None)), Some(Action::EPERM), "nobody knows");
        assert_eq!(filter.may_stop(9999, &with(None)), Some(Action::KillProcess));
    }

    #[test]
    fn a_set_skips_what_this_architecture_lacks_and_a_name_must_be_one() {
        let mut filter = Filter::new(Action::Allow);
        filter.rule(["@obsolete"], &[], Action::EPERM).unwrap();
        assert!(filter.rule(["no_such_call"], &[], Action::EPERM).is_err());
        assert!(filter.rule(["@no-such-set"], &[], Action::EPERM).is_err());
        filter.rule_of_table(&["no_such_call", "read"], &[], Action::EPERM);
        assert!(!filter.allows_everything());
        assert!(filter.may_stop(calls::number("read").unwrap(), &[None; 6]).is_some());
    }
}
