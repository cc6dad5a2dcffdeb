//! Output: logs, terminals, attached clients.
#![allow(clippy::unwrap_used)]

use super::*;

#[tokio::test]
async fn a_survivor_with_the_pipe_open_delays_nothing_and_is_still_logged() {
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    let fifo = pod.run_dir().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!("(read x < {}; echo late) & echo early; exit 0", fifo.display());
    let id = pod.start(pod.config(&Plan::shell(&script))).await;
    assert_eq!(pod.exit_of(&id).await.exit_code, 0);
    assert_eq!(lines(&pod.log(), "stdout"), ["early"]);
    std::fs::write(&fifo, "x\n").unwrap();
    wait_until("the survivor's words are logged", || {
        lines(&pod.log(), "stdout").len() == 2
    })
    .await;
    assert_eq!(lines(&pod.log(), "stdout")[1], "late");
    // It was orphaned and has ended: the supervisor adopts and reaps.
    let pid = pod.client.greeting().pid;
    let threads = PathBuf::from(format!("/proc/{pid}/task/{pid}/children"));
    wait_until("no zombie", || {
        std::fs::read_to_string(&threads).unwrap().is_empty()
    })
    .await;
    pod.end().await;
}

#[tokio::test]
async fn a_flood_is_logged_to_the_last_byte_across_rotations() {
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    let id = pod
        .start(pod.config(&Plan::shell(
            "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done",
        )))
        .await;
    let mut parts = Vec::new();
    for n in 0..10 {
        let part = pod.run_dir().join(format!("0.log.{n}"));
        std::fs::rename(pod.log(), &part).unwrap();
        pod.client.reopen_log(&id).await.unwrap();
        parts.push(part);
        tokio::task::yield_now().await;
    }
    assert_eq!(pod.exit_of(&id).await.exit_code, 0);
    parts.push(pod.log());
    let all: Vec<String> = parts.iter().flat_map(|part| lines(part, "stdout")).collect();
    let expected: Vec<String> = (0..20000).map(|i| i.to_string()).collect();
    assert!(all == expected, "{} of {}", all.len(), expected.len());
    pod.end().await;
}

#[tokio::test]
async fn terminals() {
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    let plan = Plan {
        tty: true,
        ..Plan::shell("tty -s && read line && echo \"got $line\"; stty size")
    };
    let mut config = pod.config(&plan);
    config.stdin = true;
    let id = pod.start(config).await;
    pod.client.resize_tty(&id, "", 33, 99).await.unwrap();
    let (stdout, theirs) = pipe();
    let attached = pod.client.attach(&id, Some(theirs), None, true).await.unwrap();
    assert!(attached.tty);
    std::fs::File::from(attached.stdin.unwrap())
        .write_all(b"hello\n")
        .unwrap();
    assert_eq!(pod.exit_of(&id).await.exit_code, 0);
    let logged = lines(&pod.log(), "stdout");
    assert!(
        logged.iter().any(|l| l == "got hello\r") && logged.iter().any(|l| l == "33 99\r"),
        "{logged:?}"
    );
    let shown = read_all(stdout).await;
    assert!(shown.contains("got hello\r\n"), "{shown:?}");

    let id = pod.start(pod.config(&Plan::shell("exec sleep 1000"))).await;
    let exec = Exec {
        exec_id: "shell".into(),
        plan_json: Plan {
            tty: true,
            ..Plan::shell("read go; stty size")
        }
        .json(),
        tty: true,
        ..Exec::default()
    };
    let (_, console) = pod.client.exec(&id, exec, ExecStdio::default()).await.unwrap();
    pod.client.resize_tty(&id, "shell", 5, 7).await.unwrap();
    let mut console = std::fs::File::from(console.unwrap());
    console.write_all(b"go\n").unwrap();
    assert_eq!(pod.exec_exit().await.exit_code, 0);
    let mut shown = [0; 256];
    let mut text = String::new();
    while let Ok(n) = console.read(&mut shown) {
        text.push_str(&String::from_utf8_lossy(&shown[..n]));
    }
    assert!(text.contains("5 7"), "{text:?}");
    assert_eq!(
        pod.client.resize_tty(&id, "", 1, 1).await.unwrap_err().kind(),
        Kind::FailedPrecondition
    );
    pod.end().await;
}

