//! The command line: a real program confined, the convention of exit statuses, signals, and reports.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use command_fds::{CommandFdExt, FdMapping};
use portcullis_tests::{
    Need, Signal, becomes, bystander, portcullis, read_proc, run, send, shell_of, terminal, tests,
    write_program,
};
use serde_json::Value;
use tempfile::TempDir;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(portcullis());
    command.args(arguments).stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A place with all that the eight things are about.
struct Scene {
    folder: TempDir,
    bystander: Child,
    connections: Arc<AtomicUsize>,
    port: u16,
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/eight_things.py");
const SECRET: &str = "the secret";
const GREETING: &str = "from the server";

impl Scene {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        for part in ["out", "outside", "in"] {
            fs::create_dir(folder.path().join(part)).unwrap();
        }
        fs::write(folder.path().join("secret"), SECRET).unwrap();
        fs::write(folder.path().join("in/text"), "one three seventeen four").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                counter.fetch_add(1, Ordering::SeqCst);
                let _ = stream.unwrap().write_all(GREETING.as_bytes());
            }
        });
        Self { folder, bystander: bystander(), connections, port }
    }

    fn path(&self, part: &str) -> String {
        self.folder.path().join(part).display().to_string()
    }

    /// Runs the script after `before`, as the one that a shell starts and that has `$$` as its pid.
    fn run(&self, before: &[String]) -> Output {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "exec \"$@\" $$ \"$LAST\"", "sh"]);
        command.args(before).args(["/usr/bin/python3", SCRIPT]);
        for argument in ["in/text", "out", "secret", "outside"] {
            command.arg(self.path(argument));
        }
        let fd = File::open(self.path("secret")).unwrap();
        command
            .args([self.port.to_string(), "9".into()])
            .env("LAST", self.bystander.id().to_string())
            .env("SUPERVISORS_SECRET", SECRET)
            .fd_mappings(vec![FdMapping { parent_fd: fd.into(), child_fd: 9 }])
            .unwrap();
        command.output().unwrap()
    }

    /// What the script said of each of the eight.
    fn happened(output: &Output) -> serde_json::Map<String, Value> {
        assert!(output.status.success(), "{}", text(&output.stderr));
        let happened: serde_json::Map<_, _> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(happened.len(), 8);
        happened
    }
}

fn a_python_script_does_its_job_and_none_of_eight_things() {
    let mut scene = Scene::new();
    let mut arguments = vec![portcullis().display().to_string(), "run".into()];
    for root in ["/usr", "/lib", "/lib64", "/bin"].iter().filter(|root| Path::new(root).exists()) {
        arguments.extend(["--read".into(), (*root).to_owned()]);
    }
    let script = Path::new(SCRIPT).parent().unwrap().display().to_string();
    for root in [script, scene.path("in")] {
        arguments.extend(["--read-only".into(), root]);
    }
    arguments.extend(["--write".into(), scene.path("out"), "--no-network".into(), "--".into()]);
    let happened = Scene::happened(&scene.run(&arguments));
    for (name, what) in &happened {
        assert!(what.as_str().unwrap().starts_with("denied: "), "{name}: {what}");
    }
    // The job was done.
    let summary: Value =
        serde_json::from_slice(&fs::read(scene.path("out/summary.json")).unwrap()).unwrap();
    assert_eq!(summary, serde_json::json!({"words": 4, "longest": "seventeen"}));
    // And nothing else was, as the file system, the server and the bystander have it.
    assert_eq!(fs::read_dir(scene.path("outside")).unwrap().count(), 0);
    assert!(Path::new(&scene.path("out/mine")).exists());
    assert_eq!(scene.connections.load(Ordering::SeqCst), 0);
    assert!(scene.bystander.try_wait().unwrap().is_none());

    // The control: the same script without the gate does all eight.
    let happened = Scene::happened(&scene.run(&[]));
    for (name, expected) in [
        ("read_secret", SECRET),
        ("write_outside", "written"),
        ("rename_out", "renamed"),
        ("open_socket", "a socket"),
        ("connect_to_loopback", GREETING),
        ("read_inherited_fd", SECRET),
        ("signal_supervisor", "signalled"),
        ("see_environment", SECRET),
    ] {
        assert_eq!(happened[name].as_str().unwrap(), format!("done: {expected}"), "{name}");
    }
    assert_eq!(fs::read_dir(scene.path("outside")).unwrap().count(), 2);
    assert_eq!(scene.connections.load(Ordering::SeqCst), 1);
    assert_eq!(scene.bystander.wait().unwrap().signal(), Some(15));
}

