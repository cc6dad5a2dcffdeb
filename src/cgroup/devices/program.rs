//! Emits the eBPF program that is a device filter in version 2.
//!
//! The kernel calls it with a pointer to three 32-bit words: type in the low and access in the high half, major, minor.
//! It returns 1 to allow and 0 to refuse. One run of compares per exception, first hit decides.

use super::{ALL, Exception, Filter, Kind};

/// One instruction as the kernel takes it: opcode, registers, jump distance and operand in native byte order.
pub(crate) type Instruction = u64;

// Opcodes: class, source and operation, by the names of the kernel's documentation.
const LDX_W: u8 = 0x61;
const MOV32_K: u8 = 0xb4;
const MOV32_X: u8 = 0xbc;
const AND32_K: u8 = 0x54;
const RSH32_K: u8 = 0x74;
const JA: u8 = 0x05;
const JEQ32_K: u8 = 0x16;
const JEQ32_X: u8 = 0x1e;
const JNE32_K: u8 = 0x56;
const EXIT: u8 = 0x95;

// Registers.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

// The kernel's numbers for the types.
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

/// The program that decides as `filter` does.
pub(crate) fn emit(filter: &Filter) -> Vec<Instruction> {
    let mut program = vec![
        op(LDX_W, TYPE, CONTEXT, 0, 0),
        op(MOV32_X, ACCESS, TYPE, 0, 0),
        op(AND32_K, TYPE, 0, 0, 0xffff),
        op(RSH32_K, ACCESS, 0, 0, 16),
        op(LDX_W, MAJOR, CONTEXT, 4, 0),
        op(LDX_W, MINOR, CONTEXT, 8, 0),
    ];
    for e in &filter.exceptions {
        program.extend(exception(e, filter.allow_by_default));
    }
    program.extend(verdict(filter.allow_by_default));
    program
}

/// Compares with one exception; goes on behind it if it is none.
///
/// A hit jumps and a miss falls through to a jump. The kernel's verifier follows what falls through first, so it first
/// walks the whole program knowing nothing, and needs no second look at what follows each hit: that keeps its work linear.
fn exception(e: &Exception, allow_by_default: bool) -> Vec<Instruction> {
    let mut hits = vec![vec![(
        JEQ32_K,
        TYPE,
        0,
        if e.kind == Kind::Block { BLOCK } else { CHAR },
    )]];
    hits.extend(e.major.map(|n| vec![(JEQ32_K, MAJOR, 0, n.cast_signed())]));
    hits.extend(e.minor.map(|n| vec![(JEQ32_K, MINOR, 0, n.cast_signed())]));
    hits.extend(access(e.access, allow_by_default));
    let length = hits.iter().map(|test| test.len() + 1).sum::<usize>() + 2;

    let mut out = Vec::with_capacity(length);
    for test in hits {
        for (code, destination, source, operand) in test {
            let jump = i16::from(matches!(code, JEQ32_K | JEQ32_X | JNE32_K));
            out.push(op(code, destination, source, jump, operand));
        }
        // A run is a dozen instructions at most.
        let behind = i16::try_from(length - out.len() - 1).unwrap_or(i16::MAX);
        out.push(op(JA, 0, 0, behind, 0));
    }
    out.extend(verdict(!allow_by_default));
    out
}

/// An allowance must cover all of the access asked for; a denial hits if it covers any.
fn access(bits: u8, allow_by_default: bool) -> Option<Vec<(u8, u8, u8, i32)>> {
    let hit = if allow_by_default {
        (JNE32_K, SCRATCH, 0, 0)
    } else {
        (JEQ32_X, SCRATCH, ACCESS, 0)
    };
    (bits != ALL).then(|| {
        vec![
            (MOV32_X, SCRATCH, ACCESS, 0),
            (AND32_K, SCRATCH, 0, i32::from(bits)),
            hit,
        ]
    })
}

fn verdict(allow: bool) -> [Instruction; 2] {
    [op(MOV32_K, RESULT, 0, 0, i32::from(allow)), op(EXIT, 0, 0, 0, 0)]
}

fn op(code: u8, destination: u8, source: u8, offset: i16, operand: i32) -> Instruction {
    let registers = if cfg!(target_endian = "little") {
        source << 4 | destination
    } else {
        destination << 4 | source
    };
    let [o0, o1] = offset.to_ne_bytes();
    let [k0, k1, k2, k3] = operand.to_ne_bytes();
    u64::from_ne_bytes([code, registers, o0, o1, k0, k1, k2, k3])
}
