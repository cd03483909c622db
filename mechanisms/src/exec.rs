#![doc = include_str!("exec.md")]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use portcullis_core::descriptor::{DescriptorKind, DescriptorRole};
use portcullis_core::mechanism::{
    Declaration, Demonstration, Host, Mechanism, OpenError, Opening, Phase, Policy, Repeat, Stop,
    Support,
};
use portcullis_core::program::Op;
use portcullis_core::state::RefusalReason;
use portcullis_core::{Lowering, OsText, Params};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, open};
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};

use crate::open_path::open_path;

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
    params: "{? script: bool}",
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
}

impl Policy for Exec {
    const ID: &'static str = ID;
}

/// What a plan carries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    /// The executable's fd stays open, for an interpreter to open again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    script: bool,
}

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
        opening.declare(fd, DescriptorRole::TargetExe, kind, false);
        Ok(Params::of(&Wire { script: is_script(&path) })?)
    }

    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        let Wire { script } = params.parse()?;
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
        let fd = launch.keep_borrowed(&executable.fd);
        let argv = target.argv.iter().map(|argument| c_string(argument.as_bytes()));
        let variable = |(name, value): &(OsText, OsText)| {
            c_string(&[name.as_bytes(), b"=", value.as_bytes()].concat())
        };
        let envp = target.envp.iter().map(variable);
        let (argv, envp) = (argv.collect::<Result<_, _>>()?, envp.collect::<Result<_, _>>()?);
        if !script {
            // Here and not in the child, whose seccomp filter is installed by then and may deny it.
            fcntl_setfd(executable.fd, FdFlags::CLOEXEC).map_err(|errno| {
                Stop::fault(format!("setting close-on-exec of the executable, fd {fd}: {errno}"))
            })?;
        }
        let exec = Op::execveat(fd, argv, envp);
        launch.push(match launch.asked_exec_nonce() {
            Some(nonce) => exec.with_nonce(nonce),
            None => exec,
        });
        Ok(())
    }

    fn probe(&self, _: &dyn Host) -> Support {
        Support::yes("execveat")
    }
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
        let policy = Exec { program: program.into(), search: search.into() };
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
    fn an_exe_slot_that_no_row_declares_is_an_invalid_plan() {
        let target = Target { exe_slot: 9, argv: vec!["x".into()], ..Target::default() };
        let mut launch = Lowering::new(&target, &[]);
        let Err(Stop::Refused(refusal)) = Execveat.lower(&Params::default(), &mut launch) else {
            panic!("lowered");
        };
        assert_eq!(refusal.reason, RefusalReason::PlanInvalid);
    }
}
