#![doc = include_str!("exec.md")]

use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use portcullis_core::descriptor::{DescriptorKind, DescriptorRole};
use portcullis_core::lowering::NoteTime;
use portcullis_core::mechanism::{
    Declaration, Demonstration, Host, Mechanism, OpenError, Opening, Phase, Policy, Repeat, Stop,
    Support,
};
use portcullis_core::program::Op;
use portcullis_core::state::RefusalReason;
use portcullis_core::{Digest, Lowering, OsText, Params};
use rustix::fs::{
    Access, AtFlags, CWD, MemfdFlags, Mode, OFlags, SealFlags, accessat, fchmod, fchown,
    fcntl_add_seals, fcntl_getfl, fstat, memfd_create, open, sendfile,
};
use rustix::fs::{Gid, Uid};
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd, retry_on_intr};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::open_path::open_path;
use crate::userns::{self, UserNamespace};

/// The lowering id.
pub const ID: &str = "linux.exec.v1";

static DECLARATION: Declaration = Declaration {
    id: ID,
    version: 1,
    phase: Phase::Launch,
    rank: 0,
    rank_reason: "it is the whole of its phase",
    repeat: Repeat::Once,
    requires: &[],
    conflicts: &[],
    summary: "execs the workload by fd",
    kernel_floor: "3.19",
    params: "{? script: bool, ? digest: tstr .regexp \"blake3:[0-9a-f]{64}\"}",
    example: r#"{"program": "python3", "search": "/usr/bin:/bin"}"#,
    guide: include_str!("exec.md"),
    demonstration: Demonstration {
        policy: r#"{"program": "/bin/sh"}"#,
        with: &[],
        script: "[ -e /proc/self/fd/99 ] && echo open || echo closed",
        shows: "closed",
    },
};

/// What a policy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The program: a path, or, without a slash, a name that is looked for in `search`.
    pub program: OsText,
    /// The directories to look in, separated by colons.
    #[serde(default)]
    pub search: OsText,
    /// What the file must hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<FileDigest>,
}

impl Policy for Exec {
    const ID: &'static str = ID;
}

/// A digest of a file's contents, in text `blake3:` and 64 hexadecimal digits in lower case.
///
/// ```
/// use portcullis_mechanisms::exec::FileDigest;
///
/// let empty = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
/// assert_eq!(empty.parse(), Ok(FileDigest::of(b"")));
/// assert_eq!(FileDigest::of(b"").to_string(), empty);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileDigest(pub Digest);

impl FileDigest {
    /// That of a file that holds `contents`.
    pub fn of(contents: &[u8]) -> Self {
        Self(Digest::of(contents))
    }
}

impl fmt::Display for FileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blake3:{}", self.0)
    }
}

/// Text that is no [`FileDigest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoFileDigest;

impl fmt::Display for NoFileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a digest is blake3: and 64 hexadecimal digits in lower case")
    }
}

impl std::error::Error for NoFileDigest {}

impl FromStr for FileDigest {
    type Err = NoFileDigest;

    fn from_str(text: &str) -> Result<Self, NoFileDigest> {
        let digits = text.strip_prefix("blake3:").ok_or(NoFileDigest)?.as_bytes();
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(NoFileDigest),
        };
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() {
            return Err(NoFileDigest);
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = value(pair[0])? << 4 | value(pair[1])?;
        }
        Ok(Self(bytes.into()))
    }
}

impl Serialize for FileDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// What a plan carries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    /// The executable's fd stays open, for an interpreter to open again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    script: bool,
    /// What the executable must hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<FileDigest>,
}

/// The mechanism that makes the workload another user's: its id, for it may not be linked in.
const CREDENTIALS: &str = "linux.credentials.set.v1";

struct Execveat;

portcullis_core::register!(Execveat);

