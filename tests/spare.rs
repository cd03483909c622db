//! A resident launcher's children that are made ahead: each is one launch's, as if it had been made for it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command as Unconfined, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use portcullis::{Command, Resident};
use portcullis_core::descriptor::DescriptorRole;
use portcullis_mechanisms as _;
use portcullis_tests::{
    Asked, Host, Need, Outcome, Resident as Raw, Signal, becomes, cgroup2, children, is_gone,
    launcher, pid, read_proc, run, send, tests, waiting_children,
};
use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;
use tempfile::TempDir;

const TEST_LAUNCHER: &str = env!("CARGO_BIN_EXE_test-launcher");

/// Longer than it takes until a child is made ahead.
const LONG: Duration = Duration::from_millis(50);

/// The child that a launcher makes ahead for a launch like its last one.
fn spare_of(launcher: u32) -> u32 {
    assert!(becomes(|| !waiting_children(launcher).is_empty()), "none is made");
    waiting_children(launcher)[0]
}

/// A host in namespaces of its own.
fn plain() -> Host {
    let mut host = Host::default();
    host.schedule("linux.userns.enter.v1", &());
    host
}

/// One whose workload's shell says which process it is, and which its parent, and then `more`.
fn host(more: &str) -> Host {
    let mut host = plain();
    host.script(&format!("echo $$ $PPID; {more}"));
    host
}

/// The workload's process by its own word, and what else it said.
fn said(outcome: &Outcome, launcher: u32) -> (u32, String) {
    outcome.succeeded();
    let (pids, rest) = outcome.stdout.split_once('\n').unwrap();
    let (pid, parent) = pids.split_once(' ').unwrap();
    assert_eq!(parent, launcher.to_string());
    (pid.parse().unwrap(), rest.to_owned())
}

fn is_noted(outcome: &Outcome) -> bool {
    outcome.transcript().value("child") == Some("spare")
}

fn the_next_launch_of_its_kind_takes_it_however_it_is_told() {
    let resident = Raw::start();
    let first = resident.run(host(":"));
    said(&first, resident.id());
    assert!(!is_noted(&first), "{first:?}");
    for at_end in [false, true, false, true] {
        let spare = spare_of(resident.id());
        let (asked, release) = resident.ask_in_writes(host("read end"), at_end);
        drop(release);
        let outcome = asked.end();
        assert_eq!(said(&outcome, resident.id()).0, spare);
        assert!(is_noted(&outcome), "{outcome:?}");
    }
}

/// What the maps of a process are, and its network: what another process sees of them.
fn namespaces(pid: u32) -> (String, Vec<String>) {
    let devices = read_proc(pid, "net/dev").lines().count();
    let maps = ["uid_map", "gid_map", "setgroups"].map(|file| read_proc(pid, file));
    let kinds = ["user", "net"];
    let links = kinds.map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap());
    let links = links.iter().map(|link| link.to_string_lossy().into_owned()).collect();
    (format!("{devices} {maps:?}"), links)
}

fn its_namespaces_are_as_new_as_any() {
    let resident = Raw::start();
    let mut running: Vec<Asked> = Vec::new();
    let (mut like, mut own) = (BTreeSet::new(), BTreeSet::new());
    own.extend(namespaces(std::process::id()).1);
    for turn in 1..5 {
        let mut host = Host::default();
        host.everything();
        host.script("exec sleep 600");
        let spare = (turn > 1).then(|| spare_of(resident.id()));
        let mut asked = resident.ask(host);
        let pid = asked.pid();
        assert!(spare.is_none_or(|spare| spare == pid));
        let (seen, links) = namespaces(pid);
        like.insert(seen);
        own.extend(links);
        assert_eq!(own.len(), 2 + 2 * turn, "{own:?}");
        running.push(asked);
    }
    assert_eq!(like.len(), 1, "{like:?}");
}

fn a_launch_of_another_kind_does_not_take_it() {
    let resident = Raw::start();
    let id = |uid: u32| {
        let mut host = Host::default();
        host.script("echo $$ $PPID; id -u");
        host.schedule("linux.userns.enter.v1", &json!({"uid": uid, "gid": uid}));
        let outcome = resident.run(host);
        (said(&outcome, resident.id()), is_noted(&outcome))
    };
    assert!(matches!(id(7), ((_, uid), false) if uid == "7\n"));
    let first = spare_of(resident.id());
    assert!(matches!(id(8), ((_, uid), false) if uid == "8\n"));
    assert!(becomes(|| waiting_children(resident.id()).len() == 2));
    assert_eq!(id(7), ((first, "7\n".to_owned()), true));
    assert!(matches!(id(8), ((_, uid), true) if uid == "8\n"));
    for uid in 9..20 {
        id(uid);
        sleep(Duration::from_millis(5));
    }
    assert!(becomes(|| waiting_children(resident.id()).len() == 4));
    sleep(LONG);
    assert_eq!(waiting_children(resident.id()).len(), 4);
}

