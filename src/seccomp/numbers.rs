//! From rules to instructions: the trees that lead from architecture and number to a verdict.

use std::collections::BTreeMap;

use super::arch::{ARM_PRIVATE, Abi, X32_BIT};
use super::arguments;
use super::assemble::{Assembler, Label, Test};
use super::rules::{AbiRules, RET_ENOSYS, RET_KILL_PROCESS, Rule, Verdict};

/// Offset of the number in `struct seccomp_data`.
const OFFSET_NUMBER: u32 = 0;
/// Offset of the architecture.
const OFFSET_ARCH: u32 = 4;

/// The fate of a range of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaf {
    /// The filter returns this.
    Return(u32),
    /// The arguments decide: an index into [`Arguments`].
    Arguments(usize),
}

/// The tests of arguments in a program, each once however many calls and ABIs share it.
#[derive(Default)]
struct Arguments<'a> {
    tests: Vec<(&'a [Rule], bool, Option<Label>)>,
}

impl<'a> Arguments<'a> {
    fn index(&mut self, rules: &'a [Rule], narrow: bool) -> usize {
        let known = self
            .tests
            .iter()
            .position(|(r, n, _)| *r == rules && *n == narrow);
        known.unwrap_or_else(|| {
            self.tests.push((rules, narrow, None));
            self.tests.len() - 1
        })
    }

    fn label(&mut self, asm: &mut Assembler, index: usize, default: u32) -> Label {
        let (rules, narrow, label) = &mut self.tests[index];
        *label.get_or_insert_with(|| arguments::emit(asm, rules, *narrow, default))
    }
}

/// The whole program for `sections`, packed; `None` only by a mistake of the assembler. The first section's architecture is tested first.
pub(super) fn program(sections: &[(Abi, AbiRules)], default: u32) -> Option<Vec<u64>> {
    let mut arguments = Arguments::default();
    let mut by_arch: Vec<(u32, BTreeMap<u32, Leaf>)> = Vec::new();
    for (abi, rules) in sections {
        let ranges = ranges(*abi, rules, default, &mut arguments);
        match by_arch.iter_mut().find(|(arch, _)| *arch == abi.audit()) {
            Some((_, shared)) => {
                // x32 takes over where x86-64 ends.
                shared.retain(|start, _| *start < X32_BIT);
                shared.extend(ranges);
            }
            None => by_arch.push((abi.audit(), ranges)),
        }
    }
    let mut asm = Assembler::default();
    // A call of another architecture than the profile's must not pass, and nothing sane makes one.
    let mut next = asm.ret(RET_KILL_PROCESS);
    for (arch, ranges) in by_arch.into_iter().rev() {
        let tree = tree(&mut asm, &merged(ranges), &mut |asm, leaf| match leaf {
            Leaf::Return(value) => asm.ret(value),
            Leaf::Arguments(index) => arguments.label(asm, index, default),
        });
        let section = asm.load(OFFSET_NUMBER, tree);
        next = asm.branch(Test::Equal, arch, section, next);
    }
    asm.load(OFFSET_ARCH, next);
    asm.finish()
}

/// The fate of every number of one ABI: each entry holds up to the next one.
fn ranges<'a>(
    abi: Abi,
    rules: &'a AbiRules,
    default: u32,
    arguments: &mut Arguments<'a>,
) -> BTreeMap<u32, Leaf> {
    let unnamed = unnamed(abi, rules.newest, default);
    let mut ranges = unnamed.clone();
    for (number, verdict) in &rules.calls {
        let after = number.saturating_add(1);
        if let Some((_, leaf)) = unnamed.range(..=after).next_back() {
            ranges.entry(after).or_insert(*leaf);
        }
        let leaf = match verdict {
            Verdict::Always(value) => Leaf::Return(*value),
            Verdict::Rules(rules) => Leaf::Arguments(arguments.index(rules, abi.narrow())),
        };
        ranges.insert(*number, leaf);
    }
    ranges
}

/// The fate of the numbers that no rule names.
fn unnamed(abi: Abi, newest: Option<u32>, default: u32) -> BTreeMap<u32, Leaf> {
    let first = if abi == Abi::X32 { X32_BIT } else { 0 };
    let mut ranges = BTreeMap::from([(first, Leaf::Return(default))]);
    if let Some(newest) = newest {
        ranges.insert(newest.saturating_add(1), Leaf::Return(RET_ENOSYS));
        if abi == Abi::Arm {
            ranges.insert(ARM_PRIVATE, Leaf::Return(default));
        }
    }
    if abi == Abi::X86_64 {
        // Without x32 in the profile its calls are another architecture's. -1 is not a call: tracers leave it
        // behind to have one skipped.
        ranges.insert(X32_BIT, Leaf::Return(RET_KILL_PROCESS));
        ranges.insert(u32::MAX, Leaf::Return(default));
    }
    ranges
}

/// In order, neighbours with the same fate as one.
fn merged<L: PartialEq>(ranges: BTreeMap<u32, L>) -> Vec<(u32, L)> {
    let mut ranges: Vec<_> = ranges.into_iter().collect();
    ranges.dedup_by(|b, a| a.1 == b.1);
    ranges
}

/// A balanced tree of comparisons over ascending `ranges`, which must not be empty. The first one starts at or
/// below every number that can come.
pub(super) fn tree<L: Copy + PartialEq>(
    asm: &mut Assembler,
    ranges: &[(u32, L)],
    leaf: &mut impl FnMut(&mut Assembler, L) -> Label,
) -> Label {
    match ranges {
        [(_, only)] => leaf(asm, *only),
        // One number out of the ordinary.
        [(_, around), (start, odd), (end, same)] if around == same && *end == start + 1 => {
            let (yes, no) = (leaf(asm, *odd), leaf(asm, *around));
            asm.branch(Test::Equal, *start, yes, no)
        }
        _ => {
            let (lower, upper) = ranges.split_at(ranges.len() / 2);
            let yes = tree(asm, upper, leaf);
            let no = tree(asm, lower, leaf);
            asm.branch(Test::AtLeast, upper[0].0, yes, no)
        }
    }
}
