//! Version 2: CBOR in the deterministic encoding of RFC 8949 §4.2.1.
//!
//! The fields of each structure stand in the order of their encoded keys (shorter first, then by
//! their letters), so that serializing in the order of declaration *is* the canonical encoding.

use ciborium::Value;
use serde::{Deserialize, Serialize};

use super::{WireError, check_limits, deterministic};
use crate::descriptor::DescriptorSlot;
use crate::params::encode as encode_value;
use crate::plan::{LaunchBody, LoweringEntry, Standing, Target};
use crate::{Digest, OsText, Params};

pub(crate) const VERSION: u16 = 2;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireBody {
    h_a: Digest,
    h_l: Digest,
    h_p: Digest,
    target: WireTarget,
    plan_id: Digest,
    lowering: WireLowering,
    attempt_id: Digest,
    descriptor_table: Vec<DescriptorSlot>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireLowering {
    entries: Vec<WireEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireEntry {
    id: String,
    #[serde(default)]
    params: Option<Value>,
    version: u32,
    phase_code: u32,
    decl_digest: Digest,
    param_digest: Digest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireTarget {
    argv: Vec<OsText>,
    envp: Vec<(OsText, OsText)>,
    exe_slot: u32,
}

/// What is written, by reference; field for field what is read.
#[derive(Serialize)]
struct BodyOut<'a> {
    h_a: Digest,
    h_l: Digest,
    h_p: Digest,
    target: TargetOut<'a>,
    plan_id: Digest,
    lowering: LoweringOut<'a>,
    attempt_id: Digest,
    descriptor_table: &'a [DescriptorSlot],
}

#[derive(Serialize)]
struct LoweringOut<'a> {
    entries: Vec<EntryOut<'a>>,
}

#[derive(Serialize)]
struct EntryOut<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Params::is_empty")]
    params: &'a Params,
    version: u32,
    phase_code: u32,
    decl_digest: Digest,
    param_digest: Digest,
}

#[derive(Serialize)]
struct TargetOut<'a> {
    argv: &'a [OsText],
    envp: &'a [(OsText, OsText)],
    exe_slot: u32,
}

pub(crate) fn decode(bytes: &[u8]) -> Result<LaunchBody, WireError> {
    deterministic::check(bytes)?;
    let wire: WireBody = ciborium::from_reader(bytes).map_err(shape)?;
    let body = LaunchBody {
        attempt_id: wire.attempt_id,
        plan_id: wire.plan_id,
        h_a: wire.h_a,
        h_p: wire.h_p,
        h_l: wire.h_l,
        lowering: wire.lowering.entries.into_iter().map(entry).collect::<Result<_, _>>()?,
        descriptor_table: wire.descriptor_table,
        target: Target {
            argv: wire.target.argv,
            envp: wire.target.envp,
            exe_slot: wire.target.exe_slot,
        },
    };
    // A name as a byte string, a null for what is absent: each is deterministic CBOR too, and a plan has
    // one encoding.
    if encode(&body)? != bytes {
        let why = "a name or a value is in another form than the one that it has";
        return Err(WireError::Shape(why.into()));
    }
    Ok(body)
}

pub(crate) fn encode(body: &LaunchBody) -> Result<Vec<u8>, WireError> {
    check_limits(body)?;
    let LaunchBody { attempt_id, plan_id, h_a, h_p, h_l, lowering, descriptor_table, target } =
        body;
    let Target { argv, envp, exe_slot } = target;
    let bytes = encode_value(&BodyOut {
        h_a: *h_a,
        h_l: *h_l,
        h_p: *h_p,
        target: TargetOut { argv, envp, exe_slot: *exe_slot },
        plan_id: *plan_id,
        lowering: lowering_out(lowering),
        attempt_id: *attempt_id,
        descriptor_table,
    });
    // What a decoder would reject (a float in params, say) is the encoder's to report.
    deterministic::check(&bytes)?;
    Ok(bytes)
}

pub(crate) fn encode_lowering(entries: &[LoweringEntry]) -> Vec<u8> {
    encode_value(&lowering_out(entries))
}

fn lowering_out(entries: &[LoweringEntry]) -> LoweringOut<'_> {
    LoweringOut { entries: entries.iter().map(entry_out).collect() }
}

fn entry_out(entry: &LoweringEntry) -> EntryOut<'_> {
    let LoweringEntry { id, version, phase_code, params, param_digest, decl_digest, .. } = entry;
    EntryOut {
        id,
        params,
        version: *version,
        phase_code: *phase_code,
        // An entry of version 1, which has none, is of no version 2 plan: zeros match no declaration.
        decl_digest: decl_digest.unwrap_or(Digest::ZERO),
        param_digest: *param_digest,
    }
}

