//! Version 2: CBOR in the deterministic encoding of RFC 8949 §4.2.1.
//!
//! The fields of each structure stand in the order of their encoded keys (shorter first, then by
//! their letters), so that serializing in the order of declaration *is* the canonical encoding.

use serde::Serialize;

use super::reader::Reader;
use super::{WireError, check_limits};
use crate::descriptor::{DescriptorShape, DescriptorSlot, MAX_SLOTS};
use crate::params::encode as encode_value;
use crate::plan::{LaunchBody, LoweringEntry, MAX_ENTRIES, Standing, Target};
use crate::{Digest, OsText, Params};

pub(crate) const VERSION: u16 = 2;

/// What is written, by reference; field for field what [`decode`] reads.
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

/// A body, and the digests of what its own digests are of, as it stands in the bytes: a plan has one
/// encoding.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) body: LaunchBody,
    pub(crate) lowering: Digest,
    /// Of each entry's parameters.
    pub(crate) params: Vec<Digest>,
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Decoded, WireError> {
    let mut reader = Reader::new(bytes);
    let mut fields = reader.fields()?;
    let mut digest = |reader: &mut Reader<'_>, name| {
        reader.field(&mut fields, name)?;
        reader.digest()
    };
    let h_a = digest(&mut reader, "h_a")?;
    let h_l = digest(&mut reader, "h_l")?;
    let h_p = digest(&mut reader, "h_p")?;
    reader.field(&mut fields, "target")?;
    let target = target(&mut reader)?;
    reader.field(&mut fields, "plan_id")?;
    let plan_id = reader.digest()?;
    reader.field(&mut fields, "lowering")?;
    let start = reader.at();
    let (lowering, params) = lowering(&mut reader)?;
    let lowering_digest = Digest::of(reader.since(start));
    reader.field(&mut fields, "attempt_id")?;
    let attempt_id = reader.digest()?;
    reader.field(&mut fields, "descriptor_table")?;
    let descriptor_table = descriptor_table(&mut reader)?;
    reader.no_more(&fields)?;
    reader.end()?;
    let body =
        LaunchBody { attempt_id, plan_id, h_a, h_p, h_l, lowering, descriptor_table, target };
    Ok(Decoded { body, lowering: lowering_digest, params })
}

fn target(reader: &mut Reader<'_>) -> Result<Target, WireError> {
    let mut fields = reader.fields()?;
    reader.field(&mut fields, "argv")?;
    let argv = reader.array("arguments", usize::MAX)?;
    let argv = (0..argv).map(|_| reader.os_text()).collect::<Result<_, _>>()?;
    reader.field(&mut fields, "envp")?;
    let envp = reader.array("variables", usize::MAX)?;
    let envp = (0..envp).map(|_| variable(reader)).collect::<Result<_, _>>()?;
    reader.field(&mut fields, "exe_slot")?;
    let exe_slot = reader.number()?;
    reader.no_more(&fields)?;
    Ok(Target { argv, envp, exe_slot })
}

fn variable(reader: &mut Reader<'_>) -> Result<(OsText, OsText), WireError> {
    if reader.array("parts of a variable", 2)? != 2 {
        return reader.wrong("a variable that is not a name and a value");
    }
    Ok((reader.os_text()?, reader.os_text()?))
}

fn lowering(reader: &mut Reader<'_>) -> Result<(Vec<LoweringEntry>, Vec<Digest>), WireError> {
    let mut fields = reader.fields()?;
    reader.field(&mut fields, "entries")?;
    let entries = reader.array("lowering entries", MAX_ENTRIES)?;
    let entries = (0..entries).map(|_| entry(reader)).collect::<Result<_, _>>()?;
    reader.no_more(&fields)?;
    Ok(entries)
}

