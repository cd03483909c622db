//! A launch, compiled: the system calls that a child makes, with their arguments ready.
//!
//! Between clone and exec a child runs no mechanism's code. It makes the calls of a [`Program`] in
//! order, compares each result with what the [`Op`] expects, and stops at the first that differs.

use std::ffi::CString;
use std::fmt;
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;

/// One instruction of a classic BPF program, as [seccomp(2)] takes them.
///
/// [seccomp(2)]: https://man7.org/linux/man-pages/man2/seccomp.2.html
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct BpfInstruction {
    /// The operation.
    pub code: u16,
    /// The jump when true, in instructions.
    pub jt: u8,
    /// The jump when false, in instructions.
    pub jf: u8,
    /// The constant.
    pub k: u32,
}

/// An argument of a system call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Arg {
    /// A number.
    Int(u64),
    /// A file descriptor.
    Fd(RawFd),
    /// The address of bytes that the program owns and the call reads.
    Bytes(Box<[u8]>),
    /// The address of as many bytes, for the call to write.
    Buffer(usize),
    /// The address of a NULL-terminated vector of C strings.
    Strings(Box<[CString]>),
    /// The address of a `sock_fprog`.
    Filter(Box<[BpfInstruction]>),
    /// What an earlier op returned.
    Result(OpId),
    /// A number that nobody may learn.
    Nonce(u64),
}

/// An fd by its number, or the one that an earlier op returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FdArg(Arg);

impl From<RawFd> for FdArg {
    fn from(fd: RawFd) -> Self {
        Self(Arg::Fd(fd))
    }
}

impl From<OpId> for FdArg {
    fn from(id: OpId) -> Self {
        Self(Arg::Result(id))
    }
}

/// Names an op of the program that is being made, for [`Arg::Result`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpId(usize);

impl OpId {
    pub(crate) fn new(index: usize) -> Self {
        Self(index)
    }

    /// The op's place in the program.
    pub fn index(self) -> usize {
        self.0
    }
}

/// What a call must return for the child to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expect {
    /// Zero.
    Zero,
    /// No error.
    NonNegative,
    /// This value.
    Value(i64),
    /// The pid of the process that made the child: it still lives.
    ParentPid,
    /// No error, or one of these errnos.
    Tolerate(Box<[i32]>),
}

/// Whose op it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The launcher's own.
    Launcher,
    /// The mechanism at this place of the schedule.
    Entry(usize),
}

/// One system call, with its arguments ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    name: &'static str,
    number: i64,
    args: Vec<Arg>,
    expect: Expect,
}

impl Op {
    /// Any system call.
    ///
    /// # Safety
    ///
    /// The call runs in a child that shares the launcher's memory until the exec. It must not write
    /// outside the [`Arg::Buffer`]s given to it, map, unmap or protect memory, install signal
    /// handlers, or make a thread or a process.
    ///
    /// # Panics
    ///
    /// With more than six arguments: no system call takes more.
    #[allow(unsafe_code, reason = "the one constructor that takes any call")]
    pub unsafe fn raw(name: &'static str, number: i64, args: Vec<Arg>, expect: Expect) -> Self {
        assert!(args.len() <= 6, "{name}: a system call takes six arguments at the most");
        Self { name, number, args, expect }
    }

    #[allow(unsafe_code, reason = "what the named constructors are made with")]
    fn new(name: &'static str, number: i64, args: Vec<Arg>, expect: Expect) -> Self {
        // SAFETY: each constructor below names a call that writes to nothing but its own buffer and
        // changes neither memory, handlers nor tasks.
        unsafe { Self::raw(name, number, args, expect) }
    }

    /// [close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html) of `first` to
    /// `last`, both included.
    pub fn close_range(first: u32, last: u32) -> Self {
        Self::close_range_with(first, last, 0)
    }

    /// [close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html) with
    /// `CLOSE_RANGE_UNSHARE`: the same, in a table of fds of its own from then on, for a child that has had its
    /// parent's so far.
    pub fn close_range_unshared(first: u32, last: u32) -> Self {
        Self::close_range_with(first, last, libc::CLOSE_RANGE_UNSHARE)
    }

