//! An assembler for classic BPF that writes programs from the end to the start.
//!
//! BPF jumps only go forward, so whatever an instruction jumps to is already written when it is. A [`Label`] is
//! therefore always bound, and every jump offset is final at once. Knows nothing of profiles.

use std::collections::HashMap;

/// `BPF_LD | BPF_W | BPF_ABS`.
const LOAD: u16 = 0x20;
/// `BPF_ALU | BPF_AND | BPF_K`.
const AND: u16 = 0x54;
/// `BPF_JMP | BPF_JA`.
const JUMP: u16 = 0x05;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

/// Conditional jumps, each against a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Test {
    /// `BPF_JMP | BPF_JEQ | BPF_K`.
    Equal = 0x15,
    /// `BPF_JMP | BPF_JGT | BPF_K`, unsigned.
    Greater = 0x25,
    /// `BPF_JMP | BPF_JGE | BPF_K`, unsigned.
    AtLeast = 0x35,
}

/// Farthest a conditional jump reaches.
const REACH: usize = 255;

/// An instruction that was written, counted from the end of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Label(usize);

#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u16,
    jt: usize,
    jf: usize,
    k: usize,
}

impl Instruction {
    fn plain(code: u16, k: usize) -> Self {
        Self {
            code,
            jt: 0,
            jf: 0,
            k,
        }
    }

    /// `struct sock_filter` in the memory order of this machine; `None` if a jump is too far for it.
    fn pack(self) -> Option<u64> {
        let [c0, c1] = self.code.to_ne_bytes();
        let [k0, k1, k2, k3] = u32::try_from(self.k).ok()?.to_ne_bytes();
        let (jt, jf) = (u8::try_from(self.jt).ok()?, u8::try_from(self.jf).ok()?);
        Some(u64::from_ne_bytes([c0, c1, jt, jf, k0, k1, k2, k3]))
    }
}

/// A program in the making, last instruction first.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    code: Vec<Instruction>,
    returns: HashMap<u32, Label>,
    /// The latest instruction that only leads to another one.
    hops: HashMap<Label, Label>,
}

impl Assembler {
    /// Ends the program with `value`. An earlier return of the same value is used again if it is near.
    pub(super) fn ret(&mut self, value: u32) -> Label {
        if let Some(label) = self.returns.get(&value)
            && self.reaches(*label)
        {
            return *label;
        }
        let label = self.push(Instruction::plain(RETURN, value as usize));
        self.returns.insert(value, label);
        label
    }

    /// Loads the 32 bits at `offset` of `seccomp_data`, goes on at `next`.
    pub(super) fn load(&mut self, offset: u32, next: Label) -> Label {
        self.straight(LOAD, offset as usize, next)
    }

    /// Keeps the bits of `mask`, goes on at `next`.
    pub(super) fn and(&mut self, mask: u32, next: Label) -> Label {
        self.straight(AND, mask as usize, next)
    }

    /// Goes on at `yes` if the loaded value passes, else at `no`.
    pub(super) fn branch(&mut self, test: Test, k: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        let yes = self.near(yes);
        let no = self.near(no);
        self.push(Instruction {
            code: test as u16,
            jt: self.distance(yes),
            jf: self.distance(no),
            k: k as usize,
        })
    }

    /// The program, packed; it starts at the instruction written last. `None` only by a mistake in this module:
    /// better no filter, and no container, than one that jumps astray.
    pub(super) fn finish(self) -> Option<Vec<u64>> {
        self.code.into_iter().rev().map(Instruction::pack).collect()
    }

    fn push(&mut self, instruction: Instruction) -> Label {
        self.code.push(instruction);
        Label(self.code.len() - 1)
    }

    /// What a jump written now has to skip to arrive at `label`.
    fn distance(&self, label: Label) -> usize {
        self.code.len() - 1 - label.0
    }

    /// One less than [`REACH`]: the sibling of a branch may still need an instruction in between.
    fn reaches(&self, label: Label) -> bool {
        self.distance(label) < REACH
    }

    /// An instruction that must be followed by `next` directly.
    fn straight(&mut self, code: u16, k: usize, next: Label) -> Label {
        if self.distance(next) > 0 {
            self.hop(next);
        }
        self.push(Instruction::plain(code, k))
    }

    /// `label`, or something closer that leads to it.
    fn near(&mut self, label: Label) -> Label {
        if self.reaches(label) {
            return label;
        }
        if let Some(hop) = self.hops.get(&label)
            && self.reaches(*hop)
        {
            return *hop;
        }
        match self.code[label.0] {
            Instruction { code: RETURN, k, .. } => self.ret(k as u32),
            _ => {
                let hop = self.hop(label);
                self.hops.insert(label, hop);
                hop
            }
        }
    }

    fn hop(&mut self, label: Label) -> Label {
        let distance = self.distance(label);
        self.push(Instruction::plain(JUMP, distance))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::bpf::{Data, run};
    use super::*;

    /// A chain of a thousand tests whose two ends are far beyond a conditional jump's reach.
    #[test]
    fn far_targets_are_reached() {
        let mut asm = Assembler::default();
        let (hit, miss) = (asm.ret(1), asm.ret(2));
        let deep = asm.load(0, hit);
        let mut next = miss;
        for k in 0..1000 {
            let target = if k % 2 == 0 { hit } else { deep };
            next = asm.branch(Test::Equal, k, target, next);
        }
        asm.load(0, next);
        let program = asm.finish().unwrap();
        assert!(program.len() > 1000 && program.len() < 1100, "{}", program.len());
        for nr in [0, 1, 2, 500, 999] {
            assert_eq!(run(&program, &Data::call(0, nr)).unwrap(), 1, "{nr}");
        }
        assert_eq!(run(&program, &Data::call(0, 1000)).unwrap(), 2);
    }

    #[test]
    fn packing_is_the_kernels_layout() {
        let packed = Instruction {
            code: 0x15,
            jt: 1,
            jf: 2,
            k: 0xc000_003e,
        }
        .pack()
        .unwrap();
        let expected = if cfg!(target_endian = "little") {
            0xc000_003e_0201_0015
        } else {
            0x0015_0102_c000_003e
        };
        assert_eq!(packed, expected);
    }

    #[test]
    fn a_jump_too_far_is_no_program() {
        let far = Instruction {
            jt: 256,
            ..Instruction::plain(0x15, 0)
        };
        assert_eq!(far.pack(), None);
    }
}
