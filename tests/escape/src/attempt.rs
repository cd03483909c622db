//! An escape, what it is told of the outside, and what came of it.

use std::collections::BTreeMap;
use std::io::{self, BufRead};
use std::path::PathBuf;

use rustix::io::Errno;
use serde_json::json;

/// A way out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Escape {
    pub(crate) group: &'static str,
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) attempt: fn(&Outside) -> Attempt,
}

/// What was got, in words; or why nothing was.
pub(crate) type Attempt = Result<String, Failure>;

/// Why an escape did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The kernel's answer.
    Errno(Errno),
    /// The calls succeeded, and reached nothing.
    NoEffect(String),
    /// There is nothing here to be attempted.
    Unavailable(String),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let errno = error.raw_os_error().map(|errno| Self::Errno(Errno::from_raw_os_error(errno)));
        errno.unwrap_or_else(|| Self::NoEffect(error.to_string()))
    }
}

/// What the kernel answers to calls that it was built without, and to families of sockets.
const ABSENT: &[Errno] =
    &[Errno::NOSYS, Errno::AFNOSUPPORT, Errno::PROTONOSUPPORT, Errno::SOCKTNOSUPPORT];

/// The line that tells what came of an escape, and the exit status that goes with it.
pub(crate) fn report(name: &str, attempt: &Attempt) -> (String, u8) {
    let (outcome, errno, detail, status) = match attempt {
        Ok(detail) => ("escaped", None, detail.clone(), 0),
        Err(Failure::Errno(errno)) => {
            let absent = ABSENT.contains(errno);
            let (outcome, status) = if absent { ("unavailable", 2) } else { ("denied", 1) };
            (outcome, Some(errno.raw_os_error()), errno.to_string(), status)
        }
        Err(Failure::NoEffect(why)) => ("denied", None, why.clone(), 1),
        Err(Failure::Unavailable(why)) => ("unavailable", None, why.clone(), 2),
    };
    let line = json!({"name": name, "outcome": outcome, "errno": errno, "detail": detail});
    (line.to_string(), status)
}

/// What there is outside, as `key=value` arguments tell it.
#[derive(Debug)]
pub(crate) struct Outside(BTreeMap<String, String>);

impl Outside {
    pub(crate) fn new(arguments: impl Iterator<Item = String>) -> Self {
        Self(arguments.filter_map(|it| it.split_once('=').map(own)).collect())
    }

    pub(crate) fn text(&self, key: &str) -> Result<&str, Failure> {
        let missing = || Failure::Unavailable(format!("nothing was said of {key}"));
        self.0.get(key).map(String::as_str).ok_or_else(missing)
    }

    pub(crate) fn number<N: std::str::FromStr>(&self, key: &str) -> Result<N, Failure> {
        let unknown = |_| Failure::Unavailable(format!("{key} is no number"));
        self.text(key)?.parse().map_err(unknown)
    }

    /// A path below the folder that nothing grants.
    pub(crate) fn outside(&self, name: &str) -> Result<PathBuf, Failure> {
        Ok(PathBuf::from(self.text("outside")?).join(name))
    }

    /// A path below the folder that may be read.
    pub(crate) fn readable(&self, name: &str) -> Result<PathBuf, Failure> {
        Ok(PathBuf::from(self.text("readable")?).join(name))
    }

    /// A path below the folder that may be written.
    pub(crate) fn writable(&self, name: &str) -> Result<PathBuf, Failure> {
        Ok(PathBuf::from(self.text("writable")?).join(name))
    }

    /// A path below the folder whose programs may be executed.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf, Failure> {
        Ok(PathBuf::from(self.text("programs")?).join(name))
    }

    /// The process outside that is to suffer.
    pub(crate) fn victim(&self) -> Result<i32, Failure> {
        self.number("victim")
    }

    /// A file of the victim's folder in `/proc`.
    pub(crate) fn victims(&self, file: &str) -> Result<PathBuf, Failure> {
        Ok(format!("/proc/{}/{file}", self.victim()?).into())
    }
}

/// Has the outside do its part: says what is ready, and waits until that was seen to.
pub(crate) fn meet(what: &str) {
    println!("{}", json!({"ready": what}));
    let _ = io::stdin().lock().read_line(&mut String::new());
}

fn own((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

/// A call whose arguments are wrong in a way that is looked at after its permission: this errno says that
/// it would have been let.
pub(crate) fn reached(result: Result<i64, Errno>, wrong: &[Errno]) -> Attempt {
    match result {
        Ok(_) => Ok("let".into()),
        Err(errno) if wrong.contains(&errno) => Ok(format!("let: {errno}")),
        Err(errno) => Err(errno.into()),
    }
}

/// Lists escapes: a function each, the first line of whose documentation says what it does.
macro_rules! escapes {
    ($group:literal: $(#[doc = $about:literal] fn $name:ident($at:pat_param) $body:block)*) => {
        $(#[doc = $about] fn $name($at: &$crate::attempt::Outside) -> $crate::attempt::Attempt $body)*

        pub(crate) const ESCAPES: &[$crate::attempt::Escape] = &[$($crate::attempt::Escape {
            group: $group,
            name: stringify!($name),
            about: $about,
            attempt: $name,
        }),*];
    };
}
pub(crate) use escapes;
