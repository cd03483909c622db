//! Version 1: `MessagePack` with named fields, as bvisor 0.10 hosts write it, and what it stands for.
//!
//! What version 2 schedules by id, version 1 says by fields of the target and by slots. Here both become
//! the same entries, so that nothing behind the wire knows of versions.

use rmp_serde::Deserializer;
use serde::{Deserialize, Serialize};

use super::WireError;
use crate::descriptor::{DescriptorKind, DescriptorRole, DescriptorShape, DescriptorSlot};
use crate::plan::{LaunchBody, LoweringEntry, Standing, Target};
use crate::{Digest, OsText, Params};

pub(crate) const VERSION: u16 = 1;

/// Deeper than any body.
const MAX_DEPTH: usize = 16;
/// The ABI whose rights a version 1 ruleset handles and grants.
const LANDLOCK_ABI: u8 = 3;

const LANDLOCK: &str = "linux.landlock.apply.v1";
const SECCOMP: &str = "linux.seccomp.apply.v1";
const USERNS: &str = "linux.userns.enter.v1";
const NETNS: &str = "linux.netns.enter.v1";
const CGROUP: &str = "linux.cgroup.enter.v1";
const NAMESPACE_CODE: u32 = 0;

/// 32 bytes, as version 1 has them: an array of 32 integers.
type Bytes32 = [u8; 32];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct WireBody {
    attempt_id: Bytes32,
    plan_id: Bytes32,
    h_a: Bytes32,
    h_p: Bytes32,
    h_l: Bytes32,
    lowering: WireLowering,
    descriptor_table: Vec<WireSlot>,
    target: WireTarget,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct WireLowering {
    entries: Vec<WireEntry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct WireEntry {
    id: String,
    version: u32,
    phase_code: u32,
    param_digest: Bytes32,
    decl_digest: Bytes32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct WireSlot {
    slot_index: u32,
    role: DescriptorRole,
    expected: WireShape,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct WireShape {
    kind: DescriptorKind,
    writable: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct WireTarget {
    argv: Vec<String>,
    envp: Vec<(String, String)>,
    exe_slot: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user_namespace: Option<WireNamespace>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    network_namespace: Option<WireNamespace>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seccomp: Option<WireSeccomp>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct WireNamespace {}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct WireSeccomp {
    deny_new_tasks: bool,
    deny_inet_sockets: bool,
}

/// Decodes a body; with it comes the digest of its lowering's canonical encoding, which `h_l` must be.
// Inlined, its frame would be that of every version.
#[inline(never)]
pub(crate) fn decode(bytes: &[u8]) -> Result<(LaunchBody, Digest), WireError> {
    let wire = decode_wire(bytes)?;
    let digest = Digest::of(&encode(&wire.lowering)?);
    Ok((translate(wire)?, digest))
}

fn decode_wire(bytes: &[u8]) -> Result<WireBody, WireError> {
    let mut cursor = Cursor { bytes, at: 0 };
    cursor.item(0)?;
    if cursor.at != bytes.len() {
        return cursor.wrong("bytes after the body");
    }
    let mut decoder = Deserializer::from_read_ref(bytes);
    decoder.set_max_depth(MAX_DEPTH + 1);
    WireBody::deserialize(&mut decoder).map_err(shape)
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, WireError> {
    rmp_serde::to_vec_named(value).map_err(shape)
}

fn shape(error: impl std::fmt::Display) -> WireError {
    WireError::Shape(error.to_string())
}

fn translate(wire: WireBody) -> Result<LaunchBody, WireError> {
    let WireTarget { argv, envp, exe_slot, user_namespace, network_namespace, seccomp } =
        wire.target;
    let scheduled = |id: &str| wire.lowering.entries.iter().any(|entry| entry.id == id);
    if seccomp.is_some() && !scheduled(SECCOMP) {
        let what = format!("seccomp is asked for, and {SECCOMP} is not scheduled");
        return Err(WireError::Shape(what));
    }
    let cgroup = wire.descriptor_table.iter().any(|slot| slot.role == DescriptorRole::CgroupDir);
    let implied = [
        (USERNS, user_namespace.is_some()),
        (NETNS, network_namespace.is_some()),
        (CGROUP, cgroup),
    ];
    let mut lowering = Vec::with_capacity(wire.lowering.entries.len() + implied.len());
    for (id, _) in implied.into_iter().filter(|(_, asked)| *asked) {
        let params = Params::default();
        lowering.push(entry(id.into(), 1, NAMESPACE_CODE, params, Standing::Implied));
    }
    for WireEntry { id, version, phase_code, .. } in wire.lowering.entries {
        let params = match id.as_str() {
            LANDLOCK => landlock(&wire.descriptor_table)?,
            SECCOMP => denials(seccomp.as_ref())?,
            _ => Params::default(),
        };
        lowering.push(entry(id, version, phase_code, params, Standing::Scheduled));
    }
    let slot = |WireSlot { slot_index, role, expected: WireShape { kind, writable } }| {
        DescriptorSlot { role, expected: DescriptorShape { kind, writable }, slot_index }
    };
    let text = |text: String| OsText::from(text);
    Ok(LaunchBody {
        attempt_id: wire.attempt_id.into(),
        plan_id: wire.plan_id.into(),
        h_a: wire.h_a.into(),
        h_p: wire.h_p.into(),
        h_l: wire.h_l.into(),
        lowering,
        descriptor_table: wire.descriptor_table.into_iter().map(slot).collect(),
        target: Target {
            argv: argv.into_iter().map(text).collect(),
            envp: envp.into_iter().map(|(name, value)| (text(name), text(value))).collect(),
            exe_slot,
        },
    })
}

/// An entry of the engine's. Version 1 carries digests of parameters and declarations that it does not
/// have, and they are not verified.
fn entry(
    id: String,
    version: u32,
    phase_code: u32,
    params: Params,
    standing: Standing,
) -> LoweringEntry {
    let param_digest = params.digest();
    LoweringEntry { id, version, phase_code, param_digest, params, decl_digest: None, standing }
}

/// A root that may be read may be executed from; one that may be written grants everything.
fn landlock(slots: &[WireSlot]) -> Result<Params, WireError> {
    #[derive(Serialize)]
    struct Ruleset {
        abi: u8,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        rules: Vec<Rule>,
    }
    #[derive(Serialize)]
    struct Rule {
        slot: u32,
        access: &'static [&'static str],
    }
    let rule = |slot: &WireSlot| {
        let access: &[&str] = match slot.role {
            DescriptorRole::ReadRoot => &["read", "exec"],
            DescriptorRole::WriteRoot => &["read", "exec", "write"],
            _ => return None,
        };
        Some(Rule { slot: slot.slot_index, access })
    };
    let rules = slots.iter().filter_map(rule).collect();
    Params::of(&Ruleset { abi: LANDLOCK_ABI, rules }).map_err(shape)
}

/// The two denials that version 1 has.
fn denials(request: Option<&WireSeccomp>) -> Result<Params, WireError> {
    #[derive(Serialize)]
    struct Denials {
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        deny_new_tasks: bool,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        deny_inet_sockets: bool,
    }
    let Some(WireSeccomp { deny_new_tasks, deny_inet_sockets }) = request else {
        return Ok(Params::default());
    };
    let denials =
        Denials { deny_new_tasks: *deny_new_tasks, deny_inet_sockets: *deny_inet_sockets };
    Params::of(&denials).map_err(shape)
}

/// Walks `MessagePack` before anything is allocated from it: what passes declares no length that is not
/// there ([the specification](https://github.com/msgpack/msgpack/blob/master/spec.md)).
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn wrong<T>(&self, why: &'static str) -> Result<T, WireError> {
        Err(WireError::Encoding { offset: self.at, why })
    }

    fn skip(&mut self, length: usize) -> Result<(), WireError> {
        if length > self.bytes.len() - self.at {
            return self.wrong("a length that goes past the end");
        }
        self.at += length;
        Ok(())
    }

    /// A big-endian number of `width` bytes.
    fn number(&mut self, width: usize) -> Result<usize, WireError> {
        let start = self.at;
        self.skip(width)?;
        Ok(self.bytes[start..self.at].iter().fold(0, |value, byte| value << 8 | usize::from(*byte)))
    }

    fn items(&mut self, count: usize, depth: usize) -> Result<(), WireError> {
        // Each takes a byte at least.
        if count > self.bytes.len() - self.at {
            return self.wrong("a length that goes past the end");
        }
        (0..count).try_for_each(|_| self.item(depth + 1))
    }

    fn item(&mut self, depth: usize) -> Result<(), WireError> {
        if depth > MAX_DEPTH {
            return self.wrong("nested too deeply");
        }
        let marker = self.number(1)?;
        match marker {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => Ok(()),
            0x80..=0x8f => self.items(2 * (marker & 0x0f), depth),
            0x90..=0x9f => self.items(marker & 0x0f, depth),
            0xa0..=0xbf => self.skip(marker & 0x1f),
            0xc4 | 0xd9 => self.number(1).and_then(|length| self.skip(length)),
            0xc5 | 0xda => self.number(2).and_then(|length| self.skip(length)),
            0xc6 | 0xdb => self.number(4).and_then(|length| self.skip(length)),
            0xcc | 0xd0 => self.skip(1),
            0xcd | 0xd1 => self.skip(2),
            0xce | 0xd2 | 0xca => self.skip(4),
            0xcf | 0xd3 | 0xcb => self.skip(8),
            0xdc => self.number(2).and_then(|count| self.items(count, depth)),
            0xdd => self.number(4).and_then(|count| self.items(count, depth)),
            0xde => self.number(2).and_then(|count| self.items(2 * count, depth)),
            0xdf => self.number(4).and_then(|count| self.items(2 * count, depth)),
            _ => self.wrong("an extension type, or a marker that is none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::Frame;

    const FIXTURES: [&[u8]; 4] = [
        include_bytes!("../../tests/fixtures/bvisor-v1/plan0.bin"),
        include_bytes!("../../tests/fixtures/bvisor-v1/plan1.bin"),
        include_bytes!("../../tests/fixtures/bvisor-v1/plan2.bin"),
        include_bytes!("../../tests/fixtures/bvisor-v1/plan3.bin"),
    ];

    fn bodies() -> impl Iterator<Item = &'static [u8]> {
        FIXTURES.into_iter().map(|frame| Frame::decode(frame).unwrap().body())
    }

    #[test]
    fn what_a_host_wrote_is_written_again_byte_for_byte() {
        for frame in FIXTURES {
            let body = Frame::decode(frame).unwrap().body();
            let again = encode(&decode_wire(body).unwrap()).unwrap();
            assert_eq!(again, body);
            assert_eq!(Frame::encode(VERSION, &again).unwrap(), frame);
        }
    }

    #[test]
    fn h_l_is_the_digest_of_the_lowering_as_version_1_writes_it() {
        for body in bodies() {
            let (body, digest) = decode(body).unwrap();
            assert_eq!(body.h_l, digest);
            assert_eq!(*body.attempt_id.as_bytes(), [7; 32]);
        }
    }

    #[test]
    fn fields_and_slots_become_entries() {
        let ids: Vec<Vec<(String, Standing)>> = bodies()
            .map(|body| {
                let (body, _) = decode(body).unwrap();
                body.lowering.into_iter().map(|it| (it.id, it.standing)).collect()
            })
            .collect();
        let named = |ids: &[&str]| -> Vec<(String, Standing)> {
            ids.iter().map(|id| ((*id).to_owned(), Standing::Scheduled)).collect()
        };
        let (scrub, exec) = ("linux.ambient.scrub.v1", "linux.exec.v1");
        assert_eq!(ids[0], named(&[scrub, exec]));
        assert_eq!(ids[1], named(&[scrub, LANDLOCK, exec]));
        assert_eq!(ids[2], named(&[scrub, LANDLOCK, SECCOMP, exec]));
        let (implied, scheduled) = ids[3].split_at(2);
        let standing = |id: &str| (id.to_owned(), Standing::Implied);
        assert_eq!(implied, [standing(USERNS), standing(NETNS)]);
        assert_eq!(scheduled, ids[2]);
    }

    #[test]
    fn roots_and_denials_become_params() {
        let (body, _) = decode(bodies().nth(2).unwrap()).unwrap();
        let params = |id: &str| {
            let entry = body.lowering.iter().find(|it| it.id == id).unwrap();
            entry.params.parse::<ciborium::Value>().unwrap()
        };
        let seccomp = params(SECCOMP).into_map().unwrap();
        assert_eq!(seccomp.len(), 2);
        let landlock = params(LANDLOCK).into_map().unwrap();
        let rules = landlock.iter().find(|(key, _)| key.as_text() == Some("rules")).unwrap();
        assert_eq!(rules.1.as_array().unwrap().len(), 6);
    }

    #[test]
    fn a_denial_that_is_not_scheduled_is_no_plan() {
        let mut wire = decode_wire(bodies().nth(2).unwrap()).unwrap();
        wire.lowering.entries.retain(|entry| entry.id != SECCOMP);
        let error = decode(&encode(&wire).unwrap()).unwrap_err();
        assert!(error.to_string().contains(SECCOMP), "{error}");
    }

    #[test]
    fn a_length_that_is_not_there_is_found_before_anything_is_allocated() {
        for bytes in [
            &[0xdd, 0xff, 0xff, 0xff, 0xff][..],
            &[0xdf, 0xff, 0xff, 0xff, 0xff],
            &[0xc6, 0xff, 0xff, 0xff, 0xff],
            &[0xdb, 0x7f, 0xff, 0xff, 0xff],
            &[0x92, 0],
            &[0xd9],
            &[0xc7, 0, 0],
            &[],
        ] {
            assert!(matches!(decode(bytes), Err(WireError::Encoding { .. })), "{bytes:x?}");
        }
        assert!(matches!(decode(&[0x91; 1000]), Err(WireError::Encoding { .. })));
    }

    proptest! {
        #[test]
        fn no_byte_string_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn no_spoilt_fixture_panics(which in 0usize..4, at: prop::sample::Index, byte: u8) {
            let mut bytes = bodies().nth(which).unwrap().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode(&bytes);
        }
    }
}
