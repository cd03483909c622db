//! Bodies to bytes and back, a file for each version of the wire.

mod deterministic;
pub(crate) mod v2;

/// Why a body is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Not CBOR, or not in the deterministic encoding of [RFC 8949 §4.2.1].
    ///
    /// [RFC 8949 §4.2.1]: https://www.rfc-editor.org/rfc/rfc8949.html#section-4.2.1
    #[error("not deterministic CBOR: {why}, at byte {offset}")]
    Encoding {
        /// Where in the body.
        offset: usize,
        /// What is wrong there.
        why: &'static str,
    },
    /// A field is missing, unknown, or of another type.
    #[error("{0}")]
    Shape(String),
    /// More than a limit of the protocol allows.
    #[error("{what}: {found}, and the limit is {limit}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// How much there may be.
        limit: usize,
    },
    /// A string that the kernel can't pass to a program.
    #[error("{what} {text}: {why}")]
    String {
        /// Where the string stands.
        what: &'static str,
        /// The string, escaped.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
}
