//! `portcullis run`: a program, confined.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};

use clap::Args;
use portcullis::mechanism::cgroup_limit::CgroupLimit;
use portcullis::mechanism::exec::FileDigest;
use portcullis::mechanism::landlock::Access;
use portcullis::mechanism::seccomp::Seccomp;
use portcullis::mechanism::stdio;
use portcullis::{Command, Error, OpenError, RefusalReason};

use crate::doctor::cgroup_above;
use crate::each_line::EachLine;
use crate::policy::{CapDrop, Mechanism, ResourceLimit, Size, User};
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
/// nothing else. Ends as the program does: with its status, or by signal N, which a shell shows as 128+N;
/// with 125 when portcullis refused; with 126 or 127 when the program can't be executed or was not found.
#[derive(Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub(crate) struct Run {
    /// Grant reading and executing below PATH.
    #[arg(long, value_name = "PATH")]
    read: Vec<PathBuf>,
    /// Grant reading below PATH, and no executing.
    #[arg(long, value_name = "PATH")]
    read_only: Vec<PathBuf>,
    /// Grant executing the files below PATH, which takes reading them too, and no listing of directories.
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
    /// Confine by all that an ordinary program survives: Landlock at the newest ABI with scopes and no
    /// TCP, the filters baseline and no-metadata, an empty network namespace, no capabilities, no core
    /// files, 256 processes, 1024 open files, its own session. Other options take the place of its parts.
    #[arg(long)]
    strict: bool,
    /// Filter system calls by a built-in profile (baseline, compute, no-metadata, no-network) or by a file
    /// in the format of OCI or seccompiler; each one is a layer.
    #[arg(long, value_name = "PROFILE|FILE")]
    seccomp: Vec<OsString>,
    /// Limit a resource: nofile=64, cpu=10:20, stack=8M, core=0, nproc=unlimited.
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    limit: Vec<ResourceLimit>,
    /// Limit memory, by a cgroup that is made for the program: 512M.
    #[arg(long, value_name = "BYTES")]
    memory: Option<Size>,
    /// Limit processes and threads, by a cgroup that is made for the program.
    #[arg(long, value_name = "NUMBER")]
    pids: Option<u64>,
    /// The cgroup below which the program's own is made: by itself, the one above portcullis's own, for
    /// one that has processes has no cgroups with limits below it.
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Run as this user and group. Root becomes them; for anybody else they are inside a user namespace.
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<User>,
    /// Drop a capability, or all of them.
    #[arg(long, value_name = "CAPABILITY|all")]
    cap_drop: Vec<CapDrop>,
    /// What the program is told as its own name.
    #[arg(long, value_name = "NAME")]
    argv0: Option<OsString>,
    /// Execute the program only if its file has this BLAKE3 digest, as b3sum prints it.
    #[arg(long, value_name = "blake3:HEX")]
    digest: Option<FileDigest>,
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
        if self.can_become_the_program() {
            match command.exec_here(|error| self.tell(error)) {
                Error::NeedsLauncher { .. } => {}
                error => return self.fail(&error),
            }
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
        // What a terminal sends it sends to its foreground alone, where a session of its own is not.
        signals::forward(signals, child.launcher_id(), self.leaves_the_session());
        match child.wait() {
            Ok(status) => {
                self.reporting.tell(&child.report());
                code(status)
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Whether nothing is left to do when the program runs, and nothing lost if no launcher stays.
    fn can_become_the_program(&self) -> bool {
        // A failure is told on standard error, which may be the program's by then.
        let redirects = self.mechanism.iter().any(|it| it.id == stdio::ID);
        // What a terminal sends reaches a session of its own by way of portcullis alone.
        let needs_a_messenger = self.leaves_the_session() && File::open("/dev/tty").is_ok();
        !(self.reporting.is_wanted() || redirects || needs_a_messenger)
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
            command.grant(root, [Access::Execute, Access::ReadFile]);
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
        if self.strict {
            command.strict();
        } else {
            command.scope_where_supported();
            command.no_terminal_injection();
        }
        self.confine(&mut command)?;
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

    /// Whether strictness gives the program a session of its own.
    fn leaves_the_session(&self) -> bool {
        let said = |it: &Mechanism| it.id == portcullis::mechanism::process_attributes::ID;
        self.strict && !self.mechanism.iter().any(said)
    }

    /// What is asked for beside files, ports and the network.
    fn confine(&self, command: &mut Command) -> Result<(), String> {
        for word in &self.seccomp {
            command.seccomp(Seccomp::from_profile_or_file(word));
        }
        for ResourceLimit { resource, limit } in &self.limit {
            command.limit(*resource, *limit);
        }
        if let Some(User { uid, gid }) = self.user {
            command.user(uid, gid);
        }
        for dropped in &self.cap_drop {
            match dropped {
                CapDrop::All => command.no_capabilities(),
                CapDrop::One(capability) => command.drop_capability(*capability),
            };
        }
        if let Some(name) = &self.argv0 {
            command.arg0(name);
        }
        if let Some(digest) = self.digest {
            command.digest(digest);
        }
        if self.memory.is_some() || self.pids.is_some() || self.cgroup.is_some() {
            let parent = self.cgroup.clone().or_else(cgroup_above);
            let parent =
                parent.ok_or("no cgroup2 file system is mounted; --cgroup names a cgroup")?;
            let policy = CgroupLimit {
                memory_max: self.memory.map(|Size(bytes)| bytes),
                pids_max: self.pids,
                ..CgroupLimit::below(parent)
            };
            command.mechanism(&policy).map_err(|error| error.to_string())?;
        }
        Ok(())
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

    fn fail(&self, error: &Error) -> ExitCode {
        self.tell(error).into()
    }

    /// Complains, tells what there is to tell, and says with which status to exit.
    fn tell(&self, error: &Error) -> u8 {
        match remedy(error) {
            Some(remedy) => complain(&format_args!("{error}; {remedy}")),
            None => complain(error),
        }
        if let Some(report) = error.report() {
            self.reporting.tell(report);
        }
        match error {
            Error::Policy(OpenError::Path { what: "program", source, .. }) => match source.kind() {
                io::ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_EXECUTABLE,
            },
            Error::Exec { .. } => NOT_EXECUTABLE,
            _ => OWN_FAILURE,
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
