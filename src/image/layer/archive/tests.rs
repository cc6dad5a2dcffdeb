//! Archives byte by byte, mostly bad ones.

#![allow(clippy::unwrap_used)]

use super::super::{LayerError, Limits};
use super::*;

/// A header with the given fields, checksum included.
fn header(path: &[u8], size: u64, flag: u8, magic: &[u8; 8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..path.len()].copy_from_slice(path);
    block[100..107].copy_from_slice(b"0000644");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[156] = flag;
    block[257..265].copy_from_slice(magic);
    sum(&mut block);
    block
}

fn sum(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|&b| u64::from(b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

const USTAR: &[u8; 8] = b"ustar\x0000";
const GNU: &[u8; 8] = b"ustar  \0";
const V7: &[u8; 8] = &[0; 8];

fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(BLOCK), 0);
    data
}

/// An extended header with these records.
fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest + 1..).find(|n| *n == rest + n.to_string().len()).unwrap();
        data.extend(
            [
                length.to_string().as_bytes(),
                b" ",
                key.as_bytes(),
                b"=",
                value,
                b"\n",
            ]
            .concat(),
        );
    }
    [
        header(b"pax", data.len() as u64, b'x', USTAR).to_vec(),
        padded(&data),
    ]
    .concat()
}

/// All entries and their data, the input cut into chunks of some blocks.
fn read_chunked(bytes: &[u8], blocks: usize, limits: &Limits) -> Result<Vec<(Entry, Vec<u8>)>, LayerError> {
    let mut chunks = bytes.chunks(blocks * BLOCK).map(<[u8]>::to_vec);
    let mut reader = Reader::new(|_| chunks.next(), limits);
    let mut found = Vec::new();
    let mut entry = Entry::default();
    while reader.next(&mut entry)? {
        let mut data = Vec::new();
        loop {
            let piece = reader.data()?;
            if piece.is_empty() {
                break;
            }
            data.extend_from_slice(piece);
        }
        found.push((entry.clone(), data));
    }
    Ok(found)
}

fn read(parts: &[&[u8]]) -> Result<Vec<(Entry, Vec<u8>)>, LayerError> {
    let bytes = parts.concat();
    let one = read_chunked(&bytes, 1, &Limits::default());
    let all = read_chunked(&bytes, 1000, &Limits::default());
    assert_eq!(format!("{one:?}"), format!("{all:?}"), "the cut does not matter");
    all
}

#[track_caller]
fn refused(parts: &[&[u8]], text: &str) {
    match read(parts) {
        Ok(found) => panic!("read {found:?}, should be refused with {text:?}"),
        Err(error) => assert!(error.to_string().contains(text), "{error} does not say {text:?}"),
    }
}

const END: &[u8] = &[0; 2 * BLOCK];

#[test]
fn ends() {
    let file = header(b"f", 0, b'0', USTAR);
    for end in [&[][..], &[0; BLOCK], END, &[0; 9 * BLOCK]] {
        assert_eq!(read(&[&file, end]).unwrap().len(), 1);
    }
    assert_eq!(read(&[END, &file]).unwrap().len(), 0);
    refused(&[&file, &[0; BLOCK], &file, END], "single block of zeros");
    refused(&[&file, &[0; 100]], "middle of an entry");
    refused(
        &[&header(b"f", 600, b'0', USTAR), &[1; BLOCK]],
        "middle of an entry",
    );
    refused(
        &[&header(b"f", 600, b'0', USTAR), &[1; 600]],
        "middle of an entry",
    );
    refused(&[&header(b"f", 600, b'0', USTAR)], "middle of an entry");
}

#[test]
fn checksums() {
    let mut block = header(b"f", 0, b'0', USTAR);
    block[0] = b'g';
    refused(&[&block], "checksum");
    let mut signed = header(b"\xff\xfe", 0, b'0', USTAR);
    let total: i64 = signed
        .iter()
        .enumerate()
        .map(|(i, &b)| {
            if (148..156).contains(&i) {
                32
            } else {
                i64::from(b.cast_signed())
            }
        })
        .sum();
    signed[148..155].copy_from_slice(format!("{total:06o}\0").as_bytes());
    assert_eq!(read(&[&signed]).unwrap()[0].0.path, b"\xff\xfe");
    refused(&[&[b'x'; BLOCK]], "not octal");
}