fn exit_statuses_are_those_of_the_shell_and_env() {
    let folder = TempDir::new().unwrap();
    let text_file = folder.path().join("text");
    write_program(&text_file, b"no program");
    let text_file = text_file.to_str().unwrap();
    for (arguments, code) in [
        (&["run", "--", "sh", "-c", "exit 7"][..], 7),
        (&["run", "--", "sh", "-c", "kill -KILL $$"], 137),
        (&["run", "--", "no-such-program"], 127),
        (&["run", "--", "/no/such/program"], 127),
        (&["run", "--", "/etc/passwd"], 126),
        (&["run", "--", "/usr"], 126),
        (&["run", "--read", "/", "--", text_file], 126),
        (&["run", "--read", "/no/such/root", "--", "true"], 125),
        (&["run", "--launcher", "/no/such/launcher", "--", "true"], 125),
        (&["run", "--env", "NO_SUCH_VARIABLE_HERE", "--", "true"], 125),
        (&["run", "--no-such-flag", "--", "true"], 125),
        (&["run"], 125),
    ] {
        let output = output(arguments);
        // Where portcullis became the program, the signal that ended it ended portcullis.
        let ended = output.status.code().or(output.status.signal().map(|signal| 128 + signal));
        assert_eq!(ended, Some(code), "{arguments:?}: {}", text(&output.stderr));
        if code >= 125 && code != 137 {
            let complaint = text(&output.stderr);
            assert!(!complaint.trim().is_empty() && output.stdout.is_empty(), "{arguments:?}");
        }
    }
    assert_eq!(output(&["--help"]).status.code(), Some(0));
}

fn a_complaint_says_what_why_and_what_would_help() {
    for (arguments, parts) in [
        (
            &["run", "--", "no-such-program"][..],
            &["no-such-program", "No such file", "--env PATH="][..],
        ),
        (&["run", "--read", "/no/root", "--", "true"], &["/no/root", "No such file", "create it"]),
        (&["run", "--", "/etc/passwd"], &["/etc/passwd", "Permission denied", "chmod"]),
        (
            &["run", "--launcher", "/no/l", "--", "true"],
            &["/no/l", "No such file", "BVISOR_LAUNCHER_BIN"],
        ),
        (&["run", "--read", "/lib", "--", "/bin/true"], &["Permission denied", "exec root"]),
        (&["run", "--env", "NOPE_", "--", "true"], &["NOPE_", "NAME=VALUE"]),
    ] {
        let complaint = text(&output(arguments).stderr);
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
        assert!(complaint.starts_with("portcullis: "), "{complaint}");
        for part in parts {
            assert!(complaint.contains(part), "{part:?} is not in {complaint}");
        }
    }
}

