//! The plan: frame, body, digests, table and handles.

use std::fs;
use std::os::fd::OwnedFd;

use portcullis_core::descriptor::{DescriptorKind, DescriptorRole};
use portcullis_core::frame::{Frame, HEADER_LEN};
use portcullis_tests::{Host, Test, tests};

use crate::{SCRUB, spoilt};

fn step_3_a_plan_that_does_not_decode_is_invalid() {
    let good = Host::default().frame();
    let flipped = |at: usize| {
        let mut frame = good.clone();
        frame[at] ^= 1;
        frame
    };
    let short = good[..20].to_vec();
    let cut = good[..good.len() - 1].to_vec();
    let huge = vec![b'x'; (1 << 20) + 47];
    for (frame, part) in [
        (vec![], "Truncated"),
        (short, "Truncated"),
        (flipped(0), "BadMagic"),
        (flipped(8), "UnsupportedVersion"),
        (cut, "LengthMismatch"),
        (flipped(14), "DigestMismatch"),
        (flipped(60), "DigestMismatch"),
        (huge, "longer than"),
    ] {
        spoilt(|host| host.plan = Some(frame)).refused("PlanInvalid", part);
    }
}

fn step_4_a_digest_that_differs_is_a_mismatch_of_identity() {
    let outcome = spoilt(|host| {
        host.frame();
        host.honest = false;
        host.body.h_l = [9; 32].into();
    });
    outcome.refused("IdentityMismatch", "h_l");
    let outcome = spoilt(|host| {
        host.entry(SCRUB).param_digest = [9; 32].into();
        host.honest = false;
        host.body.h_l = portcullis_core::plan::lowering_digest(&host.body.lowering);
    });
    outcome.refused("IdentityMismatch", "param_digest");
    let outcome = spoilt(|host| host.entry(SCRUB).decl_digest = Some([9; 32].into()));
    outcome.refused("IdentityMismatch", "declaration");
}

fn step_5_a_table_that_contradicts_itself_is_invalid() {
    let outcome = spoilt(|host| {
        let twice = *host.declared(Host::EXE);
        host.body.descriptor_table.push(twice);
    });
    outcome.refused("PlanInvalid", "DuplicateSlotIndex");
    let outcome = spoilt(|host| host.slot(5, DescriptorRole::TargetExe, "/bin/sh"));
    outcome.refused("PlanInvalid", "DuplicateSingletonRole");
    let outcome = spoilt(|host| host.declared(Host::EXE).slot_index = u32::MAX);
    outcome.refused("PlanInvalid", "no fd number");
}

fn step_7_a_closed_slot_is_a_fault_and_another_shape_a_mismatch() {
    let outcome = spoilt(|host| {
        host.slot(5, DescriptorRole::ReadRoot, "/usr");
        host.fds.remove(&5);
    });
    outcome.faulted("slot 5");
    for wrong in [DescriptorKind::Pipe, DescriptorKind::Socket, DescriptorKind::Regular] {
        let outcome = spoilt(|host| {
            host.slot(5, DescriptorRole::ReadRoot, "/usr");
            host.declared(5).expected.kind = wrong;
        });
        outcome.refused("HandleMismatch", "slot 5");
    }
    let outcome = spoilt(|host| host.declared(Host::EXE).expected.kind = DescriptorKind::Directory);
    outcome.refused("HandleMismatch", "slot 10");
    // Declared read-only and open for writing, and the reverse.
    let outcome = spoilt(|host| {
        let file = host.folder().join("file");
        fs::write(&file, "").unwrap();
        host.slot(5, DescriptorRole::WriteRoot, &file);
        host.open_for_writing(5, &file);
    });
    outcome.refused("HandleMismatch", "slot 5");
    let outcome = spoilt(|host| host.declared(Host::EXE).expected.writable = true);
    outcome.refused("HandleMismatch", "slot 10");
    // A device is of no kind that a plan can declare.
    let outcome = spoilt(|host| {
        host.slot(5, DescriptorRole::ReadRoot, "/usr");
        host.fds.insert(5, OwnedFd::from(fs::File::open("/dev/null").unwrap()));
    });
    outcome.refused("HandleMismatch", "something else");
}

fn step_7_an_undeclared_fd_is_no_refusal() {
    let outcome = spoilt(|host| {
        host.fds.insert(5, OwnedFd::from(fs::File::open("/etc/passwd").unwrap()));
    });
    outcome.succeeded();
}

