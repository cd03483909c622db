//! What a policy says: a default, and rules for calls.

use std::ffi::OsStr;
use std::fmt;

use portcullis_core::OsText;
use portcullis_core::mechanism::Policy;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::profiles::{self, Profile};

/// What a policy says, and, but for `file`, a plan carries.
///
/// A call is decided by the first that fits of: what is denied (`deny` and the `deny_…`), `rules` in
/// their order, the profile's rules; and else by `default`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools, reason = "each is a field of the policy")]
pub struct Seccomp {
    /// The system calls to deny with `EPERM`, by the names of their manual pages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// Denies clone, clone3, fork and vfork: no thread and no process is made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deny_new_tasks: bool,
    /// Denies the ioctls `TIOCSTI` and `TIOCLINUX`, which put input into a terminal that others read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deny_terminal_injection: bool,
    /// Denies socket: of every family, for the kernel has other ways to the network than inet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deny_inet_sockets: bool,
    /// A built-in list of rules. Its default is to allow, and no other can be given with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// What becomes of a call that nothing else decides. To allow it, where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Action>,
    /// Rules, in the order in which they are tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// A file with a default and more rules, which are tried after `rules`: in the format of the OCI
    /// runtime specification, or in seccompiler's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<OsText>,
    /// Has the kernel log every call that is not simply allowed (`SECCOMP_FILTER_FLAG_LOG`), but for the
    /// actions that `/proc/sys/kernel/seccomp/actions_logged` leaves out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub log: bool,
}

impl Policy for Seccomp {
    const ID: &'static str = super::ID;
}

impl Seccomp {
    /// The policy that a word of a command line stands for: a profile by its name, or a file by its path.
    ///
    /// ```
    /// use portcullis_mechanisms::seccomp::{Profile, Seccomp};
    ///
    /// let baseline = Seccomp::from_profile_or_file("baseline".as_ref());
    /// assert_eq!(baseline.profile, Some(Profile::Baseline));
    /// let file = Seccomp::from_profile_or_file("./baseline".as_ref());
    /// assert_eq!(file.file, Some("./baseline".into()));
    /// ```
    pub fn from_profile_or_file(word: &OsStr) -> Self {
        match profiles::profiles().iter().find(|profile| profile.name() == word) {
            Some(profile) => Self { profile: Some(*profile), ..Self::default() },
            None => Self { file: Some(word.into()), ..Self::default() },
        }
    }
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is made.
    Allow,
    /// It is not made, and fails with this error.
    Errno(Errno),
    /// It ends the process, all threads of it, with `SIGSYS` that can't be caught.
    KillProcess,
    /// It is not made, and the thread is sent a `SIGSYS` that it may catch.
    Trap,
    /// It is made, and logged.
    Log,
}

impl Action {
    pub(super) const EPERM: Self = Self::Errno(Errno::EPERM);

    /// What a filter returns for it ([seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html)).
    pub(super) fn code(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Errno(Errno(number)) => libc::SECCOMP_RET_ERRNO | u32::from(number),
            Self::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Self::Trap => libc::SECCOMP_RET_TRAP,
            Self::Log => libc::SECCOMP_RET_LOG,
        }
    }

    /// Whether the call is made.
    pub(super) fn lets_pass(self) -> bool {
        matches!(self, Self::Allow | Self::Log)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow => f.write_str("allow"),
            Self::Errno(errno) => write!(f, "errno({errno})"),
            Self::KillProcess => f.write_str("kill-process"),
            Self::Trap => f.write_str("trap"),
            Self::Log => f.write_str("log"),
        }
    }
}

/// An error number that a call can fail with: 1 to 4095. In a policy, its name or itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Errno(u16);

impl Errno {
    /// Operation not permitted.
    pub const EPERM: Self = Self(1);
    /// Function not implemented.
    pub const ENOSYS: Self = Self(38);
    /// Protocol not supported.
    pub const EPROTONOSUPPORT: Self = Self(93);
    /// Address family not supported.
    pub const EAFNOSUPPORT: Self = Self(97);

