//! `portcullis mechanisms`: what the launcher can do here.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use portcullis::MechanismInfo;

use crate::{OWN_FAILURE, complain};

/// Lists the launcher's mechanisms, and whether this kernel, for this user, supports them.
#[derive(Args)]
pub(crate) struct Mechanisms {
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
        let text = if self.json {
            serde_json::to_string_pretty(&mechanisms).unwrap_or_default() + "\n"
        } else {
            table(&mechanisms)
        };
        // A reader that has seen enough (head, less) is no error.
        let _ = std::io::stdout().write_all(text.as_bytes());
        ExitCode::SUCCESS
    }
}

fn table(mechanisms: &[MechanismInfo]) -> String {
    let width = mechanisms.iter().map(|it| it.id.len()).max().unwrap_or(0);
    let mut text = String::new();
    for it in mechanisms {
        let state = match (it.is_supported(), &it.detail, &it.why) {
            (true, Some(detail), _) => format!("supported: {detail}"),
            (true, None, _) => "supported".into(),
            (false, _, why) => format!("not here: {}", why.as_deref().unwrap_or("no reason given")),
        };
        let MechanismInfo { id, phase_code, phase, version, summary, .. } = it;
        let _ = writeln!(text, "{id:width$}  phase {phase_code} ({phase}), version {version}");
        let _ = writeln!(text, "{:width$}  {summary}", "");
        let _ = writeln!(text, "{:width$}  {state}", "");
    }
    text
}
