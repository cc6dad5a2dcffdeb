//! Container logs as kubelet reads them: `<time> <stream> <P|F> <bytes>`.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// One record of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Whether this record ends its line.
    pub full: bool,
    /// The text, without the newline that ended it.
    pub text: Vec<u8>,
    /// The time, as written.
    pub time: String,
}

/// Reads a log; every record must be well-formed.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let data = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    ensure!(
        data.is_empty() || data.ends_with(b"\n"),
        "{} ends within a record",
        path.display()
    );
    data.split_inclusive(|&b| b == b'\n')
        .map(|line| parse(&line[..line.len() - 1]))
        .collect()
}

fn parse(line: &[u8]) -> Result<Record> {
    let mut fields = line.splitn(4, |&b| b == b' ').map(<[u8]>::to_vec);
    let mut next = || {
        fields
            .next()
            .with_context(|| format!("short record {:?}", String::from_utf8_lossy(line)))
    };
    let record = Record {
        time: String::from_utf8(next()?)?,
        stream: String::from_utf8(next()?)?,
        full: match next()?.as_slice() {
            b"F" => true,
            b"P" => false,
            other => anyhow::bail!("odd tag {:?}", String::from_utf8_lossy(other)),
        },
        text: next()?,
    };
    ensure!(is_rfc3339_nano(&record.time), "odd time {:?}", record.time);
    ensure!(
        ["stdout", "stderr"].contains(&record.stream.as_str()),
        "odd stream {:?}",
        record.stream
    );
    Ok(record)
}

/// `2006-01-02T15:04:05.999999999Z` or with `+07:00`; the fraction may be shorter, as Go writes it, or absent.
fn is_rfc3339_nano(time: &str) -> bool {
    let Some((head, rest)) = time.split_at_checked(19) else {
        return false;
    };
    let shape = |text: &str, pattern: &str| {
        text.len() == pattern.len()
            && text
                .bytes()
                .zip(pattern.bytes())
                .all(|(t, p)| if p == b'0' { t.is_ascii_digit() } else { t == p })
    };
    let zone = rest.find(['Z', '+', '-']).map_or("", |at| &rest[at..]);
    let fraction = &rest[..rest.len() - zone.len()];
    let fraction_is_fine = fraction.is_empty()
        || fraction.strip_prefix('.').is_some_and(|digits| {
            (1..=9).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
        });
    shape(head, "0000-00-00T00:00:00")
        && fraction_is_fine
        && (zone == "Z" || shape(zone, "+00:00") || shape(zone, "-00:00"))
}

/// The text of one stream with its line ends put back.
pub fn text(records: &[Record], stream: &str) -> Vec<u8> {
    let mut all = Vec::new();
    for record in records.iter().filter(|r| r.stream == stream) {
        all.extend_from_slice(&record.text);
        if record.full {
            all.push(b'\n');
        }
    }
    all
}
