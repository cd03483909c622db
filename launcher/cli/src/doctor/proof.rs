//! Must-fail probes: a mechanism's demonstration, with it and without.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis::{Command, MechanismInfo, Params};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use serde::Serialize;
use tempfile::TempDir;

use super::host::own_cgroup;

/// Whether a mechanism does what it claims.
#[derive(Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub(super) enum Proof {
    /// It does, and without it that does not happen.
    Holds { script: String, with: String, without: String },
    /// It does not, or it happens without it too.
    Broken { script: String, with: String, without: String, expected: String },
    /// It could not be tried.
    NotTried { why: String },
}

/// Where demonstrations are run.
pub(super) struct Prover<'m> {
    launcher: Option<&'m Path>,
    folder: TempDir,
    /// A cgroup of our own, or why there is none.
    cgroup: Result<Cgroup, String>,
    /// The fd 99 that a scrub closes.
    _sentinel: Option<OwnedFd>,
}

impl<'m> Prover<'m> {
    pub(super) fn new(launcher: Option<&'m Path>) -> io::Result<Self> {
        let folder = TempDir::new()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
        let cgroup = Cgroup::new();
        Ok(Self { launcher, folder, cgroup, _sentinel: sentinel() })
    }

    pub(super) fn prove(&self, it: &MechanismInfo) -> Proof {
        if !it.is_supported() {
            return Proof::NotTried { why: it.why.clone().unwrap_or_default() };
        }
        let shown = &it.demonstration;
        let texts = [&shown.policy, &shown.script].into_iter();
        let wants_cgroup = texts
            .chain(shown.with.iter().map(|(_, policy)| policy))
            .any(|it| it.contains("@cgroup"));
        if let (true, Err(why)) = (wants_cgroup, &self.cgroup) {
            return Proof::NotTried { why: why.clone() };
        }
        let with = self.run(it, true);
        let without = if is_always_scheduled(it) { self.bare(it) } else { self.run(it, false) };
        let script = shown.script.clone();
        match (with, without) {
            (Ok(with), Ok(without)) if with == shown.shows && without != shown.shows => {
                Proof::Holds { script, with, without }
            }
            (Ok(with), Ok(without)) => {
                Proof::Broken { script, with, without, expected: shown.shows.clone() }
            }
            (Err(why), _) | (_, Err(why)) => Proof::NotTried { why },
        }
    }

    /// What the script prints.
    fn run(&self, it: &MechanismInfo, with_it: bool) -> Result<String, String> {
        let shown = &it.demonstration;
        self.fresh_file()?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &self.filled(&shown.script)]).env("PATH", Command::SEARCH_PATH);
        if let Some(launcher) = self.launcher {
            command.launcher(launcher);
        }
        let own = (it.id.clone(), shown.policy.clone());
        let own = Some(own).filter(|_| with_it && !is_always_scheduled(it));
        for (id, policy) in shown.with.iter().cloned().chain(own) {
            let policy: serde_json::Value = serde_json::from_str(&self.filled(&policy))
                .map_err(|error| format!("{id}: its demonstration's policy: {error}"))?;
            let params = Params::of(&policy).map_err(|error| format!("{id}: {error}"))?;
            command.policy(id, params);
        }
        let output = command.setup_limit(Duration::from_secs(30)).output();
        let output = output.map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// What the script prints without any launcher, for what every launch has.
    fn bare(&self, it: &MechanismInfo) -> Result<String, String> {
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", &self.filled(&it.demonstration.script)])
            .output()
            .map_err(|error| format!("/bin/sh: {error}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    fn filled(&self, text: &str) -> String {
        let folder = self.folder.path().display().to_string();
        let cgroup = self.cgroup.as_ref().map_or_else(|_| String::new(), Cgroup::path);
        text.replace("@folder", &folder).replace("@cgroup", &cgroup)
    }

    /// What one demonstration did, the next one does not find.
    fn fresh_file(&self) -> Result<(), String> {
        let folder = self.folder.path();
        let fresh = || -> io::Result<()> {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
            }
            fs::write(folder.join("file"), "42\n")?;
            fs::set_permissions(folder.join("file"), fs::Permissions::from_mode(0o666))
        };
        fresh().map_err(|error| format!("{}: {error}", folder.display()))
    }
}

/// The scrub and the exec are part of every launch.
fn is_always_scheduled(it: &MechanismInfo) -> bool {
    ["linux.ambient.scrub.v1", "linux.exec.v1"].contains(&it.id.as_str())
}

/// An fd at 99 that is not close-on-exec.
fn sentinel() -> Option<OwnedFd> {
    let fd = fcntl_dupfd_cloexec(File::open("/dev/null").ok()?, 99).ok()?;
    fcntl_setfd(&fd, FdFlags::empty()).ok()?;
    Some(fd)
}

/// A cgroup that is gone when this is dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Result<Self, String> {
        let own = own_cgroup().ok_or("no cgroup2 file system is mounted")?;
        let folder = own.join(format!("portcullis-demonstration-{}", std::process::id()));
        match fs::create_dir(&folder) {
            Ok(()) => Ok(Self(folder)),
            Err(error) => {
                Err(format!("{}: {error}: no cgroup is delegated to this user", own.display()))
            }
        }
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
