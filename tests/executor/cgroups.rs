//! Joining cgroups of both versions, as far as this node has them.

use std::fs;
use std::path::{Path, PathBuf};

use husk::types::CgroupJoin;

use crate::Case;
use crate::fixture::Bundle;

pub const CASES: &[Case] = &[
    ("cgroup_v1", cgroup_v1),
    ("cgroup_v2", cgroup_v2),
    ("cgroup_that_is_missing", cgroup_that_is_missing),
];

struct Group(PathBuf);

impl Group {
    fn new(hierarchy: &str) -> Option<Self> {
        let base = Path::new(hierarchy);
        if !base.join("cgroup.procs").exists() {
            println!("  (no {hierarchy} on this node: not tested)");
            return None;
        }
        let path = base.join(format!("husk-executor-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Some(Self(path))
    }

    fn name(&self) -> String {
        format!("/{}", self.0.file_name().unwrap().to_str().unwrap())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).unwrap();
    }
}

fn cgroup_v1() {
    let (Some(memory), Some(pids)) = (
        Group::new("/sys/fs/cgroup/memory"),
        Group::new("/sys/fs/cgroup/pids"),
    ) else {
        return;
    };
    let mut bundle = Bundle::new("cat /proc/self/cgroup /sys/fs/cgroup/pids/cgroup.procs");
    bundle.options.cgroup = Some(CgroupJoin::V1(vec![memory.0.clone(), pids.0.clone()]));
    let out = bundle.run().unwrap();
    // In a cgroup namespace the own cgroup is the root, and its processes are the container's.
    assert!(
        out.stdout.contains(":memory:/\n") && out.stdout.contains(":pids:/\n"),
        "{out:?}"
    );
    assert!(
        out.stdout.contains("\n1\n") && out.stdout.lines().last().unwrap().len() < 3,
        "{out:?}"
    );

    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|n| n["type"] != "cgroup");
    let out = bundle.run().unwrap();
    assert!(
        out.stdout.contains(&format!(":memory:{}\n", memory.name())),
        "{out:?}"
    );
    assert!(out.stdout.contains("\n1\n"), "{out:?}");
}

fn cgroup_v2() {
    let unified = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .find_map(Group::new);
    let Some(group) = unified else {
        return;
    };
    let mut bundle = Bundle::new("cat /proc/self/cgroup");
    bundle.options.cgroup = Some(CgroupJoin::V2(group.0.clone()));
    bundle.spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|n| n["type"] != "cgroup");
    let out = bundle.run().unwrap();
    assert!(out.stdout.contains(&format!("0::{}\n", group.name())), "{out:?}");
}

fn cgroup_that_is_missing() {
    for join in [
        CgroupJoin::V1(vec!["/sys/fs/cgroup/none".into()]),
        CgroupJoin::V2("/sys/fs/cgroup/none".into()),
    ] {
        let mut bundle = Bundle::new("exit 0");
        bundle.options.cgroup = Some(join);
        let error = bundle.run().unwrap_err();
        assert!(
            error
                .to_string()
                .contains("cgroup /sys/fs/cgroup/none: No such file"),
            "{error}"
        );
    }
}
