//! Container logs: the format, long and unfinished lines, rotation.

use anyhow::{Result, ensure};
use husk_e2e::config::{script, sleeper};
use husk_e2e::{CriExt, Husk, Pod, eventually, logs, run};
use tonic::Code;

async fn finished(husk: &Husk, pod: &Pod, name: &str, image: &str, text: &str) -> Result<Vec<logs::Record>> {
    let status = husk.cri.run_to_end(pod, script(name, image, text)).await?;
    logs::read(status.log_path.as_ref())
}

#[tokio::test]
async fn both_streams_are_logged_line_by_line() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("streams")).await?;
        let text = "echo one; echo two >&2; echo; printf 'three\\nfour\\n'; printf 'a b  c\\r\\n'; printf '\\377\\001\\n'";
        let log = finished(husk, &pod, "main", &image, text).await?;
        ensure!(log.iter().all(|r| r.full), "{log:?}");
        ensure!(logs::text(&log, "stdout") == b"one\n\nthree\nfour\na b  c\r\n\xff\x01\n", "{log:?}");
        ensure!(logs::text(&log, "stderr") == b"two\n", "{log:?}");
        ensure!(log.is_sorted_by(|a, b| a.time.len() != b.time.len() || a.time <= b.time), "{log:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_unfinished_last_line_is_partial() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("unfinished")).await?;
        let log = finished(husk, &pod, "main", &image, "echo whole; printf 'half'").await?;
        ensure!(
            log.len() == 2 && log[0].full && !log[1].full && log[1].text == b"half",
            "{log:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_line_written_in_pieces_is_one_line() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("pieces")).await?;
        let text = "for i in 1 2 3; do printf $i; sleep 0.1; done; echo; printf x >&2; sleep 0.1; echo y >&2";
        let log = finished(husk, &pod, "main", &image, text).await?;
        ensure!(
            logs::text(&log, "stdout") == b"123\n" && logs::text(&log, "stderr") == b"xy\n",
            "{log:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_long_line_is_split_and_can_be_put_together() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("long")).await?;
        let text =
            "head -c 40000 /dev/zero | tr '\\0' x; echo; head -c 16384 /dev/zero | tr '\\0' y; echo; echo z";
        let log = finished(husk, &pod, "main", &image, text).await?;
        let wanted = ["x".repeat(40_000), "y".repeat(16_384), "z".into(), String::new()].join("\n");
        ensure!(
            logs::text(&log, "stdout") == wanted.as_bytes(),
            "{} records",
            log.len()
        );
        ensure!(
            log.iter().all(|r| r.text.len() <= 16_384),
            "a record is longer than 16 KiB"
        );
        ensure!(
            log.iter().filter(|r| !r.full).count() >= 2,
            "{} records",
            log.len()
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_flood_of_lines_is_complete() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("flood")).await?;
        let log = finished(husk, &pod, "main", &image, "seq 1 200000").await?;
        let wanted: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
        ensure!(log.len() == 200_000, "{} lines", log.len());
        ensure!(
            logs::text(&log, "stdout") == wanted.as_bytes(),
            "the lines differ"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn rotation_neither_loses_nor_doubles_a_line() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("rotation")).await?;
        let text = "i=0; while [ ! -e /stop ]; do echo $i; i=$((i+1)); [ $((i % 50)) = 0 ] && usleep 1000; done; echo end";
        let id = husk.cri.launch(&pod, script("main", &image, text)).await?;
        let path = husk.cri.status(&id).await?.log_path;
        for n in 0..5 {
            eventually("lines to rotate", async || Ok((std::fs::metadata(&path)?.len() > 2000).then_some(()))).await?;
            std::fs::rename(&path, format!("{path}.{n}"))?;
            husk.cri.reopen_log(&id).await?;
            ensure!(std::path::Path::new(&path).exists(), "the new file must be there when the call returns");
        }
        let _ = husk.cri.exec_sync(&id, &["touch", "/stop"], 20).await;
        husk.cri.wait_exit(&id).await?;
        let mut all = Vec::new();
        for n in 0..5 {
            all.extend(logs::read(format!("{path}.{n}").as_ref())?);
        }
        all.extend(logs::read(path.as_ref())?);
        let end = all.pop();
        ensure!(end.is_some_and(|r| r.text == b"end"), "the last line is missing");
        for (n, record) in all.iter().enumerate() {
            ensure!(record.text == n.to_string().as_bytes(), "line {n} is {record:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn reopening_needs_a_running_container() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("reopen")).await?;
        let created = husk.cri.create(&pod, sleeper("created", &image)).await?;
        husk.cri
            .reopen_log(&created)
            .await
            .refused_with(Code::FailedPrecondition)?;
        let exited = husk.cri.launch(&pod, script("exited", &image, "exit 0")).await?;
        let path = husk.cri.wait_exit(&exited).await?.log_path;
        std::fs::remove_file(&path)?;
        husk.cri
            .reopen_log(&exited)
            .await
            .refused_with(Code::FailedPrecondition)?;
        ensure!(
            !std::path::Path::new(&path).exists(),
            "a file was made for a container that is not running"
        );
        husk.cri
            .reopen_log("0123456789abcdef")
            .await
            .refused_with(Code::NotFound)?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_log_path_may_have_directories() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("nested")).await?;
        let mut config = script("main", &image, "echo deep");
        config.log_path = "main/0.log".into();
        // kubelet makes the container's directory itself.
        std::fs::create_dir_all(format!("{}/main", pod.config.log_directory))?;
        let status = husk.cri.run_to_end(&pod, config).await?;
        ensure!(
            status.log_path == format!("{}/main/0.log", pod.config.log_directory),
            "{status:?}"
        );
        ensure!(logs::text(&logs::read(status.log_path.as_ref())?, "stdout") == b"deep\n");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_terminals_output_is_stdout() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("tty")).await?;
        let mut config = script(
            "main",
            &image,
            "tty; echo out; echo err >&2; [ -t 0 ] && echo terminal",
        );
        config.tty = true;
        let status = husk.cri.run_to_end(&pod, config).await?;
        let log = logs::read(status.log_path.as_ref())?;
        let text = String::from_utf8(logs::text(&log, "stdout"))?;
        ensure!(log.iter().all(|r| r.stream == "stdout"), "{log:?}");
        for wanted in ["/dev/", "out", "err", "terminal"] {
            ensure!(text.contains(wanted), "{wanted} is not in {text:?}");
        }
        Ok(())
    })
    .await
}
