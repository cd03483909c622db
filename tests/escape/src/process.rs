//! The processes outside: their memory, their descriptors, their signals, their attributes.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::parent_id;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, WaitOptions, pidfd_getfd, pidfd_open};

use crate::attempt::{Attempt, Failure, Outside, escapes, meet};
use crate::sys::call;

/// As long as a token.
const TOKEN: usize = 36;
const OVERWRITTEN: &[u8; TOKEN] = b"overwritten by a process that is out";
/// Of asm-generic/fcntl.h.
const F_SETSIG: i32 = 10;
const SIGNAL: i32 = libc::SIGUSR1;

fn victim(at: &Outside) -> Result<Pid, Failure> {
    Pid::from_raw(at.victim()?).ok_or_else(|| Failure::Unavailable("no victim".into()))
}

pub(crate) fn pidfd(at: &Outside) -> Result<OwnedFd, Failure> {
    Ok(pidfd_open(victim(at)?, PidfdFlags::empty())?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An iovec of memory that is somebody's.
fn vector(address: u64, length: usize) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_ne_bytes());
    bytes[8..].copy_from_slice(&(length as u64).to_ne_bytes());
    bytes
}

/// The victim's signals that are pending, as anyone may see who sees `/proc`.
fn pending(at: &Outside) -> Attempt {
    let status = fs::read_to_string(at.victims("status")?)?;
    let bit = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1).unwrap_or("0"), 16);
    let mut lines =
        status.lines().filter(|line| line.starts_with("ShdPnd") || line.starts_with("SigPnd"));
    if lines.any(|line| bit(line).is_ok_and(|set| set != 0)) {
        Ok("the signal is pending".into())
    } else {
        Err(Failure::NoEffect("no signal is pending".into()))
    }
}

