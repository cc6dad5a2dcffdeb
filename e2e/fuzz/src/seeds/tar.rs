//! Layer archives in the dialects that exist.

use super::Seed;

/// Archives.
pub fn archives() -> Vec<Seed> {
    vec![
        ("plain", plain()),
        ("pax", pax()),
        ("gnu-long-names", gnu_long_names()),
        ("gnu-sparse", gnu_sparse()),
        (
            "pax-sparse-0.1",
            pax_sparse(
                "22 GNU.sparse.major=0\n22 GNU.sparse.minor=1\n23 GNU.sparse.size=2048\n29 GNU.sparse.map=0,4,1024,4\n",
                b"datadata",
            ),
        ),
        ("pax-sparse-1.0", pax_sparse_1()),
        ("v7", v7()),
        ("empty", vec![0; 1024]),
    ]
}

fn plain() -> Vec<u8> {
    let mut out = Vec::new();
    for (name, kind, body) in [
        ("etc/", b'5', &b""[..]),
        ("etc/passwd", b'0', b"root:x:0:0::/root:/bin/sh\n"),
        ("bin/sh", b'2', b""),
        ("etc/hard", b'1', b""),
        ("dev/null", b'3', b""),
        ("run/pipe", b'6', b""),
        ("etc/.wh.gone", b'0', b""),
    ] {
        let mut block = header(name, kind, body.len());
        if matches!(kind, b'1' | b'2') {
            block[157..167].copy_from_slice(b"etc/passwd");
        }
        finish(&mut out, block, body);
    }
    end(out)
}

fn pax() -> Vec<u8> {
    let mut out = Vec::new();
    let global = record("comment", "x");
    finish(
        &mut out,
        header("pax_global_header", b'g', global.len()),
        global.as_bytes(),
    );
    let records = [
        record("path", &"long/".repeat(60)),
        record("mtime", "1700000000.123456789"),
        record("uid", "4000000000"),
        record("gid", "5"),
        record("size", "3"),
        record("SCHILY.xattr.security.capability", "\u{1}\u{0}\u{0}\u{2}"),
        record("SCHILY.xattr.user.x", ""),
    ]
    .concat();
    finish(
        &mut out,
        header("PaxHeaders/x", b'x', records.len()),
        records.as_bytes(),
    );
    finish(&mut out, header("x", b'0', 3), b"abc");
    end(out)
}

fn gnu_long_names() -> Vec<u8> {
    let mut out = Vec::new();
    let name = format!("{}\0", "deep/".repeat(80));
    finish(
        &mut out,
        gnu(header("././@LongLink", b'L', name.len())),
        name.as_bytes(),
    );
    finish(
        &mut out,
        gnu(header("././@LongLink", b'K', name.len())),
        name.as_bytes(),
    );
    let mut block = gnu(header("x", b'2', 0));
    // A time before 1970 in base 256.
    block[136..148].fill(0xff);
    finish(&mut out, block, b"");
    end(out)
}

fn gnu_sparse() -> Vec<u8> {
    let mut block = gnu(header("sparse", b'S', 1024));
    for (at, text) in [
        (386, "00000000000"),
        (398, "00000001000"),
        (410, "00000010000"),
        (422, "00000001000"),
    ] {
        block[at..at + 11].copy_from_slice(text.as_bytes());
    }
    block[482] = 1;
    block[483..494].copy_from_slice(b"00000011000");
    let mut out = Vec::new();
    push_header(&mut out, block);
    out.extend([0; 512]);
    out.extend([b'd'; 1024]);
    end(out)
}

fn pax_sparse(records: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    finish(
        &mut out,
        header("PaxHeaders/s", b'x', records.len()),
        records.as_bytes(),
    );
    finish(&mut out, header("GNUSparseFile.0/s", b'0', body.len()), body);
    end(out)
}

fn pax_sparse_1() -> Vec<u8> {
    let records = [
        record("GNU.sparse.major", "1"),
        record("GNU.sparse.minor", "0"),
        record("GNU.sparse.name", "real"),
        record("GNU.sparse.realsize", "4096"),
    ]
    .concat();
    let mut body = b"2\n0\n4\n2048\n4\n".to_vec();
    body.resize(512, 0);
    body.extend(b"datadata");
    pax_sparse(&records, &body)
}

fn v7() -> Vec<u8> {
    let mut out = Vec::new();
    for name in ["old/", "old/file"] {
        let mut block = header(name, 0, 0);
        block[257..265].fill(0);
        finish(&mut out, block, b"");
    }
    end(out)
}

/// `<length> <key>=<value>\n`, where the length counts itself.
fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}")
}

fn header(name: &str, kind: u8, size: usize) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "14000000000\0");
    put(257, "ustar\x0000");
    put(329, "0000001\0");
    put(337, "0000003\0");
    block[156] = kind;
    block
}

fn gnu(mut block: [u8; 512]) -> [u8; 512] {
    block[257..265].copy_from_slice(b"ustar  \0");
    block[329..345].fill(0);
    block
}

fn push_header(out: &mut Vec<u8>, mut block: [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend(block);
}

fn finish(out: &mut Vec<u8>, block: [u8; 512], body: &[u8]) {
    push_header(out, block);
    out.extend(body);
    out.resize(out.len().next_multiple_of(512), 0);
}

fn end(mut out: Vec<u8>) -> Vec<u8> {
    out.extend([0; 1024]);
    out
}
