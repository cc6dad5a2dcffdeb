#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::framing::{Framer, Record};
use super::stamp::Stamp;
use super::*;

/// Records as (full, content).
fn cut(framer: &mut Framer, chunk: &[u8]) -> Vec<(bool, Vec<u8>)> {
    let mut out = Vec::new();
    framer.push(chunk, |records| out.extend(records.iter().map(owned)));
    out
}

fn owned(record: &Record<'_>) -> (bool, Vec<u8>) {
    (record.full, [record.head, record.tail].concat())
}

fn full(content: &[u8]) -> (bool, Vec<u8>) {
    (true, content.to_vec())
}

fn partial(content: &[u8]) -> (bool, Vec<u8>) {
    (false, content.to_vec())
}

#[test]
fn lines_are_records_and_the_rest_waits() {
    let mut framer = Framer::new(10);
    assert_eq!(cut(&mut framer, b"one\n\ntwo"), [full(b"one"), full(b"")]);
    assert_eq!(cut(&mut framer, b"!\nthree"), [full(b"two!")]);
    let mut left = Vec::new();
    framer.flush(|records| left.extend(records.iter().map(owned)));
    assert_eq!(left, [partial(b"three")]);
    framer.flush(|_| panic!("nothing is left"));
}

#[test]
fn long_lines_are_split_at_the_limit_and_not_before() {
    let mut framer = Framer::new(4);
    assert_eq!(cut(&mut framer, b"abcd"), []);
    assert_eq!(
        cut(&mut framer, b"\n"),
        [full(b"abcd")],
        "a line of just the limit is one record"
    );
    assert_eq!(
        cut(&mut framer, b"abcdefghij\n"),
        [partial(b"abcd"), partial(b"efgh"), full(b"ij")]
    );
    assert_eq!(cut(&mut framer, b"abcdefgh\n"), [partial(b"abcd"), full(b"efgh")]);
    assert_eq!(cut(&mut framer, b"abc"), []);
    assert_eq!(cut(&mut framer, b"defgh"), [partial(b"abcd")]);
    assert_eq!(cut(&mut framer, b"i"), [partial(b"efgh")]);
}

#[test]
fn sixteen_kibibytes_as_kubelet_expects() {
    let mut framer = Framer::new(16 * 1024);
    let line = vec![b'x'; 40_000];
    let mut records = cut(&mut framer, &line);
    records.extend(cut(&mut framer, b"\n"));
    let lengths: Vec<(bool, usize)> = records
        .iter()
        .map(|(full, content)| (*full, content.len()))
        .collect();
    assert_eq!(lengths, [(false, 16_384), (false, 16_384), (true, 7_232)]);
}

proptest! {
    #[test]
    fn framing_neither_loses_nor_adds(
        chunks in prop::collection::vec(prop::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(b'\n')], 0..40), 0..20),
        max in 1usize..20,
    ) {
        let mut framer = Framer::new(max);
        let mut records = Vec::new();
        for chunk in &chunks {
            records.extend(cut(&mut framer, chunk));
        }
        framer.flush(|left| records.extend(left.iter().map(owned)));
        let mut seen = Vec::new();
        for (full, content) in &records {
            prop_assert!(content.len() <= max);
            prop_assert!(!content.contains(&b'\n'));
            prop_assert!(*full || content.len() == max || content == &records.last().unwrap().1);
            seen.extend_from_slice(content);
            if *full {
                seen.push(b'\n');
            }
        }
        prop_assert_eq!(seen, chunks.concat());
    }
}

fn header(now: i64, stream: Stream) -> String {
    let headers = Stamp::default().headers(now, stream);
    String::from_utf8(headers.full.to_vec()).unwrap()
}

