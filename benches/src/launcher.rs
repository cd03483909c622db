//! What the launcher itself takes, and a supervisor of the smallest kind for any launcher.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use portcullis::{Error, Stdio, Way};
use portcullis_core::plan::{LaunchPlan, Standing, lowering_digest};
use portcullis_core::program::{Op, Program};
use portcullis_core::registry::Registry;
use portcullis_mechanisms as _;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, open};
use rustix::io::pwrite;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::floor;
use crate::stage::Stage;
use crate::workload::{Workload, smallest};

/// The most memory that the launcher may be resident with, in KiB.
pub const PEAK_LIMIT: u64 = 2 << 10;
/// The most bytes that its file may have.
pub const SIZE_LIMIT: usize = 3 << 19;

/// The peak of a one-shot launcher's resident memory in KiB (`VmHWM` of
/// [proc_pid_status(5)](https://man7.org/linux/man-pages/man5/proc_pid_status.5.html)), read while its
/// workload runs: by then it has done all but wait.
///
/// # Errors
///
/// Those of the launch, and of reading `/proc`.
pub fn peak(stage: &Stage) -> Result<u64, Error> {
    let cat = Workload { name: "cat", program: "/bin/cat".into(), arguments: &[] };
    let mut command = stage.command(&cat);
    // It ends when its standard input does.
    let mut child = command.way(Way::Child).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let peak = high_water_mark(child.launcher_id());
    child.wait()?;
    Ok(peak)
}

/// The same of a resident launcher, when it has made a hundred launches of a stage.
///
/// # Errors
///
/// Those of the launches, and of reading `/proc`.
pub fn resident_peak(stage: &Stage) -> Result<u64, Error> {
    let template = stage.command(&smallest()).template()?;
    let resident = template.resident()?;
    for _ in 0..100 {
        resident.spawn(&template)?.wait()?;
    }
    Ok(high_water_mark(resident.id()))
}

fn high_water_mark(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    number.expect("a process has a VmHWM")
}

/// What a frame of version 1 says, in version 2.
///
/// # Panics
///
/// Where it is no plan, or asks for a mechanism that is not linked here.
pub fn in_version_2(frame: &[u8]) -> Vec<u8> {
    let mut body = LaunchPlan::decode(frame).expect("a plan").body().clone();
    let registry = Registry::collect().expect("the registry");
    for entry in &mut body.lowering {
        let mechanism = registry.find(&entry.id).expect("a mechanism");
        entry.decl_digest = Some(mechanism.declaration().digest());
        entry.param_digest = entry.params.digest();
        entry.standing = Standing::Scheduled;
    }
    body.h_l = lowering_digest(&body.lowering);
    LaunchPlan::encode(&body).expect("a plan")
}

/// A launch of `/bin/true` by one of [`VERSION_1_FRAMES`](portcullis_tests::VERSION_1_FRAMES), or what it is
/// [in version 2](in_version_2): opens the roots, makes the channels and the sealed plan, starts the launcher, reads the transcript to its end, and waits.
/// The executable is at 10, a root to write to at 16, roots to read at 20 to 24, the channels above.
///
/// The same few calls for whichever launcher, so that what differs is the launcher's.
///
/// # Errors
///
/// Those of its calls; and a launcher that does not exit with 0.
pub fn launch_frame(launcher: &Path, arguments: &[&str], frame: &[u8]) -> io::Result<()> {
    let at = |path: &str| open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let mut fds = vec![(at("/bin/true")?, 10), (at("/tmp")?, 16)];
    for (root, slot) in ["/usr", "/bin", "/lib", "/lib64", "/etc"].into_iter().zip(20..) {
        // A machine without one of them has another twice.
        fds.push((at(root).or_else(|_| at("/usr"))?, slot));
    }
    let (control, control_end) = pipe_with(PipeFlags::CLOEXEC)?;
    let (error, error_end) = pipe_with(PipeFlags::CLOEXEC)?;
    let plan = sealed(frame)?;
    let channels = [
        ("BVISOR_CONTROL_FD", control_end),
        ("BVISOR_LAUNCH_PLAN_FD", plan),
        ("BVISOR_ERROR_FD", error_end),
        ("BVISOR_ERROR_READ_FD", error),
    ];
    let mut envp = Vec::new();
    for ((name, fd), number) in channels.into_iter().zip(30..) {
        envp.push(CString::new(format!("{name}={number}"))?);
        fds.push((fd, number));
    }
    let path = CString::new(launcher.as_os_str().as_bytes())?;
    let mut program = Program::default();
    // Out of the way of the numbers that are to be filled first.
    let moved = fds.iter().map(|(fd, _)| program.push(Op::dup_from(fd.as_raw_fd(), 40)));
    let moved: Vec<_> = moved.collect();
    for (from, (_, to)) in moved.into_iter().zip(&fds) {
        program.push(Op::dup3(from, *to));
    }
    program.push(Op::close_on_exec_from(40));
    program.push(Op::empty_signal_mask());
    let arguments = arguments.iter().map(|argument| CString::new(*argument));
    let argv = [Ok(path.clone())].into_iter().chain(arguments).collect::<Result<_, _>>()?;
    program.push(Op::execve(path, argv, envp));
    let mut child = floor::start(program)?;
    drop(fds);
    let mut transcript = String::new();
    File::from(control).read_to_string(&mut transcript)?;
    match child.wait()?.exit_status() {
        Some(0) => Ok(()),
        status => Err(io::Error::other(format!("it ended with {status:?}: {transcript}"))),
    }
}

fn sealed(frame: &[u8]) -> io::Result<OwnedFd> {
    let plan = memfd_create("plan", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    if pwrite(&plan, frame, 0)? != frame.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    fcntl_add_seals(
        &plan,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(plan)
}
