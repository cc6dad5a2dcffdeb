//! What is known, kept and freed over restarts and removals.

use super::fake::Fake;
use super::sample::{Layer, Sample};
use super::*;
use crate::state::Table;

fn sample(name: &str) -> Sample {
    Sample::new(&[Layer::gzip(&[("shared", b"x")]), Layer::gzip(&[(name, b"y")])])
}

async fn pulled(names: &[&str]) -> (Fake, Node, Vec<Arc<Image>>) {
    let (registry, node) = (Fake::start().await, Node::new());
    let mut images = Vec::new();
    for name in names {
        sample(name).push(&registry, "app", name);
        images.push(
            node.pull(format!("{}/app:{name}", registry.address))
                .await
                .unwrap(),
        );
    }
    (registry, node, images)
}

#[tokio::test]
async fn images_are_known_again_after_a_restart() {
    let (registry, node, images) = pulled(&["a", "b"]).await;
    let used = node.store.fs_usage();
    let node = node.reopen();
    node.store.collect();
    for image in &images {
        assert_eq!(node.store.resolve(image.id.as_str()).as_ref(), Some(image));
    }
    assert_eq!(node.store.fs_usage(), used);
    registry.forget_asked();
    node.pull(format!("{}/app:a", registry.address)).await.unwrap();
    assert_eq!(registry.asked().len(), 1);
    assert_eq!(node.dirs("layers").len(), 3);
}

#[tokio::test]
async fn removing_by_any_name_removes_all_names() {
    let (registry, node, images) = pulled(&["a", "b"]).await;
    let name = format!("{}/app", registry.address);
    sample("a").push(&registry, "app", "c");
    node.pull(format!("{name}:c")).await.unwrap();
    let removed = node.store.remove(&format!("{name}:c")).unwrap().unwrap();
    assert_eq!(removed.id, images[0].id);
    for text in [
        &format!("{name}:a"),
        &format!("{name}:c"),
        removed.id.as_str(),
        &removed.repo_digests[0],
    ] {
        assert_eq!(node.store.resolve(text), None, "{text}");
        assert_eq!(node.store.remove(text).unwrap(), None, "{text}");
    }
    assert_eq!(node.store.list(), [Arc::clone(&images[1])]);
    node.store.settle();
    assert_eq!(
        node.dirs("layers").len(),
        2,
        "the shared layer and the other image's own"
    );
    node.store.remove(images[1].id.hex()).unwrap().unwrap();
    node.store.settle();
    assert_eq!(node.dirs("layers").len(), 0);
    let usage = node.store.fs_usage();
    assert_eq!((usage.used_bytes, usage.inodes_used), (0, 0));
    let node = node.reopen();
    node.assert_clean().await;
}

#[tokio::test]
async fn concurrent_removals_are_fine() {
    let (_registry, node, images) = pulled(&["a"]).await;
    let id = images[0].id.to_string();
    let removed = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| node.store.remove(&id).unwrap().is_some()))
            .collect();
        threads
            .into_iter()
            .filter(|_| true)
            .map(|t| t.join().unwrap())
            .filter(|r| *r)
            .count()
    });
    assert_eq!(removed, 1);
}

#[tokio::test]
async fn a_container_keeps_its_layers_when_the_image_goes() {
    let (registry, node, images) = pulled(&["a"]).await;
    let id = &images[0].id;
    let rootfs = node.store.lease(id, "c1").unwrap();
    node.store.lease(id, "c2").unwrap();
    node.store.remove(id.as_str()).unwrap().unwrap();
    assert_eq!(node.store.list(), []);
    node.store.settle();
    assert!(rootfs.layers.iter().all(|l| l.is_dir()));
    assert_eq!(
        node.store.lease(id, "c3").unwrap().layers,
        rootfs.layers,
        "a holder may take what others hold"
    );

    // The daemon restarts; recovery takes the leases again before anything is collected.
    let node = node.reopen();
    assert_eq!(node.store.list(), []);
    assert_eq!(node.store.lease(id, "c1").unwrap().layers, rootfs.layers);
    node.store.collect();
    node.store.settle();
    assert!(rootfs.layers.iter().all(|l| l.is_dir()));

    // Pulled again meanwhile, it is an image like any other, with only its new name.
    sample("a").push(&registry, "app", "again");
    let again = node
        .pull(format!("{}/app:again", registry.address))
        .await
        .unwrap();
    assert_eq!((&again.id, again.repo_tags.len()), (id, 1));
    node.store.remove(id.as_str()).unwrap().unwrap();

    node.store.release("c1");
    node.store.release("nobody");
    node.store.settle();
    assert!(rootfs.layers.iter().all(|l| !l.exists()));
    assert!(node.store.lease(id, "c1").is_err());
    let node = node.reopen();
    node.assert_clean().await;
    assert!(node.store.lease(id, "c1").is_err());
}

