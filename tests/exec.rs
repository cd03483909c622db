//! The exec: what runs, what it is told of itself, a digest that is pinned, and each way to fail by its own
//! name.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use portcullis::mechanism::exec::FileDigest;
use portcullis::mechanism::userns::UserNamespace;
use portcullis::{Command, Error, OpenError, Output, RefusalReason, Stdio};
use portcullis_core::Params;
use portcullis_core::descriptor::DescriptorRole;
use portcullis_tests::{Host, Need, VERSION_1_FRAMES, launcher, run, tests, write_program};
use rustix::fs::{Mode, OFlags, SealFlags as Seals, open};
use serde_json::json;
use tempfile::TempDir;

const EXEC: &str = "linux.exec.v1";
const USERNS: Need = Need::Mechanism("linux.userns.enter.v1");
const LANDLOCK: Need = Need::Mechanism("linux.landlock.apply.v1");

/// A program in a folder of its own.
struct Program {
    path: PathBuf,
    contents: Vec<u8>,
    _folder: TempDir,
}

impl Program {
    fn new(contents: impl Into<Vec<u8>>) -> Self {
        let folder = TempDir::new().unwrap();
        let (path, contents) = (folder.path().join("program"), contents.into());
        write_program(&path, &contents);
        Self { path, contents, _folder: folder }
    }

    fn digest(&self) -> FileDigest {
        FileDigest::of(&self.contents)
    }
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{error}"))
}

/// The errno of an exec that failed, and what is said of it.
fn failed(command: &mut Command) -> (i32, String) {
    match command.stderr(Stdio::null()).spawn() {
        Err(Error::Exec { source, detail, .. }) => (source.raw_os_error().unwrap(), detail),
        other => panic!("{other:?}"),
    }
}

fn a_file_that_is_no_program_is_told_as_that() {
    let garbage = Program::new("garbage");
    let (errno, detail) = failed(&mut Command::new(&garbage.path));
    assert_eq!(errno, 8);
    assert!(detail.contains("no program for this machine"), "{detail}");
    let shebang = Program::new("#!/bin/sh\n:");
    assert!(Command::new(&shebang.path).status().unwrap().success());
}

fn a_file_without_an_execute_bit_is_told_as_that() {
    let program = Program::new(fs::read("/bin/true").unwrap());
    assert!(Command::new(&program.path).status().unwrap().success());
    fs::set_permissions(&program.path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = Command::new(&program.path).status().unwrap_err();
    let Error::Policy(OpenError::Path { what: "program", source, .. }) = &error else {
        panic!("{error:?}")
    };
    assert_eq!(source.raw_os_error(), Some(13));
    // And by a launcher that is handed it all the same.
    let mut host = Host::default();
    host.body.descriptor_table.clear();
    host.slot(Host::EXE, DescriptorRole::TargetExe, &program.path);
    let outcome = host.run();
    outcome.faulted("# child errno=13\n");
    outcome.faulted("not executable");
}

fn a_file_on_a_noexec_mount_is_told_as_that() {
    let folder = TempDir::new().unwrap();
    // A mount of another process's, in which it puts a program and waits.
    let script = "mount -t tmpfs -o noexec none \"$1\" && cp /bin/true \"$1\" && echo && read line";
    let mut owner = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "/bin/sh", "-c", script, "sh"])
        .arg(folder.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    owner.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let path = format!("/proc/{}/root{}/true", owner.id(), folder.path().display());
    let path = Path::new(&path);
    let mut host = Host::default();
    host.body.descriptor_table.clear();
    host.slot(Host::EXE, DescriptorRole::TargetExe, path);
    host.run().faulted("# child errno=13\n");
    // The copy that a digest is verified of would be on another mount.
    let mut host = readable_at_exe(path);
    let digest = FileDigest::of(&fs::read(path).unwrap()).to_string();
    host.entry(EXEC).params = Params::of(&json!({"digest": digest})).unwrap();
    host.run().refused("HandleMismatch", "noexec");
    drop(owner.stdin.take());
    owner.wait().unwrap();
}

