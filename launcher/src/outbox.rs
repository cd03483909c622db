//! A control channel that never blocks its writer.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, retry_on_intr, write};

use crate::wiring::Channel;

/// A control channel, and what it has no room for yet.
///
/// A reader that is slow holds up nobody but itself. What waits for it is bounded: a launch has so much to
/// tell and no more.
pub(crate) struct Outbox {
    channel: OwnedFd,
    waiting: Vec<u8>,
}

impl Outbox {
    /// The outbox of a channel, whose open file description is set not to block. (Of a pipe each end has
    /// one of its own, so the reader's is as it was.)
    pub(crate) fn new(channel: OwnedFd) -> Result<Self, Errno> {
        fcntl_setfl(&channel, fcntl_getfl(&channel)? | OFlags::NONBLOCK)?;
        Ok(Self { channel, waiting: Vec::new() })
    }

    /// Whether all has been told.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Writes as much of what waits as there is room for.
    ///
    /// # Errors
    ///
    /// Those of the channel, whose reader is gone. Nothing waits for it any more.
    pub(crate) fn post(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            match retry_on_intr(|| write(&self.channel, &self.waiting)) {
                Ok(written) => drop(self.waiting.drain(..written)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => {
                    self.waiting.clear();
                    return Err(errno.into());
                }
            }
        }
        Ok(())
    }
}

impl AsFd for Outbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Channel for Outbox {}

impl Write for Outbox {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        self.post()?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.post()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    #[test]
    fn what_has_no_room_waits_and_arrives_in_order() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut outbox = Outbox::new(write).unwrap();
        let text: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
        outbox.write_all(&text).unwrap();
        assert!(!outbox.is_empty());
        let mut reader = File::from(read);
        let mut arrived = Vec::new();
        let mut chunk = [0; 10_000];
        while arrived.len() < text.len() {
            let length = reader.read(&mut chunk).unwrap();
            arrived.extend_from_slice(&chunk[..length]);
            outbox.post().unwrap();
        }
        assert!(outbox.is_empty() && arrived == text);
    }

    #[test]
    fn for_a_reader_that_is_gone_nothing_waits() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut outbox = Outbox::new(write).unwrap();
        outbox.write_all(&vec![0; 200_000]).unwrap();
        drop(read);
        assert!(outbox.post().is_err());
        assert!(outbox.is_empty() && outbox.post().is_ok());
    }
}
