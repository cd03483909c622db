//! Nothing gets out that is not known to. Each escape of `tests/escape` is attempted twice: where nothing
//! confines it succeeds, as the outside can tell; under strict confinement it fails as its row of the
//! table says, and the outside notices nothing. What does get out is in `docs/residual.md`.

#[path = "escape/suite/scene.rs"]
mod scene;
#[path = "escape/suite/table.rs"]
mod table;

use std::collections::BTreeSet;
use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};

use portcullis::mechanism::landlock;
use portcullis::{Command, Stdio};
use portcullis_tests::{Need, Test, run};
use serde_json::Value;

use scene::{Scene, programs, remove_programs};
use table::{Free, NOTHING, Row, Strict, table};

const NEEDS: &[Need] = &[
    Need::Mechanism("linux.landlock.apply.v1"),
    Need::Mechanism("linux.seccomp.apply.v1"),
    Need::Mechanism("linux.userns.enter.v1"),
    Need::Mechanism("linux.netns.enter.v1"),
    Need::LandlockScopes,
];

/// A program under strict confinement.
fn strict(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.strict();
    command
}

/// What an attempt came to.
#[derive(Debug)]
struct Told {
    outcome: String,
    errno: Option<i32>,
    detail: String,
    status: ExitStatus,
    seen: Option<bool>,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (errno {:?}, {}): {}", self.outcome, self.errno, self.status, self.detail)?;
        self.seen.map_or(Ok(()), |seen| write!(f, "; the outside noticed: {seen}"))
    }
}

impl Told {
    fn is_unavailable(&self) -> bool {
        self.outcome == "unavailable"
    }

    /// Whether it got out, as far as anyone can tell.
    fn escaped(&self) -> bool {
        self.outcome == "escaped" && self.seen != Some(false)
    }

    /// Whether something got out, in whosever eyes.
    fn leaked(&self) -> bool {
        self.outcome == "escaped" || self.seen == Some(true)
    }
}

/// Whether an attempt is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Confined {
    Not,
    Strictly,
}

fn attempt(row: &Row, confined: Confined) -> Told {
    let mut scene = Scene::new();
    let program = programs().join("escape");
    if confined == Confined::Not && row.inherits {
        let mut command = std::process::Command::new(&program);
        command.arg(row.name).args(scene.arguments());
        let output = command.output().expect("a process");
        return tell(row, &mut scene, &output.stdout, output.status);
    }
    let mut command = match confined {
        Confined::Not => Command::new(&program),
        Confined::Strictly => {
            let mut command = strict(&program);
            let system = ["/usr", "/bin", "/lib", "/lib64"];
            for root in system.iter().map(Path::new).filter(|root| root.exists()) {
                command.read(root).exec(root);
            }
            command.read("/proc").read(scene.at("readable")).write(scene.at("writable"));
            command.read(programs()).exec(programs());
            command
        }
    };
    command.arg(row.name).args(scene.arguments()).current_dir(scene.at("outside"));
    command.stdin(scene.input(row.input).map_or_else(Stdio::piped, Stdio::from));
    let mut child = command.stdout(Stdio::piped()).spawn().expect("a launch");
    let mut stdin = child.stdin.take();
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("a line");
    let ready: Value = serde_json::from_str(&line).unwrap_or_default();
    if let (Some(what), Some(meet)) = (ready["ready"].as_str(), row.meets) {
        meet(&mut scene, what);
        line.clear();
    }
    if let Some(mut stdin) = stdin.take() {
        // Who is gone needs no answer.
        let _ = stdin.write_all(b"done\n");
    }
    let mut said = line.into_bytes();
    stdout.read_to_end(&mut said).expect("what it says");
    let status = child.wait().expect("its end");
    tell(row, &mut scene, &said, status)
}

fn tell(row: &Row, scene: &mut Scene, said: &[u8], status: ExitStatus) -> Told {
    let said = String::from_utf8_lossy(said);
    let last: Value =
        serde_json::from_str(said.lines().last().unwrap_or_default()).unwrap_or_default();
    let text = |key: &str| last[key].as_str().unwrap_or_default().to_owned();
    let detail = text("detail");
    let seen = row.oracle.map(|oracle| oracle(scene, &detail));
    let errno = last["errno"].as_i64().and_then(|errno| i32::try_from(errno).ok());
    Told { outcome: text("outcome"), errno, detail, status, seen }
}

