#![doc = include_str!("stdio.md")]

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use portcullis_core::descriptor::{DescriptorKind, DescriptorRole, DescriptorSlot};
use portcullis_core::lowering::OpenSlot;
use portcullis_core::mechanism::{
    Declaration, Demonstration, Host, Mechanism, OpenError, Opening, Phase, Policy, Repeat, Stop,
    Support,
};
use portcullis_core::program::{FdArg, Op};
use portcullis_core::state::RefusalReason;
use portcullis_core::{Lowering, OsText, Params};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, open, stat};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};

/// The lowering id.
pub const ID: &str = "linux.stdio.set.v1";

static DECLARATION: Declaration = Declaration {
    id: ID,
    version: 1,
    phase: Phase::FdHygiene,
    rank: 0,
    rank_reason: "before the scrub, which closes the slots",
    repeat: Repeat::Once,
    requires: &[],
    conflicts: &[],
    summary: "the slots for standard input, output and error become 0, 1 and 2",
    kernel_floor: "2.6.27 (dup3)",
    params: "{? truncate: bool}",
    example: r#"{"stdin": "/srv/job/in", "stdout": "/srv/job/out", "stderr": "/srv/job/out"}"#,
    guide: include_str!("stdio.md"),
    demonstration: Demonstration {
        policy: r#"{"stdin": "@folder/file"}"#,
        with: &[],
        script: "[ /proc/self/fd/0 -ef @folder/file ] && echo file || echo other",
        shows: "file",
    },
};

/// What a policy says; a plan carries no parameters, for the slots' roles say it all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandardStreams {
    /// What standard input is read from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<OsText>,
    /// What standard output is written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<OsText>,
    /// What standard error is written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<OsText>,
    /// Whether output goes to the end of what the files hold, which is otherwise cut.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub append: bool,
}

impl Policy for StandardStreams {
    const ID: &'static str = ID;
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    /// The files that are written to begin empty.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    truncate: bool,
}

/// The roles, and the numbers that their slots get.
const STREAMS: [(DescriptorRole, RawFd); 3] =
    [(DescriptorRole::Stdin, 0), (DescriptorRole::Stdout, 1), (DescriptorRole::Stderr, 2)];

struct Set;

portcullis_core::register!(Set);

impl Mechanism for Set {
    fn declaration(&self) -> &'static Declaration {
        &DECLARATION
    }

    fn open(&self, policy: &Params, opening: &mut Opening) -> Result<Params, OpenError> {
        let policy: StandardStreams = policy.parse()?;
        let StandardStreams { stdin, stdout, stderr, append } = &policy;
        if stdin.is_none() && stdout.is_none() && stderr.is_none() {
            let why = format!("{ID}: none of stdin, stdout and stderr is named");
            return Err(OpenError::Unusable(why));
        }
        if let Some(path) = stdin {
            let (fd, kind) = open_stream("stdin", path, OFlags::RDONLY)?;
            opening.declare(fd, DescriptorRole::Stdin, kind, false);
        }
        // Emptied by the child: a launch that is refused, or explained, leaves what is there.
        let end = if *append { OFlags::APPEND } else { OFlags::empty() };
        let output = OFlags::WRONLY | OFlags::CREATE | end;
        let mut declare = |fd, role, kind| opening.declare(fd, role, kind, true);
        if let Some(path) = stdout {
            let (fd, kind) = open_stream("stdout", path, output)?;
            if stderr.as_ref() == Some(path) {
                // One open file, and so one offset: neither overwrites what the other wrote.
                let error = OpenError::path("stderr", path.as_os_str());
                declare(fd.try_clone().map_err(error)?, DescriptorRole::Stderr, kind);
            }
            declare(fd, DescriptorRole::Stdout, kind);
        }
        if let Some(path) = stderr.as_ref().filter(|path| stdout.as_ref() != Some(path)) {
            let (fd, kind) = open_stream("stderr", path, output)?;
            declare(fd, DescriptorRole::Stderr, kind);
        }
        let writes = stdout.is_some() || stderr.is_some();
        Ok(Params::of(&Wire { truncate: writes && !*append })?)
    }

    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        let Wire { truncate } = params.parse()?;
        let mut moved: Vec<(FdArg, RawFd)> = Vec::with_capacity(STREAMS.len());
        let mut in_place = false;
        for (role, number) in STREAMS {
            let Some(open) = launch.slots(role).next() else { continue };
            verify(&open, launch, number)?;
            let fd = open.fd.as_raw_fd();
            if fd == number {
                // dup3 rejects a copy onto itself (EINVAL), and the exec is not to close it. It is the
                // launcher's own flag, which the clone hands on.
                fcntl_setfd(open.fd, FdFlags::empty()).map_err(|errno| {
                    Stop::fault(format!("clearing close-on-exec of fd {fd}: {errno}"))
                })?;
                in_place = true;
            } else if fd <= 2 {
                // Out of the way of the stream that gets its number.
                moved.push((launch.push(Op::dup_from(fd, 3)).into(), number));
            } else {
                moved.push((fd.into(), number));
            }
        }
        if moved.is_empty() && !in_place {
            let detail = "no slot has the role Stdin, Stdout or Stderr";
            return Err(Stop::refuse(RefusalReason::HandleMismatch, detail));
        }
        for (from, number) in moved {
            launch.push(Op::dup3(from, number));
        }
        for (role, number) in &STREAMS[1..] {
            let regular = |open: &OpenSlot<'_>| open.slot.expected.kind == DescriptorKind::Regular;
            if truncate && launch.slots(*role).any(|open| regular(&open)) {
                launch.push(Op::ftruncate(*number, 0));
                // Another launch of the same open file may have written before.
                launch.push(Op::rewind(*number));
            }
        }
        Ok(())
    }

    fn probe(&self, _: &dyn Host) -> Support {
        Support::yes("dup3")
    }
}

