//! What the operating system calls a string, on a wire that knows text and bytes.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An argument, a variable of the environment or a path: bytes that are mostly, not always, UTF-8.
///
/// On the wire it is a text string when the bytes are UTF-8 and a byte string when they are not, so
/// that each value has one encoding; a byte string that holds UTF-8 is rejected.
///
/// ```
/// use portcullis_core::OsText;
///
/// assert_eq!(OsText::from("/usr").as_os_str(), "/usr");
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct OsText(OsString);

impl OsText {
    /// The string, borrowed.
    pub fn as_os_str(&self) -> &OsStr {
        &self.0
    }

    /// The string's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl<T: Into<OsString>> From<T> for OsText {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl From<OsText> for PathBuf {
    fn from(text: OsText) -> Self {
        text.0.into()
    }
}

impl fmt::Debug for OsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for OsText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => serializer.serialize_bytes(self.0.as_bytes()),
        }
    }
}

impl<'de> Deserialize<'de> for OsText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = OsText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text string, or a byte string that is not UTF-8")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<OsText, E> {
                Ok(OsText(text.into()))
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<OsText, E> {
                if std::str::from_utf8(bytes).is_ok() {
                    return Err(E::custom("a byte string that is UTF-8 must be a text string"));
                }
                Ok(OsText(OsString::from_vec(bytes.to_vec())))
            }
            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<OsText, E> {
                self.visit_bytes(&bytes)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
