//! Counts the instructions that a launcher and its child execute in user space, from the launcher's first
//! to the workload's exec, by executing them one at a time ([ptrace(2)], `PTRACE_SINGLESTEP`).
//!
//! Unlike valgrind this executes the program itself: every system call is the kernel's own, Landlock's and
//! a `clone3` that shares memory included. Unlike a counter of the CPU it is there in every guest.
//!
//! Arguments: two FIFOs. A process that writes its pid to the first and waits for the second is traced
//! from then on; its next exec is the launcher's. Prints the number, and then the address of each
//! instruction, as nm(1) writes them, in the order in which they were first executed.
//!
//! [ptrace(2)]: https://man7.org/linux/man-pages/man2/ptrace.2.html

use std::collections::HashSet;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How many instructions were executed, and which.
#[derive(Default)]
struct Counted {
    instructions: u64,
    known: HashSet<u64>,
    addresses: Vec<u64>,
}

impl Counted {
    fn add(&mut self, address: u64) {
        self.instructions += 1;
        if self.known.insert(address) {
            self.addresses.push(address);
        }
    }
}

fn count(pid: Pid, go: impl FnOnce() -> std::io::Result<()>) -> Result<Counted, Box<dyn Error>> {
    let follow = Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(pid, follow)?;
    // Each step changes from one process to the other and back, which is faster on one CPU.
    let mut cpu = CpuSet::new();
    cpu.set(sched_getcpu()?)?;
    for it in [pid, Pid::from_raw(0)] {
        sched_setaffinity(it, &cpu)?;
    }
    go()?;
    let (mut launcher_runs, mut counted) = (false, Counted::default());
    loop {
        match waitpid(None, Some(WaitPidFlag::__WALL)) {
            // The workload's: it goes its own way.
            Ok(WaitStatus::PtraceEvent(who, _, event))
                if event == Event::PTRACE_EVENT_EXEC as i32 && launcher_runs =>
            {
                ptrace::detach(who, None)?;
            }
            Ok(WaitStatus::PtraceEvent(who, ..)) => {
                launcher_runs = true;
                ptrace::step(who, None)?;
            }
            Ok(WaitStatus::Stopped(who, Signal::SIGTRAP)) => {
                counted.add(program_counter(who)?);
                ptrace::step(who, None)?;
            }
            Ok(WaitStatus::Stopped(who, signal)) => ptrace::step(who, signal)?,
            Ok(_) | Err(Errno::EINTR) => {}
            // None is traced any more.
            Err(Errno::ECHILD) => return Ok(counted),
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn program_counter(pid: Pid) -> Result<u64, Errno> {
    Ok(ptrace::getregs(pid)?.rip)
}

#[cfg(not(target_arch = "x86_64"))]
fn program_counter(_: Pid) -> Result<u64, Errno> {
    Err(Errno::ENOSYS)
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let counted = match &arguments[..] {
        [tells, waits] => traced(tells, waits),
        _ => Err("two FIFOs are wanted".into()),
    };
    match counted {
        Ok(Counted { instructions, addresses, .. }) => {
            let mut text = format!("{instructions}\n");
            for address in addresses {
                let _ = writeln!(text, "{address:016x}");
            }
            print!("{text}");
        }
        Err(error) => {
            eprintln!("count-instructions: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn traced(tells: &str, waits: &str) -> Result<Counted, Box<dyn Error>> {
    let pid = Pid::from_raw(fs::read_to_string(tells)?.trim().parse()?);
    let counted = count(pid, || fs::write(waits, "\n"));
    if counted.is_err() {
        // It waits for a tracer that does not come.
        let _ = kill(pid, Signal::SIGKILL);
    }
    counted
}