fn one_that_was_killed_or_stopped_meanwhile_is_not_taken() {
    let resident = Raw::start();
    resident.run(plain()).succeeded();
    // What would end a launch of its own, had it been sent to that, does not wait for it either.
    for (signal, state) in [(Signal::KILL, 'Z'), (Signal::INT, 'Z'), (Signal::STOP, 'T')] {
        let spare = spare_of(resident.id());
        send(spare, signal);
        assert!(becomes(|| read_proc(spare, "stat").contains(&format!(") {state} "))));
        let outcome = resident.run(plain());
        outcome.succeeded();
        assert!(!is_noted(&outcome) && is_gone(spare), "{signal:?}: {outcome:?}");
    }
}

fn it_ends_with_its_launcher() {
    let launched = || {
        let resident = Raw::start();
        resident.run(plain()).succeeded();
        let spare = spare_of(resident.id());
        (resident, spare)
    };
    let (resident, spare) = launched();
    assert_eq!(resident.end(), Some(0));
    assert!(is_gone(spare));
    let (resident, spare) = launched();
    send(resident.id(), Signal::KILL);
    assert!(becomes(|| is_gone(spare)));
}

/// A cgroup, which goes when it is dropped: nothing may be left in it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Self {
        let name = format!("portcullis-test-{name}-{}", std::process::id());
        let path = cgroup2().unwrap().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn enter(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        assert!(becomes(|| fs::remove_dir(&self.0).is_ok()));
    }
}

/// Nobody who waits for a process is told that it was frozen.
fn one_that_does_not_run_holds_up_its_own_launch_alone() {
    let frozen = Cgroup::new("frozen");
    let freeze = |frozen: &Cgroup, whether: &str| {
        fs::write(frozen.0.join("cgroup.freeze"), whether).unwrap();
    };
    let resident = Raw::start();
    for (at_end, is_dropped) in [(false, false), (true, false), (false, true), (true, true)] {
        resident.run(plain()).succeeded();
        let spare = spare_of(resident.id());
        frozen.enter(spare);
        freeze(&frozen, "1");
        let (waits, release) = resident.ask_in_writes(host(":"), at_end);
        for _ in 0..10 {
            resident.run(plain()).succeeded();
            sleep(Duration::from_millis(2));
        }
        if is_dropped {
            drop(waits);
            assert!(becomes(|| is_gone(spare)), "who drops it has it killed");
        } else {
            freeze(&frozen, "0");
            assert_eq!(said(&waits.end(), resident.id()).0, spare);
        }
        freeze(&frozen, "0");
        drop(release);
    }
    // Of a launch that was kept it has the fds that it needs, though that is kept no longer.
    let kept = resident.keep(1, host(":"));
    let spare = spare_of(resident.id());
    frozen.enter(spare);
    freeze(&frozen, "1");
    let (waits, release) = resident.ask_kept(&kept);
    resident.forget(&kept);
    for number in 2..6 {
        resident.keep(number, plain());
    }
    sleep(LONG);
    freeze(&frozen, "0");
    drop(release);
    assert_eq!(said(&waits.end(), resident.id()).0, spare);
    // Nor does its launcher's end wait for it.
    let spare = spare_of(resident.id());
    frozen.enter(spare);
    freeze(&frozen, "1");
    let waits = resident.ask(plain());
    sleep(LONG);
    assert_eq!(resident.end(), Some(0));
    assert!(is_gone(spare) && !waits.end().ran);
}

fn a_launcher_that_was_moved_to_another_cgroup_has_its_workloads_there() {
    let [before, after] = ["before", "after"].map(Cgroup::new);
    let resident = Raw::start();
    before.enter(resident.id());
    let place = || {
        let outcome = resident.run(host("cat /proc/self/cgroup"));
        (said(&outcome, resident.id()).1, is_noted(&outcome))
    };
    let spares = [(false, &before), (true, &before), (false, &after), (true, &after)];
    for (is_spare, cgroup) in spares {
        let name = cgroup.0.file_name().unwrap().to_str().unwrap();
        cgroup.enter(resident.id());
        let (text, noted) = place();
        assert!(text.contains(name) && noted == is_spare, "{name} {noted}: {text}");
        spare_of(resident.id());
    }
    resident.end();
}

