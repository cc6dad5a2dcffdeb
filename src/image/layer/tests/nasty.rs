//! Random archives made of the names and links that attacks are made of. Whatever comes of them stays inside, makes
//! sense, and does not depend on luck.

use proptest::prelude::*;

use super::super::pack::pack_tree;
use super::*;

fn component() -> impl Strategy<Value = String> {
    let names = [
        "a",
        "b",
        "c",
        "..",
        ".",
        "",
        ".wh.a",
        ".wh.b",
        ".wh..wh..opq",
        ".wh..",
        ".wh..wh.x",
        "secret",
        "file",
    ];
    prop::sample::select(names.to_vec()).prop_map(str::to_owned)
}

fn path() -> impl Strategy<Value = String> {
    (
        any::<bool>(),
        prop::collection::vec(component(), 1..5),
        any::<bool>(),
    )
        .prop_map(|(absolute, parts, slash)| {
            let (start, end) = (if absolute { "/" } else { "" }, if slash { "/" } else { "" });
            format!("{start}{}{end}", parts.join("/"))
        })
}

#[derive(Debug, Clone)]
struct Step(EntryKind, String, String, u32);

fn step() -> impl Strategy<Value = Step> {
    let kinds = [
        EntryKind::File,
        EntryKind::Directory,
        EntryKind::Directory,
        EntryKind::Symlink,
        EntryKind::Symlink,
        EntryKind::HardLink,
        EntryKind::Fifo,
        EntryKind::Char,
    ];
    (
        prop::sample::select(kinds.to_vec()),
        path(),
        path(),
        0u32..0o10000,
    )
        .prop_map(|(kind, path, link, mode)| Step(kind, path, link, mode))
}

impl Step {
    fn add_to(&self, tar: Tar) -> Tar {
        let Step(kind, path, link, mode) = self;
        tar.add(*kind, path, |e| {
            (e.link, e.mode, e.uid, e.device) = (link.clone().into_bytes(), *mode, mode % 3, (1, 3));
        })
    }
}

/// Of these steps, those that unpack without an error: an archive that fails at once shows little.
fn longest_good(steps: &[Step], lowers: &[PathBuf]) -> Tar {
    let mut tar = Tar::default();
    for step in steps {
        tar = step.add_to(tar);
        let bytes = tar.bytes();
        let layer = unpack_with(&bytes, &Digest::sha256(&bytes), lowers, &Limits::default());
        layer.assert_contained();
        if layer.result.is_err() {
            tar.0.pop();
        }
    }
    tar
}

fn inodes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut seen = std::collections::BTreeSet::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        seen.insert(metadata.ino());
        if metadata.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
    }
    seen.len() as u64
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_they_hold_they_stay_inside(
        below in prop::collection::vec(step(), 0..12),
        entries in prop::collection::vec(step(), 1..25),
    ) {
        let lower = longest_good(&below, &[]).unpack().ok();
        let lowers = [lower.path("")];
        let tar = longest_good(&entries, &lowers);
        let bytes = tar.bytes();
        let layer = unpack_with(&bytes, &Digest::sha256(&bytes), &lowers, &Limits::default()).ok();
        prop_assert_eq!(layer.result.as_ref().unwrap().inodes, inodes(&layer.path("")));

        // What came out is a layer that can be packed, and that unpacks to itself.
        let packed = pack_tree(&layer.path(""), Vec::new()).unwrap();
        let again = unpack_bytes(&packed).ok();
        prop_assert!(pack_tree(&again.path(""), Vec::new()).unwrap() == packed);
        super::super::remove_tree(&layer.path("")).unwrap();
        lower.assert_contained();
    }
}
