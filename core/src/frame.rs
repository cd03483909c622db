//! The envelope around a plan: magic, version, length and digest, then the body.

use crate::Digest;

/// The first eight bytes of every frame.
pub const MAGIC: [u8; 8] = *b"BVZLNCH1";
/// Bytes before the body: magic, `u16` version, `u32` length, 32 bytes of digest.
pub const HEADER_LEN: usize = 8 + 2 + 4 + 32;
/// The longest body that is accepted: 1 MiB.
pub const MAX_BODY_LEN: usize = 1 << 20;
/// The versions of the protocol that this crate decodes.
pub const SUPPORTED_VERSIONS: &[u16] = &[1, 2];

/// A frame whose envelope has been verified: its body is exactly what was digested.
///
/// ```
/// use portcullis_core::frame::Frame;
///
/// let bytes = Frame::encode(2, b"body").unwrap();
/// assert_eq!(Frame::decode(&bytes).unwrap().body(), b"body");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    version: u16,
    body: &'a [u8],
}

/// Why bytes are not a frame; the first reason that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Shorter than the header.
    #[error("Truncated: {found} bytes, and the header alone is {HEADER_LEN}")]
    Truncated {
        /// The bytes there were.
        found: usize,
    },
    /// The first eight bytes are not [`MAGIC`].
    #[error("BadMagic: this is not a launch plan")]
    BadMagic,
    /// A version that this crate does not decode.
    #[error("UnsupportedVersion: version {found}, and this launcher speaks {SUPPORTED_VERSIONS:?}")]
    UnsupportedVersion {
        /// The version in the header.
        found: u16,
    },
    /// The body is not exactly as long as the header says, or longer than [`MAX_BODY_LEN`].
    #[error(
        "LengthMismatch: the header declares a body of {declared} bytes and {found} follow; {MAX_BODY_LEN} \
         are the most"
    )]
    LengthMismatch {
        /// The length in the header.
        declared: u32,
        /// The bytes after the header.
        found: usize,
    },
    /// The body's digest is not the header's.
    #[error("DigestMismatch: the body is not what was digested")]
    DigestMismatch,
}

impl<'a> Frame<'a> {
    /// Verifies an envelope.
    ///
    /// # Errors
    ///
    /// The variants of [`FrameError`], in their order.
    ///
    /// # Panics
    ///
    /// Never: the slices that are converted to arrays are cut to the arrays' lengths.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let Some((header, body)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(FrameError::Truncated { found: bytes.len() });
        };
        let (magic, rest) = header.split_first_chunk::<8>().expect("8 of 46 bytes");
        let (version, rest) = rest.split_first_chunk::<2>().expect("2 of 38 bytes");
        let (length, digest) = rest.split_first_chunk::<4>().expect("4 of 36 bytes");
        if *magic != MAGIC {
            return Err(FrameError::BadMagic);
        }
        let version = u16::from_le_bytes(*version);
        if !SUPPORTED_VERSIONS.contains(&version) {
            return Err(FrameError::UnsupportedVersion { found: version });
        }
        let declared = u32::from_le_bytes(*length);
        let fits = usize::try_from(declared).is_ok_and(|declared| declared == body.len());
        if !fits || body.len() > MAX_BODY_LEN {
            return Err(FrameError::LengthMismatch { declared, found: body.len() });
        }
        if Digest::of(body).as_bytes() != digest {
            return Err(FrameError::DigestMismatch);
        }
        Ok(Self { version, body })
    }

    /// Wraps a body.
    ///
    /// # Errors
    ///
    /// [`FrameError::LengthMismatch`] for a body over [`MAX_BODY_LEN`], which every decoder would
    /// reject.
    pub fn encode(version: u16, body: &[u8]) -> Result<Vec<u8>, FrameError> {
        let declared = u32::try_from(body.len()).unwrap_or(u32::MAX);
        if body.len() > MAX_BODY_LEN {
            return Err(FrameError::LengthMismatch { declared, found: body.len() });
        }
        let mut frame = Vec::with_capacity(HEADER_LEN + body.len());
        frame.extend_from_slice(&MAGIC);
        frame.extend_from_slice(&version.to_le_bytes());
        frame.extend_from_slice(&declared.to_le_bytes());
        frame.extend_from_slice(Digest::of(body).as_bytes());
        frame.extend_from_slice(body);
        Ok(frame)
    }

    /// The version of the protocol that the body is encoded in.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// The body.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_reason_that_applies_is_given() {
        let good = Frame::encode(2, b"body").unwrap();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        let cases: [(&[u8], FrameError); 7] = [
            (b"", FrameError::Truncated { found: 0 }),
            (&good[..HEADER_LEN - 1], FrameError::Truncated { found: HEADER_LEN - 1 }),
            (&with(0, b'X'), FrameError::BadMagic),
            (&with(8, 9), FrameError::UnsupportedVersion { found: 9 }),
            (&good[..good.len() - 1], FrameError::LengthMismatch { declared: 4, found: 3 }),
            (&[&good[..], b"!"].concat(), FrameError::LengthMismatch { declared: 4, found: 5 }),
            (&with(HEADER_LEN, b'B'), FrameError::DigestMismatch),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Frame::decode(bytes), Err(expected));
        }
    }

    #[test]
    fn a_length_of_four_gigabytes_is_a_mismatch_and_nothing_is_allocated_for_it() {
        let mut bytes = Frame::encode(2, b"").unwrap();
        bytes[10..14].copy_from_slice(&u32::MAX.to_le_bytes());
        let expected = FrameError::LengthMismatch { declared: u32::MAX, found: 0 };
        assert_eq!(Frame::decode(&bytes), Err(expected));
    }

    #[test]
    fn a_body_of_one_mebibyte_fits_and_one_byte_more_does_not() {
        let most = vec![0; MAX_BODY_LEN];
        let frame = Frame::encode(2, &most).unwrap();
        assert_eq!(Frame::decode(&frame).unwrap().body().len(), MAX_BODY_LEN);
        let over = vec![0; MAX_BODY_LEN + 1];
        assert!(matches!(Frame::encode(2, &over), Err(FrameError::LengthMismatch { .. })));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_rejected(body in proptest::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, bit in 0u8..8) {
            let mut frame = Frame::encode(2, &body).unwrap();
            let at = at.index(frame.len());
            frame[at] ^= 1 << bit;
            prop_assert!(Frame::decode(&frame).is_err());
        }

        #[test]
        fn encode_then_decode_is_the_identity(body in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let frame = Frame::encode(2, &body).unwrap();
            prop_assert_eq!(Frame::decode(&frame).unwrap().body(), &body[..]);
        }

        #[test]
        fn no_byte_string_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frame::decode(&bytes);
        }
    }
}
