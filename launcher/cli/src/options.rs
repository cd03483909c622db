//! The options of a run, declared once and read in two ways.
//!
//! clap describes to itself every option before it reads one, which takes some thirty pages of memory and a
//! fifth of a run. A plain command line is read without it. What is not plain is left to clap, which knows what
//! is wrong with it: whatever is read here, clap would have read as the same.

use std::ffi::OsString;
use std::path::PathBuf;
use std::slice;
use std::str::FromStr;

use clap::Args;
use portcullis::mechanism::exec::FileDigest;

use crate::policy::{CapDrop, Mechanism, ResourceLimit, Size, User};

/// Declares options for clap, and reads them without it.
macro_rules! options {
    ($(#[$about:meta])* struct $options:ident {
        $($(#[$option:meta])* $field:ident: $held:ty,)*
    }) => {
        $(#[$about])*
        #[derive(Args)]
        pub(crate) struct $options {
            $($(#[$option])* pub(crate) $field: $held,)*
        }

        impl $options {
            /// Reads an option, and its value from `rest` where it has one that is not `inline`.
            fn read(
                &mut self,
                name: &str,
                inline: Option<&str>,
                rest: &mut slice::Iter<'_, OsString>,
            ) -> Option<()> {
                $(if is_named(name, stringify!($field)) {
                    return self.$field.read(inline, rest);
                })*
                None
            }
        }
    };
}

options! {
    #[derive(Debug, Default, PartialEq)]
    #[allow(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
    struct Options {
        /// Grant reading and executing below PATH.
        #[arg(long, value_name = "PATH")]
        read: Vec<PathBuf>,
        /// Grant reading below PATH, and no executing.
        #[arg(long, value_name = "PATH")]
        read_only: Vec<PathBuf>,
        /// Grant executing the files below PATH, which takes reading them too, and no listing of directories.
        #[arg(long, value_name = "PATH")]
        exec: Vec<PathBuf>,
        /// Grant everything below PATH.
        #[arg(long, value_name = "PATH")]
        write: Vec<PathBuf>,
        /// Grant connecting to this TCP port, and to no other.
        #[arg(long, value_name = "PORT")]
        connect: Vec<u16>,
        /// Grant binding to this TCP port, and to no other.
        #[arg(long, value_name = "PORT")]
        bind: Vec<u16>,
        /// Deny the network: an empty network namespace, and no socket of any family.
        #[arg(long)]
        no_network: bool,
        /// Deny new processes and threads.
        #[arg(long)]
        no_new_tasks: bool,
        /// Confine by all that an ordinary program survives: Landlock at the newest ABI with scopes and no
        /// TCP, the filters baseline and no-metadata, an empty network namespace, no capabilities, no core
        /// files, 256 processes, 1024 open files, its own session. Other options take the place of its parts.
        #[arg(long)]
        strict: bool,
        /// Filter system calls by a built-in profile (baseline, compute, no-metadata, no-network) or by a file
        /// in the format of OCI or seccompiler; each one is a layer.
        #[arg(long, value_name = "PROFILE|FILE")]
        seccomp: Vec<OsString>,
        /// Limit a resource: nofile=64, cpu=10:20, stack=8M, core=0, nproc=unlimited.
        #[arg(long, value_name = "NAME=SOFT[:HARD]")]
        limit: Vec<ResourceLimit>,
        /// Limit memory, by a cgroup that is made for the program: 512M.
        #[arg(long, value_name = "BYTES")]
        memory: Option<Size>,
        /// Limit processes and threads, by a cgroup that is made for the program.
        #[arg(long, value_name = "NUMBER")]
        pids: Option<u64>,
        /// The cgroup below which the program's own is made: by itself, the one above portcullis's own, for
        /// one that has processes has no cgroups with limits below it.
        #[arg(long, value_name = "PATH")]
        cgroup: Option<PathBuf>,
        /// Run as this user and group. Root becomes them; for anybody else they are inside a user namespace.
        #[arg(long, value_name = "USER[:GROUP]")]
        user: Option<User>,
        /// Drop a capability, or all of them.
        #[arg(long, value_name = "CAPABILITY|all")]
        cap_drop: Vec<CapDrop>,
        /// What the program is told as its own name.
        #[arg(long, value_name = "NAME")]
        argv0: Option<OsString>,
        /// Execute the program only if its file has this BLAKE3 digest, as b3sum prints it.
        #[arg(long, value_name = "blake3:HEX")]
        digest: Option<FileDigest>,
        /// Schedule a mechanism, in-tree or not, by its id and what a policy says of it: JSON or an inline
        /// table of TOML, or @FILE that holds one.
        #[arg(long, value_name = "ID={…}")]
        mechanism: Vec<Mechanism>,
        /// Leave the mechanism of this id out where this kernel can't do it, and say so in the report.
        #[arg(long, value_name = "ID")]
        prefer: Vec<String>,
        /// Set a variable, or with the name alone pass it on.
        #[arg(long, value_name = "NAME[=VALUE]")]
        env: Vec<OsString>,
        /// Start in PATH.
        #[arg(long, value_name = "PATH")]
        cwd: Option<PathBuf>,
        /// The launcher to use, in place of the one that is built in.
        #[arg(long, value_name = "PATH")]
        launcher: Option<PathBuf>,
    }
}

impl Options {
    /// Reads what stands before the program, and says where the program does; `None` where that takes clap.
    pub(crate) fn read_plain(arguments: &[OsString]) -> Option<(Self, &[OsString])> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        let program = loop {
            let program = rest.as_slice();
            let word = rest.next()?.to_str()?;
            let Some(option) = word.strip_prefix("--") else { break program };
            if option.is_empty() {
                break rest.as_slice();
            }
            let (name, inline) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            options.read(name, inline, &mut rest)?;
        };
        let named = program.first()?.as_encoded_bytes();
        (!named.is_empty() && !named.starts_with(b"-")).then_some((options, program))
    }
}

/// Whether an option's name is that of a field, which has no hyphens but underscores.
fn is_named(name: &str, field: &str) -> bool {
    let letters = field.bytes().map(|letter| if letter == b'_' { b'-' } else { letter });
    letters.eq(name.bytes())
}

/// What an option sets.
trait Held {
    fn read(&mut self, inline: Option<&str>, rest: &mut slice::Iter<'_, OsString>) -> Option<()>;
}

impl Held for bool {
    fn read(&mut self, inline: Option<&str>, _: &mut slice::Iter<'_, OsString>) -> Option<()> {
        let first = !std::mem::replace(self, true);
        (first && inline.is_none()).then_some(())
    }
}

impl<T: FromStr> Held for Option<T> {
    fn read(&mut self, inline: Option<&str>, rest: &mut slice::Iter<'_, OsString>) -> Option<()> {
        let first = self.replace(value(inline, rest)?).is_none();
        first.then_some(())
    }
}

impl<T: FromStr> Held for Vec<T> {
    fn read(&mut self, inline: Option<&str>, rest: &mut slice::Iter<'_, OsString>) -> Option<()> {
        self.push(value(inline, rest)?);
        Some(())
    }
}

/// An option's value. What is empty or begins with a hyphen may be a mistake, of which clap knows more.
fn value<T: FromStr>(inline: Option<&str>, rest: &mut slice::Iter<'_, OsString>) -> Option<T> {
    let text = match inline {
        Some(text) => text,
        None => rest.next()?.to_str()?,
    };
    if text.is_empty() || text.starts_with('-') {
        return None;
    }
    text.parse().ok()
}
