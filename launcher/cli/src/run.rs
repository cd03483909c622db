//! `portcullis run`: a program, confined.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};

use clap::Args;
use portcullis::{Command, Error, OpenError, RefusalReason};

use crate::each_line::EachLine;
use crate::policy::Mechanism;
use crate::report::Reporting;
use crate::{OWN_FAILURE, complain, signals};

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
    /// Grant executing below PATH, and no reading.
    #[arg(long, value_name = "PATH")]
    exec: Vec<PathBuf>,
    /// Grant everything below PATH.
    #[arg(long, value_name = "PATH")]
    write: Vec<PathBuf>,
    /// Grant connecting to this TCP port, and to no other.
    #[arg(long, value_name = "PORT")]
    connect: Vec<u16>,
    /// Grant binding to this TCP port, and to no other.
    #[arg(long, value_name = "PORT")]
    bind: Vec<u16>,
    /// Deny the network: an empty network namespace, and no socket of any family.
    #[arg(long)]
    no_network: bool,
    /// Deny new processes and threads.
    #[arg(long)]
    no_new_tasks: bool,
    /// Schedule a mechanism, in-tree or not, by its id and what a policy says of it: JSON or an inline
    /// table of TOML, or @FILE that holds one.
    #[arg(long, value_name = "ID={…}")]
    mechanism: Vec<Mechanism>,
    /// Leave the mechanism of this id out where this kernel can't do it, and say so in the report.
    #[arg(long, value_name = "ID")]
    prefer: Vec<String>,
    /// Set a variable, or with the name alone pass it on.
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Start in PATH.
    #[arg(long, value_name = "PATH")]
    cwd: Option<PathBuf>,
    #[command(flatten)]
    reporting: Reporting,
    #[command(flatten)]
    each_line: EachLine,
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
        if self.each_line.is_wanted() {
            let arguments = &self.program[1..];
            return match self.each_line.run(&command, arguments, &self.reporting) {
                Ok(code) => code,
                Err(error) => self.fail(&error),
            };
        }
        // Before the program runs, so that none is missed.
        let signals = match signals::take() {
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
        signals::forward(signals, child.launcher_id());
        match child.wait() {
            Ok(status) => {
                self.reporting.tell(&child.report());
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
        let paths = [&self.read, &self.read_only, &self.exec, &self.write];
        let system = paths.iter().all(|it| it.is_empty());
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
        for root in &self.exec {
            command.exec(root);
        }
        for port in &self.connect {
            command.connect(*port);
        }
        for port in &self.bind {
            command.bind(*port);
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
        for Mechanism { id, params } in &self.mechanism {
            command.policy(id, params.clone());
        }
        for id in &self.prefer {
            command.prefer(id);
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
            self.reporting.tell(report);
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

fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(OWN_FAILURE).into()
}
