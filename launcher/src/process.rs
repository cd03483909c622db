//! A program becomes a process.
//!
//! The child shares this process's memory until it execs (`CLONE_VM`), so no page table is copied
//! however large the process is, and runs nothing but the loop of [`portcullis_child`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::thread::sleep;
use std::time::Duration;

use portcullis_child::{CloneOptions, Failure};
use portcullis_core::program::{Op, Program};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, kill_process, setpgid, waitid,
    waitpid,
};

use crate::assembly::Assembly;
use crate::sys::{self, Spawned};

/// A number that no fd has.
const NO_REPORT: RawFd = -1;

/// A child that runs a program.
///
/// Dropped before it was [settled](Self::settle), it kills and reaps the child.
pub struct Child {
    spawned: Spawned,
    settled: bool,
}

/// How far a program ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// All of it; an exec at its end took place.
    Complete,
    /// The step at this place failed with this errno.
    Failed {
        /// The step's place.
        step: usize,
        /// Its errno.
        errno: i32,
    },
    /// The child ended, or still runs, at the step of this place.
    Stopped {
        /// The step's place.
        step: usize,
    },
}

/// Makes a child that runs `program`. A failure is written to `report_fd`, as a
/// [`Failure`], where it is an fd.
///
/// Unless the child is [concurrent](CloneOptions::concurrent), it has exec'd or ended when this
/// returns. Signals are blocked for this thread meanwhile; the child starts with all of them blocked.
///
/// # Errors
///
/// Those of clone3, and of blocking signals.
pub fn spawn(
    program: Program,
    report_fd: Option<RawFd>,
    options: CloneOptions,
) -> io::Result<Child> {
    spawn_or(program, report_fd, options, || false)
}

/// The same; where that is more than this process may have, and `make_room` says that there is less of it now, it is
/// tried again.
pub(crate) fn spawn_or(
    program: Program,
    report_fd: Option<RawFd>,
    options: CloneOptions,
    make_room: impl Fn() -> bool,
) -> io::Result<Child> {
    let assembly = Box::new(Assembly::new(program, std::process::id()));
    let report_fd = report_fd.unwrap_or(NO_REPORT);
    let _blocked = sys::block_signals()?;
    let mut spawned = Spawned::new(assembly, report_fd, options);
    // Too many processes, or namespaces (clone(2), ERRORS).
    let is_limit =
        |errno| matches!(errno, Errno::AGAIN | Errno::NOMEM | Errno::NOSPC | Errno::USERS);
    if spawned.as_ref().is_err_and(|(_, errno)| is_limit(*errno)) && make_room() {
        // A process is no more when it has been reaped; its namespaces go by a queue of the kernel's.
        for pause in [0, 10, 20, 40, 80] {
            let Err((assembly, _)) = spawned else { break };
            sleep(Duration::from_millis(pause));
            spawned = Spawned::new(assembly, report_fd, options);
        }
    }
    let spawned = spawned.map_err(|(_, errno)| errno)?;
    Ok(Child { spawned, settled: false })
}

/// Makes a child in new namespaces (`CLONE_NEW…` flags) that waits for its [program](Child::take_on), and dies
/// with this process. Its table of fds is this process's until its program unshares it.
pub(crate) fn spawn_ahead(namespaces: u64) -> io::Result<Child> {
    let kill = Signal::KILL.as_raw();
    // What is sent meanwhile it does not keep for its program: it dies of that, or takes no harm.
    let first = [Op::parent_death_signal(kill), Op::parent_is_alive(), Op::empty_signal_mask()];
    let options = CloneOptions {
        namespaces,
        concurrent: true,
        pidfd: true,
        shares_files: true,
        ..CloneOptions::default()
    };
    let _blocked = sys::block_signals()?;
    let first = Assembly::new(Program::of(first), std::process::id());
    let spawned = Spawned::ahead(first, options)?;
    Ok(Child { spawned, settled: false })
}

impl Child {
    /// Has a child that was [made ahead](spawn_ahead) run `program`, as [`spawn`] would.
    pub(crate) fn take_on(&mut self, program: Program, report_fd: Option<RawFd>) {
        let report_fd = report_fd.unwrap_or(NO_REPORT);
        self.spawned.take_on(Assembly::new(program, std::process::id()), report_fd);
    }

