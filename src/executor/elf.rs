//! As much of ELF as it takes to say why a program does not start.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Program header type of the loader's path.
const PT_INTERP: u32 = 3;
/// Loader paths are shorter.
const MAX_PATH: usize = 4096;

/// Machines by their number in the header.
const MACHINES: [(u16, &str); 9] = [
    (3, "x86"),
    (8, "mips"),
    (20, "powerpc"),
    (21, "powerpc64"),
    (22, "s390x"),
    (40, "arm"),
    (62, "x86_64"),
    (183, "aarch64"),
    (243, "riscv64"),
];

/// Whether the file is ELF at all.
pub(super) fn is_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF")
}

/// The machine a program is for, if that is not this one.
pub(super) fn foreign_machine(head: &[u8]) -> Option<String> {
    let number = Reader::new(head)?.u16(18)?;
    let own = std::env::consts::ARCH;
    match MACHINES.iter().find(|(n, _)| *n == number) {
        Some((_, name)) if *name == own => None,
        Some((_, name)) => Some((*name).to_owned()),
        None => Some(format!("machine type {number}")),
    }
}

/// The loader a program names.
pub(super) fn interpreter(path: &Path, head: &[u8]) -> Option<String> {
    let elf = Reader::new(head)?;
    let (table, size, count) = if elf.wide {
        (elf.u64(32)?, elf.u16(54)?, elf.u16(56)?)
    } else {
        (elf.u32(28)?.into(), elf.u16(42)?, elf.u16(44)?)
    };
    let (size, table) = (usize::from(size), usize::try_from(table).ok()?);
    for n in 0..usize::from(count) {
        let entry = table.checked_add(n.checked_mul(size)?)?;
        if elf.u32(entry)? != PT_INTERP {
            continue;
        }
        let (offset, length) = if elf.wide {
            (elf.u64(entry.checked_add(8)?)?, elf.u64(entry.checked_add(32)?)?)
        } else {
            (
                elf.u32(entry.checked_add(4)?)?.into(),
                elf.u32(entry.checked_add(16)?)?.into(),
            )
        };
        return read_path(path, offset, usize::try_from(length).ok()?.min(MAX_PATH));
    }
    None
}

fn read_path(path: &Path, offset: u64, length: usize) -> Option<String> {
    let mut bytes = vec![0; length];
    let n = File::open(path).ok()?.read_at(&mut bytes, offset).ok()?;
    let text = bytes.get(..n)?.split(|b| *b == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// Numbers in the file's own byte order.
struct Reader<'a> {
    bytes: &'a [u8],
    wide: bool,
    little: bool,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        is_elf(bytes).then_some(())?;
        Some(Self {
            bytes,
            wide: *bytes.get(4)? == 2,
            little: *bytes.get(5)? == 1,
        })
    }

    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut out: [u8; N] = self.bytes.get(at..at.checked_add(N)?)?.try_into().ok()?;
        if !self.little {
            out.reverse();
        }
        Some(out)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn head_for(machine: u16) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[18..20].copy_from_slice(&machine.to_le_bytes());
        head
    }

    #[test]
    fn machines_are_told_apart() {
        let own = std::env::consts::ARCH;
        for (number, name) in MACHINES {
            let expected = (name != own).then(|| name.to_owned());
            assert_eq!(foreign_machine(&head_for(number)), expected);
        }
        assert_eq!(
            foreign_machine(&head_for(999)).as_deref(),
            Some("machine type 999")
        );
        assert_eq!(foreign_machine(b"#!/bin/sh"), None);
    }

    #[test]
    fn the_loader_is_read_from_where_the_header_says() {
        let mut file = head_for(62);
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&1u16.to_le_bytes());
        let mut entry = vec![0; 56];
        entry[..4].copy_from_slice(&PT_INTERP.to_le_bytes());
        entry[8..16].copy_from_slice(&120u64.to_le_bytes());
        entry[32..40].copy_from_slice(&9u64.to_le_bytes());
        file.extend(entry);
        file.extend(b"/lib/ld.\0rest");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, &file).unwrap();
        assert_eq!(interpreter(&path, &file).as_deref(), Some("/lib/ld."));
    }

    #[test]
    fn nonsense_is_no_program() {
        for length in 0..64 {
            let head = &head_for(62)[..length];
            assert_eq!(interpreter(Path::new("/nonexistent"), head), None);
        }
        let mut huge = head_for(62);
        huge[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        huge[54..58].copy_from_slice(&[0xff; 4]);
        assert_eq!(interpreter(Path::new("/nonexistent"), &huge), None);
    }
}
