//! Bodies to bytes and back, a file for each version of the wire.

mod reader;
pub(crate) mod v1;
pub(crate) mod v2;

use crate::OsText;
use crate::descriptor::MAX_SLOTS;
use crate::plan::{LaunchBody, MAX_ENTRIES, MAX_STRING_LEN};

/// Why a body is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Not in the encoding of its version: `MessagePack` for 1, and for 2 CBOR in the deterministic
    /// encoding of [RFC 8949 §4.2.1].
    ///
    /// [RFC 8949 §4.2.1]: https://www.rfc-editor.org/rfc/rfc8949.html#section-4.2.1
    #[error("not in its version's encoding: {why}, at byte {offset}")]
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

/// Checks what both versions limit, before anything is made of the body.
pub(crate) fn check_limits(body: &LaunchBody) -> Result<(), WireError> {
    let limit = |what, found: usize, limit| {
        if found > limit { Err(WireError::Limit { what, found, limit }) } else { Ok(()) }
    };
    limit("slots", body.descriptor_table.len(), MAX_SLOTS)?;
    limit("lowering entries", body.lowering.len(), MAX_ENTRIES)?;
    if body.target.argv.is_empty() {
        return Err(WireError::Shape("argv is empty: a program is given its own name".into()));
    }
    for argument in &body.target.argv {
        string("argument", argument, argument.as_bytes().len())?;
    }
    for (name, value) in &body.target.envp {
        let length = name.as_bytes().len() + 1 + value.as_bytes().len();
        string("environment variable", name, length)?;
        string("the value of environment variable", value, length)?;
        if name.as_bytes().is_empty() || name.as_bytes().contains(&b'=') {
            let (text, why) = (format!("{name:?}"), "a name is not empty and holds no `=`");
            return Err(WireError::String { what: "environment variable", text, why });
        }
    }
    Ok(())
}

fn string(what: &'static str, text: &OsText, length: usize) -> Result<(), WireError> {
    let why = if text.as_bytes().contains(&0) {
        "a NUL ends a C string, so none can be inside"
    } else if length > MAX_STRING_LEN {
        "longer than the kernel's MAX_ARG_STRLEN of 128 KiB"
    } else {
        return Ok(());
    };
    let text: String = format!("{text:?}").chars().take(80).collect();
    Err(WireError::String { what, text, why })
}