impl Mechanism for Execveat {
    fn declaration(&self) -> &'static Declaration {
        &DECLARATION
    }

    fn open(&self, policy: &Params, opening: &mut Opening) -> Result<Params, OpenError> {
        let policy: Exec = policy.parse()?;
        let path = find(&policy)?;
        let (fd, kind) = open_path("program", &OsText::from(path.as_os_str()))?;
        if kind != DescriptorKind::Regular {
            let source = io::Error::from_raw_os_error(libc::EACCES);
            return Err(OpenError::Path { what: "program", path, source });
        }
        let fd = if policy.digest.is_some() { readable(&path)? } else { fd };
        opening.declare(fd, DescriptorRole::TargetExe, kind, false);
        Ok(Params::of(&Wire { script: is_script(&path), digest: policy.digest })?)
    }

    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        let Wire { script, digest } = params.parse()?;
        let target = launch.target();
        let executable = launch.slot(target.exe_slot)?;
        let declared = executable.slot;
        if declared.role != DescriptorRole::TargetExe
            || declared.expected.kind != DescriptorKind::Regular
        {
            let detail = format!(
                "exe_slot {} is declared as {:?} {:?}, and an executable is a regular file of the \
                 role TargetExe",
                target.exe_slot, declared.role, declared.expected.kind
            );
            return Err(Stop::refuse(RefusalReason::HandleMismatch, detail));
        }
        let argv = target.argv.iter().map(|argument| c_string(argument.as_bytes()));
        let variable = |(name, value): &(OsText, OsText)| {
            c_string(&[name.as_bytes(), b"=", value.as_bytes()].concat())
        };
        let envp = target.envp.iter().map(variable);
        let (argv, envp) = (argv.collect::<Result<_, _>>()?, envp.collect::<Result<_, _>>()?);
        let is_pinned = digest.is_some();
        let copy = digest.map(|digest| verified_copy(executable.fd, digest)).transpose()?;
        // Here and not in the child, whose seccomp filter is installed by then and may deny it.
        let (file, flags) = match &copy {
            None if script => (None, FdFlags::empty()),
            None => (Some(executable.fd), FdFlags::CLOEXEC),
            Some(copy) if script => (Some(copy.as_fd()), FdFlags::empty()),
            Some(_) => (None, FdFlags::CLOEXEC),
        };
        if let Some(file) = file {
            fcntl_setfd(file, flags).map_err(|errno| {
                let fd = file.as_raw_fd();
                Stop::fault(format!("setting close-on-exec of the executable, fd {fd}: {errno}"))
            })?;
        }
        let fd = match copy {
            Some(copy) => launch.keep(copy),
            None => launch.keep_borrowed(&executable.fd),
        };
        // In a user namespace that maps one id, that is root's own.
        let moves = launch.params_of(userns::ID).is_some_and(|params| {
            params.parse::<UserNamespace>().is_ok_and(|policy| !policy.uid_map.is_empty())
        });
        if rustix::process::geteuid().is_root() && !moves && !launch.schedules(CREDENTIALS) {
            launch.note(NoteTime::Created, "workload_runs_as=root");
        }
        let exec = Op::execveat(fd, argv, envp);
        launch.push(match launch.asked_exec_nonce() {
            Some(nonce) => exec.with_nonce(nonce),
            None => exec,
        });
        // The copy of one that is pinned says nothing of whether the file itself may still be executed.
        if !is_pinned {
            launch.reusable();
        }
        Ok(())
    }

    fn probe(&self, _: &dyn Host) -> Support {
        Support::yes("execveat")
    }
}

/// The file, to be read: what an `O_PATH` fd does not allow.
fn readable(path: &Path) -> Result<OwnedFd, OpenError> {
    let unusable = |why: &dyn fmt::Display| {
        let path = path.display();
        let why = format!("program {path}: to verify its digest it must be read: {why}");
        OpenError::Unusable(why)
    };
    // Should it have become a FIFO since it was found to be a file, nobody waits for its other end.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = open(path, flags, Mode::empty()).map_err(|errno| unusable(&errno))?;
    let mode = fstat(&fd).map_err(|errno| unusable(&errno))?.st_mode;
    if DescriptorKind::from_mode(mode) != Some(DescriptorKind::Regular) {
        return Err(unusable(&"it is no regular file any more"));
    }
    Ok(fd)
}

/// A copy of the executable that nobody can change, and that holds what `digest` says.
///
/// What is hashed is the copy, when it is sealed: before that, another process of this user could write to
/// it by way of /proc/PID/fd.
fn verified_copy(executable: BorrowedFd<'_>, digest: FileDigest) -> Result<OwnedFd, Stop> {
    let mismatch = |why: String| Stop::refuse(RefusalReason::HandleMismatch, why);
    let fault = |what: &'static str| {
        move |error: io::Error| {
            Stop::fault(format!("{what} a sealed copy of the executable: {error}"))
        }
    };
    let flags = fcntl_getfl(executable).map_err(|errno| fault("making")(errno.into()))?;
    if flags.contains(OFlags::PATH) || flags & OFlags::ACCMODE == OFlags::WRONLY {
        return Err(mismatch(format!(
            "a digest is pinned, and the executable, fd {}, can't be read; open it O_RDONLY",
            executable.as_raw_fd()
        )));
    }
    // The copy is on no mount: whether the file itself may be executed is asked here.
    let path = format!("/proc/self/fd/{}", executable.as_raw_fd());
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).map_err(|errno| {
        mismatch(format!(
            "the executable may not be executed: {errno}; see its permissions and its mount's noexec"
        ))
    })?;
    let copy = sealed_copy(executable)?;
    let mut copy = File::from(copy);
    copy.rewind().map_err(fault("reading"))?;
    let found = FileDigest(Digest::of_reader(&copy).map_err(fault("reading"))?);
    if found != digest {
        return Err(mismatch(format!(
            "the executable's digest is {found}, and {digest} is pinned; pin the one that it has now if \
             the change is known, or put back the file that was meant"
        )));
    }
    // 0, 1 and 2, where the launcher was started without, are the workload's.
    fcntl_dupfd_cloexec(&copy, 3).map_err(|errno| fault("keeping")(errno.into()))
}