#[test]
fn time_stamps() {
    for (now, text) in [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (1_800_000_000_123_456_789, "2027-01-15T08:00:00.123456789Z"),
        (951_782_399_999_999_999, "2000-02-28T23:59:59.999999999Z"),
        (951_782_400_000_000_000, "2000-02-29T00:00:00.000000000Z"),
        (951_868_800_000_000_000, "2000-03-01T00:00:00.000000000Z"),
        (4_107_542_399_000_000_001, "2100-02-28T23:59:59.000000001Z"),
        (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000000Z"),
    ] {
        assert_eq!(header(now, Stream::Stdout), format!("{text} stdout F "));
    }
    assert!(header(0, Stream::Stderr).ends_with(" stderr F "));
    let mut stamp = Stamp::default();
    let first = stamp.headers(1_000_000_000, Stream::Stdout);
    assert_ne!(first.full, stamp.headers(1_000_000_001, Stream::Stdout).full);
    assert_ne!(first.full, stamp.headers(2_000_000_000, Stream::Stdout).full);
    assert_eq!(&first.partial[37..], b" P ");
}

/// Records of a log file as (stream, tag, content). Panics on a malformed one.
fn parse(bytes: &[u8]) -> Vec<(String, char, Vec<u8>)> {
    assert!(bytes.is_empty() || bytes.ends_with(b"\n"));
    let text = bytes.strip_suffix(b"\n").unwrap_or_default();
    text.split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(record)
        .collect()
}

fn record(line: &[u8]) -> (String, char, Vec<u8>) {
    let mut fields = line.splitn(4, |b| *b == b' ');
    let mut text = || String::from_utf8(fields.next().unwrap().to_vec()).unwrap();
    let (time, stream, tag) = (text(), text(), text());
    assert_eq!(time.len(), 30, "{time}");
    assert!(tag == "F" || tag == "P", "{tag}");
    (
        stream,
        tag.chars().next().unwrap(),
        fields.next().unwrap().to_vec(),
    )
}

#[test]
fn binary_output_of_both_streams_is_kept_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let mut log = Log::open(&path, 16).unwrap();
    let binary: Vec<u8> = (0..=255).filter(|b| *b != b'\n').collect();
    log.write(Stream::Stdout, &binary, 0);
    log.write(Stream::Stderr, b"oops\nunfin", 0);
    log.write(Stream::Stdout, b"\n", 0);
    log.flush(Stream::Stdout, 0);
    log.flush(Stream::Stderr, 0);
    let records = parse(&std::fs::read(&path).unwrap());
    let of = |stream: &str| -> Vec<u8> {
        records
            .iter()
            .filter(|r| r.0 == stream)
            .flat_map(|r| r.2.clone())
            .collect()
    };
    assert_eq!(of("stdout"), binary);
    assert_eq!(of("stderr"), b"oopsunfin");
    assert_eq!(
        records.last().unwrap().1,
        'P',
        "an unfinished last line is partial"
    );
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o640
    );
}

#[test]
fn more_records_than_one_system_call_takes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let mut log = Log::open(&path, 16).unwrap();
    log.write(Stream::Stdout, "x\n".repeat(5000).as_bytes(), 0);
    assert_eq!(parse(&std::fs::read(&path).unwrap()).len(), 5000);
}

#[test]
fn rotation_loses_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let rotated = dir.path().join("0.log.1");
    let mut log = Log::open(&path, 1024).unwrap();
    log.write(Stream::Stdout, b"1\n2\nhal", 0);
    std::fs::rename(&path, &rotated).unwrap();
    log.write(Stream::Stdout, b"f\n", 0);
    log.reopen().unwrap();
    log.write(Stream::Stdout, b"3\n", 0);
    let contents = |path: &Path| -> Vec<Vec<u8>> {
        parse(&std::fs::read(path).unwrap())
            .into_iter()
            .map(|r| r.2)
            .collect()
    };
    assert_eq!(
        contents(&rotated),
        [b"1".to_vec(), b"2".to_vec(), b"half".to_vec()]
    );
    assert_eq!(contents(&path), [b"3".to_vec()]);
}

#[test]
fn a_failed_reopen_keeps_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let (inner, moved) = (dir.path().join("pod"), dir.path().join("moved"));
    std::fs::create_dir(&inner).unwrap();
    let mut log = Log::open(&inner.join("0.log"), 1024).unwrap();
    std::fs::rename(&inner, &moved).unwrap();
    let error = log.reopen().unwrap_err();
    assert!(error.message().contains("0.log"), "{error}");
    assert!(!inner.exists(), "directories are the client's to make");
    log.write(Stream::Stdout, b"still here\n", 0);
    assert_eq!(
        parse(&std::fs::read(moved.join("0.log")).unwrap())[0].2,
        b"still here"
    );
}

#[test]
fn a_pipe_in_the_logs_place_is_an_error_and_no_trap() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(Log::open(&path, 1024).is_err());
}

/// A file system of `size` bytes; unmounted when dropped.
struct Tiny(tempfile::TempDir);

impl Tiny {
    fn new(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = std::ffi::CString::new(format!("size={size}")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("husk-test", dir.path(), "tmpfs", flags, Some(data.as_c_str())).unwrap();
        Self(dir)
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_costs_output_but_never_a_well_formed_file() {
    let tiny = Tiny::new("32k");
    let (path, ballast) = (tiny.0.path().join("0.log"), tiny.0.path().join("ballast"));
    std::fs::write(&ballast, vec![0; 16 * 1024]).unwrap();
    let mut log = Log::open(&path, 1024).unwrap();
    let mut line = vec![b'x'; 999];
    line.push(b'\n');
    let mut written = 0;
    let trouble = loop {
        written += 999;
        if let Some(trouble) = log.write(Stream::Stdout, &line, 0) {
            break trouble;
        }
    };
    assert!(trouble.reason.contains("0.log"), "{trouble:?}");
    assert_eq!(log.write(Stream::Stdout, &line, 0), None, "told once");
    written += 999;
    std::fs::remove_file(&ballast).unwrap();
    let better = log.write(Stream::Stdout, b"room again\n", 0).unwrap();
    assert_eq!((better.reason.as_str(), better.dropped), ("", log.dropped()));
    let records = parse(&std::fs::read(&path).unwrap());
    assert_eq!(records.last().unwrap().2, b"room again");
    let kept: usize = records.iter().map(|r| r.2.len()).sum::<usize>() - b"room again".len();
    assert_eq!(u64::try_from(written - kept).unwrap(), log.dropped());
}
