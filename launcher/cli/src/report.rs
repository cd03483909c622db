//! What a launch came to, in words or JSON.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use portcullis::{Report, Stopped, Way};

use crate::complain;

/// Where the report goes, and how it is written.
#[derive(Debug, Default, PartialEq, Args)]
pub(crate) struct Reporting {
    /// Tell what was applied and how the program ended, on standard error.
    #[arg(long, value_name = "FORMAT")]
    report: Option<Format>,
    /// Write the report to FILE.
    #[arg(long, value_name = "FILE")]
    report_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    /// Words.
    Text,
    /// JSON.
    Json,
}

impl Reporting {
    /// Whether one was asked for.
    pub(crate) fn is_wanted(&self) -> bool {
        self.report.is_some() || self.report_file.is_some()
    }

    /// Writes the report where it was asked for.
    pub(crate) fn tell(&self, report: &Report) {
        if !self.is_wanted() {
            return;
        }
        let text = match self.report.unwrap_or(Format::Text) {
            Format::Text => words(report),
            Format::Json => serde_json::to_string_pretty(report).unwrap_or_default() + "\n",
        };
        match &self.report_file {
            None => {
                let _ = io::stderr().write_all(text.as_bytes());
            }
            Some(file) => {
                if let Err(error) = fs::write(file, text) {
                    complain(&format_args!("--report-file {}: {error}", file.display()));
                }
            }
        }
    }
}

fn words(report: &Report) -> String {
    let mut text = String::new();
    if let Some(way) = report.way {
        let way = match way {
            Way::Child => "a child of a launcher",
            Way::InPlace => "in place",
            Way::Resident => "a child of a resident launcher",
        };
        let _ = writeln!(text, "way      {way}");
    }
    for id in report.applied() {
        let _ = writeln!(text, "applied  {id}");
    }
    for (group, result) in &report.phases {
        let _ = writeln!(text, "phase    {group}: {result}");
    }
    for remark in &report.missing {
        let _ = writeln!(text, "missing  {}: {}", remark.id, remark.what);
    }
    for remark in &report.residual {
        let _ = writeln!(text, "residual {}: {}", remark.id, remark.what);
    }
    match &report.stopped {
        Some(Stopped::Refused { reason, detail }) => {
            let _ = writeln!(text, "refused  {reason}: {detail}");
        }
        Some(Stopped::Faulted { what, .. }) => {
            let _ = writeln!(text, "faulted  {what}");
        }
        None => {}
    }
    if let Some(status) = report.status {
        let _ = writeln!(text, "ended    {status}");
    }
    text
}