fn a_file_that_another_process_writes_to_is_told_as_that() {
    let program = Program::new(fs::read("/bin/true").unwrap());
    let mut writer = std::process::Command::new("/bin/sh")
        .args(["-c", "exec 9>>\"$1\"; echo; read line", "sh"])
        .arg(&program.path)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    writer.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let (errno, detail) = failed(&mut Command::new(&program.path));
    assert_eq!(errno, 26);
    assert!(detail.contains("open for writing"), "{detail}");
    // What is hashed and executed is a copy, which nobody writes to.
    let pinned = Command::new(&program.path).digest(program.digest()).status();
    assert!(pinned.unwrap().success());
    drop(writer.stdin.take());
    writer.wait().unwrap();
    assert!(Command::new(&program.path).status().unwrap().success());
}

fn an_interpreter_that_is_not_there_is_told_as_that() {
    let script = Program::new("#!/no/such/interpreter\n");
    let (errno, detail) = failed(&mut Command::new(&script.path));
    assert_eq!(errno, 2);
    assert!(detail.contains("interpreter"), "{detail}");
    let mut contents = fs::read("/bin/true").unwrap();
    let loader = b"/ld-linux";
    let at = contents.windows(loader.len()).position(|it| it == loader).expect("a dynamic program");
    contents[at..at + loader.len()].copy_from_slice(b"/no-linux");
    let program = Program::new(contents);
    let (errno, detail) = failed(&mut Command::new(&program.path));
    assert_eq!(errno, 2);
    assert!(detail.contains("interpreter"), "{detail}");
}

fn a_script_that_the_plan_does_not_call_one_is_told_as_that() {
    let script = Program::new("#!/bin/sh\n:");
    let mut host = Host::default();
    host.body.descriptor_table.clear();
    host.slot(Host::EXE, DescriptorRole::TargetExe, &script.path);
    host.run().faulted("it is a script, and the plan does not say so");
}

fn programs_run_whether_they_are_linked_statically_or_dynamically() {
    let version = output(Command::new(launcher()).arg("--version"));
    assert!(version.stdout.starts_with(b"portcullis-launcher "));
    assert_eq!(output(Command::new("echo").arg("dynamic")).stdout, b"dynamic\n");
    let elf = fs::read(launcher()).unwrap();
    assert!(!elf.windows(9).any(|it| it == b"/ld-linux" || it == b"/ld-musl-"), "it is dynamic");
}

fn what_a_program_is_told_as_its_name_is_not_its_file() {
    let script = "tr '\\0' '\\n' </proc/$$/cmdline | head -n 1; readlink /proc/$$/exe";
    let named = |name: Option<&str>| {
        let mut command = Command::new("/bin/sh");
        if let Some(name) = name {
            command.arg0(name);
        }
        let output = output(command.args(["-c", script]).env("PATH", "/usr/bin:/bin"));
        let text = String::from_utf8(output.stdout).unwrap();
        let (name, file) = text.trim().split_once('\n').unwrap();
        (name.to_owned(), file.to_owned())
    };
    let (own, file) = named(None);
    assert_eq!(own, "/bin/sh");
    assert_eq!(named(Some("another name")), ("another name".to_owned(), file));
}

fn a_script_has_the_fd_that_it_is_read_from_and_what_it_runs_has_it_too() {
    let script = Program::new("#!/bin/sh\necho $0; /bin/cat $0\n");
    let output = output(&mut Command::new(&script.path));
    let text = String::from_utf8(output.stdout).unwrap();
    let (name, read_by_its_child) = text.split_once('\n').unwrap();
    assert!(name.starts_with("/dev/fd/"), "{name}");
    assert_eq!(read_by_its_child.as_bytes(), script.contents);
}

