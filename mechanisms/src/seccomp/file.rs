//! Files that hold a filter: which format one is in, and what it says.

use std::fs::File;
use std::io::Read;

use portcullis_core::OsText;
use portcullis_core::mechanism::OpenError;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::policy::{Action, Rule};
use super::{oci, seccompiler_json};

/// What a file says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) default: Action,
    pub(super) rules: Vec<Rule>,
    pub(super) log: bool,
}

/// More than a plan carries.
const MOST_BYTES: u64 = 1 << 20;

/// Reads a file.
pub(super) fn read(path: &OsText) -> Result<Content, OpenError> {
    let failed = OpenError::path("seccomp profile or file", path.as_os_str());
    let mut bytes = Vec::new();
    let read = File::open(path.as_os_str())
        .and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(failed(error));
    }
    let content = if bytes.len() as u64 > MOST_BYTES {
        Err(format!("it is longer than {MOST_BYTES} bytes"))
    } else {
        parse(&bytes)
    };
    content.map_err(|what| OpenError::Unusable(format!("seccomp file {path:?}: {what}")))
}

fn parse(bytes: &[u8]) -> Result<Content, String> {
    /// What only a filter of the OCI runtime specification has.
    #[derive(Deserialize)]
    struct Shape {
        #[serde(rename = "defaultAction")]
        default_action: Option<IgnoredAny>,
    }
    let shape: Shape = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if shape.default_action.is_some() { oci::parse(bytes) } else { seccompiler_json::parse(bytes) }
}

/// Checks what formats with several rules for a call leave open: where rules of different actions meet, of
/// which one always fits, it is not the same in each program that reads them which of them decides.
pub(super) fn unambiguous(rules: &[Rule]) -> Result<(), String> {
    use std::collections::BTreeMap;

    let mut always: BTreeMap<&str, Action> = BTreeMap::new();
    for rule in rules.iter().filter(|rule| rule.when.is_empty()) {
        for call in &rule.calls {
            if always.insert(call, rule.action).is_some_and(|other| other != rule.action) {
                return Err(format!("two rules for {call} always fit, and say different things"));
            }
        }
    }
    for rule in rules {
        for call in &rule.calls {
            if always.get(call.as_str()).is_some_and(|action| *action != rule.action) {
                return Err(format!(
                    "{call} has a rule that always fits, and one with arguments that says something else"
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_missing_too_long_or_no_filter_is_named() {
        let error = read(&"/nonexistent/filter".into()).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/filter"), "{error}");
        let error = read(&"/dev/zero".into()).unwrap_err().to_string();
        assert!(error.contains("/dev/zero") && error.contains("longer"), "{error}");
        for text in ["", "[]", "7", "{}", "{\"a\": 1}", "\0"] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