#[test]
fn dialects() {
    let mut ustar = header(b"name", 0, b'0', USTAR);
    ustar[345..351].copy_from_slice(b"prefix");
    sum(&mut ustar);
    assert_eq!(read(&[&ustar]).unwrap()[0].0.path, b"prefix/name");
    let mut gnu = header(b"name", 0, b'0', GNU);
    gnu[345..351].copy_from_slice(b"atimes");
    sum(&mut gnu);
    assert_eq!(read(&[&gnu]).unwrap()[0].0.path, b"name");
    let old = header(b"dir/", 0, 0, V7);
    assert_eq!(read(&[&old]).unwrap()[0].0.kind, EntryKind::Directory);
    assert_eq!(
        read(&[&header(b"dir/", 0, b'0', USTAR)]).unwrap()[0].0.kind,
        EntryKind::File
    );
    assert_eq!(
        read(&[&header(&[b'n'; 100], 0, b'7', USTAR)]).unwrap()[0].0.path,
        [b'n'; 100]
    );
    refused(&[&header(b"x", 0, b'Q', USTAR)], "entry type 'Q'");
    refused(&[&header(b"x", 0, b's', USTAR)], "entry type");
}

#[test]
fn numbers() {
    let with = |range: std::ops::Range<usize>, field: &[u8]| {
        let mut block = header(b"f", 0, b'5', USTAR);
        block[range].copy_from_slice(field);
        sum(&mut block);
        read(&[&block]).map(|found| found[0].0.clone())
    };
    assert_eq!(with(108..116, b"  17 \0\0\0").unwrap().uid, 0o17);
    assert_eq!(with(108..116, b"\0\0\0\0\0\0\0\0").unwrap().uid, 0);
    assert_eq!(
        with(108..116, b"\x80\0\0\0\xee\x6b\x28\0").unwrap().uid,
        4_000_000_000
    );
    assert_eq!(with(136..148, &[0xff; 12]).unwrap().mtime.seconds, -1);
    assert_eq!(
        with(136..148, b"\x80\0\0\0\0\0\0\x01\0\0\0\0")
            .unwrap()
            .mtime
            .seconds,
        1 << 32
    );
    for bad in [b"12a\0\0\0\0\0", b"8\0\0\0\0\0\0\0", b"-1\0\0\0\0\0\0"] {
        assert!(with(108..116, bad).is_err(), "{bad:?}");
    }
    assert!(with(108..116, &[0xff; 8]).is_err(), "negative owner");
    assert!(
        with(108..116, b"\x80\0\0\0\xff\xff\xff\xff").is_err(),
        "the id that means none"
    );
    assert!(
        with(136..148, b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").is_err(),
        "too large"
    );
    let mut negative = header(b"f", 0, b'0', USTAR);
    negative[124..136].fill(0xff);
    sum(&mut negative);
    refused(&[&negative], "size is negative");
    let mut huge = header(b"f", 0, b'0', USTAR);
    huge[124..136].copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
    sum(&mut huge);
    refused(&[&huge, END], "bytes in one file");
}

#[test]
fn only_files_have_bodies() {
    let file = header(b"f", 3, b'0', USTAR);
    for flag in [b'1', b'2', b'3', b'4', b'5', b'6'] {
        let found = read(&[&header(b"x", 1 << 20, flag, USTAR), &file, &padded(b"abc"), END]).unwrap();
        assert_eq!(
            (found.len(), found[0].0.size, found[1].1.as_slice()),
            (2, 0, b"abc".as_slice())
        );
        let found = read(&[
            &pax(&[("size", b"512")]),
            &header(b"x", 0, flag, USTAR),
            &file,
            &padded(b"abc"),
            END,
        ])
        .unwrap();
        assert_eq!(found[1].0.path, b"f");
    }
}

#[test]
fn gnu_long_names() {
    let long = [b'n'; 300];
    let name = |flag, text: &[u8]| {
        [
            header(b"././@LongLink", text.len() as u64, flag, GNU).to_vec(),
            padded(text),
        ]
        .concat()
    };
    let file = header(b"short", 2, b'0', GNU);
    let found = read(&[
        &name(b'L', &long),
        &file,
        &padded(b"hi"),
        &file,
        &padded(b"ho"),
        END,
    ])
    .unwrap();
    assert_eq!(found[0].0.path, long);
    assert_eq!(found[0].1, b"hi");
    assert_eq!(found[1].0.path, b"short");
    let found = read(&[
        &name(b'K', &long),
        &name(b'L', b"a\0b"),
        &header(b"x", 0, b'2', GNU),
    ])
    .unwrap();
    assert_eq!(
        (found[0].0.link.as_slice(), found[0].0.path.as_slice()),
        (long.as_slice(), b"a".as_slice())
    );
    let found = read(&[
        &pax(&[("path", b"pax")]),
        &name(b'L', b"gnu\0"),
        &file,
        &padded(b"hi"),
    ])
    .unwrap();
    assert_eq!(found[0].0.path, b"gnu");
    refused(&[&name(b'L', &long), END], "belongs to another entry");
    refused(
        &[&header(b"x", 2 << 20, b'L', GNU), &vec![b'n'; 2 << 20]],
        "bytes of metadata",
    );
    refused(&[&header(b"x", 0o77777777777, b'L', GNU)], "bytes of metadata");
}

#[test]
fn pax_records_win_over_the_header() {
    let records: &[(&str, &[u8])] = &[
        ("path", b"p\xffth"),
        ("linkpath", b"l"),
        ("uid", b"3000000"),
        ("gid", b"7"),
        ("mtime", b"1700000000.123456789123"),
        ("atime", b"1"),
        ("uname", b"root"),
        ("comment", b"= whatever\n"),
        ("SCHILY.xattr.user.a", b"1\n2=\0"),
        ("SCHILY.xattr.user.a", b"again"),
        ("SCHILY.xattr.user.b", b""),
        ("VENDOR.key", b"x"),
        ("size", b"3"),
    ];
    let found = read(&[
        &pax(records),
        &header(b"h", 0, b'0', USTAR),
        &padded(b"abc"),
        &header(b"g", 0, b'0', USTAR),
    ])
    .unwrap();
    let (entry, data) = &found[0];
    assert_eq!(
        (entry.path.as_slice(), entry.link.as_slice()),
        (b"p\xffth".as_slice(), b"l".as_slice())
    );
    assert_eq!((entry.uid, entry.gid, entry.size), (3_000_000, 7, 3));
    assert_eq!(
        entry.mtime,
        Time {
            seconds: 1_700_000_000,
            nanos: 123_456_789
        }
    );
    assert_eq!(
        entry.xattrs,
        [
            (b"user.a".to_vec(), b"again".to_vec()),
            (b"user.b".to_vec(), Vec::new())
        ]
    );
    assert_eq!(data, b"abc");
    assert_eq!(found[1].0.path, b"g");
    assert!(found[1].0.xattrs.is_empty());
    let kept = read(&[
        &pax(&[("path", b""), ("size", b"")]),
        &header(b"h", 0, b'0', USTAR),
    ])
    .unwrap();
    assert_eq!(kept[0].0.path, b"h");
}

#[test]
fn pax_times() {
    let time = |text: &str| {
        read(&[&pax(&[("mtime", text.as_bytes())]), &header(b"h", 0, b'0', USTAR)]).map(|f| f[0].0.mtime)
    };
    for (text, seconds, nanos) in [
        ("0", 0, 0),
        ("1.5", 1, 500_000_000),
        ("-1.5", -2, 500_000_000),
        ("-0.25", -1, 750_000_000),
        ("-3", -3, 0),
        ("2.", 2, 0),
        ("9223372036854775807", i64::MAX, 0),
    ] {
        assert_eq!(time(text).unwrap(), Time { seconds, nanos }, "{text}");
    }
    for text in [
        "x",
        "1.x",
        "1.2.3",
        "-",
        ".5",
        "+1",
        "1e3",
        " 1",
        "9223372036854775808",
    ] {
        assert!(time(text).is_err(), "{text}");
    }
}

#[test]
fn malformed_pax_records() {
    let raw = |data: &[u8]| {
        [
            header(b"pax", data.len() as u64, b'x', USTAR).to_vec(),
            padded(data),
            header(b"h", 0, b'0', USTAR).to_vec(),
        ]
        .concat()
    };
    for data in [
        b"garbage".as_slice(),
        b"9 path=x\n10 path",
        b"99 path=x\n",
        b"9 path=xy\n",
        b"9 path=x ",
        b"8 pathx\n",
        b"5 =x\n",
        b"0 path=x\n",
        b"-9 path=x\n",
        b"+9 path=x\n",
        b"18446744073709551625 path=x\n",
        b" 9 path=x\n",
        b"9 path=x\n\0\0\0",
    ] {
        refused(&[&raw(data)], "malformed record");
    }
    for (key, value) in [
        ("path", b"a\0b".as_slice()),
        ("linkpath", b"\0"),
        ("GNU.sparse.name", b"a\0"),
        ("size", b"-1"),
        ("size", b"0x10"),
        ("size", b"18446744073709551615"),
        ("uid", b"-1"),
        ("uid", b"4294967295"),
        ("gid", b"99999999999"),
        ("SCHILY.xattr.", b"no name"),
    ] {
        assert!(
            read(&[&pax(&[(key, value)]), &header(b"h", 0, b'0', USTAR)]).is_err(),
            "{key}={value:?}"
        );
    }
    refused(&[&pax(&[("path", b"x")]), END], "belongs to another entry");
}

#[test]
fn global_headers_are_checked_and_ignored() {
    let mut global = pax(&[("path", b"everything"), ("mtime", b"1"), ("comment", b"0123abc")]);
    global[156] = b'g';
    sum(global.first_chunk_mut().unwrap());
    let found = read(&[
        &global,
        &header(b"f", 0, b'0', USTAR),
        &global,
        &header(b"g", 0, b'0', USTAR),
    ])
    .unwrap();
    assert_eq!(
        (found[0].0.path.as_slice(), found[1].0.path.as_slice()),
        (b"f".as_slice(), b"g".as_slice())
    );
    assert_eq!(found[0].0.mtime.seconds, 0);
    let mut bad = header(b"g", 7, b'g', USTAR).to_vec();
    bad.extend(padded(b"garbage"));
    refused(&[&bad, &header(b"f", 0, b'0', USTAR)], "malformed record");
}

#[test]
fn sparse_maps_are_checked() {
    let one = |map: &[u8], real: &[u8], stored: u64| {
        let body = vec![b'd'; usize::try_from(stored).unwrap()];
        read(&[
            &pax(&[("GNU.sparse.map", map), ("GNU.sparse.size", real)]),
            &header(b"f", stored, b'0', USTAR),
            &padded(&body),
            END,
        ])
    };
    let good = one(b"0,3,10,2", b"20", 5).unwrap();
    assert_eq!(good[0].0.size, 20);
    assert_eq!(
        good[0].0.regions,
        Some(vec![
            Region { offset: 0, length: 3 },
            Region {
                offset: 10,
                length: 2
            }
        ])
    );
    assert_eq!(one(b"", b"20", 0).unwrap()[0].0.regions, Some(vec![]));
    for (map, real, stored) in [
        (b"0,3,2,2".as_slice(), b"20".as_slice(), 5),
        (b"10,2,0,3", b"20", 5),
        (b"0,3,18,3", b"20", 6),
        (b"0,3", b"20", 5),
        (b"0,5,9", b"20", 5),
        (b"0,x", b"20", 5),
        (b"0,5,", b"20", 5),
        (b"9223372036854775807,9223372036854775807", b"20", 5),
        (b"0,5", b"9223372036854775807", 5),
    ] {
        assert!(
            one(map, real, stored).is_err(),
            "{}",
            String::from_utf8_lossy(map)
        );
    }
    let numbers = "1,0,".repeat(100_002);
    let limits = Limits {
        sparse_regions: 4,
        ..Limits::default()
    };
    let map = pax(&[("GNU.sparse.map", &numbers.as_bytes()[..100])]);
    assert!(read_chunked(&[map, header(b"f", 0, b'0', USTAR).to_vec()].concat(), 9, &limits).is_err());
    let bad = [
        ("GNU.sparse.offset", b"0".as_slice()),
        ("GNU.sparse.offset", b"5"),
    ];
    refused(&[&pax(&bad), &header(b"f", 0, b'0', USTAR)], "do not alternate");
    let unknown = [("GNU.sparse.major", b"2".as_slice()), ("GNU.sparse.minor", b"0")];
    refused(
        &[&pax(&unknown), &header(b"f", 0, b'0', USTAR)],
        "sparse format 2.0",
    );
}

#[test]
fn sparse_maps_in_the_body() {
    let records: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"real-name"),
        ("GNU.sparse.realsize", b"100"),
    ];
    let body = |map: &[u8], data: &[u8]| [padded(map), padded(data)].concat();
    let file = |size| header(b"GNUSparseFile.0/x", size, b'0', USTAR);
    let found = read(&[
        &pax(records),
        &file(515),
        &body(b"1\n7\n3\n", b"abc"),
        &file(0),
        END,
    ])
    .unwrap();
    assert_eq!(found[0].0.path, b"real-name");
    assert_eq!((found[0].0.size, found[0].1.as_slice()), (100, b"abc".as_slice()));
    assert_eq!(found[0].0.regions, Some(vec![Region { offset: 7, length: 3 }]));
    let sized = [records, &[("size", b"515".as_slice())]].concat();
    let found = read(&[&pax(&sized), &file(0), &body(b"1\n7\n3\n", b"abc"), &file(0), END]).unwrap();
    assert_eq!(found[0].1, b"abc");
    refused(
        &[&pax(records), &file(100), &body(b"1\n7\n3\n", b"abc")],
        "longer than its file",
    );
    refused(
        &[&pax(records), &file(515), &body(b"2\n7\n3\n", b"abc")],
        "not a list of numbers",
    );
    refused(
        &[&pax(records), &file(1024), &[b'1'; 1024]],
        "not a list of numbers",
    );
    refused(
        &[&pax(records), &file(1024), &body(b"99999999\n", b"")],
        "regions in a sparse file",
    );
    refused(
        &[&pax(&records[..3]), &file(515), &body(b"1\n7\n3\n", b"abc")],
        "has no size",
    );
}

#[test]
fn old_sparse_maps() {
    let mut block = header(b"f", 3, b'S', GNU);
    block[386..397].copy_from_slice(b"00000000012");
    block[398..409].copy_from_slice(b"00000000003");
    block[483..494].copy_from_slice(b"00000000144");
    sum(&mut block);
    let found = read(&[&block, &padded(b"abc"), END]).unwrap();
    assert_eq!((found[0].0.size, found[0].1.as_slice()), (100, b"abc".as_slice()));
    assert_eq!(
        found[0].0.regions,
        Some(vec![Region {
            offset: 10,
            length: 3
        }])
    );
    block[482] = 1;
    sum(&mut block);
    refused(&[&block], "middle of an entry");
    let mut endless = [0; BLOCK];
    endless[504] = 1;
    for i in 0..21 {
        endless[i * 24] = b'1';
    }
    let chain: Vec<u8> = endless.iter().copied().cycle().take(6000 * BLOCK).collect();
    refused(&[&block, &chain], "regions in a sparse file");
    refused(&[&header(b"f", 0, b'S', USTAR)], "entry type 'S'");
}
