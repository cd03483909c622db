//! A launcher, step by step.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fs;
use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Register};
use nix::errno::Errno;
use nix::libc::user_regs_struct;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How many instructions were executed, and what they touched.
#[derive(Default)]
pub(crate) struct Counted {
    pub(crate) instructions: u64,
    /// Where the launcher's code and constants are, and from where on in its file.
    image: Vec<(Range<u64>, u64)>,
    /// The file: the memory of a launcher that is out of reach is read by nobody without privileges.
    file: Vec<u8>,
    decoded: HashMap<u64, Instruction>,
    known: HashSet<u64>,
    /// In the order in which they first were.
    pub(crate) addresses: Vec<u64>,
}

impl Counted {
    /// The process has become the launcher.
    fn begin(&mut self, pid: Pid) -> Result<(), Box<dyn Error>> {
        let program = fs::read_link(format!("/proc/{pid}/exe"))?;
        self.file = fs::read(&program)?;
        let hex = |text| u64::from_str_radix(text, 16);
        for line in fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
            let fields: Vec<_> = line.split_whitespace().collect();
            let [place, permissions, offset, _, _, path] = fields[..] else { continue };
            let Some((start, end)) = place.split_once('-') else { continue };
            if program.as_os_str() == path && !permissions.contains('w') {
                self.image.push((hex(start)?..hex(end)?, hex(offset)?));
            }
        }
        if self.has_begun() { Ok(()) } else { Err("a program that is not mapped".into()) }
    }

    fn has_begun(&self) -> bool {
        !self.image.is_empty()
    }

    /// An instruction is about to be executed.
    fn add(&mut self, pid: Pid) -> Result<(), Errno> {
        self.instructions += 1;
        let registers = ptrace::getregs(pid)?;
        let address = registers.rip;
        self.touch(address);
        let Some(decoded) = self.decode(address) else { return Ok(()) };
        let mut info = InstructionInfoFactory::new();
        for memory in info.info(&decoded).used_memory() {
            let value = |register, _, _| value(&registers, register);
            if let Some(address) = memory.virtual_address(0, value) {
                self.touch(address);
            }
        }
        Ok(())
    }

    /// The instruction at an address; `None` where it is none of the launcher's file.
    fn decode(&mut self, address: u64) -> Option<Instruction> {
        if let Some(decoded) = self.decoded.get(&address) {
            return Some(*decoded);
        }
        let bytes = self.file.get(self.place(address)?..)?;
        let decoded = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode();
        self.decoded.insert(address, decoded);
        Some(decoded)
    }

    /// Where in the file an address is; `None` where it is elsewhere.
    fn place(&self, address: u64) -> Option<usize> {
        let (mapping, offset) = self.image.iter().find(|(it, _)| it.contains(&address))?;
        usize::try_from(address - mapping.start + offset).ok()
    }

    fn touch(&mut self, address: u64) {
        if self.place(address).is_some() && self.known.insert(address) {
            self.addresses.push(address);
        }
    }
}

/// Counts what `pid` does when `go` has let it go on.
pub(crate) fn count(
    pid: Pid,
    go: impl FnOnce() -> std::io::Result<()>,
) -> Result<Counted, Box<dyn Error>> {
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
    let mut counted = Counted::default();
    loop {
        match waitpid(None, Some(WaitPidFlag::__WALL)) {
            // The workload's: it goes its own way.
            Ok(WaitStatus::PtraceEvent(who, _, event))
                if event == Event::PTRACE_EVENT_EXEC as i32 && counted.has_begun() =>
            {
                ptrace::detach(who, None)?;
            }
            Ok(WaitStatus::PtraceEvent(who, ..)) => {
                if !counted.has_begun() {
                    counted.begin(who)?;
                }
                ptrace::step(who, None)?;
            }
            Ok(WaitStatus::Stopped(who, Signal::SIGTRAP)) => {
                counted.add(who)?;
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

/// What a register holds that an address is made of.
fn value(registers: &user_regs_struct, register: Register) -> Option<u64> {
    Some(match register.full_register() {
        Register::RAX => registers.rax,
        Register::RBX => registers.rbx,
        Register::RCX => registers.rcx,
        Register::RDX => registers.rdx,
        Register::RSI => registers.rsi,
        Register::RDI => registers.rdi,
        Register::RBP => registers.rbp,
        Register::RSP => registers.rsp,
        Register::R8 => registers.r8,
        Register::R9 => registers.r9,
        Register::R10 => registers.r10,
        Register::R11 => registers.r11,
        Register::R12 => registers.r12,
        Register::R13 => registers.r13,
        Register::R14 => registers.r14,
        Register::R15 => registers.r15,
        Register::FS => registers.fs_base,
        Register::GS => registers.gs_base,
        Register::CS | Register::DS | Register::ES | Register::SS => 0,
        _ => return None,
    })
}
