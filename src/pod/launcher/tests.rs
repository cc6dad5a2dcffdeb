#![allow(clippy::unwrap_used)]

use std::time::Duration;

use crate::pod::client::tests::{Pod, launcher, pod_spawn, wait_until};

use super::*;

#[tokio::test]
async fn supervisors_outlive_the_template_and_it_is_started_again() {
    let launcher = launcher().await;
    let first = Pod::spawn(&launcher, |_| {}).await;
    let template = launcher.template_pid().await.unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(template.cast_signed()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let second = Pod::spawn(&launcher, |_| {}).await;
    assert_ne!(launcher.template_pid().await, Some(template));
    assert!(first.client.state().await.unwrap().containers.is_empty());
    assert_ne!(first.client.greeting().pid, second.client.greeting().pid);
    first.end().await;
    second.end().await;
}

#[tokio::test]
async fn many_at_once() {
    let launcher = launcher().await;
    let mut spawns = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let launcher = launcher.clone();
        spawns.spawn(async move { Pod::spawn(&launcher, |_| {}).await });
    }
    let pods = spawns.join_all().await;
    let mut pids: Vec<i32> = pods.iter().map(|pod| pod.client.greeting().pid).collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 20);
    for pod in pods {
        pod.end().await;
    }
}

#[tokio::test]
async fn a_supervisor_lives_in_the_namespaces_it_was_given() {
    let launcher = launcher().await;
    let pod = Pod::spawn(&launcher, |spawn| {
        spawn.netns = Some("/proc/self/ns/net".into());
        spawn.new_ipc = true;
        spawn.new_uts = true;
        spawn.hostname = "inside".into();
        spawn.sysctls = vec![("kernel.shmmni".into(), "77".into())];
    })
    .await;
    let pid = pod.client.greeting().pid;
    let namespace = |pid: &str, name: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    for (name, own) in [
        ("net", false),
        ("mnt", false),
        ("pid", false),
        ("ipc", true),
        ("uts", true),
    ] {
        assert_eq!(
            namespace(&pid.to_string(), name) != namespace("self", name),
            own,
            "{name}"
        );
    }
    assert!(
        std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .unwrap()
            .starts_with("husk-sup:")
    );
    assert_eq!(
        std::fs::read_link(format!("/proc/{pid}/fd/0")).unwrap().to_str(),
        Some("/dev/null")
    );
    assert_eq!(
        pod.run_script("hostname; cat /proc/sys/kernel/shmmni").await,
        "inside\n77\n"
    );
    pod.end().await;
}

#[tokio::test]
async fn the_init_of_a_pods_pid_namespace_offers_nothing_and_reaps() {
    let launcher = launcher().await;
    let pod = Pod::spawn(&launcher, |spawn| spawn.shared_pid = true).await;
    let init = pod.client.greeting().pidns_init_pid.unwrap();
    let proc = PathBuf::from(format!("/proc/{init}"));
    let status = std::fs::read_to_string(proc.join("status")).unwrap();
    let field = |name: &str| {
        status
            .lines()
            .find_map(|l| l.strip_prefix(name))
            .unwrap_or_else(|| panic!("{name}"))
            .trim()
            .to_owned()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16), Ok(0), "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("NSpid:").split_whitespace().last(), Some("1"));
    assert!(
        std::fs::read_link(proc.join("exe"))
            .unwrap()
            .to_string_lossy()
            .contains("memfd:husk-init")
    );
    assert_eq!(
        std::fs::read_dir(proc.join("root")).unwrap().count(),
        0,
        "its root is empty"
    );
    assert_eq!(std::fs::read_dir(proc.join("fd")).unwrap().count(), 0);
    // An orphan of a process that entered the namespace falls to its init.
    let enter = format!("nsenter -t {init} -p sh -c '(sleep 0.01; exit 7) & echo in'");
    assert_eq!(pod.run_script(&enter).await, "in\n");
    let children = proc.join(format!("task/{init}/children"));
    wait_until("the orphan is reaped", || {
        std::fs::read_to_string(&children).unwrap().is_empty()
    })
    .await;
    // It cannot be persuaded to end from inside, and ends with the supervisor.
    assert_eq!(
        pod.run_script(&format!(
            "nsenter -t {init} -p sh -c 'kill -9 1; kill -TERM 1; echo $?'"
        ))
        .await,
        "0\n"
    );
    assert!(proc.exists());
    pod.end().await;
    wait_until("init ends with its supervisor", || !proc.exists()).await;
}

