//! Changes to a protobuf message that keep its lengths right, without knowing its fields.

use super::{MAX_INPUT, Rng, bytes};

/// Levels of messages in messages that are looked into.
const DEPTH: usize = 12;

/// One field of a message.
#[derive(Clone)]
struct Field {
    number: u64,
    value: Value,
}

#[derive(Clone)]
enum Value {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(Vec<u8>),
    Fixed32([u8; 4]),
}

/// Makes one change; to the bytes alone if they are no message.
pub(super) fn change(data: &mut Vec<u8>, words: &[&str], rng: &mut Rng) {
    match parse(data) {
        Some(mut fields) => {
            change_fields(&mut fields, words, rng, DEPTH);
            *data = encode(&fields);
        }
        None => {
            let old = data.clone();
            bytes::change(data, &old, words, rng);
        }
    }
}

fn change_fields(fields: &mut Vec<Field>, words: &[&str], rng: &mut Rng, depth: usize) {
    if fields.is_empty() || rng.below(12) == 0 {
        let value = match rng.below(3) {
            0 => Value::Varint(rng.border(0)),
            _ => Value::Bytes(word(words, rng)),
        };
        let number = 1 + rng.below(24) as u64;
        return fields.push(Field { number, value });
    }
    let at = rng.below(fields.len());
    match rng.below(16) {
        0 => {
            fields.remove(at);
        }
        1 => {
            let copy = fields[at].clone();
            let longest = encode(std::slice::from_ref(&copy)).len().max(1);
            let copies = rng.below(64).min(MAX_INPUT / 4 / longest);
            fields.extend(std::iter::repeat_n(copy, copies));
        }
        2 => {
            let other = rng.below(fields.len());
            let number = fields[other].number;
            fields[at].number = number;
        }
        3 => fields[at].number = 1 + rng.below(32) as u64,
        _ => change_value(&mut fields[at].value, words, rng, depth),
    }
}

fn change_value(value: &mut Value, words: &[&str], rng: &mut Rng, depth: usize) {
    match value {
        Value::Varint(n) => {
            *n = match rng.below(3) {
                0 => n.wrapping_add(1),
                1 => rng.border(0),
                // As a negative number is written.
                _ => rng.border(0).wrapping_neg(),
            };
        }
        Value::Fixed64(bytes) => *bytes = rng.border(0).to_le_bytes(),
        Value::Fixed32(bytes) => bytes.copy_from_slice(&rng.border(0).to_le_bytes()[..4]),
        Value::Bytes(inner) => match parse(inner).filter(|f| !f.is_empty() && depth > 0) {
            // Text may look like a message; then it is changed as one now and then, which does no harm.
            Some(mut fields) if rng.below(8) != 0 => {
                change_fields(&mut fields, words, rng, depth - 1);
                *inner = encode(&fields);
            }
            _ => match rng.below(4) {
                0 => *inner = word(words, rng),
                1 => {
                    let word = word(words, rng);
                    let at = rng.below(inner.len() + 1);
                    bytes::insert(inner, at, &word);
                }
                _ => {
                    let old = inner.clone();
                    bytes::change(inner, &old, words, rng);
                }
            },
        },
    }
}

fn word(words: &[&str], rng: &mut Rng) -> Vec<u8> {
    match rng.below(8) {
        0 => vec![b'a'; rng.below(5000)],
        1 => vec![0xff; rng.below(4)],
        _ => rng.pick(words).copied().unwrap_or_default().into(),
    }
}

fn parse(mut data: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !data.is_empty() {
        let key = varint(&mut data)?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut data)?),
            1 => Value::Fixed64(take(&mut data, 8)?.try_into().ok()?),
            2 => {
                let length = usize::try_from(varint(&mut data)?).ok()?;
                Value::Bytes(take(&mut data, length)?.to_vec())
            }
            5 => Value::Fixed32(take(&mut data, 4)?.try_into().ok()?),
            _ => return None,
        };
        let number = key >> 3;
        (number > 0).then_some(())?;
        fields.push(Field { number, value });
    }
    Some(fields)
}

fn encode(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        let key = |wire: u64| field.number << 3 | wire;
        match &field.value {
            Value::Varint(n) => {
                put_varint(&mut out, key(0));
                put_varint(&mut out, *n);
            }
            Value::Fixed64(bytes) => {
                put_varint(&mut out, key(1));
                out.extend_from_slice(bytes);
            }
            Value::Bytes(bytes) => {
                put_varint(&mut out, key(2));
                put_varint(&mut out, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
            Value::Fixed32(bytes) => {
                put_varint(&mut out, key(5));
                out.extend_from_slice(bytes);
            }
        }
    }
    out
}

fn varint(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = data.split_first()?;
        *data = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            return out.push(byte);
        }
        out.push(byte | 0x80);
    }
}

fn take<'a>(data: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = data.split_at_checked(length)?;
    *data = rest;
    Some(taken)
}
