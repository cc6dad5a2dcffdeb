//! Lives and ends of containers and supervisors.
#![allow(clippy::unwrap_used)]

use super::*;

#[tokio::test]
async fn a_containers_life() {
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    let id = ContainerId::random();
    let script = "echo out; echo err >&2; printf unfinished; exit 3";
    let created = pod
        .client
        .create(&id, pod.config(&Plan::shell(script)))
        .await
        .unwrap();
    assert_eq!(created.notes, ["fake"]);
    let again = pod
        .client
        .create(&id, pod.config(&Plan::shell(script)))
        .await
        .unwrap_err();
    assert_eq!(again.error.kind(), Kind::AlreadyExists);
    assert_eq!(
        pod.client.state().await.unwrap().containers[0].phase,
        Phase::Created
    );
    assert_eq!(
        pod.client.remove(&id).await.unwrap_err().kind(),
        Kind::FailedPrecondition
    );
    assert_eq!(
        pod.client.shutdown(false).await.unwrap_err().kind(),
        Kind::FailedPrecondition
    );

    let started = pod.client.start(&id).await.unwrap();
    assert_eq!(started.pid, created.pid);
    let record = pod.exit_of(&id).await;
    assert_eq!(
        (record.exit_code, record.signal, record.oom_killed),
        (3, None, false)
    );
    assert!(record.started_at == started.started_at && record.finished_at >= record.started_at);
    assert_eq!(ExitRecord::read(&pod.record()).unwrap().as_ref(), Some(&record));
    assert_eq!(lines(&pod.log(), "stdout"), ["out", "unfinished"]);
    assert_eq!(lines(&pod.log(), "stderr"), ["err"]);
    assert!(
        std::fs::read_to_string(pod.log())
            .unwrap()
            .contains(" stdout P unfinished\n")
    );

    let state = pod.client.state().await.unwrap();
    assert_eq!(state.containers[0].exit.as_ref(), Some(&record));
    assert_eq!(
        pod.client.start(&id).await.unwrap_err().error.kind(),
        Kind::FailedPrecondition
    );
    assert_eq!(
        pod.client.signal(&id, 15, false).await.unwrap_err().kind(),
        Kind::FailedPrecondition
    );
    pod.client.remove(&id).await.unwrap();
    assert_eq!(pod.client.remove(&id).await.unwrap_err().kind(), Kind::NotFound);
    pod.client.shutdown(false).await.unwrap();
    pod.client.closed().await;
    assert!(!pod.run_dir().join("supervisor.sock").exists());
}

#[tokio::test]
async fn signals_end_containers_and_show() {
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    // A real-time signal, as systemd in a container wants for its stop; 64 is SIGRTMAX.
    for signal in [9, 15, 64] {
        let id = pod.start(pod.config(&Plan::shell("exec sleep 1000"))).await;
        pod.client.signal(&id, signal, false).await.unwrap();
        let record = pod.exit_of(&id).await;
        assert_eq!((record.exit_code, record.signal), (128 + signal, Some(signal)));
    }
    let id = pod.start(pod.config(&Plan::shell("exec sleep 1000"))).await;
    for signal in [0, 65, -1] {
        assert_eq!(
            pod.client.signal(&id, signal, false).await.unwrap_err().kind(),
            Kind::InvalidArgument
        );
    }
    pod.end().await;
}

#[tokio::test]
async fn a_container_may_die_at_its_gate() {
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    let id = ContainerId::random();
    pod.client
        .create(&id, pod.config(&Plan::shell("echo never")))
        .await
        .unwrap();
    pod.client.signal(&id, 9, false).await.unwrap();
    let record = pod.exit_of(&id).await;
    assert_eq!((record.exit_code, record.started_at), (137, 0));
    assert_eq!(
        pod.client.start(&id).await.unwrap_err().error.kind(),
        Kind::FailedPrecondition
    );
    pod.end().await;
}

