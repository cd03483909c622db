//! Any two mechanisms can be scheduled together, in any order: both are applied, in the order of their
//! phases and ranks, or the launch is refused by name.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use portcullis::{Command, Error, MechanismInfo, Params, Report};
use portcullis_core::Registry;
use portcullis_mechanisms as _;
use portcullis_tests::{cgroup2, run, tests};
use tempfile::TempDir;

/// Every launch has these.
const ALWAYS: [&str; 2] = ["linux.ambient.scrub.v1", "linux.exec.v1"];

/// What the placeholders of a demonstration stand for.
struct Places {
    folder: TempDir,
    cgroup: Option<PathBuf>,
}

impl Places {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        fs::write(folder.path().join("file"), "42").unwrap();
        let name = format!("portcullis-demonstration-order-{}", std::process::id());
        let cgroup = cgroup2().map(|root| root.join(name));
        Self { folder, cgroup: cgroup.filter(|cgroup| fs::create_dir(cgroup).is_ok()) }
    }

    /// A policy in JSON with its placeholders filled; `None` where there is no cgroup.
    fn fill(&self, policy: &str) -> Option<Params> {
        let mut filled = policy.replace("@folder", self.folder.path().to_str()?);
        if filled.contains("@cgroup") {
            filled = filled.replace("@cgroup", self.cgroup.as_deref()?.to_str()?);
        }
        let policy: serde_json::Value = serde_json::from_str(&filled).unwrap();
        Some(Params::of(&policy).unwrap())
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            fs::remove_dir(cgroup).unwrap();
        }
    }
}

/// What came of a launch.
enum Came {
    Applied,
    Refused,
    Skipped,
}

/// Launches a shell that does nothing, with both mechanisms and their companions.
fn launch(first: &MechanismInfo, second: &MechanismInfo, places: &Places) -> Came {
    let pair = [first, second];
    let ids = pair.map(|it| it.id.as_str());
    let mut policies: Vec<(&str, &str)> =
        pair.map(|it| (it.id.as_str(), it.demonstration.policy.as_str())).to_vec();
    for (id, policy) in pair.iter().flat_map(|it| &it.demonstration.with) {
        if !policies.iter().any(|(known, _)| known == id) && !ALWAYS.contains(&id.as_str()) {
            policies.push((id, policy));
        }
    }
    let mut command = Command::new("/bin/sh");
    command.args(["-c", ":"]);
    for (id, policy) in policies {
        let Some(params) = places.fill(policy) else { return Came::Skipped };
        command.policy(id, params);
    }
    match command.output() {
        Ok(output) => {
            assert_applied(&output.report, ids);
            Came::Applied
        }
        Err(Error::Refused { .. }) => Came::Refused,
        Err(error) => panic!("{ids:?}: {error}\n{:?}", error.report().map(|it| &it.transcript)),
    }
}

/// Asserts that both were applied, and everything by phase and rank.
fn assert_applied(report: &Report, ids: [&str; 2]) {
    let applied: Vec<_> = report.applied().collect();
    for id in ids.iter().chain(&ALWAYS) {
        assert!(applied.contains(id), "{id} of {ids:?} is not in {applied:?}");
    }
    let registry = Registry::collect().unwrap();
    let places: Vec<_> = applied
        .iter()
        .map(|id| {
            let declared = registry.find(id).unwrap().declaration();
            (declared.phase, declared.rank)
        })
        .collect();
    assert!(places.is_sorted(), "{applied:?}: {places:?}");
}

/// The mechanisms of the registry that this machine serves, but for those of every launch.
fn served() -> Vec<MechanismInfo> {
    let known: BTreeSet<_> =
        Registry::collect().unwrap().iter().map(|it| it.declaration().id).collect();
    let mechanisms = portcullis::mechanisms(None).unwrap().into_iter();
    let served =
        mechanisms.filter(|it| known.contains(it.id.as_str()) && !ALWAYS.contains(&it.id.as_str()));
    served
        .filter(|it| {
            if !it.is_supported() {
                eprintln!("left out {}: {}", it.id, it.why.as_deref().unwrap_or_default());
            }
            it.is_supported()
        })
        .collect()
}

fn every_pair_is_applied_in_order_or_refused_by_name() {
    let (mechanisms, places) = (served(), Places::new());
    let (mut applied, mut refused, mut skipped) = (0, Vec::new(), BTreeSet::new());
    for first in &mechanisms {
        for second in mechanisms.iter().filter(|second| second.id != first.id) {
            match launch(first, second, &places) {
                Came::Applied => applied += 1,
                Came::Refused => refused.push(format!("{} + {}", first.id, second.id)),
                Came::Skipped => {
                    skipped.insert(format!("{} + {}", first.id, second.id));
                }
            }
        }
    }
    for pair in &skipped {
        eprintln!("skipped {pair}: no cgroup can be made");
    }
    eprintln!("{applied} pairs applied; refused: {refused:?}");
    assert!(mechanisms.len() < 2 || applied > 0);
    // What is refused in one order is refused in the other.
    for pair in &refused {
        let (first, second) = pair.split_once(" + ").unwrap();
        assert!(
            refused.contains(&format!("{second} + {first}")),
            "{pair} is refused in one order only"
        );
    }
}

fn main() -> ExitCode {
    run(tests![every_pair_is_applied_in_order_or_refused_by_name: []])
}