    /// Whether it has ended, as its pidfd shows, or does within this time.
    pub(crate) fn ends_within(&self, time: Duration) -> bool {
        self.pidfd().is_some_and(|pidfd| shows(pidfd, PollFlags::IN, time))
    }

    /// Whether a child that was [made ahead](spawn_ahead) still waits: it has neither ended nor been stopped.
    pub(crate) fn waits(&self) -> bool {
        let what = WaitIdOptions::EXITED | WaitIdOptions::STOPPED;
        let how = WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::Pid(self.pid()), what | how), Ok(None))
    }

    /// Whether it is in this process's memory: it has neither exec'd nor ended.
    pub(crate) fn shares_memory(&self) -> bool {
        self.spawned.shares_memory()
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ends_within(Duration::ZERO)
    }

    /// The child's pid.
    ///
    /// # Panics
    ///
    /// Never: clone3 returned it, so it is positive.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.spawned.pid).expect("a pid that clone3 returned")
    }

    /// What it runs.
    pub fn program(&self) -> &Program {
        self.spawned.assembly().program()
    }

    /// How many steps it counted off.
    pub fn done(&self) -> usize {
        self.spawned.assembly().done()
    }

    /// How far it ran, as counted in memory that it shares until the exec.
    pub fn progress(&self) -> Progress {
        let (ops, step) = (self.program().ops(), self.done());
        let Some((_, op)) = ops.get(step) else { return Progress::Complete };
        match self.spawned.assembly().result(step) {
            None if op.is_exec() => Progress::Complete,
            None => Progress::Stopped { step },
            // Neither an error nor what was expected, as the child itself has it.
            Some(result) if !(-4095..0).contains(&result) => {
                Progress::Failed { step, errno: libc::EPROTO }
            }
            Some(result) => {
                Progress::Failed { step, errno: i32::try_from(-result).unwrap_or(libc::EPROTO) }
            }
        }
    }

    /// The child's pidfd, where one was [asked for](CloneOptions::pidfd).
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.spawned.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Kills it, where it has not ended.
    pub fn kill(&self) {
        let _ = kill_process(self.pid(), Signal::KILL);
    }

    /// Says that the child has become what it was made for, and is left alone from here on. It must
    /// have exec'd: what it runs before that is in this value's memory. Its pidfd is who settles it's.
    pub fn settle(&mut self) -> Option<OwnedFd> {
        self.settled = true;
        self.spawned.pidfd.take()
    }

    /// Waits for the child's end, and reaps it.
    ///
    /// # Errors
    ///
    /// Those of [waitpid(2)](https://man7.org/linux/man-pages/man2/waitpid.2.html).
    pub fn wait(&mut self) -> io::Result<WaitStatus> {
        let status = wait(self.pid())?;
        self.settled = true;
        Ok(status)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.settled {
            self.kill();
            let _ = self.wait();
        }
    }
}

/// Whether an fd shows one of these events, or its end, within this time.
pub(crate) fn shows(fd: BorrowedFd<'_>, events: PollFlags, within: Duration) -> bool {
    let within = Timespec::try_from(within).ok();
    poll(&mut [PollFd::from_borrowed_fd(fd, events)], within.as_ref()) == Ok(1)
}

/// Runs a program in this process, of which `parent` is the parent. Returns what it ran, and where it
/// failed: where it succeeds, this process has become another program.
pub(crate) fn become_it(program: Program, parent: u32) -> (Program, Option<Failure>) {
    let assembly = Assembly::new(program, parent);
    let failure = sys::attempt(&assembly);
    (assembly.into_program(), failure)
}

/// Makes a call that comes after the exec, and so must not fail for what would pass: by then the workload
/// runs, and a launch that faults can only end it.
pub(crate) fn insist<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    const TRIES: usize = 4;
    for _ in 1..TRIES {
        if let Ok(value) = call() {
            return Ok(value);
        }
    }
    call()
}

/// Whether a child, which has exec'd or is at its end, has exec'd. An exec clears the kernel's mark of those that have
/// not, `PF_FORKNOEXEC`, when it has let go of this process's memory and before it closes what is close-on-exec; a
/// child that a signal ended first has the mark to its end.
///
/// The mark is what [setpgid(2)](https://man7.org/linux/man-pages/man2/setpgid.2.html) asks for: it fails
/// with `EACCES` for a child that has exec'd, and one that has ended takes no harm from a group of its own.
/// For one in another session it says nothing, and the ninth field of
/// [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html) does, at twenty times the
/// cost. What can't be read proves no exec.
pub(crate) fn has_exec_ed(pid: Pid) -> bool {
    match setpgid(Some(pid), None) {
        Err(Errno::ACCESS) => true,
        Ok(()) => false,
        Err(_) => has_exec_ed_by_stat(pid),
    }
}

