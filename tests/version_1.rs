//! Frames of version 1, as a bvisor 0.10 host wrote them, launch as they say: with every confinement that
//! they ask for in force, and none that they don't.

use std::collections::BTreeMap;
use std::process::ExitCode;

use portcullis_core::descriptor::DescriptorRole;
use portcullis_core::frame::{Frame, HEADER_LEN};
use portcullis_tests::{Host, Need, Outcome, VERSION_1_FRAMES, run, tests};

const WORKLOAD: &str = env!("CARGO_BIN_EXE_version-1-workload");
/// Launches the workload by a frame.
fn launch(frame: &[u8], spoil: impl FnOnce(&mut Host)) -> Outcome {
    let mut host = Host::version_1(frame, WORKLOAD);
    spoil(&mut host);
    host.run()
}

fn said(outcome: &Outcome) -> BTreeMap<String, String> {
    assert_eq!(outcome.status, Some(0), "{outcome:?}");
    let lines = outcome.stdout.lines().filter_map(|line| line.split_once('='));
    lines.map(|(what, value)| (what.to_owned(), value.to_owned())).collect()
}

fn the_states_and_notes_are_those_of_version_1() {
    for (frame, [confinement, installed]) in VERSION_1_FRAMES.into_iter().zip([
        ["NotRequired", "false"],
        ["Applied", "true"],
        ["Applied", "true"],
        ["Applied", "true"],
    ]) {
        let outcome = launch(frame, |_| {});
        let transcript = outcome.transcript();
        assert_eq!(transcript.states().len(), 11, "{outcome:?}");
        assert_eq!(transcript.value("confinement"), Some(confinement));
        assert_eq!(transcript.value("installed"), Some(installed));
        // Namespaces and the cgroup are no entries of a version 1 plan, so its phases have none.
        let note = "phase=Identity result=NotRequired".to_owned();
        assert!(transcript.notes().contains(&note), "{outcome:?}");
    }
    let outcome = launch(VERSION_1_FRAMES[3], |_| {});
    for note in [
        "# seccomp=denylist_installed mode=filter\n",
        "# user_namespace=mapped child_uid0_egid0\n",
        "# network_namespace=empty_netns child_isolated\n",
    ] {
        assert!(outcome.text.contains(note), "{note} is not in {outcome:?}");
    }
}

fn every_confinement_that_is_asked_for_is_in_force_and_no_other() {
    for (which, frame) in VERSION_1_FRAMES.into_iter().enumerate() {
        let said = said(&launch(frame, |_| {}));
        let can = |what: &str| said[what] == "true";
        assert_eq!(can("read-etc"), which == 0, "{which}: Landlock");
        assert!(
            can("read-usr") && can("write-tmp") && can("remove-tmp"),
            "{which}: what is granted"
        );
        assert_eq!(can("new-task"), which < 2, "{which}: deny_new_tasks");
        assert_eq!(can("socket"), which < 2, "{which}: deny_inet_sockets");
        assert_eq!(can("own-uids"), which == 3, "{which}: user namespace");
        // 0, 1, 2, and the one that the listing itself has open.
        assert_eq!(said["fds"], "4", "{which}");
        assert_eq!(said["env"], r#"[("PATH", "/usr/bin:/bin")]"#, "{which}");
    }
}

fn a_lowering_that_is_not_what_h_l_names_is_refused() {
    // In a frame whose own digest is of the body as it now is.
    let mut body = VERSION_1_FRAMES[0][HEADER_LEN..].to_vec();
    let id = b"linux.exec.v1";
    let at = body.windows(id.len()).position(|it| it == id).unwrap();
    body[at] = b'L';
    let outcome = launch(&Frame::encode(1, &body).unwrap(), |_| {});
    outcome.refused("IdentityMismatch", "h_l");
}

fn a_root_that_is_closed_is_a_fault_and_one_that_is_no_directory_a_mismatch() {
    let outcome = launch(VERSION_1_FRAMES[1], |host| {
        host.fds.remove(&22);
    });
    outcome.faulted("slot 22");
    let outcome =
        launch(VERSION_1_FRAMES[1], |host| host.slot(22, DescriptorRole::ReadRoot, "/etc/passwd"));
    outcome.refused("HandleMismatch", "slot 22");
}

fn main() -> ExitCode {
    const LANDLOCK: Need = Need::Mechanism("linux.landlock.apply.v1");
    const SECCOMP: Need = Need::Mechanism("linux.seccomp.apply.v1");
    const NETNS: Need = Need::Mechanism("linux.netns.enter.v1");
    run(tests![
        the_states_and_notes_are_those_of_version_1: [LANDLOCK, SECCOMP, NETNS],
        every_confinement_that_is_asked_for_is_in_force_and_no_other: [LANDLOCK, SECCOMP, NETNS],
        a_lowering_that_is_not_what_h_l_names_is_refused: [],
        a_root_that_is_closed_is_a_fault_and_one_that_is_no_directory_a_mismatch: [LANDLOCK],
    ])
}
