//! The run of the protocol: every refusal and fault by name, none of which lets the workload run.

use std::fs;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use portcullis_core::Params;
use portcullis_core::descriptor::{DescriptorKind, DescriptorRole};
use portcullis_core::frame::{Frame, HEADER_LEN};
use portcullis_core::plan::{LoweringEntry, Standing};
use portcullis_core::state::LauncherState;
use portcullis_mechanisms as _;
use portcullis_tests::{Host, Need, Outcome, Test, run, tests};
use serde_json::{Value, json};

const SCRUB: &str = "linux.ambient.scrub.v1";
const EXEC: &str = "linux.exec.v1";
const LANDLOCK: &str = "linux.landlock.apply.v1";
const SECCOMP: &str = "linux.seccomp.apply.v1";
const NETNS: &str = "linux.netns.enter.v1";
const USERNS: &str = "linux.userns.enter.v1";
const CGROUP: &str = "linux.cgroup.enter.v1";

/// The outcome of a launch that is good but for `spoil`.
fn spoilt(spoil: impl FnOnce(&mut Host)) -> Outcome {
    let mut host = Host::default();
    spoil(&mut host);
    host.run()
}

fn test_launcher(host: &mut Host) {
    host.launcher = env!("CARGO_BIN_EXE_test-launcher").into();
}

/// An entry for a mechanism that only the test launcher has, as another supervisor would write it.
fn foreign(id: &str) -> LoweringEntry {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_test-launcher"))
        .arg("--mechanisms")
        .output()
        .unwrap();
    let known: Vec<portcullis::MechanismInfo> = serde_json::from_slice(&output.stdout).unwrap();
    let found = known.into_iter().find(|it| it.id == id).unwrap();
    let digest: Vec<u8> = (0..32)
        .map(|at| u8::from_str_radix(&found.decl_digest[at * 2..at * 2 + 2], 16).unwrap())
        .collect();
    LoweringEntry {
        id: found.id,
        version: found.version,
        phase_code: found.phase_code,
        params: Params::default(),
        param_digest: Params::default().digest(),
        decl_digest: Some(<[u8; 32]>::try_from(digest).unwrap().into()),
        standing: Standing::Scheduled,
    }
}

fn a_launch_goes_through_every_state_in_order() {
    let outcome = spoilt(|_| {});
    outcome.succeeded();
    let states: Vec<_> = outcome.text.lines().filter(|line| !line.starts_with("# ")).collect();
    assert_eq!(
        states,
        [
            "LauncherStarted",
            "IdentityVerified",
            "PlanVerified",
            "HandlesVerified",
            "ChildCreated",
            "IdentityPhaseResolved",
            "VisibilityPhaseResolved",
            "AmbientAuthorityPhaseResolved",
            "ConfinementPhaseResolved",
            "ReadyToExec",
            "ExecSucceeded",
        ]
    );
    let notes: Vec<_> = outcome.text.lines().filter(|line| line.starts_with("# ")).collect();
    assert!(notes[0].starts_with("# mechanism=clone3 child_pid="), "{notes:?}");
    assert!(notes.contains(&"# confinement=NotRequired installed=false"), "{notes:?}");
    assert!(
        outcome.text.ends_with("ExecSucceeded\n# workload exited code=0\n"),
        "{}",
        outcome.text
    );
}

fn the_workloads_end_is_noted_after_the_exec() {
    for (script, note) in [
        ("exit 7", "# workload exited code=7"),
        ("kill -KILL $$", "# workload killed signal=9 core=false"),
    ] {
        let outcome = spoilt(|host| {
            let mark = host.folder().join("ran");
            host.body.target.argv[2] = format!(": > {}; {script}", mark.display()).into();
        });
        outcome.succeeded();
        assert_eq!(outcome.text.lines().last(), Some(note));
    }
}

