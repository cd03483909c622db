//! Each of Landlock's rights holds by itself: the act succeeds without confinement, is denied where all
//! but its right is granted, and succeeds with just that right. The oracle is the file on disk, the
//! listener that sees a connection, or what the workload could read out.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::ExitCode;

use portcullis::mechanism::landlock::{Landlock, MOST_LAYERS, PathGrant, Scope, running_abi};
use portcullis::{Command, Error, Output, Stdio};
use portcullis_core::Params;
use portcullis_core::state::RefusalReason;
use portcullis_tests::{Need, bystander, run, tests, write_program};
use serde_json::{Value, json};
use tempfile::TempDir;

const ID: &str = "linux.landlock.apply.v1";
const LANDLOCK: Need = Need::Mechanism(ID);
const EACCES: &str = "[Errno 13]";
const EXDEV: &str = "[Errno 18]";

fn abi() -> u8 {
    running_abi().unwrap()
}

/// A Python that runs `code`, with these arguments and without confinement.
fn python(code: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-I", "-S", "-B", "-c", &format!("import os, sys\n{code}")]).args(arguments);
    command
}

/// A policy that grants the system's programs and libraries, and has these fields beside.
fn policy(fields: Value) -> Value {
    let roots = ["/usr", "/bin", "/lib", "/lib64"].map(Path::new);
    let system: Vec<_> = roots.into_iter().filter(|root| root.exists()).collect();
    let mut policy = json!({"abi": abi(), "read": system, "exec": system});
    let Value::Object(fields) = fields else { panic!("{fields}") };
    policy.as_object_mut().unwrap().extend(fields);
    policy
}

/// Adds a layer.
fn layer(command: &mut Command, fields: Value) -> &mut Command {
    command.policy(ID, Params::of(&policy(fields)).unwrap())
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{error}"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An act that takes a right.
struct Act {
    right: &'static str,
    /// What it takes beside, which is granted where it is denied too.
    beside: &'static [&'static str],
    /// The act, in a folder.
    code: &'static str,
    /// The error with which it is denied.
    errno: &'static str,
    /// Whether it happened.
    happened: fn(&Path, &Output) -> bool,
}

/// The type of what an act made.
fn made(folder: &Path) -> Option<fs::FileType> {
    fs::symlink_metadata(folder.join("new")).ok().map(|it| it.file_type())
}

fn read_42(_: &Path, output: &Output) -> bool {
    output.stdout == b"42"
}

const UNPRIVILEGED: [Act; 14] = [
    Act {
        right: "make-dir",
        beside: &[],
        code: "os.mkdir('new')",
        errno: EACCES,
        happened: |folder, _| made(folder).is_some_and(|it| it.is_dir()),
    },
    Act {
        right: "make-reg",
        beside: &[],
        code: "os.mknod('new')",
        errno: EACCES,
        happened: |folder, _| made(folder).is_some_and(|it| it.is_file()),
    },
    Act {
        right: "make-sym",
        beside: &[],
        code: "os.symlink('file', 'new')",
        errno: EACCES,
        happened: |folder, _| made(folder).is_some_and(|it| it.is_symlink()),
    },
    Act {
        right: "make-fifo",
        beside: &[],
        code: "os.mkfifo('new')",
        errno: EACCES,
        happened: |folder, _| made(folder).is_some_and(|it| it.is_fifo()),
    },
    Act {
        right: "make-sock",
        beside: &[],
        code: "import socket\nsocket.socket(socket.AF_UNIX).bind('new')",
        errno: EACCES,
        happened: |folder, _| made(folder).is_some_and(|it| it.is_socket()),
    },
    Act {
        right: "remove-file",
        beside: &[],
        code: "os.unlink('file')",
        errno: EACCES,
        happened: |folder, _| !folder.join("file").exists(),
    },
    Act {
        right: "remove-dir",
        beside: &[],
        code: "os.rmdir('empty')",
        errno: EACCES,
        happened: |folder, _| !folder.join("empty").exists(),
    },
    Act {
        right: "refer",
        beside: &["remove-file", "make-reg"],
        code: "os.rename('file', 'empty/file')",
        errno: EXDEV,
        happened: |folder, _| folder.join("empty/file").exists(),
    },
    Act {
        right: "truncate",
        beside: &[],
        code: "os.truncate('file', 1)",
        errno: EACCES,
        happened: |folder, _| fs::read(folder.join("file")).unwrap() == b"4",
    },
    Act {
        right: "write-file",
        beside: &[],
        code: "os.write(os.open('file', os.O_WRONLY), b'43')",
        errno: EACCES,
        happened: |folder, _| fs::read(folder.join("file")).unwrap() == b"43",
    },
    Act {
        right: "read-file",
        beside: &[],
        code: "os.write(1, os.read(os.open('file', os.O_RDONLY), 9))",
        errno: EACCES,
        happened: read_42,
    },
    Act {
        right: "read-dir",
        beside: &[],
        code: "os.write(1, b'42' if 'program' in os.listdir('.') else b'')",
        errno: EACCES,
        happened: read_42,
    },
    // The kernel reads what it executes.
    Act {
        right: "execute",
        beside: &["read-file"],
        code: "os.execv('./program', ['echo', '-n', '42'])",
        errno: EACCES,
        happened: read_42,
    },
    // A socket of this file's own listens at `listener` where the kernel has the right.
    Act {
        right: "resolve-unix",
        beside: &[],
        code: "import socket\nsocket.socket(socket.AF_UNIX).connect('listener')\nos.write(1, b'42')",
        errno: EACCES,
        happened: read_42,
    },
];

