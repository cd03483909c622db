//! Doors into the kernel, and what is the machine's.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

use crate::attempt::{Attempt, Failure, escapes, reached};
use crate::files::c;
use crate::ring::{Operation, Ring};
use crate::sys::{call, owned};

/// Opens for writing, and writes nothing.
fn writable(path: impl AsRef<Path>) -> Attempt {
    let path = path.as_ref();
    match OpenOptions::new().write(true).open(path) {
        Ok(_) => Ok(format!("{} is open for writing", path.display())),
        Err(error) => absent(error, path),
    }
}

fn readable(path: impl AsRef<Path>) -> Attempt {
    let path = path.as_ref();
    match File::open(path) {
        Ok(_) => Ok(format!("{} is open", path.display())),
        Err(error) => absent(error, path),
    }
}

fn absent(error: std::io::Error, path: &Path) -> Attempt {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => {
            Err(Failure::Unavailable(format!("{}: {error}", path.display())))
        }
        _ => Err(error.into()),
    }
}

/// What `modify_ldt` takes for reading.
#[cfg(target_arch = "x86_64")]
const READ_TABLE: i32 = 0;
/// The numbers of `/dev/null`.
const NULL_DEVICE: i32 = 1 << 8 | 3;

/// A call that only some architectures have.
macro_rules! only_x86 {
    ($name:ident: $body:block) => {
        #[cfg(target_arch = "x86_64")]
        fn $name() -> Attempt $body
        #[cfg(not(target_arch = "x86_64"))]
        fn $name() -> Attempt {
            Err(Failure::Unavailable("this architecture does not have it".into()))
        }
    };
}
only_x86!(port_permission: { reached(call!(libc::SYS_ioperm, 0x80, 1, 1), &[]) });
only_x86!(port_level: { reached(call!(libc::SYS_iopl, 3), &[]) });
only_x86!(load_library: { reached(call!(libc::SYS_uselib, c"/nonexistent"), &[Errno::NOENT]) });
only_x86!(descriptor_table: {
    let mut table = [0; 64];
    reached(call!(libc::SYS_modify_ldt, READ_TABLE, &mut table, 64), &[])
});
only_x86!(i386: {
    let pid = crate::sys::getpid_of_i386();
    if pid == i64::from(std::process::id()) {
        Ok(format!("getpid said {pid}"))
    } else {
        let errno = i32::try_from(-pid).unwrap_or(libc::EINVAL);
        Err(Errno::from_raw_os_error(errno).into())
    }
});
only_x86!(x32: {
    const X32: i64 = 0x4000_0000;
    Ok(format!("getpid said {}", call!(X32 + libc::SYS_getpid)?))
});

/// A counter of processor time in user mode, which an unprivileged user may have.
fn clock(pid: i32) -> Attempt {
    const SOFTWARE: u32 = 1;
    const TASK_CLOCK: u64 = 1;
    // exclude_kernel and exclude_hv.
    const FLAGS: u64 = 0b110_0000;
    let mut attributes = [0; 128];
    attributes[..4].copy_from_slice(&SOFTWARE.to_ne_bytes());
    attributes[4..8].copy_from_slice(&128_u32.to_ne_bytes());
    attributes[8..16].copy_from_slice(&TASK_CLOCK.to_ne_bytes());
    attributes[40..48].copy_from_slice(&FLAGS.to_ne_bytes());
    owned(call!(libc::SYS_perf_event_open, &attributes, pid, -1, -1, 0)?)?;
    Ok("counting".into())
}

