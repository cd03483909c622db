//! The message that a resident launcher is asked by: what it says beside the fds that it carries.

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
/// The most slots of a launch that is not kept.
pub const MAX_SLOTS: usize = MAX_FDS - OWN_FDS;
/// The longest message.
pub const MAX_LEN: usize = HEADER_LEN + NUMBER_LEN + 4 * (MAX_SLOTS + LAUNCH_ONLY);

const HEADER_LEN: usize = 16;
const NUMBER_LEN: usize = 4;
/// How many of its own fds a launch has that is not to be kept: standard input, output and error.
const LAUNCH_ONLY: usize = 3;
const TRACE: u16 = 1;
const DIRECTORY: u16 = 2;
const AT_END: u16 = 4;
const KEEP: u16 = 8;
const KEPT: u16 = 16;
const FORGET: u16 = 32;

/// What a message asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Asks {
    /// A launch.
    #[default]
    Launch,
    /// To keep a plan and its slots' fds, all but made into a launch, by this number.
    Keep(u32),
    /// A launch of what is kept by this number.
    Kept(u32),
    /// To keep it no longer.
    Forget(u32),
}

impl Asks {
    /// Its flag and the number that it has.
    fn parts(self) -> (u16, Option<u32>) {
        match self {
            Self::Launch => (0, None),
            Self::Keep(number) => (KEEP, Some(number)),
            Self::Kept(number) => (KEPT, Some(number)),
            Self::Forget(number) => (FORGET, Some(number)),
        }
    }

    /// How many fds come before those of the slots, without a working directory.
    fn own_fds(self) -> usize {
        match self {
            Self::Launch => OWN_FDS,
            Self::Keep(_) => OWN_FDS - LAUNCH_ONLY,
            Self::Kept(_) => OWN_FDS - 1,
            Self::Forget(_) => 0,
        }
    }

    /// The flags that it may have beside its own.
    fn flags(self) -> u16 {
        match self {
            Self::Launch | Self::Kept(_) => TRACE | DIRECTORY | AT_END,
            Self::Keep(_) | Self::Forget(_) => 0,
        }
    }