    /// [close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html) with
    /// `CLOSE_RANGE_CLOEXEC`: everything from `first` on is closed by the exec.
    pub fn close_on_exec_from(first: u32) -> Self {
        Self::close_range_with(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
    }

    fn close_range_with(first: u32, last: u32, flags: u32) -> Self {
        let args = [first, last, flags].map(|it| Arg::Int(it.into())).to_vec();
        Self::new("close_range", libc::SYS_close_range, args, Expect::Zero)
    }

    /// [dup3(2)](https://man7.org/linux/man-pages/man2/dup.2.html): `to` becomes a copy of `from`,
    /// without close-on-exec.
    pub fn dup3(from: impl Into<FdArg>, to: RawFd) -> Self {
        let args = vec![from.into().0, Arg::Fd(to), Arg::Int(0)];
        Self::new("dup3", libc::SYS_dup3, args, Expect::Value(to.into()))
    }

    /// `fcntl(fd, F_DUPFD_CLOEXEC, least)` of
    /// [fcntl(2)](https://man7.org/linux/man-pages/man2/F_DUPFD.2const.html): a copy at the lowest
    /// free number from `least` on.
    pub fn dup_from(fd: RawFd, least: u32) -> Self {
        let args = vec![Arg::Fd(fd), int(libc::F_DUPFD_CLOEXEC), Arg::Int(least.into())];
        Self::new("fcntl", libc::SYS_fcntl, args, Expect::NonNegative)
    }

    /// [ftruncate(2)](https://man7.org/linux/man-pages/man2/truncate.2.html): a file that is open for
    /// writing has this length.
    pub fn ftruncate(fd: RawFd, length: u64) -> Self {
        let args = vec![Arg::Fd(fd), Arg::Int(length)];
        Self::new("ftruncate", libc::SYS_ftruncate, args, Expect::Zero)
    }

    /// `lseek(fd, 0, SEEK_SET)` of [lseek(2)](https://man7.org/linux/man-pages/man2/lseek.2.html): what is read or
    /// written next is a file's begin.
    pub fn rewind(fd: RawFd) -> Self {
        let args = vec![Arg::Fd(fd), Arg::Int(0), int(libc::SEEK_SET)];
        Self::new("lseek", libc::SYS_lseek, args, Expect::Zero)
    }

    /// [fchdir(2)](https://man7.org/linux/man-pages/man2/chdir.2.html).
    pub fn fchdir(fd: RawFd) -> Self {
        Self::new("fchdir", libc::SYS_fchdir, vec![Arg::Fd(fd)], Expect::Zero)
    }

    /// `prctl(PR_SET_NO_NEW_PRIVS, 1)` of
    /// [prctl(2)](https://man7.org/linux/man-pages/man2/PR_SET_NO_NEW_PRIVS.2const.html): no exec
    /// after it grants a privilege.
    pub fn no_new_privs() -> Self {
        Self::prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0])
    }

    /// `prctl(PR_SET_PDEATHSIG, signal)` of
    /// [prctl(2)](https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html).
    pub fn parent_death_signal(signal: i32) -> Self {
        let args = vec![int(libc::PR_SET_PDEATHSIG), int(signal)];
        Self::new("prctl", libc::SYS_prctl, args, Expect::Zero)
    }

    /// `prctl(PR_SET_DUMPABLE, 0)` of
    /// [prctl(2)](https://man7.org/linux/man-pages/man2/PR_SET_DUMPABLE.2const.html): nobody without
    /// `CAP_SYS_PTRACE` traces the child. It is of the memory, and so for the launcher too.
    pub fn not_dumpable() -> Self {
        Self::prctl(libc::PR_SET_DUMPABLE, [0; 4])
    }

    /// [getppid(2)](https://man7.org/linux/man-pages/man2/getppid.2.html), which must still be the
    /// launcher: one that died before [`parent_death_signal`](Self::parent_death_signal) sent none.
    pub fn parent_is_alive() -> Self {
        Self::new("getppid", libc::SYS_getppid, vec![], Expect::ParentPid)
    }

    /// [rt_sigprocmask(2)](https://man7.org/linux/man-pages/man2/sigprocmask.2.html): no signal stays
    /// blocked.
    pub fn empty_signal_mask() -> Self {
        let empty = Arg::Bytes(vec![0; 8].into());
        let args = vec![int(libc::SIG_SETMASK), empty, Arg::Int(0), Arg::Int(8)];
        Self::new("rt_sigprocmask", libc::SYS_rt_sigprocmask, args, Expect::Zero)
    }

    /// [rt_sigaction(2)](https://man7.org/linux/man-pages/man2/sigaction.2.html): `signal` has its
    /// default action. (An ignored signal stays ignored across exec.)
    pub fn default_action(signal: i32) -> Self {
        // struct kernel_sigaction: handler (SIG_DFL is 0), flags, restorer, mask.
        let action = Arg::Bytes(vec![0; 32].into());
        let args = vec![int(signal), action, Arg::Int(0), Arg::Int(8)];
        Self::new("rt_sigaction", libc::SYS_rt_sigaction, args, Expect::Zero)
    }

    /// [prlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html) of the child itself: an
    /// `RLIMIT_…` and its soft and hard value.
    pub fn prlimit(resource: u32, soft: u64, hard: u64) -> Self {
        let limit = [soft.to_ne_bytes(), hard.to_ne_bytes()].concat();
        let args =
            vec![Arg::Int(0), Arg::Int(resource.into()), Arg::Bytes(limit.into()), Arg::Int(0)];
        Self::new("prlimit64", libc::SYS_prlimit64, args, Expect::Zero)
    }

    /// [read(2)](https://man7.org/linux/man-pages/man2/read.2.html), which must bring all of `length`
    /// bytes at once.
    pub fn read_exactly(fd: RawFd, length: u32) -> Self {
        let args = vec![Arg::Fd(fd), Arg::Buffer(length as usize), Arg::Int(length.into())];
        Self::new("read", libc::SYS_read, args, Expect::Value(length.into()))
    }

    /// [write(2)](https://man7.org/linux/man-pages/man2/write.2.html), which must take all of `bytes` at
    /// once.
    pub fn write_all(fd: RawFd, bytes: Vec<u8>) -> Self {
        let length = bytes.len() as u64;
        let args = vec![Arg::Fd(fd), Arg::Bytes(bytes.into()), Arg::Int(length)];
        let expect = Expect::Value(i64::try_from(length).unwrap_or(i64::MAX));
        Self::new("write", libc::SYS_write, args, expect)
    }

    /// [landlock_restrict_self(2)](https://man7.org/linux/man-pages/man2/landlock_restrict_self.2.html),
    /// with its `LANDLOCK_RESTRICT_SELF_…` flags.
    pub fn landlock_restrict_self(ruleset: RawFd, flags: u32) -> Self {
        let args = vec![Arg::Fd(ruleset), Arg::Int(flags.into())];
        Self::new("landlock_restrict_self", libc::SYS_landlock_restrict_self, args, Expect::Zero)
    }

    /// [seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html) with
    /// `SECCOMP_SET_MODE_FILTER`, and its `SECCOMP_FILTER_FLAG_…` flags. (No flag that returns an fd: it
    /// would be one more that the workload has.)
    pub fn seccomp_set_filter(filter: Vec<BpfInstruction>, flags: u32) -> Self {
        let mode = Arg::Int(libc::SECCOMP_SET_MODE_FILTER.into());
        let args = vec![mode, Arg::Int(flags.into()), Arg::Filter(filter.into())];
        Self::new("seccomp", libc::SYS_seccomp, args, Expect::Zero)
    }

    /// [umask(2)](https://man7.org/linux/man-pages/man2/umask.2.html).
    pub fn umask(mask: u32) -> Self {
        Self::new("umask", libc::SYS_umask, vec![Arg::Int(mask.into())], Expect::NonNegative)
    }

    /// [setsid(2)](https://man7.org/linux/man-pages/man2/setsid.2.html): a session of its own, without
    /// a controlling terminal.
    pub fn setsid() -> Self {
        Self::new("setsid", libc::SYS_setsid, vec![], Expect::NonNegative)
    }

    /// [setpriority(2)](https://man7.org/linux/man-pages/man2/setpriority.2.html) of the child itself:
    /// its nice value.
    pub fn set_priority(nice: i32) -> Self {
        let args = vec![Arg::Int(0), Arg::Int(0), signed(nice)];
        Self::new("setpriority", libc::SYS_setpriority, args, Expect::Zero)
    }

    /// [sched_setaffinity(2)](https://man7.org/linux/man-pages/man2/sched_setaffinity.2.html) of the
    /// child itself: a bit for each CPU, as many bytes as the kernel's words make.
    pub fn set_affinity(mask: Vec<u8>) -> Self {
        let args = vec![Arg::Int(0), Arg::Int(mask.len() as u64), Arg::Bytes(mask.into())];
        Self::new("sched_setaffinity", libc::SYS_sched_setaffinity, args, Expect::Zero)
    }

    /// [sched_setscheduler(2)](https://man7.org/linux/man-pages/man2/sched_setscheduler.2.html) of the
    /// child itself: a `SCHED_…` policy and its static priority.
    pub fn set_scheduler(policy: i32, priority: i32) -> Self {
        let parameter = Arg::Bytes(priority.to_ne_bytes().to_vec().into());
        let args = vec![Arg::Int(0), signed(policy), parameter];
        Self::new("sched_setscheduler", libc::SYS_sched_setscheduler, args, Expect::Zero)
    }

    /// [ioprio_set(2)](https://man7.org/linux/man-pages/man2/ioprio_set.2.html) of the child itself: the
    /// class in the bits from 13 on, the level below.
    pub fn set_io_priority(priority: u32) -> Self {
        const IOPRIO_WHO_PROCESS: u64 = 1;
        let args = vec![Arg::Int(IOPRIO_WHO_PROCESS), Arg::Int(0), Arg::Int(priority.into())];
        Self::new("ioprio_set", libc::SYS_ioprio_set, args, Expect::Zero)
    }

    /// `prctl(PR_SET_TIMERSLACK)` of
    /// [prctl(2)](https://man7.org/linux/man-pages/man2/PR_SET_TIMERSLACK.2const.html), in nanoseconds.
    pub fn set_timer_slack(nanoseconds: u64) -> Self {
        Self::prctl(libc::PR_SET_TIMERSLACK, [nanoseconds, 0, 0, 0])
    }

    /// `prctl(PR_SET_THP_DISABLE, 1)` of
    /// [prctl(2)](https://man7.org/linux/man-pages/man2/PR_SET_THP_DISABLE.2const.html): no transparent
    /// huge pages. The exec hands it on.
    pub fn disable_huge_pages() -> Self {
        Self::prctl(libc::PR_SET_THP_DISABLE, [1, 0, 0, 0])
    }

    /// [personality(2)](https://man7.org/linux/man-pages/man2/personality.2.html).
    pub fn set_personality(persona: u32) -> Self {
        let args = vec![Arg::Int(persona.into())];
        Self::new("personality", libc::SYS_personality, args, Expect::NonNegative)
    }

    /// [setgroups(2)](https://man7.org/linux/man-pages/man2/setgroups.2.html): the supplementary groups.
    pub fn set_groups(groups: &[u32]) -> Self {
        let list = groups.iter().flat_map(|group| group.to_ne_bytes()).collect::<Vec<_>>();
        let args = vec![Arg::Int(groups.len() as u64), Arg::Bytes(list.into())];
        Self::new("setgroups", libc::SYS_setgroups, args, Expect::Zero)
    }

    /// [setresgid(2)](https://man7.org/linux/man-pages/man2/setresgid.2.html): the real, effective and
    /// saved group.
    pub fn set_gid(gid: u32) -> Self {
        let args = vec![Arg::Int(gid.into()); 3];
        Self::new("setresgid", libc::SYS_setresgid, args, Expect::Zero)
    }

    /// [setresuid(2)](https://man7.org/linux/man-pages/man2/setresuid.2.html): the real, effective and
    /// saved user. Another one than before clears the
    /// [parent-death signal](Self::parent_death_signal).
    pub fn set_uid(uid: u32) -> Self {
        let args = vec![Arg::Int(uid.into()); 3];
        Self::new("setresuid", libc::SYS_setresuid, args, Expect::Zero)
    }

    /// `prctl(PR_SET_KEEPCAPS, 1)` of
    /// [prctl(2)](https://man7.org/linux/man-pages/man2/PR_SET_KEEPCAPS.2const.html): until the exec, the
    /// permitted set survives a change from uid 0 to another.
    pub fn keep_capabilities() -> Self {
        Self::prctl(libc::PR_SET_KEEPCAPS, [1, 0, 0, 0])
    }

    /// `prctl(PR_CAPBSET_DROP)` of
    /// [prctl(2)](https://man7.org/linux/man-pages/man2/PR_CAPBSET_DROP.2const.html): takes a capability,
    /// by its number, out of the bounding set.
    pub fn drop_from_bounding_set(capability: u32) -> Self {
        Self::prctl(libc::PR_CAPBSET_DROP, [capability.into(), 0, 0, 0])
    }

    /// [capset(2)](https://man7.org/linux/man-pages/man2/capset.2.html) of the child itself: sets as
    /// bits, capability 0 the lowest.
    pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> Self {
        // _LINUX_CAPABILITY_VERSION_3, and pid 0 for the caller.
        let header: [u32; 2] = [0x2008_0522, 0];
        let half = |set: u64, shift: u32| (set >> shift & 0xffff_ffff) as u32;
        let data =
            [0, 32].map(|shift| [effective, permitted, inheritable].map(|set| half(set, shift)));
        let bytes =
            |words: &[u32]| words.iter().flat_map(|it| it.to_ne_bytes()).collect::<Vec<_>>();
        let args =
            vec![Arg::Bytes(bytes(&header).into()), Arg::Bytes(bytes(data.as_flattened()).into())];
        Self::new("capset", libc::SYS_capset, args, Expect::Zero)
    }

    /// `prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)` of
    /// [prctl(2)](https://man7.org/linux/man-pages/man2/PR_CAP_AMBIENT.2const.html).
    pub fn clear_ambient_set() -> Self {
        const CLEAR_ALL: u64 = 4;
        Self::prctl(libc::PR_CAP_AMBIENT, [CLEAR_ALL, 0, 0, 0])
    }

    /// `prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE)` of
    /// [prctl(2)](https://man7.org/linux/man-pages/man2/PR_CAP_AMBIENT.2const.html): adds a capability,
    /// by its number, that is permitted and inheritable.
    pub fn raise_ambient(capability: u32) -> Self {
        const RAISE: u64 = 2;
        Self::prctl(libc::PR_CAP_AMBIENT, [RAISE, capability.into(), 0, 0])
    }

    /// `prctl(PR_SET_SECUREBITS)` of
    /// [prctl(2)](https://man7.org/linux/man-pages/man2/PR_SET_SECUREBITS.2const.html).
    pub fn set_securebits(bits: u32) -> Self {
        Self::prctl(libc::PR_SET_SECUREBITS, [bits.into(), 0, 0, 0])
    }

    /// The kernel rejects some of its options unless the arguments that they do not use are zero.
    fn prctl(option: i32, arguments: [u64; 4]) -> Self {
        let args = [int(option)].into_iter().chain(arguments.map(Arg::Int)).collect();
        Self::new("prctl", libc::SYS_prctl, args, Expect::Zero)
    }

    /// [execveat(2)](https://man7.org/linux/man-pages/man2/execveat.2.html) of the file that `fd` is,
    /// by `AT_EMPTY_PATH`: no path is looked up.
    pub fn execveat(fd: impl Into<FdArg>, argv: Vec<CString>, envp: Vec<CString>) -> Self {
        let (arguments, environment) = (Arg::Strings(argv.into()), Arg::Strings(envp.into()));
        let empty = Arg::Bytes(vec![0].into());
        let args = vec![fd.into().0, empty, arguments, environment, int(libc::AT_EMPTY_PATH)];
        // It returns only to fail.
        Self::new("execveat", libc::SYS_execveat, args, Expect::Zero)
    }

    /// With a sixth argument. [execveat(2)](https://man7.org/linux/man-pages/man2/execveat.2.html) takes
    /// five: the kernel ignores the register, and a filter sees it.
    #[must_use]
    pub fn with_nonce(mut self, nonce: u64) -> Self {
        self.args.resize(5, Arg::Int(0));
        self.args.push(Arg::Nonce(nonce));
        self
    }

    /// [execve(2)](https://man7.org/linux/man-pages/man2/execve.2.html) of the file at `path`: for a
    /// supervisor that was given a path to its launcher, never for a workload.
    pub fn execve(path: CString, argv: Vec<CString>, envp: Vec<CString>) -> Self {
        let path = Arg::Bytes(path.into_bytes_with_nul().into());
        let args = vec![path, Arg::Strings(argv.into()), Arg::Strings(envp.into())];
        Self::new("execve", libc::SYS_execve, args, Expect::Zero)
    }

    /// The call's name, as its manual page has it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The call's number on this architecture.
    pub fn number(&self) -> i64 {
        self.number
    }

    /// The arguments that are given; those that are not are zero.
    pub fn args(&self) -> &[Arg] {
        &self.args
    }

    /// What it must return.
    pub fn expect(&self) -> &Expect {
        &self.expect
    }

    /// Whether the call takes the place of the child's program, and so can't be counted off by it.
    pub fn is_exec(&self) -> bool {
        self.number == libc::SYS_execveat || self.number == libc::SYS_execve
    }

    pub(crate) fn relocate(&mut self, places: &[usize]) {
        for arg in &mut self.args {
            if let Arg::Result(id) = arg {
                *id = OpId(places[id.0]);
            }
        }
    }
}

