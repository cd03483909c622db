//! The file system: reading, writing and creating outside, and changing what may be read only.

use std::env;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{
    FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink,
};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, RenameFlags, Timespec, Timestamps, XattrFlags};
use rustix::fs::{linkat, renameat_with, setxattr, utimensat};
use rustix::io::Errno;

use crate::attempt::{Attempt, Failure, Outside, escapes, meet};
use crate::sys::{call, owned};

const TEXT: &[u8] = b"escaped";

fn read(path: impl AsRef<Path>) -> Attempt {
    Ok(fs::read_to_string(path)?)
}

fn overwrite(path: impl AsRef<Path>) -> Attempt {
    OpenOptions::new().write(true).open(path)?.write_all(TEXT)?;
    Ok("written".into())
}

pub(crate) fn c(path: &Path) -> Result<CString, Failure> {
    CString::new(path.as_os_str().as_bytes()).map_err(|error| Failure::NoEffect(error.to_string()))
}

fn own_fd(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// An fd by which nothing may be read or written, and which Landlock does not ask about.
fn handle(path: &Path) -> Result<File, Failure> {
    Ok(OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?)
}

/// A file of the folder that may be read only, open for reading.
fn opened(at: &Outside) -> Result<OwnedFd, Failure> {
    Ok(File::open(at.readable("file")?)?.into())
}

/// What a file system without the feature answers.
fn supported<T>(result: Result<T, Errno>) -> Result<T, Failure> {
    result.map_err(|errno| match errno {
        Errno::OPNOTSUPP | Errno::NOTTY => {
            Failure::Unavailable(format!("this file system: {errno}"))
        }
        other => other.into(),
    })
}

escapes! { "files":
    /// Reads a file outside.
    fn read_secret(at) {
        read(at.outside("secret")?)
    }

    /// Reads a file outside relative to a working directory that lies there.
    fn read_by_working_directory(_) {
        read("secret")
    }

    /// Reads a file outside by `/proc/self/cwd`.
    fn read_by_proc_cwd(_) {
        read("/proc/self/cwd/secret")
    }

    /// Reads a file outside by `/proc/self/root`.
    fn read_by_proc_root(at) {
        read(format!("/proc/self/root{}", at.outside("secret")?.display()))
    }

    /// Reads a file outside by the way up out of a root.
    fn read_by_dot_dot(at) {
        read(at.readable("../outside/secret")?)
    }

    /// Reads a file outside by a symbolic link that it makes in a root.
    fn read_by_symbolic_link(at) {
        let link = at.writable("link")?;
        symlink(at.outside("secret")?, &link)?;
        read(link)
    }

    /// Reads a file outside by a hard link that it makes in a root.
    fn read_by_hard_link(at) {
        let link = at.writable("link")?;
        fs::hard_link(at.outside("secret")?, &link)?;
        read(link)
    }

    /// Moves a file from outside into a root.
    fn move_in(at) {
        let moved = at.writable("moved")?;
        fs::rename(at.outside("secret")?, &moved)?;
        read(moved)
    }

    /// Opens a file outside as a path only, and again by `/proc/self/fd`.
    fn reopen_path(at) {
        read(own_fd(&handle(&at.outside("secret")?)?))
    }

    /// Opens a directory outside as a path only, and a file below it.
    fn open_below_path(at) {
        let folder = handle(&at.outside("")?)?;
        read(format!("{}/secret", own_fd(&folder)))
    }

    /// Changes to a directory outside, and reads a file there.
    fn change_directory(at) {
        env::set_current_dir(at.outside("")?)?;
        read("./secret")
    }

    /// Opens by its handle a file that was never opened (`open_by_handle_at`).
    fn open_by_handle(at) {
        let mut handle = [0; 136];
        handle[..4].copy_from_slice(&128_u32.to_ne_bytes());
        let path = c(&at.outside("secret")?)?;
        call!(libc::SYS_name_to_handle_at, libc::AT_FDCWD, path.as_c_str(), &mut handle, &mut [0; 4], 0)?;
        let mount = OwnedFd::from(File::open(at.readable("")?)?);
        let fd = owned(call!(libc::SYS_open_by_handle_at, &mount, &mut handle, libc::O_RDONLY)?)?;
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Uses whatever descriptor it inherited beyond 0, 1 and 2.
    fn inherited_descriptor(_) {
        let mut texts = Vec::new();
        for fd in 3..1024 {
            let Ok(copy) = call!(libc::SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, 3) else { continue };
            let file = File::from(owned(copy)?);
            if file.metadata()?.is_file() {
                let mut bytes = [0; 36];
                let length = file.read_at(&mut bytes, 0)?;
                texts.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
            }
        }
        if texts.is_empty() { Err(Errno::BADF.into()) } else { Ok(texts.join(" ")) }
    }

    /// Opens its standard input, a file outside that it may only read, again for writing.
    fn reopen_input(_) {
        overwrite("/proc/self/fd/0")
    }

    /// Opens its standard input again for writing by /dev/fd.
    fn reopen_input_by_dev(_) {
        overwrite("/dev/fd/0")
    }

    /// Overwrites a file outside.
    fn overwrite_outside(at) {
        overwrite(at.outside("plain")?)
    }

    /// Truncates a file outside.
    fn truncate_outside(at) {
        let path = c(&at.outside("plain")?)?;
        call!(libc::SYS_truncate, path.as_c_str(), 1)?;
        Ok("truncated".into())
    }

    /// Creates a file outside.
    fn create_outside(at) {
        fs::write(at.outside("new")?, TEXT)?;
        Ok("created".into())
    }

    /// Makes a directory outside.
    fn make_directory_outside(at) {
        fs::create_dir(at.outside("new")?)?;
        Ok("made".into())
    }

    /// Makes a symbolic link outside.
    fn symbolic_link_outside(at) {
        symlink("anywhere", at.outside("new")?)?;
        Ok("made".into())
    }

    /// Makes a named pipe outside.
    fn pipe_outside(at) {
        let path = c(&at.outside("new")?)?;
        call!(libc::SYS_mknodat, libc::AT_FDCWD, path.as_c_str(), libc::S_IFIFO | 0o600, 0)?;
        Ok("made".into())
    }

    /// Binds a Unix socket outside.
    fn socket_outside(at) {
        UnixListener::bind(at.outside("new")?)?;
        Ok("bound".into())
    }

    /// Moves a file of a root outside.
    fn move_out(at) {
        fs::rename(at.writable("file")?, at.outside("new")?)?;
        Ok("moved".into())
    }

    /// Links a file of a root outside.
    fn link_out(at) {
        fs::hard_link(at.writable("file")?, at.outside("new")?)?;
        Ok("linked".into())
    }

    /// Links outside a temporary file that has no name (`O_TMPFILE`).
    fn link_temporary_out(at) {
        let file = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(at.writable("")?);
        let file = file.map_err(|error| match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Failure::Unavailable(error.to_string()),
            _ => error.into(),
        })?;
        linkat(CWD, own_fd(&file), CWD, at.outside("new")?, AtFlags::SYMLINK_FOLLOW)?;
        Ok("linked".into())
    }

    /// Exchanges a file of a root for one outside.
    fn exchange(at) {
        let (mine, theirs) = (at.writable("file")?, at.outside("secret")?);
        renameat_with(CWD, &mine, CWD, theirs, RenameFlags::EXCHANGE)?;
        read(mine)
    }

    /// Removes a file outside.
    fn remove_outside(at) {
        fs::remove_file(at.outside("plain")?)?;
        Ok("removed".into())
    }

    /// Overwrites a file that may be read only.
    fn overwrite_readable(at) {
        overwrite(at.readable("file")?)
    }

    /// Truncates a file that may be read only.
    fn truncate_readable(at) {
        let path = c(&at.readable("file")?)?;
        call!(libc::SYS_truncate, path.as_c_str(), 1)?;
        Ok("truncated".into())
    }

    /// Changes the mode of a file that may be read only.
    fn change_mode(at) {
        fs::set_permissions(at.readable("file")?, Permissions::from_mode(0o777))?;
        Ok("0777".into())
    }

    /// Changes the mode of a file that is open for reading only.
    fn change_mode_of_open(at) {
        let file = opened(at)?;
        call!(libc::SYS_fchmod, &file, 0o777)?;
        Ok("0777".into())
    }

    /// Changes a mode by fchmodat2, which older filters do not know.
    fn change_mode_newly(at) {
        const FCHMODAT2: i64 = 452;
        let path = c(&at.readable("file")?)?;
        call!(FCHMODAT2, libc::AT_FDCWD, path.as_c_str(), 0o777, 0)?;
        Ok("0777".into())
    }

    /// Changes the owner of a file that may be read only, to whom it belongs to.
    fn change_owner(at) {
        std::os::unix::fs::chown(at.readable("file")?, None, None)?;
        Ok("changed".into())
    }

    /// Changes the times of a file that may be read only.
    fn change_times(at) {
        let past = Timespec { tv_sec: 77, tv_nsec: 0 };
        let times = Timestamps { last_access: past, last_modification: past };
        utimensat(CWD, at.readable("file")?, &times, AtFlags::empty())?;
        Ok("77".into())
    }

    /// Changes times by utime, the oldest of the calls that do.
    fn change_times_anciently(at) {
        let path = c(&at.readable("file")?)?;
        let times: Vec<u8> = [77_i64, 77].into_iter().flat_map(i64::to_ne_bytes).collect();
        ancient_utime(&path, &times)
    }

    /// Sets an extended attribute of a file that may be read only.
    fn set_attribute(at) {
        supported(setxattr(at.readable("file")?, "user.escape", TEXT, XattrFlags::empty()))?;
        Ok("set".into())
    }

    /// Sets an extended attribute by setxattrat, which older filters do not know.
    fn set_attribute_newly(at) {
        const SETXATTRAT: i64 = 463;
        let path = c(&at.readable("file")?)?;
        let mut value = [0; 16];
        value[..8].copy_from_slice(&(TEXT.as_ptr().expose_provenance() as u64).to_ne_bytes());
        value[8..12].copy_from_slice(&7_u32.to_ne_bytes());
        supported(call!(
            SETXATTRAT, libc::AT_FDCWD, path.as_c_str(), 0, c"user.escape", &value, value.len()
        ))?;
        Ok("set".into())
    }

    /// Sets a flag of a file that is open for reading only (`FS_IOC_SETFLAGS`).
    fn set_flags(at) {
        const NODUMP: u32 = 0x40;
        let file = opened(at)?;
        let mut flags = [0; 4];
        supported(call!(libc::SYS_ioctl, &file, libc::FS_IOC_GETFLAGS, &mut flags))?;
        let flags = (u32::from_ne_bytes(flags) | NODUMP).to_ne_bytes();
        supported(call!(libc::SYS_ioctl, &file, libc::FS_IOC_SETFLAGS, &flags))?;
        Ok("nodump".into())
    }

    /// Sets a flag of a file that is open for reading only (`FS_IOC_FSSETXATTR`).
    fn set_extended_flags(at) {
        const GET: u32 = 0x801c_581f;
        const SET: u32 = 0x401c_5820;
        const NODUMP: u8 = 0x80;
        let file = opened(at)?;
        let mut attributes = [0; 28];
        supported(call!(libc::SYS_ioctl, &file, GET, &mut attributes))?;
        attributes[0] |= NODUMP;
        supported(call!(libc::SYS_ioctl, &file, SET, &mut attributes))?;
        Ok("nodump".into())
    }

    /// Sets a flag of a file that may be read only by `file_setattr`.
    fn set_file_attributes(at) {
        const FILE_GETATTR: i64 = 468;
        const FILE_SETATTR: i64 = 469;
        const NODUMP: u8 = 0x80;
        let path = c(&at.readable("file")?)?;
        let mut attributes = [0; 24];
        supported(call!(FILE_GETATTR, libc::AT_FDCWD, path.as_c_str(), &mut attributes, 24, 0))?;
        attributes[0] |= NODUMP;
        supported(call!(FILE_SETATTR, libc::AT_FDCWD, path.as_c_str(), &mut attributes, 24, 0))?;
        Ok("nodump".into())
    }

    /// Learns what stat tells of a file outside.
    fn stat_outside(at) {
        Ok(format!("inode {}", fs::metadata(at.outside("secret")?)?.ino()))
    }

    /// Reads where a symbolic link outside points to.
    fn read_link_outside(at) {
        Ok(fs::read_link(at.outside("link")?)?.display().to_string())
    }

    /// Watches what happens in a directory outside, with inotify.
    fn watch_outside(at) {
        let inotify = owned(call!(libc::SYS_inotify_init1, libc::IN_NONBLOCK)?)?;
        let path = c(&at.outside("")?)?;
        call!(libc::SYS_inotify_add_watch, &inotify, path.as_c_str(), libc::IN_CREATE)?;
        meet("watching");
        let mut event = [0; 512];
        let length = File::from(inotify).read(&mut event)?;
        Ok(String::from_utf8_lossy(&event[16..length]).trim_end_matches('\0').to_owned())
    }
}

#[cfg(target_arch = "x86_64")]
fn ancient_utime(path: &std::ffi::CStr, times: &[u8]) -> Attempt {
    call!(libc::SYS_utime, path, times)?;
    Ok("77".into())
}

#[cfg(not(target_arch = "x86_64"))]
fn ancient_utime(_: &std::ffi::CStr, _: &[u8]) -> Attempt {
    Err(Failure::Unavailable("this architecture never had it".into()))
}
