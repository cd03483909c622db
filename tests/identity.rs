//! Who the workload is: its ids, its user namespace, its capabilities. The oracle is what `/proc` says of
//! it, after the exec, to another process.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;

use portcullis::mechanism::capabilities::{Capabilities, Capability, Securebit};
use portcullis::mechanism::credentials::Credentials;
use portcullis::mechanism::userns::UserNamespace;
use portcullis::{Child, Command, Output, Stdio};
use portcullis_tests::{Host, Need, Signal, pid, read_proc, run, send, tests};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, pidfd_open};
use serde_json::json;
use tempfile::TempDir;

const USERNS: Need = Need::Mechanism("linux.userns.enter.v1");
const CREDENTIALS: Need = Need::Mechanism("linux.credentials.set.v1");
const CAPABILITIES: Need = Need::Mechanism("linux.capabilities.set.v1");
const SECCOMP: Need = Need::Mechanism("linux.seccomp.apply.v1");

/// The user and group that own nothing.
const NOBODY: u32 = 65534;
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_RAW: u64 = 1 << 13;

fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
    command
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{error}"))
}

fn said(command: &mut Command) -> String {
    String::from_utf8(output(command).stdout).unwrap()
}

/// A shell that waits until it is dropped, for others to look at.
fn waiting(confine: impl FnOnce(&mut Command)) -> Child {
    let mut command = shell("echo; read line");
    confine(&mut command);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{error}"));
    // When it has written, it is itself and no longer the launcher's child on the way to it.
    let mut byte = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
    child
}

/// A line of the workload's `/proc/PID/status`.
fn status(child: &Child, field: &str) -> String {
    let status = read_proc(child.id(), "status");
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field} in {status}"))
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// The bounding, permitted, effective, inheritable and ambient set.
fn sets(child: &Child) -> [u64; 5] {
    ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"]
        .map(|field| u64::from_str_radix(&status(child, field), 16).unwrap())
}

/// The lines of `/proc/PID/uid_map` or `gid_map`.
fn map(child: &Child, file: &str) -> Vec<[u32; 3]> {
    let line = |line: &str| {
        let numbers: Vec<u32> = line.split_whitespace().map(|it| it.parse().unwrap()).collect();
        numbers.try_into().unwrap()
    };
    read_proc(child.id(), file).lines().map(line).collect()
}

fn names(names: &[&str]) -> Vec<Capability> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn nobody() -> Credentials {
    Credentials { uid: NOBODY, gid: NOBODY, groups: vec![] }
}

/// A launch by a user without privileges.
fn as_nobody() -> Host {
    let mut host = Host::default();
    host.user = Some(NOBODY);
    host.open_to_all();
    host
}

/// A namespace with a thousand ids of nobody's, and one more that the workload is.
fn wide_namespace() -> UserNamespace {
    let map = vec![[0, 100_000, 1000].into(), [1000, 200_000, 1].into()];
    UserNamespace { uid: 1000, gid: 1000, uid_map: map.clone(), gid_map: map }
}

fn a_user_namespace_shows_the_ids_that_were_chosen() {
    let namespace = UserNamespace { uid: 1234, gid: 5678, ..UserNamespace::default() };
    let script = "echo $(id -u) $(id -g)";
    assert_eq!(said(shell(script).mechanism(&namespace).unwrap()), "1234 5678\n");
    assert_eq!(said(shell(script).mechanism(&UserNamespace::default()).unwrap()), "0 0\n");
    let child = waiting(|command| {
        command.mechanism(&namespace).unwrap();
    });
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    assert_eq!(map(&child, "uid_map"), [[1234, uid, 1]]);
    assert_eq!(map(&child, "gid_map"), [[5678, gid, 1]]);
    assert_eq!(read_proc(child.id(), "setgroups").trim(), "deny");
    assert_eq!(status(&child, "Uid"), vec![uid.to_string(); 4].join(" "));
    let notes = child.transcript().notes();
    let note = "user_namespace=mapped child_uid1234_egid5678";
    assert!(notes.iter().any(|it| it == note), "{notes:?}");
    // The exec of a uid that is not 0 ends without capabilities; that of uid 0 does not.
    assert_eq!(sets(&child)[1..], [0; 4]);
    let root = waiting(|command| {
        command.mechanism(&UserNamespace::default()).unwrap();
    });
    assert_ne!(sets(&root)[2], 0);
}