const PRIVILEGED: [Act; 2] = [
    Act {
        right: "make-char",
        beside: &[],
        code: "import stat\nos.mknod('new', stat.S_IFCHR | 0o600, os.makedev(1, 3))",
        errno: EACCES,
        happened: |folder, _| made(folder).is_some_and(|it| it.is_char_device()),
    },
    Act {
        right: "make-block",
        beside: &[],
        code: "import stat\nos.mknod('new', stat.S_IFBLK | 0o600, os.makedev(7, 0))",
        errno: EACCES,
        happened: |folder, _| made(folder).is_some_and(|it| it.is_block_device()),
    },
];

/// The ABI that brought what is not of ABI 3.
fn since(right: &str) -> u8 {
    let access = serde_json::from_value(right.into()).unwrap();
    let paths = vec![PathGrant { path: "/".into(), access: vec![access] }];
    Landlock { paths, ..Landlock::default() }.least_abi()
}

/// A fresh folder for an act, and what listens in it.
fn stage() -> (TempDir, Option<UnixListener>) {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("file"), "42").unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    write_program(&folder.path().join("program"), &fs::read("/bin/echo").unwrap());
    let listens = abi() >= since("resolve-unix");
    let listener = listens.then(|| UnixListener::bind(folder.path().join("listener")).unwrap());
    (folder, listener)
}

/// Runs an act in a fresh folder, with these rights over it or without confinement.
fn attempt(act: &Act, rights: Option<Vec<&str>>) -> (bool, Output) {
    let (folder, _listener) = stage();
    let path = folder.path();
    let mut command = python(act.code, &[]);
    command.current_dir(path);
    if let Some(rights) = rights {
        let paths = match rights[..] {
            [] => json!([]),
            _ => json!([{"path": path, "access": rights}]),
        };
        layer(&mut command, json!({"paths": paths}));
    }
    let output = output(&mut command);
    ((act.happened)(path, &output), output)
}

fn each_act_takes_its_right_and_nothing_else_does(acts: &[Act]) {
    let all: Vec<_> = UNPRIVILEGED.iter().chain(&PRIVILEGED).map(|it| it.right).collect();
    for act in acts.iter().filter(|act| since(act.right) <= abi()) {
        let right = act.right;
        let (happened, output) = attempt(act, None);
        assert!(happened, "{right}, the control: {}", stderr(&output));
        let (happened, output) = attempt(act, Some(act.beside.to_vec()));
        assert!(!happened, "{right} is not granted");
        assert!(stderr(&output).contains(act.errno), "{right}: {}", stderr(&output));
        let others = all.iter().filter(|it| **it != right && since(it) <= abi()).copied();
        let (happened, _) = attempt(act, Some(others.collect()));
        assert!(!happened, "{right} is all that is not granted");
        let just = act.beside.iter().copied().chain([right]).collect();
        let (happened, output) = attempt(act, Some(just));
        assert!(happened, "{right} is granted: {}", stderr(&output));
    }
}