#[tokio::test]
async fn attached_clients_see_and_feed_a_container() {
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    let mut config = pod.config(&Plan::shell(
        "while read x; do echo $x; echo $x >&2; done; echo bye",
    ));
    (config.stdin, config.stdin_once) = (true, true);
    let id = ContainerId::random();
    pod.client.create(&id, config).await.unwrap();
    // Attached before the start, so that nothing is missed; a second one only looks on.
    let ((out, out_theirs), (err, err_theirs), (onlooker, onlooker_theirs)) = (pipe(), pipe(), pipe());
    let attached = pod
        .client
        .attach(&id, Some(out_theirs), Some(err_theirs), true)
        .await
        .unwrap();
    let second = pod
        .client
        .attach(&id, Some(onlooker_theirs), None, true)
        .await
        .unwrap();
    assert!(second.stdin.is_none(), "stdin is for the first, once");
    pod.client.start(&id).await.unwrap();
    let mut stdin = std::fs::File::from(attached.stdin.unwrap());
    stdin.write_all(b"a\nb\n").unwrap();
    drop(stdin);
    assert_eq!(pod.exit_of(&id).await.exit_code, 0);
    assert_eq!(read_all(out).await, "a\nb\nbye\n");
    assert_eq!(read_all(err).await, "a\nb\n");
    assert_eq!(read_all(onlooker).await, "a\nb\nbye\n");
    assert_eq!(
        pod.client
            .attach(&id, None, None, false)
            .await
            .unwrap_err()
            .kind(),
        Kind::FailedPrecondition
    );
    pod.end().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nobody_up() {
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    let script = "read go; head -c 4000000 /dev/zero | tr '\\0' x; echo";
    let mut config = pod.config(&Plan::shell(script));
    config.stdin = true;
    let id = pod.start(config).await;
    let ((lazy, lazy_theirs), (_gone, gone_theirs)) = (pipe(), pipe());
    pod.client
        .attach(&id, Some(lazy_theirs), None, false)
        .await
        .unwrap();
    pod.client
        .attach(&id, Some(gone_theirs), None, false)
        .await
        .unwrap();
    drop(_gone);
    let stdin = pod
        .client
        .attach(&id, None, None, true)
        .await
        .unwrap()
        .stdin
        .unwrap();
    std::fs::File::from(stdin).write_all(b"go\n").unwrap();
    assert_eq!(pod.exit_of(&id).await.exit_code, 0);
    let logged: usize = lines(&pod.log(), "stdout").iter().map(String::len).sum();
    assert_eq!(logged, 4_000_000);
    assert!(
        read_all(lazy).await.len() < 4_000_000,
        "what it did not read in time it does not get"
    );
    pod.end().await;
}

#[tokio::test]
async fn stdin_ends_when_told() {
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    let mut config = pod.config(&Plan::shell("cat; echo end"));
    config.stdin = true;
    let id = pod.start(config).await;
    let stdin = pod
        .client
        .attach(&id, None, None, true)
        .await
        .unwrap()
        .stdin
        .unwrap();
    std::fs::File::from(stdin).write_all(b"word\n").unwrap();
    // The first client is gone, but without stdin_once the container still waits for others.
    let stdin = pod
        .client
        .attach(&id, None, None, true)
        .await
        .unwrap()
        .stdin
        .unwrap();
    drop(stdin);
    assert_eq!(
        pod.client.state().await.unwrap().containers[0].phase,
        Phase::Running
    );
    pod.client.close_stdin(&id).await.unwrap();
    assert_eq!(pod.exit_of(&id).await.exit_code, 0);
    assert_eq!(lines(&pod.log(), "stdout"), ["word", "end"]);
    pod.end().await;
}

#[tokio::test]
async fn a_log_that_cannot_be_written_costs_output_and_nothing_else() {
    let mut pod = Pod::spawn(&launcher().await, |_| {}).await;
    let full = CreateContainer {
        log_path: Some("/dev/full".into()),
        ..pod.config(&Plan::shell("head -c 1000000 /dev/zero; exit 6"))
    };
    let id = pod.start(full).await;
    let (mut troubles, mut record) = (Vec::new(), None);
    while record.is_none() {
        match pod.events.recv().await.unwrap() {
            Event::LogTrouble {
                container, reason, ..
            } if container == id => troubles.push(reason),
            Event::ContainerExited(which, r) if which == id => record = Some(r),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(record.unwrap().exit_code, 6);
    assert_eq!(troubles.len(), 1, "{troubles:?}");
    assert!(troubles[0].contains("/dev/full"), "{troubles:?}");
    assert_eq!(
        pod.client.state().await.unwrap().containers[0].log_dropped,
        1_000_000
    );
    pod.end().await;
}
