//! What is prepared before there is a child: tasks, schedule, mechanisms, phases.

use portcullis_core::descriptor::DescriptorRole;
use portcullis_tests::{Host, Need, Test, tests};
use serde_json::{Value, json};

use crate::{
    CGROUP, EXEC, LANDLOCK, NETNS, SCRUB, SECCOMP, USERNS, foreign, spoilt, test_launcher,
};

fn step_2_two_tasks_are_a_fault() {
    let outcome = spoilt(|host| {
        test_launcher(host);
        host.variables.insert("TEST_LAUNCHER_THREAD", Some("1".into()));
    });
    outcome.faulted("the launcher has 2 tasks");
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
    with(json!({"abi": 3, "rules": rules, "scope": ["signal"]}))
        .refused("PlanInvalid", "scope signal");
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

pub(crate) fn listed() -> Vec<Test> {
    tests![
        step_2_two_tasks_are_a_fault: [],
        step_6_what_no_mechanism_is_registered_as_is_missing: [],
        step_8_landlock_refuses_what_it_cannot_do: [Need::Mechanism(LANDLOCK)],
        step_8_seccomp_refuses_what_denies_nothing_or_itself: [],
        step_8_an_executable_that_is_not_declared_as_one_is_refused: [],
        step_9_the_scrub_is_mandatory: [],
        step_10_a_network_namespace_without_a_user_namespace_is_a_fault: [],
        step_11_a_task_that_a_mechanism_started_is_a_fault: [],
        every_id_with_every_wrong_phase_code_is_missing: [],
    ]
}