#[tokio::test]
async fn an_unleased_removed_image_goes_at_the_next_collection() {
    let (_registry, node, images) = pulled(&["a"]).await;
    node.store.lease(&images[0].id, "c1").unwrap();
    node.store.remove(images[0].id.as_str()).unwrap();
    let node = node.reopen();
    node.store.collect();
    node.store.settle();
    assert_eq!(node.dirs("layers").len(), 0);
}

#[tokio::test]
async fn nothing_is_freed_while_it_is_not_known_who_uses_what() {
    let (_registry, node, images) = pulled(&["a", "b"]).await;
    let before = node.dirs("layers").len();
    node.store.lease(&images[0].id, "c1").unwrap();
    node.store.remove(images[0].id.as_str()).unwrap();
    // The record of c1 cannot be read at this start, so that nobody takes its lease.
    let node = node.reopen();
    node.store.keep_removed();
    node.store.collect();
    node.store.release("another");
    node.store.remove(images[1].id.as_str()).unwrap().unwrap();
    node.store.settle();
    assert_eq!(node.store.list(), []);
    assert_eq!(node.dirs("layers").len(), before);
    // At the next one it can.
    let node = node.reopen();
    node.store.lease(&images[0].id, "c1").unwrap();
    node.store.collect();
    node.store.settle();
    assert!(node.dirs("layers").len() < before);
    node.store.release("c1");
    node.store.settle();
    assert_eq!(node.dirs("layers").len(), 0);
}

#[tokio::test]
async fn untagging_takes_one_name_and_the_last_takes_all() {
    let (registry, node, images) = pulled(&["a"]).await;
    let name = format!("{}/app", registry.address);
    sample("a").push(&registry, "app", "b");
    node.pull(format!("{name}:b")).await.unwrap();
    node.store.untag(&format!("{name}:a")).unwrap();
    let left = node.store.resolve(images[0].id.as_str()).unwrap();
    assert_eq!(left.repo_tags, [format!("{name}:b")]);
    assert!(node.store.untag(&format!("{name}:a")).is_err());
    node.store.untag(&format!("{name}:b")).unwrap();
    assert_eq!(node.store.list(), []);
}

#[tokio::test]
async fn leftovers_of_a_killed_daemon_are_deleted() {
    let (_registry, node, _) = pulled(&["a"]).await;
    let root = node.dir.path().join("images");
    std::fs::create_dir_all(root.join("staging/7/fs/deep/er")).unwrap();
    std::fs::create_dir_all(root.join("layers").join("f".repeat(64)).join("fs")).unwrap();
    std::fs::write(root.join("staging/file"), "").unwrap();
    let node = node.reopen();
    assert_eq!(node.dirs("staging").len(), 0);
    assert_eq!(node.dirs("layers").len(), 2);
    assert_eq!(node.store.list().len(), 1);
}

#[tokio::test]
async fn an_image_whose_layer_is_lost_is_pulled_again_in_part() {
    let (registry, node, images) = pulled(&["a"]).await;
    let lost = sample("a").layers[1].clone();
    let node = {
        std::fs::remove_dir_all(node.dir.path().join("images/layers").join(lost.diff_id().hex())).unwrap();
        node.reopen()
    };
    assert_eq!(node.store.list(), []);
    registry.forget_asked();
    let again = node.pull(format!("{}/app:a", registry.address)).await.unwrap();
    assert_eq!(again.id, images[0].id);
    let blobs = registry.count(|a| a.path.contains("/blobs/") && !a.path.contains(again.id.as_str()));
    assert_eq!(blobs, 1, "only what was lost");
    assert_eq!(registry.count(|a| a.is_blob(&lost.digest())), 1);
}

