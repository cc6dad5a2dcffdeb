//! PAX extended headers: records of `<length> <key>=<value>\n`.

use super::super::{LayerError, Limits};
use super::sparse::{self, PaxSparse};
use super::{Entry, Time, Xattrs};

/// What an extended header says of the entry after it. Numbers that only matter together are kept until the end.
#[derive(Default)]
pub(super) struct Pax {
    pub(super) size: Option<u64>,
    pub(super) sparse: PaxSparse,
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) mtime: Option<Time>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) xattrs: Xattrs,
}

const XATTR: &[u8] = b"SCHILY.xattr.";

impl Pax {
    pub(super) fn parse(data: &[u8], limits: &Limits) -> Result<Self, LayerError> {
        let mut pax = Self::default();
        for record in records(data) {
            let (key, value) = record?;
            pax.take(key, value, limits)?;
        }
        Ok(pax)
    }

    fn take(&mut self, key: &[u8], value: &[u8], limits: &Limits) -> Result<(), LayerError> {
        if let Some(name) = key.strip_prefix(XATTR) {
            return self.take_xattr(name, value, limits);
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.take(key, value, limits);
        }
        if value.is_empty() {
            return Ok(());
        }
        match key {
            b"path" => self.path = Some(without_nul(value)?),
            b"linkpath" => self.link = Some(without_nul(value)?),
            b"size" => self.size = Some(sparse::size(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            // Access and change times, user names, comments, charsets and vendors' keys say nothing that is used.
            _ => {}
        }
        Ok(())
    }

    fn take_xattr(&mut self, name: &[u8], value: &[u8], limits: &Limits) -> Result<(), LayerError> {
        if name.is_empty() || name.len() > 255 || name.contains(&0) {
            return Err(LayerError::archive(
                "name of an extended attribute is empty, too long or has a NUL",
            ));
        }
        if value.len() > limits.xattr {
            return Err(LayerError::limit("bytes in one extended attribute", limits.xattr));
        }
        self.xattrs.retain(|(known, _)| known != name);
        self.xattrs.push((name.to_vec(), value.to_vec()));
        Ok(())
    }

    /// Puts everything but path, link and size, which GNU long names and sparse maps compete for, into `entry`.
    pub(super) fn apply(&mut self, entry: &mut Entry) -> Result<(), LayerError> {
        if let Some(uid) = self.uid {
            entry.uid = id(uid)?;
        }
        if let Some(gid) = self.gid {
            entry.gid = id(gid)?;
        }
        if let Some(mtime) = self.mtime {
            entry.mtime = mtime;
        }
        entry.xattrs.append(&mut self.xattrs);
        Ok(())
    }
}

/// The largest 32-bit id means "leave it" to chown and is no owner.
pub(super) fn id(value: i64) -> Result<u32, LayerError> {
    u32::try_from(value)
        .ok()
        .filter(|&id| id != u32::MAX)
        .ok_or_else(|| LayerError::archive(format!("{value} is no user or group id")))
}

/// Iterates over the records of an extended header. Ends after the first malformed one.
pub(super) fn records(mut data: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8]), LayerError>> {
    std::iter::from_fn(move || {
        if data.is_empty() {
            return None;
        }
        let Some((key, value, rest)) = record(data) else {
            data = &[];
            return Some(Err(LayerError::archive("malformed record in a PAX header")));
        };
        data = rest;
        Some(Ok((key, value)))
    })
}

fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = data.iter().take(20).position(|&b| b == b' ')?;
    let length = digits(&data[..blank])?;
    let (record, rest) = data.split_at_checked(usize::try_from(length).ok()?)?;
    let pair = record.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|&b| b == b'=')?;
    let (key, value) = (&pair[..equals], &pair[equals + 1..]);
    (!key.is_empty() && !key.contains(&0)).then_some((key, value, rest))
}

/// Decimal digits and nothing else, as far as 63 bits go.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = text.iter().try_fold(0u64, |sum, digit| {
        sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })?;
    (value <= i64::MAX.cast_unsigned()).then_some(value)
}

fn decimal(text: &[u8]) -> Result<i64, LayerError> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let value = digits(text)
        .ok_or_else(|| LayerError::archive("number in a PAX header is not decimal"))?
        .cast_signed();
    Ok(if negative { -value } else { value })
}

/// `[-]seconds[.fraction]`; digits beyond nanoseconds are dropped.
fn time(text: &[u8]) -> Result<Time, LayerError> {
    let bad = || LayerError::archive("time in a PAX header is not a decimal number");
    let mut parts = text.splitn(2, |&b| b == b'.');
    let whole = parts.next().unwrap_or_default();
    let fraction = parts.next().unwrap_or_default();
    let negative = whole.first() == Some(&b'-');
    let seconds = decimal(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    let nanos = (0..9).fold(0u32, |sum, i| {
        sum * 10 + u32::from(fraction.get(i).map_or(0, |d| d - b'0'))
    });
    Ok(match (negative, nanos) {
        (true, 1..) => Time {
            seconds: seconds.checked_sub(1).ok_or_else(bad)?,
            nanos: 1_000_000_000 - nanos,
        },
        _ => Time { seconds, nanos },
    })
}

fn without_nul(value: &[u8]) -> Result<Vec<u8>, LayerError> {
    if value.contains(&0) {
        return Err(LayerError::archive("path in a PAX header has a NUL"));
    }
    Ok(value.to_vec())
}
