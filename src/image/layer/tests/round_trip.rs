//! Random trees survive the way into a directory and back to the very same bytes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::pack::pack_tree;
use super::*;

#[derive(Debug, Clone)]
enum Node {
    File(Vec<u8>),
    Link(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, (Node, Attributes)>),
    Fifo,
    Device(bool, u32, u32),
}

#[derive(Debug, Clone)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Time,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let name = prop_oneof![
        "user\\.[a-z]{1,8}".prop_map(String::into_bytes),
        "trusted\\.overlay\\.[a-z]{1,8}".prop_map(String::into_bytes),
        "trusted\\.[a-z]{1,8}".prop_map(String::into_bytes),
    ];
    (
        0u32..0o10000,
        prop_oneof![Just(0), 1u32..70_000, Just(4_000_000_000)],
        0u32..70_000,
        (
            -1_000_000i64..4_000_000_000,
            prop_oneof![Just(0), 0u32..1_000_000_000],
        ),
        prop::collection::btree_map(name, prop::collection::vec(any::<u8>(), 0..40), 0..3),
    )
        .prop_map(|(mode, uid, gid, (seconds, nanos), xattrs)| Attributes {
            mode,
            uid,
            gid,
            mtime: Time { seconds, nanos },
            xattrs,
        })
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::collection::vec(
        any::<u8>().prop_filter("no separator", |b| !matches!(b, 0 | b'/')),
        1..20,
    );
    prop_oneof![3 => "[a-z.]{1,12}".prop_map(String::into_bytes), 1 => bytes, 1 => "[a-z]{120,255}".prop_map(String::into_bytes)]
        .prop_filter("no special name", |n| n != b"." && n != b".." && !n.starts_with(b".wh."))
}

fn tree() -> impl Strategy<Value = BTreeMap<Vec<u8>, (Node, Attributes)>> {
    let leaf = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..2000).prop_map(Node::File),
        1 => prop::collection::vec(1u8..=255, 1..300).prop_map(Node::Link),
        1 => Just(Node::Fifo),
        1 => (any::<bool>(), 1u32..4096, 0u32..0x10_0000).prop_map(|(c, major, minor)| Node::Device(c, major, minor)),
    ];
    let node = leaf.prop_recursive(4, 40, 6, |inner| {
        prop::collection::btree_map(name(), (inner, attributes()), 0..6).prop_map(Node::Directory)
    });
    prop::collection::btree_map(name(), (node, attributes()), 0..6)
}

fn add(tar: &mut Tar, prefix: &[u8], children: &BTreeMap<Vec<u8>, (Node, Attributes)>) {
    for (base, (node, attributes)) in children {
        let mut entry = Entry {
            path: [prefix, base].concat(),
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: attributes.mtime,
            xattrs: attributes.xattrs.clone().into_iter().collect(),
            ..Entry::default()
        };
        let mut data = Vec::new();
        match node {
            Node::File(content) => data.clone_from(content),
            Node::Link(target) => {
                (entry.kind, entry.link, entry.mode) = (EntryKind::Symlink, target.clone(), 0o777);
                entry.xattrs.retain(|(name, _)| !name.starts_with(b"user."));
            }
            Node::Fifo => entry.kind = EntryKind::Fifo,
            Node::Device(true, major, minor) => {
                (entry.kind, entry.device) = (EntryKind::Char, (*major, *minor))
            }
            Node::Device(false, major, minor) => {
                (entry.kind, entry.device) = (EntryKind::Block, (*major, *minor))
            }
            Node::Directory(_) => {
                entry.kind = EntryKind::Directory;
                entry.path.push(b'/');
            }
        }
        if matches!(node, Node::Fifo | Node::Device(..)) {
            entry.xattrs.retain(|(name, _)| !name.starts_with(b"user."));
        }
        let path = entry.path.clone();
        tar.0.push((entry, data));
        if let Node::Directory(children) = node {
            add(tar, &path, children);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn unpack_then_pack_gives_the_same_bytes(tree in tree()) {
        let mut tar = Tar::default().dir("./");
        add(&mut tar, b"", &tree);
        let bytes = tar.bytes();
        let layer = unpack_bytes(&bytes);
        prop_assert!(layer.result.is_ok(), "{:?}", layer.result);
        let again = pack_tree(&layer.path(""), Vec::new()).unwrap();
        prop_assert!(again == bytes, "{} and {} bytes", again.len(), bytes.len());
    }

    #[test]
    fn any_damage_is_an_error_and_stays_inside(tree in tree(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut tar = Tar::default();
        add(&mut tar, b"", &tree);
        let mut bytes = tar.bytes();
        let diff_id = Digest::sha256(&bytes);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let layer = unpack_with(&bytes, &diff_id, &[], &Limits::default());
        prop_assert!(layer.result.is_err());
        layer.assert_contained();
    }
}

#[test]
fn whiteouts_and_hard_links_survive() {
    let tar = Tar::default()
        .dir("./")
        .dir("a/")
        .add(EntryKind::File, "a/.wh..wh..opq", |e| e.mtime = Time::default())
        .file("a/one", "1")
        .hard_link("a/two", "a/one");
    let layer = tar.unpack().ok();
    assert!(pack_tree(&layer.path(""), Vec::new()).unwrap() == tar.bytes());
    let layer = Tar::default().file("b/.wh.gone", "").unpack().ok();
    let packed = pack_tree(&layer.path(""), Vec::new()).unwrap();
    let again = unpack_bytes(&packed).ok();
    assert!(again.is_whiteout("b/gone"));
}
