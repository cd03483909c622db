//! The workload's cgroup: its limits hold, what is left in it ends with the workload, and it goes, however
//! the launch does. The oracle is the cgroup file system, and `/proc`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};

use portcullis::mechanism::cgroup::Cgroup;
use portcullis::mechanism::cgroup_limit::{CgroupLimit, CpuMax};
use portcullis::mechanism::seccomp::Seccomp;
use portcullis::{Child, Command, Error, Output, RefusalReason, Stdio};
use portcullis_core::descriptor::DescriptorRole;
use portcullis_tests::{Host, Need, Signal, cgroup2, read_proc, run, send, tests, write_program};
use serde_json::json;
use tempfile::TempDir;

const LIMIT: Need = Need::Mechanism("linux.cgroup.limit.v1");
const SECCOMP: Need = Need::Mechanism("linux.seccomp.apply.v1");
const MEMORY: Need = Need::CgroupController("memory");
const PIDS: Need = Need::CgroupController("pids");
const CPU: Need = Need::CgroupController("cpu");

/// A cgroup to make others in, which goes when it is dropped: nothing may be left in it.
struct Parent(PathBuf);

impl Parent {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("portcullis-test-limit-{}-{count}", std::process::id());
        let path = cgroup2().unwrap().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// One that has a controller to give.
    fn with(controller: &str) -> Self {
        let root = cgroup2().unwrap().join("cgroup.subtree_control");
        fs::write(root, format!("+{controller}")).unwrap();
        Self::new()
    }

    fn leaves(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).collect()
    }

    fn policy(&self) -> CgroupLimit {
        CgroupLimit { parent: self.0.as_path().into(), ..CgroupLimit::default() }
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        for leaf in self.leaves() {
            let _ = fs::write(leaf.join("cgroup.kill"), "1");
            let _ = fs::remove_dir(leaf);
        }
        let removed = fs::remove_dir(&self.0);
        assert!(removed.is_ok() || std::thread::panicking(), "{}: {removed:?}", self.0.display());
    }
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).env("PATH", "/usr/bin:/bin");
    command
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{error}"))
}

/// A shell that waits until it is dropped, for others to look at.
fn waiting(confine: impl FnOnce(&mut Command)) -> Child {
    let mut command = shell("echo; read line");
    confine(&mut command);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut byte = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
    child
}

/// A shell that starts a daemon, which writes its pid and stays, and then ends.
fn daemonizing(pid_file: &Path) -> Command {
    let file = pid_file.display();
    shell(&format!(
        "(setsid sh -c 'echo $$ >{file}.new; mv {file}.new {file}; exec sleep 1000' \
         </dev/null >/dev/null 2>&1 &); while ! [ -e {file} ]; do :; done"
    ))
}

/// Whether a process runs: one that nobody has waited for yet does not.
fn runs(pid: u32) -> bool {
    let status = read_proc(pid, "status");
    !status.is_empty() && !status.contains("State:\tZ") && !status.contains("State:\tX")
}

fn refused(command: &mut Command, expected: RefusalReason, part: &str) {
    match command.output() {
        Err(Error::Refused { reason, detail, .. }) => {
            assert_eq!(reason, expected, "{detail}");
            assert!(detail.contains(part), "{part:?} is not in {detail:?}");
        }
        other => panic!("{part}: {other:?}"),
    }
}

fn the_workload_is_born_in_a_leaf_that_goes_when_it_has_ended() {
    let parent = Parent::new();
    let own = |child: &Child| {
        let cgroups = read_proc(child.id(), "cgroup");
        cgroups.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
    };
    let within = parent.0.file_name().unwrap().to_str().unwrap().to_owned() + "/portcullis-";
    assert!(!own(&waiting(|_| {})).contains(&within));
    let mut child = waiting(|command| {
        command.mechanism(&parent.policy()).unwrap();
    });
    assert!(own(&child).contains(&within), "{}", own(&child));
    let [leaf] = &parent.leaves()[..] else { panic!("{:?}", parent.leaves()) };
    assert_eq!(
        fs::read_to_string(leaf.join("cgroup.procs")).unwrap().trim(),
        child.id().to_string()
    );
    let name = leaf.file_name().unwrap().to_str().unwrap();
    assert_eq!(child.transcript().value("cgroup_limits"), Some(name));
    child.wait().unwrap();
    assert_eq!(parent.leaves(), [] as [PathBuf; 0]);
    assert_eq!(child.transcript().value("teardown"), Some("linux.cgroup.limit.v1"));
}

fn what_outlives_the_workload_is_killed_with_its_cgroup() {
    let (parent, folder) = (Parent::new(), TempDir::new().unwrap());
    let daemon = |name: &str, confine: &dyn Fn(&mut Command)| -> u32 {
        let file = folder.path().join(name);
        let mut command = daemonizing(&file);
        confine(&mut command);
        assert!(output(&mut command).status.success());
        fs::read_to_string(&file).unwrap().trim().parse().unwrap()
    };
    let control = daemon("control", &|_| {});
    assert!(runs(control));
    send(control, Signal::KILL);
    let confined = daemon("confined", &|command| {
        command.mechanism(&parent.policy()).unwrap();
    });
    assert!(!runs(confined));
    assert_eq!(parent.leaves(), [] as [PathBuf; 0]);
}

