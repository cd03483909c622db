//! A program that does its job, and three things that it should not; first as it is, then confined.
//!
//! `cargo run --release -p portcullis --example demo`

use std::error::Error;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::{env, fs};

use portcullis::Command;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments[..] {
        [folder, port] => {
            attempt(Path::new(folder), port);
            Ok(())
        }
        _ => demonstrate(),
    }
}

/// What the workload does: this program again, with two arguments.
fn attempt(folder: &Path, port: &str) {
    let say = |what: &str, result: Result<String, std::io::Error>| match result {
        Ok(detail) => println!("    {what:<32} done    {detail}"),
        Err(error) => println!("    {what:<32} DENIED  {error}"),
    };
    say("write its result", fs::write(folder.join("out/result"), "42").map(|()| String::new()));
    say("read a secret", fs::read_to_string(folder.join("secret")));
    say("write outside its folder", fs::write(folder.join("trace"), "x").map(|()| String::new()));
    let connection = TcpStream::connect(format!("127.0.0.1:{port}"));
    say("reach the network", connection.map(|_| "connected".into()));
}

fn demonstrate() -> Result<(), Box<dyn Error>> {
    let folder = env::temp_dir().join(format!("portcullis-demo-{}", std::process::id()));
    fs::create_dir_all(folder.join("out"))?;
    fs::write(folder.join("secret"), "the secret")?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    let program = env::current_exe()?;

    println!("without portcullis:");
    std::process::Command::new(&program).arg(&folder).arg(&port).status()?;
    fs::remove_file(folder.join("trace"))?;
    fs::remove_file(folder.join("out/result"))?;

    println!("with portcullis:");
    let mut command = Command::new(&program);
    command.arg(&folder).arg(&port).write(folder.join("out")).read(&program).exec(&program);
    for root in ["/usr", "/lib", "/lib64"].iter().filter(|root| Path::new(root).exists()) {
        command.read(root).exec(root);
    }
    let mut child = command.no_network().spawn()?;
    child.wait()?;

    println!("what the launcher saw done to it:");
    for id in child.report().applied() {
        println!("    {id}");
    }
    println!("on disk afterwards:");
    for file in ["out/result", "trace"] {
        let exists = if folder.join(file).exists() { "there" } else { "not there" };
        println!("    {file:<32} {exists}");
    }
    fs::remove_dir_all(folder)?;
    Ok(())
}
