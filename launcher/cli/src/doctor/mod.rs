//! `portcullis doctor`: what this kernel and this user support, and where not, why; each claim proved.

mod host;
mod proof;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::{OWN_FAILURE, complain};
use host::Fact;
pub(crate) use host::cgroup_above;
use proof::{Proof, Prover};

/// A claim did not hold.
const CLAIM_BROKEN: u8 = 1;

/// Says what this kernel and this user support and, where they don't, why.
///
/// Of each mechanism that is supported it confines a program and sees the effect, and runs the same
/// program without it and sees none. Exits with 1 where a mechanism does not do what it claims.
#[derive(Args)]
pub(crate) struct Doctor {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// The launcher to examine, in place of the one that is built in.
    #[arg(long, value_name = "PATH")]
    launcher: Option<PathBuf>,
}

/// What there is to say of this machine.
#[derive(Serialize)]
struct Diagnosis {
    host: Vec<Fact>,
    mechanisms: Vec<Examined>,
}

/// A mechanism, and whether it does what it claims.
#[derive(Serialize)]
struct Examined {
    id: String,
    supported: bool,
    /// To which degree, or why not.
    detail: String,
    residual: Vec<String>,
    proof: Proof,
}

impl Doctor {
    pub(crate) fn run(&self) -> ExitCode {
        let mechanisms = match portcullis::mechanisms(self.launcher.as_deref()) {
            Ok(mechanisms) => mechanisms,
            Err(error) => {
                complain(&error);
                return OWN_FAILURE.into();
            }
        };
        let prover = match Prover::new(self.launcher.as_deref()) {
            Ok(prover) => prover,
            Err(error) => {
                complain(&format_args!("a folder for what is tried out: {error}"));
                return OWN_FAILURE.into();
            }
        };
        let examined = mechanisms.iter().map(|it| Examined {
            id: it.id.clone(),
            supported: it.is_supported(),
            detail: it.detail.clone().or_else(|| it.why.clone()).unwrap_or_default(),
            residual: it.residual.clone(),
            proof: prover.prove(it),
        });
        let diagnosis = Diagnosis { host: host::facts(), mechanisms: examined.collect() };
        let text = if self.json {
            serde_json::to_string_pretty(&diagnosis).unwrap_or_default() + "\n"
        } else {
            words(&diagnosis)
        };
        // A reader that has seen enough (head, less) is no error.
        let _ = std::io::stdout().write_all(text.as_bytes());
        let broken = diagnosis.mechanisms.iter().any(|it| matches!(it.proof, Proof::Broken { .. }));
        if broken { CLAIM_BROKEN.into() } else { ExitCode::SUCCESS }
    }
}

fn words(diagnosis: &Diagnosis) -> String {
    let mut text = String::new();
    for Fact { name, value, means } in &diagnosis.host {
        let _ = writeln!(text, "{name:<22} {value}");
        if let Some(means) = means {
            let _ = writeln!(text, "{:<22} {means}", "");
        }
    }
    for it in &diagnosis.mechanisms {
        let verdict = if it.supported { "supported" } else { "not here" };
        let _ = writeln!(text, "\n{}: {verdict}: {}", it.id, it.detail);
        let _ = match &it.proof {
            Proof::Holds { script, with, without } => {
                writeln!(
                    text,
                    "  proved: {script}\n          {with:?} with it, {without:?} without"
                )
            }
            Proof::Broken { script, with, without, expected } => writeln!(
                text,
                "  BROKEN: {script}\n          {with:?} with it, {without:?} without, and {expected:?} \
                 was to be seen with it alone"
            ),
            Proof::NotTried { why } => writeln!(text, "  not tried: {why}"),
        };
        for line in &it.residual {
            let _ = writeln!(text, "  leaves open: {line}");
        }
    }
    text
}