fn entry(wire: WireEntry) -> Result<LoweringEntry, WireError> {
    let params = match wire.params {
        None => Params::default(),
        Some(Value::Map(entries)) if !entries.is_empty() => Params::from_sorted(entries),
        Some(_) => {
            let why = "params must be a map, and are left out when empty";
            return Err(WireError::Shape(format!("lowering entry {}: {why}", wire.id)));
        }
    };
    Ok(LoweringEntry {
        id: wire.id,
        version: wire.version,
        phase_code: wire.phase_code,
        params,
        param_digest: wire.param_digest,
        decl_digest: Some(wire.decl_digest),
        standing: Standing::Scheduled,
    })
}

fn shape(error: ciborium::de::Error<std::io::Error>) -> WireError {
    match error {
        ciborium::de::Error::Semantic(_, text) => WireError::Shape(text),
        ciborium::de::Error::Syntax(offset) => {
            WireError::Encoding { offset, why: "a value of another type than the field's" }
        }
        other => WireError::Shape(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::descriptor::{DescriptorKind, DescriptorRole, DescriptorShape};
    use crate::plan::MAX_STRING_LEN;

    fn digest() -> impl Strategy<Value = Digest> {
        any::<[u8; 32]>().prop_map(Digest::from)
    }

    fn os_text() -> impl Strategy<Value = OsText> {
        use std::os::unix::ffi::OsStringExt;
        vec(1u8.., 0..12).prop_map(|bytes| std::ffi::OsString::from_vec(bytes).into())
    }

    fn params() -> impl Strategy<Value = Params> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            "[a-z]{0,8}".prop_map(Value::from),
            vec(any::<u8>(), 0..8).prop_map(Value::from),
        ];
        let value = leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::Array),
                proptest::collection::btree_map("[a-z]{0,6}", inner, 0..4).prop_map(|map| {
                    Value::Map(map.into_iter().map(|(key, value)| (key.into(), value)).collect())
                }),
            ]
        });
        proptest::collection::btree_map("[a-z]{0,8}", value, 0..4)
            .prop_map(|map: BTreeMap<String, Value>| Params::of(&map).unwrap())
    }

    fn lowering() -> impl Strategy<Value = Vec<LoweringEntry>> {
        let entry = ("[a-z.]{0,20}", any::<u32>(), any::<u32>(), params(), digest(), digest());
        vec(
            entry.prop_map(|(id, version, phase_code, params, param_digest, decl_digest)| {
                let (decl_digest, standing) = (Some(decl_digest), Standing::Scheduled);
                LoweringEntry {
                    id,
                    version,
                    phase_code,
                    params,
                    param_digest,
                    decl_digest,
                    standing,
                }
            }),
            0..5,
        )
    }

    fn table() -> impl Strategy<Value = Vec<DescriptorSlot>> {
        use DescriptorKind::{Directory, Pipe, Regular, Socket};
        use DescriptorRole::{ReadRoot, Stdin, TargetExe, WriteRoot};
        let role = prop::sample::select(vec![ReadRoot, WriteRoot, TargetExe, Stdin]);
        let kind = prop::sample::select(vec![Directory, Regular, Socket, Pipe]);
        vec(
            (role, kind, any::<bool>(), any::<u32>()).prop_map(|(role, kind, writable, index)| {
                let expected = DescriptorShape { kind, writable };
                DescriptorSlot { role, expected, slot_index: index }
            }),
            0..6,
        )
    }

    fn target() -> impl Strategy<Value = Target> {
        let name = "[A-Za-z_]{1,8}".prop_map(OsText::from);
        (vec(os_text(), 1..5), vec((name, os_text()), 0..4), any::<u32>())
            .prop_map(|(argv, envp, exe_slot)| Target { argv, envp, exe_slot })
    }

    fn body() -> impl Strategy<Value = LaunchBody> {
        let digests = (digest(), digest(), digest(), digest(), digest());
        (digests, lowering(), table(), target()).prop_map(
            |((attempt_id, plan_id, h_a, h_p, h_l), lowering, descriptor_table, target)| {
                LaunchBody {
                    attempt_id,
                    plan_id,
                    h_a,
                    h_p,
                    h_l,
                    lowering,
                    descriptor_table,
                    target,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn encode_then_decode_is_the_identity(body in body()) {
            let bytes = encode(&body).unwrap();
            prop_assert_eq!(&decode(&bytes).unwrap(), &body);
        }

        #[test]
        fn decode_then_encode_is_the_identity(body in body(), at: prop::sample::Index, byte: u8) {
            let mut bytes = encode(&body).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(decoded) = decode(&bytes) {
                prop_assert_eq!(encode(&decoded).unwrap(), bytes);
            }
        }

        #[test]
        fn no_byte_string_panics(bytes in vec(any::<u8>(), 0..400)) {
            let _ = decode(&bytes);
        }
    }

    fn smallest() -> LaunchBody {
        LaunchBody {
            attempt_id: Digest::ZERO,
            plan_id: Digest::ZERO,
            h_a: Digest::ZERO,
            h_p: Digest::ZERO,
            h_l: Digest::ZERO,
            lowering: vec![],
            descriptor_table: vec![],
            target: Target { argv: vec!["true".into()], ..Target::default() },
        }
    }

    #[test]
    fn unknown_and_missing_fields_are_named() {
        let body = smallest();
        let bytes = encode(&body).unwrap();
        let Value::Map(mut fields) = ciborium::from_reader(&bytes[..]).unwrap() else { panic!() };
        let first = fields.remove(0);
        let error = decode(&encode_value(&Value::Map(fields.clone()))).unwrap_err();
        assert!(error.to_string().contains("h_a"), "{error}");
        fields.insert(0, first);
        fields.push(("unknown_to_all_of_us".into(), 1.into()));
        let error = decode(&encode_value(&Value::Map(fields))).unwrap_err();
        assert!(error.to_string().contains("unknown_to_all_of_us"), "{error}");
    }

    #[test]
    fn a_name_as_bytes_and_a_null_for_what_is_absent_are_rejected() {
        let mut body = smallest();
        body.lowering = vec![LoweringEntry {
            id: "a".into(),
            version: 1,
            phase_code: 3,
            params: Params::of(&BTreeMap::from([("k", 1)])).unwrap(),
            param_digest: Digest::ZERO,
            decl_digest: Some(Digest::ZERO),
            standing: Standing::Scheduled,
        }];
        let bytes = encode(&body).unwrap();
        assert_eq!(bytes[1..5], *b"\x63h_a");
        let named = [&bytes[..1], &[0x43], &bytes[2..]].concat();
        let at = bytes.windows(4).position(|it| it == [0xa1, 0x61, b'k', 1]).unwrap();
        let null = [&bytes[..at], &[0xf6], &bytes[at + 4..]].concat();
        for bytes in [named, null] {
            assert!(matches!(decode(&bytes), Err(WireError::Shape(_))), "{bytes:x?}");
        }
    }

    #[test]
    fn params_that_are_empty_are_left_out() {
        let mut body = smallest();
        let entry = |params| LoweringEntry {
            id: "a".into(),
            version: 1,
            phase_code: 3,
            params,
            param_digest: Digest::ZERO,
            decl_digest: Some(Digest::ZERO),
            standing: Standing::Scheduled,
        };
        body.lowering = vec![entry(Params::of(&BTreeMap::from([("k", 1)])).unwrap())];
        let bytes = encode(&body).unwrap();
        // The map {"k": 1} becomes {}: two bytes and the value's fewer.
        let at = bytes.windows(4).position(|window| window == [0xa1, 0x61, b'k', 1]).unwrap();
        let emptied = [&bytes[..at], &[0xa0], &bytes[at + 4..]].concat();
        assert!(matches!(decode(&emptied), Err(WireError::Shape(_))));
    }

    #[test]
    fn the_limits_of_the_protocol_are_enforced_both_ways() {
        let mut body = smallest();
        body.target.argv = vec![];
        assert!(encode(&body).is_err());
        for (name, value) in [("", "x"), ("A=B", "x"), ("A", "x\0y")] {
            let mut body = smallest();
            body.target.envp = vec![(name.into(), value.into())];
            assert!(matches!(encode(&body), Err(WireError::String { .. })), "{name:?}={value:?}");
        }
        let mut body = smallest();
        body.target.argv.push("x".repeat(MAX_STRING_LEN).into());
        encode(&body).unwrap();
        body.target.argv.push("x".repeat(MAX_STRING_LEN + 1).into());
        assert!(matches!(encode(&body), Err(WireError::String { .. })));
        let mut body = smallest();
        let expected = DescriptorShape { kind: DescriptorKind::Pipe, writable: false };
        let slot =
            |slot_index| DescriptorSlot { role: DescriptorRole::ReadRoot, expected, slot_index };
        body.descriptor_table = (0..1025).map(slot).collect();
        let error = WireError::Limit { what: "slots", found: 1025, limit: 1024 };
        assert_eq!(encode(&body).unwrap_err(), error);
    }
}
