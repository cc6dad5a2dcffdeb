//! The kernel's table of mounts, `/proc/<pid>/mountinfo`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// One line of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountLine<'a> {
    /// Number of the mount, as in a descriptor's `fdinfo`.
    pub id: u64,
    /// Device number of the file system, `major:minor`.
    pub device: &'a str,
    /// Where it is mounted, as the process sees it.
    pub point: PathBuf,
    /// Words such as `shared:9` and `master:3`, separated by blanks; empty for a private mount.
    pub tags: &'a str,
    /// Type of the file system.
    pub fstype: &'a str,
    /// What is mounted.
    pub source: &'a str,
    /// Options of the file system.
    pub options: &'a str,
}

impl<'a> MountLine<'a> {
    /// Reads a line; `None` if it is none.
    pub fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.splitn(7, ' ');
        let id = left.next()?.parse().ok()?;
        let device = left.nth(1)?;
        let point = unescape(left.nth(1)?);
        let tags = left.nth(1).unwrap_or_default();
        let mut right = right.split(' ');
        Some(Self {
            id,
            device,
            point,
            tags,
            fstype: right.next()?,
            source: right.next()?,
            options: right.next()?,
        })
    }

    /// Reads a whole table. Lines that make no sense are left out.
    pub fn all(table: &'a str) -> impl Iterator<Item = Self> {
        table.lines().filter_map(Self::parse)
    }
}

/// The kernel writes blanks, backslashes and the like as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, code)) = rest.split_once('\\') {
        out.extend(plain.as_bytes());
        let byte = code
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match byte {
            Some(byte) => {
                out.push(byte);
                rest = &code[3..];
            }
            None => {
                out.push(b'\\');
                rest = code;
            }
        }
    }
    out.extend(rest.as_bytes());
    OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let table = "33 21 0:40 /sub /a\\040b\\134c rw,relatime shared:9 - fuse.sshfs me@far:/ rw,x\nnonsense\n\
                     34 21 8:1 / / rw - ext4 /dev/sda1 rw\n";
        let found: Vec<_> = MountLine::all(table).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(
            found.first(),
            Some(&MountLine {
                id: 33,
                device: "0:40",
                point: "/a b\\c".into(),
                tags: "shared:9",
                fstype: "fuse.sshfs",
                source: "me@far:/",
                options: "rw,x",
            })
        );
        assert_eq!(
            found.last().map(|m| (m.device, m.tags, m.fstype)),
            Some(("8:1", "", "ext4"))
        );
    }

    #[test]
    fn escapes_are_undone() {
        for (text, path) in [
            ("/a\\040b", "/a b"),
            ("/\\134\\011", "/\\\t"),
            ("/\\9", "/\\9"),
            ("/\\", "/\\"),
            ("/ü\\040", "/ü "),
        ] {
            assert_eq!(unescape(text), PathBuf::from(path), "{text}");
        }
    }
}
