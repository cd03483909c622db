//! Filters in
//! [seccompiler's format](https://github.com/rust-vmm/seccompiler/blob/main/docs/json_format.md).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::file::{Content, unambiguous};
use super::policy::{Action, Comparison, Condition, Errno, Rule, Width};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    #[serde(alias = "default_action")]
    mismatch_action: Answer,
    #[serde(alias = "filter_action")]
    match_action: Answer,
    #[serde(rename = "filter")]
    entries: Vec<Entry>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Allow,
    Errno(u64),
    KillThread,
    KillProcess,
    Log,
    Trap,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    syscall: String,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default, rename = "comment")]
    _comment: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Argument {
    index: u8,
    #[serde(rename = "type")]
    length: Length,
    op: Operator,
    val: u64,
    #[serde(default, rename = "comment")]
    _comment: Option<String>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Length {
    Dword,
    Qword,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Operator {
    Eq,
    Ge,
    Gt,
    Le,
    Lt,
    MaskedEq(u64),
    Ne,
}

/// Reads a filter.
pub(super) fn parse(bytes: &[u8]) -> Result<Content, String> {
    let filters: BTreeMap<String, Filter> =
        serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let mut named = filters.into_iter();
    let filter = match (named.next(), named.next()) {
        (Some((_, filter)), None) => filter,
        (None, _) => return Err("it has no filter".into()),
        (Some((one, _)), Some((other, _))) => {
            return Err(format!(
                "it has filters for several threads, {one:?} and {other:?} among them, and a program \
                 starts as one"
            ));
        }
    };
    let (default, action) = (answer(filter.mismatch_action)?, answer(filter.match_action)?);
    let mut conditional = BTreeMap::new();
    let mut rules = Vec::with_capacity(filter.entries.len());
    for Entry { syscall, args, .. } in filter.entries {
        let when = args.unwrap_or_default().iter().map(condition).collect::<Result<Vec<_>, _>>();
        let when = when.map_err(|what| format!("{syscall}: {what}"))?;
        if *conditional.entry(syscall.clone()).or_insert(!when.is_empty()) == when.is_empty() {
            return Err(format!(
                "{syscall} is there with arguments and without, and seccompiler then passes over the \
                 entry without"
            ));
        }
        rules.push(Rule { calls: vec![syscall], action, when });
    }
    unambiguous(&rules)?;
    Ok(Content { default, rules, log: false })
}

fn answer(answer: Answer) -> Result<Action, String> {
    Ok(match answer {
        Answer::Allow => Action::Allow,
        Answer::Errno(number) => {
            let errno = Errno::new(number);
            Action::Errno(errno.ok_or_else(|| format!("the errno {number} is none"))?)
        }
        // A process of which one thread is killed waits for it for ever.
        Answer::KillThread | Answer::KillProcess => Action::KillProcess,
        Answer::Log => Action::Log,
        Answer::Trap => Action::Trap,
    })
}

fn condition(argument: &Argument) -> Result<Condition, String> {
    let Argument { index, length, op, val, .. } = *argument;
    let comparison = match op {
        Operator::Eq => Comparison::Eq(val),
        Operator::Ge => Comparison::Ge(val),
        Operator::Gt => Comparison::Gt(val),
        Operator::Le => Comparison::Le(val),
        Operator::Lt => Comparison::Lt(val),
        Operator::Ne => Comparison::Ne(val),
        Operator::MaskedEq(mask) => Comparison::MaskedEq { mask, value: val & mask },
    };
    let width = match length {
        Length::Dword => Width::Low32,
        Length::Qword => Width::All64,
    };
    Condition::new(index, width, comparison)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: &Value) -> Result<Content, String> {
        parse(value.to_string().as_bytes())
    }

    fn thread(filter: &Value) -> Value {
        json!({"main_thread": {"mismatch_action": "trap", "match_action": "allow", "filter": filter}})
    }

    #[test]
    fn a_filter_is_read() {
        let content = read(&json!({"main": {
            "default_action": {"errno": 38},
            "filter_action": "kill_thread",
            "filter": [
                {"syscall": "read", "comment": "why"},
                {"syscall": "fcntl", "args": [
                    {"index": 1, "type": "dword", "op": "eq", "val": 2, "comment": "F_SETFD"},
                    {"index": 2, "type": "qword", "op": {"masked_eq": 3}, "val": 5},
                ]},
            ],
        }}));
        let content = content.unwrap();
        assert_eq!(content.default, Action::Errno(Errno::ENOSYS));
        let masked = Comparison::MaskedEq { mask: 3, value: 1 };
        let when = vec![
            Condition::new(1, Width::Low32, Comparison::Eq(2)).unwrap(),
            Condition::new(2, Width::All64, masked).unwrap(),
        ];
        let action = Action::KillProcess;
        assert_eq!(
            content.rules,
            [
                Rule { calls: vec!["read".into()], action, when: vec![] },
                Rule { calls: vec!["fcntl".into()], action, when },
            ]
        );
    }

    #[test]
    fn what_is_not_supported_is_refused_by_its_name() {
        let one = json!({"mismatch_action": "trap", "match_action": "allow", "filter": []});
        let trace =
            json!({"t": {"mismatch_action": {"trace": 1}, "match_action": "allow", "filter": []}});
        let arg = |op: Value| json!([{"syscall": "read", "args": [{"index": 0, "type": "dword", "op": op, "val": 1}]}]);
        for (value, name) in [
            (json!({"vmm": one, "vcpu": one}), "vcpu"),
            (json!({}), "no filter"),
            (trace, "trace"),
            (thread(&arg(json!("like"))), "like"),
            (thread(&json!([{"syscall": "read", "arch": 1}])), "arch"),
            (
                thread(&json!([{"syscall": "read"}, {"syscall": "read", "args": [
                {"index": 0, "type": "dword", "op": "eq", "val": 1}]}])),
                "with arguments and without",
            ),
        ] {
            let error = read(&value).unwrap_err();
            assert!(error.contains(name), "{name}: {error}");
        }
    }
}
