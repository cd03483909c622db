//! Taking more than a share, within bounds: what is not refused here is let go of at once.

use std::env;
use std::fs::{self, File};

use rustix::process::{Pid, Resource, Rlimit, WaitOptions, getrlimit, setrlimit, waitpid};

use crate::attempt::{Attempt, Failure, escapes};
use crate::sys::call;

/// So many are no accident, and no machine's end.
const PROCESSES: usize = 300;
const DESCRIPTORS: usize = 5000;
const GIBIBYTE: u64 = 1 << 30;

/// Ends a process that a raw clone made, at once.
pub(crate) fn end(status: i32) -> ! {
    let _ = call!(libc::SYS_exit_group, status);
    std::process::abort()
}

/// Waits for a process that a raw clone made.
pub(crate) fn reap(pid: i64) -> Option<rustix::process::WaitStatus> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    waitpid(Some(pid), WaitOptions::empty()).ok().flatten().map(|(_, status)| status)
}

fn fork() -> Result<i64, rustix::io::Errno> {
    call!(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0)
}

escapes! { "resources":
    /// Makes processes until it is refused, or has three hundred.
    fn processes(_) {
        // Each lives until the pipe's other end is closed.
        let (read, write) = rustix::pipe::pipe()?;
        let mut children = Vec::with_capacity(PROCESSES);
        let mut refused = None;
        while children.len() < PROCESSES && refused.is_none() {
            match fork() {
                Ok(0) => {
                    let own = std::os::fd::AsRawFd::as_raw_fd(&write);
                    let _ = call!(libc::SYS_close, own);
                    let _ = call!(libc::SYS_read, &read, &mut [0], 1);
                    end(0)
                }
                Ok(pid) => children.push(pid),
                Err(errno) => refused = Some(errno),
            }
        }
        drop(write);
        let made = children.len();
        for pid in children {
            reap(pid);
        }
        refused.map_or_else(|| Ok(format!("{made} processes")), |errno| Err(errno.into()))
    }

    /// Opens descriptors until it is refused, or has five thousand.
    fn descriptors(_) {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
        let file = File::open("/proc/self/status")?;
        let copies: Result<Vec<_>, _> = (0..DESCRIPTORS).map(|_| file.try_clone()).collect();
        Ok(format!("{} descriptors", copies?.len()))
    }

    /// Takes a gibibyte of addresses, and touches none.
    fn memory(_) {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        call!(libc::SYS_mmap, 0, GIBIBYTE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)?;
        Ok("a gibibyte".into())
    }

    /// Makes a file of a gibibyte where it may write, a hole from end to end.
    fn disk_space(at) {
        let file = File::create(at.writable("large")?)?;
        file.set_len(GIBIBYTE)?;
        Ok(format!("{} bytes", file.metadata()?.len()))
    }

    /// Leaves a core file, which holds its memory.
    fn core_file(at) {
        let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
        if pattern.starts_with(['|', '/', '@']) {
            return Err(Failure::Unavailable(format!("cores go to {}", pattern.trim())));
        }
        env::set_current_dir(at.writable("")?)?;
        let limit = getrlimit(Resource::Core);
        let raised = setrlimit(Resource::Core, Rlimit { current: limit.maximum, ..limit });
        let pid = fork()?;
        if pid == 0 {
            let _ = call!(libc::SYS_kill, std::process::id(), libc::SIGQUIT);
            end(1)
        }
        let dumped = reap(pid).is_some_and(|status| status.as_raw() & 0x80 != 0);
        if dumped {
            return Ok("dumped".into());
        }
        raised?;
        Err(Failure::NoEffect(format!("nothing was dumped, of {:?} at most", limit.maximum)))
    }

    /// Raises its limit of open files beyond the hard one.
    fn raise_limit(_) {
        let limit = getrlimit(Resource::Nofile);
        let maximum = limit.maximum.map(|it| it + 1);
        setrlimit(Resource::Nofile, Rlimit { maximum, ..limit })?;
        Ok(format!("{maximum:?}"))
    }

    /// Runs before everything else (`SCHED_FIFO`).
    fn real_time(_) {
        scheduled(libc::SCHED_FIFO, 1)
    }

    /// Takes a better share of the processor (nice -1).
    fn share(_) {
        call!(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, -1)?;
        Ok("-1".into())
    }
}

fn scheduled(policy: i32, priority: i32) -> Attempt {
    call!(libc::SYS_sched_setscheduler, 0, policy, &priority.to_ne_bytes())?;
    // It was shown, and is over.
    call!(libc::SYS_sched_setscheduler, 0, libc::SCHED_OTHER, &[0; 4])?;
    Ok("real time".into())
}
