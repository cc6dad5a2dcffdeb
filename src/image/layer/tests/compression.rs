//! Compression, digests, and sources that misbehave.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::Cancelled;
use super::*;

fn tar() -> Vec<u8> {
    Tar::default()
        .file("a", "content")
        .file("big", pattern(1_500_000))
        .bytes()
}

/// Bytes that do not compress away.
fn pattern(n: usize) -> Vec<u8> {
    let mut x = 1u32;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8 & 0x3f
    };
    (0..n).map(|_| next()).collect()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(data, 1).unwrap()
}

#[track_caller]
fn unpacks(blob: &[u8]) {
    let tar = tar();
    let layer = unpack_with(blob, &Digest::sha256(&tar), &[], &Limits::default()).ok();
    assert_eq!(layer.read("a"), "content");
    assert_eq!(fs::read(layer.path("big")).unwrap(), pattern(1_500_000));
    let unpacked = layer.result.as_ref().unwrap();
    assert_eq!(unpacked.blob_digest, Digest::sha256(blob));
    assert_eq!(unpacked.blob_size, blob.len() as u64);
    assert_eq!(unpacked.diff_id, Digest::sha256(&tar));
}

#[test]
fn plain_gzip_and_zstd() {
    unpacks(&tar());
    unpacks(&gzip(&tar()));
    unpacks(&zstd(&tar()));
}

#[test]
fn many_members_and_frames() {
    let tar = tar();
    let parts: Vec<_> = tar.chunks(100_000).collect();
    unpacks(&parts.iter().flat_map(|p| gzip(p)).collect::<Vec<_>>());
    unpacks(&parts.iter().flat_map(|p| zstd(p)).collect::<Vec<_>>());
    let skippable = [0x5a, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
    let mut frames = skippable.to_vec();
    for part in parts {
        frames.extend(zstd(part));
        frames.extend(skippable);
    }
    unpacks(&frames);
}

#[test]
fn sources_may_be_slow_and_interrupted() {
    struct Dribble<'a>(&'a [u8], u32);
    impl Read for Dribble<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            match self.1 % 3 {
                0 => Err(io::ErrorKind::Interrupted.into()),
                1 => self.0.read(&mut out[..1]),
                _ => {
                    let n = out.len().min(1001);
                    self.0.read(&mut out[..n])
                }
            }
        }
    }
    let tar = tar();
    let blob = gzip(&tar);
    let expected = Expected {
        blob: None,
        blob_size: Some(blob.len() as u64),
        diff_id: &Digest::sha256(&tar),
    };
    unpack_from(Dribble(&blob, 0), &expected, &[], &Limits::default()).ok();
}

#[test]
fn sha512_is_understood() {
    use sha2::{Digest as _, Sha512};
    let tar = tar();
    let sha512 = |data: &[u8]| {
        format!("sha512:{}", crate::types::id::hex(&Sha512::digest(data)))
            .parse::<Digest>()
            .unwrap()
    };
    let blob = gzip(&tar);
    let expected = Expected {
        blob: Some(&sha512(&blob)),
        blob_size: None,
        diff_id: &sha512(&tar),
    };
    let layer = unpack_from(blob.as_slice(), &expected, &[], &Limits::default()).ok();
    assert_eq!(layer.result.as_ref().unwrap().blob_digest, sha512(&blob));
}

#[test]
fn bytes_behind_the_archive_count_for_the_digests() {
    let mut tar = tar();
    tar.extend(pattern(700_001));
    let layer = unpack_with(&gzip(&tar), &Digest::sha256(&tar), &[], &Limits::default()).ok();
    assert_eq!(layer.read("a"), "content");
}

#[test]
fn lying_digests_and_sizes() {
    let tar = tar();
    let blob = gzip(&tar);
    let (good, diff_id, wrong) = (
        Digest::sha256(&blob),
        Digest::sha256(&tar),
        Digest::sha256(b"other"),
    );
    let size = Some(blob.len() as u64);
    let attempt = |blob_digest, blob_size, diff_id: &Digest| {
        let expected = Expected {
            blob: Some(blob_digest),
            blob_size,
            diff_id,
        };
        let layer = unpack_from(blob.as_slice(), &expected, &[], &Limits::default());
        assert!(
            matches!(layer.result, Err(LayerError::Digest { .. })),
            "{:?}",
            layer.result
        );
        layer
    };
    attempt(&wrong, size, &diff_id).fails_with("digest of the layer's blob");
    attempt(&good, size, &wrong).fails_with("diff id");
    attempt(&good, Some(blob.len() as u64 - 1), &diff_id).fails_with("size of the layer's blob is more");
    attempt(&good, Some(blob.len() as u64 + 1), &diff_id).fails_with("size of the layer's blob");
}

#[test]
fn damage_on_the_way_is_told_from_damage_at_the_origin() {
    let tar = tar();
    for pack in [gzip, zstd] {
        let blob = pack(&tar);
        for at in [5, blob.len() / 2, blob.len() - 2] {
            let mut damaged = blob.clone();
            damaged[at] ^= 0xff;
            let (digest, diff_id) = (Digest::sha256(&blob), Digest::sha256(&tar));
            let expected = Expected {
                blob: Some(&digest),
                blob_size: Some(blob.len() as u64),
                diff_id: &diff_id,
            };
            let layer = unpack_from(damaged.as_slice(), &expected, &[], &Limits::default());
            assert!(
                matches!(layer.result, Err(LayerError::Digest { .. })),
                "at {at}: {:?}",
                layer.result
            );
        }
        let mut damaged = blob.clone();
        damaged[blob.len() / 2] ^= 0xff;
        damaged[blob.len() / 2 + 1] ^= 0xff;
        unpack_with(&damaged, &Digest::sha256(&tar), &[], &Limits::default())
            .result
            .unwrap_err();
    }
}