fn limits_that_its_launcher_got_meanwhile_hold() {
    let resident = Raw::start();
    for (limit, is_spare) in [(500, false), (400, false), (400, true), (300, false)] {
        let limits = Rlimit { current: Some(limit), ..getrlimit(Resource::Nofile) };
        prlimit(Some(pid(resident.id())), Resource::Nofile, limits).unwrap();
        let outcome = resident.run(host("ulimit -n"));
        assert_eq!(said(&outcome, resident.id()).1, format!("{limit}\n"));
        assert_eq!(is_noted(&outcome), is_spare);
        spare_of(resident.id());
    }
}

/// A user of whom there is nobody else: `RLIMIT_NPROC` counts all of them.
const LONELY: u32 = 4299;

fn a_launch_that_lacks_the_room_gets_that_of_a_spare() {
    let open = |mut host: Host| {
        host.open_to_all();
        host.script(":");
        host
    };
    // Itself, and one other.
    let mut command = Unconfined::new("prlimit");
    command.arg("--nproc=2").arg(launcher()).current_dir("/");
    let resident = Raw::of(command, Some(LONELY));
    for _ in 0..3 {
        resident.run(open(plain())).succeeded();
        spare_of(resident.id());
        let outcome = resident.run(open(Host::default()));
        outcome.succeeded();
        assert!(!is_noted(&outcome), "{outcome:?}");
    }
}

fn so_does_one_that_lacks_room_for_its_namespaces() {
    // Each user namespace has a limit of its own for those that are made in it.
    let script = "echo 2 >/proc/sys/user/max_user_namespaces && exec \"$0\" \"$@\"";
    let mut command = Unconfined::new("unshare");
    command.args(["-r", "sh", "-c", script]).arg(launcher());
    let resident = Raw::of(command, None);
    let of = |uid: u32, script: &str| {
        let mut host = Host::default();
        host.schedule("linux.userns.enter.v1", &json!({"uid": uid, "gid": uid}));
        host.script(script);
        host
    };
    resident.run(of(1, ":")).succeeded();
    let spare = spare_of(resident.id());
    // Until the kernel has taken down the namespace of the first.
    sleep(5 * LONG);
    let (mut runs, release) = resident.ask_in_writes(of(2, "read end"), false);
    runs.pid();
    assert!(!is_gone(spare));
    resident.run(of(3, ":")).succeeded();
    assert!(is_gone(spare));
    drop(release);
    runs.end().succeeded();
}

fn it_has_the_fds_of_its_launch_alone() {
    let resident = Raw::start();
    let mut others = plain();
    others.script("exec sleep 600");
    let mut running = resident.ask(others);
    running.pid();
    let look = || resident.run(host("ls /proc/self/fd"));
    let first = look();
    let (_, fds) = said(&first, resident.id());
    let spare = spare_of(resident.id());
    let second = look();
    assert_eq!(said(&second, resident.id()), (spare, fds));
}

/// Where a launch of the library's runs, and as which process.
fn place(resident: &Resident, folder: &Path) -> (u32, String) {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "echo $$; pwd -P"]).env("PATH", "/usr/bin:/bin").current_dir(folder);
    command.no_network();
    let output = resident.output(&command.template().unwrap()).unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let (pid, place) = text.trim_end().split_once('\n').unwrap();
    (pid.parse().unwrap(), place.to_owned())
}

fn it_works_where_its_launch_does() {
    let resident = Resident::start().unwrap();
    let folders = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let mut spare = None;
    for folder in folders.iter().cycle().take(4) {
        let folder = folder.path().canonicalize().unwrap();
        let (pid, place) = place(&resident, &folder);
        assert_eq!(place, folder.to_str().unwrap());
        assert!(spare.is_none_or(|spare| spare == pid));
        spare = Some(spare_of(resident.id()));
    }
}

/// Where a launcher can't go back to, no child is made ahead, and nothing else comes of that.
fn without_a_home_there_is_none() {
    let (home, folder) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for path in [home.path(), folder.path()] {
        fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
    }
    let mut command = Unconfined::new(launcher());
    command.current_dir(home.path());
    let resident = Raw::of(command, Some(4242));
    let mut runs = Host::default();
    runs.open_to_all();
    runs.script("read end; exit 7");
    let (mut runs, release) = resident.ask_in_writes(runs, false);
    runs.pid();
    fs::set_permissions(home.path(), PermissionsExt::from_mode(0o000)).unwrap();
    let mut host = plain();
    host.open_to_all();
    host.script("pwd");
    let outcome = resident.run_in(host, folder.path());
    outcome.succeeded();
    assert_eq!(outcome.stdout.trim_end(), folder.path().to_str().unwrap());
    sleep(LONG);
    assert!(waiting_children(resident.id()).is_empty());
    drop(release);
    assert!(runs.end().text.ends_with("# workload exited code=7\n"));
}