fn entry(reader: &mut Reader<'_>) -> Result<(LoweringEntry, Digest), WireError> {
    let mut fields = reader.fields()?;
    reader.field(&mut fields, "id")?;
    let id = reader.text()?.to_owned();
    let (mut params, mut found) = (Params::default(), Digest::ZERO);
    if reader.has_field(&mut fields, "params")? {
        let start = reader.at();
        params = Params::from_sorted(reader.params(&id)?);
        found = Digest::of(reader.since(start));
    }
    reader.field(&mut fields, "version")?;
    let version = reader.number()?;
    reader.field(&mut fields, "phase_code")?;
    let phase_code = reader.number()?;
    reader.field(&mut fields, "decl_digest")?;
    let decl_digest = Some(reader.digest()?);
    reader.field(&mut fields, "param_digest")?;
    let param_digest = reader.digest()?;
    reader.no_more(&fields)?;
    let standing = Standing::Scheduled;
    let entry =
        LoweringEntry { id, version, phase_code, params, param_digest, decl_digest, standing };
    Ok((entry, found))
}

fn descriptor_table(reader: &mut Reader<'_>) -> Result<Vec<DescriptorSlot>, WireError> {
    let slots = reader.array("slots", MAX_SLOTS)?;
    (0..slots).map(|_| slot(reader)).collect()
}

fn slot(reader: &mut Reader<'_>) -> Result<DescriptorSlot, WireError> {
    let mut fields = reader.fields()?;
    reader.field(&mut fields, "role")?;
    let role = reader.name()?;
    reader.field(&mut fields, "expected")?;
    let mut shape = reader.fields()?;
    reader.field(&mut shape, "kind")?;
    let kind = reader.name()?;
    reader.field(&mut shape, "writable")?;
    let writable = reader.boolean()?;
    reader.no_more(&shape)?;
    reader.field(&mut fields, "slot_index")?;
    let slot_index = reader.number()?;
    reader.no_more(&fields)?;
    Ok(DescriptorSlot { role, expected: DescriptorShape { kind, writable }, slot_index })
}

pub(crate) fn encode(body: &LaunchBody) -> Result<Vec<u8>, WireError> {
    check_limits(body)?;
    let LaunchBody { attempt_id, plan_id, h_a, h_p, h_l, lowering, descriptor_table, target } =
        body;
    let Target { argv, envp, exe_slot } = target;
    Ok(encode_value(&BodyOut {
        h_a: *h_a,
        h_l: *h_l,
        h_p: *h_p,
        target: TargetOut { argv, envp, exe_slot: *exe_slot },
        plan_id: *plan_id,
        lowering: lowering_out(lowering),
        attempt_id: *attempt_id,
        descriptor_table,
    }))
}

/// No less than the length of a body's encoding in bytes, and not much more.
pub(crate) fn longest(body: &LaunchBody) -> usize {
    // A string's header has nine bytes at the most, a number as many, a digest 34; the rest is the names of fields.
    const STRING: usize = 9;
    const SLOT: usize = 128;
    const ENTRY: usize = 256;
    const REST: usize = 512;
    let strings = body.target.envp.iter().flat_map(|(name, value)| [name, value]);
    let strings = strings.chain(&body.target.argv).map(|it| it.as_bytes().len() + STRING);
    let entries = body.lowering.iter().map(|it| it.id.len() + it.params.encoded_len() + ENTRY);
    let variables = body.target.envp.len();
    REST + SLOT * body.descriptor_table.len() + variables + strings.chain(entries).sum::<usize>()
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ciborium::Value;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::descriptor::{DescriptorKind, DescriptorRole};
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
            prop_assert_eq!(&decode(&bytes).unwrap().body, &body);
            prop_assert!(bytes.len() <= longest(&body), "{} > {}", bytes.len(), longest(&body));
        }

        #[test]
        fn decode_then_encode_is_the_identity(body in body(), at: prop::sample::Index, byte: u8) {
            let mut bytes = encode(&body).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(Decoded { body: decoded, lowering, params }) = decode(&bytes) {
                prop_assert_eq!(lowering, Digest::of(&encode_lowering(&decoded.lowering)));
                let digests: Vec<_> = decoded.lowering.iter().map(|it| it.params.digest()).collect();
                prop_assert_eq!(params, digests);
                // A limit of the kernel's is another check's.
                if check_limits(&decoded).is_ok() {
                    prop_assert_eq!(encode(&decoded).unwrap(), bytes);
                }
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
