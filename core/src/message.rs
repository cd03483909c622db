//! The message that asks a resident launcher for a launch: what it says beside the fds that it carries.

/// The first eight bytes.
pub const MAGIC: [u8; 8] = *b"PCLAUNCH";
/// The version of the message.
pub const VERSION: u16 = 1;
/// The most fds that the kernel carries with a message: `SCM_MAX_FD` of
/// [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html).
pub const MAX_FDS: usize = 253;
/// How many fds come before the slots': the control channel, the plan, and standard input, output and
/// error. A working directory is one more.
pub const OWN_FDS: usize = 5;
/// The most slots.
pub const MAX_SLOTS: usize = MAX_FDS - OWN_FDS;
/// The longest message.
pub const MAX_LEN: usize = HEADER_LEN + 4 * MAX_SLOTS;

const HEADER_LEN: usize = 16;
const TRACE: u16 = 1;
const DIRECTORY: u16 = 2;
const AT_END: u16 = 4;

/// A message.
///
/// ```
/// use portcullis_core::message::LaunchMessage;
///
/// let message = LaunchMessage { directory: true, slots: vec![3, 4], ..LaunchMessage::default() };
/// assert_eq!(LaunchMessage::decode(&message.encode()).unwrap(), message);
/// assert_eq!(message.fds(), 8);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LaunchMessage {
    /// Whether the launcher notes how long its stages take.
    pub trace: bool,
    /// Whether a working directory is among the fds.
    pub directory: bool,
    /// Whether who asks waits for the workload's end, so that nothing need be told before it where it comes soon.
    pub at_end: bool,
    /// The slot of each of the last fds, in their order.
    pub slots: Vec<u32>,
}

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Shorter than a header, or not of the length that its number of slots makes.
    #[error("it has {found} bytes where {needed} are needed")]
    Length {
        /// How many there are.
        found: usize,
        /// How many there should be.
        needed: usize,
    },
    /// It starts with something else.
    #[error("it does not start with PCLAUNCH")]
    Magic,
    /// Of a version that is unknown here.
    #[error("it is of version {found}, and {VERSION} is known here")]
    Version {
        /// Its version.
        found: u16,
    },
    /// Flags that are unknown here.
    #[error("its flags are {found:#x}, and some of them are unknown here")]
    Flags {
        /// Its flags.
        found: u16,
    },
    /// More slots than a message can carry the fds of.
    #[error("it has {found} slots, and {MAX_SLOTS} are the most, or one less with a directory")]
    Slots {
        /// How many there are.
        found: usize,
    },
    /// Two fds for one slot.
    #[error("it has two fds for slot {slot}")]
    DuplicateSlot {
        /// The slot.
        slot: u32,
    },
}

impl LaunchMessage {
    /// How many fds come with it.
    pub fn fds(&self) -> usize {
        OWN_FDS + usize::from(self.directory) + self.slots.len()
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let flags = [(self.trace, TRACE), (self.directory, DIRECTORY), (self.at_end, AT_END)];
        let flags = flags.iter().map(|(set, flag)| if *set { *flag } else { 0 }).sum::<u16>();
        let slots = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER_LEN + 4 * self.slots.len());
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(slots.to_le_bytes());
        bytes.extend(self.slots.iter().flat_map(|slot| slot.to_le_bytes()));
        bytes
    }

    /// Reads a message.
    ///
    /// # Errors
    ///
    /// [`MessageError`], the first that applies in the order of the fields.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let length = |needed| MessageError::Length { found: bytes.len(), needed };
        let (magic, rest) = bytes.split_first_chunk().ok_or(length(HEADER_LEN))?;
        let (version, rest) = rest.split_first_chunk().ok_or(length(HEADER_LEN))?;
        let (flags, rest) = rest.split_first_chunk().ok_or(length(HEADER_LEN))?;
        let (count, rest) = rest.split_first_chunk().ok_or(length(HEADER_LEN))?;
        if *magic != MAGIC {
            return Err(MessageError::Magic);
        }
        let found = u16::from_le_bytes(*version);
        if found != VERSION {
            return Err(MessageError::Version { found });
        }
        let flags = u16::from_le_bytes(*flags);
        if flags & !(TRACE | DIRECTORY | AT_END) != 0 {
            return Err(MessageError::Flags { found: flags });
        }
        let count = usize::try_from(u32::from_le_bytes(*count)).unwrap_or(usize::MAX);
        let [trace, directory, at_end] = [TRACE, DIRECTORY, AT_END].map(|flag| flags & flag != 0);
        if count > MAX_SLOTS - usize::from(directory) {
            return Err(MessageError::Slots { found: count });
        }
        if rest.len() != 4 * count {
            return Err(length(HEADER_LEN + 4 * count));
        }
        let words = rest.chunks_exact(4).filter_map(<[u8]>::first_chunk);
        let slots: Vec<u32> = words.map(|word| u32::from_le_bytes(*word)).collect();
        let mut sorted = slots.clone();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(MessageError::DuplicateSlot { slot: pair[0] });
        }
        Ok(Self { trace, directory, at_end, slots })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_documentation() {
        let message = LaunchMessage {
            trace: true,
            directory: true,
            at_end: true,
            slots: vec![3, 0x0102_0304],
        };
        let expected = b"PCLAUNCH\x01\0\x07\0\x02\0\0\0\x03\0\0\0\x04\x03\x02\x01";
        assert_eq!(message.encode(), expected);
        assert_eq!(LaunchMessage::decode(expected).unwrap(), message);
    }

    #[test]
    fn what_is_no_message_is_told_by_its_first_fault() {
        let good = LaunchMessage { slots: vec![3, 4], ..LaunchMessage::default() }.encode();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            LaunchMessage::decode(&bytes).unwrap_err()
        };
        assert_eq!(with(0, b'X'), MessageError::Magic);
        assert_eq!(with(8, 2), MessageError::Version { found: 2 });
        assert_eq!(with(10, 8), MessageError::Flags { found: 8 });
        assert_eq!(with(12, 255), MessageError::Slots { found: 255 });
        assert_eq!(with(12, 3), MessageError::Length { found: 24, needed: 28 });
        assert_eq!(with(20, 3), MessageError::DuplicateSlot { slot: 3 });
        for length in 0..good.len() {
            assert!(LaunchMessage::decode(&good[..length]).is_err());
        }
    }

    #[test]
    fn as_many_slots_as_fit_can_be_asked_for() {
        let most = u32::try_from(MAX_SLOTS).unwrap();
        let mut message = LaunchMessage { slots: (0..most).collect(), ..LaunchMessage::default() };
        assert_eq!((message.encode().len(), message.fds()), (MAX_LEN, MAX_FDS));
        assert_eq!(LaunchMessage::decode(&message.encode()).unwrap(), message);
        message.directory = true;
        assert!(LaunchMessage::decode(&message.encode()).is_err());
    }
}