    /// The error of this number: 0 is none, and the kernel knows no more than 4095.
    pub fn new(number: u64) -> Option<Self> {
        u16::try_from(number).ok().filter(|it| (1..=4095).contains(it)).map(Self)
    }

    /// The error of this name.
    ///
    /// ```
    /// use portcullis_mechanisms::seccomp::Errno;
    ///
    /// assert_eq!(Errno::named("ENOSYS"), Some(Errno::ENOSYS));
    /// ```
    pub fn named(name: &str) -> Option<Self> {
        // The kernel's own start at 512 and no program is shown one.
        (1..512).map(Self).find(|errno| errno.name() == Some(name))
    }

    fn name(self) -> Option<&'static str> {
        syscalls::Errno::new(self.0.into()).name()
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Errno {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.0)
    }
}

impl<'de> Deserialize<'de> for Errno {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Errno;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an errno: its name, or its number from 1 to 4095")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<Errno, E> {
                Errno::named(name).ok_or_else(|| E::invalid_value(de::Unexpected::Str(name), &self))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Errno, E> {
                Errno::new(number)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Errno, E> {
                let found = u64::try_from(number).ok().and_then(Errno::new);
                found.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// What becomes of some calls, where all of some conditions hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The calls, by the names of their manual pages, and sets of calls, by their names with `@`.
    pub calls: Vec<String>,
    /// What becomes of them.
    pub action: Action,
    /// The conditions, of which each must hold. None: the rule always fits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<Condition>,
}

/// How much of an argument is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Width {
    /// The low 32 bits: for an argument that the kernel takes as an `int`, whose other bits it ignores.
    Low32,
    /// All 64 bits: for a `long`, a `size_t`, an address.
    All64,
}

impl TryFrom<u8> for Width {
    type Error = String;

    fn try_from(bits: u8) -> Result<Self, String> {
        match bits {
            32 => Ok(Self::Low32),
            64 => Ok(Self::All64),
            other => Err(format!("an argument's width is 32 or 64 bits, and not {other}")),
        }
    }
}

impl From<Width> for u8 {
    fn from(width: Width) -> Self {
        match width {
            Width::Low32 => 32,
            Width::All64 => 64,
        }
    }
}

/// How an argument is compared. Numbers have no sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// It is this.
    Eq(u64),
    /// It is not this.
    Ne(u64),
    /// It is less.
    Lt(u64),
    /// It is less or this.
    Le(u64),
    /// It is more.
    Gt(u64),
    /// It is more or this.
    Ge(u64),
    /// Its bits that are in `mask` are those of `value`, which has no others.
    MaskedEq {
        /// The bits that count.
        mask: u64,
        /// What they are.
        value: u64,
    },
}

impl Comparison {
    pub(super) fn holds(self, argument: u64) -> bool {
        match self {
            Self::Eq(value) => argument == value,
            Self::Ne(value) => argument != value,
            Self::Lt(value) => argument < value,
            Self::Le(value) => argument <= value,
            Self::Gt(value) => argument > value,
            Self::Ge(value) => argument >= value,
            Self::MaskedEq { mask, value } => argument & mask == value,
        }
    }
}

/// What must hold of an argument for a rule to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WireCondition", into = "WireCondition")]
pub struct Condition {
    argument: u8,
    width: Width,
    comparison: Comparison,
}

