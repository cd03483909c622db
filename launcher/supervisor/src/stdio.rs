//! Standard input, output and error of a program.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::child::Pipes;
use crate::error::Error;
use crate::spawn::pipe;

/// Where the program's standard input comes from, or its output goes.
#[derive(Debug)]
pub struct Stdio(Source);

#[derive(Debug)]
enum Source {
    Inherit,
    Null,
    Piped,
    Fd(OwnedFd),
}

impl Stdio {
    /// This process's own.
    pub fn inherit() -> Self {
        Self(Source::Inherit)
    }

    /// `/dev/null`.
    pub fn null() -> Self {
        Self(Source::Null)
    }

    /// A pipe, whose other end is the [`Child`]'s.
    pub fn piped() -> Self {
        Self(Source::Piped)
    }
}

impl<T: Into<OwnedFd>> From<T> for Stdio {
    fn from(file: T) -> Self {
        Self(Source::Fd(file.into()))
    }
}

impl Stdio {
    pub(crate) const INHERITED: [Self; 3] =
        [Self(Source::Inherit), Self(Source::Inherit), Self(Source::Inherit)];
    pub(crate) const COLLECTED: [Self; 3] =
        [Self(Source::Null), Self(Source::Piped), Self(Source::Piped)];
}

/// What a launcher is to have at 0, 1 and 2.
#[derive(Default)]
pub(crate) struct Streams {
    /// Our ends of the pipes.
    pub(crate) pipes: Pipes,
    /// The fds, each with its number, where they are not this process's own.
    pub(crate) fds: Vec<(RawFd, u32)>,
    /// Those of the fds that are made for this launch.
    pub(crate) made: Vec<OwnedFd>,
}

impl Streams {
    /// Opens what `stdio` says, and what `defaults` does where it says nothing.
    pub(crate) fn open(stdio: &[Option<Stdio>; 3], defaults: &[Stdio; 3]) -> Result<Self, Error> {
        let mut streams = Self::default();
        for (target, (set, default)) in (0..3).zip(stdio.iter().zip(defaults)) {
            let fd = match &set.as_ref().unwrap_or(default).0 {
                Source::Inherit => continue,
                Source::Fd(fd) => fd.as_raw_fd(),
                Source::Null => {
                    let null = File::options().read(true).write(true).open("/dev/null");
                    streams.keep(null.map_err(Error::system("opening /dev/null"))?.into())
                }
                Source::Piped => {
                    let (read, write) = pipe()?;
                    let (ours, end) = if target == 0 { (write, read) } else { (read, write) };
                    streams.pipes.set(target, ours);
                    streams.keep(end)
                }
            };
            streams.fds.push((fd, target));
        }
        Ok(streams)
    }

    fn keep(&mut self, fd: OwnedFd) -> RawFd {
        let raw = fd.as_raw_fd();
        self.made.push(fd);
        raw
    }
}
