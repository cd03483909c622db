//! Running what may be read and not executed, or was never a file.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::attempt::{Attempt, Failure, escapes};
use crate::sys::{call, owned};

/// What the program that was started says of itself.
fn run(command: &mut Command) -> Attempt {
    let output = command.stdin(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(Failure::NoEffect(output.status.to_string()))
    }
}

fn loader() -> Result<&'static str, Failure> {
    let known = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    let found = known.into_iter().find(|path| Path::new(path).exists());
    found.ok_or_else(|| Failure::Unavailable("no loader of glibc".into()))
}

escapes! { "execution":
    /// Executes a program outside.
    fn execute_outside(at) {
        run(Command::new(at.outside("tool")?).arg("--identity"))
    }

    /// Executes a program that may be read only.
    fn execute_readable(at) {
        run(Command::new(at.readable("tool")?).arg("--identity"))
    }

    /// Executes a program outside by an fd that is a path only.
    fn execute_by_path(at) {
        let tool = OwnedFd::from(
            std::os::unix::fs::OpenOptionsExt::custom_flags(File::options().read(true), libc::O_PATH)
                .open(at.outside("tool")?)?,
        );
        // The child opens nothing: it inherits the fd.
        call!(libc::SYS_fcntl, &tool, libc::F_SETFD, 0)?;
        run(Command::new(format!("/proc/self/fd/{}", tool.as_raw_fd())).arg("--identity"))
    }

    /// Executes memory that has no file (`memfd_create`).
    fn execute_memory(at) {
        let image = fs::read(at.readable("tool")?)?;
        let memory = owned(call!(libc::SYS_memfd_create, c"tool", 0)?)?;
        File::from(memory.try_clone()?).write_all(&image)?;
        run(Command::new(format!("/proc/self/fd/{}", memory.as_raw_fd())).arg("--identity"))
    }

    /// Has the dynamic loader execute a program that may be read only.
    fn execute_by_loader(at) {
        let program = at.readable("dynamic")?;
        if !program.exists() {
            return Err(Failure::Unavailable("no dynamic program to load".into()));
        }
        run(Command::new(loader()?).arg(program).arg(at.text("typed")?))
    }

    /// Has a shell execute a script that may be read only.
    fn execute_by_interpreter(at) {
        run(Command::new("/bin/sh").arg(at.readable("script")?).arg(at.text("typed")?))
    }

    /// Maps a file that may be read only as code.
    fn map_as_code(at) {
        let file = OwnedFd::from(File::open(at.readable("tool")?)?);
        let protection = libc::PROT_READ | libc::PROT_EXEC;
        call!(libc::SYS_mmap, 0, 4096, protection, libc::MAP_PRIVATE, &file, 0)?;
        Ok("mapped".into())
    }
}