impl Condition {
    /// A condition of the argument at this place, the first of which is 0.
    ///
    /// # Errors
    ///
    /// What is wrong: there is no such argument, a number has more bits than are looked at, or a value has
    /// bits that are not in its mask, so that nothing would fit.
    pub fn new(argument: u8, width: Width, comparison: Comparison) -> Result<Self, String> {
        let (value, mask) = match comparison {
            Comparison::Eq(it)
            | Comparison::Ne(it)
            | Comparison::Lt(it)
            | Comparison::Le(it)
            | Comparison::Gt(it)
            | Comparison::Ge(it) => (it, None),
            Comparison::MaskedEq { mask, value } => (value, Some(mask)),
        };
        if argument > 5 {
            return Err(format!("argument {argument}: a call has those from 0 to 5"));
        }
        if width == Width::Low32 && (value | mask.unwrap_or(0)) > u32::MAX.into() {
            return Err(format!("argument {argument}: a value or mask has more than 32 bits"));
        }
        if mask.is_some_and(|mask| value & !mask != 0) {
            return Err(format!(
                "argument {argument}: the value has bits that are not in the mask"
            ));
        }
        Ok(Self { argument, width, comparison })
    }

    /// For tables: an argument that the kernel takes as an `int`.
    pub(super) const fn int(argument: u8, comparison: Comparison) -> Self {
        Self { argument, width: Width::Low32, comparison }
    }

    /// For tables: an argument of which all 64 bits count.
    pub(super) const fn long(argument: u8, comparison: Comparison) -> Self {
        Self { argument, width: Width::All64, comparison }
    }

    pub(super) fn argument(self) -> u8 {
        self.argument
    }

    pub(super) fn width(self) -> Width {
        self.width
    }

    pub(super) fn comparison(self) -> Comparison {
        self.comparison
    }

    /// Whether it holds of a call with these arguments; nobody knows where its argument is not known.
    pub(super) fn holds(self, arguments: &[Option<u64>; 6]) -> Option<bool> {
        let argument = arguments[usize::from(self.argument)]?;
        Some(self.comparison.holds(match self.width {
            Width::Low32 => argument & u64::from(u32::MAX),
            Width::All64 => argument,
        }))
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WireCondition { arg, op, value, mask, width } = (*self).into();
        let bits = u8::from(width);
        match mask {
            None => write!(f, "arg{arg}/{bits} {} {value:#x}", op.sign()),
            Some(mask) => write!(f, "arg{arg}/{bits} & {mask:#x} == {value:#x}"),
        }
    }
}

/// A condition as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireCondition {
    arg: u8,
    op: Operator,
    value: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mask: Option<u64>,
    width: Width,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Operator {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    MaskedEq,
}

impl Operator {
    fn sign(self) -> &'static str {
        match self {
            Self::Eq | Self::MaskedEq => "==",
            Self::Ne => "!=",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
        }
    }
}

impl TryFrom<WireCondition> for Condition {
    type Error = String;

    fn try_from(wire: WireCondition) -> Result<Self, String> {
        let WireCondition { arg, op, value, mask, width } = wire;
        let comparison = match (op, mask) {
            (Operator::Eq, None) => Comparison::Eq(value),
            (Operator::Ne, None) => Comparison::Ne(value),
            (Operator::Lt, None) => Comparison::Lt(value),
            (Operator::Le, None) => Comparison::Le(value),
            (Operator::Gt, None) => Comparison::Gt(value),
            (Operator::Ge, None) => Comparison::Ge(value),
            (Operator::MaskedEq, Some(mask)) => Comparison::MaskedEq { mask, value },
            (Operator::MaskedEq, None) => {
                return Err(format!("argument {arg}: masked-eq needs a mask"));
            }
            (_, Some(_)) => return Err(format!("argument {arg}: only masked-eq has a mask")),
        };
        Self::new(arg, width, comparison)
    }
}

impl From<Condition> for WireCondition {
    fn from(Condition { argument: arg, width, comparison }: Condition) -> Self {
        let (op, value, mask) = match comparison {
            Comparison::Eq(value) => (Operator::Eq, value, None),
            Comparison::Ne(value) => (Operator::Ne, value, None),
            Comparison::Lt(value) => (Operator::Lt, value, None),
            Comparison::Le(value) => (Operator::Le, value, None),
            Comparison::Gt(value) => (Operator::Gt, value, None),
            Comparison::Ge(value) => (Operator::Ge, value, None),
            Comparison::MaskedEq { mask, value } => (Operator::MaskedEq, value, Some(mask)),
        };
        Self { arg, op, value, mask, width }
    }
}

