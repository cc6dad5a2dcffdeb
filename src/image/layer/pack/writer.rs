//! Writes an archive entry by entry.

use std::io::{self, Read, Write};

use super::super::archive::{BLOCK, Entry, EntryKind};

/// Largest value of an 11-digit octal field.
const OCTAL_11: u64 = (1 << 33) - 1;
/// Largest value of a 7-digit octal field.
const OCTAL_7: u64 = (1 << 21) - 1;

/// An archive in the making.
pub struct Archive<W> {
    out: W,
}

impl<W: Write> Archive<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Appends an entry whose data is at hand; its size is that of `data`, whatever `entry.size` says.
    ///
    /// # Errors
    /// Those of the writer below.
    pub fn append(&mut self, entry: &Entry, data: &[u8]) -> io::Result<()> {
        self.append_from(entry, data.len() as u64, data)
    }

    /// Appends an entry with exactly `size` bytes of data out of `data`.
    ///
    /// # Errors
    /// Those of both sides; `UnexpectedEof` if `data` is shorter.
    pub fn append_from(&mut self, entry: &Entry, size: u64, data: impl Read) -> io::Result<()> {
        let size = if entry.kind == EntryKind::File { size } else { 0 };
        let records = records(entry, size);
        if !records.is_empty() {
            let header = Entry {
                path: b"PaxHeader".to_vec(),
                mode: 0o644,
                ..Entry::default()
            };
            self.out
                .write_all(&header_block(&header, records.len() as u64, b'x'))?;
            self.out.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        self.out
            .write_all(&header_block(entry, size, type_flag(entry.kind)))?;
        if io::copy(&mut data.take(size), &mut self.out)? != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.pad(size)
    }

    /// Writes the end of the archive and gives the writer back.
    ///
    /// # Errors
    /// Those of the writer below.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = (size.next_multiple_of(BLOCK as u64) - size) as usize;
        self.out.write_all(&[0; BLOCK][..padding])
    }
}

/// What ustar cannot say, as PAX records.
fn records(entry: &Entry, size: u64) -> Vec<u8> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut add = |key: &[u8], value: Vec<u8>| records.push((key.to_vec(), value));
    if entry.path.len() > 100 {
        add(b"path", entry.path.clone());
    }
    if entry.link.len() > 100 {
        add(b"linkpath", entry.link.clone());
    }
    if size > OCTAL_11 {
        add(b"size", size.to_string().into());
    }
    if u64::from(entry.uid) > OCTAL_7 {
        add(b"uid", entry.uid.to_string().into());
    }
    if u64::from(entry.gid) > OCTAL_7 {
        add(b"gid", entry.gid.to_string().into());
    }
    if entry.mtime.nanos != 0 || !u64::try_from(entry.mtime.seconds).is_ok_and(|s| s <= OCTAL_11) {
        add(b"mtime", mtime(entry.mtime).into());
    }
    for (name, value) in &entry.xattrs {
        add(&[b"SCHILY.xattr.", name.as_slice()].concat(), value.clone());
    }
    records.sort();
    records
        .into_iter()
        .flat_map(|(key, value)| record(&key, &value))
        .collect()
}

/// `<length> <key>=<value>\n`, where the length counts its own digits.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

fn mtime(time: super::super::archive::Time) -> String {
    let (mut seconds, mut nanos, mut sign) = (i128::from(time.seconds), time.nanos, "");
    if seconds < 0 {
        sign = "-";
        seconds = -seconds;
        if nanos != 0 {
            seconds -= 1;
            nanos = 1_000_000_000 - nanos;
        }
    }
    match nanos {
        0 => format!("{sign}{seconds}"),
        _ => format!("{sign}{seconds}.{nanos:09}")
            .trim_end_matches('0')
            .to_owned(),
    }
}

fn header_block(entry: &Entry, size: u64, type_flag: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    text(&mut block[..100], &entry.path);
    octal(&mut block[100..108], entry.mode.into());
    octal(&mut block[108..116], u64::from(entry.uid).min(OCTAL_7));
    octal(&mut block[116..124], u64::from(entry.gid).min(OCTAL_7));
    octal(&mut block[124..136], size.min(OCTAL_11));
    octal(
        &mut block[136..148],
        u64::try_from(entry.mtime.seconds).unwrap_or(0).min(OCTAL_11),
    );
    block[156] = type_flag;
    text(&mut block[157..257], &entry.link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut block[329..337], entry.device.0.into());
    octal(&mut block[337..345], entry.device.1.into());
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|&b| u64::from(b)).sum();
    octal(&mut block[148..155], sum);
    block
}

fn type_flag(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::File => b'0',
        EntryKind::HardLink => b'1',
        EntryKind::Symlink => b'2',
        EntryKind::Char => b'3',
        EntryKind::Block => b'4',
        EntryKind::Directory => b'5',
        EntryKind::Fifo => b'6',
    }
}

/// What does not fit is cut off; a PAX record has all of it.
fn text(field: &mut [u8], text: &[u8]) {
    let n = text.len().min(field.len());
    field[..n].copy_from_slice(&text[..n]);
}

/// Octal digits with leading zeros and a NUL.
fn octal(field: &mut [u8], mut value: u64) {
    let Some((end, digits)) = field.split_last_mut() else {
        return;
    };
    *end = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value & 7) as u8;
        value >>= 3;
    }
}
