//! A reader of the deterministic encoding of RFC 8949 §4.2.1 that knows what it wants.
//!
//! A plan has one encoding: definite lengths, the shortest forms, the fields of each structure in the one
//! order that the encoding allows. So each field is asked for by name where it must stand, and anything
//! else is an error where it stands. No length is believed before as many bytes are there.

use ciborium::Value;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as NameError, StrDeserializer};

use super::WireError;
use crate::params::MAX_DEPTH;
use crate::{Digest, OsText};

const ANOTHER_TYPE: &str = "a value of another type than the field's";
const ANOTHER_FORM: &str = "a name or a value is in another form than the one that it has";

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const SIMPLE: u8 = 7;

/// Reads the items of a body, one after the other.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The fields of a structure that have yet to be read.
#[must_use = "what is left of a structure is an unknown field"]
pub(super) struct Fields(u64);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Where the next item begins.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The bytes from `start` on to where the next item begins.
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.at]
    }

    /// There is nothing more.
    pub(super) fn end(&self) -> Result<(), WireError> {
        if self.at == self.bytes.len() { Ok(()) } else { self.wrong("bytes after the body") }
    }

    pub(super) fn wrong<T>(&self, why: &'static str) -> Result<T, WireError> {
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

    /// The argument of an item of this major type.
    fn expect(&mut self, expected: u8) -> Result<u64, WireError> {
        let start = self.at;
        let (major, argument) = self.head()?;
        if major == expected {
            return Ok(argument);
        }
        self.at = start;
        // What a plan has no use for at all is named as that.
        self.value(0)?;
        self.at = start;
        self.wrong(ANOTHER_TYPE)
    }

    fn text_of(&mut self, length: u64) -> Result<&'a str, WireError> {
        let start = self.at;
        let Ok(text) = std::str::from_utf8(self.take(length)?) else {
            self.at = start;
            return self.wrong("a text string that is not UTF-8");
        };
        Ok(text)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, WireError> {
        let length = self.expect(TEXT)?;
        self.text_of(length)
    }

    pub(super) fn number(&mut self) -> Result<u32, WireError> {
        let start = self.at;
        u32::try_from(self.expect(UNSIGNED)?).or_else(|_| {
            self.at = start;
            self.wrong("a number over 32 bits")
        })
    }

    pub(super) fn boolean(&mut self) -> Result<bool, WireError> {
        match self.value(0)? {
            Value::Bool(value) => Ok(value),
            _ => self.wrong(ANOTHER_TYPE),
        }
    }

    pub(super) fn digest(&mut self) -> Result<Digest, WireError> {
        let length = self.expect(BYTES)?;
        match <[u8; 32]>::try_from(self.take(length)?) {
            Ok(bytes) => Ok(bytes.into()),
            Err(_) => self.wrong("a digest that is not of 32 bytes"),
        }
    }

    /// Text, or bytes where they are not UTF-8.
    pub(super) fn os_text(&mut self) -> Result<OsText, WireError> {
        use std::os::unix::ffi::OsStrExt;
        if self.bytes.get(self.at).is_some_and(|initial| initial >> 5 == BYTES) {
            let (_, length) = self.head()?;
            let bytes = self.take(length)?;
            if std::str::from_utf8(bytes).is_ok() {
                let why = "a byte string that is UTF-8 must be a text string";
                return Err(WireError::Shape(why.into()));
            }
            return Ok(std::ffi::OsStr::from_bytes(bytes).into());
        }
        Ok(self.text()?.into())
    }

    /// A name of an enumeration.
    pub(super) fn name<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T, WireError> {
        let name: StrDeserializer<'_, NameError> = self.text()?.into_deserializer();
        T::deserialize(name).map_err(|error| WireError::Shape(error.to_string()))
    }

    /// The length of an array, which may have `most` items.
    pub(super) fn array(&mut self, what: &'static str, most: usize) -> Result<usize, WireError> {
        let length = self.expect(ARRAY)?;
        self.room_for(length)?;
        let found = usize::try_from(length).unwrap_or(usize::MAX);
        if found > most {
            return Err(WireError::Limit { what, found, limit: most });
        }
        Ok(found)
    }

    /// The fields of a structure.
    pub(super) fn fields(&mut self) -> Result<Fields, WireError> {
        let length = self.expect(MAP)?;
        self.room_for(length.saturating_mul(2))?;
        Ok(Fields(length))
    }

    /// The field that must come next.
    pub(super) fn field(&mut self, fields: &mut Fields, name: &str) -> Result<(), WireError> {
        if self.has_field(fields, name)? {
            return Ok(());
        }
        Err(WireError::Shape(format!("missing field `{name}`")))
    }

    /// Whether a field comes next that may be absent.
    pub(super) fn has_field(&mut self, fields: &mut Fields, name: &str) -> Result<bool, WireError> {
        if fields.0 == 0 {
            return Ok(false);
        }
        if self.skip_text(name) {
            fields.0 -= 1;
            return Ok(true);
        }
        let start = self.at;
        let found = self.key()?;
        // Keys rise: one below what is wanted has no place here, and one above shows that it is absent.
        if (found.len(), found) < (name.len(), name) {
            return Err(unknown(found));
        }
        self.at = start;
        Ok(false)
    }

    /// Goes past the next item where it is this text: whose bytes it has is UTF-8 without a look.
    fn skip_text(&mut self, text: &str) -> bool {
        let start = self.at;
        let length = text.len() as u64;
        let is_next = self.head() == Ok((TEXT, length))
            && self.take(length).is_ok_and(|found| found == text.as_bytes());
        if !is_next {
            self.at = start;
        }
        is_next
    }

    /// A structure has no field more.
    pub(super) fn no_more(&mut self, fields: &Fields) -> Result<(), WireError> {
        if fields.0 == 0 { Ok(()) } else { Err(unknown(self.key()?)) }
    }

    fn key(&mut self) -> Result<&'a str, WireError> {
        if self.bytes.get(self.at).is_some_and(|initial| initial >> 5 != TEXT) {
            self.head()?;
            return Err(WireError::Shape(ANOTHER_FORM.into()));
        }
        self.text()
    }

    /// A map of anything, with its keys in order; never empty, for then it is left out.
    pub(super) fn params(&mut self, id: &str) -> Result<Vec<(Value, Value)>, WireError> {
        match self.value(0)? {
            Value::Map(entries) if !entries.is_empty() => Ok(entries),
            _ => {
                let why = "params must be a map, and are left out when empty";
                Err(WireError::Shape(format!("lowering entry {id}: {why}")))
            }
        }
    }

    /// Any item that a plan has a use for: no tag, no float, nothing undefined.
    fn value(&mut self, depth: u32) -> Result<Value, WireError> {
        if depth > MAX_DEPTH {
            return self.wrong("nested too deeply");
        }
        let start = self.at;
        let (major, argument) = self.head()?;
        Ok(match (major, argument) {
            (UNSIGNED, number) => Value::Integer(number.into()),
            (NEGATIVE, number) => match (-1 - i128::from(number)).try_into() {
                Ok(number) => Value::Integer(number),
                Err(_) => return self.wrong("a number that no integer holds"),
            },
            (BYTES, length) => Value::Bytes(self.take(length)?.to_vec()),
            (TEXT, length) => Value::Text(self.text_of(length)?.to_owned()),
            (ARRAY, length) => {
                self.room_for(length)?;
                let values = (0..length).map(|_| self.value(depth + 1));
                Value::Array(values.collect::<Result<_, _>>()?)
            }
            (MAP, length) => Value::Map(self.map(length, depth)?),
            (SIMPLE, 20 | 21) => Value::Bool(argument == 21),
            (SIMPLE, 22) => Value::Null,
            _ => {
                self.at = start;
                return self.wrong("a tag, a float or a simple value that no plan uses");
            }
        })
    }

    fn map(&mut self, length: u64, depth: u32) -> Result<Vec<(Value, Value)>, WireError> {
        self.room_for(length.saturating_mul(2))?;
        let mut entries = Vec::new();
        let mut previous: &[u8] = &[];
        for _ in 0..length {
            let start = self.at;
            let key = self.value(depth + 1)?;
            let encoded = &self.bytes[start..self.at];
            if encoded <= previous {
                self.at = start;
                return self.wrong("a key out of order, or twice");
            }
            previous = encoded;
            entries.push((key, self.value(depth + 1)?));
        }
        Ok(entries)
    }

    /// Each item takes a byte at least, so a count over the bytes that are left is a lie.
    fn room_for(&self, items: u64) -> Result<(), WireError> {
        let left = self.bytes.len() - self.at;
        if items > left as u64 { self.wrong("a length that goes past the end") } else { Ok(()) }
    }
}

fn unknown(field: &str) -> WireError {
    WireError::Shape(format!("unknown field `{field}`, or one out of order or twice"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8]) -> Result<(), WireError> {
        let mut reader = Reader::new(bytes);
        reader.value(0)?;
        reader.end()
    }

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
    fn a_field_is_found_by_a_name_of_any_length() {
        for length in [1, 23, 24, 255, 256] {
            let name = "n".repeat(length);
            let bytes =
                crate::params::encode(&Value::Map(vec![(name.clone().into(), true.into())]));
            let mut reader = Reader::new(&bytes);
            let mut fields = reader.fields().unwrap();
            assert_eq!(reader.has_field(&mut fields, &name[1..]), Ok(false), "{length}");
            assert_eq!(reader.has_field(&mut fields, &name), Ok(true), "{length}");
            assert_eq!((reader.boolean(), reader.end()), (Ok(true), Ok(())));
        }
    }

    #[test]
    fn depth_is_limited() {
        let mut bytes = vec![0x81; 100_000];
        bytes.push(0);
        assert!(matches!(check(&bytes), Err(WireError::Encoding { why: "nested too deeply", .. })));
    }
}