#[cfg(test)]
mod tests {
    use portcullis_core::Params;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_policy_is_written_as_the_guide_says_and_comes_back_the_same() {
        let written = json!({
            "profile": "baseline",
            "rules": [
                {"calls": ["ptrace", "@mount"], "action": {"errno": "EACCES"}},
                {"calls": ["socket"], "action": "kill-process", "when": [
                    {"arg": 0, "op": "ne", "value": 1, "width": 32},
                    {"arg": 1, "op": "masked-eq", "value": 1, "mask": 15, "width": 64},
                ]},
                {"calls": ["uname"], "action": {"errno": 4095}},
            ],
            "log": true,
        });
        let policy: Seccomp = serde_json::from_value(written).unwrap();
        assert_eq!(policy.rules[0].action, Action::Errno(Errno(13)));
        assert_eq!(policy.rules[1].when.len(), 2);
        let params = Params::of(&policy).unwrap();
        assert_eq!(params.parse::<Seccomp>().unwrap(), policy);
        assert_eq!(Params::of(&Seccomp::default()).unwrap(), Params::default());
    }

    #[test]
    fn what_contradicts_itself_is_no_policy_and_is_told_why() {
        let rule = |action, condition| json!({"rules": [{"calls": ["read"], "action": action, "when": [condition]}]});
        let condition = |op: &str, value: u64, mask: Option<u64>, width: u8| match mask {
            Some(mask) => json!({"arg": 0, "op": op, "value": value, "mask": mask, "width": width}),
            None => json!({"arg": 0, "op": op, "value": value, "width": width}),
        };
        let ok = condition("eq", 1, None, 32);
        for (written, why) in [
            (rule(json!("notify"), ok.clone()), "notify"),
            (rule(json!({"errno": 0}), ok.clone()), "errno"),
            (rule(json!({"errno": 4096}), ok.clone()), "errno"),
            (rule(json!({"errno": -1}), ok.clone()), "errno"),
            (rule(json!({"errno": "ENONSENSE"}), ok), "ENONSENSE"),
            (rule(json!("allow"), condition("eq", 1, None, 16)), "32 or 64"),
            (rule(json!("allow"), condition("eq", 1 << 32, None, 32)), "more than 32 bits"),
            (
                rule(json!("allow"), condition("masked-eq", 1, Some(1 << 32), 32)),
                "more than 32 bits",
            ),
            (rule(json!("allow"), condition("masked-eq", 2, Some(1), 32)), "not in the mask"),
            (rule(json!("allow"), condition("masked-eq", 1, None, 32)), "needs a mask"),
            (rule(json!("allow"), condition("eq", 1, Some(1), 32)), "only masked-eq"),
            (
                rule(json!("allow"), json!({"arg": 6, "op": "eq", "value": 1, "width": 32})),
                "from 0 to 5",
            ),
            (rule(json!("allow"), json!({"arg": 0, "op": "eq", "value": 1})), "width"),
            (json!({"profile": "no-such"}), "no-such"),
        ] {
            // As JSON has it, and as a plan does.
            let error = serde_json::from_value::<Seccomp>(written.clone()).unwrap_err().to_string();
            assert!(error.contains(why), "{written}: {error}");
            let error = Params::of(&written).unwrap().parse::<Seccomp>().unwrap_err().to_string();
            assert!(error.contains(why), "{written}: {error}");
        }
    }

    #[test]
    fn what_is_not_known_of_an_argument_is_not_known_of_a_condition() {
        let condition = Condition::int(1, Comparison::Eq(7));
        let mut arguments = [None; 6];
        assert_eq!(condition.holds(&arguments), None);
        arguments[1] = Some(0xffff_ffff_0000_0007);
        assert_eq!(condition.holds(&arguments), Some(true));
        assert_eq!(Condition::long(1, Comparison::Eq(7)).holds(&arguments), Some(false));
    }
}
