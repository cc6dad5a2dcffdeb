#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

fn walked(dir: &Path, slice: usize) -> Option<(u64, u64)> {
    let mut walk = Walk::new(dir);
    while !walk.step(slice) {}
    walk.found()
}

#[test]
fn a_tree_is_added_up_whatever_the_slices() {
    let root = tempfile::tempdir().unwrap();
    let deep = root.path().join("a/b/c");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), vec![1; 100_000]).unwrap();
    fs::hard_link(deep.join("file"), root.path().join("again")).unwrap();
    symlink("/usr", root.path().join("elsewhere")).unwrap();
    let (bytes, inodes) = walked(root.path(), 1).unwrap();
    assert_eq!(walked(root.path(), 1000), Some((bytes, inodes)));
    // Root, three directories, one file with two names, one symlink that leads nowhere.
    assert_eq!(inodes, 6);
    assert!((100_000..400_000).contains(&bytes), "{bytes}");
}

#[test]
fn what_is_not_there_has_no_size() {
    assert_eq!(walked(Path::new("/no/such/dir"), 10), None);
}

#[test]
fn a_tree_that_goes_away_meanwhile_ends_the_walk() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("a/b/c/d")).unwrap();
    let mut walk = Walk::new(root.path());
    walk.step(4);
    fs::remove_dir_all(root.path().join("a")).unwrap();
    while !walk.step(4) {}
    assert!(walk.found().is_some());
}

#[test]
fn only_an_active_container_is_measured_again_and_not_at_once() {
    let root = tempfile::tempdir().unwrap();
    let layers = Layers::new();
    let inodes = |activity| layers.usage("c", root.path(), activity).unwrap().inodes;
    assert_eq!(inodes(1), 1);
    fs::write(root.path().join("file"), "x").unwrap();
    assert_eq!(inodes(1), 1, "nobody ran");
    assert_eq!(inodes(2), 1, "measured a moment ago");
    let now = Instant::now();
    let state = layers.lock();
    let layer = &state.known["c"];
    assert!(layer.may_differ(2) && !layer.is_due(now) && layer.is_due(now + REST));
}

#[test]
fn a_due_layer_is_measured_in_the_background_and_the_thread_ends() {
    let root = tempfile::tempdir().unwrap();
    let layers = Layers::new();
    layers.usage("c", root.path(), 1).unwrap();
    for name in 0..3000 {
        fs::write(root.path().join(name.to_string()), "").unwrap();
    }
    let long_ago = Instant::now().checked_sub(REST).unwrap();
    layers.lock().known.get_mut("c").unwrap().begun = long_ago;
    let deadline = Instant::now() + Duration::from_secs(60);
    while layers.usage("c", root.path(), 2).unwrap().inodes != 3001 {
        assert!(Instant::now() < deadline, "never measured");
        std::thread::sleep(Duration::from_millis(5));
    }
    while layers.lock().working {
        assert!(Instant::now() < deadline, "the thread goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_big_layer_has_no_size_until_it_was_measured_whole() {
    let root = tempfile::tempdir().unwrap();
    for name in 0..=FIRST {
        fs::write(root.path().join(name.to_string()), "").unwrap();
    }
    let layers = Layers::new();
    assert_eq!(layers.usage("c", root.path(), 1), None);
    let deadline = Instant::now() + Duration::from_secs(60);
    while layers.usage("c", root.path(), 1).is_none() {
        assert!(Instant::now() < deadline, "never measured");
        std::thread::sleep(Duration::from_millis(5));
    }
    layers.retain(|_| false);
    assert_eq!(layers.len(), 0);
}
