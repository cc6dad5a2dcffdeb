//! Version 2 on directories that look like it: what is written where, and what is read from what.

use std::fs;

use super::*;

/// A root with a pod below it, whose files exist and are empty, as a kernel would have made them.
struct Fixture {
    root: tempfile::TempDir,
    cgroups: Cgroups,
}

const LEAF: &str = "kubepods/pod1/c";

const FILES: [&str; 19] = [
    "cgroup.procs",
    "cgroup.kill",
    "cpu.weight",
    "cpu.max",
    "cpu.max.burst",
    "cpu.idle",
    "cpuset.cpus",
    "cpuset.mems",
    "memory.max",
    "memory.swap.max",
    "memory.low",
    "memory.high",
    "memory.oom.group",
    "pids.max",
    "hugetlb.2MB.max",
    "hugetlb.2MB.rsvd.max",
    "io.weight",
    "io.max",
    "rdma.max",
];

impl Fixture {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for level in ["", "kubepods", "kubepods/pod1", LEAF] {
            let dir = root.path().join(level);
            fs::create_dir_all(&dir).unwrap();
            fs::write(
                dir.join("cgroup.controllers"),
                "cpuset cpu io memory hugetlb pids rdma perf_event\n",
            )
            .unwrap();
            fs::write(dir.join("cgroup.subtree_control"), "").unwrap();
        }
        for file in FILES {
            fs::write(root.path().join(LEAF).join(file), "").unwrap();
        }
        let cgroups = Cgroups::probe(root.path(), Driver::Cgroupfs).unwrap();
        assert_eq!(cgroups.version(), Version::V2);
        Self { root, cgroups }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.root.path().join(LEAF).join(file)
    }

    fn create(&self, json: &str) -> crate::types::Result<Cgroup> {
        self.cgroups.create(LEAF, &oci(json))
    }

    fn write(&self, files: &[(&str, &str)]) {
        for (file, text) in files {
            fs::write(self.path(file), text).unwrap();
        }
    }
}

#[test]
fn every_limit_has_its_file() {
    let fixture = Fixture::new();
    let cgroup = fixture
        .create(
            r#"{
        "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "burst": 10000, "idle": 0, "cpus": "0-1", "mems": "0"},
        "memory": {"limit": 67108864, "swap": 134217728, "reservation": 33554432, "swappiness": 10, "kernel": 1},
        "pids": {"limit": 100},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 2097152}, {"pageSize": "1GB", "limit": 0}, {"pageSize": "64KB", "limit": 65536}],
        "blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}]},
        "rdma": {"mlx5_0": {"hcaHandles": 3}},
        "unified": {"memory.high": "60000000", "memory.oom.group": "1"}
    }"#,
        )
        .unwrap();
    for (file, value) in [
        ("cpu.weight", "100"),
        ("cpu.max", "50000 100000"),
        ("cpu.max.burst", "10000"),
        ("cpu.idle", "0"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("memory.max", "67108864"),
        ("memory.swap.max", "67108864"),
        ("memory.low", "33554432"),
        ("memory.high", "60000000"),
        ("memory.oom.group", "1"),
        ("pids.max", "100"),
        ("hugetlb.2MB.max", "2097152"),
        ("hugetlb.2MB.rsvd.max", "2097152"),
        ("io.weight", "default 4950"),
        ("io.max", "8:0 rbps=1000"),
        ("rdma.max", "mlx5_0 hca_handle=3 hca_object=max"),
    ] {
        assert_eq!(read(&fixture.path(file)), value, "{file}");
    }
    // 64 KB pages, kernel memory, swappiness.
    assert_eq!(cgroup.notes().len(), 3, "{:?}", cgroup.notes());
}

