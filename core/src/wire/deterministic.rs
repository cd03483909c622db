//! The deterministic encoding of RFC 8949 §4.2.1, checked on the bytes before anything is decoded.
//!
//! The check allocates nothing, and what passes it declares no length that is not there: so a decoder
//! that trusts the lengths afterwards allocates no more than a small multiple of the input.

use super::WireError;

/// Deeper than any plan, and shallow enough for any stack.
const MAX_DEPTH: u32 = 16;

/// Checks that `bytes` are one item: definite lengths, shortest forms, keys sorted and unique, valid
/// UTF-8, and none of the types that a plan has no use for (tags, floats, undefined).
pub(super) fn check(bytes: &[u8]) -> Result<(), WireError> {
    let mut cursor = Cursor { bytes, at: 0 };
    cursor.item(0)?;
    if cursor.at == bytes.len() { Ok(()) } else { cursor.wrong("bytes after the body") }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn wrong<T>(&self, why: &'static str) -> Result<T, WireError> {
        Err(WireError::Encoding { offset: self.at, why })
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], WireError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = usize::try_from(length).ok().and_then(|length| rest.get(..length));
        match taken {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => self.wrong("a length that goes past the end"),
        }
    }

    /// An initial byte and its argument: the major type, and the value.
    fn head(&mut self) -> Result<(u8, u64), WireError> {
        let start = self.at;
        let initial = self.take(1)?[0];
        let (major, info) = (initial >> 5, initial & 0x1f);
        let (width, least) = match info {
            0..=23 => return Ok((major, u64::from(info))),
            24 => (1, 24),
            25 => (2, 1 << 8),
            26 => (4, 1 << 16),
            27 => (8, 1 << 32),
            _ => {
                self.at = start;
                return self.wrong("an indefinite length or a reserved form");
            }
        };
        let argument =
            self.take(width)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        if argument < least {
            self.at = start;
            return self.wrong("a number that is not in its shortest form");
        }
        Ok((major, argument))
    }

    fn item(&mut self, depth: u32) -> Result<(), WireError> {
        if depth > MAX_DEPTH {
            return self.wrong("nested too deeply");
        }
        let start = self.at;
        let (major, argument) = self.head()?;
        match major {
            0 | 1 => Ok(()),
            2 => self.take(argument).map(drop),
            3 => match std::str::from_utf8(self.take(argument)?) {
                Ok(_) => Ok(()),
                Err(_) => self.wrong("a text string that is not UTF-8"),
            },
            4 => self.array(argument, depth),
            5 => self.map(argument, depth),
            7 if matches!(self.bytes[start], 0xf4..=0xf6) => Ok(()),
            _ => {
                self.at = start;
                self.wrong("a tag, a float or a simple value that no plan uses")
            }
        }
    }

    fn array(&mut self, length: u64, depth: u32) -> Result<(), WireError> {
        self.room_for(length)?;
        (0..length).try_for_each(|_| self.item(depth + 1))
    }

    fn map(&mut self, length: u64, depth: u32) -> Result<(), WireError> {
        self.room_for(length.saturating_mul(2))?;
        let mut previous: &[u8] = &[];
        for _ in 0..length {
            let start = self.at;
            self.item(depth + 1)?;
            let key = &self.bytes[start..self.at];
            if key <= previous {
                self.at = start;
                return self.wrong("a key out of order, or twice");
            }
            previous = key;
            self.item(depth + 1)?;
        }
        Ok(())
    }

    /// Each item takes a byte at least, so a count over the bytes that are left is a lie.
    fn room_for(&self, items: u64) -> Result<(), WireError> {
        let left = self.bytes.len() - self.at;
        if items > left as u64 { self.wrong("a length that goes past the end") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_departure_from_the_deterministic_form_is_named() {
        let cases: [(&[u8], &str); 16] = [
            (&[], "a length that goes past the end"),
            (&[0x18, 23], "a number that is not in its shortest form"),
            (&[0x19, 0, 255], "a number that is not in its shortest form"),
            (&[0x1a, 0, 0, 255, 255], "a number that is not in its shortest form"),
            (&[0x1b, 0, 0, 0, 0, 255, 255, 255, 255], "a number that is not in its shortest form"),
            (&[0x9f, 0xff], "an indefinite length or a reserved form"),
            (&[0x1c], "an indefinite length or a reserved form"),
            (&[0x62, b'a'], "a length that goes past the end"),
            (&[0x61, 0xff], "a text string that is not UTF-8"),
            (&[0x9a, 0xff, 0xff, 0xff, 0xff], "a length that goes past the end"),
            (&[0xbb, 255, 255, 255, 255, 255, 255, 255, 255], "a length that goes past the end"),
            (&[0xa2, 2, 0, 1, 0], "a key out of order, or twice"),
            (&[0xa2, 1, 0, 1, 0], "a key out of order, or twice"),
            (&[0xf9, 0, 0], "a number that is not in its shortest form"),
            (&[0xc0, 0], "a tag, a float or a simple value that no plan uses"),
            (&[0, 0], "bytes after the body"),
        ];
        for (bytes, expected) in cases {
            let Err(WireError::Encoding { why, .. }) = check(bytes) else {
                panic!("{bytes:x?} passed");
            };
            assert_eq!(why, expected, "{bytes:x?}");
        }
    }

    #[test]
    fn every_type_that_a_plan_uses_passes() {
        let map: &[u8] = &[0xa2, 1, 0x83, 0x41, 0xff, 0xf5, 0x20, 0x61, b'a', 0xa0];
        for bytes in [&[0x17][..], &[0x18, 24], &[0x19, 1, 0], &[0xf4], &[0xf6], &[0x60], map] {
            assert_eq!(check(bytes), Ok(()), "{bytes:x?}");
        }
    }

    #[test]
    fn depth_is_limited() {
        let mut bytes = vec![0x81; 100_000];
        bytes.push(0);
        assert!(matches!(check(&bytes), Err(WireError::Encoding { why: "nested too deeply", .. })));
    }
}
