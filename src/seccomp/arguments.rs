//! Instructions that look at the arguments of a call.
//!
//! BPF works on 32 bits, arguments have 64: each comparison is one of the upper halves and, where those do not
//! decide, one of the lower. ABIs with 32-bit registers have the lower half only.

use super::assemble::{Assembler, Label, Test};
use super::numbers;
use super::rules::{Condition, Op, Rule};

/// Offset of the first argument in `struct seccomp_data`.
const OFFSET_ARGUMENTS: u32 = 16;

/// One past the largest value that fits the lower half.
const BEYOND_LOW: u64 = 1 << 32;

#[derive(Clone, Copy)]
enum Half {
    Low,
    High,
}

impl Half {
    fn offset(self, arg: usize) -> u32 {
        let second = match self {
            Self::Low => cfg!(target_endian = "big"),
            Self::High => cfg!(target_endian = "little"),
        };
        OFFSET_ARGUMENTS + 8 * arg as u32 + if second { 4 } else { 0 }
    }

    fn of(self, value: u64) -> u32 {
        match self {
            Self::Low => value as u32,
            Self::High => (value >> 32) as u32,
        }
    }
}

/// Writes what decides between `rules` (the first that holds wins, else `default`), returns its entry.
pub(super) fn emit(asm: &mut Assembler, rules: &[Rule], narrow: bool, default: u32) -> Label {
    match intervals(rules, narrow, default) {
        Some((arg, ranges)) => emit_intervals(asm, arg, &ranges, narrow),
        None => emit_chain(asm, rules, narrow, default),
    }
}

/// One test after the other.
fn emit_chain(asm: &mut Assembler, rules: &[Rule], narrow: bool, default: u32) -> Label {
    let mut next = asm.ret(default);
    for rule in rules.iter().rev() {
        let mut entry = asm.ret(rule.ret);
        for condition in rule.conditions.iter().rev() {
            entry = emit_condition(asm, *condition, narrow, entry, next);
        }
        next = entry;
    }
    next
}

fn emit_condition(asm: &mut Assembler, c: Condition, narrow: bool, yes: Label, no: Label) -> Label {
    match c.op {
        Op::Eq => emit_equal(asm, c, narrow, yes, no),
        Op::Ne => emit_equal(asm, c, narrow, no, yes),
        Op::Ge => emit_greater(asm, c, Test::AtLeast, narrow, yes, no),
        Op::Lt => emit_greater(asm, c, Test::AtLeast, narrow, no, yes),
        Op::Gt => emit_greater(asm, c, Test::Greater, narrow, yes, no),
        Op::Le => emit_greater(asm, c, Test::Greater, narrow, no, yes),
    }
}

fn emit_equal(asm: &mut Assembler, c: Condition, narrow: bool, yes: Label, no: Label) -> Label {
    let mut entry = yes;
    for half in [Half::Low, Half::High] {
        let mask = half.of(c.mask);
        if mask == 0 || (narrow && matches!(half, Half::High)) {
            continue;
        }
        entry = asm.branch(Test::Equal, half.of(c.value), entry, no);
        if mask != u32::MAX {
            entry = asm.and(mask, entry);
        }
        entry = asm.load(half.offset(c.arg), entry);
    }
    entry
}

fn emit_greater(asm: &mut Assembler, c: Condition, test: Test, narrow: bool, yes: Label, no: Label) -> Label {
    let low = asm.branch(test, Half::Low.of(c.value), yes, no);
    let low = asm.load(Half::Low.offset(c.arg), low);
    if narrow {
        return low;
    }
    let equal = asm.branch(Test::Equal, Half::High.of(c.value), low, no);
    let greater = asm.branch(Test::Greater, Half::High.of(c.value), yes, equal);
    asm.load(Half::High.offset(c.arg), greater)
}

/// Rules that all compare one and the same argument with small values split its values into intervals, which
/// need a tree instead of a chain. Returns the argument and, by first value, what the filter returns.
fn intervals(rules: &[Rule], narrow: bool, default: u32) -> Option<(usize, Vec<(u64, u32)>)> {
    let whole = if narrow { BEYOND_LOW - 1 } else { u64::MAX };
    let mut conditions = Vec::with_capacity(rules.len());
    for rule in rules {
        match rule.conditions.as_slice() {
            [c] if c.mask == whole && c.value < BEYOND_LOW => {
                conditions.push((*c, rule.ret));
            }
            _ => return None,
        }
    }
    let arg = conditions.first()?.0.arg;
    if conditions.iter().any(|(c, _)| c.arg != arg) {
        return None;
    }
    let mut starts: Vec<u64> = vec![0, BEYOND_LOW];
    for (c, _) in &conditions {
        starts.extend([c.value, c.value + 1]);
    }
    starts.sort_unstable();
    starts.dedup();
    let decide = |value| {
        let hit = conditions.iter().find(|(c, _)| holds(c, value));
        hit.map_or(default, |(_, ret)| *ret)
    };
    let mut ranges: Vec<(u64, u32)> = starts.into_iter().map(|s| (s, decide(s))).collect();
    ranges.dedup_by(|b, a| a.1 == b.1 && b.0 != BEYOND_LOW);
    Some((arg, ranges))
}

fn holds(c: &Condition, value: u64) -> bool {
    match c.op {
        Op::Eq => value == c.value,
        Op::Ne => value != c.value,
        Op::Lt => value < c.value,
        Op::Le => value <= c.value,
        Op::Gt => value > c.value,
        Op::Ge => value >= c.value,
    }
}

fn emit_intervals(asm: &mut Assembler, arg: usize, ranges: &[(u64, u32)], narrow: bool) -> Label {
    let small = ranges
        .iter()
        .filter_map(|(s, ret)| Some((u32::try_from(*s).ok()?, *ret)));
    let small: Vec<(u32, u32)> = small.collect();
    let tree = numbers::tree(asm, &small, &mut |asm, ret| asm.ret(ret));
    let low = match small.as_slice() {
        [_] => tree,
        _ => asm.load(Half::Low.offset(arg), tree),
    };
    let beyond = ranges.last().filter(|_| !narrow).map(|(_, ret)| asm.ret(*ret));
    match beyond {
        Some(beyond) if beyond != low => {
            let high = asm.branch(Test::Equal, 0, low, beyond);
            asm.load(Half::High.offset(arg), high)
        }
        _ => low,
    }
}