/// A register's bits of a number with a sign.
fn signed(value: i32) -> Arg {
    Arg::Int(u64::from_ne_bytes(i64::from(value).to_ne_bytes()))
}

/// Constants of the kernel's interface, which C declares as `int`.
fn int(value: i32) -> Arg {
    Arg::Int(u64::from(value.unsigned_abs()))
}

impl fmt::Display for Arg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) if *value >= u64::from(u32::MAX) => f.write_str("~0"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Fd(fd) => write!(f, "fd {fd}"),
            Self::Bytes(bytes) if bytes.iter().all(|byte| *byte == 0) => {
                write!(f, "[0; {}]", bytes.len())
            }
            Self::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) if text.chars().all(|it| it == '\n' || !it.is_control()) => {
                    const SHOWN: usize = 40;
                    let shown: String = text.chars().take(SHOWN).collect();
                    write!(f, "{shown:?}{}", if shown.len() < text.len() { "..." } else { "" })
                }
                _ => write!(f, "{bytes:?}"),
            },
            Self::Buffer(length) => write!(f, "buffer of {length}"),
            Self::Strings(strings) => f.debug_list().entries(strings.iter()).finish(),
            Self::Filter(filter) => write!(f, "filter of {} instructions", filter.len()),
            Self::Result(id) => write!(f, "result of step {}", id.0),
            Self::Nonce(_) => f.write_str("nonce"),
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("0"),
            Self::NonNegative => f.write_str("no error"),
            Self::Value(value) => write!(f, "{value}"),
            Self::ParentPid => f.write_str("the launcher's pid"),
            Self::Tolerate(errnos) => write!(f, "no error, or errno {errnos:?}"),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.name)?;
        for (index, arg) in self.args.iter().enumerate() {
            write!(f, "{}{arg}", if index > 0 { ", " } else { "" })?;
        }
        f.write_str(")")?;
        if self.is_exec() { Ok(()) } else { write!(f, " = {}", self.expect) }
    }
}