/// What stops a launch stops it in the same words without a launcher, as far as the program's steps had come.
fn a_complaint_is_the_same_without_a_launcher() {
    let folder = TempDir::new().unwrap();
    let (text_file, script) = (folder.path().join("text"), folder.path().join("script"));
    write_program(&text_file, b"no program");
    write_program(&script, b"#!/no/such/interpreter\n");
    let (text_file, script) = (text_file.to_str().unwrap(), script.to_str().unwrap());
    // Nothing but what tells of the failure passes it.
    let narrow = r#"linux.seccomp.apply.v1={"default": "kill-process",
        "rules": [{"calls": ["execveat", "write", "exit_group"], "action": "allow"}]}"#;
    let digest = format!("blake3:{}", "0".repeat(64));
    for (arguments, code) in [
        (&["--read", "/lib", "--", "/bin/true"][..], 126),
        (&["--read", "/", "--", text_file], 126),
        (&["--read", "/", "--mechanism", narrow, "--", script], 126),
        (&["--digest", &digest, "--", "/bin/true"], 125),
        (&["--read", "/no/such/root", "--", "true"], 125),
        (&["--mechanism", "no.such.v1={}", "--", "true"], 125),
        (&["--", "no-such-program"], 127),
    ] {
        let [here, launched] = [&[][..], &["--report-file", "/dev/null"]].map(|way: &[&str]| {
            let output = output(&[&["run"], way, arguments].concat());
            (output.status.code(), text(&output.stderr))
        });
        assert_eq!(here.0, Some(code), "{arguments:?}: {}", here.1);
        assert_eq!(here, launched, "{arguments:?}");
        assert!(here.1.starts_with("portcullis: "), "{}", here.1);
    }
}

/// Between the point of no return and the program's first step there is no way back either.
fn a_namespace_that_is_not_to_be_had_is_a_fault_with_or_without_a_launcher() {
    let no_namespaces = r#"linux.seccomp.apply.v1={"deny": ["unshare"]}"#;
    let own = portcullis().to_str().unwrap();
    let gate = ["--read", "/", "--write", "/dev", "--mechanism", no_namespaces];
    let outer = [&["run"], &gate[..], &["--", own, "run"]].concat();
    let [here, launched] = [&[][..], &["--report-file", "/dev/null"]].map(|way: &[&str]| {
        let output =
            output(&[&outer[..], way, &["--read", "/", "--no-network", "--", "true"]].concat());
        (output.status.code(), text(&output.stderr))
    });
    assert_eq!(here, launched);
    assert_eq!(here.0, Some(125));
    assert!(here.1.contains("faulted: unshare of namespaces"), "{}", here.1);
}

fn the_environment_is_fixed_but_for_what_is_passed_on() {
    let mut command = command(&["run", "--env", "ADDED=1", "--env", "PASSED", "--", "env"]);
    command.env_clear().envs([
        ("PASSED", "on"),
        ("SECRET", "s"),
        ("TERM", "vt100"),
        ("LC_ALL", "C"),
        ("TZ", "UTC"),
        ("PATH", "/nowhere"),
    ]);
    let environment = text(&command.output().unwrap().stdout);
    let mut variables: Vec<_> = environment.lines().collect();
    variables.sort_unstable();
    let path = format!("PATH={}", portcullis::Command::SEARCH_PATH);
    assert_eq!(variables, ["ADDED=1", "LC_ALL=C", "PASSED=on", &path, "TERM=vt100", "TZ=UTC"]);
}

fn without_path_options_the_system_can_be_read_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, SECRET).unwrap();
    let secret = secret.to_str().unwrap();
    assert!(output(&["run", "--", "cat", "/etc/passwd"]).status.success());
    let denied = output(&["run", "--", "cat", secret]);
    assert!(!denied.status.success() && denied.stdout.is_empty());
    assert_eq!(
        text(&output(&["run", "--read-only", secret, "--read", "/", "--", "cat", secret]).stdout),
        SECRET
    );
    let new = folder.path().join("new");
    assert!(!output(&["run", "--", "touch", new.to_str().unwrap()]).status.success());
    assert!(!new.exists());
}

fn the_working_directory_can_be_set() {
    let output = output(&["run", "--cwd", "/usr", "--", "pwd"]);
    assert_eq!(text(&output.stdout).trim(), "/usr");
}

/// What has portcullis become the program, and what has it stay, as the parent of a launcher that does.
const WAYS: [&[&str]; 2] = [&[], &["--report", "text"]];

/// A confined shell that has said that it runs.
fn waiting(options: &[&str], script: &str) -> Child {
    let script = format!("{script}; echo; while :; do sleep 0.02; done");
    let run = command(&[&["run"], options, &["--", "sh", "-c", &script]].concat());
    // A shell can't trap what is ignored when it starts, as a test's own caller may do.
    let mut child = Command::new("env")
        .arg("--default-signal=HUP,INT,QUIT,TERM")
        .arg(run.get_program())
        .args(run.get_args())
        .stdin(Stdio::null())
        // A group of its own, which has a parent outside: SIGTSTP stops nothing in an orphaned one.
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    child
}