fn a_pinned_program_runs_from_a_copy_that_nobody_can_change() {
    let shell = Program::new(fs::read("/bin/sh").unwrap());
    let start = |pinned: bool| {
        let mut command = Command::new(&shell.path);
        if pinned {
            command.digest(shell.digest());
        }
        command.args(["-c", "echo; read line"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{error}"));
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        child
    };
    let exe = |pid: u32| format!("/proc/{pid}/exe");
    let control = start(false);
    assert_eq!(fs::read_link(exe(control.id())).unwrap(), shell.path.canonicalize().unwrap());
    let child = start(true);
    let exe = exe(child.id());
    assert_eq!(fs::read_link(&exe).unwrap(), Path::new("/memfd:program (deleted)"));
    assert_eq!(fs::read(&exe).unwrap(), shell.contents);
    let image = fs::File::open(&exe).unwrap();
    let seals = rustix::fs::fcntl_get_seals(&image).unwrap();
    assert!(seals.contains(Seals::SEAL | Seals::SHRINK | Seals::GROW | Seals::WRITE), "{seals:?}");
    let mode = image.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o555);
    let fds = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().count();
    assert_eq!(fds, 3, "the copy's fd does not reach the workload");
}

fn another_digest_is_refused_and_both_are_named() {
    let program = Program::new(fs::read("/bin/true").unwrap());
    let pinned = FileDigest::of(b"something else");
    let error = Command::new(&program.path).digest(pinned).spawn().unwrap_err();
    let Error::Refused { reason, detail, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*reason, RefusalReason::HandleMismatch);
    for digest in [pinned, program.digest()] {
        assert!(detail.contains(&digest.to_string()), "{detail}");
    }
}

fn a_file_that_changes_after_it_was_opened_is_refused() {
    let program = Program::new(fs::read("/bin/true").unwrap());
    let mut host = readable_at_exe(&program.path);
    host.entry(EXEC).params = Params::of(&json!({"digest": program.digest().to_string()})).unwrap();
    // In place: the fd is of the same file.
    write_program(&program.path, b"#!/bin/sh\necho changed\n");
    host.run().refused("HandleMismatch", &program.digest().to_string());
}

fn a_pinned_script_is_read_from_the_copy() {
    let script = Program::new("#!/bin/sh\necho script \"$1\"\n");
    let mut command = Command::new(&script.path);
    let output = output(command.digest(script.digest()).arg("runs"));
    assert_eq!(output.stdout, b"script runs\n");
    let other = Command::new(&script.path).digest(FileDigest::of(b"")).spawn();
    assert!(matches!(other, Err(Error::Refused { .. })));
}

fn a_pinned_program_needs_no_grant_of_its_own() {
    let program = Program::new(fs::read(launcher()).unwrap());
    let mut command = Command::new(&program.path);
    command.arg("--version").read("/usr");
    assert_eq!(failed(&mut command).0, 13);
    command.stderr(Stdio::piped());
    assert!(output(command.digest(program.digest())).status.success());
}

/// A host whose executable is open to be read.
fn readable_at_exe(path: &Path) -> Host {
    let mut host = Host::default();
    host.body.descriptor_table.clear();
    host.slot(Host::EXE, DescriptorRole::TargetExe, path);
    let fd = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    host.fds.insert(Host::EXE, fd);
    host
}

fn what_can_not_be_verified_is_refused() {
    let digest = FileDigest::of(&fs::read("/bin/sh").unwrap()).to_string();
    let params = Params::of(&json!({"digest": digest})).unwrap();
    let mut host = readable_at_exe(Path::new("/bin/sh"));
    host.entry(EXEC).params = params.clone();
    host.run().succeeded();
    // An O_PATH fd, as executables are otherwise handed over.
    let mut host = Host::default();
    host.entry(EXEC).params = params.clone();
    host.run().refused("HandleMismatch", "O_RDONLY");
    // The copy could be executed; the file may not be.
    let program = Program::new(fs::read("/bin/sh").unwrap());
    fs::set_permissions(&program.path, fs::Permissions::from_mode(0o444)).unwrap();
    let mut host = readable_at_exe(&program.path);
    host.entry(EXEC).params = params;
    host.run().refused("HandleMismatch", "may not be executed");
    let mut host = Host::default();
    host.entry(EXEC).params = Params::of(&json!({"digest": "sha256:00"})).unwrap();
    host.run().refused("PlanInvalid", "blake3:");
}

fn a_program_that_can_not_be_read_can_not_be_pinned() {
    let program = Program::new(fs::read("/bin/true").unwrap());
    fs::set_permissions(&program.path, fs::Permissions::from_mode(0o111)).unwrap();
    let launched = Command::new(&program.path).digest(program.digest()).spawn();
    if rustix::process::geteuid().is_root() {
        assert!(launched.is_ok());
        return;
    }
    let error = launched.unwrap_err().to_string();
    assert!(error.contains("must be read"), "{error}");
}

/// The copy is executed by who may execute the file, and not with its bits.
fn the_copys_permissions_are_the_files_without_set_user_id() {
    let id = Program::new(fs::read("/usr/bin/id").unwrap());
    let nobody = rustix::fs::Uid::from_raw(65534);
    rustix::fs::chown(&id.path, Some(nobody), None).unwrap();
    fs::set_permissions(&id.path, fs::Permissions::from_mode(0o4755)).unwrap();
    let said = output(Command::new(&id.path).arg("-u").digest(id.digest())).stdout;
    assert_eq!(said, b"0\n");
}

fn where_no_memfd_can_be_executed_a_digest_is_refused_with_the_setting() {
    let program = Program::new(fs::read("/bin/sh").unwrap());
    // The setting is of a pid namespace, and of those below it.
    let wrapper = Program::new(format!(
        "#!/bin/sh\nexec unshare --pid --fork /bin/sh -c \
         'echo 2 >/proc/sys/vm/memfd_noexec && exec {}'\n",
        launcher().display()
    ));
    let mut host = readable_at_exe(&program.path);
    host.entry(EXEC).params = Params::of(&json!({"digest": program.digest().to_string()})).unwrap();
    host.launcher.clone_from(&wrapper.path);
    host.variables.insert("PATH", Some("/usr/bin:/bin".into()));
    host.run().refused("MissingPrimitive", "vm.memfd_noexec");
}

const ROOT: &str = "workload_runs_as=root";

fn a_workload_that_is_root_is_told_of() {
    let noted = |command: &mut Command| {
        let report = output(command).report;
        report.transcript.notes().iter().any(|note| note == ROOT)
    };
    let root = rustix::process::geteuid().is_root();
    assert_eq!(noted(&mut Command::new("true")), root);
    // A namespace that maps root's own id leaves it root outside.
    assert_eq!(noted(Command::new("true").mechanism(&UserNamespace::default()).unwrap()), root);
}

fn a_workload_of_version_1_that_is_root_is_told_of_too() {
    let root = rustix::process::geteuid().is_root();
    for frame in [VERSION_1_FRAMES[0], VERSION_1_FRAMES[3]] {
        let transcript = Host::version_1(frame, "/bin/true").run().transcript();
        assert_eq!(transcript.notes().iter().any(|note| note == ROOT), root);
    }
}

fn main() -> ExitCode {
    const SECCOMP: Need = Need::Mechanism("linux.seccomp.apply.v1");
    const NETNS: Need = Need::Mechanism("linux.netns.enter.v1");
    run(tests![
        a_file_that_is_no_program_is_told_as_that: [],
        a_file_without_an_execute_bit_is_told_as_that: [],
        a_file_on_a_noexec_mount_is_told_as_that: [USERNS, Need::UtilLinux],
        a_file_that_another_process_writes_to_is_told_as_that: [],
        an_interpreter_that_is_not_there_is_told_as_that: [],
        a_script_that_the_plan_does_not_call_one_is_told_as_that: [],
        programs_run_whether_they_are_linked_statically_or_dynamically: [],
        what_a_program_is_told_as_its_name_is_not_its_file: [],
        a_script_has_the_fd_that_it_is_read_from_and_what_it_runs_has_it_too: [],
        a_pinned_program_runs_from_a_copy_that_nobody_can_change: [],
        another_digest_is_refused_and_both_are_named: [],
        a_file_that_changes_after_it_was_opened_is_refused: [],
        a_pinned_script_is_read_from_the_copy: [],
        a_pinned_program_needs_no_grant_of_its_own: [LANDLOCK],
        what_can_not_be_verified_is_refused: [],
        a_program_that_can_not_be_read_can_not_be_pinned: [],
        the_copys_permissions_are_the_files_without_set_user_id: [Need::Root],
        where_no_memfd_can_be_executed_a_digest_is_refused_with_the_setting:
            [Need::Root, Need::UtilLinux],
        a_workload_that_is_root_is_told_of: [USERNS],
        a_workload_of_version_1_that_is_root_is_told_of_too: [LANDLOCK, SECCOMP, NETNS],
    ])
}