fn each_right_takes_its_own_grant() {
    each_act_takes_its_right_and_nothing_else_does(&UNPRIVILEGED);
}

fn making_devices_takes_its_own_grant() {
    each_act_takes_its_right_and_nothing_else_does(&PRIVILEGED);
}

fn an_ioctl_on_a_device_takes_its_own_grant() {
    // RNDGETENTCNT: the entropy that the kernel's pool has, in bits.
    let code = "import fcntl\n\
                fd = os.open('/dev/urandom', os.O_RDONLY)\n\
                os.write(1, b'open ')\n\
                os.write(1, str(len(fcntl.ioctl(fd, 0x80045200, bytes(4)))).encode())";
    let with = |rights: &[&str]| {
        let mut command = python(code, &[]);
        output(layer(&mut command, json!({"paths": [{"path": "/dev", "access": rights}]})))
    };
    assert_eq!(output(&mut python(code, &[])).stdout, b"open 4");
    let denied = with(&["read-file"]);
    assert_eq!(denied.stdout, b"open ");
    assert!(stderr(&denied).contains(EACCES), "{}", stderr(&denied));
    for name in ["ioctl-dev", "ioctl"] {
        assert_eq!(with(&["read-file", name]).stdout, b"open 4", "{name}");
    }
}

fn a_group_is_its_rights_and_a_file_is_a_root() {
    let (folder, _listener) = stage();
    let file = folder.path().join("file");
    let code = "fd = os.open(sys.argv[1], os.O_WRONLY | os.O_TRUNC)\nos.write(fd, b'new')";
    let with = |access: &[&str]| {
        fs::write(&file, "42").unwrap();
        let mut command = python(code, &[file.to_str().unwrap()]);
        output(layer(&mut command, json!({"paths": [{"path": &file, "access": access}]})));
        fs::read_to_string(&file).unwrap()
    };
    assert_eq!(with(&["write-file"]), "42");
    assert_eq!(with(&["truncate"]), "42");
    assert_eq!(with(&["write-file", "truncate"]), "new");
    assert_eq!(with(&["modify"]), "new");
    // What a file can't have is left out.
    assert_eq!(with(&["write"]), "new");
    assert_eq!(with(&["modify", "create", "remove"]), "new");
    // What leaves nothing is no grant.
    let mut command = python(code, &[]);
    layer(&mut command, json!({"paths": [{"path": &file, "access": ["create"]}]}));
    assert!(refused(&mut command, RefusalReason::HandleMismatch).contains("Create"));
}

fn refused(command: &mut Command, expected: RefusalReason) -> String {
    match command.output() {
        Err(Error::Refused { reason, detail, .. }) => {
            assert_eq!(reason, expected, "{detail}");
            detail
        }
        Err(error) => panic!("{error}"),
        Ok(output) => panic!("it ran: {output:?}"),
    }
}

