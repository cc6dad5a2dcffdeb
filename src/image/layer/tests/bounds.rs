//! Everything a layer can ask for too much of.

use std::io::Write;

use super::*;

fn limited(tar: &Tar, limits: Limits) -> Layer {
    let bytes = tar.bytes();
    unpack_with(&bytes, &Digest::sha256(&bytes), &[], &limits)
}

#[test]
fn entries() {
    let tar = Tar::default().file("a", "").file("b", "").file("c", "");
    limited(
        &tar,
        Limits {
            entries: 3,
            ..Limits::default()
        },
    )
    .ok();
    limited(
        &tar,
        Limits {
            entries: 2,
            ..Limits::default()
        },
    )
    .fails_with("2 archive entries");
}

#[test]
fn bytes() {
    let tar = Tar::default().file("a", vec![1; 100_000]);
    limited(
        &tar,
        Limits {
            bytes: 200_000,
            ..Limits::default()
        },
    )
    .ok();
    limited(
        &tar,
        Limits {
            bytes: 100_000,
            ..Limits::default()
        },
    )
    .fails_with("100000 bytes of archive");
}

#[test]
fn depth() {
    let deep = "d/".repeat(10_000);
    Tar::default()
        .dir(&deep)
        .unpack()
        .fails_with("4095 bytes in a path");
    Tar::default()
        .file(format!("{deep}f"), "")
        .unpack()
        .fails_with("4095 bytes in a path");
    let deepest = "d/".repeat(2_000);
    let layer = Tar::default().file(format!("{deepest}f"), "x").unpack().ok();
    assert_eq!(layer.read(&format!("{deepest}f")), "x");
    super::super::remove_tree(&layer.path("")).unwrap();
}

#[test]
fn depth_through_links() {
    // Each link doubles the depth of what it points to; no single path in the archive is long.
    let mut tar = Tar::default();
    let part = "d".repeat(200);
    for i in 0..40 {
        let at = if i == 0 {
            String::new()
        } else {
            format!("l{}/", i - 1)
        };
        tar = tar
            .dir(format!("{at}{part}/"))
            .symlink(format!("l{i}"), format!("{at}{part}"));
    }
    tar.unpack().fails_with("4095 bytes in a path");
}

#[test]
fn components() {
    let layer = Tar::default().file("f".repeat(256), "").unpack();
    layer.fails_with("File name too long");
}

#[test]
fn link_targets() {
    Tar::default()
        .symlink("l", "x".repeat(5000))
        .unpack()
        .fails_with("4095 bytes in a path");
}

#[test]
fn extended_attributes() {
    let tar = Tar::default().add(EntryKind::File, "f", |e| {
        e.xattrs = vec![(b"user.x".to_vec(), vec![0; 2000])]
    });
    limited(
        &tar,
        Limits {
            xattr: 2000,
            ..Limits::default()
        },
    )
    .ok();
    limited(
        &tar,
        Limits {
            xattr: 1999,
            ..Limits::default()
        },
    )
    .fails_with("1999 bytes in one extended attribute");
    limited(
        &tar,
        Limits {
            metadata: 1000,
            ..Limits::default()
        },
    )
    .fails_with("1000 bytes of metadata");
}

#[test]
fn memory_for_directories() {
    let mut tar = Tar::default();
    for i in 0..100 {
        tar = tar.dir(format!("d{i}/"));
    }
    limited(
        &tar,
        Limits {
            directory_memory: 20_000,
            ..Limits::default()
        },
    )
    .ok();
    limited(
        &tar,
        Limits {
            directory_memory: 2_000,
            ..Limits::default()
        },
    )
    .fails_with("memory for directories");
}

#[test]
fn compression_bombs() {
    let tar = Tar::default().file("zeros", vec![0; 8 << 20]).bytes();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    gzip.write_all(&tar).unwrap();
    let gzip = gzip.finish().unwrap();
    let diff_id = Digest::sha256(&tar);
    let limits = Limits {
        inflate_allowance: 1 << 20,
        inflate_ratio: 100,
        ..Limits::default()
    };
    unpack_with(&gzip, &diff_id, &[], &limits).fails_with("inflated bytes for each compressed byte");
    unpack_with(&gzip, &diff_id, &[], &Limits::default()).ok();
}
