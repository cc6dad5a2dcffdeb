//! Execs and cgroups.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::pod::exec::Execs;

#[tokio::test]
async fn an_end_that_was_told_is_known_although_the_supervisor_is_gone() {
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    let id = pod.start(pod.config(&Plan::shell("exec sleep 1000"))).await;
    let execs = Execs::default();
    let (mut told, mut untold) = (execs.expect("one"), execs.expect("two"));
    let stdio = ExecStdio::default();
    pod.client.exec(&id, exec("one", "exit 3"), stdio).await.unwrap();
    wait_until("the event", || !pod.events.is_empty()).await;
    pod.client.shutdown(true).await.unwrap();
    pod.client.closed().await;
    // The event still waits for whoever handles them.
    let handle = async {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        while let Some(event) = pod.events.recv().await {
            if let Event::ExecExited(exit) = event {
                execs.ended(&exit.exec_id, exit.exit_code);
            }
        }
        drop(pod.events);
    };
    let (told, untold, ()) = tokio::join!(told.or_lost(&pod.client), untold.or_lost(&pod.client), handle);
    assert_eq!((told, untold), (Some(3), None));
}

#[tokio::test]
async fn execs_have_the_daemons_pipes_and_their_own_end() {
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    let id = pod.start(pod.config(&Plan::shell("exec sleep 1000"))).await;
    let ((stdin, ours), (stdout, theirs)) = (pipe(), pipe());
    let stdio = ExecStdio {
        stdin: Some(stdin.into()),
        stdout: Some(theirs),
        stderr: None,
    };
    let (started, console) = pod
        .client
        .exec(&id, exec("one", "cat; exit 4"), stdio)
        .await
        .unwrap();
    assert!(console.is_none());
    let state = pod.client.state().await.unwrap();
    assert_eq!(state.containers[0].execs[0].pid, started.pid);
    let again = pod
        .client
        .exec(&id, exec("one", "true"), ExecStdio::default())
        .await
        .unwrap_err();
    assert_eq!(again.error.kind(), Kind::AlreadyExists);
    std::fs::File::from(ours).write_all(b"through").unwrap();
    assert_eq!(read_all(stdout).await, "through");
    let exit = pod.exec_exit().await;
    assert_eq!(
        (exit.container, exit.exec_id.as_str(), exit.exit_code),
        (id.clone(), "one", 4)
    );

    let missing = Exec {
        exec_id: "two".into(),
        plan_json: Plan {
            args: vec!["/nonexistent".into()],
            ..Plan::default()
        }
        .json(),
        ..Exec::default()
    };
    let failure = pod
        .client
        .exec(&id, missing, ExecStdio::default())
        .await
        .unwrap_err();
    assert_eq!(failure.exit_code, Some(127));
    let (_, _) = pod
        .client
        .exec(&id, exec("three", "exec sleep 1000"), ExecStdio::default())
        .await
        .unwrap();
    pod.client.kill_exec(&id, "three").await.unwrap();
    assert_eq!(pod.exec_exit().await.signal, Some(9));
    pod.client.kill_exec(&id, "three").await.unwrap();
    assert!(pod.client.state().await.unwrap().containers[0].execs.is_empty());
    pod.end().await;
}

#[tokio::test]
async fn an_exec_ends_when_its_first_process_does() {
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    let id = pod.start(pod.config(&Plan::shell("exec sleep 1000"))).await;
    let (stdout, theirs) = pipe();
    let stdio = ExecStdio {
        stdout: Some(theirs),
        ..ExecStdio::default()
    };
    // The child keeps the pipe open; the end must be told all the same.
    pod.client
        .exec(&id, exec("e", "sleep 1000 & echo $!; exit 0"), stdio)
        .await
        .unwrap();
    assert_eq!(pod.exec_exit().await.exit_code, 0);
    let mut child = [0; 16];
    let n = (&stdout).read(&mut child).unwrap();
    let child: i32 = String::from_utf8_lossy(&child[..n]).trim().parse().unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    pod.end().await;
}

/// A cgroup of version 1, with the children it may have got; removed when dropped.
struct TestCgroup(PathBuf);

impl TestCgroup {
    fn new() -> Option<Self> {
        Self::below(&["freezer", "pids"])
    }

    fn below(controllers: &[&str]) -> Option<Self> {
        let parent: Vec<PathBuf> = controllers
            .iter()
            .map(|c| Path::new("/sys/fs/cgroup").join(c))
            .collect();
        let parent = parent.iter().find(|p| p.join("cgroup.procs").exists())?;
        let dir = parent.join(format!("husk-test-{}", PodId::random().short()));
        std::fs::create_dir(&dir).unwrap();
        Some(Self(dir))
    }

    fn join(&self) -> CgroupJoin {
        CgroupJoin::V1(vec![self.0.clone()])
    }

    fn members(&self) -> usize {
        std::fs::read_to_string(self.0.join("cgroup.procs"))
            .unwrap()
            .lines()
            .count()
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        let cgroup = crate::cgroup::Cgroup::from_join(&self.join());
        let _ = cgroup.kill();
        let _ = cgroup.remove();
    }
}