/// Whether anybody connected.
fn reached(listener: &TcpListener) -> bool {
    listener.set_nonblocking(true).unwrap();
    match listener.accept() {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

fn tcp_reaches_the_ports_that_are_named() {
    let code = "import socket\nsocket.create_connection(('127.0.0.1', int(sys.argv[1])))";
    let listen = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    };
    let ((granted, port), (other, other_port)) = (listen(), listen());
    let connect = |port: u16, fields: Option<Value>| {
        let mut command = python(code, &[&port.to_string()]);
        if let Some(fields) = fields {
            layer(&mut command, fields);
        }
        output(&mut command)
    };
    for fields in [None, Some(json!({})), Some(json!({"bind": []}))] {
        connect(other_port, fields.clone());
        assert!(reached(&other), "the control: {fields:?}");
    }
    let ports = Some(json!({"connect": [1, port]}));
    connect(port, ports.clone());
    assert!(reached(&granted));
    let nothing = Some(json!({"connect": []}));
    for denied in [connect(other_port, ports), connect(other_port, nothing)] {
        assert!(stderr(&denied).contains(EACCES), "{}", stderr(&denied));
        assert!(!reached(&other));
    }
}

fn tcp_is_served_at_the_ports_that_are_named() {
    let code = "import socket\n\
                server = socket.socket()\n\
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
                server.bind(('127.0.0.1', int(sys.argv[1])))\n\
                server.listen()\n\
                print(server.getsockname()[1], flush=True)\n\
                sys.stdin.readline()";
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // Whether it can be connected to from outside, at the port that it says.
    let serves = |port: u16, fields: Option<Value>| {
        let mut command = python(code, &[&port.to_string()]);
        if let Some(fields) = fields {
            layer(&mut command, fields);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{error}"));
        let mut line = String::new();
        let mut told = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut told, &mut line).unwrap();
        let port = line.trim().parse::<u16>().ok();
        let connected = port.map(|port| TcpStream::connect(("127.0.0.1", port)).unwrap());
        let output = child.wait_with_output().unwrap();
        let denied = stderr(&output).contains(EACCES);
        assert_ne!(connected.is_some(), denied, "{}", stderr(&output));
        !denied
    };
    let (port, other) = (free(), free());
    assert!(serves(other, None) && serves(other, Some(json!({"connect": []}))), "the control");
    assert!(serves(port, Some(json!({"bind": [port]}))));
    assert!(!serves(other, Some(json!({"bind": [port]}))));
    assert!(!serves(other, Some(json!({"bind": []}))));
    // A port of the kernel's choice.
    assert!(serves(0, Some(json!({"bind": [0]}))));
    assert!(!serves(other, Some(json!({"bind": [0]}))));
}

fn each_scope_is_its_own() {
    let name = format!("portcullis-test-{}", std::process::id());
    let listener =
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    listener.set_nonblocking(true).unwrap();
    for (scopes, signals, connects) in [
        (json!([]), true, true),
        (json!(["signal"]), false, true),
        (json!(["abstract-unix-socket"]), true, false),
        (json!(["signal", "abstract-unix-socket"]), false, false),
    ] {
        let mut bystander = bystander();
        let code = "import signal, socket\n\
                    for act in [\n    \
                        lambda: os.kill(int(sys.argv[1]), signal.SIGTERM),\n    \
                        lambda: socket.socket(socket.AF_UNIX).connect('\\0' + sys.argv[2]),\n\
                    ]:\n    \
                        try: act()\n    \
                        except PermissionError: print('denied')\n";
        let mut command = python(code, &[&bystander.id().to_string(), &name]);
        let output = output(layer(&mut command, json!({"scope": scopes})));
        let denials = usize::from(!signals) + usize::from(!connects);
        assert_eq!(output.stdout, "denied\n".repeat(denials).as_bytes(), "{}", stderr(&output));
        assert_eq!(listener.accept().is_ok(), connects, "{scopes}");
        if signals {
            assert!(!bystander.wait().unwrap().success());
        } else {
            assert!(bystander.try_wait().unwrap().is_none(), "the signal arrived");
        }
    }
}

fn layers_take_away_and_never_give() {
    let [both, first, second] = [(); 3].map(|()| TempDir::new().unwrap());
    let code = "for folder in sys.argv[1:]:\n    \
                    try: os.mkdir(folder + '/new')\n    \
                    except PermissionError: pass";
    let folders = [&both, &first, &second].map(|it| it.path().to_str().unwrap());
    let in_folders = || {
        folders.map(|folder| {
            let new = Path::new(folder).join("new");
            let made = new.exists();
            let _ = fs::remove_dir(new);
            made
        })
    };
    let granting = |folders: &[&str]| json!({"write": folders});
    output(&mut python(code, &folders));
    assert_eq!(in_folders(), [true; 3], "the control");
    let mut command = python(code, &folders);
    layer(&mut command, granting(&folders[..2]));
    output(&mut command);
    assert_eq!(in_folders(), [true, true, false]);
    layer(&mut command, granting(&[folders[0], folders[2]]));
    let explained = command.explain().unwrap();
    assert_eq!(explained.matches("landlock_restrict_self(").count(), 2, "{explained}");
    let twice = output(&mut command);
    assert_eq!(twice.report.applied().filter(|id| *id == ID).count(), 2);
    assert_eq!(in_folders(), [true, false, false]);
    // A layer that grants everything gives nothing back.
    layer(&mut command, granting(&["/"]));
    output(&mut command);
    assert_eq!(in_folders(), [true, false, false]);
}

fn the_kernel_stacks_16_layers_and_one_more_is_refused_by_name() {
    let mut command = python("os.write(1, b'42')", &[]);
    for _ in 0..MOST_LAYERS {
        layer(&mut command, json!({}));
    }
    assert_eq!(output(&mut command).stdout, b"42");
    layer(&mut command, json!({}));
    let detail = refused(&mut command, RefusalReason::PlanInvalid);
    assert!(detail.contains("17 layers") && detail.contains("16"), "{detail}");
}

/// Everything that is known here and that this kernel lacks, as it is told.
fn lacking() -> Vec<String> {
    let known = BTreeMap::from([(5, vec!["ioctl-dev"]), (9, vec!["resolve-unix"])]);
    let running = abi();
    let lacks = known.into_iter().filter(|(since, _)| *since > running);
    let told = |(since, names): (u8, Vec<&str>)| {
        let of =
            move |name| format!("{name}: needs ABI {since}, and this kernel has ABI {running}");
        names.into_iter().map(of).collect::<Vec<_>>()
    };
    lacks.flat_map(told).collect()
}

fn what_this_kernel_lacks_is_refused_or_left_out_and_told() {
    let (folder, _listener) = stage();
    let file = folder.path().join("file");
    let command = |compat: &str| {
        let code = "os.write(1, os.read(os.open(sys.argv[1], os.O_RDONLY), 9))\n\
                    os.open(sys.argv[1], os.O_WRONLY)";
        let mut command = python(code, &[file.to_str().unwrap()]);
        // One rule loses a right where the kernel lacks it, another all that it has.
        let paths = json!([
            {"path": folder.path(), "access": ["read", "unix"]},
            {"path": "/etc", "access": ["resolve-unix"]},
        ]);
        layer(&mut command, json!({"abi": 9, "compat": compat, "paths": paths}));
        command
    };
    let lacks = lacking();
    let preferred = output(&mut command("prefer"));
    let missing: Vec<_> = preferred.report.missing.iter().map(|it| &it.what).collect();
    assert_eq!(missing, lacks.iter().collect::<Vec<_>>());
    assert!(preferred.report.missing.iter().all(|it| it.id == ID));
    // What the kernel has is in force.
    assert_eq!(preferred.stdout, b"42");
    assert!(stderr(&preferred).contains(EACCES), "{}", stderr(&preferred));
    if lacks.is_empty() {
        assert!(output(&mut command("require")).report.missing.is_empty());
    } else {
        let detail = refused(&mut command("require"), RefusalReason::MissingPrimitive);
        assert!(lacks.iter().all(|it| detail.contains(it)), "{detail}");
    }
}

fn log_flags_are_the_childs_own_and_of_their_abi() {
    for (flags, bits) in [
        (json!([]), 0),
        (json!(["same-exec-off"]), 1),
        (json!(["new-exec-on"]), 2),
        (json!(["subdomains-off"]), 4),
        (json!(["same-exec-off", "new-exec-on", "subdomains-off"]), 7),
    ] {
        let log = |abi: u8, compat: &str| {
            let mut command = python("os.write(1, b'42')", &[]);
            layer(&mut command, json!({"abi": abi, "log": flags, "compat": compat}));
            command
        };
        if bits > 0 {
            let error = log(6, "prefer").output().unwrap_err();
            assert!(matches!(error, Error::Policy(_)), "{error}");
            assert!(error.to_string().contains("log flag"), "{error}");
        }
        if abi() >= 7 {
            let ran = output(&mut log(7, "require"));
            assert_eq!((&ran.stdout[..], ran.report.missing.len()), (&b"42"[..], 0));
            let explained = log(7, "require").explain().unwrap();
            assert!(explained.contains(&format!(", {bits}) = 0")), "{explained}");
        } else if bits > 0 {
            let detail = refused(&mut log(7, "require"), RefusalReason::MissingPrimitive);
            assert!(detail.contains("log flag") && detail.contains("needs ABI 7"), "{detail}");
            let missing = output(&mut log(7, "prefer")).report.missing;
            assert_eq!(missing.len(), flags.as_array().unwrap().len());
        }
    }
}

fn a_report_says_what_is_left_open_and_it_is() {
    let (folder, _listener) = stage();
    let file = folder.path().join("file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let code =
        "os.chmod(sys.argv[1], 0o640)\nos.write(1, b'42')\nos.open(sys.argv[1], os.O_RDONLY)";
    let launch = |fields: Value| {
        let mut command = python(code, &[file.to_str().unwrap()]);
        let report = output(layer(&mut command, fields)).report;
        report.residual.into_iter().map(|it| it.what).collect::<Vec<_>>()
    };
    let has = |lines: &[String], gap: &str| lines.iter().any(|line| line.starts_with(gap));
    let least = launch(json!({"abi": 3}));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640, "metadata");
    for gap in ["metadata", "ioctls", "pathname Unix", "abstract Unix", "signals", "TCP to", "UDP"]
    {
        assert!(has(&least, gap), "{gap} is not in {least:?}");
    }
    // Of what this kernel can close, what is asked for is closed.
    let all = portcullis::mechanisms(None).unwrap().into_iter().find(|it| it.id == ID).unwrap();
    assert!(all.detail.unwrap().starts_with(&format!("ABI {}", abi())));
    let closed: Vec<_> = least.iter().filter(|line| !all.residual.contains(line)).collect();
    let most = launch(json!({
        "abi": 10, "compat": "prefer", "scope": ["signal", "abstract-unix-socket"],
        "connect": [], "bind": [], "connect_udp": [], "bind_udp": [],
    }));
    assert_eq!(most, all.residual);
    assert!(closed.iter().all(|line| !most.contains(line)));
    assert_eq!(has(&most, "TCP to"), abi() < 4);
    assert_eq!(has(&most, "signals"), abi() < 6);
    assert_eq!(has(&most, "pathname Unix"), abi() < 9);
}

fn a_typed_policy_raises_its_own_abi() {
    let mut policy = Landlock {
        read: vec!["/".into()],
        exec: vec!["/".into()],
        connect: Some(vec![]),
        ..Landlock::default()
    };
    let error = python("", &[]).mechanism(&policy).unwrap().output().unwrap_err();
    assert!(error.to_string().contains("\"abi\": 4"), "{error}");
    policy.abi = policy.least_abi();
    assert!(python("", &[]).mechanism(&policy).unwrap().output().unwrap().status.success());
    policy.scope = vec![Scope::Signal];
    assert_eq!(policy.least_abi(), 6);
}

fn main() -> ExitCode {
    run(tests![
        each_right_takes_its_own_grant: [LANDLOCK, Need::Python],
        making_devices_takes_its_own_grant: [LANDLOCK, Need::Python, Need::Root],
        an_ioctl_on_a_device_takes_its_own_grant: [LANDLOCK, Need::LandlockAbi(5), Need::Python],
        a_group_is_its_rights_and_a_file_is_a_root: [LANDLOCK, Need::Python],
        tcp_reaches_the_ports_that_are_named: [LANDLOCK, Need::LandlockAbi(4), Need::Python],
        tcp_is_served_at_the_ports_that_are_named: [LANDLOCK, Need::LandlockAbi(4), Need::Python],
        each_scope_is_its_own: [LANDLOCK, Need::LandlockScopes, Need::Python],
        layers_take_away_and_never_give: [LANDLOCK, Need::Python],
        the_kernel_stacks_16_layers_and_one_more_is_refused_by_name: [LANDLOCK, Need::Python],
        what_this_kernel_lacks_is_refused_or_left_out_and_told: [LANDLOCK, Need::Python],
        log_flags_are_the_childs_own_and_of_their_abi: [LANDLOCK, Need::Python],
        a_report_says_what_is_left_open_and_it_is: [LANDLOCK, Need::Python],
        a_typed_policy_raises_its_own_abi: [LANDLOCK, Need::LandlockAbi(4), Need::Python],
    ])
}
