//! The registry: which mechanisms there are, and that the docs are of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use portcullis::MechanismInfo;
use portcullis_core::Registry;
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

/// Where the chapters of the book are listed.
const SUMMARY: &str = "docs/SUMMARY.md";
/// The line of it below which the mechanisms' pages are.
const INDEX: &str = "- [Mechanisms](mechanisms/index.md)\n";

/// The pages of the reference, each with its file; and the line of the index and of the summary for each.
fn pages() -> (BTreeMap<String, String>, String) {
    let mut index = String::from(
        "# Mechanisms\n\nA page each, as `portcullis mechanisms ID` prints it. They are made from what the \
         mechanisms declare of themselves:\n`UPDATE=1 cargo test -p portcullis-tests --test registry` \
         writes them anew.\n\nThey are applied in the order of their phases, and within a phase by rank.\n",
    );
    let (mut pages, mut chapters) = (BTreeMap::new(), String::new());
    let mut mechanisms = portcullis::mechanisms(None).unwrap();
    mechanisms.sort_by_key(|it| (it.phase_code, it.rank));
    let mut phase = String::new();
    for it in &mechanisms {
        if phase != it.phase {
            phase.clone_from(&it.phase);
            let _ = write!(index, "\n## Phase {}: {phase}\n\n", it.phase_code);
        }
        let MechanismInfo { id, summary, .. } = it;
        let _ = writeln!(index, "- [`{id}`]({id}.md): {summary}");
        pages.insert(format!("{id}.md"), it.page());
    }
    for id in pages.keys().filter_map(|file| file.strip_suffix(".md")) {
        let _ = writeln!(chapters, "  - [{id}](mechanisms/{id}.md)");
    }
    pages.insert("index.md".into(), index);
    (pages, chapters)
}

/// `UPDATE=1` writes the reference anew.
fn the_reference_in_the_docs_is_of_these_mechanisms() {
    let folder = root().join("docs/mechanisms");
    let (pages, chapters) = pages();
    let summary = fs::read_to_string(root().join(SUMMARY)).unwrap();
    let (before, after) = summary.split_once(INDEX).expect("the summary lists the index");
    let own = after.split_inclusive('\n').take_while(|line| line.starts_with("  "));
    let rest = &after[own.map(str::len).sum()..];
    let expected = format!("{before}{INDEX}{chapters}{rest}");
    if std::env::var_os("UPDATE").is_some() {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        for (file, page) in &pages {
            fs::write(folder.join(file), page).unwrap();
        }
        fs::write(root().join(SUMMARY), &expected).unwrap();
    }
    let found: BTreeMap<String, String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let page = fs::read_to_string(entry.path()).unwrap();
            (entry.file_name().into_string().unwrap(), page)
        })
        .collect();
    assert!(found.keys().eq(pages.keys()), "{:?} are stale; run with UPDATE=1", found.keys());
    for (file, page) in &pages {
        assert!(found[file] == *page, "docs/mechanisms/{file} is stale; run with UPDATE=1");
    }
    let summary = fs::read_to_string(root().join(SUMMARY)).unwrap();
    assert!(summary == expected, "{SUMMARY} is stale; run with UPDATE=1");
}

/// mdBook puts nothing, without a word, where a file or an anchor is not there.
fn what_the_docs_include_is_there() {
    let mut included = 0;
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        let text = if path.is_file() { fs::read_to_string(&path).unwrap() } else { continue };
        for rest in text.split("{{#include ").skip(1) {
            included += 1;
            let (what, _) = rest.split_once("}}").expect("an include ends");
            let (file, anchor) = what.trim().split_once(':').unwrap_or((what.trim(), ""));
            let source = fs::read_to_string(path.with_file_name(file));
            let source =
                source.unwrap_or_else(|error| panic!("{}: {file}: {error}", path.display()));
            if !anchor.is_empty() {
                let has = |mark: &str| {
                    let line = format!("{mark}: {anchor}");
                    source.lines().any(|it| it.trim_end().ends_with(&line))
                };
                assert!(has("ANCHOR") && has("ANCHOR_END"), "{}: {what}", path.display());
            }
        }
    }
    assert!(included > 0);
}

fn main() -> ExitCode {
    run(tests![
        the_registered_ids_are_these: [],
        every_file_of_mechanisms_registers_one: [],
        a_launcher_knows_the_same_declarations: [],
        the_reference_in_the_docs_is_of_these_mechanisms: [],
        what_the_docs_include_is_there: [],
    ])
}
