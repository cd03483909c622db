//! The child, its release, its exec, and the transcript of it.

use std::fs;

use portcullis_core::descriptor::DescriptorRole;
use portcullis_tests::{Host, Need, Test, is_gone, tests, write_program};
use serde_json::json;

use crate::{CGROUP, EXEC, NETNS, SECCOMP, USERNS, foreign, spoilt, test_launcher};

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
    assert!(is_gone(pid), "the child was not reaped");
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
        write_program(&text, b"no program");
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

fn what_is_on_the_error_pipe_though_the_exec_took_place_is_a_fault_and_ends_the_workload() {
    let outcome = spoilt(|host| {
        host.forged_error = true;
        let script = "exec sleep 60";
        host.body.target.argv[2] = script.into();
    });
    outcome.faulted("the error pipe");
    let pid = outcome.transcript().value("child_pid").unwrap().to_owned();
    assert!(is_gone(pid), "the workload lives on");
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

fn an_executable_may_be_deleted_and_is_what_its_fd_is() {
    let outcome = spoilt(|host| {
        let copy = host.folder().join("copy");
        write_program(&copy, &fs::read("/bin/sh").unwrap());
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
        write_program(&script, format!("#!/bin/sh\n: > {}\n", mark.display()).as_bytes());
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
    assert!(is_gone(pid), "the child was not reaped");
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

pub(crate) fn listed() -> Vec<Test> {
    tests![
        a_launch_goes_through_every_state_in_order: [],
        the_workloads_end_is_noted_after_the_exec: [],
        step_12_a_cgroup_that_is_none_is_a_fault: [],
        step_13_a_rendezvous_that_fails_never_releases_the_child: [],
        step_13_a_release_is_told_with_what_was_done_for_it: [Need::Mechanism(NETNS), Need::Mechanism(SECCOMP)],
        step_14_an_exec_that_fails_is_told_by_its_errno: [],
        what_is_on_the_error_pipe_though_the_exec_took_place_is_a_fault_and_ends_the_workload: [],
        a_trace_has_the_microseconds_of_each_stage: [],
        an_executable_may_be_deleted_and_is_what_its_fd_is: [],
        a_script_needs_its_fd_and_says_so_where_it_has_none: [],
        a_map_that_cannot_be_written_ends_a_child_that_was_never_released: [Need::Strace, Need::Mechanism(USERNS)],
        ten_thousand_fds_are_scrubbed_whether_close_on_exec_or_not: [Need::Python],
    ]
}
