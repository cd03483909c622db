//! The wiring: the four fds and the workload's three.

use portcullis_core::descriptor::DescriptorRole;
use portcullis_core::state::LauncherState;
use portcullis_tests::{Host, Need, Test, tests};

use crate::{USERNS, spoilt};

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

fn no_channel_is_the_workloads_or_a_slots() {
    for fd in ["0", "1", "2"] {
        let outcome = spoilt(|host| {
            host.variables.insert("BVISOR_CONTROL_FD", Some(fd.into()));
        });
        assert_eq!((outcome.status, outcome.ran), (Some(4), false), "{outcome:?}");
        assert!(outcome.text.is_empty(), "{outcome:?}");
        for name in ["BVISOR_LAUNCH_PLAN_FD", "BVISOR_ERROR_FD", "BVISOR_ERROR_READ_FD"] {
            let outcome = spoilt(|host| {
                host.variables.insert(name, Some(fd.into()));
            });
            outcome.faulted("the workload's");
        }
    }
    // Slot 10 is the highest, so control is 11 and the error pipe 13 and 14.
    for channel in [11, 12, 13, 14] {
        let outcome = spoilt(|host| {
            host.slot(5, DescriptorRole::ReadRoot, "/usr");
            host.declared(5).slot_index = channel;
            host.fds.remove(&5);
        });
        outcome.faulted("four fds");
    }
}

fn step_1_blanks_around_a_number_are_allowed() {
    // Control, plan and error pipe lie above the highest slot, from 11 on.
    let outcome = spoilt(|host| {
        host.variables.insert("BVISOR_CONTROL_FD", Some(" 11\t".into()));
    });
    outcome.succeeded();
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

fn step_3_a_plan_is_read_to_its_end_from_a_pipe_and_a_memfd_must_be_sealed() {
    spoilt(|host| host.piped = true).succeeded();
    spoilt(|host| host.sealed = false).refused("PlanInvalid", "sealed");
}

fn a_workload_of_the_same_user_cannot_look_into_the_launcher() {
    for (whose, readable) in [("self", true), ("$PPID", false)] {
        let outcome = spoilt(|host| {
            let mark = host.folder().join("ran");
            let script = format!(": < /proc/{whose}/environ && : > {}", mark.display());
            host.body.target.argv[2] = script.into();
            host.open_to_all();
            // Not as root, whom nothing of this keeps out.
            host.user = Some(65534);
        });
        assert_eq!(outcome.transcript().terminal(), Some(LauncherState::ExecSucceeded));
        assert_eq!(outcome.ran, readable, "{outcome:?}");
    }
}

fn standard_fds_that_are_closed_at_the_start_do_no_harm() {
    for closed in [&[0][..], &[1], &[2], &[0, 1], &[1, 2], &[0, 1, 2]] {
        let outcome = spoilt(|host| host.closed = closed.to_vec());
        outcome.succeeded();
    }
}

pub(crate) fn listed() -> Vec<Test> {
    tests![
        step_1_without_a_control_channel_there_is_one_line_on_standard_error: [],
        no_channel_is_the_workloads_or_a_slots: [],
        step_1_blanks_around_a_number_are_allowed: [],
        step_3_the_other_variables_are_a_fault_by_name: [],
        step_3_an_error_fd_that_the_launchers_own_exec_closed_is_made_up_for: [Need::Mechanism(USERNS)],
        step_3_a_plan_is_read_to_its_end_from_a_pipe_and_a_memfd_must_be_sealed: [],
        a_workload_of_the_same_user_cannot_look_into_the_launcher: [Need::Root],
        standard_fds_that_are_closed_at_the_start_do_no_harm: [],
    ]
}