/// Outside of its user namespace root's child is not root.
fn one_that_may_not_enter_the_directory_is_not_taken() {
    let resident = Resident::start().unwrap();
    let folder = TempDir::new().unwrap();
    let path = folder.path().canonicalize().unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
    let open = place(&resident, &path);
    let spare = spare_of(resident.id());
    chown(&path, Some(65534), Some(65534)).unwrap();
    let (pid, there) = place(&resident, &path);
    assert!(pid != spare && there == open.1 && there == path.to_str().unwrap());
    chown(&path, Some(0), Some(0)).unwrap();
    assert_eq!(place(&resident, &path), (spare, there));
    // The launcher itself is as it was.
    let powers = |pid| {
        let status = read_proc(pid, "status");
        status.lines().find(|line| line.starts_with("CapEff")).map(str::to_owned)
    };
    assert_eq!(powers(resident.id()), powers(std::process::id()));
}

fn a_launch_into_a_cgroup_has_none() {
    let cgroup = Cgroup::new("entered");
    let resident = Raw::start();
    let place = || {
        let mut host = host("cat /proc/self/cgroup");
        host.slot(11, DescriptorRole::CgroupDir, &cgroup.0);
        host.schedule("linux.cgroup.enter.v1", &());
        let outcome = resident.run(host);
        sleep(LONG);
        (said(&outcome, resident.id()).1, waiting_children(resident.id()))
    };
    let (inside, spares) = place();
    assert!(inside.contains("portcullis-test-entered") && spares.is_empty(), "{inside} {spares:?}");
    assert_eq!(place(), (inside, spares));
}

fn without_namespaces_there_is_none() {
    let resident = Raw::start();
    for _ in 0..2 {
        resident.run(Host::default()).succeeded();
        sleep(LONG);
        assert!(children(resident.id()).is_empty());
    }
}

fn a_mechanism_that_attends_to_a_launch_attends_to_no_spare() {
    let resident = Raw::of(Unconfined::new(TEST_LAUNCHER), None);
    let attended = |id: &str| {
        let mut host = plain();
        host.foreign(TEST_LAUNCHER, id);
        resident.run(host)
    };
    for _ in 0..2 {
        let outcome = attended("test.attend.late.v1");
        outcome.succeeded();
        sleep(LONG);
        assert!(children(resident.id()).is_empty() && !is_noted(&outcome));
    }
    // It fails from its second time on: that of the spare, and then that of a child that is made for a launch.
    attended("test.attend.once.v1").succeeded();
    sleep(LONG);
    assert!(children(resident.id()).is_empty());
    attended("test.attend.once.v1").faulted("attended before");
    resident.run(plain()).succeeded();
    spare_of(resident.id());
}

fn main() -> ExitCode {
    const USERNS: Need = Need::Mechanism("linux.userns.enter.v1");
    const NETNS: Need = Need::Mechanism("linux.netns.enter.v1");
    const LANDLOCK: Need = Need::Mechanism("linux.landlock.apply.v1");
    run(tests![
        the_next_launch_of_its_kind_takes_it_however_it_is_told: [USERNS],
        its_namespaces_are_as_new_as_any: [LANDLOCK, NETNS],
        a_launch_of_another_kind_does_not_take_it: [USERNS],
        one_that_was_killed_or_stopped_meanwhile_is_not_taken: [USERNS],
        it_ends_with_its_launcher: [USERNS],
        one_that_does_not_run_holds_up_its_own_launch_alone: [USERNS, Need::DelegatedCgroup],
        a_launcher_that_was_moved_to_another_cgroup_has_its_workloads_there: [
            USERNS,
            Need::DelegatedCgroup,
        ],
        limits_that_its_launcher_got_meanwhile_hold: [USERNS],
        a_launch_that_lacks_the_room_gets_that_of_a_spare: [USERNS, Need::Root, Need::UtilLinux],
        so_does_one_that_lacks_room_for_its_namespaces: [USERNS, Need::UtilLinux],
        it_has_the_fds_of_its_launch_alone: [USERNS],
        it_works_where_its_launch_does: [NETNS],
        without_a_home_there_is_none: [USERNS, Need::Root],
        one_that_may_not_enter_the_directory_is_not_taken: [NETNS, Need::Root],
        a_launch_into_a_cgroup_has_none: [USERNS, Need::DelegatedCgroup],
        without_namespaces_there_is_none: [],
        a_mechanism_that_attends_to_a_launch_attends_to_no_spare: [USERNS],
    ])
}