/// What a child does, from its first instruction to its last, and the fds that it does it with.
#[derive(Debug, Default)]
pub struct Program {
    pub(crate) ops: Vec<(Owner, Op)>,
    #[expect(dead_code, reason = "held open for the ops that name them")]
    pub(crate) owned: Vec<Rc<OwnedFd>>,
}

impl Program {
    /// A program of the launcher's own ops.
    pub fn of(ops: impl IntoIterator<Item = Op>) -> Self {
        Self { ops: ops.into_iter().map(|op| (Owner::Launcher, op)).collect(), owned: Vec::new() }
    }

    /// Adds an op of the launcher's own.
    pub fn push(&mut self, op: Op) -> OpId {
        self.ops.push((Owner::Launcher, op));
        OpId(self.ops.len() - 1)
    }

    /// Adds an op of the launcher's own just before the last: what is to happen when all but the exec
    /// has.
    pub fn push_before_last(&mut self, op: Op) {
        self.ops.insert(self.ops.len().saturating_sub(1), (Owner::Launcher, op));
    }

    /// The ops, in the order in which the child makes them, each with its owner.
    pub fn ops(&self) -> &[(Owner, Op)] {
        &self.ops
    }

    /// How many of the first `done` ops are `owner`'s, and how many ops it has.
    pub fn counted_off(&self, owner: Owner, done: usize) -> (usize, usize) {
        let count = |ops: &[(Owner, Op)]| ops.iter().filter(|(who, _)| *who == owner).count();
        (count(&self.ops[..done.min(self.ops.len())]), count(&self.ops))
    }
}
