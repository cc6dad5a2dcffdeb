//! What sets two requests under one name apart, in words for the error that refuses the second.
//!
//! Both are compared as they would be stored. Values that may be secret (environment, arguments, annotations) are never
//! shown, only where they differ.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

/// Most differences that are named.
const SHOWN: usize = 8;
/// Most characters of a value that are shown.
const VALUE_CHARS: usize = 80;
/// Fields whose values are not for logs and events.
const SECRET: [&str; 4] = ["envs", "command", "args", "annotations"];

/// The fields in which `new` differs from `old`, such as `hostname: "a" -> "b"; envs: TOKEN has another value`.
pub(super) fn between<T: Serialize>(old: &T, new: &T) -> String {
    let mut found = Vec::new();
    walk("", &serde_json::json!(old), &serde_json::json!(new), &mut found);
    let more = found.len().saturating_sub(SHOWN);
    found.truncate(SHOWN);
    if more > 0 {
        found.push(format!("and {more} more"));
    }
    found.join("; ")
}

fn walk(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    if old == new {
        return;
    }
    match (old, new) {
        _ if path == "envs" => environment(old, new, found),
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let below = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                let at = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
                walk(&below, &at(a), &at(b), found);
            }
        }
        _ if SECRET
            .iter()
            .any(|s| path == *s || path.starts_with(&format!("{s}."))) =>
        {
            found.push(format!("{path} differs"));
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (n, (a, b)) in a.iter().zip(b).enumerate() {
                walk(&format!("{path}[{n}]"), a, b, found);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            found.push(format!("{path}: {} entries -> {}", a.len(), b.len()));
        }
        _ => found.push(format!("{path}: {} -> {}", shown(old), shown(new))),
    }
}

/// Names variables and what became of them, in the order of their names.
fn environment(old: &Value, new: &Value, found: &mut Vec<String>) {
    let names = |list: &Value| -> BTreeSet<String> {
        let pairs = list.as_array().into_iter().flatten();
        pairs
            .filter_map(|p| p.get(0)?.as_str().map(str::to_owned))
            .collect()
    };
    let values = |list: &Value, name: &str| -> Vec<Value> {
        let pairs = list.as_array().into_iter().flatten();
        pairs
            .filter(|p| p.get(0).and_then(Value::as_str) == Some(name))
            .cloned()
            .collect()
    };
    let before = found.len();
    for name in names(old).union(&names(new)) {
        match (values(old, name), values(new, name)) {
            (a, b) if a == b => {}
            (a, _) if a.is_empty() => found.push(format!("envs: {name} is new")),
            (_, b) if b.is_empty() => found.push(format!("envs: {name} is missing")),
            _ => found.push(format!("envs: {name} has another value")),
        }
    }
    if found.len() == before {
        found.push("envs: in another order".to_owned());
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= VALUE_CHARS {
        return text;
    }
    let cut: String = text.chars().take(VALUE_CHARS).collect();
    format!("{cut}...")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ContainerConfig, PodConfig};

    #[test]
    fn equal_requests_do_not_differ() {
        assert_eq!(between(&PodConfig::default(), &PodConfig::default()), "");
    }

    #[test]
    fn fields_are_named_with_both_values() {
        let mut old = PodConfig {
            hostname: "a".into(),
            ..Default::default()
        };
        old.labels.insert("app".into(), "web".into());
        let mut new = PodConfig {
            hostname: "b".into(),
            cgroup_parent: "/pods".into(),
            ..Default::default()
        };
        new.labels.insert("tier".into(), "x".repeat(200));
        let said = between(&old, &new);
        for part in [
            r#"hostname: "a" -> "b""#,
            r#"cgroup_parent: "" -> "/pods""#,
            r#"labels.app: "web" -> null"#,
            "labels.tier: null -> \"xxx",
        ] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
        assert!(said.len() < 400, "{said}");
    }

    #[test]
    fn secrets_are_not_told() {
        let mut old = ContainerConfig {
            envs: vec![
                ("TOKEN".into(), "hunter2".into()),
                ("SAME".into(), "1".into()),
                ("GONE".into(), "hunter2".into()),
            ],
            args: vec!["--password=hunter2".into()],
            ..Default::default()
        };
        old.annotations.insert("note".into(), "hunter2".into());
        let new = ContainerConfig {
            envs: vec![
                ("SAME".into(), "1".into()),
                ("TOKEN".into(), "hunter3".into()),
                ("NEW".into(), "hunter3".into()),
            ],
            args: vec!["--password=hunter3".into()],
            ..Default::default()
        };
        let said = between(&old, &new);
        assert!(!said.contains("hunter"), "{said}");
        for part in [
            "envs: TOKEN has another value",
            "envs: GONE is missing",
            "envs: NEW is new",
            "args differs",
            "annotations.note differs",
        ] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
        let mut turned = new.clone();
        turned.envs.reverse();
        assert_eq!(between(&new, &turned), "envs: in another order");
    }

    #[test]
    fn many_differences_are_counted() {
        let mut new = PodConfig::default();
        for n in 0..30 {
            new.labels.insert(format!("l{n}"), "x".into());
        }
        let said = between(&PodConfig::default(), &new);
        assert!(said.ends_with("and 22 more"), "{said}");
    }
}
