//! A launch that is opened once and made any number of times.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use portcullis_launcher::process;

use crate::child::{Child, Launcher as LauncherOf, Output};
use crate::control::{Control, Deadline};
use crate::error::Error;
use crate::launcher::{Launcher, ask};
use crate::plan::Plan;
use crate::process::Process;
use crate::resident::{KeptBy, Resident};
use crate::spawn::{Placement, pipe, place};
use crate::stdio::{Stdio, Streams};

/// A program and its confinement, opened: its paths are fds and its plan is sealed, so that a launch has
/// nothing left to look up. What is at those paths meanwhile is of no consequence.
///
/// Every launch has the same attempt id, and reads the same plan; launches may be made by several threads
/// at once.
///
/// ```
/// let template = portcullis::Command::new("true").read("/").exec("/").template()?;
/// for _ in 0..3 {
///     assert!(template.status()?.success());
/// }
/// # Ok::<(), portcullis::Error>(())
/// ```
#[derive(Debug)]
pub struct Template {
    pub(crate) launcher: Launcher,
    /// Arguments before the launcher's own, of a program that execs it.
    pub(crate) through: Vec<String>,
    pub(crate) arguments: &'static [&'static str],
    pub(crate) plan: Plan,
    pub(crate) directory: Option<Arc<OwnedFd>>,
    pub(crate) setup_limit: Duration,
    pub(crate) trace: bool,
    pub(crate) die_with_parent: bool,
    /// By whom it is [kept](Resident::keep).
    pub(crate) kept: Option<Arc<KeptBy>>,
}

impl Template {
    /// Starts the program with this process's standard input, output and error, and returns when it runs.
    ///
    /// # Errors
    ///
    /// As [`Command::spawn`](crate::Command::spawn), but for paths, which are open.
    pub fn spawn(&self) -> Result<Child, Error> {
        self.spawn_with(Stdio::INHERITED)
    }

    /// Starts the program with these as its standard input, output and error.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub fn spawn_with(&self, stdio: [Stdio; 3]) -> Result<Child, Error> {
        self.start(&stdio.map(Some), &Stdio::INHERITED)
    }

    /// Runs the program to its end.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub fn status(&self) -> Result<ExitStatus, Error> {
        self.status_with(&Stdio::INHERITED.map(Some))
    }

    pub(crate) fn status_with(&self, stdio: &[Option<Stdio>; 3]) -> Result<ExitStatus, Error> {
        let deadline = Deadline::after(self.setup_limit);
        self.launch(stdio, &Stdio::INHERITED)?.running_or_over(&deadline)?.wait()
    }

    /// Runs the program to its end and collects what it writes. Its standard input is `/dev/null`.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub fn output(&self) -> Result<Output, Error> {
        self.spawn_with(Stdio::COLLECTED)?.wait_with_output()
    }

    /// The same program and confinement with other arguments, in place of all that there were: what is open
    /// is shared, and nothing is opened again.
    ///
    /// ```
    /// let template = portcullis::Command::new("test").template()?;
    /// assert!(template.with_arguments(["1", "-lt", "2"])?.status()?.success());
    /// # Ok::<(), portcullis::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Plan`] for arguments that no program can be given.
    pub fn with_arguments<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Self, Error> {
        let arguments = arguments.into_iter().map(|it| it.as_ref().into());
        Ok(self.with(self.plan.with_arguments(arguments)?, None))
    }

    /// The same, kept by a resident launcher.
    pub(crate) fn kept_by(&self, kept: Arc<KeptBy>) -> Result<Self, Error> {
        Ok(self.with(self.plan.try_clone()?, Some(kept)))
    }

    fn with(&self, plan: Plan, kept: Option<Arc<KeptBy>>) -> Self {
        Self {
            plan,
            kept,
            launcher: self.launcher.clone(),
            directory: self.directory.clone(),
            through: self.through.clone(),
            ..*self
        }
    }

    /// Starts the launcher that this is made for, to be kept for any number of launches, of this and of
    /// other templates.
    ///
    /// # Errors
    ///
    /// As [`Resident::start`].
    pub fn resident(&self) -> Result<Resident, Error> {
        Resident::of(&self.launcher, self.die_with_parent)
    }

    pub(crate) fn explain(&self) -> Result<String, Error> {
        let (wires, _ours) = Wires::new()?;
        let question = [&["--explain"], self.arguments].concat();
        ask(&self.launcher, &question, wires.placement(&self.plan), self.setup_limit)
    }

    pub(crate) fn start(
        &self,
        stdio: &[Option<Stdio>; 3],
        defaults: &[Stdio; 3],
    ) -> Result<Child, Error> {
        let child = self.launch(stdio, defaults)?;
        child.running(&Deadline::after(self.setup_limit))
    }

    /// Starts a launcher, which has yet to tell anything.
    fn launch(&self, stdio: &[Option<Stdio>; 3], defaults: &[Stdio; 3]) -> Result<Child, Error> {
        let (wires, control) = Wires::new()?;
        let mut streams = Streams::open(stdio, defaults)?;
        let mut with = wires.placement(&self.plan);
        with.fds.extend(streams.placed());
        with.trace = self.trace;
        with.die_with_parent = self.die_with_parent;
        with.directory = self.directory.as_ref().map(AsRawFd::as_raw_fd);
        let before = self.through.iter().map(String::as_str);
        // In place, how the program ends is told by its status alone.
        let own: &[&str] = if process::children_are_kept() { self.arguments } else { &[] };
        let arguments: Vec<_> = before.chain(own.iter().copied()).collect();
        let process = place(&self.launcher, &arguments, &with)?;
        let pipes = std::mem::take(&mut streams.pipes);
        // The launcher has its own copies: with ours open, no pipe would ever show its end.
        drop((wires, streams));
        let launcher = LauncherOf::Own(Process::new(process.pid()));
        let (control, left_out) = (Control::new(control), self.plan.left_out.clone());
        Ok(Child::new(launcher, control, pipes, left_out))
    }
}

/// The launcher's ends of the channels.
struct Wires {
    control: OwnedFd,
    error: OwnedFd,
    error_read: OwnedFd,
}

impl Wires {
    /// The channels of a launch, and our end of the control channel.
    fn new() -> Result<(Self, OwnedFd), Error> {
        let (ours, control) = pipe()?;
        let (error_read, error) = pipe()?;
        Ok((Self { control, error, error_read }, ours))
    }

    /// Every fd of the plan in its slot, and the channels above them.
    fn placement(&self, plan: &Plan) -> Placement {
        let slots = plan.slots.iter();
        let mut fds: Vec<_> = slots.map(|(slot, fd)| (fd.as_raw_fd(), slot.slot_index)).collect();
        let first = fds.iter().map(|(_, slot)| slot + 1).max().unwrap_or(3);
        let channels = [
            ("BVISOR_CONTROL_FD", &self.control),
            ("BVISOR_LAUNCH_PLAN_FD", &plan.frame),
            ("BVISOR_ERROR_FD", &self.error),
            ("BVISOR_ERROR_READ_FD", &self.error_read),
        ];
        let mut wiring = Vec::with_capacity(4);
        for (number, (name, fd)) in (first..).zip(channels) {
            wiring.push((name, number));
            fds.push((fd.as_fd().as_raw_fd(), number));
        }
        Placement { fds, wiring, ..Placement::default() }
    }
}
