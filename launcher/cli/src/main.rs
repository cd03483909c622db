//! `portcullis`: runs a program behind a gate that only goes down.

#![forbid(unsafe_code)]

mod doctor;
mod each_line;
mod mechanisms;
mod options;
mod policy;
mod report;
mod run;
mod signals;

use std::env;
use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use portcullis_launcher::Arena;

/// What soon is another program has no use for giving memory back to the kernel, page by page.
#[global_allocator]
static MEMORY: Arena = Arena::new();

/// portcullis refused, faulted, or could not be asked: the convention of env(1) and timeout(1).
const OWN_FAILURE: u8 = 125;

/// Runs a program confined as asked, or not at all.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand)]
enum Subcommands {
    Run(Box<run::Run>),
    Mechanisms(mechanisms::Mechanisms),
    Doctor(doctor::Doctor),
}

fn main() -> ExitCode {
    let words: Vec<OsString> = env::args_os().collect();
    if let Some(run) = run::Run::plain(&words) {
        return run.run();
    }
    // clap takes more memory than what it is asked for, which can have it afterwards.
    MEMORY.recycle();
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            let asked = !error.use_stderr();
            // Where not even the complaint can be written, the status says it.
            let _ = error.print();
            return if asked { ExitCode::SUCCESS } else { OWN_FAILURE.into() };
        }
    };
    match arguments.command {
        Subcommands::Run(run) => run.run(),
        Subcommands::Mechanisms(mechanisms) => mechanisms.run(),
        Subcommands::Doctor(doctor) => doctor.run(),
    }
}

/// A line on standard error. Where it can't be written, the exit status still says it.
fn complain(what: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "portcullis: {what}");
}