escapes! { "kernel":
    /// Makes a ring of `io_uring`.
    fn ring(_) {
        Ring::new()?;
        Ok("made".into())
    }

    /// Reads a file outside that a ring opens.
    fn ring_open(at) {
        const OPENAT: u8 = 18;
        let ring = Ring::new()?;
        let path = c(&at.outside("secret")?)?;
        let address = path.as_ptr().expose_provenance() as u64;
        let operation = Operation { code: OPENAT, fd: libc::AT_FDCWD, address, ..Operation::default() };
        let fd = owned(ring.perform(&operation)?)?;
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Makes a socket and connects it by a ring.
    fn ring_connect(at) {
        const SOCKET: u8 = 45;
        const CONNECT: u8 = 16;
        const STREAM: u64 = 1;
        let ring = Ring::new()?;
        let socket = Operation { code: SOCKET, fd: libc::AF_INET, offset: STREAM, ..Operation::default() };
        let socket = owned(ring.perform(&socket)?)?;
        let ring = Ring::new()?;
        let mut address = [2, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        address[2..4].copy_from_slice(&at.number::<u16>("tcp")?.to_be_bytes());
        let place = address.as_ptr().expose_provenance() as u64;
        let connect = Operation {
            code: CONNECT, fd: socket.as_raw_fd(), address: place, offset: 16, length: 0,
        };
        ring.perform(&connect)?;
        Ok("connected".into())
    }

    /// Handles page faults of its own, which lets it stop the kernel midway.
    fn userfaultfd(_) {
        const USER_MODE_ONLY: i32 = 1;
        owned(call!(libc::SYS_userfaultfd, USER_MODE_ONLY)?)?;
        Ok("made".into())
    }

    /// Makes a map of BPF.
    fn bpf(_) {
        const MAP_CREATE: i32 = 0;
        // An array of one: type, size of key, size of value, entries.
        let map: Vec<u8> = [2_u32, 4, 4, 1].into_iter().flat_map(u32::to_ne_bytes).collect();
        owned(call!(libc::SYS_bpf, MAP_CREATE, map.as_slice(), map.len())?)?;
        Ok("made".into())
    }

    /// Counts its own events.
    fn perf_own(_) {
        clock(0)
    }

    /// Counts a process's events.
    fn perf_foreign(at) {
        clock(at.victim()?)
    }

    /// Loads another kernel.
    fn load_kernel(_) {
        reached(call!(libc::SYS_kexec_load, 0, 0, 0, 0xffff), &[Errno::INVAL])
    }

    /// Loads another kernel from a file.
    fn load_kernel_file(_) {
        const KEXEC_FILE_LOAD: i64 = if cfg!(target_arch = "x86_64") { 320 } else { 294 };
        reached(call!(KEXEC_FILE_LOAD, -1, -1, 0, 0, 0xffff), &[Errno::INVAL])
    }

    /// Loads a module.
    fn load_module(_) {
        let wrong = [Errno::NOEXEC, Errno::INVAL, Errno::FAULT];
        reached(call!(libc::SYS_init_module, 0, 0, c""), &wrong)
    }

    /// Loads a module from a file.
    fn load_module_file(_) {
        reached(call!(libc::SYS_finit_module, -1, c"", 0), &[Errno::BADF])
    }

    /// Unloads a module.
    fn unload_module(_) {
        let name = c"portcullis_no_such_module";
        reached(call!(libc::SYS_delete_module, name, libc::O_NONBLOCK), &[Errno::NOENT])
    }

    /// Watches files of others with fanotify.
    fn fanotify(_) {
        const REPORT_FID: i32 = 0x200;
        owned(call!(libc::SYS_fanotify_init, REPORT_FID, 0)?)?;
        Ok("made".into())
    }

    /// Asks for the kernel's log.
    fn kernel_log(_) {
        const SIZE_BUFFER: i32 = 10;
        Ok(format!("{} bytes", call!(libc::SYS_syslog, SIZE_BUFFER, 0, 0)?))
    }

    /// Asks to set the time, to nothing.
    fn set_time(_) {
        reached(call!(libc::SYS_settimeofday, 0, 0), &[])
    }

    /// Asks to set the clock to before the machine was started, which no clock can be.
    fn set_clock(_) {
        reached(call!(libc::SYS_clock_settime, libc::CLOCK_REALTIME, &[0; 16]), &[Errno::INVAL])
    }

    /// Asks to adjust the clock, to a tick that no clock has.
    fn adjust_clock(_) {
        const ADJ_TICK: u32 = 0x4000;
        let mut timex = [0; 208];
        timex[..4].copy_from_slice(&ADJ_TICK.to_ne_bytes());
        reached(call!(libc::SYS_adjtimex, &mut timex), &[Errno::INVAL])
    }

    /// Asks to adjust the clock by `clock_adjtime`.
    fn adjust_clock_newly(_) {
        const ADJ_TICK: u32 = 0x4000;
        let mut timex = [0; 208];
        timex[..4].copy_from_slice(&ADJ_TICK.to_ne_bytes());
        let realtime = libc::CLOCK_REALTIME;
        reached(call!(libc::SYS_clock_adjtime, realtime, &mut timex), &[Errno::INVAL])
    }

    /// Asks to restart the machine, without the numbers that would.
    fn reboot(_) {
        reached(call!(libc::SYS_reboot, 0, 0, 0, 0), &[Errno::INVAL])
    }

    /// Asks to swap to a file that is not there.
    fn swap_on(_) {
        reached(call!(libc::SYS_swapon, c"/nonexistent/swap", 0), &[Errno::NOENT])
    }

    /// Asks to swap no more to a file that is not there.
    fn swap_off(_) {
        reached(call!(libc::SYS_swapoff, c"/nonexistent/swap"), &[Errno::NOENT])
    }

    /// Asks to account processes to a file that is not there.
    fn account(_) {
        reached(call!(libc::SYS_acct, c"/nonexistent/account"), &[Errno::NOENT])
    }

    /// Asks for quotas to be written.
    fn quota(_) {
        const SYNC_OF_USERS: i64 = 0x8000_0100;
        reached(call!(libc::SYS_quotactl, SYNC_OF_USERS, 0, 0, 0), &[])
    }

    /// Asks for a port of the machine.
    fn port(_) {
        port_permission()
    }

    /// Asks for all ports of the machine.
    fn all_ports(_) {
        port_level()
    }

    /// Looks at its local descriptor table.
    fn local_descriptor_table(_) {
        descriptor_table()
    }

    /// Loads a library by the kernel.
    fn use_library(_) {
        load_library()
    }

    /// Calls a server that is long gone.
    fn nfs_server(_) {
        reached(call!(libc::SYS_nfsservctl, 0, 0, 0), &[])
    }

    /// Makes its memory's addresses known beforehand (`ADDR_NO_RANDOMIZE`).
    fn personality(_) {
        const ADDR_NO_RANDOMIZE: i64 = 0x004_0000;
        reached(call!(libc::SYS_personality, ADDR_NO_RANDOMIZE), &[])
    }

    /// Makes a call by the 32-bit entry.
    fn call_by_i386(_) {
        i386()
    }

    /// Makes a call by the numbers of x32.
    fn call_by_x32(_) {
        x32()
    }

    /// Opens the kernel's parameters for writing: whom a core file is piped to.
    fn core_pattern(_) {
        writable("/proc/sys/kernel/core_pattern")
    }

    /// Opens the kernel's parameters for writing: the machine's name.
    fn kernel_parameter(_) {
        writable("/proc/sys/kernel/hostname")
    }

    /// Opens the magic keys for writing.
    fn magic_keys(_) {
        writable("/proc/sysrq-trigger")
    }

    /// Opens a file of /sys for writing.
    fn sys(_) {
        writable("/sys/kernel/mm/transparent_hugepage/enabled")
    }

    /// Opens for writing what is run when a cgroup is empty (CVE-2022-0492).
    fn release_agent(_) {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let agents = mounts.lines().filter_map(|line| {
            let mut fields = line.split(' ');
            let place = fields.nth(1)?;
            (fields.next()? == "cgroup").then(|| format!("{place}/release_agent"))
        });
        let mut denied = Failure::Unavailable("no cgroup of version 1".into());
        for agent in agents {
            match writable(agent) {
                Err(failure) => denied = failure,
                open => return open,
            }
        }
        Err(denied)
    }

    /// Opens for writing the list of a cgroup's processes.
    fn move_to_cgroup(_) {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let version_2 = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
        let place = version_2.and_then(|line| line.split(' ').nth(1));
        let none = || Failure::Unavailable("no cgroup of version 2".into());
        writable(format!("{}/cgroup.procs", place.ok_or_else(none)?))
    }

    /// Opens the machine's memory.
    fn physical_memory(_) {
        readable("/dev/mem")
    }

    /// Opens the kernel's memory.
    fn kernel_memory(_) {
        readable("/proc/kcore")
    }

    /// Opens the kernel's log for writing.
    fn write_kernel_log(_) {
        writable("/dev/kmsg")
    }

    /// Opens the disk that the root lies on.
    fn disk(_) {
        let mut disks: Vec<_> = fs::read_dir("/sys/class/block")
            .map(|found| found.flatten().map(|it| it.file_name()).collect())
            .unwrap_or_default();
        disks.sort();
        // Where /sys can't be listed a common name has to do.
        let first = disks.iter().map(|name| Path::new("/dev").join(name)).find(|path| path.exists());
        readable(first.unwrap_or_else(|| "/dev/vda".into()))
    }

    /// Makes a device of its own.
    fn make_device(at) {
        let path = c(&at.writable("device")?)?;
        call!(libc::SYS_mknodat, libc::AT_FDCWD, path.as_c_str(), libc::S_IFCHR | 0o600, NULL_DEVICE)?;
        Ok("made".into())
    }

    /// Reads a file outside by splicing a page of it, without read.
    fn splice_secret(at) {
        let secret = OwnedFd::from(File::open(at.outside("secret")?)?);
        let (read, write) = rustix::pipe::pipe()?;
        call!(libc::SYS_splice, &secret, 0, &write, 0, 36, 0)?;
        drop(write);
        let mut text = String::new();
        File::from(read).read_to_string(&mut text)?;
        Ok(text)
    }
}