fn step_1_without_a_control_channel_there_is_one_line_on_standard_error() {
    for (value, part) in [
        (None, "is not set"),
        (Some("seven"), "no fd number"),
        (Some(""), "no fd number"),
        (Some("-1"), "closed"),
        (Some("99"), "closed"),
    ] {
        let outcome = spoilt(|host| {
            host.variables.insert("BVISOR_CONTROL_FD", value.map(str::to_owned));
        });
        assert_eq!((outcome.status, outcome.ran), (Some(4), false), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        assert!(outcome.stderr.contains(part) && outcome.text.is_empty(), "{outcome:?}");
    }
}

fn step_1_blanks_around_a_number_are_allowed() {
    // Control, plan and error pipe lie above the highest slot, from 11 on.
    let outcome = spoilt(|host| {
        host.variables.insert("BVISOR_CONTROL_FD", Some(" 11\t".into()));
    });
    outcome.succeeded();
}

fn step_2_two_tasks_are_a_fault() {
    let outcome = spoilt(|host| {
        test_launcher(host);
        host.variables.insert("TEST_LAUNCHER_THREAD", Some("1".into()));
    });
    outcome.faulted("the launcher has 2 tasks");
}

fn step_3_the_other_variables_are_a_fault_by_name() {
    for name in ["BVISOR_LAUNCH_PLAN_FD", "BVISOR_ERROR_FD", "BVISOR_ERROR_READ_FD"] {
        for value in [None, Some("x"), Some("98")] {
            if (name, value) == ("BVISOR_ERROR_FD", Some("98")) {
                continue;
            }
            let outcome = spoilt(|host| {
                host.variables.insert(name, value.map(str::to_owned));
            });
            outcome.faulted(name);
        }
    }
    let outcome = spoilt(|host| {
        host.variables.insert("BVISOR_ERROR_FD", Some("11".into()));
    });
    outcome.faulted("another of the four fds");
}

fn step_3_an_error_fd_that_the_launchers_own_exec_closed_is_made_up_for() {
    let closed = |host: &mut Host| {
        host.variables.insert("BVISOR_ERROR_FD", Some("98".into()));
    };
    spoilt(closed).succeeded();
    let outcome = spoilt(|host| {
        closed(host);
        host.body.descriptor_table.clear();
        host.slot(Host::EXE, DescriptorRole::TargetExe, "/etc/passwd");
    });
    outcome.faulted("# child errno=13\n");
    spoilt(|host| {
        closed(host);
        host.schedule(USERNS, &());
    })
    .succeeded();
}

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

fn step_3_a_plan_is_read_to_its_end_from_a_pipe_and_a_memfd_must_be_sealed() {
    spoilt(|host| host.piped = true).succeeded();
    spoilt(|host| host.sealed = false).refused("PlanInvalid", "sealed");
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

fn step_6_what_no_mechanism_is_registered_as_is_missing() {
    let outcome = spoilt(|host| host.entry(SCRUB).id = "linux.unknown.do.v1".into());
    outcome.refused("MissingPrimitive", "linux.unknown.do.v1");
    let outcome = spoilt(|host| host.entry(EXEC).version = 2);
    outcome.refused("MissingPrimitive", "version 2");
    for code in [0, 4, 6, 255] {
        let outcome = spoilt(|host| host.entry(SCRUB).phase_code = code);
        outcome.refused("MissingPrimitive", "phase code");
    }
    spoilt(|host| host.unschedule(EXEC)).refused("MissingPrimitive", "exec");
    let outcome = spoilt(|host| {
        host.schedule(EXEC, &());
    });
    outcome.refused("PlanInvalid", "exec");
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

fn step_8_landlock_refuses_what_it_cannot_do() {
    let rules = json!([{"slot": 20, "access": ["read", "exec"]}]);
    let with = |params: Value| {
        spoilt(|host| {
            host.slot(20, DescriptorRole::ReadRoot, "/");
            host.schedule(LANDLOCK, &params);
        })
    };
    with(json!({"abi": 2, "rules": rules})).refused("MissingPrimitive", "ABI 2");
    with(json!({"abi": 99, "rules": rules})).refused("MissingPrimitive", "ABI 99");
    with(json!({"abi": 3})).refused("HandleMismatch", "no rule");
    with(json!({"abi": 3, "rules": [{"slot": 9, "access": ["read"]}]}))
        .refused("PlanInvalid", "slot 9");
    with(json!({"abi": 3, "rules": [{"slot": 20, "access": ["write"]}]}))
        .refused("HandleMismatch", "ReadRoot");
    with(json!({"abi": 3, "rules": [{"slot": 10, "access": ["read"]}]}))
        .refused("HandleMismatch", "TargetExe");
    with(json!({"abi": 3, "rules": rules, "scope": ["signal"]})).refused("PlanInvalid", "scopes");
    with(json!({"abi": 3, "rules": rules, "audit": true})).refused("PlanInvalid", "audit");
}

fn step_8_seccomp_refuses_what_denies_nothing_or_itself() {
    let with = |params: Value| {
        spoilt(|host| {
            host.schedule(SECCOMP, &params);
        })
    };
    with(json!({})).refused("MissingPrimitive", "denies nothing");
    with(json!({"deny": ["no_such_call"]})).refused("MissingPrimitive", "no_such_call");
    with(json!({"deny": ["execveat"]})).refused("PlanInvalid", "execveat");
    with(json!({"deny": ["exit_group"]})).refused("PlanInvalid", "exit_group");
    with(json!({"deny": 7})).refused("PlanInvalid", SECCOMP);
}

fn step_8_an_executable_that_is_not_declared_as_one_is_refused() {
    spoilt(|host| host.body.target.exe_slot = 9).refused("PlanInvalid", "slot 9");
    let outcome = spoilt(|host| {
        host.slot(5, DescriptorRole::ReadRoot, "/usr");
        host.body.target.exe_slot = 5;
    });
    outcome.refused("HandleMismatch", "exe_slot 5");
    let outcome = spoilt(|host| {
        host.fds.remove(&Host::EXE);
        host.body.descriptor_table.clear();
        host.slot(Host::EXE, DescriptorRole::TargetExe, "/usr");
    });
    outcome.refused("HandleMismatch", "regular file");
}

fn step_9_the_scrub_is_mandatory() {
    spoilt(|host| host.unschedule(SCRUB)).refused("PlanInvalid", SCRUB);
}

fn step_10_a_network_namespace_without_a_user_namespace_is_a_fault() {
    let outcome = spoilt(|host| {
        host.schedule(NETNS, &());
    });
    outcome.faulted("# network_namespace=requested_without_userns fail_closed\n");
    assert!(!outcome.text.contains("ChildCreated"));
}

fn step_11_a_task_that_a_mechanism_started_is_a_fault() {
    let outcome = spoilt(|host| {
        test_launcher(host);
        host.body.lowering.push(foreign("test.thread.start.v1"));
    });
    outcome.faulted("the launcher has 2 tasks");
}

fn step_12_a_cgroup_that_is_none_is_a_fault() {
    let outcome = spoilt(|host| {
        host.slot(5, DescriptorRole::CgroupDir, "/usr");
        host.schedule(CGROUP, &());
    });
    outcome.faulted("clone3 into the cgroup");
    let outcome = spoilt(|host| {
        host.schedule(CGROUP, &());
    });
    outcome.refused("HandleMismatch", "CgroupDir");
}

fn step_13_a_rendezvous_that_fails_never_releases_the_child() {
    let outcome = spoilt(|host| {
        test_launcher(host);
        host.body.lowering.push(foreign("test.attend.fail.v1"));
    });
    outcome.faulted("# attend=failed fail_closed\n");
    let pid = outcome.transcript().value("child_pid").unwrap().to_owned();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "the child was not reaped");
}

fn step_13_a_release_is_told_with_what_was_done_for_it() {
    let outcome = spoilt(|host| {
        host.schedule(USERNS, &());
        host.schedule(NETNS, &());
        host.schedule(SECCOMP, &json!({"deny": ["ptrace"]}));
    });
    outcome.succeeded();
    for note in [
        "# seccomp=denylist_installed mode=filter\n",
        "# user_namespace=mapped child_uid0_egid0\n",
        "# network_namespace=empty_netns child_isolated\n",
        "# confinement=Applied installed=true\n",
    ] {
        assert!(outcome.text.contains(note), "{note} is not in {outcome:?}");
    }
}

fn step_14_an_exec_that_fails_is_told_by_its_errno() {
    let outcome = spoilt(|host| {
        let text = host.folder().join("text");
        fs::write(&text, "no program").unwrap();
        fs::set_permissions(&text, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        host.body.descriptor_table.clear();
        host.slot(Host::EXE, DescriptorRole::TargetExe, &text);
    });
    outcome.faulted("# child errno=8\n");
    assert!(outcome.text.contains("# failed=linux.exec.v1 call=execveat"), "{outcome:?}");
    let outcome = spoilt(|host| {
        host.body.descriptor_table.clear();
        host.slot(Host::EXE, DescriptorRole::TargetExe, "/etc/passwd");
    });
    outcome.faulted("# child errno=13\n");
}

fn a_workload_of_the_same_user_cannot_look_into_the_launcher() {
    for (whose, readable) in [("self", true), ("$PPID", false)] {
        let outcome = spoilt(|host| {
            let mark = host.folder().join("ran");
            let script = format!(": < /proc/{whose}/environ && : > {}", mark.display());
            host.body.target.argv[2] = script.into();
            let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            fs::set_permissions(host.folder(), everybody).unwrap();
            // Not as root, whom nothing of this keeps out.
            host.user = Some(65534);
        });
        assert_eq!(outcome.transcript().terminal(), Some(LauncherState::ExecSucceeded));
        assert_eq!(outcome.ran, readable, "{outcome:?}");
    }
}

fn what_is_on_the_error_pipe_though_the_exec_took_place_is_a_fault_and_ends_the_workload() {
    let outcome = spoilt(|host| {
        host.forged_error = true;
        let script = "exec sleep 60";
        host.body.target.argv[2] = script.into();
    });
    outcome.faulted("the error pipe");
    let pid = outcome.transcript().value("child_pid").unwrap().to_owned();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "the workload lives on");
}

fn a_trace_has_the_microseconds_of_each_stage() {
    let outcome = spoilt(|host| {
        host.variables.insert("BVISOR_TRACE", Some("1".into()));
    });
    outcome.succeeded();
    for stage in ["plan", "schedule", "handles", "lower", "child"] {
        let found = outcome.transcript().notes().iter().any(|note| {
            note.strip_prefix(&format!("trace stage={stage} us="))
                .is_some_and(|microseconds| microseconds.parse::<u64>().is_ok())
        });
        assert!(found, "{stage} is not in {outcome:?}");
    }
    assert!(!spoilt(|_| {}).text.contains("trace"));
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
    spoilt(|host| host.plan = Some(most.clone())).refused("PlanInvalid", "bytes after the body");
    let over = [&most[..], &[0]].concat();
    spoilt(|host| host.plan = Some(over)).refused("PlanInvalid", "longer than");
}

fn a_body_that_is_not_deterministic_or_has_an_unknown_field_is_refused() {
    let body = Host::default().frame().split_off(HEADER_LEN);
    // The map of eight fields with one more: "zzzzzzzzzzzzzzzzz": 0 sorts last.
    let unknown = [&[body[0] + 1][..], &body[1..], &[0x71], &[b'z'; 17], &[0]].concat();
    let frame = Frame::encode(2, &unknown).unwrap();
    spoilt(|host| host.plan = Some(frame)).refused("PlanInvalid", "zzzz");
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

fn every_id_with_every_wrong_phase_code_is_missing() {
    let ids = [SCRUB, EXEC, LANDLOCK, SECCOMP, USERNS, NETNS, CGROUP];
    std::thread::scope(|scope| {
        for id in ids {
            scope.spawn(move || {
                for code in 0..=255 {
                    let mut host = Host::default();
                    if id != SCRUB && id != EXEC {
                        host.schedule(id, &());
                    }
                    if host.entry(id).phase_code == code {
                        continue;
                    }
                    host.entry(id).phase_code = code;
                    host.run().refused("MissingPrimitive", id);
                }
            });
        }
    });
}

fn an_executable_may_be_deleted_and_is_what_its_fd_is() {
    let outcome = spoilt(|host| {
        let copy = host.folder().join("copy");
        fs::copy("/bin/sh", &copy).unwrap();
        host.body.descriptor_table.clear();
        host.slot(Host::EXE, DescriptorRole::TargetExe, &copy);
        fs::remove_file(&copy).unwrap();
        fs::write(&copy, "#!/bin/false").unwrap();
    });
    outcome.succeeded();
}

fn a_script_needs_its_fd_and_says_so_where_it_has_none() {
    let script = |host: &mut Host| {
        let script = host.folder().join("script");
        let mark = host.folder().join("ran");
        fs::write(&script, format!("#!/bin/sh\n: > {}\n", mark.display())).unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        host.body.descriptor_table.clear();
        host.slot(Host::EXE, DescriptorRole::TargetExe, &script);
    };
    // Closed by the exec, there is nothing for the interpreter to open (execveat(2), BUGS).
    spoilt(script).faulted("# child errno=2\n");
    let outcome = spoilt(|host| {
        script(host);
        host.unschedule(EXEC);
        host.schedule(EXEC, &json!({"script": true}));
    });
    outcome.succeeded();
}

fn a_map_that_cannot_be_written_ends_a_child_that_was_never_released() {
    let outcome = spoilt(|host| {
        host.schedule(USERNS, &());
        host.strace = Some(host.folder().join("strace"));
        // The maps are the only files that the launcher opens.
        host.inject = Some("open,openat:error=EACCES:when=1".into());
    });
    outcome.faulted("# user_namespace=map_write_failed fail_closed\n");
    let pid = outcome.transcript().value("child_pid").unwrap().to_owned();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "the child was not reaped");
}

fn ten_thousand_fds_are_scrubbed_whether_close_on_exec_or_not() {
    let outcome = spoilt(|host| {
        let mark = host.folder().join("ran");
        // Only when no other than 0, 1, 2 and the listing's own is there.
        let script = format!("set -- /proc/self/fd/*; [ $# -le 4 ] && : > {}", mark.display());
        host.body.target.argv[2] = script.into();
        host.sentinels = 10_000;
    });
    outcome.succeeded();
    // The control: a shell that is started with as many has them.
    let count = Host::count_with_sentinels(10_000);
    assert!(count > 9_000, "{count}");
}

fn standard_fds_that_are_closed_at_the_start_do_no_harm() {
    for closed in [&[0][..], &[1], &[2], &[0, 1], &[1, 2], &[0, 1, 2]] {
        let outcome = spoilt(|host| host.closed = closed.to_vec());
        outcome.succeeded();
    }
}

fn every_rule_of_the_documentation_has_its_test() {
    let text = include_str!("../docs/protocol.md");
    let (_, table) = text.split_once("## Rules and their tests").unwrap();
    let rows = table.lines().filter_map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (rule, test) = (cells.next()?, cells.next()?);
        let test = test.strip_prefix('`')?.strip_suffix('`')?;
        Some((rule, test))
    });
    let mut named = std::collections::BTreeSet::new();
    for (rule, test) in rows {
        assert!(!rule.is_empty());
        assert!(listed().iter().any(|it| it.name == test), "{rule}: there is no test {test}");
        named.insert(test);
    }
    for test in listed() {
        assert!(named.contains(test.name), "{} proves no rule of docs/protocol.md", test.name);
    }
}