fn sealed_copy(file: BorrowedFd<'_>) -> Result<OwnedFd, Stop> {
    let fault =
        |errno: Errno| Stop::fault(format!("making a sealed copy of the executable: {errno}"));
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = match memfd_create("program", flags | MemfdFlags::EXEC) {
        // Linux before 6.3 does not know the flag, and makes executable what it makes.
        Err(Errno::INVAL) => memfd_create("program", flags),
        result => result,
    };
    let copy = copy.map_err(|errno| match errno {
        Errno::ACCESS => Stop::refuse(
            RefusalReason::MissingPrimitive,
            "a pinned digest takes a memfd that can be executed, and this system makes none: \
             vm.memfd_noexec of sysctl is 2 here, and 1 or 0 allows it",
        ),
        errno => fault(errno),
    })?;
    // No more than it has now: a file that grows on is another than the one that is pinned.
    let original = fstat(file).map_err(fault)?;
    let size = u64::try_from(original.st_size).unwrap_or(0);
    let mut done = 0;
    while done < size {
        let rest = usize::try_from(size - done).unwrap_or(usize::MAX);
        // By its own offset: that of the fd is the supervisor's too.
        if retry_on_intr(|| sendfile(&copy, file, Some(&mut done), rest)).map_err(fault)? == 0 {
            break;
        }
    }
    // Who may execute the file may execute the copy. A launcher that can't give it away can't become
    // another user either.
    let (owner, group) = (Uid::from_raw(original.st_uid), Gid::from_raw(original.st_gid));
    let mode = match fchown(&copy, Some(owner), Some(group)) {
        Ok(()) => original.st_mode & 0o555,
        Err(_) => 0o555,
    };
    fchmod(&copy, Mode::from_raw_mode(mode)).map_err(fault)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    match fcntl_add_seals(&copy, seals | SealFlags::EXEC) {
        // As old a kernel has no seal of the execute bits either.
        Err(Errno::INVAL) => fcntl_add_seals(&copy, seals),
        result => result,
    }
    .map_err(fault)?;
    Ok(copy)
}

fn c_string(bytes: &[u8]) -> Result<CString, Stop> {
    CString::new(bytes).map_err(|_| {
        Stop::refuse(RefusalReason::PlanInvalid, "an argument or variable holds a NUL")
    })
}