fn cgroups_that_the_workload_makes_in_its_own_go_too() {
    let (parent, folder) = (Parent::new(), TempDir::new().unwrap());
    let file = folder.path().join("pid");
    let (root, path) = (cgroup2().unwrap(), file.display().to_string());
    let script = format!(
        "own={}$(sed -n s/^0:://p /proc/self/cgroup) && mkdir -p $own/a/b $own/c && \
         (setsid sh -c 'echo $$ >'$own'/a/b/cgroup.procs && echo $$ >{path}.new && \
         mv {path}.new {path}; exec sleep 1000' </dev/null >/dev/null 2>&1 &); \
         while ! [ -e {path} ]; do :; done; cat $own/a/b/cgroup.procs",
        root.display()
    );
    let output = output(shell(&script).mechanism(&parent.policy()).unwrap());
    let pid = fs::read_to_string(&file).unwrap();
    // The mv that it started may be there too, on its way out.
    let members = String::from_utf8_lossy(&output.stdout);
    assert!(members.lines().any(|member| member == pid.trim()), "it was in a cgroup of its own");
    assert!(!runs(pid.trim().parse().unwrap()));
    assert_eq!(parent.leaves(), [] as [PathBuf; 0]);
}

fn a_workload_that_is_killed_leaves_no_leaf() {
    let parent = Parent::new();
    let mut child = waiting(|command| {
        command.mechanism(&parent.policy()).unwrap();
    });
    assert_eq!(parent.leaves().len(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(parent.leaves(), [] as [PathBuf; 0]);
}

/// The op that makes the leaf comes before what refuses.
fn a_launch_that_is_refused_leaves_no_leaf() {
    let parent = Parent::new();
    let deny = Seccomp { deny: vec!["execveat".into()], ..Seccomp::default() };
    let mut command = shell(":");
    command.mechanism(&parent.policy()).unwrap().mechanism(&deny).unwrap();
    refused(&mut command, RefusalReason::PlanInvalid, "execveat");
    assert_eq!(parent.leaves(), [] as [PathBuf; 0]);
}

fn a_launch_that_faults_leaves_no_leaf() {
    let (parent, folder) = (Parent::new(), TempDir::new().unwrap());
    let script = folder.path().join("script");
    write_program(&script, b"#!/no/such/interpreter\n");
    let error = Command::new(&script).mechanism(&parent.policy()).unwrap().output().unwrap_err();
    // The child was in it.
    let Error::Exec { report, .. } = error else { panic!("{error}") };
    assert!(report.transcript.value("cgroup_limits").is_some());
    assert_eq!(parent.leaves(), [] as [PathBuf; 0]);
}

fn an_explanation_leaves_no_leaf() {
    let parent = Parent::new();
    let words = shell(":").mechanism(&parent.policy()).unwrap().explain().unwrap();
    assert!(words.contains("into the cgroup of fd"), "{words}");
    assert_eq!(parent.leaves(), [] as [PathBuf; 0]);
}

fn a_controller_that_is_not_delegated_is_refused_by_name() {
    // Whatever the outer one has, it gives nothing to those in it.
    let outer = Parent::new();
    let inner = Parent(outer.0.join("inner"));
    fs::create_dir(&inner.0).unwrap();
    for (policy, controller) in [
        (CgroupLimit { memory_max: Some(1 << 30), ..inner.policy() }, "memory"),
        (CgroupLimit { pids_max: Some(10), ..inner.policy() }, "pids"),
        (CgroupLimit { cpu_weight: Some(10), ..inner.policy() }, "cpu"),
        (CgroupLimit { io_max: vec!["8:0 rbps=max".into()], ..inner.policy() }, "io"),
    ] {
        let mut command = shell(":");
        let part = format!("the controller {controller}, and it is not in the parent's");
        refused(command.mechanism(&policy).unwrap(), RefusalReason::MissingPrimitive, &part);
        assert_eq!(inner.leaves(), [] as [PathBuf; 0]);
    }
    drop(inner);
}

fn a_parent_that_is_not_delegated_is_refused_with_its_state() {
    let parent = Parent::new();
    let mut host = Host::default();
    host.user = Some(65534);
    host.slot(11, DescriptorRole::CgroupDir, &parent.0);
    host.schedule("linux.cgroup.limit.v1", &());
    host.run().refused("MissingPrimitive", "(uid 0, gid 0, mode 755), as uid 65534");
}

fn a_launcher_that_may_not_leave_its_cgroup_is_refused() {
    let parent = Parent::new();
    std::os::unix::fs::chown(&parent.0, Some(65534), Some(65534)).unwrap();
    let mut host = Host::default();
    host.user = Some(65534);
    host.slot(11, DescriptorRole::CgroupDir, &parent.0);
    host.schedule("linux.cgroup.limit.v1", &());
    host.run().refused("MissingPrimitive", "the nearest cgroup that holds both");
}

fn a_folder_that_is_no_cgroup_is_refused() {
    let folder = TempDir::new().unwrap();
    let policy = CgroupLimit { parent: folder.path().into(), ..CgroupLimit::default() };
    let mut command = shell(":");
    refused(command.mechanism(&policy).unwrap(), RefusalReason::HandleMismatch, "cgroup2");
    let mut host = Host::default();
    host.schedule("linux.cgroup.limit.v1", &());
    host.run().refused("HandleMismatch", "CgroupDir");
    let mut host = Host::default();
    host.schedule("linux.cgroup.limit.v1", &json!({"cpu_weight": 0}));
    host.run().refused("PlanInvalid", "cpu_weight");
}

fn a_process_is_born_in_one_cgroup_only() {
    let mut host = Host::default();
    host.slot(11, DescriptorRole::CgroupDir, "/");
    host.schedule("linux.cgroup.limit.v1", &());
    host.schedule("linux.cgroup.enter.v1", &());
    host.run().refused("PlanInvalid", "a process is born in one cgroup");
    let (parent, folder) =
        (CgroupLimit { parent: "/".into(), ..CgroupLimit::default() }, "/".into());
    let mut command = shell(":");
    command.mechanism(&Cgroup { path: folder }).unwrap().mechanism(&parent).unwrap();
    refused(&mut command, RefusalReason::PlanInvalid, "CgroupDir");
}

fn who_takes_more_memory_than_the_limit_is_killed() {
    let parent = Parent::with("memory");
    let python = || {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", "b'x' * (200 << 20)"]);
        command
    };
    let policy = CgroupLimit {
        memory_max: Some(64 << 20),
        memory_swap_max: Path::new("/proc/swaps").exists().then_some(0),
        ..parent.policy()
    };
    assert!(output(&mut python()).status.success());
    let output = output(python().mechanism(&policy).unwrap());
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    assert_eq!(signal, Some(Signal::KILL.as_raw()));
}

fn no_more_processes_are_made_than_the_limit() {
    let parent = Parent::with("pids");
    let script = "/bin/true && echo forked";
    let policy = |count| CgroupLimit { pids_max: Some(count), ..parent.policy() };
    let said = |count| output(shell(script).mechanism(&policy(count)).unwrap()).stdout;
    assert_eq!(said(2), b"forked\n");
    assert_eq!(said(1), b"");
}

fn the_kernel_says_which_share_of_the_cpus_there_is() {
    let parent = Parent::with("cpu");
    let cpu_max = Some(CpuMax { quota_us: 20_000, period_us: 50_000 });
    let policy = CgroupLimit { cpu_max, cpu_weight: Some(7), ..parent.policy() };
    let child = waiting(|command| {
        command.mechanism(&policy).unwrap();
    });
    let read = |file: &str| fs::read_to_string(parent.leaves()[0].join(file)).unwrap();
    assert_eq!((read("cpu.max").trim(), read("cpu.weight").trim()), ("20000 50000", "7"));
    drop(child);
}

fn main() -> ExitCode {
    const DELEGATED: Need = Need::DelegatedCgroup;
    run(tests![
        the_workload_is_born_in_a_leaf_that_goes_when_it_has_ended: [LIMIT, DELEGATED],
        what_outlives_the_workload_is_killed_with_its_cgroup: [LIMIT, DELEGATED],
        cgroups_that_the_workload_makes_in_its_own_go_too: [LIMIT, DELEGATED],
        a_workload_that_is_killed_leaves_no_leaf: [LIMIT, DELEGATED],
        a_launch_that_is_refused_leaves_no_leaf: [LIMIT, DELEGATED, SECCOMP],
        a_launch_that_faults_leaves_no_leaf: [LIMIT, DELEGATED],
        an_explanation_leaves_no_leaf: [LIMIT, DELEGATED],
        a_controller_that_is_not_delegated_is_refused_by_name: [LIMIT, DELEGATED],
        a_parent_that_is_not_delegated_is_refused_with_its_state: [LIMIT, DELEGATED, Need::Root],
        a_launcher_that_may_not_leave_its_cgroup_is_refused: [LIMIT, DELEGATED, Need::Root],
        a_folder_that_is_no_cgroup_is_refused: [],
        a_process_is_born_in_one_cgroup_only: [],
        who_takes_more_memory_than_the_limit_is_killed: [LIMIT, DELEGATED, MEMORY, Need::Python],
        no_more_processes_are_made_than_the_limit: [LIMIT, DELEGATED, PIDS],
        the_kernel_says_which_share_of_the_cpus_there_is: [LIMIT, DELEGATED, CPU],
    ])
}
