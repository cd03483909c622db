//! Policies as they stand on a command line.

use std::path::Path;
use std::str::FromStr;

use portcullis::Params;
use serde_json::Value;

/// A mechanism and what a policy says of it.
#[derive(Debug, Clone)]
pub(crate) struct Mechanism {
    pub(crate) id: String,
    pub(crate) params: Params,
}

impl FromStr for Mechanism {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((id, policy)) = text.split_once('=') else {
            return Err(
                "what follows the id is = and a policy, {} where there is nothing to say".into()
            );
        };
        let value = match policy.strip_prefix('@') {
            Some(file) => read(Path::new(file))?,
            None => parse(policy)?,
        };
        let params = Params::of(&value).map_err(|error| error.to_string())?;
        Ok(Self { id: id.to_owned(), params })
    }
}

/// A map in JSON or an inline table of TOML.
fn parse(text: &str) -> Result<Value, String> {
    let json = match serde_json::from_str(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let table: toml::Table = toml::from_str(&format!("policy = {text}"))
        .map_err(|toml| format!("neither JSON ({json}) nor TOML ({})", toml.message()))?;
    table.get("policy").map_or(Ok(Value::Null), to_json)
}

fn read(file: &Path) -> Result<Value, String> {
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    match serde_json::from_str(&text) {
        Ok(value) => Ok(value),
        Err(json) => match toml::from_str::<toml::Table>(&text) {
            Ok(table) => to_json(&table),
            Err(toml) => {
                let file = file.display();
                Err(format!("{file}: neither JSON ({json}) nor TOML ({})", toml.message()))
            }
        },
    }
}

/// Dates are the one thing that TOML has and a policy does not.
fn to_json(value: &impl serde::Serialize) -> Result<Value, String> {
    serde_json::to_value(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_toml_say_the_same() {
        let expected = Params::of(&serde_json::json!({"umask": 63, "cpus": [0, 1]})).unwrap();
        for text in [r#"a.b={"umask": 63, "cpus": [0, 1]}"#, "a.b={umask = 63, cpus = [0, 1]}"] {
            let Mechanism { id, params } = text.parse().unwrap();
            assert_eq!((id.as_str(), params), ("a.b", expected.clone()), "{text}");
        }
        assert!("a.b={}".parse::<Mechanism>().unwrap().params.is_empty());
        for text in ["a.b", "a.b=", "a.b={umask}", "a.b=7", "a.b=@/no/such/file"] {
            assert!(text.parse::<Mechanism>().is_err(), "{text}");
        }
    }
}