#[tokio::test]
async fn layers_not_known_to_be_on_disk_do_not_survive_a_reboot() {
    let (registry, node) = (Fake::start().await, Node::new());
    let good = sample("a");
    good.push(&registry, "app", "a");
    // The second layer is missing, so the pull fails after the first.
    registry.put_lie(&good.layers[1].digest(), "wrong");
    node.pull(format!("{}/app:a", registry.address))
        .await
        .unwrap_err();
    while node.dirs("layers").is_empty() {
        node.pull(format!("{}/app:a", registry.address))
            .await
            .unwrap_err();
    }
    let node = node.reopen();
    assert_eq!(node.dirs("layers").len(), 1, "the page cache is still the same");

    let Node { dir, store } = node;
    store.settle();
    drop(store);
    let db = open_db(dir.path());
    for (name, value) in db.all(Table::Layers).unwrap() {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let text = String::from_utf8(value).unwrap();
        assert!(text.contains(boot.trim()), "{text}");
        db.put(
            Table::Layers,
            &name,
            text.replace(boot.trim(), "another-boot").as_bytes(),
        )
        .unwrap();
    }
    drop(db);
    let db = open_db(dir.path());
    let store = ImageStore::open(config(dir.path()), db).unwrap();
    store.settle();
    let node = Node { dir, store };
    assert_eq!(node.dirs("layers").len(), 0);
}

#[tokio::test]
async fn layers_of_a_broken_pull_go_after_the_grace_time() {
    let (registry, node) = (
        Fake::start().await,
        Node::with(|c| c.orphan_grace = Duration::ZERO),
    );
    let good = sample("a");
    good.push(&registry, "app", "a");
    registry.put_lie(&good.layers[1].digest(), "wrong");
    while node.dirs("layers").is_empty() {
        node.pull(format!("{}/app:a", registry.address))
            .await
            .unwrap_err();
    }
    // Threads of the pull may hold it for a moment longer.
    while !node.dirs("layers").is_empty() {
        node.store.collect();
        node.store.settle();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn damaged_records_cost_only_themselves() {
    let (registry, node, images) = pulled(&["a", "b"]).await;
    let Node { dir, store } = node;
    store.settle();
    drop(store);
    let db = open_db(dir.path());
    db.put(Table::Images, images[0].id.as_str(), b"{\"id\":").unwrap();
    db.put(Table::Images, "nonsense", b"\xff").unwrap();
    let store = ImageStore::open(config(dir.path()), db).unwrap();
    assert_eq!(store.list(), [Arc::clone(&images[1])]);
    let node = Node { dir, store };
    node.pull(format!("{}/app:a", registry.address)).await.unwrap();
    assert_eq!(node.store.list().len(), 2);
}

/// Not a test of its own: the daemon that the next test kills.
#[tokio::test]
#[ignore = "run by a_killed_daemon_leaves_its_finished_layers"]
async fn puller() {
    let Some(dir) = std::env::var_os("HUSK_TEST_STORE").map(PathBuf::from) else {
        return;
    };
    let db = Db::open(&dir.join("state.db")).unwrap();
    let store = ImageStore::open(config(&dir), db).unwrap();
    store.collect();
    let _ = store
        .pull(&std::env::var("HUSK_TEST_IMAGE").unwrap(), None, None)
        .await;
}

#[tokio::test]
async fn a_killed_daemon_leaves_its_finished_layers() {
    let (registry, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    let sample = Sample::new(&[Layer::gzip(&[("done", b"x")]), Layer::large("half", 1 << 20)]);
    sample.push(&registry, "app", "v1");
    let (done, half) = (sample.layers[0].diff_id(), sample.layers[1].clone());
    let digest = half.digest();
    registry.rule(move |asked| {
        asked
            .is_blob(&digest)
            .then(|| super::fake::stuck(&half.blob, 0, 1 << 19))
    });
    let reference = format!("{}/app:v1", registry.address);
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "image::tests::restarts::puller", "--ignored"])
        .env("HUSK_TEST_STORE", dir.path())
        .env("HUSK_TEST_IMAGE", &reference)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let layer = dir.path().join("images/layers").join(done.hex());
    while !layer.exists()
        || std::fs::read_dir(dir.path().join("images/staging"))
            .unwrap()
            .count()
            == 0
    {
        assert!(child.try_wait().unwrap().is_none(), "the puller ended early");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The record is written right after the rename.
    tokio::time::sleep(Duration::from_millis(50)).await;
    child.kill().await.unwrap();

    let db = open_db(dir.path());
    let store = ImageStore::open(config(dir.path()), db).unwrap();
    store.collect();
    let node = Node { dir, store };
    node.assert_clean().await;
    registry.rule(|_| None);
    registry.forget_asked();
    node.pull(&reference).await.unwrap();
    assert_eq!(
        registry.count(|a| a.is_blob(&sample.layers[0].digest())),
        0,
        "the finished layer was found again"
    );
}
