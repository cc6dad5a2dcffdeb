//! Changes that know nothing of what the bytes mean.

use super::{MAX_INPUT, Rng};

/// Makes one change.
pub(super) fn change(data: &mut Vec<u8>, other: &[u8], words: &[&str], rng: &mut Rng) {
    let at = rng.below(data.len() + 1);
    match rng.below(14) {
        0 => flip(data, rng),
        1 => set(data, rng),
        2 => {
            let new: Vec<u8> = (0..=rng.below(8))
                .map(|_| rng.number().to_le_bytes()[0])
                .collect();
            insert(data, at, &new);
        }
        3 => {
            let longest = if rng.below(4) == 0 { 512 } else { 8 };
            let end = (at + 1 + rng.below(longest)).min(data.len());
            data.drain(at.min(end)..end);
        }
        4 => {
            let piece = piece(data, rng).to_vec();
            insert(data, at, &piece);
        }
        5 => {
            let piece = piece(other, rng).to_vec();
            insert(data, at, &piece);
        }
        6 => {
            // The head of one and the tail of another.
            data.truncate(at);
            data.extend_from_slice(&other[rng.below(other.len() + 1)..]);
        }
        7 | 8 => {
            let word = rng.pick(words).copied().unwrap_or_default().as_bytes();
            if rng.below(2) == 0 {
                insert(data, at, word);
            } else {
                overwrite(data, at, word);
            }
        }
        9 => {
            let value = rng.border(data.len()).to_le_bytes();
            let width = 1 << rng.below(4);
            let mut field = value[..width].to_vec();
            if rng.below(2) == 0 {
                field.reverse();
            }
            overwrite(data, at, &field);
        }
        10 => digits(data, at, rng),
        11 => data.truncate(at),
        12 => {
            let piece = piece(data, rng).to_vec();
            for _ in 0..rng.below(64) {
                insert(data, at, &piece);
            }
        }
        _ => {
            let piece = piece(data, rng).to_vec();
            overwrite(data, at, &piece);
        }
    }
}

fn flip(data: &mut [u8], rng: &mut Rng) {
    let at = rng.below(data.len());
    if let Some(byte) = data.get_mut(at) {
        *byte ^= 1 << rng.below(8);
    }
}

fn set(data: &mut [u8], rng: &mut Rng) {
    let at = rng.below(data.len());
    let new = match rng.below(8) {
        0 => 0,
        1 => 0xff,
        2 => 0x80,
        3 => b'\n',
        4 => b'"',
        5 => b'/',
        _ => rng.number().to_le_bytes()[0],
    };
    if let Some(byte) = data.get_mut(at) {
        *byte = new;
    }
}

fn piece<'a>(data: &'a [u8], rng: &mut Rng) -> &'a [u8] {
    let start = rng.below(data.len() + 1);
    let longest = if rng.below(4) == 0 { 1024 } else { 32 };
    let end = (start + rng.below(longest)).min(data.len());
    &data[start..end]
}

/// Puts `new` in, unless there is enough already.
pub(super) fn insert(data: &mut Vec<u8>, at: usize, new: &[u8]) {
    if data.len() + new.len() <= MAX_INPUT {
        let tail = data.split_off(at.min(data.len()));
        data.extend_from_slice(new);
        data.extend_from_slice(&tail);
    }
}

fn overwrite(data: &mut [u8], at: usize, new: &[u8]) {
    for (to, from) in data.iter_mut().skip(at).zip(new) {
        *to = *from;
    }
}

/// Replaces the number in digits at or after `at`.
fn digits(data: &mut Vec<u8>, at: usize, rng: &mut Rng) {
    let Some(start) = data[at..].iter().position(u8::is_ascii_digit).map(|n| at + n) else {
        return;
    };
    let length = data[start..].iter().take_while(|b| b.is_ascii_digit()).count();
    let number = rng.border(data.len());
    let mut text = match rng.below(4) {
        0 => format!("-{number}"),
        // In the width of the old one, as fields of archives are.
        1 => format!("{number:0>length$o}"),
        2 => format!("{number}.{number}"),
        _ => number.to_string(),
    };
    if rng.below(2) == 0 {
        text.truncate(length);
    }
    let tail = data.split_off(start + length);
    data.truncate(start);
    data.extend_from_slice(text.as_bytes());
    data.extend_from_slice(&tail);
}
