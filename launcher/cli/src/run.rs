//! `portcullis run`: a program, confined.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::thread;

use clap::{Args, ValueEnum};
use portcullis::{Command, Error, OpenError, RefusalReason, Report, Stopped};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{
    SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::emulate_default_handler;
use signal_hook::low_level::siginfo::{Cause, Origin};

use crate::{OWN_FAILURE, complain};

/// The program was found and can't be executed: the shell's convention.
const NOT_EXECUTABLE: u8 = 126;
/// The program was not found.
const NOT_FOUND: u8 = 127;

/// What is granted where no path is named: the system's programs, libraries and configuration.
const SYSTEM_ROOTS: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc"];

/// Variables that are passed on unasked: what a terminal, a language and a clock need.
const PASSED_ON: &[&str] = &["TERM", "LANG", "TZ"];

/// Runs a program that can use only what is granted.
///
/// Without a path option it can read and execute below /usr, /bin, /sbin, /lib, /lib64 and /etc, and
/// nothing else. Exits with the program's status; 128+N when signal N ended it; 125 when portcullis
/// refused; 126 or 127 when the program can't be executed or was not found.
#[derive(Args)]
pub(crate) struct Run {
    /// Grant reading and executing below PATH.
    #[arg(long, value_name = "PATH")]
    read: Vec<PathBuf>,
    /// Grant reading below PATH, and no executing.
    #[arg(long, value_name = "PATH")]
    read_only: Vec<PathBuf>,
    /// Grant everything below PATH.
    #[arg(long, value_name = "PATH")]
    write: Vec<PathBuf>,
    /// Deny the network: an empty network namespace, and no socket of any family.
    #[arg(long)]
    no_network: bool,
    /// Deny new processes and threads.
    #[arg(long)]
    no_new_tasks: bool,
    /// Set a variable, or with the name alone pass it on.
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Start in PATH.
    #[arg(long, value_name = "PATH")]
    cwd: Option<PathBuf>,
    /// Tell what was applied and how the program ended, on standard error.
    #[arg(long, value_name = "FORMAT")]
    report: Option<Format>,
    /// Write the report to FILE.
    #[arg(long, value_name = "FILE")]
    report_file: Option<PathBuf>,
    /// Say what would be done, down to each system call, and launch nothing.
    #[arg(long)]
    explain: bool,
    /// The launcher to use, in place of the one that is built in.
    #[arg(long, value_name = "PATH")]
    launcher: Option<PathBuf>,
    /// The program, and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Words.
    Text,
    /// JSON.
    Json,
}

impl Run {
    pub(crate) fn run(&self) -> ExitCode {
        let mut command = match self.command() {
            Ok(command) => command,
            Err(complaint) => {
                complain(&complaint);
                return OWN_FAILURE.into();
            }
        };
        if self.explain {
            return match command.explain() {
                // A reader that has seen enough (head, less) is no error.
                Ok(words) => {
                    let _ = io::stdout().write_all(words.as_bytes());
                    ExitCode::SUCCESS
                }
                Err(error) => self.fail(&error),
            };
        }
        // Before the program runs, so that none is missed.
        // SIGCHLD is among them for a parent's ignoring it to end: children of who ignores it can't be
        // waited for.
        let handled = FORWARDED.iter().chain(&[SIGCHLD]);
        let signals = match SignalsInfo::<WithOrigin>::new(handled) {
            Ok(signals) => signals,
            Err(error) => {
                complain(&format_args!("handling signals: {error}"));
                return OWN_FAILURE.into();
            }
        };
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return self.fail(&error),
        };
        forward(signals, child.launcher_id());
        match child.wait() {
            Ok(status) => {
                self.tell(&child.report());
                code(status)
            }
            Err(error) => self.fail(&error),
        }
    }

    fn command(&self) -> Result<Command, String> {
        // clap requires one value at least.
        let (program, arguments) = self.program.split_first().ok_or("no program is named")?;
        let mut command = Command::new(program);
        command.args(arguments).die_with_parent(true);
        let system = [&self.read, &self.read_only, &self.write].iter().all(|it| it.is_empty());
        if system {
            for root in SYSTEM_ROOTS.iter().filter(|root| Path::new(root).exists()) {
                command.read(root).exec(root);
            }
        }
        for root in &self.read {
            command.read(root).exec(root);
        }
        for root in &self.read_only {
            command.read(root);
        }
        for root in &self.write {
            command.write(root);
        }
        command.scope_where_supported();
        command.no_terminal_injection();
        if self.no_network {
            command.no_network();
        }
        if self.no_new_tasks {
            command.no_new_tasks();
        }
        self.environment(&mut command)?;
        if let Some(directory) = &self.cwd {
            command.current_dir(directory);
        }
        if let Some(launcher) = &self.launcher {
            command.launcher(launcher);
        }
        Ok(command)
    }

    fn environment(&self, command: &mut Command) -> Result<(), String> {
        command.env("PATH", Command::SEARCH_PATH);
        let passed = |name: &OsStr| {
            PASSED_ON.iter().any(|known| name == *known) || name.as_bytes().starts_with(b"LC_")
        };
        command.envs(env::vars_os().filter(|(name, _)| passed(name)));
        for setting in &self.env {
            let bytes = setting.as_bytes();
            let equals = bytes.iter().position(|byte| *byte == b'=');
            let (name, value) = match equals {
                Some(at) => (
                    OsStr::from_bytes(&bytes[..at]),
                    Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned()),
                ),
                None => (setting.as_os_str(), env::var_os(setting)),
            };
            if name.is_empty() {
                return Err(format!("--env {setting:?}: a variable has a name"));
            }
            let Some(value) = value else {
                return Err(format!(
                    "--env {name:?}: no such variable is set here; --env NAME=VALUE sets one"
                ));
            };
            if name == "PATH" {
                command.search_path(&value);
            }
            command.env(name, value);
        }
        Ok(())
    }

    /// Complains, tells what there is to tell, and says with which status to exit.
    fn fail(&self, error: &Error) -> ExitCode {
        match remedy(error) {
            Some(remedy) => complain(&format_args!("{error}; {remedy}")),
            None => complain(error),
        }
        if let Some(report) = error.report() {
            self.tell(report);
        }
        match error {
            Error::Policy(OpenError::Path { what: "program", source, .. }) => match source.kind() {
                io::ErrorKind::NotFound => NOT_FOUND.into(),
                _ => NOT_EXECUTABLE.into(),
            },
            Error::Exec { .. } => NOT_EXECUTABLE.into(),
            _ => OWN_FAILURE.into(),
        }
    }

    /// Writes the report where it was asked for.
    fn tell(&self, report: &Report) {
        if self.report.is_none() && self.report_file.is_none() {
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

/// What would help, where the error does not say so itself.
fn remedy(error: &Error) -> Option<&'static str> {
    match error {
        Error::Policy(OpenError::Path { what: "program", source, .. }) => {
            Some(match source.kind() {
                io::ErrorKind::NotFound => {
                    "name it by its path, or say where to look with --env PATH=…"
                }
                _ => "a program is a regular file with an execute bit (chmod +x)",
            })
        }
        Error::Policy(OpenError::Path { what: "root", .. }) => {
            Some("a root must exist; create it, or leave its option out")
        }
        Error::Launcher { .. } => Some("--launcher and BVISOR_LAUNCHER_BIN name another one"),
        Error::Refused { reason: RefusalReason::MissingPrimitive, .. } => {
            Some("`portcullis mechanisms` says what this machine can do")
        }
        _ => None,
    }
}

fn words(report: &Report) -> String {
    let mut text = String::new();
    for id in report.applied() {
        let _ = writeln!(text, "applied  {id}");
    }
    for (group, result) in &report.phases {
        let _ = writeln!(text, "phase    {group}: {result}");
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

fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(OWN_FAILURE).into()
}

/// What reaches the program when it is sent to portcullis.
const FORWARDED: &[i32] =
    &[SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGUSR1, SIGUSR2, SIGWINCH];

/// Hands on to the launcher, and so to the program, each signal that another process sends to this
/// one. What the terminal sends it sends to the program itself, and a second one would be one too many.
fn forward(mut signals: SignalsInfo<WithOrigin>, launcher: u32) {
    thread::spawn(move || {
        for Origin { signal, cause, .. } in signals.forever() {
            if signal == SIGCHLD {
                continue;
            }
            let pid = i32::try_from(launcher).ok().and_then(Pid::from_raw);
            if let (Cause::Sent(_), Some(pid), Some(signal)) =
                (cause, pid, Signal::from_named_raw(signal))
            {
                // One that has ended needs no signal any more.
                let _ = kill_process(pid, signal);
            }
            if signal == SIGTSTP {
                // The shell that waits for this process is to see that it stopped.
                let _ = emulate_default_handler(SIGTSTP);
            }
        }
    });
}