/// Opens a file to read from or write to, without waiting for the other end of a FIFO.
fn open_stream(
    what: &'static str,
    path: &OsText,
    flags: OFlags,
) -> Result<(OwnedFd, DescriptorKind), OpenError> {
    let path = path.as_os_str();
    let error = |errno: Errno| OpenError::path(what, path)(errno.into());
    // Asked before it is opened: to open a device may do something.
    let kind = match stat(path) {
        Ok(found) => kind(found.st_mode),
        Err(Errno::NOENT) => Ok(DescriptorKind::Regular),
        Err(errno) => return Err(error(errno)),
    };
    let unusable = |is: &str| {
        OpenError::Unusable(format!(
            "{what} {path:?} is {is}, which a plan can't declare; leave {what} out here, and start the \
             launcher with it as its own: what is not set is inherited"
        ))
    };
    kind.map_err(unusable)?;
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o666);
    let fd = open(path, flags, mode).map_err(error)?;
    let kind = self::kind(fstat(&fd).map_err(error)?.st_mode).map_err(unusable)?;
    let flags = fcntl_getfl(&fd).map_err(error)?;
    fcntl_setfl(&fd, flags - OFlags::NONBLOCK).map_err(error)?;
    Ok((fd, kind))
}

/// What a path can be opened as; otherwise what it is.
fn kind(mode: u32) -> Result<DescriptorKind, &'static str> {
    match DescriptorKind::from_mode(mode) {
        Some(kind @ (DescriptorKind::Regular | DescriptorKind::Pipe)) => Ok(kind),
        Some(DescriptorKind::Directory) => Err("a directory"),
        Some(_) => Err("a socket"),
        None => Err("a device"),
    }
}

