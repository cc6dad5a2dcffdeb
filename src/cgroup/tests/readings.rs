//! What is read from which file, on directories that look like a cgroup of either version.

use std::fs;

use super::*;

/// A root with one cgroup of these files.
fn root(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let cgroup = Cgroups::probe(root.path(), Driver::Cgroupfs).unwrap().open("c");
    (root, cgroup)
}

const MEMORY_STAT: &str = "cache 10\nrss 20\npgfault 3\npgmajfault 1\nhierarchical_memory_limit 65536\n\
    hierarchical_memsw_limit 98304\ntotal_cache 30\ntotal_rss 2000\ntotal_mapped_file 70\ntotal_pgfault 40\n\
    total_pgmajfault 4\ntotal_swap 500\ntotal_inactive_file 1000\n";

const V1: [(&str, &str); 24] = [
    ("cpu,cpuacct/c/cpuacct.usage", "1500\n"),
    ("cpu,cpuacct/c/cpuacct.usage_user", "1000\n"),
    ("cpu,cpuacct/c/cpuacct.usage_sys", "500\n"),
    (
        "cpu,cpuacct/c/cpu.stat",
        "nr_periods 4\nnr_throttled 2\nthrottled_time 30\n",
    ),
    ("cpu,cpuacct/c/cpu.cfs_period_us", "100000\n"),
    ("cpu,cpuacct/c/cpu.cfs_quota_us", "20000\n"),
    ("cpu,cpuacct/c/cpu.shares", "512\n"),
    ("memory/c/memory.usage_in_bytes", "5000\n"),
    ("memory/c/memory.max_usage_in_bytes", "6000\n"),
    ("memory/c/memory.limit_in_bytes", "131072\n"),
    ("memory/c/memory.memsw.limit_in_bytes", "262144\n"),
    ("memory/c/memory.soft_limit_in_bytes", "9223372036854771712\n"),
    ("memory/c/memory.failcnt", "7\n"),
    ("memory/c/memory.memsw.failcnt", "2\n"),
    ("memory/c/memory.kmem.usage_in_bytes", "4096\n"),
    (
        "memory/c/memory.oom_control",
        "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    ),
    ("memory/c/memory.stat", MEMORY_STAT),
    ("pids/c/pids.current", "3\n"),
    ("pids/c/pids.max", "40\n"),
    ("pids/c/cgroup.procs", "1\n2\n"),
    (
        "blkio/c/blkio.throttle.io_service_bytes_recursive",
        "8:0 Read 10\n8:0 Write 20\n8:0 Sync 5\n8:0 Total 30\nTotal 30\n",
    ),
    (
        "blkio/c/blkio.throttle.io_serviced_recursive",
        "8:0 Read 1\n8:0 Write 2\nTotal 3\n",
    ),
    ("freezer/c/freezer.state", "THAWED\n"),
    ("freezer/c/cgroup.procs", "1\n2\n"),
];

#[test]
fn everything_is_read_from_the_files_of_version_1() {
    let (_root, cgroup) = root(&V1);
    let stats = cgroup.stats().unwrap();
    let cpu = &stats.cpu;
    assert_eq!(
        (cpu.usage_nanos, cpu.user_nanos, cpu.system_nanos),
        (1500, 1000, 500)
    );
    assert_eq!(
        (cpu.periods, cpu.throttled_periods, cpu.throttled_nanos),
        (4, 2, 30)
    );
    let memory = &stats.memory;
    assert_eq!((memory.usage, memory.working_set), (5000, 4000));
    assert_eq!((memory.rss, memory.cache, memory.mapped_file), (2000, 30, 70));
    assert_eq!(
        (memory.max_usage, memory.limit_hits, memory.kernel),
        (6000, 9, 4096)
    );
    // A parent may allow less than the cgroup's own limit.
    assert_eq!(memory.limit, Some(65536));
    assert_eq!((memory.page_faults, memory.major_page_faults), (40, 4));
    assert_eq!((memory.own_page_faults, memory.own_major_page_faults), (3, 1));
    assert_eq!(memory.oom_kills, 3);
    let swap = Swap {
        usage: 500,
        limit: Some(32768),
    };
    assert_eq!(stats.swap, Some(swap));
    assert_eq!((stats.pids.current, stats.pids.limit), (3, Some(40)));
    let io = Io {
        major: 8,
        minor: 0,
        read_bytes: 10,
        write_bytes: 20,
        reads: 1,
        writes: 2,
    };
    assert_eq!(stats.io, [io]);
    let limits = Limits {
        cpu_period: 100_000,
        cpu_quota: 20_000,
        cpu_shares: 512,
        memory: 131_072,
        memory_reservation: 0,
        memory_swap: 262_144,
    };
    assert_eq!(stats.limits, limits);
    // What this interface does not have is left out rather than made up.
    assert_eq!(
        (stats.cpu_pressure, stats.memory_pressure, stats.io_pressure),
        (None, None, None)
    );
}

#[test]
fn usage_is_the_same_with_and_without_the_rest() {
    let (_root, cgroup) = root(&V1);
    let (usage, full) = (
        cgroup.read(Detail::Usage).unwrap(),
        cgroup.read(Detail::Full).unwrap(),
    );
    assert_eq!(usage.cpu.usage_nanos, full.cpu.usage_nanos);
    assert_eq!(usage.memory.working_set, full.memory.working_set);
    assert_eq!(
        (usage.memory.limit, usage.swap.clone()),
        (full.memory.limit, full.swap.clone())
    );
    assert!(usage.io.is_empty() && usage.limits == Limits::default());
}

#[test]
fn limits_and_events_of_version_2() {
    let (_root, cgroup) = root(&[
        ("cgroup.controllers", "cpu memory\n"),
        ("c/cgroup.procs", ""),
        ("c/cpu.max", "20000 100000\n"),
        ("c/cpu.weight", "100\n"),
        ("c/memory.max", "4096\n"),
        ("c/memory.low", "1024\n"),
        ("c/memory.swap.current", "0\n"),
        ("c/memory.swap.max", "8192\n"),
        ("c/memory.stat", "anon 5\nkernel 77\npgfault 9\npgmajfault 2\n"),
        ("c/memory.events", "low 0\nhigh 0\nmax 4\noom 2\noom_kill 1\n"),
        (
            "c/cpu.pressure",
            "some avg10=1.00 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
        ),
    ]);
    let stats = cgroup.stats().unwrap();
    let limits = Limits {
        cpu_period: 100_000,
        cpu_quota: 20_000,
        cpu_shares: 1024,
        memory: 4096,
        memory_reservation: 1024,
        memory_swap: 8192,
    };
    assert_eq!(stats.limits, limits);
    let memory = &stats.memory;
    assert_eq!((memory.kernel, memory.limit_hits, memory.oom_kills), (77, 4, 1));
    assert_eq!((memory.own_page_faults, memory.own_major_page_faults), (9, 2));
    let usage = cgroup.read(Detail::Usage).unwrap();
    assert_eq!(usage.cpu_pressure, stats.cpu_pressure);
    assert_eq!(
        usage.cpu_pressure.map(|p| (p.some.total, p.full.total)),
        Some((5, 3))
    );
}

#[test]
fn no_quota_is_zero() {
    let (_root, cgroup) = root(&[("cgroup.controllers", "cpu\n"), ("c/cpu.max", "max 100000\n")]);
    let limits = cgroup.stats().unwrap().limits;
    assert_eq!((limits.cpu_quota, limits.cpu_period), (0, 100_000));
}

#[test]
fn shares_and_weights_are_each_others_inverse() {
    for shares in [2, 102, 512, 1024, 2048, 262_144] {
        let weight = crate::cgroup::limit::weight(shares);
        let back = crate::cgroup::limit::shares_of(weight);
        assert_eq!(
            crate::cgroup::limit::weight(back),
            weight,
            "{shares} {weight} {back}"
        );
    }
    assert_eq!(crate::cgroup::limit::shares_of(100), 1024);
}