/// The same of a child that has left this process's memory, and may be between that and what clears the mark. It is asked
/// to be in the group that it is in, which changes nothing.
pub(crate) fn has_exec_ed_by_now(pid: Pid) -> bool {
    // Where the group's leader is of an outer PID namespace, the group has no number here.
    match sys::own_group().map(|group| setpgid(Some(pid), Some(group))) {
        Some(Err(Errno::ACCESS)) => true,
        Some(Ok(())) => false,
        Some(Err(_)) | None => has_exec_ed_by_stat(pid),
    }
}

fn has_exec_ed_by_stat(pid: Pid) -> bool {
    const PF_FORKNOEXEC: u64 = 0x40;
    stat_field(pid, 9).is_some_and(|flags| flags & PF_FORKNOEXEC == 0)
}

/// A number of `/proc/PID/stat`, by its place in
/// [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html), from the fourth on;
/// `None` where it can't be read.
pub fn stat_field(pid: Pid, place: usize) -> Option<u64> {
    let mut buffer = [0; 1024];
    let path = format!("/proc/{}/stat", pid.as_raw_pid());
    let read = insist(|| {
        let stat = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        read(&stat, &mut buffer)
    });
    let stat = String::from_utf8_lossy(&buffer[..read.ok()?]);
    // The second field, the name, is in parentheses and may hold both those and blanks.
    let (_, from_third) = stat.rsplit_once(") ")?;
    from_third.split(' ').nth(place.checked_sub(3)?)?.parse().ok()
}

/// Whether this process learns how its children end: one that ignores SIGCHLD does not.
pub fn children_are_kept() -> bool {
    sys::children_are_kept()
}

