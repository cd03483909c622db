//! A plan that lies about its lengths costs its reader no more than a plan of its size.

use std::alloc::System;
use std::collections::BTreeMap;

use portcullis_core::frame::{Frame, HEADER_LEN};
use portcullis_core::plan::{LaunchBody, LaunchPlan, LoweringEntry, Standing, Target};
use portcullis_core::{Digest, Params};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// An error's text, and what a serde visitor keeps, at the most.
const FIXED: usize = 8192;
/// A byte of CBOR is a `Value` of 32 bytes at the least; a vector of them doubles as it grows.
const MULTIPLE: usize = 130;

/// Bytes allocated while `body` is decoded, all told.
fn allocated(body: &[u8]) -> usize {
    let frame = Frame::encode(2, body).unwrap();
    let region = Region::new(ALLOCATOR);
    let _ = LaunchPlan::decode(&frame);
    region.change().bytes_allocated
}

/// A CBOR head of `major` that declares `length` in four bytes.
fn head(major: u8, length: u32) -> Vec<u8> {
    [&[major << 5 | 0x1a][..], &length.to_be_bytes()].concat()
}

/// The body of a plan whose params are `items` small numbers: the dearest that a byte can be.
fn dear(items: &[u8]) -> Vec<u8> {
    let numbers: Vec<u8> = items.iter().map(|item| item % 24).collect();
    let params = Params::of(&BTreeMap::from([("k", numbers)])).unwrap();
    let entry = LoweringEntry {
        id: "a".into(),
        version: 1,
        phase_code: 0,
        param_digest: params.digest(),
        params,
        decl_digest: Some(Digest::ZERO),
        standing: Standing::Scheduled,
    };
    let zero = Digest::ZERO;
    let frame = LaunchPlan::encode(&LaunchBody {
        attempt_id: zero,
        plan_id: zero,
        h_a: zero,
        h_p: zero,
        h_l: zero,
        lowering: vec![entry],
        descriptor_table: vec![],
        target: Target { argv: vec!["a".into()], ..Target::default() },
    });
    frame.unwrap().split_off(HEADER_LEN)
}

// One test in this file: a second one's allocations would be counted here.
#[test]
fn decoding_allocates_no_more_than_a_small_multiple_of_the_input() {
    for major in 2..=5 {
        for length in [1 << 16, 1 << 24, u32::MAX] {
            let nested: Vec<u8> = (0..8).flat_map(|_| head(major, length)).collect();
            let cost = allocated(&nested);
            assert!(cost <= FIXED, "{cost} bytes for a lie of {length}");
        }
    }
    let strategy = (proptest::collection::vec(any::<u8>(), 0..4000), any::<prop::sample::Index>());
    let config = Config { failure_persistence: None, ..Config::default() };
    let checked = TestRunner::new(config).run(&strategy, |(bytes, at)| {
        let honest = dear(&bytes);
        let mut spoilt = honest.clone();
        let at = at.index(spoilt.len());
        spoilt[at] = spoilt[at].wrapping_add(1);
        for body in [&bytes, &honest, &spoilt] {
            let cost = allocated(body);
            prop_assert!(cost <= FIXED + MULTIPLE * body.len(), "{cost} for {}", body.len());
        }
        Ok(())
    });
    checked.unwrap();
}
