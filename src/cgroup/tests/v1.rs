//! Version 1: what was asked for is what the kernel says.

use super::*;

const RESOURCES: &str = r#"{
    "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0", "burst": 10000},
    "memory": {"limit": 67108864, "swap": 134217728, "reservation": 33554432, "swappiness": 10},
    "pids": {"limit": 100},
    "hugepageLimits": [{"pageSize": "2MB", "limit": 0}, {"pageSize": "1GB", "limit": 1073741824}],
    "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "b", "major": 7, "minor": 3, "access": "r"}]
}"#;

#[test]
fn limits_reach_the_kernel_before_any_process() {
    let Some(home) = Home::v1() else { return };
    let cgroup = home.create("deep/er/c", RESOURCES);
    for (controller, file, value) in [
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpu", "cpu.cfs_burst_us", "10000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("cpuset", "cpuset.mems", "0"),
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.memsw.limit_in_bytes", "134217728"),
        ("memory", "memory.soft_limit_in_bytes", "33554432"),
        ("memory", "memory.swappiness", "10"),
        ("pids", "pids.max", "100"),
    ] {
        assert_eq!(home.file(controller, "deep/er/c", file), value, "{file}");
    }
    assert!(cgroup.processes().unwrap().is_empty());
    // Huge pages cannot be limited where the controller is not on version 1; asking for none is then no news.
    if !Path::new("/sys/fs/cgroup/hugetlb").exists() {
        assert_eq!(cgroup.notes().len(), 1, "{:?}", cgroup.notes());
        assert!(cgroup.notes()[0].contains("1GB"));
    }
    assert_eq!(
        home.file("cpuset", "deep/er", "cpuset.cpus"),
        read(Path::new("/sys/fs/cgroup/cpuset/cpuset.cpus"))
    );
}

