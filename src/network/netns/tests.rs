#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::types::Kind;

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

fn own_netns() -> u64 {
    fs::metadata("/proc/thread-self/ns/net").unwrap().ino()
}

#[test]
fn a_new_namespace_has_loopback_up_and_leaves_the_caller_at_home() {
    let home = own_netns();
    let netns = create().unwrap();
    assert_eq!(own_netns(), home);
    let reached = inside_fd(netns.as_fd(), || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        std::net::TcpStream::connect(listener.local_addr().unwrap()).is_ok()
    });
    assert!(reached.unwrap());
    assert_eq!(own_netns(), home);
}

#[test]
fn a_pin_is_one_mount_and_comes_off_without_trace() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pod");
    let netns = create().unwrap();
    pin(netns.as_fd(), &path).unwrap();
    assert!(is_netns(&path));
    assert_eq!(mounts().matches(path.to_str().unwrap()).count(), 1);
    assert_eq!(pin(netns.as_fd(), &path).unwrap_err().kind(), Kind::AlreadyExists);

    let inode = fs::metadata(&path).unwrap().ino();
    assert_eq!(inside(&path, own_netns).unwrap(), inode);

    unpin(&path).unwrap();
    unpin(&path).unwrap();
    assert!(!path.exists());
    assert!(!mounts().contains(path.to_str().unwrap()));
}

#[test]
fn a_file_left_by_a_reboot_is_no_namespace_and_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pod");
    fs::write(&path, "").unwrap();
    assert!(!is_netns(&path));
    assert!(inside(&path, || ()).is_err());
    pin(create().unwrap().as_fd(), &path).unwrap();
    assert!(is_netns(&path));
    unpin(&path).unwrap();
}

#[test]
fn a_copy_of_the_mount_elsewhere_does_not_outlive_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pod");
    pin(create().unwrap().as_fd(), &path).unwrap();
    let mut other = Command::new("unshare")
        .args([
            "-m",
            "--propagation",
            "private",
            "sh",
            "-c",
            "echo; exec sleep 60",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = other.stdout.as_mut().unwrap().read(&mut [0; 1]).unwrap();
    let their_mounts = format!("/proc/{}/mountinfo", other.id());
    let theirs_had_it = fs::read_to_string(&their_mounts)
        .unwrap()
        .contains(path.to_str().unwrap());
    unpin(&path).unwrap();
    let theirs_has_it = fs::read_to_string(&their_mounts)
        .unwrap()
        .contains(path.to_str().unwrap());
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(theirs_had_it);
    assert!(!theirs_has_it);
}

#[test]
fn the_pool_hands_out_distinct_namespaces_and_mounts_nothing() {
    let pool = Pool::start(2);
    let deadline = Instant::now() + Duration::from_secs(20);
    while pool.ready() < 2 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(pool.ready(), 2);
    let inodes: std::collections::HashSet<u64> = (0..5)
        .map(|_| inside_fd(pool.take().unwrap().as_fd(), own_netns).unwrap())
        .collect();
    assert!(!inodes.contains(&own_netns()));
    pool.close();
    assert_eq!(pool.ready(), 0);
    assert!(pool.take().is_ok());
}
