//! A demonstration whose placeholders are filled in.

use crate::mechanism::Declaration;
use crate::{Params, testkit::Laboratory};

/// A demonstration that can be run: once, for what it does may leave traces in its folder.
pub(super) struct Filled {
    pub(super) policy: Params,
    pub(super) with: Vec<(&'static str, Params)>,
    pub(super) script: String,
}

/// Why a demonstration can't be run.
pub(super) enum Unfilled {
    /// The machine lacks what a placeholder stands for.
    Unavailable(String),
    /// A policy is no JSON map.
    Malformed(String),
}

impl Filled {
    pub(super) fn new(
        declaration: &Declaration,
        laboratory: &dyn Laboratory,
    ) -> Result<Self, Unfilled> {
        let it = declaration.demonstration;
        let mut texts = vec![it.script.to_owned(), it.policy.to_owned()];
        texts.extend(it.with.iter().map(|(_, policy)| (*policy).to_owned()));
        fill(&mut texts, "@folder", || laboratory.folder())?;
        fill(&mut texts, "@cgroup", || laboratory.cgroup())?;
        let mut policies = texts.split_off(1).into_iter().map(|text| params(&text));
        let malformed = |what| Unfilled::Malformed(format!("demonstration: {what}"));
        let policy = policies.next().unwrap_or_else(|| Ok(Params::default())).map_err(malformed)?;
        let with = it.with.iter().zip(policies);
        let with = with.map(|((id, _), policy)| Ok((*id, policy.map_err(malformed)?)));
        let with = with.collect::<Result<_, _>>()?;
        let script = texts.swap_remove(0);
        Ok(Self { policy, with, script })
    }

    /// What is scheduled where the mechanism `id` is applied.
    pub(super) fn entries(&self, id: &'static str) -> Vec<(&'static str, Params)> {
        [self.with.as_slice(), &[(id, self.policy.clone())]].concat()
    }
}

fn fill(
    texts: &mut [String],
    placeholder: &str,
    make: impl FnOnce() -> Result<String, String>,
) -> Result<(), Unfilled> {
    if texts.iter().any(|text| text.contains(placeholder)) {
        let value = make().map_err(Unfilled::Unavailable)?;
        for text in texts {
            *text = text.replace(placeholder, &value);
        }
    }
    Ok(())
}

/// What a policy in JSON says.
pub(super) fn params(json: &str) -> Result<Params, String> {
    let map: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(json).map_err(|error| format!("{json} is no JSON map: {error}"))?;
    Params::of(&map).map_err(|error| format!("{json}: {error}"))
}