/// Waits for the end of a child of this process.
///
/// # Errors
///
/// Those of [waitpid(2)](https://man7.org/linux/man-pages/man2/waitpid.2.html).
pub fn wait(pid: Pid) -> io::Result<WaitStatus> {
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(status),
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Makes every signal wait until it is asked for, from here to the end of this process. To be called
/// before the child is made whose SIGCHLD must not be missed.
pub(crate) fn hold_signals() -> io::Result<()> {
    std::mem::forget(sys::block_signals()?);
    Ok(())
}

/// Waits for the end of a child of this single-threaded process, and hands on to it each signal that
/// another process sends to this one. (What a terminal sends it sends to the child too.)
/// [`hold_signals`] must have been called before the child was made.
pub(crate) fn wait_and_forward(pid: Pid) -> io::Result<WaitStatus> {
    loop {
        let signal = sys::wait_for_signal();
        if signal.number == libc::SIGCHLD {
            if let Some(status) = reap(pid)? {
                return Ok(status);
            }
        } else if signal.from_process {
            sys::send_signal(pid, signal.number);
        }
    }
}

/// The end of a child, if it has come. Of wait4's errors only `ECHILD` lasts, and a SIGCHLD that was taken
/// does not come again: so the call is made until it answers.
fn reap(pid: Pid) -> io::Result<Option<WaitStatus>> {
    loop {
        match waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(ended) => return Ok(ended.map(|(_, status)| status)),
            Err(Errno::CHILD) => return Err(Errno::CHILD.into()),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_program_without_an_exec_ends_with_status_zero() {
        let program = Program::of([Op::parent_is_alive(), Op::empty_signal_mask()]);
        let mut child = spawn(program, None, CloneOptions::default()).unwrap();
        assert_eq!(child.progress(), Progress::Complete);
        assert_eq!(child.wait().unwrap().exit_status(), Some(0));
    }

    #[test]
    fn a_step_that_fails_is_known_by_its_place_and_errno() {
        let program = Program::of([Op::parent_is_alive(), Op::fchdir(-1), Op::parent_is_alive()]);
        let mut child = spawn(program, None, CloneOptions::default()).unwrap();
        assert_eq!(child.progress(), Progress::Failed { step: 1, errno: libc::EBADF });
        assert!(!child.shares_memory());
        assert_eq!(child.wait().unwrap().exit_status(), Some(127));
    }

    #[test]
    fn a_step_that_returns_something_else_is_a_failure_too() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        drop(write);
        let program = Program::of([Op::read_exactly(read.as_raw_fd(), 1)]);
        let mut child = spawn(program, None, CloneOptions::default()).unwrap();
        // End of file: no byte, and no error either.
        assert_eq!(child.progress(), Progress::Failed { step: 0, errno: libc::EPROTO });
        assert_eq!(child.wait().unwrap().exit_status(), Some(127));
    }

    #[test]
    fn a_concurrent_child_counts_where_its_value_is_moved_to() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let ops = [Op::read_exactly(read.as_raw_fd(), 1), Op::parent_is_alive()];
        let options = CloneOptions { concurrent: true, ..CloneOptions::default() };
        let mut children: Vec<Child> = Vec::new();
        for _ in 0..20 {
            children.push(spawn(Program::of(ops.clone()), None, options).unwrap());
        }
        children.reverse();
        rustix::io::write(&write, &[1; 20]).unwrap();
        for mut child in children {
            assert_eq!(child.wait().unwrap().exit_status(), Some(0));
            assert_eq!(child.progress(), Progress::Complete);
        }
    }

    #[test]
    fn who_is_asked_whether_it_has_exec_ed_stays_as_it_is() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let sleep = open("/bin/sleep", OFlags::PATH, Mode::empty()).unwrap();
        let argv = vec![c"sleep".to_owned(), c"60".to_owned()];
        let ops =
            [Op::read_exactly(read.as_raw_fd(), 1), Op::execveat(sleep.as_raw_fd(), argv, vec![])];
        let options = CloneOptions { concurrent: true, pidfd: true, ..CloneOptions::default() };
        let child = spawn(Program::of(ops), None, options).unwrap();
        let group = || rustix::process::getpgid(Some(child.pid()));
        let before = group();
        assert!(!has_exec_ed_by_now(child.pid()) && !has_exec_ed_by_stat(child.pid()));
        assert!(child.shares_memory());
        assert_eq!(group(), before);
        rustix::io::write(&write, b"!").unwrap();
        while !has_exec_ed_by_now(child.pid()) {
            assert!(!child.ends_within(Duration::from_millis(1)), "it was to sleep");
        }
        assert!(has_exec_ed_by_stat(child.pid()) && has_exec_ed(child.pid()));
        assert!(!child.shares_memory());
        assert_eq!(group(), before);
    }

    #[test]
    fn a_child_that_was_made_ahead_runs_what_it_is_handed_with_fds_of_its_own() {
        let mut early = spawn_ahead(0).unwrap();
        // It would see this as closed, were its table a copy of its clone's; and it keeps what is closed here later.
        let (read, write) = rustix::pipe::pipe().unwrap();
        let ops = [
            Op::close_range_unshared(1000, u32::MAX),
            Op::read_exactly(read.as_raw_fd(), 1),
            Op::fchdir(-1),
        ];
        early.take_on(Program::of(ops), None);
        while early.done() == 0 {
            std::thread::yield_now();
        }
        drop(read);
        rustix::io::write(&write, b"!").unwrap();
        assert_eq!(early.wait().unwrap().exit_status(), Some(127));
        assert_eq!(early.progress(), Progress::Failed { step: 2, errno: libc::EBADF });
    }

    #[test]
    fn a_child_that_was_made_ahead_and_is_handed_nothing_is_killed_and_reaped() {
        let child = spawn_ahead(0).unwrap();
        let pid = child.pid();
        assert!(!child.has_ended());
        drop(child);
        assert_eq!(waitpid(Some(pid), WaitOptions::NOHANG).unwrap_err(), Errno::CHILD);
    }

    #[test]
    fn a_concurrent_child_that_is_dropped_is_killed_and_reaped() {
        let (read, _write) = rustix::pipe::pipe().unwrap();
        let program = Program::of([Op::read_exactly(read.as_raw_fd(), 1)]);
        let options = CloneOptions { concurrent: true, ..CloneOptions::default() };
        let child = spawn(program, None, options).unwrap();
        let pid = child.pid();
        drop(child);
        let again = waitpid(Some(pid), WaitOptions::NOHANG);
        assert_eq!(again.unwrap_err(), Errno::CHILD);
    }
}
