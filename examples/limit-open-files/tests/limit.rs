//! A mechanism from elsewhere works like a built-in one: in the launcher that has it, and in no other.

use limit_open_files::OpenFiles;
use portcullis::{Command, Error, RefusalReason};

const LAUNCHER: &str = env!("CARGO_BIN_EXE_limit-open-files-launcher");

fn limits(command: &mut Command) -> String {
    command.args(["-c", "ulimit -n"]);
    String::from_utf8(command.output().unwrap().stdout).unwrap().trim().to_owned()
}

#[test]
fn the_limit_is_in_force_and_reported() {
    let mut command = Command::new("/bin/sh");
    command.launcher(LAUNCHER).mechanism(&OpenFiles { most: 17 }).unwrap();
    assert_eq!(limits(&mut command), "17");
    // The control.
    assert_ne!(limits(Command::new("/bin/sh").launcher(LAUNCHER)), "17");
}

#[test]
fn it_refuses_by_name_what_it_cannot_mean() {
    let mut command = Command::new("/bin/true");
    let error =
        command.launcher(LAUNCHER).mechanism(&OpenFiles { most: 1 }).unwrap().spawn().unwrap_err();
    assert!(matches!(error, Error::Refused { reason: RefusalReason::PlanInvalid, .. }), "{error}");
}

#[test]
fn the_standard_launcher_does_not_have_it() {
    let error =
        Command::new("/bin/true").mechanism(&OpenFiles { most: 17 }).unwrap().spawn().unwrap_err();
    let expected = RefusalReason::MissingPrimitive;
    assert!(matches!(error, Error::Refused { reason, .. } if reason == expected), "{error}");
}

#[test]
fn the_launcher_lists_it_among_its_mechanisms() {
    let listed = portcullis::mechanisms(Some(LAUNCHER.as_ref())).unwrap();
    let found = listed.iter().find(|it| it.id == "example.files.limit.v1").unwrap();
    assert!(found.is_supported());
    assert_eq!(listed.len(), 8);
}