#[tokio::test]
async fn launches_that_fail_say_why() {
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    let id = ContainerId::random();
    let rubbish = CreateContainer {
        plan_json: b"rubbish".to_vec(),
        ..pod.config(&Plan::default())
    };
    assert_eq!(
        pod.client.create(&id, rubbish).await.unwrap_err().error.kind(),
        Kind::InvalidArgument
    );
    let dies = Plan {
        die: true,
        ..Plan::shell("true")
    };
    assert!(pod.client.create(&id, pod.config(&dies)).await.is_err());
    let no_log = CreateContainer {
        log_path: Some("/nonexistent/0.log".into()),
        ..pod.config(&Plan::shell("true"))
    };
    let error = pod.client.create(&id, no_log).await.unwrap_err();
    assert!(error.error.message().contains("/nonexistent/0.log"), "{error:?}");
    assert!(
        pod.client.state().await.unwrap().containers.is_empty(),
        "nothing half-made is left"
    );

    let missing = Plan {
        args: vec!["/nonexistent/program".into()],
        ..Plan::default()
    };
    pod.client.create(&id, pod.config(&missing)).await.unwrap();
    let failure = pod.client.start(&id).await.unwrap_err();
    assert_eq!((failure.exit_code, failure.step.as_str()), (Some(127), "exec"));
    let record = pod.exit_of(&id).await;
    assert_eq!(
        (record.exit_code, record.start_error.as_str()),
        (127, "no such program")
    );
    assert_eq!(ExitRecord::read(&pod.record()).unwrap(), Some(record));
    pod.client.shutdown(false).await.unwrap();
}

#[tokio::test]
async fn a_restarted_daemon_finds_everything() {
    let pod = Pod::spawn(&launcher().await, |_| {}).await;
    let runs = pod.start(pod.config(&Plan::shell("exec sleep 1000"))).await;
    let mut config = pod.config(&Plan::shell("read go; echo late; exit 5"));
    (config.stdin, config.log_path) = (true, Some(pod.run_dir().join("1.log")));
    let ends = pod.start(config).await;
    let stdin = pod
        .client
        .attach(&ends, None, None, true)
        .await
        .unwrap()
        .stdin
        .unwrap();
    let pids = |state: &supervisor::protocol::State| -> Vec<i32> {
        state.containers.iter().map(|c| c.pid).collect()
    };
    let before = pids(&pod.client.state().await.unwrap());
    let greeting = pod.client.greeting().clone();

    let Pod {
        client,
        events,
        dir,
        guard: _guard,
    } = pod;
    drop((client, events));
    std::fs::File::from(stdin).write_all(b"go\n").unwrap();
    let record = dir.path().join("exit.json");
    wait_until("the exit is on disk though no daemon listens", || record.exists()).await;

    let client = Client::connect(dir.path()).await.unwrap();
    assert_eq!(client.greeting(), &greeting);
    let state = client.state().await.unwrap();
    assert_eq!(pids(&state), before);
    let of = |id: &ContainerId| state.containers.iter().find(|c| c.id == *id).unwrap();
    assert_eq!(of(&runs).phase, Phase::Running);
    assert_eq!(of(&ends).exit.as_ref().map(|e| e.exit_code), Some(5));
    assert_eq!(lines(&dir.path().join("1.log"), "stdout"), ["late"]);

    // Two daemons at once, as at a hand-over: both hear.
    let mut one = client.events().unwrap();
    let second = Client::connect(dir.path()).await.unwrap();
    let mut other = second.events().unwrap();
    second.signal(&runs, 9, false).await.unwrap();
    for events in [&mut one, &mut other] {
        let Some(Event::ContainerExited(id, record)) = events.recv().await else {
            panic!()
        };
        assert_eq!((id, record.exit_code), (runs.clone(), 137));
    }
    client.shutdown(true).await.unwrap();
}

#[tokio::test]
async fn oom_kills_are_in_the_first_word_of_the_end() {
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    let counter = pod.run_dir().join("memory.events");
    std::fs::write(&counter, "oom 0\noom_kill 0\n").unwrap();
    let script = format!(
        "printf 'oom 1\\noom_kill 2\\n' > {}; kill -9 $$",
        counter.display()
    );
    let mut config = pod.config(&Plan::shell(&script));
    config.oom_counter_path = Some(counter);
    let id = pod.start(config).await;
    let record = pod.exit_of(&id).await;
    assert!(record.oom_killed);
    assert!(ExitRecord::read(&pod.record()).unwrap().unwrap().oom_killed);
    pod.end().await;
}

#[tokio::test]
async fn a_large_plan_arrives_whole() {
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    let plan = Plan {
        padding: "x".repeat(2_000_000),
        ..Plan::shell("echo ok")
    };
    let id = pod.start(pod.config(&plan)).await;
    pod.exit_of(&id).await;
    assert_eq!(lines(&pod.log(), "stdout"), ["ok"]);
    pod.end().await;
}

