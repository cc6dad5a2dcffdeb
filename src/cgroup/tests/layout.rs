//! Version 1 on directories that look like it, for controllers that few nodes mount.

use std::fs;

use super::*;
use crate::types::Kind;

/// `files` are `controller/file`, made empty.
fn node(files: &[&str]) -> (tempfile::TempDir, Cgroups) {
    let root = tempfile::tempdir().unwrap();
    for file in files {
        let (controller, file) = file.split_once('/').unwrap();
        let dir = root.path().join(controller).join("pod/c");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(file), "").unwrap();
    }
    let cgroups = Cgroups::probe(root.path(), Driver::Cgroupfs).unwrap();
    assert_eq!(cgroups.version(), Version::V1);
    (root, cgroups)
}

#[test]
fn rare_controllers_are_written() {
    let files = [
        ("hugetlb/hugetlb.2MB.limit_in_bytes", "4194304"),
        ("hugetlb/hugetlb.2MB.rsvd.limit_in_bytes", "4194304"),
        ("net_cls/net_cls.classid", "1048577"),
        ("net_prio/net_prio.ifpriomap", "eth0 5"),
        ("rdma/rdma.max", "mlx hca_handle=max hca_object=9"),
        ("blkio/blkio.bfq.weight", "300"),
        ("freezer/freezer.state", ""),
    ];
    let (root, cgroups) = node(&files.map(|f| f.0));
    let cgroup = cgroups
        .create(
            "/pod/c",
            &oci(r#"{
                "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
                "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 5}]},
                "rdma": {"mlx": {"hcaObjects": 9}},
                "blockIO": {"weight": 300}
            }"#),
        )
        .unwrap();
    for (file, value) in files {
        let (controller, file) = file.split_once('/').unwrap();
        assert_eq!(
            read(&root.path().join(controller).join("pod/c").join(file)),
            value,
            "{file}"
        );
    }
    assert!(cgroup.notes().is_empty(), "{:?}", cgroup.notes());
}

#[test]
fn what_can_be_done_without_is_noted() {
    let (_root, cgroups) = node(&["memory/memory.limit_in_bytes", "blkio/x", "freezer/freezer.state"]);
    let cgroup = cgroups
        .create(
            "pod/c",
            &oci(r#"{
                "memory": {"limit": 1048576, "swap": 2097152},
                "network": {"classID": 1, "priorities": [{"name": "eth0", "priority": 5}]},
                "blockIO": {"weight": 300, "leafWeight": 10},
                "hugepageLimits": [{"pageSize": "2MB", "limit": 1}, {"pageSize": "1GB", "limit": 0}]
            }"#),
        )
        .unwrap();
    // Swap, class, priority, two weights, one page size.
    assert_eq!(cgroup.notes().len(), 6, "{:?}", cgroup.notes());
}

#[test]
fn what_cannot_be_done_without_is_an_error() {
    let (root, cgroups) = node(&["freezer/freezer.state"]);
    for (json, controller) in [
        (r#"{"memory": {"limit": 1048576}}"#, "memory"),
        (r#"{"cpu": {"shares": 5}}"#, "cpu"),
        (r#"{"cpu": {"cpus": "0"}}"#, "cpuset"),
        (r#"{"pids": {"limit": 5}}"#, "pids"),
        (r#"{"devices": [{"allow": false, "access": "rwm"}]}"#, "devices"),
    ] {
        let error = cgroups.create("new/c", &oci(json)).unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(
            error
                .message()
                .contains(&format!("controller {controller} is not mounted")),
            "{error}"
        );
        assert!(!root.path().join("freezer/new").exists());
    }
    // Forbidding nothing needs no controller.
    cgroups
        .create(
            "new/c",
            &oci(r#"{"devices": [{"allow": true, "access": "rwm"}]}"#),
        )
        .unwrap();
}

#[test]
fn execs_have_their_own_directory_in_the_last_hierarchy_alone() {
    for (files, last) in [
        (vec!["memory/x", "freezer/freezer.state", "pids/x"], "freezer"),
        // Without a freezer, processes are found by the one that counts them.
        (vec!["memory/x", "pids/x", "cpu/x"], "pids"),
    ] {
        let (root, cgroups) = node(&files);
        let container = cgroups.open("pod/c");
        let crate::types::CgroupJoin::V1(paths) = container.exec_child("1").unwrap().join() else {
            panic!()
        };
        let root = fs::canonicalize(root.path()).unwrap();
        let (own, shared) = paths.split_last().unwrap();
        assert_eq!(*own, root.join(last).join("pod/c/exec-1"));
        assert!(own.is_dir());
        assert!(shared.len() == 2 && shared.iter().all(|p| p.ends_with("pod/c")));
        // Removing the exec's leaves the container's, from the directories alone too.
        Cgroup::from_join(&crate::types::CgroupJoin::V1(paths.clone()))
            .remove()
            .unwrap();
        assert!(!own.exists() && shared.iter().all(|p| p.is_dir()));
    }
}

#[test]
fn without_a_freezer_freezing_is_unimplemented() {
    let (_root, cgroups) = node(&["pids/cgroup.procs"]);
    assert_eq!(
        cgroups.open("pod/c").freeze().unwrap_err().kind(),
        Kind::Unimplemented
    );
}