#[test]
fn device_rules_are_exactly_those() {
    let Some(home) = Home::v1() else { return };
    home.create("c", RESOURCES);
    let mut list: Vec<_> = home
        .file("devices", "c", "devices.list")
        .lines()
        .map(str::to_owned)
        .collect();
    list.sort();
    let mut wanted: Vec<_> = ["1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:1", "5:2", "136:*"]
        .map(|n| format!("c {n} rwm"))
        .into_iter()
        .chain(["b *:* m", "c *:* m", "b 7:3 r"].map(str::to_owned))
        .collect();
    wanted.sort();
    assert_eq!(list, wanted);

    let all = home.create("all", r#"{"devices": [{"allow": true, "access": "rwm"}]}"#);
    assert_eq!(home.file("devices", "all", "devices.list"), "a *:* rwm");
    let mut shell = Shell::run(&all, "exec cat /dev/full > /dev/null");
    until("cat reads", || {
        home.file("cpuacct", "all", "cpuacct.usage") != "0"
    });
    all.kill().unwrap();
    assert_eq!(shell.signal(), Some(9));
}

#[test]
fn a_forbidden_device_cannot_be_opened() {
    let Some(home) = Home::v1() else { return };
    let cgroup = home.create("c", r#"{"devices": [{"allow": false, "access": "rwm"}]}"#);
    // /dev/kmsg is no container's; root may read it but for the rules.
    for (script, works) in [
        (": < /dev/kmsg", false),
        (": < /dev/null", true),
        (": < /dev/urandom", true),
    ] {
        let mut shell = Shell::run(&cgroup, &format!("({script}) && exit 0 || exit 3"));
        assert_eq!(shell.0.wait().unwrap().success(), works, "{script}");
    }
}

#[test]
fn updates_go_up_and_down() {
    let Some(home) = Home::v1() else { return };
    let cgroup = home.create(
        "c",
        r#"{"memory": {"limit": 67108864, "swap": 67108864}, "cpu": {"quota": 20000}}"#,
    );
    let both = || {
        let file = |f| home.file("memory", "c", f).parse::<u64>().unwrap();
        (file("memory.limit_in_bytes"), file("memory.memsw.limit_in_bytes"))
    };
    let apply = |json: &str| cgroup.apply(&oci(json));
    for (limit, swap) in [
        (128 << 20, 128 << 20),
        (32 << 20, 32 << 20),
        (64 << 20, 256 << 20),
        (16 << 20, 16 << 20),
    ] {
        apply(&format!(r#"{{"memory": {{"limit": {limit}, "swap": {swap}}}}}"#)).unwrap();
        assert_eq!(both(), (limit, swap));
    }
    // Nothing said leaves everything, and so does zero.
    apply(r#"{"memory": {"limit": 0, "swap": 0}, "cpu": {"shares": 0, "period": 0}, "pids": {"limit": 0}}"#)
        .unwrap();
    assert_eq!(both(), (16 << 20, 16 << 20));
    assert_eq!(home.file("cpu", "c", "cpu.cfs_quota_us"), "20000");
    // Memory above the bound of both together cannot be.
    let error = apply(r#"{"memory": {"limit": 33554432}}"#).unwrap_err();
    assert!(
        error.message().contains("33554432") && error.message().contains("16777216"),
        "{error}"
    );
    apply(r#"{"memory": {"limit": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}}"#).unwrap();
    assert!(both().0 > 1 << 62 && both().1 > 1 << 62);
    assert_eq!(home.file("cpu", "c", "cpu.cfs_quota_us"), "-1");
    assert_eq!(home.file("pids", "c", "pids.max"), "max");
}

#[test]
fn quota_and_period_change_together() {
    let Some(home) = Home::v1() else { return };
    // A parent's quota makes each of the two invalid without the other.
    home.create("p", r#"{"cpu": {"quota": 50000, "period": 100000}}"#);
    let cgroup = home.create("p/c", r#"{"cpu": {"quota": 10000, "period": 20000}}"#);
    for (quota, period) in [(100_000, 200_000), (5_000, 10_000), (250_000, 500_000)] {
        cgroup
            .apply(&oci(&format!(
                r#"{{"cpu": {{"quota": {quota}, "period": {period}}}}}"#
            )))
            .unwrap();
        let file = |f| home.file("cpu", "p/c", f).parse::<i64>().unwrap();
        assert_eq!(
            (file("cpu.cfs_quota_us"), file("cpu.cfs_period_us")),
            (quota, period)
        );
    }
}

#[test]
fn an_idle_cgroup_gets_its_weight_back() {
    let Some(home) = Home::v1() else { return };
    if !Path::new("/sys/fs/cgroup/cpu/cpu.idle").exists() {
        return;
    }
    let cgroup = home.create("c", r#"{"cpu": {"shares": 512, "idle": 1}}"#);
    assert_eq!(home.file("cpu", "c", "cpu.idle"), "1");
    cgroup
        .apply(&oci(r#"{"cpu": {"shares": 2048, "idle": 0}}"#))
        .unwrap();
    assert_eq!(home.file("cpu", "c", "cpu.idle"), "0");
    assert_eq!(home.file("cpu", "c", "cpu.shares"), "2048");
}

#[test]
fn bad_values_are_refused_and_leave_nothing() {
    let Some(home) = Home::v1() else { return };
    home.create("other", "{}");
    for json in [
        r#"{"cpu": {"cpus": "0-4095"}}"#,
        r#"{"cpu": {"cpus": "nonsense"}}"#,
        r#"{"cpu": {"period": 1}}"#,
        r#"{"memory": {"limit": 67108864, "swap": 1048576}}"#,
        r#"{"hugepageLimits": [{"pageSize": "../../x", "limit": 1}]}"#,
        r#"{"unified": {"memory.high": "1"}}"#,
        r#"{"blockIO": {"throttleReadBpsDevice": [{"major": 999, "minor": 999, "rate": 1}]}}"#,
    ] {
        let error = home.cgroups.create(&home.path("new/c"), &oci(json)).unwrap_err();
        assert_eq!(error.kind(), crate::types::Kind::InvalidArgument, "{error}");
        for hierarchy in ["memory", "cpu", "cpuset", "freezer"] {
            assert!(!home.dir(hierarchy, "new").exists(), "{hierarchy}: {json}");
            assert!(home.dir(hierarchy, "other").exists());
        }
    }
    let error = home
        .cgroups
        .create(&home.path("c"), &oci(r#"{"cpu": {"cpus": "0-4095"}}"#))
        .unwrap_err();
    assert!(error.message().contains("the parent cgroup has"), "{error}");
}

#[test]
fn block_io_reaches_the_kernel() {
    let Some(home) = Home::v1() else { return };
    let Some(device) = std::fs::read_dir("/sys/block").unwrap().flatten().next() else {
        return;
    };
    let number = read(&device.path().join("dev"));
    let (major, minor) = number.split_once(':').unwrap();
    home.create("c", &format!(
        r#"{{"blockIO": {{"weight": 500, "throttleWriteBpsDevice": [{{"major": {major}, "minor": {minor}, "rate": 1048576}}]}}}}"#,
    ));
    assert_eq!(
        home.file("blkio", "c", "blkio.throttle.write_bps_device"),
        format!("{number} 1048576")
    );
}

#[test]
fn paths_stay_below_the_mounts() {
    let Some(home) = Home::v1() else { return };
    for path in ["/../../tmp/husk-escape", "a/../../b", "/"] {
        assert!(home.cgroups.create(path, &LinuxResources::default()).is_err());
        assert!(home.cgroups.open(path).kill().is_err());
        assert!(home.cgroups.open(path).remove().is_err());
        assert!(home.cgroups.open(path).oom_counter().is_none());
    }
    // The absolute form, which is OCI's normal one, and the relative form are the same cgroup.
    let relative = home.path("c").trim_start_matches('/').to_owned();
    home.cgroups
        .create(&relative, &LinuxResources::default())
        .unwrap();
    assert!(home.dir("memory", "c").is_dir());
    assert!(!Path::new(&home.path).exists());
}

#[test]
fn names_follow_the_parent() {
    let Some(home) = Home::v1() else { return };
    let (pod, container) = (crate::types::PodId::random(), crate::types::ContainerId::random());
    assert_eq!(
        home.cgroups.container_path("/kubepods/pod1", &container),
        format!("/kubepods/pod1/{container}")
    );
    assert_eq!(
        home.cgroups.container_path("kubepods/pod1/", &container),
        format!("/kubepods/pod1/{container}")
    );
    assert_eq!(home.cgroups.pod_path("/husk", &pod), format!("/husk/{pod}"));
}

#[test]
fn what_is_gone_is_no_trouble() {
    let Some(home) = Home::v1() else { return };
    let cgroup = home.create("c", "{}");
    cgroup.remove().unwrap();
    cgroup.remove().unwrap();
    cgroup.kill().unwrap();
    assert!(cgroup.processes().unwrap().is_empty());
    assert_eq!(cgroup.stats().unwrap_err().kind(), crate::types::Kind::NotFound);
    assert!(cgroup.oom_counter().is_none());
    assert_eq!(oom_kills(Path::new("/nonexistent/memory.events")), 0);
}
