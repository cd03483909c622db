//! What to run, with what, and what it may do.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use portcullis_core::mechanism::{OpenError, Policy};
use portcullis_core::plan::{LoweringEntry, Target};
use portcullis_core::{OsText, Params};
use portcullis_mechanisms::capabilities::Capability;
use portcullis_mechanisms::exec::{Exec, FileDigest};
use portcullis_mechanisms::landlock::{self, Access, Landlock, PathGrant};
use portcullis_mechanisms::rlimits::{Limit, Resource};
use portcullis_mechanisms::seccomp::{self, Seccomp};
use rustix::fs::{Mode, OFlags, open};

use crate::child::{Child, Output};
use crate::confinement::{Confinement, Dropped};
use crate::error::Error;
use crate::here;
use crate::launcher::Launcher;
use crate::plan::{Draft, Maker, Opened, Request};
use crate::report::Way;
use crate::stdio::Stdio;
use crate::template::Template;

/// A program to run confined, shaped like [`std::process::Command`].
///
/// Nothing is inherited: the environment is empty, every fd but 0, 1 and 2 stays here. As soon as one
/// of [`read`](Self::read), [`exec`](Self::exec) and [`write`](Self::write) is called, what they do not
/// grant is denied by Landlock, the program's own file included.
///
/// ```
/// use portcullis::Command;
///
/// let output = Command::new("echo").arg("hello").output()?;
/// assert_eq!(output.stdout, b"hello\n");
/// # Ok::<(), portcullis::Error>(())
/// ```
#[derive(Debug)]
pub struct Command {
    program: OsString,
    name: Option<OsText>,
    digest: Option<FileDigest>,
    arguments: Vec<OsText>,
    environment: Vec<(OsText, OsText)>,
    search: OsString,
    directory: Option<PathBuf>,
    stdio: [Option<Stdio>; 3],
    confinement: Confinement,
    requests: Vec<Request>,
    preferred: Vec<String>,
    launcher: Option<PathBuf>,
    through: Vec<String>,
    setup_limit: Duration,
    trace: bool,
    die_with_parent: bool,
    handled_signals: Option<Vec<i32>>,
    way: Way,
}

impl Command {
    /// Where a program that is named without a slash is looked for, unless
    /// [`search_path`](Self::search_path) says otherwise.
    pub const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