#[tokio::test]
async fn cgroups_find_every_descendant() {
    let Some(cgroup) = TestCgroup::new() else {
        return eprintln!("needs a version 1 hierarchy");
    };
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    let plan = Plan {
        cgroup: vec![cgroup.0.clone()],
        ..Plan::shell("setsid sleep 1000 & exec sleep 1000")
    };
    let mut config = pod.config(&plan);
    (config.cgroup, config.kill_cgroup_on_exit) = (Some(cgroup.join()), true);
    let id = pod.start(config).await;
    wait_until("both run", || cgroup.members() == 2).await;

    let own = Exec {
        own_cgroup: true,
        ..exec("deep", "setsid sleep 1000 & exec sleep 1000")
    };
    pod.client.exec(&id, own, ExecStdio::default()).await.unwrap();
    let below = cgroup.0.join("exec-deep/cgroup.procs");
    wait_until("the exec's both run", || {
        std::fs::read_to_string(&below).unwrap().lines().count() == 2
    })
    .await;
    pod.client.kill_exec(&id, "deep").await.unwrap();
    assert_eq!(pod.exec_exit().await.signal, Some(9));
    wait_until("all of the exec is gone", || {
        std::fs::read_to_string(&below).is_ok_and(|t| t.is_empty()) || !below.exists()
    })
    .await;
    assert_eq!(cgroup.members(), 2, "and nothing else");

    pod.client.signal(&id, 9, false).await.unwrap();
    pod.exit_of(&id).await;
    wait_until("what the first process left behind is gone", || {
        cgroup.members() == 0
    })
    .await;
    pod.end().await;
}

#[tokio::test]
async fn what_execs_leave_behind_leaves_no_cgroups() {
    let Some(cgroup) = TestCgroup::new() else {
        return eprintln!("needs a version 1 hierarchy");
    };
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    let plan = Plan {
        cgroup: vec![cgroup.0.clone()],
        ..Plan::shell("exec sleep 1000")
    };
    let mut config = pod.config(&plan);
    config.cgroup = Some(cgroup.join());
    let id = pod.start(config).await;
    for name in ["first", "second"] {
        let own = Exec {
            own_cgroup: true,
            ..exec(name, "sleep 1000 & exit 0")
        };
        pod.client.exec(&id, own, ExecStdio::default()).await.unwrap();
        assert_eq!(pod.exec_exit().await.exit_code, 0);
    }
    let dirs = ["exec-first", "exec-second"].map(|name| cgroup.0.join(name));
    assert!(dirs.iter().all(|dir| dir.exists()), "their descendants live");
    for dir in &dirs {
        crate::cgroup::Cgroup::from_join(&CgroupJoin::V1(vec![dir.clone()]))
            .kill()
            .unwrap();
    }
    let own = Exec {
        own_cgroup: true,
        ..exec("third", "exit 0")
    };
    pod.client.exec(&id, own, ExecStdio::default()).await.unwrap();
    pod.exec_exit().await;
    assert!(!dirs.iter().any(|dir| dir.exists()));
    assert!(!cgroup.0.join("exec-third").exists());
    pod.client.signal(&id, 9, false).await.unwrap();
    pod.exit_of(&id).await;
    pod.end().await;
}

#[tokio::test]
async fn execs_die_with_the_connection_if_so_asked() {
    let pod = Pod::spawn(&launcher().await, |_| {}).await;
    let id = pod.start(pod.config(&Plan::shell("exec sleep 1000"))).await;
    let second = Client::connect(pod.run_dir()).await.unwrap();
    let bound = Exec {
        kill_on_disconnect: true,
        ..exec("bound", "exec sleep 1000")
    };
    let (bound, _) = second.exec(&id, bound, ExecStdio::default()).await.unwrap();
    second
        .exec(&id, exec("free", "exec sleep 1000"), ExecStdio::default())
        .await
        .unwrap();
    drop(second);
    wait_until("the bound one is gone", || {
        !Path::new(&format!("/proc/{}", bound.pid)).exists()
    })
    .await;
    let state = pod.client.state().await.unwrap();
    let left: Vec<&str> = state.containers[0]
        .execs
        .iter()
        .map(|e| e.exec_id.as_str())
        .collect();
    assert_eq!(left, ["free"]);
    pod.client.kill_exec(&id, "free").await.unwrap();
    pod.end().await;
}

/// A memory cgroup of version 1 with a limit of 16 MiB.
fn memory_cgroup() -> Option<TestCgroup> {
    let cgroup = TestCgroup::below(&["memory"])?;
    std::fs::write(cgroup.0.join("memory.limit_in_bytes"), "16M").unwrap();
    Some(cgroup)
}

#[tokio::test]
async fn the_kernels_oom_killer_is_seen_while_it_happens_and_at_the_end() {
    let Some(cgroup) = memory_cgroup() else {
        return eprintln!("needs the memory controller of version 1");
    };
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    // Makes sure of who is chosen.
    let hungry = "(echo 1000 > /proc/self/oom_score_adj; head -c 100000000 /dev/zero | tail | cat)";
    let plan = Plan {
        cgroup: vec![cgroup.0.clone()],
        ..Plan::shell(&format!("{hungry}; read go; {hungry}; exit 3"))
    };
    let mut config = pod.config(&plan);
    config.oom_counter_path = Some(cgroup.0.join("memory.oom_control"));
    config.stdin = true;
    let id = pod.start(config).await;
    let Some(Event::OomSeen { container, kills }) = pod.events.recv().await else {
        panic!("the container was not to end")
    };
    assert_eq!((container, kills), (id.clone(), 1));
    let stdin = pod
        .client
        .attach(&id, None, None, true)
        .await
        .unwrap()
        .stdin
        .unwrap();
    std::fs::File::from(stdin).write_all(b"go\n").unwrap();
    let record = pod.exit_of(&id).await;
    assert_eq!((record.exit_code, record.oom_killed), (3, true));
    pod.end().await;
}
