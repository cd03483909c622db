//! Standard input, output and error of a program.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

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

    /// A pipe, whose other end is the [`Child`](crate::Child)'s.
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

/// What a program is to have at 0, 1 and 2.
pub(crate) struct Streams<'s> {
    /// Our ends of the pipes.
    pub(crate) pipes: Pipes,
    /// The fds, where they are not this process's own.
    fds: [Option<Stream<'s>>; 3],
}

enum Stream<'s> {
    Given(BorrowedFd<'s>),
    Made(OwnedFd),
}

impl Stream<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Given(fd) => *fd,
            Self::Made(fd) => fd.as_fd(),
        }
    }
}

impl<'s> Streams<'s> {
    /// Opens what `stdio` says, and what `defaults` does where it says nothing.
    pub(crate) fn open(
        stdio: &'s [Option<Stdio>; 3],
        defaults: &'s [Stdio; 3],
    ) -> Result<Self, Error> {
        let mut streams = Self { pipes: Pipes::default(), fds: [None, None, None] };
        for (target, (set, default)) in (0..3).zip(stdio.iter().zip(defaults)) {
            let stream = match &set.as_ref().unwrap_or(default).0 {
                Source::Inherit => continue,
                Source::Fd(fd) => Stream::Given(fd.as_fd()),
                Source::Null => {
                    let null = File::options().read(true).write(true).open("/dev/null");
                    Stream::Made(null.map_err(Error::system("opening /dev/null"))?.into())
                }
                Source::Piped => {
                    let (read, write) = pipe()?;
                    let (ours, end) = if target == 0 { (write, read) } else { (read, write) };
                    streams.pipes.set(target, ours);
                    Stream::Made(end)
                }
            };
            streams.fds[target as usize] = Some(stream);
        }
        Ok(streams)
    }

    /// The fds, each with its number, where they are not this process's own.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (RawFd, u32)> {
        let numbered = (0..3).zip(&self.fds);
        numbered.filter_map(|(target, fd)| Some((fd.as_ref()?.fd().as_raw_fd(), target)))
    }

    /// The fds, or, where they are this process's own, those of `own`.
    pub(crate) fn or<'f>(&'f self, own: [BorrowedFd<'f>; 3]) -> [BorrowedFd<'f>; 3] {
        let [input, output, error] = self.fds.each_ref().map(|it| it.as_ref().map(Stream::fd));
        let [own_input, own_output, own_error] = own;
        [input.unwrap_or(own_input), output.unwrap_or(own_output), error.unwrap_or(own_error)]
    }
}
