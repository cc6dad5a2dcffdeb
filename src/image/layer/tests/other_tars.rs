//! Archives that others wrote, and what others make of ours.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use super::super::pack::pack_tree;
use super::*;

/// GNU tar's archive of `dir`.
fn gnu_tar(dir: &Path, options: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .args(["--create", "--file=-", "--sort=name", "--numeric-owner"])
        .args(options)
        .arg("--directory")
        .arg(dir)
        .arg(".")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success());
    output.stdout
}

fn gnu_untar(archive: &[u8], dir: &Path) {
    use std::io::Write;
    let mut child = Command::new("tar")
        .args([
            "--extract",
            "--file=-",
            "--numeric-owner",
            "--same-permissions",
            "--same-owner",
            "--xattrs",
            "--xattrs-include=*",
        ])
        .arg("--directory")
        .arg(dir)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(archive).unwrap();
    assert!(child.wait().unwrap().success());
}

/// All there is to see of a tree: by path, what `stat` says and what is inside.
fn survey(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let kind = metadata.file_type();
        let content = if kind.is_file() {
            Digest::sha256(&fs::read(&path).unwrap()).to_string()
        } else if kind.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else {
            String::new()
        };
        if kind.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let size = if kind.is_file() { metadata.size() } else { 0 };
        let links = if kind.is_dir() { 0 } else { metadata.nlink() };
        let line = format!(
            "{:o} {}:{} {}.{:09} {size} {links} {} {content}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.rdev(),
        );
        seen.insert(path.strip_prefix(root).unwrap().to_owned(), line);
    }
    seen
}

#[track_caller]
fn assert_same(left: &Path, right: &Path) {
    let (left, right) = (survey(left), survey(right));
    assert_eq!(left.keys().collect::<Vec<_>>(), right.keys().collect::<Vec<_>>());
    for (path, line) in &left {
        assert_eq!(line, &right[path], "{path:?}");
    }
}

/// A small tree with one of everything.
fn sample() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    fs::create_dir_all(at("deep/er")).unwrap();
    fs::write(at("deep/file"), "hello").unwrap();
    fs::write(at("deep").join("n".repeat(200)), "long name").unwrap();
    fs::create_dir_all(at(&"sub-directory-name/".repeat(9))).unwrap();
    fs::write(at(&("sub-directory-name/".repeat(9) + "file")), "prefix").unwrap();
    fs::hard_link(at("deep/file"), at("deep/link")).unwrap();
    std::os::unix::fs::symlink("x".repeat(300), at("symlink")).unwrap();
    std::os::unix::fs::chown(at("deep/er"), Some(5000), Some(3_000_000)).unwrap();
    rustix::fs::setxattr(
        at("deep/file"),
        "user.note",
        b"v",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let status = Command::new("mkfifo").arg(at("pipe")).status().unwrap();
    assert!(status.success());
    dir
}

#[test]
fn gnu_tars_formats() {
    let sample = sample();
    for format in ["gnu", "oldgnu", "posix"] {
        let bytes = gnu_tar(sample.path(), &[&format!("--format={format}")]);
        let layer = unpack_bytes(&bytes).ok();
        let theirs = tempfile::tempdir().unwrap();
        gnu_untar(&bytes, theirs.path());
        assert_same(&layer.path(""), theirs.path());
    }
}

#[test]
fn gnu_tars_extended_attributes() {
    let sample = sample();
    let layer = unpack_bytes(&gnu_tar(
        sample.path(),
        &["--format=posix", "--xattrs", "--xattrs-include=*"],
    ))
    .ok();
    assert_eq!(
        layer.xattr("deep/file", "user.note").as_deref(),
        Some(b"v".as_slice())
    );
}

#[test]
fn gnu_tar_reads_ours() {
    let sample = sample();
    let bytes = pack_tree(sample.path(), Vec::new()).unwrap();
    let theirs = tempfile::tempdir().unwrap();
    gnu_untar(&bytes, theirs.path());
    assert_same(sample.path(), theirs.path());
    assert_same(&unpack_bytes(&bytes).ok().path(""), theirs.path());
}

#[test]
fn a_real_tree() {
    let source = [
        "/usr/share/perl5",
        "/usr/share/zoneinfo",
        "/usr/share/doc",
        "/etc",
    ];
    let source = source.iter().map(Path::new).find(|p| p.is_dir()).unwrap();
    let bytes = gnu_tar(source, &["--format=posix"]);
    let layer = unpack_bytes(&bytes).ok();
    assert_same(&layer.path(""), source);
    let unpacked = layer.result.as_ref().unwrap();
    let inodes: std::collections::BTreeSet<_> = survey(source)
        .keys()
        .map(|p| fs::symlink_metadata(layer.path("").join(p)).unwrap().ino())
        .collect();
    assert_eq!(unpacked.inodes as usize, inodes.len());
}

#[test]
fn sparse_files_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse");
    let file = fs::File::create(&path).unwrap();
    let mib = 1 << 20;
    file.set_len(64 * mib).unwrap();
    // More regions than one header holds, and a hole at the end.
    for i in 0..40u64 {
        rustix::io::pwrite(&file, format!("data {i}").as_bytes(), i * mib + (i % 2) * 100).unwrap();
    }
    // GNU's own format has whole seconds only.
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    fs::File::open(dir.path())
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    for options in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let bytes = gnu_tar(dir.path(), &[&["--sparse"], options].concat());
        assert!(bytes.len() < 2 << 20, "tar did not store it sparse");
        let layer = unpack_bytes(&bytes).ok();
        assert_same(&layer.path(""), dir.path());
        assert!(layer.metadata("sparse").blocks() < 2048, "{options:?}");
    }
}

#[test]
fn another_reader_agrees() {
    use tar_core::parse::{Limits as TheirLimits, ParseEvent, Parser};
    let sample = sample();
    for bytes in [
        pack_tree(sample.path(), Vec::new()).unwrap(),
        gnu_tar(sample.path(), &["--format=gnu"]),
    ] {
        let mut theirs = Vec::new();
        let mut parser = Parser::new(TheirLimits::default());
        let mut at = 0;
        loop {
            match parser.parse(&bytes[at..]).unwrap() {
                ParseEvent::Entry { consumed, entry } => {
                    theirs.push((
                        entry.path.to_vec(),
                        entry.mode & 0o7777,
                        entry.uid,
                        entry.gid,
                        entry.mtime,
                        entry.size,
                    ));
                    at += consumed + usize::try_from(entry.padded_size()).unwrap();
                }
                ParseEvent::End { .. } => break,
                other => panic!("{other:?}"),
            }
        }
        let mut ours = Vec::new();
        let limits = Limits::default();
        let mut chunks = vec![bytes];
        let mut reader = super::super::archive::Reader::new(|_| chunks.pop(), &limits);
        let mut entry = Entry::default();
        while reader.next(&mut entry).unwrap() {
            let mtime = u64::try_from(entry.mtime.seconds).unwrap();
            ours.push((
                entry.path.clone(),
                entry.mode,
                entry.uid.into(),
                entry.gid.into(),
                mtime,
                entry.size,
            ));
        }
        assert_eq!(ours, theirs);
    }
}