/// How many are no escapes here.
static UNAVAILABLE: AtomicUsize = AtomicUsize::new(0);

/// Attempts an escape where nothing confines; whether it is one here.
fn control(row: &Row) -> bool {
    let unavailable = |why: &str| {
        UNAVAILABLE.fetch_add(1, Ordering::Relaxed);
        eprintln!("unavailable {}: {why}", row.name);
        false
    };
    let told = attempt(row, Confined::Not);
    if told.is_unavailable() {
        return unavailable(&told.detail);
    }
    match row.free {
        Free::Nobody(why) => return unavailable(why),
        Free::Root if !privileged() && !told.escaped() => {
            return unavailable("only root gets out by it");
        }
        Free::Anyone | Free::Root => assert!(told.escaped(), "unconfined: {told}"),
    }
    true
}

/// Whether this is root, with the capability that counts for all.
fn privileged() -> bool {
    const SYS_ADMIN: u64 = 1 << 21;
    let status = portcullis_tests::read_proc(std::process::id(), "status");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    set.is_some_and(|set| set & SYS_ADMIN != 0)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn judge(row: &Row) {
    let possible = control(row);
    let told = attempt(row, Confined::Strictly);
    let abi = landlock::running_abi().unwrap_or_default();
    let errnos = match row.strict {
        Strict::ResidualBefore(since, errnos) if abi >= since => errnos,
        Strict::ResidualOfRoot(errnos) if !is_root() => errnos,
        Strict::ResidualOfOthers(errnos) if is_root() => errnos,
        Strict::Residual
        | Strict::ResidualBefore(..)
        | Strict::ResidualOfRoot(_)
        | Strict::ResidualOfOthers(_) => {
            assert!(told.escaped() || !possible, "no residue any more: {told}");
            return;
        }
        Strict::Killed => {
            const SIGSYS: i32 = 31;
            assert_eq!(told.status.signal(), Some(SIGSYS), "{told}");
            return;
        }
        Strict::Denied(errnos) => errnos,
    };
    assert!(!told.leaked(), "it gets out: {told}");
    let as_expected = match (told.outcome.as_str(), told.errno) {
        ("denied" | "unavailable", Some(errno)) => errnos.contains(&errno) || !possible,
        ("denied", None) => errnos.contains(&NOTHING),
        ("unavailable", None) => !possible,
        _ => false,
    };
    assert!(as_expected, "not one of {errnos:?}: {told}");
}

fn listed() -> Vec<String> {
    let list = std::process::Command::new(programs().join("escape")).arg("--list").output();
    let list = String::from_utf8(list.expect("a list").stdout).expect("text");
    let name = |line: &str| -> String {
        let line: Value = serde_json::from_str(line).expect("JSON");
        line["name"].as_str().expect("a name").to_owned()
    };
    list.lines().map(name).collect()
}

fn the_table_has_every_escape_once() {
    let mut rows: Vec<_> = table().iter().map(|row| row.name.to_owned()).collect();
    let mut listed = listed();
    rows.sort();
    listed.sort();
    assert_eq!(rows, listed);
    rows.dedup();
    assert_eq!(rows.len(), listed.len(), "a name that is there twice");
}

fn the_page_has_every_residue_and_no_other() {
    let page = include_str!("../docs/residual.md");
    let documented: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| Some(line.split_once('`')?.0))
        .collect();
    let rows = table();
    let is_residue = |row: &&Row| !matches!(row.strict, Strict::Denied(_) | Strict::Killed);
    let residues: BTreeSet<&str> = rows.iter().filter(is_residue).map(|row| row.name).collect();
    assert_eq!(documented, residues);
}

fn main() -> ExitCode {
    let mut tests = portcullis_tests::tests![
        the_table_has_every_escape_once: [],
        the_page_has_every_residue_and_no_other: [],
    ];
    tests.extend(table().into_iter().map(|row| {
        let judge = Box::new(move || judge(&row));
        Test { name: row.name, needs: NEEDS, run: judge }
    }));
    let ended = run(tests);
    remove_programs();
    let (all, unavailable) = (table().len(), UNAVAILABLE.load(Ordering::Relaxed));
    eprintln!("of {all} escapes, {unavailable} are unavailable to this user on this kernel");
    ended
}
