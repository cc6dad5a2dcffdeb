//! A classic BPF interpreter for the tests: what the kernel would return for a call.

use std::fmt;

/// `struct seccomp_data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Data {
    pub(super) nr: u32,
    pub(super) arch: u32,
    pub(super) args: [u64; 6],
}

impl Data {
    pub(super) fn call(arch: u32, nr: u32) -> Self {
        Self {
            nr,
            arch,
            args: [0; 6],
        }
    }

    fn word(&self, offset: u32) -> Option<u32> {
        let wide = |value: u64, second: bool| {
            let bytes = value.to_ne_bytes();
            let [a, b, c, d, e, f, g, h] = bytes;
            u32::from_ne_bytes(if second { [e, f, g, h] } else { [a, b, c, d] })
        };
        match offset {
            0 => Some(self.nr),
            4 => Some(self.arch),
            8 | 12 => Some(0),
            _ if !offset.is_multiple_of(4) => None,
            _ => {
                let arg = self.args.get(usize::try_from(offset / 8 - 2).ok()?)?;
                Some(wide(*arg, offset % 8 == 4))
            }
        }
    }
}

/// The program is not one that the kernel would take.
#[derive(Debug)]
pub(super) struct Bad(pub(super) String);

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs `program` on `data`.
pub(super) fn run(program: &[u64], data: &Data) -> Result<u32, Bad> {
    steps(program, data).map(|(value, _)| value)
}

/// The result and how many instructions it took.
pub(super) fn steps(program: &[u64], data: &Data) -> Result<(u32, usize), Bad> {
    let (mut pc, mut acc, mut count) = (0usize, 0u32, 0);
    loop {
        let bytes = program
            .get(pc)
            .ok_or_else(|| Bad(format!("runs off the end at {pc}")))?
            .to_ne_bytes();
        let code = u16::from_ne_bytes([bytes[0], bytes[1]]);
        let k = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let branch = |taken: bool| usize::from(if taken { bytes[2] } else { bytes[3] });
        count += 1;
        pc += 1;
        match code {
            0x20 => acc = data.word(k).ok_or_else(|| Bad(format!("load of offset {k}")))?,
            0x54 => acc &= k,
            0x05 => pc += k as usize,
            0x15 => pc += branch(acc == k),
            0x25 => pc += branch(acc > k),
            0x35 => pc += branch(acc >= k),
            0x06 => return Ok((k, count)),
            other => return Err(Bad(format!("instruction {other:#x} at {}", pc - 1))),
        }
    }
}
