//! Changes to a JSON document that leave it one.

use serde_json::Value;

use super::{Rng, bytes};

/// Makes one change; to the bytes alone if they are no JSON.
pub(super) fn change(data: &mut Vec<u8>, words: &[&str], rng: &mut Rng) {
    let Ok(mut document) = serde_json::from_slice::<Value>(data) else {
        let old = data.clone();
        return bytes::change(data, &old, words, rng);
    };
    let nodes = count(&document);
    let donor = nth(&document, rng.below(nodes)).cloned().unwrap_or_default();
    let chosen = rng.below(nodes);
    if let Some(node) = nth_mut(&mut document, &mut { chosen }) {
        replace(node, donor, words, rng);
    }
    *data = serde_json::to_vec(&document).unwrap_or_default();
}

fn replace(node: &mut Value, donor: Value, words: &[&str], rng: &mut Rng) {
    match (rng.below(8), &mut *node) {
        (0 | 1, Value::Object(fields)) => {
            let keys: Vec<String> = fields.keys().cloned().collect();
            let key = rng.pick(&keys).cloned().unwrap_or_default();
            if rng.below(2) == 0 {
                fields.remove(&key);
            } else {
                fields.insert(word(words, rng), donor);
            }
        }
        (0 | 1, Value::Array(items)) => match rng.below(3) {
            0 => {
                items.pop();
            }
            1 => items.push(donor),
            _ => {
                let copies = items.first().cloned().map(|i| vec![i; rng.below(100)]);
                items.extend(copies.unwrap_or_default());
            }
        },
        (0 | 1, Value::String(text)) => {
            let mut inner = std::mem::take(text).into_bytes();
            let old = inner.clone();
            bytes::change(&mut inner, &old, words, rng);
            *text = String::from_utf8_lossy(&inner).into_owned();
        }
        (0 | 1, Value::Number(_)) => *node = number(rng),
        (2, _) => *node = donor,
        (3, _) => *node = Value::Null,
        (4, _) => *node = number(rng),
        (5, _) => *node = Value::String(word(words, rng)),
        (6, _) => *node = Value::Array(vec![std::mem::take(node)]),
        _ => {
            *node = [Value::Bool(true), Value::Array(Vec::new()), serde_json::json!({})][rng.below(3)].clone()
        }
    }
}

fn number(rng: &mut Rng) -> Value {
    let number = rng.border(0);
    match rng.below(3) {
        0 => Value::from(number),
        1 => Value::from(number.cast_signed().wrapping_neg()),
        _ => Value::from(f64::from_bits(number)),
    }
}

/// A word without the quotes that some have.
fn word(words: &[&str], rng: &mut Rng) -> String {
    rng.pick(words)
        .copied()
        .unwrap_or_default()
        .trim_matches('"')
        .to_owned()
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum::<usize>(),
        _ => 0,
    }
}

fn nth(value: &Value, mut n: usize) -> Option<&Value> {
    let mut todo = vec![value];
    while let Some(value) = todo.pop() {
        if n == 0 {
            return Some(value);
        }
        n -= 1;
        match value {
            Value::Array(items) => todo.extend(items),
            Value::Object(fields) => todo.extend(fields.values()),
            _ => {}
        }
    }
    None
}

fn nth_mut<'a>(value: &'a mut Value, n: &mut usize) -> Option<&'a mut Value> {
    if *n == 0 {
        return Some(value);
    }
    *n -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|v| nth_mut(v, n)),
        Value::Object(fields) => fields.values_mut().find_map(|v| nth_mut(v, n)),
        _ => None,
    }
}
