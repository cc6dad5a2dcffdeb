//! Version 1 with processes in it: limits that bite, freezing, killing, execs, statistics.

use super::*;

#[test]
fn the_pids_limit_holds() {
    let Some(home) = Home::v1() else { return };
    let cgroup = home.create("c", r#"{"pids": {"limit": 8}}"#);
    let _shell = Shell::run(
        &cgroup,
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done; sleep 1000",
    );
    until("a fork is refused", || {
        home.file("pids", "c", "pids.events") != "max 0"
    });
    assert!(cgroup.processes().unwrap().len() <= 8);
    assert_eq!(cgroup.stats().unwrap().pids.limit, Some(8));
}

#[test]
fn an_oom_kill_is_counted() {
    let Some(home) = Home::v1() else { return };
    let cgroup = home.create("c", r#"{"memory": {"limit": 16777216, "swap": 16777216}}"#);
    let counter = cgroup.oom_counter().unwrap();
    assert_eq!(oom_kills(&counter), 0);
    // tail keeps what has no line ends.
    let mut shell = Shell::run(&cgroup, "exec tail /dev/zero");
    assert_eq!(shell.signal(), Some(9));
    assert_eq!(oom_kills(&counter), 1);
}

#[test]
fn a_memory_limit_below_usage_is_refused_with_the_numbers() {
    let Some(home) = Home::v1() else { return };
    let cgroup = home.create("c", r#"{"memory": {"limit": 134217728}}"#);
    let _shell = Shell::run(
        &cgroup,
        "x=$(head -c 33554432 /dev/zero | tr '\\0' x); sleep 1000",
    );
    until("memory is in use", || {
        cgroup.stats().unwrap().memory.rss > 32 << 20
    });
    let error = cgroup
        .apply(&oci(r#"{"memory": {"limit": 8388608}}"#))
        .unwrap_err();
    assert_eq!(error.kind(), crate::types::Kind::FailedPrecondition);
    assert!(
        error.message().contains("8388608") && error.message().contains("in use"),
        "{error}"
    );
    assert_eq!(home.file("memory", "c", "memory.limit_in_bytes"), "134217728");
}

#[test]
fn frozen_processes_stand_and_thawed_ones_run() {
    let Some(home) = Home::v1() else { return };
    let cgroup = home.create("c", "{}");
    let _shell = Shell::run(&cgroup, "while :; do :; done");
    until("it runs", || cgroup.stats().unwrap().cpu.usage_nanos > 0);
    cgroup.freeze().unwrap();
    assert_eq!(home.file("freezer", "c", "freezer.state"), "FROZEN");
    let usage = cgroup.stats().unwrap().cpu.usage_nanos;
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(cgroup.stats().unwrap().cpu.usage_nanos, usage);
    cgroup.thaw().unwrap();
    until("it runs again", || {
        cgroup.stats().unwrap().cpu.usage_nanos > usage
    });
}

#[test]
fn a_frozen_cgroup_can_be_killed() {
    let Some(home) = Home::v1() else { return };
    let cgroup = home.create("c", "{}");
    let mut shell = Shell::run(&cgroup, "exec sleep 1000");
    cgroup.freeze().unwrap();
    cgroup.kill().unwrap();
    assert_eq!(shell.signal(), Some(9));
    assert_eq!(home.file("freezer", "c", "freezer.state"), "THAWED");
}

#[test]
fn a_fork_bomb_is_killed_whole() {
    let Some(home) = Home::v1() else { return };
    let cgroup = home.create("c", r#"{"pids": {"limit": 200}}"#);
    // Each process starts the next and ends, so that no list of them is ever true.
    let mut shell = Shell::run(
        &cgroup,
        "f() { f & }; for i in 1 2 3 4 5 6 7 8; do f; done; exec sleep 1000",
    );
    let first = cgroup.processes().unwrap();
    until("others have taken over", || {
        cgroup
            .processes()
            .unwrap()
            .iter()
            .all(|p| *p == shell.pid() || !first.contains(p))
    });
    // As the supervisor has it: directories and nothing else.
    Cgroup::from_join(&cgroup.join()).kill().unwrap();
    assert!(cgroup.processes().unwrap().is_empty());
    assert_eq!(shell.signal(), Some(9));
    cgroup.remove().unwrap();
    assert!(!home.dir("pids", "c").exists());
}

#[test]
fn an_exec_dies_alone_and_shares_the_limits() {
    let Some(home) = Home::v1() else { return };
    let container = home.create("c", r#"{"pids": {"limit": 50}}"#);
    let init = Shell::run(&container, "exec sleep 1000");
    let exec = Cgroup::from_join(&container.join()).exec_child("e1").unwrap();
    let mut shell = Shell::run(&exec, "sleep 1000 & sleep 1001 & setsid sleep 1002 & wait");
    until("the exec has children", || exec.processes().unwrap().len() == 4);

    // In the container by every measure but the freezer's own list.
    let members = |hierarchy: &str| home.file(hierarchy, "c", "cgroup.procs").lines().count();
    assert_eq!(
        (members("memory"), members("pids"), members("freezer")),
        (5, 5, 1)
    );
    assert_eq!(container.processes().unwrap().len(), 5);
    assert!(!home.dir("memory", "c/exec-e1").exists());
    assert_eq!(
        container.exec_child("e1").unwrap_err().kind(),
        crate::types::Kind::AlreadyExists
    );

    let exec = Cgroup::from_join(&exec.join());
    exec.kill().unwrap();
    assert_eq!(shell.signal(), Some(9));
    assert_eq!(container.processes().unwrap(), [init.pid()]);
    exec.remove().unwrap();
    assert!(home.dir("memory", "c").exists() && home.dir("freezer", "c").exists());
    assert!(!home.dir("freezer", "c/exec-e1").exists());
}

#[test]
fn killing_a_container_kills_its_execs() {
    let Some(home) = Home::v1() else { return };
    let container = home.create("c", "{}");
    let mut init = Shell::run(&container, "exec sleep 1000");
    let mut exec = Shell::run(&container.exec_child("e").unwrap(), "exec sleep 1000");
    container.kill().unwrap();
    assert_eq!((init.signal(), exec.signal()), (Some(9), Some(9)));
    // The exec's cgroup goes with the container's.
    container.remove().unwrap();
    assert!(!home.dir("freezer", "c").exists());
}

#[test]
fn removal_says_who_is_in_the_way() {
    let Some(home) = Home::v1() else { return };
    let cgroup = home.create("c", "{}");
    let shell = Shell::run(&cgroup, "exec sleep 1000");
    let error = cgroup.remove().unwrap_err();
    assert_eq!(error.kind(), crate::types::Kind::FailedPrecondition);
    assert!(error.message().contains(&shell.pid().to_string()), "{error}");
}

#[test]
fn statistics_are_the_kernels() {
    let Some(home) = Home::v1() else { return };
    let cgroup = home.create(
        "c",
        r#"{"memory": {"limit": 134217728}, "cpu": {"quota": 5000, "period": 100000}}"#,
    );
    let _shell = Shell::run(
        &cgroup,
        "x=$(head -c 16777216 /dev/zero | tr '\\0' x); while :; do :; done",
    );
    until("it was throttled and has memory", || {
        let stats = cgroup.stats().unwrap();
        stats.cpu.throttled_nanos > 0 && stats.memory.rss > 16 << 20 && stats.pids.current == 1
    });
    let stats = Cgroup::from_join(&cgroup.join()).stats().unwrap();
    assert!(stats.cpu.usage_nanos >= stats.cpu.user_nanos && stats.cpu.user_nanos > 0);
    assert!(stats.cpu.periods >= stats.cpu.throttled_periods && stats.cpu.throttled_periods > 0);
    assert_eq!(stats.memory.limit, Some(134_217_728));
    assert!(stats.memory.usage >= stats.memory.working_set && stats.memory.working_set >= 16 << 20);
    assert!(stats.memory.page_faults > 1000);
    assert_eq!(stats.pids.limit, None);
    assert_eq!(stats.swap.map(|s| s.limit), Some(None));
}

#[test]
fn an_exec_that_left_something_behind_can_be_looked_at_again() {
    let Some(home) = Home::v1() else { return };
    let container = home.create("c", "{}");
    let exec = container.exec_child("e").unwrap();
    let shell = Shell::run(&exec, "exec sleep 1000");
    assert!(!exec.remove_if_empty().unwrap());
    assert_eq!(exec.processes().unwrap(), [shell.pid()]);
    drop(shell);
    until("it is removed", || exec.remove_if_empty().unwrap());
    assert!(!home.dir("freezer", "c/exec-e").exists() && home.dir("freezer", "c").exists());
    assert!(exec.remove_if_empty().unwrap(), "fine if it is gone");
}

/// More cgroups than a list takes.
#[test]
fn nobody_is_safe_by_the_number_of_cgroups() {
    let Some(home) = Home::v1() else { return };
    let container = home.create("c", "{}");
    let mut init = Shell::run(&container, "exec sleep 1000");
    for number in 0..16500 {
        container.exec_child(&number.to_string()).unwrap();
    }
    // In the middle, as lists come.
    let exec = container.exec_child("e").unwrap();
    let mut other = Shell::run(&exec, "exec sleep 1000");
    assert!(container.processes().is_err());
    Cgroup::from_join(&container.join()).kill().unwrap();
    assert_eq!((init.signal(), other.signal()), (Some(9), Some(9)));
    container.remove().unwrap();
    assert!(!home.dir("freezer", "c").exists());
}

#[test]
fn a_cgroup_that_others_live_in_is_not_free() {
    let Some(home) = Home::v1() else { return };
    let free = |name: &str, containers: &[&str], parents: &[&str]| {
        let of = |names: &[&str]| names.iter().map(|n| home.path(n)).collect::<Vec<_>>();
        home.cgroups
            .check_free(&home.path(name), &of(containers), &of(parents))
    };
    let refused = |name: &str, containers: &[&str], parents: &[&str]| {
        let error = free(name, containers, parents).unwrap_err();
        assert_eq!(error.kind(), crate::types::Kind::FailedPrecondition, "{error}");
        assert!(error.message().contains(&home.path(name)), "{error}");
    };
    free("new", &["other", "newer"], &["pod", "newer"]).unwrap();
    free("pod/new", &["pod/other"], &["pod"]).unwrap();
    refused("c", &["other", "./c/"], &[]);
    refused("c", &["c/below"], &[]);
    refused("c/below", &["c"], &[]);
    refused("pod", &[], &["pod"]);
    refused("pods", &[], &["pods/pod1"]);
    let error = free("a/../b", &[], &[]).unwrap_err();
    assert_eq!(error.kind(), crate::types::Kind::InvalidArgument);

    // As an earlier try left it.
    let left = home.create("left", "{}");
    free("left", &[], &[]).unwrap();
    let shell = Shell::run(&left, "exec sleep 1000");
    refused("left", &[], &[]);
    drop(shell);
    home.create("parent/child", "{}");
    refused("parent", &[], &[]);
}
