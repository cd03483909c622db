//! The registry: which mechanisms there are, that each is whole, and that the docs are of them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use portcullis_core::mechanism::Opening;
use portcullis_core::plan::Target;
use portcullis_core::{Params, Registry};
use portcullis_mechanisms as _;
use portcullis_tests::{run, tests};

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn the_registered_ids_are_these() {
    let registry = Registry::collect().unwrap();
    let ids: Vec<_> = registry.iter().map(|it| it.declaration().id).collect();
    assert_eq!(
        ids,
        [
            "linux.ambient.scrub.v1",
            "linux.capabilities.set.v1",
            "linux.cgroup.enter.v1",
            "linux.cgroup.limit.v1",
            "linux.credentials.set.v1",
            "linux.cwd.set.v1",
            "linux.exec.v1",
            "linux.landlock.apply.v1",
            "linux.netns.enter.v1",
            "linux.no_new_privs.set.v1",
            "linux.process.attributes.v1",
            "linux.rlimits.set.v1",
            "linux.seccomp.apply.v1",
            "linux.stdio.set.v1",
            "linux.userns.enter.v1",
        ]
    );
}

/// rustc says nothing of a file that no `mod` names.
fn every_file_of_mechanisms_registers_one() {
    let registry = Registry::collect().unwrap();
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(root().join("mechanisms/src")).unwrap() {
        let path = entry.unwrap().path();
        // One that has become large is a folder.
        let file = if path.is_dir() { path.join("mod.rs") } else { path.clone() };
        let text = fs::read_to_string(file).unwrap();
        if text.contains("portcullis_core::register!") {
            files.insert(path.file_stem().unwrap().to_str().unwrap().to_owned());
        }
    }
    assert_eq!(files.len(), registry.iter().count(), "{files:?}");
    let list = fs::read_to_string(root().join("mechanisms/src/lib.rs")).unwrap();
    for file in files {
        assert!(list.contains(&format!("pub mod {file};")), "{file} is in no list");
    }
}

fn every_declaration_is_whole_and_its_example_is_a_policy() {
    for mechanism in Registry::collect().unwrap().iter() {
        let declared = mechanism.declaration();
        let id = declared.id;
        assert!(
            id.starts_with("linux.") && id.ends_with(&format!(".v{}", declared.version)),
            "{id}"
        );
        for text in [declared.rank_reason, declared.summary, declared.kernel_floor, declared.params]
        {
            assert!(!text.is_empty() && !text.ends_with('.'), "{id}: {text:?}");
        }
        let example: serde_json::Value = serde_json::from_str(declared.example).unwrap();
        let params = Params::of(&example).unwrap();
        let opened = mechanism.open(&params, &mut Opening::new(Target::default()));
        // The example's paths need not be here; its fields must be the policy's.
        if let Err(error) = opened {
            assert!(matches!(error, portcullis::OpenError::Path { .. }), "{id}: {error}");
        }
        let unknown = Params::of(&serde_json::json!({"unknown_to_all": 1})).unwrap();
        let error = mechanism.open(&unknown, &mut Opening::new(Target::default())).unwrap_err();
        assert!(matches!(error, portcullis::OpenError::Policy(_)), "{id}: {error}");
    }
}

fn a_launcher_knows_the_same_declarations() {
    let registry = Registry::collect().unwrap();
    let told = portcullis::mechanisms(None).unwrap();
    let own: Vec<_> = registry
        .iter()
        .map(|it| (it.declaration().id.to_owned(), it.declaration().digest().to_string()))
        .collect();
    let theirs: Vec<_> = told.into_iter().map(|it| (it.id, it.decl_digest)).collect();
    assert_eq!(own, theirs);
}

/// The mechanisms' reference is made from their declarations; `UPDATE=1` writes it anew.
fn the_reference_in_the_docs_is_of_these_mechanisms() {
    let mut text = String::from(
        "# Mechanism reference\n\nMade from the registry: `UPDATE=1 cargo test -p portcullis-tests \
         --test registry` writes it anew.\n",
    );
    for mechanism in Registry::collect().unwrap().iter() {
        let it = mechanism.declaration();
        let _ = write!(
            text,
            "\n## `{}`\n\nVersion {}. {}.\n\n\
             - Phase: {} ({}), rank {}: {}\n\
             - Kernel: {}\n\
             - On the wire: `{}`\n\
             - In a policy: `{}`\n",
            it.id,
            it.version,
            capitalized(it.summary),
            it.phase.code(),
            it.phase,
            it.rank,
            it.rank_reason,
            it.kernel_floor,
            it.params,
            it.example,
        );
        for required in it.requires {
            let _ = writeln!(text, "- Requires `{}`: {}", required.id, required.reason);
        }
    }
    let file = root().join("docs/mechanisms.md");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&file, &text).unwrap();
    }
    assert!(fs::read_to_string(&file).unwrap_or_default() == text, "stale; run with UPDATE=1");
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn main() -> ExitCode {
    run(tests![
        the_registered_ids_are_these: [],
        every_file_of_mechanisms_registers_one: [],
        every_declaration_is_whole_and_its_example_is_a_policy: [],
        a_launcher_knows_the_same_declarations: [],
        the_reference_in_the_docs_is_of_these_mechanisms: [],
    ])
}
