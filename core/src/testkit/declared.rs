//! What a mechanism declares of itself, on paper.

use std::collections::BTreeMap;

use super::filled::params;
use super::{Check, Subject, UNKNOWN};
use crate::mechanism::{Declaration, OpenError, Opening};
use crate::plan::Target;
use crate::{OsText, Params};

impl Subject<'_> {
    pub(super) fn declaration(&mut self) {
        let declared = self.mechanism.declaration();
        self.expect(is_id(declared), Check::Id, || {
            let version = declared.version;
            format!("an id is lower-case words, three or more, the last of them v{version}")
        });
        self.texts(declared);
        self.relations(declared);
        self.example(declared);
    }

    fn texts(&mut self, declared: &Declaration) {
        let demonstration = declared.demonstration;
        for (name, text) in [
            ("rank_reason", declared.rank_reason),
            ("summary", declared.summary),
            ("kernel_floor", declared.kernel_floor),
            ("params", declared.params),
            ("guide", declared.guide),
            ("demonstration.script", demonstration.script),
            ("demonstration.shows", demonstration.shows),
        ] {
            self.expect(!text.trim().is_empty(), Check::Texts, || format!("{name} is empty"));
        }
        for (name, text) in [
            ("rank_reason", declared.rank_reason),
            ("summary", declared.summary),
            ("kernel_floor", declared.kernel_floor),
        ] {
            self.expect(!text.ends_with('.'), Check::Texts, || {
                format!("{name} is no sentence, and ends with a full stop: {text:?}")
            });
        }
        self.expect(!declared.guide.starts_with("# "), Check::Texts, || {
            "guide has a title, which the page has already".into()
        });
        self.expect(demonstration.shows == demonstration.shows.trim(), Check::Texts, || {
            "demonstration.shows starts or ends with a blank".into()
        });
    }

    fn relations(&mut self, declared: &Declaration) {
        let id = declared.id;
        for it in declared.requires {
            let other = it.id;
            self.expect(other != id, Check::Relations, || "it requires itself".into());
            self.expect(self.registry.find(other).is_some(), Check::Relations, || {
                format!("it requires {other}, which no crate that is linked here has")
            });
            self.expect(!it.reason.is_empty() && !it.note.is_empty(), Check::Relations, || {
                format!("it requires {other} without a reason or without a note")
            });
        }
        for it in declared.conflicts {
            let other = it.id;
            self.expect(other != id, Check::Relations, || {
                "it conflicts with itself: Repeat::Once says that".into()
            });
            self.expect(!it.reason.is_empty(), Check::Relations, || {
                format!("it conflicts with {other} without a reason")
            });
            self.expect(
                declared.requires.iter().all(|it| it.id != other),
                Check::Relations,
                || format!("it requires {other}, and conflicts with it"),
            );
        }
    }

    /// The example's paths need not be here; its fields must be the policy's.
    fn example(&mut self, declared: &Declaration) {
        let example = match params(declared.example) {
            Ok(example) => example,
            Err(what) => return self.fail(Check::Policy, format!("example: {what}")),
        };
        match self.mechanism.open(&example, &mut Opening::new(workload())) {
            Ok(_) | Err(OpenError::Path { .. }) => {}
            Err(error) => self.fail(Check::Policy, format!("example: {error}")),
        }
        let alone = Params::of(&BTreeMap::from([(UNKNOWN, 1)])).unwrap_or_default();
        for (which, policy) in [("alone", alone), ("in the example", example.with(UNKNOWN, 1))] {
            let opened = self.mechanism.open(&policy, &mut Opening::new(workload()));
            let rejected = matches!(&opened, Err(OpenError::Policy(_)));
            self.expect(rejected, Check::Policy, || {
                let what = opened.map_or_else(|error| error.to_string(), |_| "it was taken".into());
                format!("an unknown field {which} is not rejected (deny_unknown_fields): {what}")
            });
        }
    }
}

/// `linux.umask.set.v1`: a prefix, what it is of, and the version.
fn is_id(declared: &Declaration) -> bool {
    let words: Vec<_> = declared.id.split('.').collect();
    let plain = |word: &&str| {
        let known =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
        !word.is_empty() && word.bytes().all(known)
    };
    words.len() >= 3
        && words.iter().all(plain)
        && words.last().is_some_and(|last| *last == format!("v{}", declared.version))
}

/// What is launched: a shell with the usual path.
pub(super) fn workload() -> Target {
    let text = |text: &str| OsText::from(text);
    Target {
        argv: vec![text("sh"), text("-c"), text(":")],
        envp: vec![(text("PATH"), text("/usr/bin:/bin"))],
        ..Target::default()
    }
}