fn listed() -> Vec<Test> {
    tests![
        a_launch_goes_through_every_state_in_order: [],
        the_workloads_end_is_noted_after_the_exec: [],
        step_1_without_a_control_channel_there_is_one_line_on_standard_error: [],
        step_1_blanks_around_a_number_are_allowed: [],
        step_2_two_tasks_are_a_fault: [],
        step_3_the_other_variables_are_a_fault_by_name: [],
        step_3_an_error_fd_that_the_launchers_own_exec_closed_is_made_up_for: [Need::Mechanism(USERNS)],
        step_3_a_plan_that_does_not_decode_is_invalid: [],
        step_3_a_plan_is_read_to_its_end_from_a_pipe_and_a_memfd_must_be_sealed: [],
        step_4_a_digest_that_differs_is_a_mismatch_of_identity: [],
        step_5_a_table_that_contradicts_itself_is_invalid: [],
        step_6_what_no_mechanism_is_registered_as_is_missing: [],
        step_7_a_closed_slot_is_a_fault_and_another_shape_a_mismatch: [],
        step_7_an_undeclared_fd_is_no_refusal: [],
        step_8_landlock_refuses_what_it_cannot_do: [Need::Mechanism(LANDLOCK)],
        step_8_seccomp_refuses_what_denies_nothing_or_itself: [],
        step_8_an_executable_that_is_not_declared_as_one_is_refused: [],
        step_9_the_scrub_is_mandatory: [],
        step_10_a_network_namespace_without_a_user_namespace_is_a_fault: [],
        step_11_a_task_that_a_mechanism_started_is_a_fault: [],
        step_12_a_cgroup_that_is_none_is_a_fault: [],
        step_13_a_rendezvous_that_fails_never_releases_the_child: [],
        step_13_a_release_is_told_with_what_was_done_for_it: [Need::Mechanism(NETNS), Need::Mechanism(SECCOMP)],
        step_14_an_exec_that_fails_is_told_by_its_errno: [],
        a_workload_of_the_same_user_cannot_look_into_the_launcher: [Need::Root],
        what_is_on_the_error_pipe_though_the_exec_took_place_is_a_fault_and_ends_the_workload: [],
        a_trace_has_the_microseconds_of_each_stage: [],
        frames_are_judged_at_each_boundary_of_their_length: [],
        a_body_that_is_not_deterministic_or_has_an_unknown_field_is_refused: [],
        every_singleton_role_may_appear_once: [],
        each_kind_is_told_from_every_other: [],
        a_slot_above_the_fd_limit_is_a_fault: [],
        every_id_with_every_wrong_phase_code_is_missing: [],
        an_executable_may_be_deleted_and_is_what_its_fd_is: [],
        a_script_needs_its_fd_and_says_so_where_it_has_none: [],
        a_map_that_cannot_be_written_ends_a_child_that_was_never_released: [Need::Strace, Need::Mechanism(USERNS)],
        ten_thousand_fds_are_scrubbed_whether_close_on_exec_or_not: [Need::Python],
        standard_fds_that_are_closed_at_the_start_do_no_harm: [],
        every_rule_of_the_documentation_has_its_test: [],
    ]
}

fn main() -> ExitCode {
    run(listed())
}