#[test]
fn truncated_streams() {
    let tar = tar();
    for blob in [gzip(&tar), zstd(&tar), tar.clone()] {
        for keep in [3, 11, 600, blob.len() / 2] {
            let cut = &blob[..keep];
            let layer = unpack_with(cut, &Digest::sha256(&tar), &[], &Limits::default());
            assert!(
                matches!(layer.result, Err(LayerError::Archive { .. })),
                "{keep}: {:?}",
                layer.result
            );
            let digest = Digest::sha256(&blob);
            let expected = Expected {
                blob: Some(&digest),
                blob_size: Some(blob.len() as u64),
                diff_id: &Digest::sha256(&tar),
            };
            let layer = unpack_from(cut, &expected, &[], &Limits::default());
            assert!(
                matches!(layer.result, Err(LayerError::Digest { .. })),
                "{keep}: {:?}",
                layer.result
            );
        }
    }
}

#[test]
fn garbage_after_the_compressed_stream() {
    let tar = tar();
    for (pack, format) in [(gzip as fn(&[u8]) -> Vec<u8>, "gzip"), (zstd, "zstd")] {
        let mut blob = pack(&tar);
        blob.extend(b"garbage behind the end");
        unpack_with(&blob, &Digest::sha256(&tar), &[], &Limits::default()).fails_with(format);
    }
}

#[test]
fn an_empty_blob_is_an_empty_layer() {
    let layer = unpack_with(b"", &Digest::sha256(b""), &[], &Limits::default()).ok();
    assert_eq!(layer.result.as_ref().unwrap().inodes, 1);
    unpack_with(&gzip(b""), &Digest::sha256(b""), &[], &Limits::default()).ok();
    unpack_with(
        &gzip(&[0; 1024]),
        &Digest::sha256(&[0; 1024]),
        &[],
        &Limits::default(),
    )
    .ok();
}

/// Fails after so many bytes.
struct Failing<'a>(&'a [u8], fn() -> io::Error);

impl Read for Failing<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.0.read(out)? {
            0 => Err((self.1)()),
            n => Ok(n),
        }
    }
}

#[test]
fn errors_of_the_source_come_through() {
    let tar = tar();
    let expected = Expected {
        blob: None,
        blob_size: None,
        diff_id: &Digest::sha256(&tar),
    };
    for blob in [gzip(&tar), zstd(&tar), tar.clone()] {
        for keep in [0, 2, 1000, blob.len()] {
            let broken = Failing(&blob[..keep], || {
                io::Error::new(io::ErrorKind::ConnectionReset, "reset by peer")
            });
            let layer = unpack_from(broken, &expected, &[], &Limits::default());
            assert!(
                matches!(layer.result, Err(LayerError::Source(_))),
                "{keep}: {:?}",
                layer.result
            );
            layer.fails_with("reset by peer");
            let cancelled = Failing(&blob[..keep], || io::Error::other(Cancelled));
            let layer = unpack_from(cancelled, &expected, &[], &Limits::default());
            assert!(
                matches!(layer.result, Err(LayerError::Cancelled)),
                "{keep}: {:?}",
                layer.result
            );
        }
    }
}

#[test]
fn endless_sources_end() {
    struct Repeat<'a>(&'a [u8], usize);
    impl Read for Repeat<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            for byte in out.iter_mut() {
                *byte = self.0[self.1 % self.0.len()];
                self.1 += 1;
            }
            Ok(out.len())
        }
    }
    let empty_frame = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
    let limits = Limits {
        bytes: 10 << 20,
        ..Limits::default()
    };
    let wrong = Digest::sha256(b"");
    for (unit, blob) in [
        (&empty_frame[..], None),
        (&empty_frame, Some(&wrong)),
        (b"\x1f\x8b\x08garbage", Some(&wrong)),
    ] {
        let expected = Expected {
            blob,
            blob_size: None,
            diff_id: &wrong,
        };
        unpack_from(Repeat(unit, 0), &expected, &[], &limits).fails_with("10485760 bytes of blob");
    }
    let expected = Expected {
        blob: None,
        blob_size: None,
        diff_id: &wrong,
    };
    unpack_from(Repeat(b"\x1f\x8b\x08garbage", 0), &expected, &[], &limits)
        .fails_with("gzip data is damaged");
}

#[test]
fn a_bad_archive_stops_the_source_early() {
    struct Endless<'a>(&'a [u8], &'a AtomicU64);
    impl Read for Endless<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let n = self.0.read(out)?;
            if n > 0 {
                return Ok(n);
            }
            out.fill(1);
            self.1.fetch_add(out.len() as u64, Ordering::Relaxed);
            Ok(out.len())
        }
    }
    let read = AtomicU64::new(0);
    let bad = Tar::default().file("../out", "").bytes();
    let expected = Expected {
        blob: None,
        blob_size: None,
        diff_id: &Digest::sha256(b""),
    };
    unpack_from(Endless(&bad, &read), &expected, &[], &Limits::default())
        .fails_with("leads out of the layer");
    assert!(read.load(Ordering::Relaxed) < 64 << 20);
}
