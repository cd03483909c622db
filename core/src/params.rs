//! Parameters: what a policy says of a mechanism, and what a plan carries to it.

use std::cmp::Ordering;
use std::sync::OnceLock;

use ciborium::Value;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Digest;

/// Deeper than any plan, and shallow enough for any stack.
pub(crate) const MAX_DEPTH: u32 = 16;

/// A CBOR map in the deterministic order, typed only when a mechanism [parses](Self::parse) it.
///
/// ```
/// use portcullis_core::Params;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, PartialEq, Debug)]
/// struct Umask {
///     mask: u32,
/// }
///
/// let params = Params::of(&Umask { mask: 0o77 }).unwrap();
/// assert_eq!(params.parse::<Umask>().unwrap(), Umask { mask: 0o77 });
/// ```
#[derive(Debug, Clone)]
pub struct Params {
    /// Always a map.
    map: Value,
    /// The digest and the length of its encoding, once somebody has asked.
    encoded: OnceLock<(Digest, usize)>,
}

impl PartialEq for Params {
    fn eq(&self, other: &Self) -> bool {
        self.map == other.map
    }
}

impl Default for Params {
    fn default() -> Self {
        Self::from_sorted(Vec::new())
    }
}

/// Why a value is no parameters, or parameters are not what a mechanism takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParamsError(String);

impl Params {
    /// The parameters that `value` serializes to: a map, or nothing.
    ///
    /// # Errors
    ///
    /// [`ParamsError`] where it serializes to something else, or not at all; or to what no plan carries: a
    /// float, a tag, a name twice in a map, maps and arrays nested more than 16 deep.
    pub fn of(value: &impl Serialize) -> Result<Self, ParamsError> {
        match Value::serialized(value).map_err(|error| ParamsError(error.to_string()))? {
            Value::Null => Ok(Self::default()),
            Value::Map(mut entries) => {
                sort_map(&mut entries, 0)?;
                Ok(Self::from_sorted(entries))
            }
            _ => Err(ParamsError("parameters are a map of names to values".into())),
        }
    }

    pub(crate) fn from_sorted(entries: Vec<(Value, Value)>) -> Self {
        Self { map: Value::Map(entries), encoded: OnceLock::new() }
    }

    fn entries(&self) -> &[(Value, Value)] {
        self.map.as_map().map_or(&[], Vec::as_slice)
    }

    /// These, with one field more.
    #[cfg(feature = "testkit")]
    pub(crate) fn with(&self, name: &str, value: u32) -> Self {
        let mut entries = self.entries().to_vec();
        entries.push((name.into(), value.into()));
        entries.sort_unstable_by(|(a, _), (b, _)| by_encoding(a, b));
        Self::from_sorted(entries)
    }

    /// The typed form.
    ///
    /// # Errors
    ///
    /// [`ParamsError`] says which field is missing, unknown or of another type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ParamsError> {
        self.map.deserialized().map_err(|error| match error {
            ciborium::value::Error::Custom(text) => ParamsError(text),
        })
    }

    /// Whether there is nothing in the map.
    pub fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    /// The digest of the encoding; all zeros where the map is empty, and so absent from the wire.
    pub fn digest(&self) -> Digest {
        self.encoded().0
    }

    /// The length of the encoding in bytes; none where the map is empty, and so absent from the wire.
    pub(crate) fn encoded_len(&self) -> usize {
        self.encoded().1
    }

    fn encoded(&self) -> (Digest, usize) {
        *self.encoded.get_or_init(|| {
            if self.is_empty() {
                return (Digest::ZERO, 0);
            }
            let bytes = encode(self);
            (Digest::of(&bytes), bytes.len())
        })
    }
}

impl Serialize for Params {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.entries().iter().map(|(key, value)| (key, value)))
    }
}

pub(crate) fn encode(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    // Into a Vec only a value's own Serialize can fail, and the types that come here have none that
    // does; were one to, a cut encoding has a digest that matches nothing.
    let _ = ciborium::into_writer(value, &mut bytes);
    bytes
}

/// Brings a map into the one form that a plan carries it in, where there is one.
fn sort_map(entries: &mut [(Value, Value)], depth: u32) -> Result<(), ParamsError> {
    for (key, value) in entries.iter_mut() {
        sort(key, depth + 1)?;
        sort(value, depth + 1)?;
    }
    entries.sort_unstable_by(|(a, _), (b, _)| by_encoding(a, b));
    match entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        None => Ok(()),
        Some(pair) => Err(ParamsError(format!("{:?} is there twice", pair[0].0))),
    }
}

fn sort(value: &mut Value, depth: u32) -> Result<(), ParamsError> {
    if depth > MAX_DEPTH {
        return Err(ParamsError("nested too deeply".into()));
    }
    match value {
        Value::Map(entries) => sort_map(entries, depth),
        Value::Array(values) => values.iter_mut().try_for_each(|value| sort(value, depth + 1)),
        Value::Integer(_) | Value::Bytes(_) | Value::Text(_) | Value::Bool(_) | Value::Null => {
            Ok(())
        }
        _ => Err(ParamsError("a float or a tag, which no plan carries".into())),
    }
}

/// RFC 8949 §4.2.1: the keys of a map in the bytewise order of their encodings, which for text is by length
/// and then by letter.
fn by_encoding(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => (a.len(), a).cmp(&(b.len(), b)),
        _ => encode(a).cmp(&encode(b)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn keys_are_sorted_by_their_encoding_so_shorter_ones_come_first() {
        let map = BTreeMap::from([("aa", 1), ("b", 2)]);
        let params = Params::of(&map).unwrap();
        assert_eq!(encode(&params), [0xa2, 0x61, b'b', 2, 0x62, b'a', b'a', 1]);
    }

    #[test]
    fn what_no_plan_carries_is_no_parameters() {
        let of = |value| Params::of(&Value::Map(vec![("a".into(), value)])).map(drop);
        assert!(of(Value::Float(1.5)).is_err());
        assert!(of(Value::Tag(1, Box::new(1.into()))).is_err());
        let twice = vec![("b".into(), 1.into()), ("b".into(), 2.into())];
        let error = of(Value::Map(twice)).unwrap_err().to_string();
        assert!(error.contains("\"b\"") && error.contains("twice"), "{error}");
        // The map of parameters, and what is in it.
        let nested = |levels| (0..levels).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
        assert!(of(nested(MAX_DEPTH - 1)).is_ok());
        assert!(of(nested(MAX_DEPTH)).is_err());
    }

    #[test]
    fn that_a_digest_was_asked_for_makes_no_other_parameters() {
        let params = |value| Params::of(&BTreeMap::from([("a", value)])).unwrap();
        let (one, again) = (params(1), params(1));
        assert_eq!(one.digest(), Digest::of(&encode(&one)));
        assert_eq!((&one, one.clone().digest()), (&again, again.digest()));
        assert_ne!(one, params(2));
        assert_ne!(one.digest(), params(2).digest());
    }

    #[test]
    fn nothing_is_the_empty_map_whose_digest_is_zero() {
        assert_eq!(Params::of(&()).unwrap(), Params::default());
        assert_eq!(Params::default().digest(), Digest::ZERO);
        assert!(Params::of(&7).is_err());
    }
}