escapes! { "process":
    /// Reads a process's memory by `/proc/PID/mem`.
    fn read_memory(at) {
        let mut bytes = [0; TOKEN];
        File::open(at.victims("mem")?)?.read_exact_at(&mut bytes, at.number("address")?)?;
        Ok(text(&bytes))
    }

    /// Writes to a process's memory by `/proc/PID/mem`.
    fn write_memory(at) {
        let memory = OpenOptions::new().write(true).open(at.victims("mem")?)?;
        memory.write_all_at(OVERWRITTEN, at.number("address")?)?;
        Ok("written".into())
    }

    /// Reads a process's memory by `process_vm_readv`.
    fn vm_read(at) {
        let mut bytes = [0_u8; TOKEN];
        let into = vector(bytes.as_mut_ptr().expose_provenance() as u64, TOKEN);
        let from = vector(at.number("address")?, TOKEN);
        call!(libc::SYS_process_vm_readv, at.victim()?, &into, 1, &from, 1, 0)?;
        // What the kernel wrote by the address alone is read anew.
        Ok(text(std::hint::black_box(&bytes)))
    }

    /// Writes to a process's memory by `process_vm_writev`.
    fn vm_write(at) {
        let from = vector(OVERWRITTEN.as_ptr().expose_provenance() as u64, TOKEN);
        let to = vector(at.number("address")?, TOKEN);
        call!(libc::SYS_process_vm_writev, at.victim()?, &from, 1, &to, 1, 0)?;
        Ok("written".into())
    }

    /// Attaches to a process with ptrace, and writes to its memory.
    fn ptrace(at) {
        let (pid, address) = (at.victim()?, at.number::<u64>("address")?);
        call!(libc::SYS_ptrace, libc::PTRACE_SEIZE, pid, 0, 0)?;
        call!(libc::SYS_ptrace, libc::PTRACE_INTERRUPT, pid, 0, 0)?;
        rustix::process::waitpid(Some(victim(at)?), WaitOptions::empty())?;
        let word = u64::from_ne_bytes(*b"overwrit");
        let written = call!(libc::SYS_ptrace, libc::PTRACE_POKEDATA, pid, address, word);
        call!(libc::SYS_ptrace, libc::PTRACE_DETACH, pid, 0, 0)?;
        written?;
        Ok("written".into())
    }

    /// Attaches to the launcher with ptrace.
    fn ptrace_launcher(_) {
        call!(libc::SYS_ptrace, libc::PTRACE_SEIZE, parent_id(), 0, 0)?;
        Ok("the launcher is traced".into())
    }

    /// Opens the launcher's memory.
    fn launcher_memory(_) {
        File::open(format!("/proc/{}/mem", parent_id()))?;
        Ok("the launcher's memory is open".into())
    }

    /// Reads the launcher's environment, where its fds are told.
    fn launcher_environment(_) {
        Ok(text(&fs::read(format!("/proc/{}/environ", parent_id()))?))
    }

    /// Learns what the launcher has open, by `/proc/PID/fd`.
    fn launcher_descriptors(_) {
        Ok(fs::read_link(format!("/proc/{}/fd/0", parent_id()))?.display().to_string())
    }

    /// Opens the launcher's image for writing (CVE-2019-5736).
    fn launcher_image(_) {
        OpenOptions::new().write(true).open(format!("/proc/{}/exe", parent_id()))?;
        Ok("the launcher's image is open for writing".into())
    }

    /// Holds a running program's image, and overwrites it when the program has ended (CVE-2019-5736).
    fn held_image(at) {
        let image = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(at.victims("exe")?)?;
        meet("the victim may end");
        let again = format!("/proc/self/fd/{}", image.as_raw_fd());
        OpenOptions::new().write(true).open(again)?.write_all(OVERWRITTEN)?;
        Ok("overwritten".into())
    }

    /// Reads a process's environment.
    fn environment(at) {
        Ok(text(&fs::read(at.victims("environ")?)?))
    }

    /// Reads a process's command line.
    fn command_line(at) {
        Ok(text(&fs::read(at.victims("cmdline")?)?))
    }

    /// Reads where a process's memory lies.
    fn memory_map(at) {
        let map = fs::read_to_string(at.victims("maps")?)?;
        let first = map.lines().next().ok_or_else(|| Failure::NoEffect("an empty map".into()))?;
        Ok(first.to_owned())
    }

    /// Reads a file by a process's working directory, `/proc/PID/cwd`.
    fn foreign_directory(at) {
        Ok(text(&fs::read(at.victims("cwd/secret")?)?))
    }

    /// Reads a file by a process's root directory, `/proc/PID/root`.
    fn foreign_root(at) {
        let secret = at.outside("secret")?;
        Ok(text(&fs::read(at.victims(&format!("root{}", secret.display()))?)?))
    }

    /// Opens what a process has open, by `/proc/PID/fd`.
    fn foreign_descriptor(at) {
        Ok(text(&fs::read(at.victims(&format!("fd/{}", at.text("fd")?))?)?))
    }

    /// Learns which numbers a process's descriptors have.
    fn count_descriptors(at) {
        let names: Result<Vec<_>, _> = fs::read_dir(at.victims("fd")?)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect();
        Ok(format!("{} descriptors", names?.len()))
    }

    /// Takes a descriptor of a process with `pidfd_getfd`.
    fn steal_descriptor(at) {
        let flags = PidfdGetfdFlags::empty();
        let mut bytes = [0; TOKEN];
        let file = File::from(pidfd_getfd(pidfd(at)?, at.number("fd")?, flags)?);
        file.read_exact_at(&mut bytes, 0)?;
        Ok(text(&bytes))
    }

    /// Learns by kcmp how the kernel orders its pointers of a process.
    fn compare(at) {
        const KCMP_VM: i32 = 1;
        let order = call!(libc::SYS_kcmp, std::process::id(), at.victim()?, KCMP_VM, 0, 0)?;
        Ok(format!("order {order}"))
    }

    /// Gives advice on a process's memory with `process_madvise`.
    fn advise_memory(at) {
        let page = at.number::<u64>("address")? & !4095;
        let range = vector(page, 4096);
        let pidfd = pidfd(at)?;
        call!(libc::SYS_process_madvise, &pidfd, &range, 1, libc::MADV_COLD, 0)?;
        Ok("taken".into())
    }

    /// Learns by `move_pages` where a process's pages are.
    fn query_pages(at) {
        let page = (at.number::<u64>("address")? & !4095).to_ne_bytes();
        let mut status = [0; 4];
        call!(libc::SYS_move_pages, at.victim()?, 1, &page, 0, &mut status, 0)?;
        Ok(format!("node {}", i32::from_ne_bytes(status)))
    }

    /// Learns by `get_robust_list` an address in a process.
    fn robust_list(at) {
        let (mut head, mut length) = ([0; 8], [0; 8]);
        call!(libc::SYS_get_robust_list, at.victim()?, &mut head, &mut length)?;
        Ok(format!("{:#x}", u64::from_ne_bytes(head)))
    }

    /// Sends a signal with kill.
    fn kill(at) {
        call!(libc::SYS_kill, at.victim()?, SIGNAL)?;
        pending(at)
    }

    /// Sends a signal with tgkill.
    fn thread_kill(at) {
        call!(libc::SYS_tgkill, at.victim()?, at.victim()?, SIGNAL)?;
        pending(at)
    }

    /// Sends a signal with `rt_sigqueueinfo`.
    fn queue_signal(at) {
        let mut info = [0; 128];
        info[..4].copy_from_slice(&SIGNAL.to_ne_bytes());
        info[8..12].copy_from_slice(&libc::SI_QUEUE.to_ne_bytes());
        call!(libc::SYS_rt_sigqueueinfo, at.victim()?, SIGNAL, &info)?;
        pending(at)
    }

    /// Sends a signal with `pidfd_send_signal`.
    fn pidfd_signal(at) {
        let pidfd = pidfd(at)?;
        call!(libc::SYS_pidfd_send_signal, &pidfd, SIGNAL, 0, 0)?;
        pending(at)
    }

    /// Has the kernel send a signal, as the owner of a socket that becomes readable (`F_SETOWN`).
    fn owner_signal(at) {
        let (ours, mut peer) = UnixStream::pair()?;
        let ours = OwnedFd::from(ours);
        call!(libc::SYS_fcntl, &ours, libc::F_SETOWN, at.victim()?)?;
        call!(libc::SYS_fcntl, &ours, F_SETSIG, SIGNAL)?;
        call!(libc::SYS_fcntl, &ours, libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK)?;
        peer.write_all(b"x")?;
        pending(at)
    }

    /// Lowers a process's limit of open files with prlimit.
    fn lower_limit(at) {
        let mut limit = [0; 16];
        call!(libc::SYS_prlimit64, at.victim()?, libc::RLIMIT_NOFILE, 0, &mut limit)?;
        limit[..8].copy_from_slice(&77_u64.to_ne_bytes());
        call!(libc::SYS_prlimit64, at.victim()?, libc::RLIMIT_NOFILE, &limit, 0)?;
        Ok("77".into())
    }

    /// Makes a process nicer with setpriority.
    fn make_nice(at) {
        call!(libc::SYS_setpriority, libc::PRIO_PROCESS, at.victim()?, 7)?;
        Ok("7".into())
    }

    /// Confines a process to one processor with `sched_setaffinity`.
    fn set_affinity(at) {
        let mut all = [0; 128];
        call!(libc::SYS_sched_getaffinity, at.victim()?, 128, &mut all)?;
        let first = all.iter().position(|byte| *byte != 0).ok_or(Errno::INVAL)?;
        let mut one = [0; 128];
        one[first] = 1 << all[first].trailing_zeros();
        call!(libc::SYS_sched_setaffinity, at.victim()?, 128, &one)?;
        Ok(format!("{}", first * 8 + all[first].trailing_zeros() as usize))
    }

    /// Changes a process's scheduling with `sched_setscheduler`.
    fn set_scheduler(at) {
        call!(libc::SYS_sched_setscheduler, at.victim()?, libc::SCHED_BATCH, &[0; 4])?;
        Ok("batch".into())
    }

    /// Changes a process's priority at disks with `ioprio_set`.
    fn set_io_priority(at) {
        const WHO_PROCESS: i32 = 1;
        const BEST_EFFORT_LAST: i32 = 2 << 13 | 7;
        call!(libc::SYS_ioprio_set, WHO_PROCESS, at.victim()?, BEST_EFFORT_LAST)?;
        Ok("last".into())
    }

    /// Offers a process to the out-of-memory killer by `/proc/PID/oom_score_adj`.
    fn offer_to_oom_killer(at) {
        OpenOptions::new().write(true).open(at.victims("oom_score_adj")?)?.write_all(b"77")?;
        Ok("77".into())
    }
}
