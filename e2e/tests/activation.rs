//! A socket that somebody else holds open, as systemd does: the daemon comes and goes, and no client is refused.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context, Result, ensure};
use husk_e2e::config::sleeper;
use husk_e2e::v1::VersionRequest;
use husk_e2e::{Cri, Husk, Options, eventually, process, run_with};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Whether a client is in the socket's queue.
fn somebody_waits(husk: &Husk) -> Result<bool> {
    let listener = husk.listener()?.as_fd();
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    Ok(poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&now))? == 1)
}

/// Whether the process has the passed socket open.
fn holds_socket(husk: &Husk, pid: i32) -> Result<bool> {
    let own = format!("/proc/self/fd/{}", husk.listener()?.as_raw_fd());
    let socket = format!("socket:[{}]", std::fs::metadata(own)?.ino());
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).context("list descriptors")?;
    let targets = descriptors
        .flatten()
        .filter_map(|d| std::fs::read_link(d.path()).ok());
    Ok(targets.into_iter().any(|t| t.as_os_str() == socket.as_str()))
}

#[tokio::test]
async fn a_call_made_while_no_daemon_runs_is_answered_by_the_next_one() -> Result<()> {
    run_with(Options::new().activated(), async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("activated")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        for gently in [false, true] {
            if gently {
                ensure!(husk.stop().await?.success());
            } else {
                husk.kill()?;
            }
            ensure!(!somebody_waits(husk)?, "a client is there before it came");
            // A client that comes only now: the connections of the others broke with the daemon that had them.
            let cri = Cri::new(&husk.socket());
            let call = tokio::spawn(async move { cri.status(&id_of(&cri).await?).await });
            eventually("the client in the queue", async || {
                ensure!(!call.is_finished(), "the call ended while no daemon was there");
                Ok(somebody_waits(husk)?.then_some(()))
            })
            .await?;
            husk.start_again().await?;
            ensure!(call.await??.id == id, "another container was told of");
        }
        Ok(())
    })
    .await
}

async fn id_of(cri: &Cri) -> Result<String> {
    let all = cri.list(None).await?;
    Ok(all.first().context("no container is listed")?.id.clone())
}

#[tokio::test]
async fn no_other_process_has_the_socket_or_is_told_of_it() -> Result<()> {
    run_with(Options::new().activated(), async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("alone")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let daemon = husk.pid()?;
        ensure!(holds_socket(husk, daemon)?, "the daemon serves on another socket");
        ensure!(husk.log().contains("passed=true"), "the log does not say so");
        let own = i32::try_from(std::process::id())?;
        let container = husk.cri.pid(&id).await?;
        let supervisor = process::parent(container)?;
        let others: Vec<_> = process::all()
            .into_iter()
            .filter(|&pid| process::parent(pid).is_ok_and(|p| p == daemon))
            .chain([supervisor, container])
            .collect();
        ensure!(others.len() > 2, "the daemon's template is not among {others:?}");
        for pid in others.into_iter().filter(|&pid| pid != daemon && pid != own) {
            let what = process::command(pid);
            ensure!(!holds_socket(husk, pid)?, "{pid} ({what}) holds the socket");
            let environment = String::from_utf8_lossy(&process::file(pid, "environ")).into_owned();
            ensure!(
                !environment.contains("LISTEN_"),
                "{pid} ({what}) has {environment}"
            );
        }
        Ok(())
    })
    .await
}

/// What cannot be served on keeps the daemon from starting, in words; what is not meant for it does not.
#[tokio::test]
async fn descriptors_that_make_no_sense_are_told_of() -> Result<()> {
    run_with(Options::new(), async |husk| {
        let second = husk.dir().join("second");
        let serve = |listen: &str| {
            let mut command = std::process::Command::new("sh");
            let script = format!("export {listen}; exec \"$0\" \"$@\" 3</dev/null");
            command.arg("-c").arg(script);
            command.arg(husk_e2e::husk::binary()?).arg("serve");
            command.arg("--config").arg(husk.dir().join("config.toml"));
            command.arg("--root").arg(second.join("root"));
            command.arg("--run").arg(second.join("run"));
            let output = command.stdin(std::process::Stdio::null()).output()?;
            anyhow::Ok((
                output.status.success(),
                String::from_utf8_lossy(&output.stderr).into_owned(),
            ))
        };
        for (listen, words) in [
            (
                "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=odd",
                "odd is no socket",
            ),
            ("LISTEN_PID=$$ LISTEN_FDS=2", "descriptor 4 (unknown)"),
            ("LISTEN_PID=$$ LISTEN_FDS=some", "LISTEN_FDS=some"),
        ] {
            let (success, said) = serve(listen)?;
            ensure!(!success && said.contains(words), "{listen}: {said}");
            ensure!(!said.contains("panicked"), "{listen}: {said}");
        }
        ensure!(!second.exists(), "a daemon that could not start made {second:?}");
        // Of another process: the daemon starts as ever, as far as the lock that the first one holds.
        let mut command = std::process::Command::new(husk_e2e::husk::binary()?);
        command.args(["serve", "--run"]).arg(husk.dir().join("run"));
        command.env("LISTEN_PID", "1").env("LISTEN_FDS", "some");
        let output = command.stdin(std::process::Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.contains("another husk uses this run directory"), "{said}");
        husk.cri.runtime().version(VersionRequest::default()).await?;
        Ok(())
    })
    .await
}
