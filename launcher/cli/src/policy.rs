//! Policies as they stand on a command line.

use std::path::Path;
use std::str::FromStr;

use portcullis::Params;
use portcullis::mechanism::capabilities::{Capability, UnknownCapability};
use portcullis::mechanism::rlimits::{Bound, Limit, Resource};
use serde_json::Value;

/// A mechanism and what a policy says of it.
#[derive(Debug, Clone, PartialEq)]
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

/// A resource, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResourceLimit {
    pub(crate) resource: Resource,
    pub(crate) limit: Limit,
}

impl FromStr for ResourceLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, bounds) =
            text.split_once('=').ok_or("what follows the name is = and a number")?;
        let resource = Resource::named(name)
            .ok_or_else(|| format!("{name:?} is none of {}", Resource::names().join(", ")))?;
        let bound = |text: &str| match text {
            "unlimited" => Ok(Bound::Unlimited),
            _ => text.parse().map(|Size(number)| Bound::At(number)),
        };
        let limit = match bounds.split_once(':') {
            Some((soft, hard)) => Limit { soft: bound(soft)?, hard: bound(hard)? },
            None => bound(bounds)?.into(),
        };
        Ok(Self { resource, limit })
    }
}

/// A number, with K, M, G or T for the powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no number, with K, M, G or T after it or nothing");
        let digits = text.trim_end_matches(['K', 'M', 'G', 'T', 'k', 'm', 'g', 't']);
        let power = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "" => 0,
            "K" => 1,
            "M" => 2,
            "G" => 3,
            "T" => 4,
            _ => return Err(wrong()),
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        number.checked_mul(1 << (10 * power)).map(Self).ok_or_else(wrong)
    }
}

/// A user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl FromStr for User {
    type Err = String;

    /// Names are looked up in the system's database; a number is taken as it is, and without a group is
    /// the group's number too where the database does not know the user.
    fn from_str(text: &str) -> Result<Self, String> {
        use nix::unistd::{Group, User as Known};
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let known = match user.parse() {
            Ok(uid) => Known::from_uid(nix::unistd::Uid::from_raw(uid)),
            Err(_) => Known::from_name(user),
        };
        let known = known.map_err(|errno| format!("looking up {user:?}: {errno}"))?;
        let uid = match (&known, user.parse()) {
            (_, Ok(uid)) => uid,
            (Some(known), Err(_)) => known.uid.as_raw(),
            (None, Err(_)) => return Err(format!("there is no user {user:?}")),
        };
        let gid = match group {
            None => known.map_or(uid, |known| known.gid.as_raw()),
            Some(group) => match group.parse() {
                Ok(gid) => gid,
                Err(_) => Group::from_name(group)
                    .map_err(|errno| format!("looking up {group:?}: {errno}"))?
                    .ok_or_else(|| format!("there is no group {group:?}"))?
                    .gid
                    .as_raw(),
            },
        };
        Ok(Self { uid, gid })
    }
}

/// Which capabilities are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CapDrop {
    All,
    One(Capability),
}

impl FromStr for CapDrop {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("all") {
            return Ok(Self::All);
        }
        text.parse().map(Self::One).map_err(|error: UnknownCapability| error.to_string())
    }
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

    #[test]
    fn limits_and_sizes_are_read_with_their_units() {
        let limit: ResourceLimit = "nofile=64:1K".parse().unwrap();
        let expected = Limit { soft: 64.into(), hard: 1024.into() };
        assert_eq!((limit.resource, limit.limit), (Resource::Nofile, expected));
        let limit: ResourceLimit = "core=unlimited".parse().unwrap();
        assert_eq!(limit.limit, Bound::Unlimited.into());
        assert_eq!("2m".parse(), Ok(Size(2 << 20)));
        for text in ["nofile", "nofile=", "nofile=x", "files=1", "nofile=1:", "nofile=1KK"] {
            assert!(text.parse::<ResourceLimit>().is_err(), "{text}");
        }
        for text in ["", "K", "1X", "18446744073709551616", "20000000T", "-1"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn users_are_names_or_numbers() {
        assert_eq!("root".parse(), Ok(User { uid: 0, gid: 0 }));
        assert_eq!("root:12345".parse(), Ok(User { uid: 0, gid: 12345 }));
        assert_eq!("4000000000".parse(), Ok(User { uid: 4_000_000_000, gid: 4_000_000_000 }));
        for text in ["no-such-user-", "root:no-such-group-", "", "-1"] {
            assert!(text.parse::<User>().is_err(), "{text}");
        }
    }

    #[test]
    fn capabilities_are_names_or_all() {
        assert_eq!("ALL".parse(), Ok(CapDrop::All));
        assert!("CAP_NET_RAW".parse::<CapDrop>().is_ok());
        assert!("net_paw".parse::<CapDrop>().is_err());
    }
}