#[test]
fn unlimited_is_max() {
    let fixture = Fixture::new();
    fixture
        .create(r#"{"cpu": {"quota": -1}, "memory": {"limit": -1}, "pids": {"limit": -1}}"#)
        .unwrap();
    for file in ["cpu.max", "memory.max", "memory.swap.max", "pids.max"] {
        assert_eq!(read(&fixture.path(file)), "max", "{file}");
    }
}

#[test]
fn controllers_are_handed_down_once_per_parent() {
    let fixture = Fixture::new();
    let control = |level: &str| fixture.root.path().join(level).join("cgroup.subtree_control");
    fixture.create("{}").unwrap();
    for level in ["", "kubepods", "kubepods/pod1"] {
        assert_eq!(
            read(&control(level)),
            "+cpuset +cpu +io +memory +hugetlb +pids +rdma",
            "{level:?}"
        );
    }
    // Not to the container's own children.
    assert_eq!(read(&control(LEAF)), "");
    // The parent is known now: nothing is written again.
    fs::write(control("kubepods"), "").unwrap();
    fixture.create("{}").unwrap();
    assert_eq!(read(&control("kubepods")), "");
    // One of the same name that was made anew is not.
    let pod = fixture.root.path().join("kubepods/pod1");
    fs::rename(&pod, fixture.root.path().join("kubepods/old")).unwrap();
    fs::create_dir_all(pod.join("c")).unwrap();
    fs::write(pod.join("cgroup.controllers"), "memory pids\n").unwrap();
    fs::write(pod.join("cgroup.subtree_control"), "pids").unwrap();
    fixture.create("{}").unwrap();
    assert_eq!(read(&control("kubepods/pod1")), "+memory");
}

#[test]
fn a_controller_that_is_missing_is_named() {
    let fixture = Fixture::new();
    fs::remove_file(fixture.path("memory.max")).unwrap();
    let error = fixture.create(r#"{"memory": {"limit": 67108864}}"#).unwrap_err();
    assert!(
        error.message().contains("memory.max") && error.message().contains("not available"),
        "{error}"
    );
    assert!(!fixture.path("memory.max").exists());
}

#[test]
fn unified_keys_are_resource_files_and_nothing_else() {
    let fixture = Fixture::new();
    for key in [
        "cgroup.procs",
        "cgroup.kill",
        "cgroup.subtree_control",
        "../pod1/cpu.max",
        "/etc/x.y",
        ".",
        "x",
        "",
    ] {
        let json = serde_json::json!({"unified": {key: "1"}}).to_string();
        let error = fixture.create(&json).unwrap_err();
        assert_eq!(error.kind(), crate::types::Kind::InvalidArgument, "{key}");
    }
    assert_eq!(read(&fixture.path("cgroup.procs")), "");
}

#[test]
fn swap_is_what_is_left_of_both() {
    let swap = |memory, both, present| limit::swap_alone(memory, both, present).ok().flatten();
    assert_eq!(swap(Some(100), Some(150), None), Some(50));
    assert_eq!(swap(Some(100), Some(100), None), Some(0));
    assert_eq!(swap(Some(100), Some(-1), None), Some(-1));
    assert_eq!(swap(Some(-1), None, None), Some(-1));
    assert_eq!(swap(Some(100), None, None), None);
    assert_eq!(swap(None, Some(150), Some(100)), Some(50));
    for (memory, both, present) in [
        (Some(100), Some(50), None),
        (None, Some(50), None),
        (Some(-1), Some(50), None),
    ] {
        assert!(limit::swap_alone(memory, both, present).is_err());
    }
}

#[test]
fn weights_meet_at_the_ends_and_the_default() {
    let pairs = [
        (0, 1),
        (2, 1),
        (3, 2),
        (100, 17),
        (512, 59),
        (1024, 100),
        (2048, 174),
        (262_144, 10_000),
        (u64::MAX, 10_000),
    ];
    for (shares, weight) in pairs {
        assert_eq!(limit::weight(shares), weight, "{shares}");
    }
    assert!(
        (2..262_144)
            .step_by(97)
            .all(|s| limit::weight(s) <= limit::weight(s + 97))
    );
    assert_eq!([10, 100, 500, 1000].map(limit::io_weight), [1, 910, 4950, 10_000]);
}

#[test]
fn a_period_alone_keeps_the_quota() {
    let fixture = Fixture::new();
    fixture.write(&[("cpu.max", "20000 100000\n")]);
    fixture
        .cgroups
        .open(LEAF)
        .apply(&oci(r#"{"cpu": {"period": 200000}}"#))
        .unwrap();
    assert_eq!(read(&fixture.path("cpu.max")), "20000 200000");
}

#[test]
fn a_memory_limit_below_what_cannot_be_dropped_is_refused() {
    let fixture = Fixture::new();
    fixture.write(&[
        ("memory.current", "1000000"),
        ("memory.stat", "anon 300000\ninactive_file 600000\n"),
    ]);
    let cgroup = fixture.cgroups.open(LEAF);
    let error = cgroup
        .apply(&oci(r#"{"memory": {"limit": 390000}}"#))
        .unwrap_err();
    assert!(
        error.message().contains("390000") && error.message().contains("400000"),
        "{error}"
    );
    // What is refused changes nothing, be it asked for along with what could be had.
    fixture.write(&[("cpu.weight", "100\n")]);
    let both = oci(r#"{"cpu": {"shares": 2048}, "memory": {"limit": 390000}}"#);
    assert!(cgroup.apply(&both).is_err());
    assert_eq!(read(&fixture.path("cpu.weight")).trim(), "100");
    cgroup.apply(&oci(r#"{"memory": {"limit": 410000}}"#)).unwrap();
    assert!(
        cgroup
            .apply(&oci(
                r#"{"memory": {"limit": 410000, "checkBeforeUpdate": true}}"#
            ))
            .is_err()
    );
}

#[test]
fn statistics_are_read_from_the_files_of_version_2() {
    let fixture = Fixture::new();
    fixture.write(&[
        ("cpu.stat", "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnr_periods 4\nnr_throttled 2\nthrottled_usec 30\n"),
        ("memory.current", "5000\n"),
        ("memory.max", "max\n"),
        ("memory.peak", "6000\n"),
        ("memory.stat", "anon 2000\nfile 2500\nfile_mapped 70\ninactive_file 1000\npgfault 12\npgmajfault 3\n"),
        ("memory.events", "low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n"),
        ("memory.swap.current", "77\n"),
        ("memory.swap.max", "100\n"),
        ("pids.current", "3\n"),
        ("pids.max", "40\n"),
        ("io.stat", "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n253:1 \n"),
        ("hugetlb.2MB.current", "2097152\n"),
        ("memory.pressure", "some avg10=1.50 avg60=0.25 avg300=0.00 total=99\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=7\n"),
    ]);
    let cgroup = fixture.cgroups.open(LEAF);
    let stats = cgroup.stats().unwrap();
    let cpu = &stats.cpu;
    assert_eq!(
        (cpu.usage_nanos, cpu.user_nanos, cpu.system_nanos),
        (1_500_000, 1_000_000, 500_000)
    );
    assert_eq!(
        (cpu.periods, cpu.throttled_periods, cpu.throttled_nanos),
        (4, 2, 30_000)
    );
    let memory = &stats.memory;
    assert_eq!(
        (memory.usage, memory.working_set, memory.rss, memory.cache),
        (5000, 4000, 2000, 2500)
    );
    assert_eq!(
        (memory.limit, memory.max_usage, memory.limit_hits),
        (None, 6000, 9)
    );
    assert_eq!((memory.page_faults, memory.major_page_faults), (12, 3));
    assert_eq!(
        stats.swap,
        Some(Swap {
            usage: 77,
            limit: Some(100)
        })
    );
    assert_eq!(
        stats.pids,
        Pids {
            current: 3,
            limit: Some(40)
        }
    );
    assert_eq!(
        stats.io[0],
        Io {
            major: 8,
            minor: 0,
            read_bytes: 10,
            write_bytes: 20,
            reads: 1,
            writes: 2
        }
    );
    let psi = stats.memory_pressure.unwrap();
    assert_eq!((psi.some.avg10, psi.some.total, psi.full.total), (1.5, 99, 7));
    assert_eq!(stats.cpu_pressure, None);
    assert_eq!(oom_kills(&cgroup.oom_counter().unwrap()), 1);
}

#[test]
fn garbage_in_the_files_is_no_trouble() {
    let fixture = Fixture::new();
    for file in [
        "cpu.stat",
        "memory.stat",
        "memory.current",
        "pids.max",
        "io.stat",
        "cpu.pressure",
        "memory.events",
    ] {
        fixture.write(&[(file, "\u{0}garbage = 99999999999999999999999 :\n\n x")]);
    }
    fixture.cgroups.open(LEAF).stats().unwrap();
}

#[test]
fn joining_is_a_directory() {
    let fixture = Fixture::new();
    let join = fixture.cgroups.open(LEAF).join();
    assert_eq!(
        join,
        crate::types::CgroupJoin::V2(fs::canonicalize(fixture.path("")).unwrap())
    );
    let exec = Cgroup::from_join(&join).exec_child("1").unwrap();
    assert_eq!(
        exec.join(),
        crate::types::CgroupJoin::V2(fs::canonicalize(fixture.path("exec-1")).unwrap())
    );
}
