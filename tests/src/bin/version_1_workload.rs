//! What a version 1 launch runs in the tests: says what it can do, a line each, to standard output.

use std::fs;
use std::net::UdpSocket;
use std::process::Command;

fn main() {
    let say = |what: &str, can: bool| println!("{what}={can}");
    say("read-etc", fs::read("/etc/passwd").is_ok());
    say("read-usr", fs::read_dir("/usr").is_ok());
    let file = format!("/tmp/portcullis-version-1-{}", std::process::id());
    say("write-tmp", fs::write(&file, "x").is_ok());
    say("remove-tmp", fs::remove_file(&file).is_ok());
    say("new-task", Command::new("/bin/true").status().is_ok());
    say("socket", UdpSocket::bind("127.0.0.1:0").is_ok());
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    say("own-uids", map.split_whitespace().nth(2) == Some("1"));
    println!("fds={}", fs::read_dir("/proc/self/fd").map_or(0, Iterator::count));
    println!("env={:?}", std::env::vars().collect::<Vec<_>>());
}
