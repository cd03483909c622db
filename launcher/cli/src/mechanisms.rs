//! `portcullis mechanisms`: what the launcher can do here.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use portcullis::MechanismInfo;
use serde::Serialize;

use crate::{OWN_FAILURE, complain};

/// Lists the launcher's mechanisms, and whether this kernel, for this user, supports them; or says all that
/// there is to know of one.
#[derive(Args)]
pub(crate) struct Mechanisms {
    /// The mechanism to tell of.
    id: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// The launcher to ask, in place of the one that is built in.
    #[arg(long, value_name = "PATH")]
    launcher: Option<PathBuf>,
}

impl Mechanisms {
    pub(crate) fn run(&self) -> ExitCode {
        let mechanisms = match portcullis::mechanisms(self.launcher.as_deref()) {
            Ok(mechanisms) => mechanisms,
            Err(error) => {
                complain(&error);
                return OWN_FAILURE.into();
            }
        };
        let text = match &self.id {
            None if self.json => json(&mechanisms),
            None => table(&mechanisms),
            Some(id) => match mechanisms.iter().find(|it| it.id == *id) {
                Some(found) if self.json => json(found),
                Some(found) => format!("{}\nHere: {}\n", found.page(), here(found)),
                None => {
                    complain(&unknown(id, &mechanisms));
                    return OWN_FAILURE.into();
                }
            },
        };
        // A reader that has seen enough (head, less) is no error.
        let _ = std::io::stdout().write_all(text.as_bytes());
        ExitCode::SUCCESS
    }
}

fn json(what: &impl Serialize) -> String {
    serde_json::to_string_pretty(what).unwrap_or_default() + "\n"
}

/// Whether it is supported, in words.
fn here(it: &MechanismInfo) -> String {
    match (it.is_supported(), &it.detail, &it.why) {
        (true, Some(detail), _) => format!("supported: {detail}"),
        (true, None, _) => "supported".into(),
        (false, _, why) => format!("not here: {}", why.as_deref().unwrap_or("no reason given")),
    }
}

/// The complaint of an id that no mechanism has, with those that may be meant.
fn unknown(id: &str, mechanisms: &[MechanismInfo]) -> String {
    const ALIKE: f64 = 0.85;
    let near = |it: &&MechanismInfo| {
        it.id.contains(id) || strsim::normalized_damerau_levenshtein(&it.id, id) > ALIKE
    };
    let near: Vec<_> = mechanisms.iter().filter(near).map(|it| it.id.as_str()).collect();
    let help = match near.as_slice() {
        [] => "`portcullis mechanisms` lists those that there are".into(),
        near => format!("there is {}", near.join(", ")),
    };
    format!("{id}: the launcher has no such mechanism; {help}")
}

fn table(mechanisms: &[MechanismInfo]) -> String {
    let width = mechanisms.iter().map(|it| it.id.len()).max().unwrap_or(0);
    let mut text = String::new();
    for it in mechanisms {
        let state = here(it);
        let MechanismInfo { id, phase_code, phase, version, summary, .. } = it;
        let _ = writeln!(text, "{id:width$}  phase {phase_code} ({phase}), version {version}");
        let _ = writeln!(text, "{:width$}  {summary}", "");
        let _ = writeln!(text, "{:width$}  {state}", "");
    }
    text
}