    /// The most slots that it may have.
    fn most_slots(self, directory: bool) -> usize {
        match self {
            Self::Launch | Self::Keep(_) => MAX_FDS - self.own_fds() - usize::from(directory),
            Self::Kept(_) | Self::Forget(_) => 0,
        }
    }
}

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
    /// What it asks for.
    pub asks: Asks,
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
    /// Shorter than what it asks for takes, or not of the length that its number of slots makes.
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
    /// Flags that are unknown here, or do not go together.
    #[error("its flags are {found:#x}, and some of them are unknown here or do not go together")]
    Flags {
        /// Its flags.
        found: u16,
    },
    /// More slots than a message can carry the fds of, or than it may have.
    #[error("it has {found} slots, and {most} are the most for what it asks")]
    Slots {
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: usize,
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
        self.asks.own_fds() + usize::from(self.directory) + self.slots.len()
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let flags = [(self.trace, TRACE), (self.directory, DIRECTORY), (self.at_end, AT_END)];
        let (asks, number) = self.asks.parts();
        let flags =
            flags.iter().map(|(set, flag)| if *set { *flag } else { 0 }).sum::<u16>() | asks;
        let slots = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER_LEN + NUMBER_LEN + 4 * self.slots.len());
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(slots.to_le_bytes());
        bytes.extend(number.map(u32::to_le_bytes).iter().flatten());
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
        let number = rest.first_chunk().map(|it| u32::from_le_bytes(*it));
        // One that is missing is found when the length is.
        let asks = match (flags & (KEEP | KEPT | FORGET), number.unwrap_or_default()) {
            (0, _) => Asks::Launch,
            (KEEP, number) => Asks::Keep(number),
            (KEPT, number) => Asks::Kept(number),
            (FORGET, number) => Asks::Forget(number),
            _ => return Err(MessageError::Flags { found: flags }),
        };
        let (own, numbered) = asks.parts();
        if flags & !(own | asks.flags()) != 0 {
            return Err(MessageError::Flags { found: flags });
        }
        let found = usize::try_from(u32::from_le_bytes(*count)).unwrap_or(usize::MAX);
        let [trace, directory, at_end] = [TRACE, DIRECTORY, AT_END].map(|flag| flags & flag != 0);
        let most = asks.most_slots(directory);
        if found > most {
            return Err(MessageError::Slots { found, most });
        }
        let before = if numbered.is_some() { NUMBER_LEN } else { 0 };
        let rest = rest.get(before..).filter(|rest| rest.len() == 4 * found);
        let rest = rest.ok_or(length(HEADER_LEN + before + 4 * found))?;
        let words = rest.chunks_exact(4).filter_map(<[u8]>::first_chunk);
        let slots: Vec<u32> = words.map(|word| u32::from_le_bytes(*word)).collect();
        let mut sorted = slots.clone();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(MessageError::DuplicateSlot { slot: pair[0] });
        }
        Ok(Self { asks, trace, directory, at_end, slots })
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
            ..LaunchMessage::default()
        };
        let expected = b"PCLAUNCH\x01\0\x07\0\x02\0\0\0\x03\0\0\0\x04\x03\x02\x01";
        assert_eq!(message.encode(), expected);
        assert_eq!(LaunchMessage::decode(expected).unwrap(), message);
        for (message, flags, slots, fds) in [
            (
                LaunchMessage { asks: Asks::Keep(7), slots: vec![3], ..LaunchMessage::default() },
                8,
                1,
                3,
            ),
            (
                LaunchMessage { asks: Asks::Kept(7), at_end: true, ..LaunchMessage::default() },
                20,
                0,
                4,
            ),
            (LaunchMessage { asks: Asks::Forget(7), ..LaunchMessage::default() }, 32, 0, 0),
        ] {
            let mut expected = b"PCLAUNCH\x01\0".to_vec();
            expected.extend([flags, 0, slots, 0, 0, 0, 7, 0, 0, 0]);
            expected.extend(&[3, 0, 0, 0][..4 * usize::from(slots)]);
            assert_eq!(message.encode(), expected);
            assert_eq!(message.fds(), fds);
            assert_eq!(LaunchMessage::decode(&expected).unwrap(), message);
            for length in 0..expected.len() {
                assert!(LaunchMessage::decode(&expected[..length]).is_err());
            }
        }
    }

    #[test]
    fn what_does_not_go_together_is_no_message() {
        let flags = |asks: Asks, flags: u8| {
            let mut bytes = LaunchMessage { asks, ..LaunchMessage::default() }.encode();
            bytes[10] |= flags;
            LaunchMessage::decode(&bytes)
        };
        for (asks, more) in [
            (Asks::Keep(1), 1),
            (Asks::Keep(1), 2),
            (Asks::Keep(1), 4),
            (Asks::Keep(1), 16),
            (Asks::Kept(1), 32),
            (Asks::Forget(1), 1),
            (Asks::Forget(1), 2),
            (Asks::Forget(1), 8),
        ] {
            assert!(
                matches!(flags(asks, more), Err(MessageError::Flags { .. })),
                "{asks:?} {more}"
            );
        }
        let header = &LaunchMessage::default().encode()[..HEADER_LEN];
        for (at, value, error) in [
            (10, 8 + 64, MessageError::Flags { found: 72 }),
            (12, 252, MessageError::Slots { found: 252, most: 251 }),
            (12, 2, MessageError::Length { found: 16, needed: 28 }),
        ] {
            let mut bytes = header.to_vec();
            bytes[10] = 8;
            bytes[at] = value;
            assert_eq!(LaunchMessage::decode(&bytes), Err(error));
        }
        for asks in [Asks::Kept(1), Asks::Forget(1)] {
            let message = LaunchMessage { asks, slots: vec![3], ..LaunchMessage::default() };
            let refused = LaunchMessage::decode(&message.encode());
            assert_eq!(refused, Err(MessageError::Slots { found: 1, most: 0 }));
        }
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
        assert_eq!(with(10, 64), MessageError::Flags { found: 64 });
        assert_eq!(with(12, 255), MessageError::Slots { found: 255, most: 248 });
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
        assert_eq!(message.fds(), MAX_FDS);
        assert_eq!(LaunchMessage::decode(&message.encode()).unwrap(), message);
        message.directory = true;
        assert!(LaunchMessage::decode(&message.encode()).is_err());
        let (asks, slots) = (Asks::Keep(0), (0..most + 3).collect());
        let message = LaunchMessage { asks, slots, ..LaunchMessage::default() };
        assert_eq!((message.encode().len(), message.fds()), (MAX_LEN, MAX_FDS));
        assert_eq!(LaunchMessage::decode(&message.encode()).unwrap(), message);
    }
}