/// Looks the program up as execvp(3) does: a file that can't be executed is passed over, and told of
/// if no other is found.
fn find(policy: &Exec) -> Result<PathBuf, OpenError> {
    let name = policy.program.as_os_str();
    let executable = |path: &Path| -> io::Result<()> {
        if std::fs::metadata(path)?.is_dir() {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
        Ok(accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?)
    };
    let fail = |source| OpenError::Path { what: "program", path: name.into(), source };
    if name.as_bytes().contains(&b'/') {
        return executable(name.as_ref()).map(|()| name.into()).map_err(fail);
    }
    let mut reason = io::Error::from_raw_os_error(libc::ENOENT);
    if !name.is_empty() {
        for directory in std::env::split_paths(policy.search.as_os_str()) {
            // An empty entry would mean the current directory: nobody asks for that on purpose.
            if directory.as_os_str().is_empty() {
                continue;
            }
            let path = directory.join(name);
            match executable(&path) {
                Ok(()) => return Ok(path),
                Err(error) if error.raw_os_error() == Some(libc::EACCES) => reason = error,
                Err(_) => {}
            }
        }
    }
    Err(fail(reason))
}

/// Whether the file starts with `#!`. One that may be executed and not read is no script: its
/// interpreter could not read it either.
fn is_script(path: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let Ok(file) = open(path, flags, Mode::empty()) else { return false };
    let mut start = [0; 2];
    matches!(rustix::io::read(&file, &mut start), Ok(2)) && start == *b"#!"
}

#[cfg(test)]
mod tests {
    use portcullis_core::plan::Target;

    use super::*;

    fn open_program(program: &str, search: &str) -> Result<Params, OpenError> {
        let policy = Exec { program: program.into(), search: search.into(), digest: None };
        Execveat.open(&Params::of(&policy).unwrap(), &mut Opening::new(Target::default()))
    }

    #[test]
    fn a_program_is_found_as_execvp_finds_it() {
        assert!(open_program("sh", "/nonexistent:/bin").is_ok());
        assert!(open_program("/bin/sh", "").is_ok());
        for (program, search, errno) in [
            ("no-such-program", "/bin", libc::ENOENT),
            ("sh", "", libc::ENOENT),
            ("/etc", "", libc::EACCES),
            ("passwd", "/etc", libc::EACCES),
        ] {
            let Err(OpenError::Path { source, .. }) = open_program(program, search) else {
                panic!("{program} was opened");
            };
            assert_eq!(source.raw_os_error(), Some(errno), "{program} in {search:?}");
        }
    }

    #[test]
    fn a_digest_has_one_form() {
        let text = FileDigest::of(b"x").to_string();
        assert_eq!(text.parse(), Ok(FileDigest::of(b"x")));
        for other in [
            text.to_uppercase(),
            text.replace("blake3:", ""),
            text.replace("blake3:", "sha256:"),
            text[..70].to_owned(),
            format!("{text}0"),
            text.replace(&text[69..], "é"),
        ] {
            assert_eq!(other.parse::<FileDigest>(), Err(NoFileDigest), "{other}");
        }
        let wire = Wire { script: false, digest: text.parse().ok() };
        let params = Params::of(&wire).unwrap();
        assert_eq!(params, Params::of(&serde_json::json!({"digest": text})).unwrap());
        assert_eq!(params.parse::<Wire>().unwrap(), wire);
    }

    fn copied(executable: &File, digest: FileDigest) -> Result<Vec<u8>, (RefusalReason, String)> {
        match verified_copy(executable.as_fd(), digest) {
            Ok(copy) => {
                let mut bytes = vec![0; 1 << 20];
                let length = rustix::io::pread(&copy, &mut bytes, 0).unwrap();
                bytes.truncate(length);
                assert!(rustix::io::pwrite(&copy, b"x", 0).is_err(), "the copy can change");
                Ok(bytes)
            }
            Err(Stop::Refused(refusal)) => Err((refusal.reason, refusal.detail)),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_copy_holds_what_is_pinned_and_can_not_change() {
        let mut program = File::open("/bin/true").unwrap();
        let contents = std::fs::read("/bin/true").unwrap();
        // The offset is the supervisor's too, and may be anywhere.
        program.seek(io::SeekFrom::End(0)).unwrap();
        assert_eq!(copied(&program, FileDigest::of(&contents)).unwrap(), contents);
        assert_eq!(program.stream_position().unwrap(), contents.len() as u64);
    }

    #[test]
    fn another_digest_is_a_mismatch_that_names_both() {
        let program = File::open("/bin/true").unwrap();
        let (reason, detail) = copied(&program, FileDigest::of(b"")).unwrap_err();
        assert_eq!(reason, RefusalReason::HandleMismatch);
        let found = FileDigest::of(&std::fs::read("/bin/true").unwrap()).to_string();
        assert!(detail.contains(&found) && detail.contains(&FileDigest::of(b"").to_string()));
    }

    #[test]
    fn what_can_not_be_read_or_executed_is_a_mismatch() {
        let by_path = open("/bin/true", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let passwd = File::open("/etc/passwd").unwrap();
        for (file, part) in [(&by_path.into(), "O_RDONLY"), (&passwd, "permissions")] {
            let (reason, detail) = copied(file, FileDigest::of(b"")).unwrap_err();
            assert_eq!(reason, RefusalReason::HandleMismatch);
            assert!(detail.contains(part), "{detail}");
        }
    }

    #[test]
    fn an_exe_slot_that_no_row_declares_is_an_invalid_plan() {
        let target = Target { exe_slot: 9, argv: vec!["x".into()], ..Target::default() };
        let mut launch = Lowering::new(&target, &[]);
        let Err(Stop::Refused(refusal)) = Execveat.lower(&Params::default(), &mut launch) else {
            panic!("lowered");
        };
        assert_eq!(refusal.reason, RefusalReason::PlanInvalid);
    }
}