#[tokio::test]
async fn rubbish_on_a_connection_ends_that_connection_only() {
    let pod = Pod::spawn(&launcher().await, |_| {}).await;
    let (_dir, address) = supervisor::address(pod.run_dir()).unwrap();
    let family = rustix::net::AddressFamily::UNIX;
    let socket = rustix::net::socket(family, rustix::net::SocketType::SEQPACKET, None).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    rustix::io::write(&socket, &[0xff; 100]).unwrap();
    let mut buffer = vec![0; 4096];
    // Its greeting, then the end.
    assert_ne!(rustix::io::read(&socket, &mut *buffer).unwrap(), 0);
    assert!(matches!(
        rustix::io::read(&socket, &mut *buffer),
        Ok(0) | Err(rustix::io::Errno::CONNRESET)
    ));
    pod.client.state().await.unwrap();
    pod.end().await;
}

#[tokio::test]
async fn a_forced_shutdown_kills_and_tells() {
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    let id = pod.start(pod.config(&Plan::shell("exec sleep 1000"))).await;
    pod.client.shutdown(true).await.unwrap();
    assert_eq!(pod.exit_of(&id).await.exit_code, 137);
    pod.client.closed().await;
    assert_eq!(ExitRecord::read(&pod.record()).unwrap().unwrap().exit_code, 137);
}

#[tokio::test]
async fn a_supervisor_that_stands_still_holds_nobody_up_and_can_be_ended() {
    let pod = Pod::spawn(&launcher().await, |_| {}).await;
    let pid = nix::unistd::Pid::from_raw(pod.client.greeting().pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let limit = Duration::from_millis(100);
    let signal = Op::Signal {
        container: ContainerId::random(),
        signal: 15,
        all: true,
    };
    let error = pod
        .client
        .done_within(signal, Vec::new(), limit)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.message().contains("stopped"), "{error}");
    let id = ContainerId::random();
    let attaching = pod.client.attach_within(&id, [None, None], true, limit);
    let error = tokio::time::timeout(Duration::from_secs(20), attaching).await;
    assert_eq!(
        error.expect("it does not end").unwrap_err().kind(),
        Kind::Unavailable
    );
    pod.client.shutdown_within(true, limit).await.unwrap();
    wait_until("the supervisor's end", || !pod.client.is_alive()).await;
}

#[tokio::test]
async fn a_supervisor_is_taken_over_while_it_stands_still() {
    use nix::sys::signal::{Signal, kill};
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    let id = pod.start(pod.config(&Plan::shell("exec sleep 1000"))).await;
    let greeting = pod.client.greeting().clone();
    let pid = nix::unistd::Pid::from_raw(greeting.pid);
    kill(pid, Signal::SIGSTOP).unwrap();
    let take_over = || Client::take_over(pod.run_dir(), &greeting.pod_id, greeting.pid);
    let client = take_over().unwrap();
    let error = client.state_within(Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(client.is_alive() && !client.is_closed() && !client.has_greeted());
    // A daemon that comes back again and again fills its queue of connections, and that is no absence either.
    let more: Vec<_> = (0..200).map(|_| take_over().unwrap()).collect();
    kill(pid, Signal::SIGCONT).unwrap();
    let state = client.state().await.unwrap();
    assert_eq!(state.containers[0].id, id);
    assert_eq!(client.greeting(), &greeting);
    drop(more);
    client.signal(&id, 9, false).await.unwrap();
    assert_eq!(pod.exit_of(&id).await.exit_code, 137);
    let mut events = client.events().unwrap();
    let Some(Event::ContainerExited(..)) = events.recv().await else {
        panic!("the end is not told to who took the supervisor over")
    };

    client.shutdown(true).await.unwrap();
    wait_until("the supervisor's end", || !client.is_alive()).await;
    let gone = Client::take_over(pod.run_dir(), &greeting.pod_id, greeting.pid).unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound, "{gone}");
}

#[tokio::test]
async fn a_supervisor_that_never_greeted_can_be_ended() {
    let pod = Pod::spawn(&launcher().await, |_| {}).await;
    let greeting = pod.client.greeting().clone();
    let pid = nix::unistd::Pid::from_raw(greeting.pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let client = Client::take_over(pod.run_dir(), &greeting.pod_id, greeting.pid).unwrap();
    let limit = Duration::from_millis(100);
    client.shutdown_within(true, limit).await.unwrap();
    wait_until("the supervisor's end", || !client.is_alive()).await;
    client.closed().await;
}