#[tokio::test]
async fn what_cannot_be_set_up_is_told_and_leaves_no_process() {
    let launcher = launcher().await;
    let run_dir = tempfile::tempdir().unwrap();
    let mut no_netns = pod_spawn(run_dir.path());
    no_netns.netns = Some("/nonexistent/netns".into());
    let mut node_sysctl = pod_spawn(run_dir.path());
    node_sysctl.sysctls = vec![("kernel.core_pattern".into(), "|/bin/evil".into())];
    let no_dir = pod_spawn(std::path::Path::new("/nonexistent/run"));
    for (spawn, word, kind) in [
        (no_netns, "/nonexistent/netns", Kind::Internal),
        (node_sysctl, "kernel.core_pattern", Kind::InvalidArgument),
        (no_dir, "/nonexistent/run", Kind::Internal),
    ] {
        let error = launcher.spawn(spawn).await.unwrap_err();
        assert!(error.message().contains(word), "{error}");
        assert_eq!(error.kind(), kind, "{error}");
    }
    childless(&launcher).await;
}

/// Waits until the template has no child.
async fn childless(launcher: &Launcher) {
    let template = launcher.template_pid().await.unwrap();
    // The fork happens in the template's other thread under the test harness: ask every thread.
    wait_until("the template has no child", || {
        let tasks = std::fs::read_dir(format!("/proc/{template}/task")).unwrap();
        let children = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children"));
        tasks
            .flatten()
            .all(|task| children(task).unwrap_or_default().is_empty())
    })
    .await;
}

#[tokio::test]
async fn a_supervisor_that_nobody_knows_of_ends_itself() {
    let launcher = launcher().await;
    let run_dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = wire::pair().unwrap();
    let spawn = Message::Request(0, Ok(Op::Spawn(pod_spawn(run_dir.path()))));
    launcher.order(&spawn, &theirs).await.unwrap();
    let socket = run_dir.path().join("supervisor.sock");
    wait_until("it is set up", || socket.exists()).await;
    // The daemon dies before it has greeted.
    drop((ours, theirs));
    childless(&launcher).await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_program_that_is_no_template_is_an_error() {
    let config = Config {
        program: "/bin/true".into(),
        arguments: Vec::new(),
        ..Config::default()
    };
    assert!(Launcher::start(config).await.is_err());
    let config = Config {
        program: "/nonexistent/husk".into(),
        ..Config::default()
    };
    let error = Launcher::start(config).await.unwrap_err();
    assert!(error.message().contains("/nonexistent/husk"), "{error}");
}

#[tokio::test]
async fn a_cgroup_that_cannot_be_entered_is_an_error() {
    let config = Config {
        cgroup: Some(CgroupJoin::V2("/nonexistent/cgroup".into())),
        ..crate::pod::client::tests::config()
    };
    let error = Launcher::start(config).await.unwrap_err();
    assert!(error.message().contains("/nonexistent/cgroup"), "{error}");
}

#[tokio::test]
async fn a_killed_supervisor_is_noticed() {
    let launcher = launcher().await;
    let pod = Pod::spawn(&launcher, |_| {}).await;
    assert!(pod.client.is_alive());
    let pid = nix::unistd::Pid::from_raw(pod.client.greeting().pid);
    // Nothing but SIGKILL ends it from outside.
    for signal in [
        nix::sys::signal::Signal::SIGTERM,
        nix::sys::signal::Signal::SIGHUP,
    ] {
        nix::sys::signal::kill(pid, signal).unwrap();
    }
    pod.client.state().await.unwrap();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    tokio::time::timeout(Duration::from_secs(20), pod.client.closed())
        .await
        .unwrap();
    wait_until("the pidfd says so", || !pod.client.is_alive()).await;
    assert_eq!(pod.client.state().await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(
        Client::connect(pod.run_dir()).await.unwrap_err().kind(),
        Kind::NotFound
    );
}

#[test]
fn apparmor_profiles_go_to_the_parser() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let seen = dir.path().join("seen");
    let good = script(
        "good",
        &format!("echo \"$@\" > {0}; /bin/cat >> {0}", seen.display()),
    );
    super::apparmor::load(&good, "profile x {}\n").unwrap();
    assert_eq!(std::fs::read_to_string(&seen).unwrap(), "-Kr\nprofile x {}\n");
    let bad = script("bad", "echo syntax error >&2; exit 1");
    let error = super::apparmor::load(&bad, "x").unwrap_err();
    assert!(error.message().contains("syntax error"), "{error}");
    let error = super::apparmor::load(&dir.path().join("none"), "x").unwrap_err();
    assert!(
        error.message().contains("install the package apparmor"),
        "{error}"
    );
}
