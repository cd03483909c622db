//! Compares ways to confine a program, ours and others', in one run, interleaved. `compare.sh` says what
//! there is to compare.
//!
//! Arguments: the list; the folder that `comparison.md` and `comparison.svg` are written to; how many
//! rounds. A line of the list is tab-separated:
//!
//! - `run`, a name, its confinement, a command line: words, those before the program of the form
//!   `NAME=VALUE` its environment
//! - `launcher`, a name, its confinement, a launcher and its arguments, the version of the frame that it is
//!   given and its number in [`VERSION_1_FRAMES`]
//! - `missing`, a name, why it is left out

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use portcullis_benches::launcher::{in_version_2, launch_frame};
use portcullis_benches::measure::{Effort, Launch, medians};
use portcullis_benches::plot::{Bar, bars};
use portcullis_benches::stage::{FILES_AND_CALLS, NO_NETWORK};
use portcullis_benches::table::{Table, beside, machine, microseconds};
use portcullis_benches::way::WAYS;
use portcullis_benches::{floor, workload};
use portcullis_tests::VERSION_1_FRAMES;

struct Candidate {
    name: String,
    confinement: String,
    own: bool,
    /// What is run, as one would type it.
    words: Option<String>,
    launch: Launch,
}

/// Our library's ways.
fn own() -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for (stage, confinement) in [
        (FILES_AND_CALLS, "Landlock, seccomp"),
        (NO_NETWORK, "Landlock, seccomp, user + network namespace"),
    ] {
        for way in WAYS {
            candidates.push(Candidate {
                name: format!("portcullis, library, {}", way.name),
                confinement: confinement.into(),
                own: true,
                words: None,
                launch: (way.ready)(stage.command(&workload::true_())).expect(stage.name),
            });
        }
    }
    candidates
}

/// A candidate of the list, or why it is none.
fn candidate(fields: &[&str]) -> Result<Candidate, (String, String)> {
    let (name, confinement, words, launch) = match fields {
        ["run", name, confinement, words] => {
            let launch = ready(words).map_err(|why| (format!("{name} ({confinement})"), why))?;
            (name, confinement, Some(words), launch)
        }
        ["launcher", name, confinement, words, version, number] => {
            let frame = VERSION_1_FRAMES[number.parse::<usize>().expect("a frame's number")];
            let frame = if *version == "2" { in_version_2(frame) } else { frame.to_vec() };
            let mut words = words.split(' ').map(str::to_owned);
            let path = PathBuf::from(words.next().expect("a launcher"));
            let arguments: Vec<String> = words.collect();
            let launch = move || {
                let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
                launch_frame(&path, &arguments, &frame)
            };
            if let Err(error) = launch() {
                return Err((format!("{name} ({confinement})"), error.to_string()));
            }
            let launch: Launch = Arc::new(move || launch().expect("what worked once"));
            (name, confinement, None, launch)
        }
        ["missing", name, why] => return Err(((*name).into(), (*why).into())),
        _ => panic!("not a line of the list: {fields:?}"),
    };
    Ok(Candidate {
        name: (*name).into(),
        confinement: (*confinement).into(),
        own: name.contains("portcullis"),
        words: words.map(|words| (*words).to_owned()),
        launch,
    })
}

/// The launch of a command line that works.
fn ready(words: &str) -> Result<Launch, String> {
    let tried =
        command(words).stderr(Stdio::piped()).output().map_err(|error| error.to_string())?;
    if !tried.status.success() {
        let said = String::from_utf8_lossy(&tried.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        return Err(format!("it ended with {}: {}", tried.status, last.trim()));
    }
    let words = words.to_owned();
    Ok(Arc::new(move || {
        let mut command = command(&words);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().expect("what worked once").success());
    }))
}

fn command(words: &str) -> Command {
    let mut words = words.split(' ').filter(|word| !word.is_empty()).peekable();
    let mut environment = vec![("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")];
    while let Some(variable) = words.peek().and_then(|word| word.split_once('=')) {
        environment.push(variable);
        words.next();
    }
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words).env_clear().envs(environment).stdin(Stdio::null());
    command
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [list, folder, rounds] = &arguments[..] else { panic!("LIST FOLDER ROUNDS") };
    let effort = Effort {
        rounds: rounds.parse().expect("a number of rounds"),
        limit: Duration::from_secs(900),
    };
    let head = machine();
    let (mut candidates, mut missing) = (own(), BTreeMap::new());
    for line in fs::read_to_string(list).expect("a list").lines().filter(|line| !line.is_empty()) {
        match candidate(&line.split('\t').collect::<Vec<_>>()) {
            Ok(it) => candidates.push(it),
            Err((name, why)) => _ = missing.insert(name, why),
        }
    }
    // What the kernel does after a launch with namespaces, to take them down, would be in the way of those
    // without.
    let (with, without): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|it| it.confinement.contains("namespace"));
    let (mut tables, mut drawn) = (String::new(), Vec::new());
    for (title, candidates) in
        [("Launches of /bin/true", without), ("Launches of /bin/true, into namespaces", with)]
    {
        println!("{} candidates, {} rounds", candidates.len(), effort.rounds);
        tables += &compared(title, candidates, effort, &mut drawn).to_string();
        tables.push('\n');
    }
    drawn.sort_by(|one, other| one.value.total_cmp(&other.value));
    let mut text = format!(
        "# Beside others\n\n{head}; medians of {}, interleaved.\n\n{tables}",
        effort.rounds
    );
    if !missing.is_empty() {
        text += "Left out:\n\n";
        let lines = missing.iter().map(|(name, why)| format!("- {name}: {why}\n"));
        text += &lines.collect::<Vec<_>>().concat();
    }
    println!("{text}");
    let title = "A launch of /bin/true, as a multiple of posix_spawn";
    let write = |name: &str, text: &str| {
        let file = Path::new(folder).join(name);
        fs::write(&file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    };
    write("comparison.md", &text);
    write("comparison.svg", &bars(title, &drawn));
}

/// Launches candidates in one run, beside `posix_spawn`.
fn compared(
    title: &str,
    candidates: Vec<Candidate>,
    effort: Effort,
    drawn: &mut Vec<Bar>,
) -> Table {
    let mut launches = vec![floor::posix_spawn(&workload::true_())];
    launches.extend(candidates.iter().map(|it| it.launch.clone()));
    let (medians, rounds) = medians(&launches, effort);
    let mut found: Vec<_> = candidates.into_iter().zip(&medians[1..]).collect();
    found.sort_by(|one, other| one.1.total_cmp(other.1));

    let columns = ["", "what confines", "× posix_spawn (added)", "median"];
    let mut table = Table::new(title, columns);
    let floor = medians[0];
    let first = [floor::POSIX_SPAWN, "nothing", "1"].map(str::to_owned);
    table.row(first.into_iter().chain([microseconds(floor)]));
    for (Candidate { name, confinement, own, words, .. }, median) in found {
        let mut shown = name.clone();
        if let Some(words) = words {
            let mark = name.chars().map(|it| if it.is_alphanumeric() { it } else { '-' });
            let mark = format!("[^{}-{}]", mark.collect::<String>(), drawn.len());
            table.note(format!("{mark}: `{words}`"));
            shown += &mark;
        }
        table.row([shown, confinement.clone(), beside(*median, floor), microseconds(*median)]);
        let label = format!("{name}: {confinement}");
        drawn.push(Bar { label, value: median / floor, own });
    }
    if rounds < effort.rounds {
        table.note(format!("There was time for {rounds} rounds."));
    }
    table
}