fn a_map_of_many_ranges_makes_the_workload_another_user_outside_too() {
    let child = waiting(|command| {
        command.mechanism(&wide_namespace()).unwrap();
    });
    for file in ["uid_map", "gid_map"] {
        assert_eq!(map(&child, file), [[0, 100_000, 1000], [1000, 200_000, 1]]);
    }
    assert_eq!(read_proc(child.id(), "setgroups").trim(), "allow");
    for field in ["Uid", "Gid"] {
        assert_eq!(status(&child, field), "200000 200000 200000 200000");
    }
    assert_eq!(said(shell("id -u").mechanism(&wide_namespace()).unwrap()), "1000\n");
    let root = UserNamespace { uid: 0, gid: 0, ..wide_namespace() };
    let child = waiting(|command| {
        command.mechanism(&root).unwrap();
    });
    assert_eq!(status(&child, "Uid"), "100000 100000 100000 100000");
    assert_ne!(sets(&child)[2], 0);
}

fn a_workload_that_became_another_user_dies_with_its_launcher() {
    let become_other: [&dyn Fn(&mut Command); 3] = [
        &|_| {},
        &|command| {
            command.mechanism(&nobody()).unwrap();
        },
        &|command| {
            command.mechanism(&wide_namespace()).unwrap();
        },
    ];
    for confine in become_other {
        let child = waiting(confine);
        let workload = pidfd_open(pid(child.id()), PidfdFlags::empty()).unwrap();
        send(child.launcher_id(), Signal::KILL);
        let mut polled = [PollFd::new(&workload, PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
        assert_eq!(
            poll(&mut polled, Some(&limit)).unwrap(),
            1,
            "{}",
            read_proc(child.id(), "status")
        );
    }
}

fn a_map_that_the_launcher_may_not_write_is_refused() {
    for (params, part) in [
        (json!({"uid_map": [[0, NOBODY, 2]]}), "needs setuid"),
        (json!({"uid_map": [[0, 0, 1]]}), "needs setuid"),
        (json!({"gid_map": [[0, NOBODY, 1], [1, 0, 1]]}), "needs setgid"),
    ] {
        let mut host = as_nobody();
        host.schedule("linux.userns.enter.v1", &params);
        host.run().refused("MissingPrimitive", part);
    }
}

fn a_map_that_no_kernel_takes_is_refused() {
    for (params, part) in [
        (json!({"uid_map": [[0, 10, 5], [4, 20, 1]]}), "overlap"),
        (json!({"uid_map": [[0, 10, 0]]}), "empty"),
        (json!({"gid_map": [[0, 4_294_967_295_u32, 1]]}), "beyond"),
        (json!({"uid": 7, "uid_map": [[0, 10, 5]]}), "uid 7 is in no range"),
        (json!({"uid": 4_294_967_295_u32}), "no id"),
        (json!({"uid_map": [[0, 10]]}), "params"),
    ] {
        let mut host = Host::default();
        host.schedule("linux.userns.enter.v1", &params);
        host.run().refused("PlanInvalid", part);
    }
}

fn the_workload_is_the_user_and_in_the_groups_that_were_set() {
    let child = waiting(|_| {});
    assert_eq!(status(&child, "Uid"), "0 0 0 0");
    for groups in [vec![], vec![7, 9]] {
        let credentials = Credentials { groups: groups.clone(), ..nobody() };
        let child = waiting(|command| {
            command.mechanism(&credentials).unwrap();
        });
        for field in ["Uid", "Gid"] {
            assert_eq!(status(&child, field), "65534 65534 65534 65534");
        }
        let told = groups.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(status(&child, "Groups"), told);
        // Until the exec it kept them, for others to choose from.
        assert_eq!(sets(&child)[1..], [0; 4]);
    }
}

fn another_user_is_denied_what_is_roots() {
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "42").unwrap();
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    let script = format!("cat {}", secret.display());
    assert_eq!(said(&mut shell(&script)), "42");
    assert_eq!(said(shell(&script).mechanism(&nobody()).unwrap()), "");
}

fn a_launcher_without_privileges_sets_no_other_credentials_than_its_own() {
    let attempt = |params: serde_json::Value| {
        let mut host = as_nobody();
        host.schedule("linux.credentials.set.v1", &params);
        host.run()
    };
    attempt(json!({"uid": NOBODY, "gid": NOBODY})).succeeded();
    for (params, part) in [
        (json!({"uid": 0, "gid": NOBODY}), "not setuid"),
        (json!({"uid": NOBODY, "gid": 0}), "not setgid"),
        (json!({"uid": NOBODY, "gid": NOBODY, "groups": [0]}), "not setgid"),
    ] {
        attempt(params).refused("MissingPrimitive", part);
    }
    attempt(json!({"uid": u32::MAX, "gid": 0})).refused("PlanInvalid", "4294967295");
}

fn credentials_in_a_user_namespace_are_those_inside() {
    let credentials = Credentials { uid: 5, gid: 6, groups: vec![7, 1000] };
    let child = waiting(|command| {
        command.mechanism(&wide_namespace()).unwrap().mechanism(&credentials).unwrap();
    });
    assert_eq!(status(&child, "Uid"), "100005 100005 100005 100005");
    assert_eq!(status(&child, "Gid"), "100006 100006 100006 100006");
    assert_eq!(status(&child, "Groups"), "100007 200000");
    for (credentials, part) in [
        (json!({"uid": 1, "gid": 0}), "uid 1 is not mapped"),
        (json!({"uid": 0, "gid": 1}), "gid 1 is not mapped"),
        (json!({"uid": 0, "gid": 0, "groups": [0]}), "setgroups is denied"),
    ] {
        let mut host = Host::default();
        host.schedule("linux.userns.enter.v1", &());
        host.schedule("linux.credentials.set.v1", &credentials);
        host.run().refused("PlanInvalid", part);
    }
}

fn root_without_capabilities_has_none_and_gains_none() {
    let control = waiting(|_| {});
    assert!(sets(&control)[0] != 0 && sets(&control)[2] != 0);
    let child = waiting(|command| {
        command.mechanism(&Capabilities::default()).unwrap();
    });
    assert_eq!(status(&child, "Uid"), "0 0 0 0");
    assert_eq!(sets(&child), [0; 5]);
}

fn root_keeps_the_capability_that_is_named() {
    let child = waiting(|command| {
        let keep = names(&["CAP_NET_RAW"]);
        command.mechanism(&Capabilities { keep, ..Capabilities::default() }).unwrap();
    });
    assert_eq!(sets(&child), [NET_RAW; 5]);
}

fn another_user_uses_the_ambient_capability_that_it_keeps() {
    // 0 stands for any port that is free, below 1024 for one that needs the capability.
    let script = "import socket\nfor port in range(1023, 600, -1):\n try:\n  \
                  socket.socket().bind(('127.0.0.1', port)); print('bound'); break\n except PermissionError:\n  \
                  print('denied'); break\n except OSError: pass";
    let python = || {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", script]).mechanism(&nobody()).unwrap();
        command
    };
    let keep =
        |names_kept: &[&str]| Capabilities { keep: names(names_kept), ..Capabilities::default() };
    assert_eq!(said(&mut python()), "denied\n");
    assert_eq!(said(python().mechanism(&keep(&["net_raw"])).unwrap()), "denied\n");
    assert_eq!(said(python().mechanism(&keep(&["net_bind_service"])).unwrap()), "bound\n");
    let child = waiting(|command| {
        let kept = keep(&["net_bind_service"]);
        command.mechanism(&nobody()).unwrap().mechanism(&kept).unwrap();
    });
    assert_eq!(status(&child, "Uid"), "65534 65534 65534 65534");
    assert_eq!(sets(&child), [NET_BIND_SERVICE; 5]);
}

fn what_is_permitted_and_not_ambient_is_gone_after_the_exec() {
    let child = waiting(|command| {
        let both = names(&["net_raw", "net_bind_service"]);
        let policy = Capabilities {
            permitted: both.clone(),
            effective: names(&["net_raw"]),
            inheritable: both,
            ambient: names(&["net_bind_service"]),
            ..Capabilities::default()
        };
        command.mechanism(&nobody()).unwrap().mechanism(&policy).unwrap();
    });
    let both = NET_RAW | NET_BIND_SERVICE;
    assert_eq!(sets(&child), [0, NET_BIND_SERVICE, NET_BIND_SERVICE, both, NET_BIND_SERVICE]);
}

fn root_of_a_user_namespace_can_be_without_capabilities_over_it() {
    let script =
        "unshare --mount mount -t tmpfs none /mnt 2>/dev/null && echo mounted || echo denied";
    let namespaced = || {
        let mut command = shell(script);
        command.mechanism(&UserNamespace::default()).unwrap();
        command
    };
    assert_eq!(said(&mut namespaced()), "mounted\n");
    assert_eq!(said(namespaced().mechanism(&Capabilities::default()).unwrap()), "denied\n");
    let child = waiting(|command| {
        command.mechanism(&UserNamespace::default()).unwrap();
        command.mechanism(&Capabilities::default()).unwrap();
    });
    assert_eq!(sets(&child), [0; 5]);
}

/// The child leaves uid 0 of the namespace, which empties its effective set, and needs it after.
fn capabilities_outlast_a_change_of_user_in_the_namespace() {
    let own_is_root = UserNamespace {
        uid: 1000,
        gid: 1000,
        uid_map: vec![[0, 0, 1].into(), [1000, 200_000, 1].into()],
        gid_map: vec![[0, 0, 1].into(), [1000, 200_000, 1].into()],
    };
    let keep = Capabilities { keep: names(&["net_bind_service"]), ..Capabilities::default() };
    let child = waiting(|command| {
        command.mechanism(&own_is_root).unwrap().mechanism(&keep).unwrap();
    });
    assert_eq!(status(&child, "Uid"), "200000 200000 200000 200000");
    assert_eq!(sets(&child), [NET_BIND_SERVICE; 5]);
}

fn with_noroot_uid_0_gains_nothing_by_an_exec() {
    let policy = |securebits: &[Securebit]| Capabilities {
        bounding: names(&["net_raw"]),
        inheritable: names(&["net_raw"]),
        securebits: securebits.to_vec(),
        ..Capabilities::default()
    };
    let noroot = policy(&[Securebit::Noroot, Securebit::NorootLocked]);
    let control = waiting(|command| {
        command.mechanism(&policy(&[])).unwrap();
    });
    assert_eq!(sets(&control), [NET_RAW, NET_RAW, NET_RAW, NET_RAW, 0]);
    let child = waiting(|command| {
        command.mechanism(&noroot).unwrap();
    });
    assert_eq!(sets(&child), [NET_RAW, 0, 0, NET_RAW, 0]);
}

fn the_kernel_says_which_securebits_are_set() {
    // PR_GET_SECUREBITS.
    let script = "import ctypes; print(ctypes.CDLL(None).prctl(27, 0, 0, 0, 0))";
    let python = || {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", script]);
        command
    };
    assert_eq!(said(&mut python()), "0\n");
    // An ambient capability is raised before there can be no more.
    let policy = Capabilities {
        keep: names(&["net_raw"]),
        securebits: vec![
            Securebit::NoCapAmbientRaise,
            Securebit::NoCapAmbientRaiseLocked,
            Securebit::NoSetuidFixup,
            Securebit::KeepCapsLocked,
        ],
        ..Capabilities::default()
    };
    assert_eq!(said(python().mechanism(&policy).unwrap()), format!("{}\n", 0b1110_0100));
    let child = waiting(|command| {
        command.mechanism(&policy).unwrap();
    });
    assert_eq!(sets(&child), [NET_RAW; 5]);
}

fn a_launcher_without_setpcap_says_that_the_bounding_set_is_untouched_or_refuses() {
    let attempt = |capabilities: serde_json::Value, no_new_privs: bool| {
        let mut host = as_nobody();
        host.schedule("linux.capabilities.set.v1", &capabilities);
        if no_new_privs {
            host.schedule("linux.seccomp.apply.v1", &json!({"deny": ["ptrace"]}));
        }
        host.run()
    };
    attempt(json!({}), false).refused("MissingPrimitive", "bounding set can't be reduced");
    let outcome = attempt(json!({}), true);
    outcome.succeeded();
    let residual =
        "residual=linux.capabilities.set.v1 without setpcap the bounding set is untouched";
    assert!(outcome.text.contains(residual), "{outcome:?}");
    attempt(json!({"keep": ["net_raw"]}), true).refused("MissingPrimitive", "net_raw");
    attempt(json!({"securebits": ["noroot"]}), true).refused("MissingPrimitive", "setpcap");
}

fn sets_that_contradict_each_other_are_refused() {
    for (params, part) in [
        (json!({"effective": ["kill"]}), "effective"),
        (json!({"permitted": ["kill"], "ambient": ["kill"]}), "ambient"),
        (json!({"keep": ["kill"], "bounding": []}), ""),
        (json!({"keep": ["kill"], "bounding": ["kill"]}), "keep"),
        (json!({"keep": ["kil"]}), "kil"),
        (json!({"securebits": ["keep-caps"]}), "keep-caps"),
    ] {
        let mut host = Host::default();
        host.schedule("linux.capabilities.set.v1", &params);
        let outcome = host.run();
        if !part.is_empty() {
            outcome.refused("PlanInvalid", part);
        }
    }
}

fn main() -> ExitCode {
    run(tests![
        a_user_namespace_shows_the_ids_that_were_chosen: [USERNS],
        a_map_of_many_ranges_makes_the_workload_another_user_outside_too: [USERNS, Need::Root],
        a_workload_that_became_another_user_dies_with_its_launcher:
            [USERNS, Need::Root, CREDENTIALS],
        a_map_that_the_launcher_may_not_write_is_refused: [USERNS, Need::Root],
        a_map_that_no_kernel_takes_is_refused: [],
        the_workload_is_the_user_and_in_the_groups_that_were_set: [Need::Root, CREDENTIALS],
        another_user_is_denied_what_is_roots: [Need::Root, CREDENTIALS],
        a_launcher_without_privileges_sets_no_other_credentials_than_its_own: [Need::Root],
        credentials_in_a_user_namespace_are_those_inside: [USERNS, Need::Root],
        root_without_capabilities_has_none_and_gains_none: [Need::Root, CAPABILITIES],
        root_keeps_the_capability_that_is_named: [Need::Root, CAPABILITIES],
        another_user_uses_the_ambient_capability_that_it_keeps:
            [Need::Root, CAPABILITIES, Need::Python],
        what_is_permitted_and_not_ambient_is_gone_after_the_exec: [Need::Root, CAPABILITIES],
        root_of_a_user_namespace_can_be_without_capabilities_over_it: [USERNS, CAPABILITIES],
        capabilities_outlast_a_change_of_user_in_the_namespace: [USERNS, Need::Root, CAPABILITIES],
        with_noroot_uid_0_gains_nothing_by_an_exec: [Need::Root, CAPABILITIES],
        the_kernel_says_which_securebits_are_set: [Need::Root, CAPABILITIES, Need::Python],
        a_launcher_without_setpcap_says_that_the_bounding_set_is_untouched_or_refuses:
            [Need::Root, SECCOMP],
        sets_that_contradict_each_other_are_refused: [],
    ])
}