fn frames_are_judged_at_each_boundary_of_their_length() {
    let good = Host::default().frame();
    for length in [0, 1, 7, 8, 9, 10, 13, 14, 45] {
        let frame = good[..length].to_vec();
        spoilt(|host| host.plan = Some(frame)).refused("PlanInvalid", "Truncated");
    }
    for length in [46, 47, good.len() - 1] {
        let frame = good[..length].to_vec();
        spoilt(|host| host.plan = Some(frame)).refused("PlanInvalid", "LengthMismatch");
    }
    let longer = [&good[..], b"!"].concat();
    spoilt(|host| host.plan = Some(longer)).refused("PlanInvalid", "LengthMismatch");
    for declared in [u32::MAX, u32::MAX - 45, 1 << 20, 0] {
        let mut frame = good.clone();
        frame[10..14].copy_from_slice(&declared.to_le_bytes());
        spoilt(|host| host.plan = Some(frame)).refused("PlanInvalid", "LengthMismatch");
    }
    for version in [0, 3, 256, u16::MAX] {
        let mut frame = good.clone();
        frame[8..10].copy_from_slice(&version.to_le_bytes());
        spoilt(|host| host.plan = Some(frame)).refused("PlanInvalid", "UnsupportedVersion");
    }
    // A body of 1 MiB is judged by what is in it, one byte more by its length alone.
    let most = Frame::encode(2, &vec![0; 1 << 20]).unwrap();
    spoilt(|host| host.plan = Some(most.clone())).refused("PlanInvalid", "another type");
    let over = [&most[..], &[0]].concat();
    spoilt(|host| host.plan = Some(over)).refused("PlanInvalid", "longer than");
}

fn a_body_that_is_not_deterministic_or_has_an_unknown_field_is_refused() {
    let body = Host::default().frame().split_off(HEADER_LEN);
    // The map of eight fields with one more: "zzzzzzzzzzzzzzzzz": 0 sorts last.
    let unknown = [&[body[0] + 1][..], &body[1..], &[0x71], &[b'z'; 17], &[0]].concat();
    let frame = Frame::encode(2, &unknown).unwrap();
    spoilt(|host| host.plan = Some(frame)).refused("PlanInvalid", "zzzz");
    // The first field's name as bytes, which serde would take: the key order stays as it is.
    let mut named = body.clone();
    assert_eq!(named[1..5], *b"\x63h_a");
    named[1] = 0x43;
    let frame = Frame::encode(2, &named).unwrap();
    spoilt(|host| host.plan = Some(frame)).refused("PlanInvalid", "another form");
    // The same map with its length in two bytes.
    let longer = [&[0xb8, body[0] & 0x1f][..], &body[1..]].concat();
    let frame = Frame::encode(2, &longer).unwrap();
    spoilt(|host| host.plan = Some(frame)).refused("PlanInvalid", "shortest form");
}

fn every_singleton_role_may_appear_once() {
    use portcullis_core::descriptor::DescriptorRole as Role;
    let singletons = [
        Role::TargetExe,
        Role::CgroupDir,
        Role::Stdin,
        Role::Stdout,
        Role::Stderr,
        Role::ControlChannel,
    ];
    for role in singletons {
        let outcome = spoilt(|host| {
            host.slot(5, role, "/bin/sh");
            host.slot(6, role, "/bin/sh");
        });
        outcome.refused("PlanInvalid", "DuplicateSingletonRole");
    }
    for role in [Role::ReadRoot, Role::WriteRoot] {
        let outcome = spoilt(|host| {
            host.slot(5, role, "/usr");
            host.slot(6, role, "/usr");
        });
        outcome.succeeded();
    }
}

fn each_kind_is_told_from_every_other() {
    use DescriptorKind::{Directory, Pipe, Regular, Socket};
    let (pipe, _pipe_end) = rustix::pipe::pipe().unwrap();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let directory = fs::File::open("/usr").unwrap();
    let regular = fs::File::open("/etc/passwd").unwrap();
    let fds: [(DescriptorKind, OwnedFd); 4] = [
        (Pipe, pipe),
        (Socket, socket.into()),
        (Directory, directory.into()),
        (Regular, regular.into()),
    ];
    for (kind, fd) in &fds {
        for declared in [Pipe, Socket, Directory, Regular] {
            let outcome = spoilt(|host| {
                host.slot(5, DescriptorRole::ReadRoot, "/usr");
                host.declared(5).expected.kind = declared;
                host.fds.insert(5, fd.try_clone().unwrap());
            });
            if declared == *kind {
                outcome.succeeded();
            } else {
                outcome.refused("HandleMismatch", "slot 5");
            }
        }
    }
}

fn a_slot_above_the_fd_limit_is_a_fault() {
    let outcome = spoilt(|host| {
        host.slot(5, DescriptorRole::ReadRoot, "/usr");
        host.fds.remove(&5);
        host.declared(5).slot_index = 1 << 30;
    });
    outcome.faulted("slot 1073741824");
}

pub(crate) fn listed() -> Vec<Test> {
    tests![
        step_3_a_plan_that_does_not_decode_is_invalid: [],
        step_4_a_digest_that_differs_is_a_mismatch_of_identity: [],
        step_5_a_table_that_contradicts_itself_is_invalid: [],
        step_7_a_closed_slot_is_a_fault_and_another_shape_a_mismatch: [],
        step_7_an_undeclared_fd_is_no_refusal: [],
        frames_are_judged_at_each_boundary_of_their_length: [],
        a_body_that_is_not_deterministic_or_has_an_unknown_field_is_refused: [],
        every_singleton_role_may_appear_once: [],
        each_kind_is_told_from_every_other: [],
        a_slot_above_the_fd_limit_is_a_fault: [],
    ]
}
