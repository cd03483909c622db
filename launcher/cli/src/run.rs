//! `portcullis run`: a program, confined.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};

use clap::Args;
use portcullis::mechanism::cgroup_limit::CgroupLimit;
use portcullis::mechanism::landlock::Access;
use portcullis::mechanism::seccomp::Seccomp;
use portcullis::mechanism::stdio;
use portcullis::{Command, Error, OpenError, RefusalReason};
use signal_hook::consts::{SIGBUS, SIGSEGV};

use crate::doctor::cgroup_above;
use crate::each_line::EachLine;
use crate::options::Options;
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
#[derive(Debug, PartialEq, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    reporting: Reporting,
    #[command(flatten)]
    each_line: EachLine,
    /// Say what would be done, down to each system call, and launch nothing.
    #[arg(long)]
    explain: bool,
    /// The program, and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

impl Run {
    /// The run that a plain command line asks for, which clap would read as the same.
    pub(crate) fn plain(words: &[OsString]) -> Option<Self> {
        let [_, command, arguments @ ..] = words else { return None };
        if command != "run" {
            return None;
        }
        let (options, program) = Options::read_plain(arguments)?;
        let (reporting, each_line) = <_>::default();
        Some(Self { options, reporting, each_line, explain: false, program: program.to_vec() })
    }

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
        let redirects = self.options.mechanism.iter().any(|it| it.id == stdio::ID);
        // What a terminal sends reaches a session of its own by way of portcullis alone.
        let needs_a_messenger = self.leaves_the_session() && File::open("/dev/tty").is_ok();
        !(self.reporting.is_wanted() || redirects || needs_a_messenger)
    }

    fn command(&self) -> Result<Command, String> {
        // clap requires one value at least.
        let (program, arguments) = self.program.split_first().ok_or("no program is named")?;
        let mut command = Command::new(program);
        command.args(arguments).die_with_parent(true);
        // Rust's runtime has handlers of these, to tell of a stack that overflows; nothing else has any until the
        // program is left to a launcher.
        command.handled_signals([SIGSEGV, SIGBUS]);
        let Options { read, read_only, exec, write, .. } = &self.options;
        let system = [read, read_only, exec, write].iter().all(|it| it.is_empty());
        if system {
            for root in SYSTEM_ROOTS.iter().filter(|root| is_root(root)) {
                command.read(root).exec(root);
            }
        }
        for root in read {
            command.read(root).exec(root);
        }
        for root in read_only {
            command.read(root);
        }
        for root in exec {
            command.grant(root, [Access::Execute, Access::ReadFile]);
        }
        for port in &self.options.connect {
            command.connect(*port);
        }
        for port in &self.options.bind {
            command.bind(*port);
        }
        for root in write {
            command.write(root);
        }
        if self.options.strict {
            command.strict();
        } else {
            command.scope_where_supported();
            command.no_terminal_injection();
        }
        self.confine(&mut command)?;
        if self.options.no_network {
            command.no_network();
        }
        if self.options.no_new_tasks {
            command.no_new_tasks();
        }
        for Mechanism { id, params } in &self.options.mechanism {
            command.policy(id, params.clone());
        }
        for id in &self.options.prefer {
            command.prefer(id);
        }
        self.environment(&mut command)?;
        if let Some(directory) = &self.options.cwd {
            command.current_dir(directory);
        }
        if let Some(launcher) = &self.options.launcher {
            command.launcher(launcher);
        }
        Ok(command)
    }

    /// Whether strictness gives the program a session of its own.
    fn leaves_the_session(&self) -> bool {
        let said = |it: &Mechanism| it.id == portcullis::mechanism::process_attributes::ID;
        self.options.strict && !self.options.mechanism.iter().any(said)
    }

    /// What is asked for beside files, ports and the network.
    fn confine(&self, command: &mut Command) -> Result<(), String> {
        for word in &self.options.seccomp {
            command.seccomp(Seccomp::from_profile_or_file(word));
        }
        for ResourceLimit { resource, limit } in &self.options.limit {
            command.limit(*resource, *limit);
        }
        if let Some(User { uid, gid }) = self.options.user {
            command.user(uid, gid);
        }
        for dropped in &self.options.cap_drop {
            match dropped {
                CapDrop::All => command.no_capabilities(),
                CapDrop::One(capability) => command.drop_capability(*capability),
            };
        }
        if let Some(name) = &self.options.argv0 {
            command.arg0(name);
        }
        if let Some(digest) = self.options.digest {
            command.digest(digest);
        }
        if self.options.memory.is_some()
            || self.options.pids.is_some()
            || self.options.cgroup.is_some()
        {
            let parent = self.options.cgroup.clone().or_else(cgroup_above);
            let parent =
                parent.ok_or("no cgroup2 file system is mounted; --cgroup names a cgroup")?;
            let policy = CgroupLimit {
                memory_max: self.options.memory.map(|Size(bytes)| bytes),
                pids_max: self.options.pids,
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
        for setting in &self.options.env {
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

/// Whether a system's root is there, and is more than another name for what is in /usr, which is granted anyway: a
/// rule is about what a name leads to ([file-hierarchy(7)](https://man7.org/linux/man-pages/man7/file-hierarchy.7.html),
/// COMPATIBILITY SYMLINKS).
fn is_root(path: &str) -> bool {
    // What is no link can't be read as one.
    let is_no_link = |error: io::Error| error.kind() == io::ErrorKind::InvalidInput;
    match fs::read_link(path) {
        Ok(target) => {
            let target = Path::new("/").join(target);
            let in_usr = target.parent() == Some(Path::new("/usr"))
                && target.file_name().is_some()
                && fs::read_link(&target).is_err_and(is_no_link);
            !in_usr && Path::new(path).exists()
        }
        Err(error) => is_no_link(error),
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

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::{Arguments, Subcommands};

    fn words(arguments: &[String]) -> Vec<OsString> {
        ["portcullis", "run"]
            .into_iter()
            .chain(arguments.iter().map(String::as_str))
            .map(Into::into)
            .collect()
    }

    fn by_clap(words: &[OsString]) -> Option<Run> {
        match Arguments::try_parse_from(words).ok()?.command {
            Subcommands::Run(run) => Some(*run),
            _ => None,
        }
    }

    /// A value that is good for an option, by what its help calls it.
    fn value_of(option: &clap::Arg) -> Option<&'static str> {
        let name = option.get_value_names()?.first()?;
        Some(match name.as_str() {
            "PORT" | "NUMBER" => "80",
            "PROFILE|FILE" => "baseline",
            "NAME=SOFT[:HARD]" => "nofile=64:1K",
            "BYTES" => "512M",
            "USER[:GROUP]" => "1:2",
            "CAPABILITY|all" => "net_raw",
            "blake3:HEX" => {
                "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
            }
            "ID={…}" => "a.b={umask = 63}",
            _ => "A=b",
        })
    }

    /// The options of [`Options`], and a value for each that takes one.
    fn options() -> Vec<(String, Option<&'static str>)> {
        let command = <Options as Args>::augment_args(clap::Command::new("run"));
        let mut options = Vec::new();
        for it in command.get_arguments() {
            let Some(name) = it.get_long() else { continue };
            let value = it.get_action().takes_values().then(|| value_of(it)).flatten();
            options.push((format!("--{name}"), value));
        }
        options
    }

    #[test]
    fn every_option_is_read_without_clap_and_as_by_clap() {
        assert!(options().len() > 20);
        for (name, value) in options() {
            let separate: Vec<_> =
                [Some(name.clone()), value.map(Into::into)].into_iter().flatten().collect();
            let joined = vec![value.map_or(name.clone(), |value| format!("{name}={value}"))];
            for option in [separate, joined] {
                let program = ["true".to_owned(), "--".into(), "--read".into()];
                let words = words(&[option, program.into()].concat());
                let run = Run::plain(&words);
                assert!(run.is_some(), "{words:?}");
                assert_eq!(run, by_clap(&words), "{words:?}");
            }
        }
    }

    #[test]
    fn a_system_root_is_what_is_not_below_usr_anyway() {
        let folder = tempfile::TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let link = |target: &str, name: &str| {
            std::os::unix::fs::symlink(target, at(name)).unwrap();
            at(name)
        };
        fs::create_dir(at("folder")).unwrap();
        assert!(is_root(&at("folder")));
        assert!(is_root(&link(&at("folder"), "elsewhere")));
        assert!(is_root(&link("/usr/..", "up")) && is_root(&link("/usr/lib/../bin", "through")));
        assert!(is_root("/etc") || !Path::new("/etc").exists());
        assert!(!is_root(&at("none")) && !is_root(&link("/no/such", "dangling")));
        // As seen from the root, where such links are. What is a link there may lead out of /usr.
        let inner = fs::read_dir("/usr/bin").unwrap().flatten();
        let mut inner = inner.filter(|it| it.path().is_symlink() && it.path().exists());
        assert!(inner.next().is_none_or(|it| is_root(&link(it.path().to_str().unwrap(), "link"))));
        assert!(!is_root(&link("usr/bin", "merged")) && !is_root(&link("/usr/lib", "absolute")));
    }

    #[test]
    fn what_is_not_plain_is_left_to_clap() {
        let command = Arguments::command();
        let run = command.find_subcommand("run").unwrap();
        let known: Vec<_> = options().into_iter().map(|(name, _)| name).collect();
        let others = run.get_opts().filter_map(|it| Some(format!("--{}", it.get_long()?)));
        let others: Vec<_> = others.filter(|name| !known.contains(name)).collect();
        assert!(others.contains(&"--explain".into()), "{others:?}");
        let mistakes = [
            "--raed=/",
            "--no_network",
            "--no-network=1",
            "--connect=x",
            "--env=",
            "-h",
            "",
            "--=x",
        ];
        for word in others.iter().map(String::as_str).chain(mistakes) {
            assert_eq!(Run::plain(&words(&[word.into(), "true".into()])), None, "{word}");
        }
        let twice = ["--cwd=/", "--cwd=/", "true"].map(Into::into);
        for arguments in [&[][..], &["--".into()], &["--read".into()], &twice] {
            assert_eq!(Run::plain(&words(arguments)), None, "{arguments:?}");
        }
        assert_eq!(Run::plain(&["portcullis".into(), "mechanisms".into()]), None);
    }

    proptest! {
        /// No command line is read as something else than clap reads it as.
        #[test]
        fn whatever_is_read_without_clap_clap_reads_as_the_same(
            arguments in vec(word(), 0..8),
        ) {
            let words = words(&arguments);
            if let Some(run) = Run::plain(&words) {
                prop_assert_eq!(Some(run), by_clap(&words));
            }
        }
    }

    /// Options, their values, and what may be mistaken for them.
    fn word() -> impl Strategy<Value = String> {
        let names = options().into_iter().map(|(name, _)| name);
        let values = options().into_iter().filter_map(|(_, value)| Some(value?.to_owned()));
        let odd = [
            "--", "-", "", "-x", "---", "--=", "run", "true", "--help", "--report", "text", "-1",
            "+1", "%", "=", "é",
        ];
        let single = prop::sample::select(
            names.chain(values).chain(odd.map(Into::into)).collect::<Vec<_>>(),
        );
        let joined =
            (single.clone(), single.clone()).prop_map(|(name, value)| format!("{name}={value}"));
        prop_oneof![4 => single, 1 => joined]
    }
}
