//! Filters in the format of the OCI runtime specification
//! ([`linux.seccomp`](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp)),
//! with what container engines add to it in the profiles that they ship.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::calls;
use super::file::{Content, unambiguous};
use super::policy::{Action, Comparison, Condition, Errno, Rule, Width};

/// This architecture, as the format and as Go calls it.
const HERE: (&str, &str) = if cfg!(target_arch = "x86_64") {
    ("SCMP_ARCH_X86_64", "amd64")
} else {
    ("SCMP_ARCH_AARCH64", "arm64")
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Filter {
    default_action: String,
    default_errno_ret: Option<u64>,
    default_errno: Option<String>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<Architecture>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    syscalls: Option<Vec<Syscalls>>,
    #[serde(default, rename = "comment")]
    _comment: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Architecture {
    architecture: String,
    #[serde(default, rename = "subArchitectures")]
    _sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Syscalls {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u64>,
    errno: Option<String>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Circumstances>,
    #[serde(default)]
    excludes: Option<Circumstances>,
    #[serde(default, rename = "comment")]
    _comment: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Circumstances {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// Reads a filter.
pub(super) fn parse(bytes: &[u8]) -> Result<Content, String> {
    let filter: Filter = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_err(|error| format!("/proc/sys/kernel/osrelease: {error}"))?;
    content(filter, kernel(&release)?)
}

fn content(filter: Filter, kernel: (u32, u32)) -> Result<Content, String> {
    let named = filter.arch_map.iter().flatten().map(|it| &it.architecture);
    let mut named = named.chain(filter.architectures.iter().flatten()).peekable();
    if named.peek().is_some() && !named.any(|it| it == HERE.0) {
        return Err(format!("it is for other architectures than {}", HERE.0));
    }
    let mut log = false;
    for flag in filter.flags.iter().flatten() {
        match flag.as_str() {
            "SECCOMP_FILTER_FLAG_LOG" => log = true,
            // A launch has one thread when it installs the filter.
            "SECCOMP_FILTER_FLAG_TSYNC" => {}
            other => return Err(format!("the flag {other:?} is not supported")),
        }
    }
    let default =
        action(&filter.default_action, filter.default_errno_ret, filter.default_errno.as_deref())?;
    let mut rules = Vec::new();
    for entry in filter.syscalls.into_iter().flatten() {
        // What is not known is refused, even where it would not apply.
        let action = action(&entry.action, entry.errno_ret, entry.errno.as_deref())?;
        let conditions = conditions(entry.args.as_deref().unwrap_or_default())
            .map_err(|what| format!("{}: {what}", entry.names.join(", ")))?;
        if !applies(
            &entry.includes.unwrap_or_default(),
            &entry.excludes.unwrap_or_default(),
            kernel,
        )? {
            continue;
        }
        // One that says what the default says is left out, as runc does.
        let calls: Vec<String> =
            entry.names.into_iter().filter(|name| calls::number(name).is_some()).collect();
        if calls.is_empty() || action == default {
            continue;
        }
        let rule = |when| Rule { calls: calls.clone(), action, when };
        rules.extend(conditions.into_iter().map(rule));
    }
    unambiguous(&rules)?;
    Ok(Content { default, rules, log })
}

fn action(name: &str, number: Option<u64>, errno: Option<&str>) -> Result<Action, String> {
    let action = match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => {
            let unknown = || format!("{name} has an errno that is none, {number:?} {errno:?}");
            let by_name = errno.map(|it| Errno::named(it).ok_or_else(unknown)).transpose()?;
            let by_number = number.map(|it| Errno::new(it).ok_or_else(unknown)).transpose()?;
            match (by_name, by_number) {
                (Some(one), Some(other)) if one != other => return Err(unknown()),
                (one, other) => Action::Errno(one.or(other).unwrap_or(Errno::EPERM)),
            }
        }
        // A process of which one thread is killed waits for it for ever.
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" | "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_LOG" => Action::Log,
        other => return Err(format!("the action {other:?} is not supported")),
    };
    Ok(action)
}

/// The conditions of the rules that an entry stands for: one where all must hold, and as many as there are
/// where two are of the same argument, for then any will do (so runc and crun have it).
fn conditions(arguments: &[Argument]) -> Result<Vec<Vec<Condition>>, String> {
    let mut seen: BTreeMap<u8, usize> = BTreeMap::new();
    for argument in arguments {
        *seen.entry(argument.index).or_default() += 1;
    }
    let all = arguments.iter().map(condition).collect::<Result<Vec<_>, String>>()?;
    if seen.values().any(|times| *times > 1) {
        return Ok(all.into_iter().map(|one| vec![one]).collect());
    }
    Ok(vec![all])
}

fn condition(argument: &Argument) -> Result<Condition, String> {
    let Argument { index, value, value_two, ref op } = *argument;
    let comparison = match op.as_str() {
        "SCMP_CMP_EQ" => Comparison::Eq(value),
        "SCMP_CMP_NE" => Comparison::Ne(value),
        "SCMP_CMP_LT" => Comparison::Lt(value),
        "SCMP_CMP_LE" => Comparison::Le(value),
        "SCMP_CMP_GT" => Comparison::Gt(value),
        "SCMP_CMP_GE" => Comparison::Ge(value),
        "SCMP_CMP_MASKED_EQ" => Comparison::MaskedEq { mask: value, value: value_two },
        other => return Err(format!("the comparison {other:?} is not supported")),
    };
    if value_two != 0 && op != "SCMP_CMP_MASKED_EQ" {
        return Err(format!("{op} takes no valueTwo"));
    }
    Condition::new(index, Width::All64, comparison)
}

/// Whether an entry is for a process that has no capability, on this architecture and kernel.
fn applies(
    includes: &Circumstances,
    excludes: &Circumstances,
    running: (u32, u32),
) -> Result<bool, String> {
    let here = |arches: &Option<Vec<String>>| arches.iter().flatten().any(|it| it == HERE.1);
    let named = |list: &Option<Vec<String>>| list.iter().flatten().next().is_some();
    let at_least = |version: &Option<String>| {
        version.as_deref().map(|it| kernel(it).map(|least| running >= least)).transpose()
    };
    let old_enough = at_least(&excludes.min_kernel)?.unwrap_or(false);
    let new_enough = at_least(&includes.min_kernel)?.unwrap_or(true);
    let included = !named(&includes.caps)
        && (!named(&includes.arches) || here(&includes.arches))
        && new_enough;
    Ok(included && !here(&excludes.arches) && !old_enough)
}

/// The first two numbers of a kernel's version.
fn kernel(version: &str) -> Result<(u32, u32), String> {
    let mut numbers = version.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(format!("{version:?} is no version of a kernel")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::seccomp::file::Content;

    const ENGINE: &str = include_str!("fixtures/engine.json");

    fn read(value: &Value) -> Result<Content, String> {
        parse(value.to_string().as_bytes())
    }

    /// What a filter with this one entry says of `uname`.
    fn entry(entry: Value) -> Result<Vec<Rule>, String> {
        let mut entry = entry;
        for (field, value) in [("names", json!(["uname"])), ("action", json!("SCMP_ACT_ERRNO"))] {
            entry.as_object_mut().unwrap().entry(field).or_insert(value);
        }
        read(&json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [entry]})).map(|it| it.rules)
    }

    #[test]
    fn an_engines_profile_is_read_as_for_no_capability() {
        let content = parse(ENGINE.as_bytes()).unwrap();
        assert_eq!(content.default, Action::EPERM);
        let of = |call: &str| -> Vec<(Action, usize)> {
            let rules = content.rules.iter().filter(|rule| rule.calls.iter().any(|it| it == call));
            rules.map(|rule| (rule.action, rule.when.len())).collect()
        };
        assert_eq!(of("read"), [(Action::Allow, 0)]);
        assert_eq!(of("mount"), [], "it is for who has CAP_SYS_ADMIN");
        assert_eq!(of("clone3"), [(Action::Errno(Errno::ENOSYS), 0)]);
        assert_eq!(of("clone"), [(Action::Allow, 1)]);
        assert_eq!(of("ptrace"), [(Action::Allow, 0)], "of kernels from 4.8 on");
        assert_eq!(of("personality").len(), 5);
        assert_eq!(of("_llseek"), [], "it is of other architectures");
        assert_eq!(of("arch_prctl").len(), usize::from(cfg!(target_arch = "x86_64")));
    }

    #[test]
    fn each_action_and_errno_is_read() {
        let of = |name: &str, number: Value| entry(json!({"action": name, "errnoRet": number}));
        let one = |rules: Result<Vec<Rule>, String>| rules.unwrap()[0].action;
        assert_eq!(one(of("SCMP_ACT_ERRNO", Value::Null)), Action::EPERM);
        assert_eq!(one(of("SCMP_ACT_ERRNO", json!(38))), Action::Errno(Errno::ENOSYS));
        assert_eq!(one(entry(json!({"errno": "ENOSYS"}))), Action::Errno(Errno::ENOSYS));
        assert_eq!(one(of("SCMP_ACT_TRAP", Value::Null)), Action::Trap);
        assert_eq!(one(of("SCMP_ACT_LOG", Value::Null)), Action::Log);
        for kill in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS"] {
            assert_eq!(one(of(kill, Value::Null)), Action::KillProcess);
        }
        assert_eq!(of("SCMP_ACT_ALLOW", Value::Null).unwrap(), [], "the default says it");
    }

    #[test]
    fn arguments_must_all_hold_but_two_of_one_place_are_two_rules() {
        let arg =
            |index: u8, value: u64, op: &str| json!({"index": index, "value": value, "op": op});
        let rules = |args: Value| entry(json!({"args": args})).unwrap();
        let both = rules(json!([arg(0, 1, "SCMP_CMP_EQ"), arg(1, 2, "SCMP_CMP_GT")]));
        assert_eq!((both.len(), both[0].when.len()), (1, 2));
        let either = rules(json!([arg(0, 1, "SCMP_CMP_EQ"), arg(0, 2, "SCMP_CMP_EQ")]));
        assert_eq!((either.len(), either[0].when.len()), (2, 1));
        let masked =
            rules(json!([{"index": 0, "value": 15, "valueTwo": 5, "op": "SCMP_CMP_MASKED_EQ"}]));
        let expected = Comparison::MaskedEq { mask: 15, value: 5 };
        assert_eq!(masked[0].when, [Condition::new(0, Width::All64, expected).unwrap()]);
    }

    #[test]
    fn circumstances_are_those_of_this_machine_without_capabilities() {
        let applied = |includes: Value, excludes: Value| {
            !entry(json!({"includes": includes, "excludes": excludes})).unwrap().is_empty()
        };
        for (includes, excludes, expected) in [
            (json!({}), json!({}), true),
            (json!(null), json!(null), true),
            (json!({"caps": []}), json!({"arches": null}), true),
            (json!({"caps": ["CAP_BPF"]}), json!({}), false),
            (json!({}), json!({"caps": ["CAP_BPF"]}), true),
            (json!({"arches": [HERE.1, "s390x"]}), json!({}), true),
            (json!({"arches": ["s390x"]}), json!({}), false),
            (json!({}), json!({"arches": [HERE.1]}), false),
            (json!({"minKernel": "3.0"}), json!({}), true),
            (json!({"minKernel": "99.0"}), json!({}), false),
            (json!({}), json!({"minKernel": "3.0"}), false),
        ] {
            assert_eq!(
                applied(includes.clone(), excludes.clone()),
                expected,
                "{includes} {excludes}"
            );
        }
        assert_eq!(kernel("6.18.44-x"), Ok((6, 18)));
        assert_eq!(kernel("5.4-rc1"), Ok((5, 4)));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_its_name() {
        let filter = |field: &str, value: Value| {
            let mut filter = json!({"defaultAction": "SCMP_ACT_ALLOW"});
            filter.as_object_mut().unwrap().insert(field.into(), value);
            read(&filter).unwrap_err()
        };
        for (error, name) in [
            (filter("defaultAction", json!("SCMP_ACT_NOTIFY")), "SCMP_ACT_NOTIFY"),
            (filter("listenerPath", json!("/x")), "listenerPath"),
            (filter("flags", json!(["SECCOMP_FILTER_FLAG_SPEC_ALLOW"])), "SPEC_ALLOW"),
            (filter("architectures", json!(["SCMP_ARCH_S390X"])), "other architectures"),
            (
                filter("syscalls", json!([{"names": ["read"], "action": "SCMP_ACT_TRACE"}])),
                "SCMP_ACT_TRACE",
            ),
            (entry(json!({"priority": 1})).unwrap_err(), "priority"),
            (entry(json!({"errnoRet": 0})).unwrap_err(), "errno"),
            (entry(json!({"errno": "ENOSUCH"})).unwrap_err(), "ENOSUCH"),
            (entry(json!({"errno": "EPERM", "errnoRet": 2})).unwrap_err(), "errno"),
            (entry(json!({"includes": {"selinux": true}})).unwrap_err(), "selinux"),
            (entry(json!({"includes": {"minKernel": "new"}})).unwrap_err(), "new"),
            (entry(json!({"args": [{"index": 0, "value": 1, "op": "LIKE"}]})).unwrap_err(), "LIKE"),
            (
                entry(json!({"args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}))
                    .unwrap_err(),
                "argument 6",
            ),
            (
                entry(
                    json!({"args": [{"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_EQ"}]}),
                )
                .unwrap_err(),
                "valueTwo",
            ),
        ] {
            assert!(error.contains(name), "{name}: {error}");
        }
    }

    #[test]
    fn rules_of_a_call_that_programs_read_differently_are_refused() {
        let error = read(&json!({"defaultAction": "SCMP_ACT_KILL", "syscalls": [
            {"names": ["uname"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["read", "uname"], "action": "SCMP_ACT_ERRNO",
             "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
        ]}));
        assert!(error.unwrap_err().contains("uname"));
    }
}