/// Refuses a slot that is of no use as a standard stream.
fn verify(open: &OpenSlot<'_>, launch: &Lowering<'_>, number: RawFd) -> Result<(), Stop> {
    let DescriptorSlot { role, expected, slot_index } = open.slot;
    let mismatch = |why: String| Err(Stop::refuse(RefusalReason::HandleMismatch, why));
    if expected.kind == DescriptorKind::Directory {
        return mismatch(format!("slot {slot_index} ({role:?}) is a directory"));
    }
    let flags = fcntl_getfl(open.fd)
        .map_err(|errno| Stop::fault(format!("fcntl(F_GETFL) of slot {slot_index}: {errno}")))?;
    let (use_, useless) = match role {
        DescriptorRole::Stdin => ("read from", OFlags::WRONLY),
        _ => ("written to", OFlags::RDONLY),
    };
    if flags.contains(OFlags::PATH) || flags & OFlags::ACCMODE == useless {
        let why = format!("slot {slot_index} ({role:?}) is not open to be {use_}");
        return mismatch(why);
    }
    let is_stream = |role| STREAMS.iter().any(|(stream, _)| *stream == role);
    match u32::try_from(number).map(|number| launch.slot(number)) {
        Ok(Ok(other)) if !is_stream(other.slot.role) => mismatch(format!(
            "slot {number} is a {:?}, and {role:?} would take its number",
            other.slot.role
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    use portcullis_core::descriptor::DescriptorShape;
    use portcullis_core::plan::Target;
    use rustix::pipe::pipe;

    use super::*;

    fn lower(slots: &[OpenSlot<'_>]) -> Result<Vec<String>, (RefusalReason, String)> {
        let target = Target::default();
        let mut launch = Lowering::new(&target, slots);
        match Set.lower(&Params::default(), &mut launch) {
            Ok(()) => {
                let lowered = launch.finish(vec![]);
                Ok(lowered.program.ops().iter().map(|(_, op)| op.to_string()).collect())
            }
            Err(Stop::Refused(refusal)) => Err((refusal.reason, refusal.detail)),
            Err(other) => panic!("{other}"),
        }
    }

    fn slot(fd: &impl AsFd, role: DescriptorRole, slot_index: u32) -> OpenSlot<'_> {
        let expected = DescriptorShape { kind: DescriptorKind::Pipe, writable: false };
        OpenSlot { slot: DescriptorSlot { role, expected, slot_index }, fd: fd.as_fd() }
    }

    #[test]
    fn each_slot_is_copied_to_its_number() {
        let (read, write) = pipe().unwrap();
        let slots =
            [slot(&write, DescriptorRole::Stderr, 9), slot(&read, DescriptorRole::Stdin, 8)];
        let (input, error) = (read.as_raw_fd(), write.as_raw_fd());
        let calls =
            [format!("dup3(fd {input}, fd 0, 0) = 0"), format!("dup3(fd {error}, fd 2, 0) = 2")];
        assert_eq!(lower(&slots).unwrap(), calls);
    }

    #[test]
    fn without_a_slot_of_the_roles_it_is_a_mismatch() {
        let (read, _write) = pipe().unwrap();
        for slots in [&[][..], &[slot(&read, DescriptorRole::ReadRoot, 8)]] {
            assert_eq!(lower(slots).unwrap_err().0, RefusalReason::HandleMismatch);
        }
    }

    #[test]
    fn a_slot_that_can_not_serve_its_stream_is_a_mismatch() {
        let (read, write) = pipe().unwrap();
        let path = open("/etc/passwd", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let mut folder = slot(&read, DescriptorRole::Stdin, 8);
        folder.slot.expected.kind = DescriptorKind::Directory;
        for (slots, part) in [
            (&[slot(&write, DescriptorRole::Stdin, 8)][..], "read from"),
            (&[slot(&read, DescriptorRole::Stdout, 8)], "written to"),
            (&[slot(&path, DescriptorRole::Stdin, 8)], "read from"),
            (&[folder], "directory"),
            (
                &[slot(&read, DescriptorRole::Stdin, 8), slot(&path, DescriptorRole::TargetExe, 0)],
                "TargetExe",
            ),
        ] {
            let (reason, detail) = lower(slots).unwrap_err();
            assert_eq!(reason, RefusalReason::HandleMismatch);
            assert!(detail.contains(part), "{detail}");
        }
    }

    fn opened(policy: &StandardStreams) -> Result<Vec<(DescriptorSlot, OwnedFd)>, OpenError> {
        let mut opening = Opening::default();
        let params = Set.open(&Params::of(policy).unwrap(), &mut opening)?;
        let Wire { truncate } = params.parse().unwrap();
        assert_eq!(
            truncate,
            (policy.stdout.is_some() || policy.stderr.is_some()) && !policy.append
        );
        Ok(opening.finish().1)
    }

    fn named(stdin: &str) -> StandardStreams {
        StandardStreams { stdin: Some(stdin.into()), ..StandardStreams::default() }
    }

    #[test]
    fn what_a_plan_can_not_declare_is_told_with_what_to_do() {
        for (path, part) in [("/dev/null", "device"), ("/", "directory"), ("/no/such", "/no/such")]
        {
            let error = opened(&named(path)).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("stdin"), "{error}");
        }
        assert!(opened(&named("/dev/null")).unwrap_err().to_string().contains("inherited"));
        assert!(opened(&StandardStreams::default()).unwrap_err().to_string().contains(ID));
    }

    #[test]
    fn output_is_made_and_appended_to_and_one_path_is_one_open_file() {
        let path = std::env::temp_dir().join(format!("portcullis-stdio-{}", std::process::id()));
        fs::write(&path, "before").unwrap();
        let text = OsText::from(path.as_os_str());
        let mut policy = StandardStreams {
            stdout: Some(text.clone()),
            stderr: Some(text),
            append: true,
            ..StandardStreams::default()
        };
        let slots = opened(&policy).unwrap();
        let roles: Vec<_> =
            slots.iter().map(|(slot, _)| (slot.role, slot.expected.writable)).collect();
        assert_eq!(roles, [(DescriptorRole::Stderr, true), (DescriptorRole::Stdout, true)]);
        for (_, fd) in slots {
            rustix::io::write(File::from(fd), b"+").unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "before++");
        policy.append = false;
        drop(opened(&policy).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "before++", "the child empties it");
        fs::remove_file(&path).unwrap();
    }
}