fn portcullis_becomes_the_program_unless_it_has_something_to_do_afterwards() {
    let becomes = |options: &[&str]| {
        let mut child = waiting(options, ":");
        let became = shell_of(child.id()) == child.id();
        // The shell that it may have left behind is not waited for by anybody else.
        send(shell_of(child.id()), Signal::TERM);
        assert_eq!(child.wait().unwrap().code().or(Some(143)), Some(143), "{options:?}");
        became
    };
    assert!(becomes(&[]));
    let file = TempDir::new().unwrap();
    let file = file.path().join("file");
    let file = file.to_str().unwrap();
    let redirected = format!("linux.stdio.set.v1={{stderr = \"{file}\"}}");
    let signal = r#"linux.process.attributes.v1={"parent_death_signal": "TERM"}"#;
    for options in [
        &["--report", "json"][..],
        &["--report-file", file],
        &["--launcher", portcullis_tests::launcher().to_str().unwrap()],
        &["--mechanism", &redirected],
        // Who leads a group of processes can't leave its session.
        &["--mechanism", "linux.process.attributes.v1={new_session = true}"],
    ] {
        assert!(!becomes(options), "{options:?}");
    }
    // Of a mechanism that needs a launcher to outlive the exec there is one.
    let mut child = waiting(&["--mechanism", signal], ":");
    assert!(!read_proc(child.id(), "cmdline").starts_with("sh\0"));
    send(child.id(), Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

/// What an exec hands on of the process that execs, the program has as a launcher's child has it.
fn the_program_has_none_of_portcullis_own_signals_and_fds() {
    let told = |way: &[&str], program: &[&str]| {
        let mut command = Command::new("/bin/sh");
        // dash ignores what it traps with nothing, and so do its children.
        command.args(["-c", "trap '' CHLD HUP BUS; exec \"$@\" 9</etc/passwd", "sh"]);
        command.arg(portcullis()).arg("run").args(way).args(["--read", "/", "--"]).args(program);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    // The last is the folder's own.
    let fds = ["ls", "-x", "/proc/self/fd"];
    assert_eq!(told(WAYS[0], &fds).split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    let status = |way| {
        let of_interest = ["Sig", "Shd", "Cap", "NoNewPrivs", "Seccomp", "Groups", "Uid", "Umask"];
        let told = told(way, &["cat", "/proc/self/status"]);
        let is_told = |line: &&str| of_interest.iter().any(|name| line.starts_with(name));
        let lines = told.lines().filter(is_told).filter(|line| !line.starts_with("SigQ"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let here = status(WAYS[0]);
    assert_eq!(here, status(WAYS[1]));
    let mask = |name: &str| {
        let line = here.iter().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    let ignored = |signal: Signal| mask("SigIgn:") >> (signal.as_raw() - 1) & 1 == 1;
    assert_eq!(mask("SigBlk:"), 0);
    // As under nohup(1), also of what Rust's runtime would handle; but who ignores SIGCHLD can't wait, and SIGPIPE is
    // ignored by that runtime.
    assert_eq!(
        [Signal::HUP, Signal::BUS, Signal::CHILD, Signal::PIPE].map(ignored),
        [true, true, false, false],
        "{here:?}"
    );
}

fn signals_reach_the_workload() {
    for way in WAYS {
        for (name, signal) in [
            ("INT", Signal::INT),
            ("TERM", Signal::TERM),
            ("HUP", Signal::HUP),
            ("QUIT", Signal::QUIT),
        ] {
            let mut child = waiting(way, &format!("trap 'exit 40' {name}"));
            send(child.id(), signal);
            assert_eq!(child.wait().unwrap().code(), Some(40), "{name}");
        }
    }
    // Untrapped, it ends the workload, and the status says by which.
    let mut child = waiting(WAYS[0], ":");
    send(child.id(), Signal::TERM);
    assert_eq!(child.wait().unwrap().signal(), Some(15));
    let mut child = waiting(WAYS[1], ":");
    send(child.id(), Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
}

fn a_parent_that_ignores_its_children_and_a_full_standard_error_change_no_status() {
    let with = |before: &str, arguments: &str| {
        let script = format!("{before} exec \"$0\" {arguments}");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script]).arg(portcullis()).stdin(Stdio::null()).output().unwrap()
    };
    // dash ignores what it traps with nothing, and so do its children.
    let ran = with("trap '' CHLD;", "run -- sh -c 'echo ran; exit 5'");
    assert_eq!(
        (ran.status.code(), &ran.stdout[..]),
        (Some(5), &b"ran\n"[..]),
        "{}",
        text(&ran.stderr)
    );
    let refused = with("trap '' CHLD;", "run --read /lib -- /bin/true");
    assert_eq!(refused.status.code(), Some(126), "{}", text(&refused.stderr));
    assert!(with("trap '' CHLD;", "mechanisms").status.success());
    for (arguments, code) in [("run --report text -- true", 0), ("run -- /no/such", 127)] {
        let full = with("", &format!("{arguments} 2>/dev/full"));
        assert_eq!(full.status.code(), Some(code), "{arguments}");
    }
}

fn a_stop_and_a_continuation_reach_the_workload() {
    let state = |pid: u32| {
        let stat = read_proc(pid, "stat");
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
    };
    let comes_to = |pid: u32, wanted: char| {
        assert!(becomes(|| state(pid) == Some(wanted)), "{pid} does not come to {wanted}");
    };
    for way in WAYS {
        let mut child = waiting(way, "trap 'exit 40' TERM");
        let workload = shell_of(child.id());
        send(child.id(), Signal::TSTP);
        comes_to(workload, 'T');
        comes_to(child.id(), 'T');
        send(child.id(), Signal::CONT);
        assert!(becomes(|| state(workload) != Some('T')), "the workload does not go on");
        send(child.id(), Signal::TERM);
        assert_eq!(child.wait().unwrap().code(), Some(40));
    }
}

fn the_workload_dies_with_portcullis() {
    for way in WAYS {
        let mut child = waiting(way, ":");
        let workload = shell_of(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        let lives = |pid| {
            let stat = read_proc(pid, "stat");
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
        };
        assert!(becomes(|| !lives(workload)), "the workload lives on");
    }
}

fn a_report_is_text_or_json_and_goes_where_it_is_asked_to() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("report");
    let file = file.to_str().unwrap();
    let quiet =
        output(&["run", "--report", "json", "--report-file", file, "--", "sh", "-c", "exit 3"]);
    assert_eq!((quiet.status.code(), quiet.stderr.len()), (Some(3), 0));
    let report: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(report["status"]["exited"]["code"], 3);
    assert_eq!(report["transcript"]["states"].as_array().unwrap().len(), 10);
    assert_eq!(
        (&report["way"], &report["executed"]),
        (&Value::from("in_place"), &Value::from(true))
    );
    let words = text(&output(&["run", "--report", "text", "--", "true"]).stderr);
    assert!(words.contains("applied  linux.landlock.apply.v1"), "{words}");
    assert!(words.starts_with("way      in place\n"), "{words}");
    let attributes = "linux.process.attributes.v1={\"parent_death_signal\":9}";
    let child = output(&["run", "--report", "text", "--mechanism", attributes, "--", "true"]);
    let words = text(&child.stderr);
    assert!(words.starts_with("way      a child of a launcher\n"), "{words}");
    let refused = output(&["run", "--report", "json", "--read", "/lib", "--", "/bin/true"]);
    let json = text(&refused.stderr);
    let (_, json) = json.split_once('\n').unwrap();
    let report: Value = serde_json::from_str(json).unwrap();
    assert_eq!(report["stopped"]["faulted"]["errno"], 13);
}

fn an_explanation_launches_nothing() {
    let folder = TempDir::new().unwrap();
    let mark = folder.path().join("mark");
    let write = folder.path().to_str().unwrap();
    let arguments =
        ["run", "--explain", "--write", write, "--read", "/", "--no-network", "--", "touch"];
    let explained = command(&arguments).arg(&mark).output().unwrap();
    assert!(explained.status.success() && !mark.exists(), "{}", text(&explained.stderr));
    let words = text(&explained.stdout);
    for part in [
        "plan:",
        "schedule:",
        "unshare:",
        "CLONE_NEWNET",
        "program:",
        "landlock_restrict_self",
        "execveat",
    ] {
        assert!(words.contains(part), "{part} is not in {words}");
    }
    let refused = output(&["run", "--explain", "--read", "/no/root", "--", "true"]);
    assert_eq!(refused.status.code(), Some(125));
}

fn mechanisms_are_listed_with_what_this_kernel_supports() {
    let json = output(&["mechanisms", "--json"]);
    let listed: Vec<Value> = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(listed.len(), 15);
    assert!(listed.iter().all(|it| it["supported"].is_string() && it["summary"].is_string()));
    let words = text(&output(&["mechanisms"]).stdout);
    for it in &listed {
        assert!(words.contains(it["id"].as_str().unwrap()));
    }
}

fn a_mechanism_is_told_of_on_a_page_and_an_unknown_one_by_its_neighbours() {
    let page = text(&output(&["mechanisms", "linux.userns.enter.v1"]).stdout);
    for part in [
        "# `linux.userns.enter.v1`\n",
        "- Phase 0 (namespace create), rank 0: it owns",
        "## See it",
        "/proc/self/uid_map",
        "## Guide",
        "\nHere: ",
    ] {
        assert!(page.contains(part), "{part:?} is not in {page}");
    }
    let json = output(&["mechanisms", "--json", "linux.netns.enter.v1"]);
    let told: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(told["requires"][0]["id"], "linux.userns.enter.v1");
    for (asked, expected) in [
        ("landlock", "linux.landlock.apply.v1"),
        ("linux.userms.enter.v1", "linux.userns.enter.v1"),
        ("nothing.like.it", "`portcullis mechanisms`"),
    ] {
        let unknown = output(&["mechanisms", asked]);
        let complaint = text(&unknown.stderr);
        assert_eq!((unknown.status.code(), unknown.stdout.len()), (Some(125), 0), "{complaint}");
        assert!(complaint.starts_with(&format!("portcullis: {asked}: ")), "{complaint}");
        assert!(complaint.contains(expected), "{complaint}");
    }
}

/// Runs with these lines on standard input.
fn each_line(arguments: &[&str], lines: &str) -> Output {
    let mut child = Command::new(portcullis())
        .args(["run", "--each-line"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that refuses does not read.
    let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
    child.wait_with_output().unwrap()
}

fn each_line_is_a_run_of_its_own() {
    let output = each_line(&["--jobs", "1", "echo", "a"], "one\n\ntwo words\nlast");
    assert_eq!(text(&output.stdout), "a one\na two words\na last\n");
    assert_eq!(text(&output.stderr), "portcullis: 3 succeeded, 0 failed, 0 not made\n");
    assert_eq!(output.status.code(), Some(0));
    let output = each_line(&["--jobs", "1", "echo", "<{}>", "{}{}"], "x\ny\n");
    assert_eq!(text(&output.stdout), "<x> xx\n<y> yy\n");
    let output = each_line(&["true"], "");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
    let script = "cat; echo $0";
    let output = each_line(&["--jobs", "1", "sh", "-c", script], "line\nother\n");
    assert_eq!(text(&output.stdout), "line\nother\n", "a run does not read the lines of others");
}

fn runs_for_lines_are_made_at_once() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().to_str().unwrap();
    // Each ends when all three are there.
    let script = "cd \"$0\"; : > \"$1\"; until [ -e 1 -a -e 2 -a -e 3 ]; do sleep 0.01; done";
    let arguments = [
        "--jobs", "3", "--read", "/usr", "--read", "/bin", "--read", "/lib", "--write", path, "sh",
    ];
    let arguments = [&arguments[..], &["-c", script, path]].concat();
    let output = each_line(&arguments, "1\n2\n3\n");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

fn no_more_runs_are_made_at_once_than_are_asked_for() {
    let most = |jobs: &str| {
        let folder = TempDir::new().unwrap();
        let path = folder.path().to_str().unwrap();
        // What is appended is so as a whole, in the order in which it happens.
        let script = "echo 1 >>\"$0/log\"; sleep 0.05; echo -1 >>\"$0/log\"";
        let arguments = ["--jobs", jobs, "--read", "/usr", "--read", "/bin", "--read", "/lib"];
        let arguments = [&arguments[..], &["--write", path, "sh", "-c", script, path]].concat();
        assert_eq!(each_line(&arguments, &"line\n".repeat(8)).status.code(), Some(0));
        let log = fs::read_to_string(folder.path().join("log")).unwrap();
        let steps = log.lines().map(|step| step.parse::<i32>().unwrap());
        let mut running = steps.scan(0, |running, step| {
            *running += step;
            Some(*running)
        });
        assert_eq!(log.lines().count(), 16);
        running.by_ref().max().unwrap()
    };
    assert_eq!(most("1"), 1);
    assert!(most("2") <= 2);
}

fn progress_is_drawn_on_a_terminal_as_a_bar_where_the_end_is_known() {
    let drawn = |lines: Stdio| {
        let (terminal, behind) = terminal();
        let mut child = Command::new(portcullis())
            .args(["run", "--each-line", "sleep", "0.3"])
            .stdin(lines)
            .stdout(Stdio::null())
            .stderr(terminal)
            .spawn()
            .unwrap();
        // Reading fails where a terminal's other end is closed (EIO).
        let mut text = Vec::new();
        let _ = File::from(behind).read_to_end(&mut text);
        assert!(child.wait().unwrap().success());
        String::from_utf8_lossy(&text).into_owned()
    };
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("lines");
    fs::write(&file, "0\n0\n0\n0\n").unwrap();
    let bar = drawn(File::open(&file).unwrap().into());
    assert!(bar.contains("50 %"), "{bar:?}");
    assert!(bar.trim_end().ends_with("4 succeeded, 0 failed, 0 not made"), "{bar:?}");
    let mut lines = Command::new("cat").arg(&file).stdout(Stdio::piped()).spawn().unwrap();
    let spinner = drawn(lines.stdout.take().unwrap().into());
    lines.wait().unwrap();
    assert!(spinner.contains("2 succeeded") && !spinner.contains('%'), "{spinner:?}");
    assert!(spinner.trim_end().ends_with("4 succeeded, 0 failed, 0 not made"), "{spinner:?}");
}

fn a_line_whose_run_fails_is_counted_and_the_others_go_on() {
    let output = each_line(&["sh", "-c", "exit $0"], "0\n7\n0\n");
    assert_eq!(output.status.code(), Some(123));
    assert!(text(&output.stderr).contains("2 succeeded, 1 failed, 0 not made"), "{output:?}");
    let output = each_line(&["--jobs", "1", "echo"], "before\nn\0l\nafter\n");
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(text(&output.stdout), "before\nafter\n");
    assert!(text(&output.stderr).contains("2 succeeded, 0 failed, 1 not made"), "{output:?}");
    let output = each_line(&["no-such-program"], "line\n");
    assert_eq!(output.status.code(), Some(127));
    let output = each_line(&["--report", "text", "true"], "line\n");
    let words = text(&output.stderr);
    assert!(words.contains("applied  linux.landlock.apply.v1"), "{words}");
    assert!(words.starts_with("way      a child of a resident launcher\n"), "{words}");
    for wrong in [&["--jobs", "0", "true"][..], &["--explain", "true"]] {
        assert_eq!(each_line(wrong, "").status.code(), Some(125));
    }
    let alone = self::output(&["run", "--jobs", "2", "true"]);
    assert_eq!(alone.status.code(), Some(125));
}

fn the_runs_of_lines_end_with_portcullis() {
    let mut child = Command::new(portcullis())
        .args(["run", "--each-line", "sh", "-c", "echo $$; exec sleep 60"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"line\n").unwrap();
    let mut pid = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut pid).unwrap();
    assert!(!read_proc(pid.trim().parse().unwrap(), "stat").is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    // End of file: nobody has it any more.
    assert_eq!(stdout.read_to_end(&mut Vec::new()).unwrap(), 0);
}

/// What has a handler when the program is executed has had one until then. (Without privileges strace can't read what a
/// process says that is out of reach.)
fn no_handler_of_portcullis_is_there_when_what_confines_begins() {
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("log");
    let status = Command::new("strace")
        .args(["-f", "-e", "trace=rt_sigaction,prctl,execve,execveat", "-o"])
        .arg(&log)
        .arg(portcullis())
        .args(["run", "--", "/bin/true"])
        .status()
        .unwrap();
    assert!(status.success());
    let log = fs::read_to_string(&log).unwrap();
    let (before, _) = log.split_once("PR_SET_NO_NEW_PRIVS").unwrap();
    let mut handled = std::collections::BTreeSet::new();
    let mut ever = 0;
    for call in before.lines().filter_map(|line| Some(line.split_once("rt_sigaction(")?.1)) {
        let (signal, action) = call.split_once(", ").unwrap();
        match action {
            action if action.starts_with("NULL") => {}
            action if action.starts_with("{sa_handler=SIG_") => _ = handled.remove(signal),
            _ => ever += usize::from(handled.insert(signal)),
        }
    }
    assert!(ever > 0, "{log}");
    assert_eq!(handled, [].into(), "{log}");
}

fn main() -> ExitCode {
    const LANDLOCK: Need = Need::Mechanism("linux.landlock.apply.v1");
    const NETNS: Need = Need::Mechanism("linux.netns.enter.v1");
    run(tests![
        a_python_script_does_its_job_and_none_of_eight_things:
            [Need::Python, LANDLOCK, Need::LandlockScopes, NETNS],
        exit_statuses_are_those_of_the_shell_and_env: [LANDLOCK],
        a_complaint_says_what_why_and_what_would_help: [LANDLOCK],
        a_complaint_is_the_same_without_a_launcher:
            [LANDLOCK, Need::Mechanism("linux.seccomp.apply.v1")],
        a_namespace_that_is_not_to_be_had_is_a_fault_with_or_without_a_launcher:
            [LANDLOCK, Need::Mechanism("linux.seccomp.apply.v1"), NETNS],
        the_environment_is_fixed_but_for_what_is_passed_on: [LANDLOCK],
        without_path_options_the_system_can_be_read_and_nothing_else: [LANDLOCK],
        the_working_directory_can_be_set: [LANDLOCK],
        portcullis_becomes_the_program_unless_it_has_something_to_do_afterwards: [LANDLOCK],
        the_program_has_none_of_portcullis_own_signals_and_fds: [LANDLOCK],
        no_handler_of_portcullis_is_there_when_what_confines_begins:
            [LANDLOCK, Need::Strace, Need::Root],
        signals_reach_the_workload: [LANDLOCK],
        a_parent_that_ignores_its_children_and_a_full_standard_error_change_no_status: [LANDLOCK],
        a_stop_and_a_continuation_reach_the_workload: [LANDLOCK],
        the_workload_dies_with_portcullis: [LANDLOCK],
        a_report_is_text_or_json_and_goes_where_it_is_asked_to: [LANDLOCK],
        an_explanation_launches_nothing: [LANDLOCK, NETNS],
        mechanisms_are_listed_with_what_this_kernel_supports: [],
        a_mechanism_is_told_of_on_a_page_and_an_unknown_one_by_its_neighbours: [],
        each_line_is_a_run_of_its_own: [],
        runs_for_lines_are_made_at_once: [],
        no_more_runs_are_made_at_once_than_are_asked_for: [],
        progress_is_drawn_on_a_terminal_as_a_bar_where_the_end_is_known: [],
        a_line_whose_run_fails_is_counted_and_the_others_go_on: [],
        the_runs_of_lines_end_with_portcullis: [],
    ])
}