    /// The program of this name or path, without any confinement but the scrub of inherited fds.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            name: None,
            digest: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            search: Self::SEARCH_PATH.into(),
            directory: None,
            stdio: [None, None, None],
            confinement: Confinement::default(),
            requests: Vec::new(),
            preferred: Vec::new(),
            launcher: None,
            through: Vec::new(),
            setup_limit: Duration::from_secs(30),
            trace: false,
            die_with_parent: false,
            handled_signals: None,
            way: Way::InPlace,
        }
    }

    /// Sets what the program is told as its own name, `argv[0]`: by itself the name or path that it was
    /// looked for by. Programs that are several in one file go by it.
    ///
    /// ```
    /// use portcullis::Command;
    ///
    /// let output = Command::new("sh").arg0("another").args(["-c", "echo $0"]).output()?;
    /// assert_eq!(output.stdout, b"another\n");
    /// # Ok::<(), portcullis::Error>(())
    /// ```
    pub fn arg0(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.name = Some(name.as_ref().into());
        self
    }

    /// Pins what the program's file must hold: the launcher executes a sealed copy that has this digest, or
    /// refuses. [`mechanism::exec`](crate::mechanism::exec) says what that changes for the program.
    ///
    /// ```
    /// use portcullis::{Command, mechanism::exec::FileDigest};
    ///
    /// let known = FileDigest::of(&std::fs::read("/bin/true")?);
    /// assert!(Command::new("/bin/true").digest(known).status()?.success());
    /// assert!(Command::new("/bin/false").digest(known).status().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn digest(&mut self, digest: FileDigest) -> &mut Self {
        self.digest = Some(digest);
        self
    }

    /// Adds an argument.
    pub fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.arguments.push(argument.as_ref().into());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(&mut self, arguments: impl IntoIterator<Item = S>) -> &mut Self {
        self.arguments.extend(arguments.into_iter().map(|it| it.as_ref().into()));
        self
    }

    /// Sets a variable of the environment. No other reaches the program.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        let name = OsText::from(name.as_ref());
        self.environment.retain(|(known, _)| *known != name);
        self.environment.push((name, value.as_ref().into()));
        self
    }

    /// Sets variables of the environment.
    pub fn envs<N: AsRef<OsStr>, V: AsRef<OsStr>>(
        &mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> &mut Self {
        for (name, value) in variables {
            self.env(name, value);
        }
        self
    }

    /// Sets the directories, separated by colons, in which a program that is named without a slash is
    /// looked for.
    pub fn search_path(&mut self, path: impl AsRef<OsStr>) -> &mut Self {
        path.as_ref().clone_into(&mut self.search);
        self
    }

    /// Sets the working directory. Without it the program starts in this process's.
    pub fn current_dir(&mut self, directory: impl AsRef<Path>) -> &mut Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Sets standard input: inherited by [`spawn`](Self::spawn) and [`status`](Self::status), null for
    /// [`output`](Self::output), unless set.
    pub fn stdin(&mut self, stdin: impl Into<Stdio>) -> &mut Self {
        self.stdio[0] = Some(stdin.into());
        self
    }

    /// Sets standard output: inherited by [`spawn`](Self::spawn) and [`status`](Self::status), piped for
    /// [`output`](Self::output), unless set.
    pub fn stdout(&mut self, stdout: impl Into<Stdio>) -> &mut Self {
        self.stdio[1] = Some(stdout.into());
        self
    }

    /// Sets standard error, as [`stdout`](Self::stdout) does standard output.
    pub fn stderr(&mut self, stderr: impl Into<Stdio>) -> &mut Self {
        self.stdio[2] = Some(stderr.into());
        self
    }

    fn landlock(&mut self) -> &mut Landlock {
        self.confinement.landlock.get_or_insert_default()
    }

    /// Grants reading a file, or a directory and all below it. Executing is another right.
    pub fn read(&mut self, root: impl AsRef<Path>) -> &mut Self {
        self.landlock().read.push(root.as_ref().into());
        self
    }

    /// Grants these rights over a file, or over a directory and all below it.
    ///
    /// ```
    /// use portcullis::{Command, mechanism::landlock::Access};
    ///
    /// let mut command = Command::new("true");
    /// command.read("/").exec("/").grant("/tmp", [Access::WriteFile, Access::Truncate]);
    /// assert!(command.status()?.success());
    /// # Ok::<(), portcullis::Error>(())
    /// ```
    pub fn grant(
        &mut self,
        root: impl AsRef<Path>,
        access: impl IntoIterator<Item = Access>,
    ) -> &mut Self {
        let grant = PathGrant { path: root.as_ref().into(), access: access.into_iter().collect() };
        self.landlock().paths.push(grant);
        self
    }

    /// Grants executing a file, or the files of a directory and all below it. To execute a file takes the
    /// right to read it, too, and a program with a dynamic loader reads its libraries.
    pub fn exec(&mut self, root: impl AsRef<Path>) -> &mut Self {
        self.landlock().exec.push(root.as_ref().into());
        self
    }

    /// Grants everything below a directory, or with a file: reading, executing, writing, creating,
    /// removing, renaming.
    pub fn write(&mut self, root: impl AsRef<Path>) -> &mut Self {
        self.landlock().write.push(root.as_ref().into());
        self
    }

    /// Grants connecting to a TCP port of any host; connecting to any other is then denied, as is every
    /// file that no root grants. (Landlock ABI 4, Linux 6.7.)
    pub fn connect(&mut self, port: u16) -> &mut Self {
        self.landlock().connect.get_or_insert_default().push(port);
        self
    }

    /// Grants binding a TCP socket to a port; binding to any other is then denied. (Landlock ABI 4, Linux
    /// 6.7.)
    pub fn bind(&mut self, port: u16) -> &mut Self {
        self.landlock().bind.get_or_insert_default().push(port);
        self
    }

    /// Confines signals and abstract Unix sockets to the program and its descendants, where the kernel
    /// can (Landlock ABI 6, Linux 6.12); says whether it can. Counts only with roots.
    pub fn scope_where_supported(&mut self) -> bool {
        use landlock::{SCOPES, Scope};
        let supported = landlock::running_abi().is_some_and(|abi| abi >= SCOPES);
        if supported {
            let policy = self.landlock();
            policy.abi = policy.abi.max(SCOPES);
            policy.scope = vec![Scope::Signal, Scope::AbstractUnixSocket];
        }
        supported
    }

    /// Denies the network: a user namespace of its own with an empty network namespace, in which
    /// the program is uid 0 without being so outside, and the filter
    /// [`NoNetwork`](seccomp::Profile::NoNetwork): no socket but connected pairs, and no `io_uring`, which
    /// would make sockets that no filter sees.
    pub fn no_network(&mut self) -> &mut Self {
        self.confinement.namespaces = true;
        self.denials().profile = Some(seccomp::Profile::NoNetwork);
        self
    }

    /// Adds a filter of system calls: a layer that stands beside the others, each of which can deny.
    ///
    /// ```
    /// use portcullis::Command;
    /// use portcullis::mechanism::seccomp::{Profile, Seccomp};
    ///
    /// let baseline = Seccomp { profile: Some(Profile::Baseline), ..Seccomp::default() };
    /// assert!(Command::new("true").seccomp(baseline).status()?.success());
    /// # Ok::<(), portcullis::Error>(())
    /// ```
    pub fn seccomp(&mut self, filter: Seccomp) -> &mut Self {
        self.confinement.filters.push(filter);
        self
    }

    fn denials(&mut self) -> &mut Seccomp {
        self.confinement.denials.get_or_insert_default()
    }

    /// Limits a resource ([getrlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html)).
    ///
    /// ```
    /// use portcullis::{Command, mechanism::rlimits::Resource};
    ///
    /// let mut command = Command::new("sh");
    /// let output = command.args(["-c", "ulimit -n"]).limit(Resource::Nofile, 64).output()?;
    /// assert_eq!(output.stdout, b"64\n");
    /// # Ok::<(), portcullis::Error>(())
    /// ```
    pub fn limit(&mut self, resource: Resource, limit: impl Into<Limit>) -> &mut Self {
        self.confinement.limits.insert(resource, limit.into());
        self
    }

    /// Runs the program as another user and group. Root gives it those ids, and no supplementary group; for
    /// anybody else it has them inside a user namespace of its own, and stays who it is outside, groups
    /// included, which nobody but root can drop.
    pub fn user(&mut self, uid: u32, gid: u32) -> &mut Self {
        self.confinement.user = Some((uid, gid));
        self
    }

    /// Takes all capabilities from the program: no set holds any, and no exec gains one.
    pub fn no_capabilities(&mut self) -> &mut Self {
        self.confinement.dropped = Some(Dropped::All);
        self
    }

    /// Takes a capability from the program, and leaves it those that this process has beside. No exec gains
    /// it.
    pub fn drop_capability(&mut self, capability: Capability) -> &mut Self {
        match &mut self.confinement.dropped {
            Some(Dropped::All) => {}
            Some(Dropped::These(dropped)) => dropped.push(capability),
            dropped @ None => *dropped = Some(Dropped::These(vec![capability])),
        }
        self
    }

    /// Gives the program a session of its own, and so no controlling terminal.
    pub fn new_session(&mut self) -> &mut Self {
        self.confinement.new_session = true;
        self
    }

    /// Confines the program by all that an ordinary one survives: Landlock at the newest ABI that runs, with
    /// its scopes and no TCP; the filters [`Baseline`](seccomp::Profile::Baseline) and
    /// [`NoMetadata`](seccomp::Profile::NoMetadata); a user namespace with an empty network namespace; no
    /// capability; no core file, 256 processes and threads, 1024 open files (4096 if it asks); a session of
    /// its own; `no_new_privs`. What it is to read and execute it has to be granted; what is said beside this
    /// takes the place of its part here: a limit, a filter, a port.
    ///
    /// ```
    /// use portcullis::Command;
    ///
    /// let mut command = Command::new("true");
    /// for root in ["/usr", "/bin", "/lib", "/lib64"] {
    ///     if std::path::Path::new(root).exists() {
    ///         command.read(root).exec(root);
    ///     }
    /// }
    /// assert!(command.strict().status()?.success());
    /// # Ok::<(), portcullis::Error>(())
    /// ```
    pub fn strict(&mut self) -> &mut Self {
        self.confinement.strict = true;
        self
    }

    /// Denies typing into the terminal: the ioctls `TIOCSTI` and `TIOCLINUX` are answered `EPERM`. What a
    /// program types there, its caller's shell would run when it has ended. For programs that share a
    /// terminal with somebody.
    pub fn no_terminal_injection(&mut self) -> &mut Self {
        self.denials().deny_terminal_injection = true;
        self
    }

    /// Denies new processes and threads: clone, clone3, fork and vfork are answered `EPERM`.
    pub fn no_new_tasks(&mut self) -> &mut Self {
        self.denials().deny_new_tasks = true;
        self
    }

    /// Schedules a mechanism by its typed policy.
    ///
    /// ```
    /// use portcullis::Command;
    /// use portcullis::mechanism::seccomp::Seccomp;
    ///
    /// let no_debugging = Seccomp { deny: vec!["ptrace".into()], ..Seccomp::default() };
    /// let status = Command::new("true").mechanism(&no_debugging)?.status()?;
    /// assert!(status.success());
    /// # Ok::<(), portcullis::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Policy`] for a policy that is no map of names to values.
    pub fn mechanism<P: Policy>(&mut self, policy: &P) -> Result<&mut Self, Error> {
        self.requests.push(Request::of(policy)?);
        Ok(self)
    }

    /// Schedules a mechanism by its id and what a policy says of it. Of one that the launcher has and
    /// this program has not linked, the parameters are those that the plan carries: without the
    /// mechanism's own code here, no path in them becomes an fd.
    pub fn policy(&mut self, id: impl Into<String>, params: Params) -> &mut Self {
        self.requests.push(Request::Policy(id.into(), params));
        self
    }

    /// Leaves the mechanism of this id out where the launcher says that this kernel, for this user,
    /// can't do it; the report then has it, and why, under [`missing`](crate::Report::missing). Without
    /// this, what can't be done is refused. Of Landlock what can be done is done, right by right.
    pub fn prefer(&mut self, id: impl Into<String>) -> &mut Self {
        self.preferred.push(id.into());
        self
    }

    /// Schedules a mechanism by the entry that goes into the plan, as it is.
    pub fn entry(&mut self, entry: LoweringEntry) -> &mut Self {
        self.requests.push(Request::Entry(entry));
        self
    }

    /// Runs the launcher at this path, in place of the embedded one and of `BVISOR_LAUNCHER_BIN`.
    pub fn launcher(&mut self, path: impl AsRef<Path>) -> &mut Self {
        self.launcher = Some(path.as_ref().to_owned());
        self
    }

    /// Runs the launcher by another program, which execs it: with these arguments and then the launcher's.
    #[cfg(feature = "testkit")]
    pub(crate) fn through(&mut self, program: &Path, arguments: Vec<String>) -> &mut Self {
        self.through = arguments;
        self.launcher(program)
    }

    /// Sets how long a launch may take until the program runs; 30 s unless set.
    pub fn setup_limit(&mut self, limit: Duration) -> &mut Self {
        self.setup_limit = limit;
        self
    }

    /// Sets which process becomes the program: [`Way::InPlace`] unless set, which is taken where the plan
    /// allows it. Where a mechanism needs a launcher that outlives the exec, the program is a child of
    /// one. [`Report::way`](crate::Report::way) says which way was taken.
    pub fn way(&mut self, way: Way) -> &mut Self {
        self.way = way;
        self
    }

    fn launcher_arguments(&self) -> &'static [&'static str] {
        match self.way {
            Way::Child | Way::Resident => &[],
            Way::InPlace => &["--prefer-in-place"],
        }
    }

    /// Has the launcher note the microseconds that its stages take.
    pub fn trace(&mut self, on: bool) -> &mut Self {
        self.trace = on;
        self
    }

    /// Has the launcher, and the program with it, killed when the *thread* that spawns it ends, however
    /// it ends (`PR_SET_PDEATHSIG` of
    /// [prctl(2)](https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html)). For processes
    /// that spawn from their main thread.
    pub fn die_with_parent(&mut self, on: bool) -> &mut Self {
        self.die_with_parent = on;
        self
    }

    /// Says which signals this process may have handlers of, by their numbers, for [`exec_here`](Self::exec_here): none
    /// of those is to run halfway. Unless it is said, the kernel is asked for each of 64 signals, some 10 µs. A
    /// handler of another signal may then run in a process that is confined, and whose fds are closed. Who starts a
    /// launcher has no use for it.
    pub fn handled_signals(&mut self, signals: impl IntoIterator<Item = i32>) -> &mut Self {
        self.handled_signals = Some(signals.into_iter().collect());
        self
    }

    /// Starts the program, and returns when it runs.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; the program does not run, or no longer. [`Error::Refused`], [`Error::Exec`] and
    /// [`Error::Faulted`] carry the report.
    pub fn spawn(&mut self) -> Result<Child, Error> {
        self.template()?.start(&self.stdio, &Stdio::INHERITED)
    }

    /// Runs the program to its end.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub fn status(&mut self) -> Result<ExitStatus, Error> {
        self.template()?.status_with(&self.stdio)
    }

    /// Runs the program to its end and collects what it writes.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub fn output(&mut self) -> Result<Output, Error> {
        self.template()?.start(&self.stdio, &Stdio::COLLECTED)?.wait_with_output()
    }

    /// Says in words what the launcher would do: the plan, the schedule, and every system call between
    /// clone and exec. Nothing is launched.
    ///
    /// ```
    /// let words = portcullis::Command::new("true").explain()?;
    /// assert!(words.contains("execveat"));
    /// # Ok::<(), portcullis::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn): what would be refused is refused here too.
    pub fn explain(&mut self) -> Result<String, Error> {
        self.template()?.explain()
    }

    /// Becomes the program: this process is confined and executes it, without a launcher and without a child.
    /// Its pid, its parent, its place in a terminal are the program's then, as after
    /// [execve(2)](https://man7.org/linux/man-pages/man2/execve.2.html), and so is all else that an exec hands
    /// on and that is no fd: children, timers, the signal for its parent's death.
    ///
    /// What is verified and applied is what a launcher verifies and applies, by the mechanisms that are linked
    /// into this process. Nobody is left who could report, tear down or limit the set-up's time, and nobody at the
    /// other end of a [pipe](Stdio::piped).
    ///
    /// It returns only where this process is as it was. From the first change on there is no way back: a
    /// launch that stops then is told to `failed`, and this process ends with the status that `failed`
    /// returns. A filter may let nothing pass but writing by then, and fds above 2 may be closed.
    ///
    /// ```standalone_crate
    /// // In a program of one thread:
    /// let error = portcullis::Command::new("true").read("/").exec("/").exec_here(|error| {
    ///     eprintln!("{error}");
    ///     125
    /// });
    /// panic!("{error}, and all is as it was");
    /// ```
    ///
    /// # Errors
    ///
    /// The error that it returns is as [`spawn`](Self::spawn)'s, and [`Error::NeedsLauncher`] where this
    /// process has several threads, or a launcher is named, or a mechanism needs one; `spawn` may then succeed.
    pub fn exec_here(&self, failed: impl Fn(&Error) -> u8) -> Error {
        let become_it = || {
            if let Some(path) = Launcher::named(self.launcher.as_deref()) {
                let why = format!("{} is named as the one to use", path.display());
                return Err(Error::NeedsLauncher { why });
            }
            let opened = self.open(Maker::ThisProcess)?;
            let directory = self.open_directory()?;
            let handled = self.handled_signals.as_deref();
            here::become_it(opened, directory.as_ref(), &self.stdio, handled, &failed)
        };
        match become_it() {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    fn open(&self, maker: Maker<'_>) -> Result<Opened, Error> {
        let name = self.name.clone().unwrap_or_else(|| (&self.program).into());
        let argv = [name].into_iter().chain(self.arguments.iter().cloned());
        let target =
            Target { argv: argv.collect(), envp: self.environment.clone(), ..Target::default() };
        let exec = Exec {
            program: (&self.program).into(),
            search: (&self.search).into(),
            digest: self.digest,
        };
        let mut requests = self.confinement.requests(&self.requests, &self.preferred)?;
        requests.extend_from_slice(&self.requests);
        Draft { target, exec, requests: &requests, preferred: &self.preferred }.open(maker)
    }

    /// Opens all that the program needs, once for any number of launches.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn), but for what only a launch can show.
    pub fn template(&self) -> Result<Template, Error> {
        let launcher = Launcher::choose(self.launcher.as_deref())?;
        let opened = self.open(Maker::Launcher(&launcher))?;
        let directory = self.open_directory()?;
        Ok(Template {
            launcher,
            through: self.through.clone(),
            arguments: self.launcher_arguments(),
            plan: opened.seal()?,
            directory: directory.map(Arc::new),
            setup_limit: self.setup_limit,
            trace: self.trace,
            die_with_parent: self.die_with_parent,
            kept: None,
        })
    }

    fn open_directory(&self) -> Result<Option<OwnedFd>, Error> {
        let Some(path) = &self.directory else { return Ok(None) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(path, flags, Mode::empty())
            .map_err(|errno| OpenError::path("working directory", path)(errno.into()))?;
        Ok(Some(directory))
    }
}
