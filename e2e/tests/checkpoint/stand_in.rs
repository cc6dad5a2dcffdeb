//! What is husk's part in a checkpoint, with a program that plays criu's.

use super::*;

/// Plays criu's part in the conversation, on any node. What it restores is a process that says so on the container's
/// stdout and ends with 7 at SIGTERM. `$ANSWER` is what it does instead of obeying.
const STAND_IN: &str = r#"#!/bin/sh
[ "$1" = --version ] && { echo "Version: stand-in"; exit; }
[ "$1" = check ] && exit
socket=$2
hear() { dd bs=65536 count=1 <&$socket 2>/dev/null | od -An -tx1 | tr -d ' \n'; }
say() { printf "$1" >&$socket; }
octal() { printf '\\%03o' "$1"; }
request=$(hear)
ANSWER
case $request in
0801*)
  # NOTIFY, "post-dump"; then the answer that it is done.
  say '\010\006\020\001\052\013\012\011post-dump'
  case $(hear) in *1801*) say '\010\001\020\001' ;; *) say '\010\001\020\000' ;; esac ;;
0802*)
  (exec 3>&- ; echo restored >&5; trap 'exit 7' TERM; while :; do sleep 0.1; done) &
  number=$! pid=
  length=1
  while [ $number -ge 128 ]; do
    pid=$pid$(octal $((number % 128 + 128))) number=$((number / 128)) length=$((length + 1))
  done
  say "\010\002\020\001\042$(octal $((length + 1)))\010$pid$(octal $number)" ;;
esac
"#;

/// Runs a test with a stand-in for criu that does `answer` instead of obeying, if that is not empty.
async fn with_stand_in(answer: &str, test: impl AsyncFnOnce(&mut Husk) -> Result<()>) -> Result<()> {
    let dir = tempfile::tempdir_in(husk_e2e::base_dir())?;
    let program = dir.path().join("criu");
    std::fs::write(&program, STAND_IN.replace("ANSWER", answer))?;
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let options = Options::new().builtin_network().toml(&format!(
        "[checkpoint]\nlevel = \"restore\"\ncriu = {:?}\n",
        program.display().to_string()
    ));
    run_with(options, test).await
}

#[tokio::test]
async fn whatever_criu_writes_the_rest_is_there_and_what_it_makes_is_the_container() -> Result<()> {
    with_stand_in("", async |husk| {
        let image = husk.busybox().await?;
        let pod = own_network(husk, "stand-in").await?;
        let id = husk.cri.launch(&pod, counter("counter", &image)).await?;
        counted(husk, &id).await?;
        let location = husk.dir().join("checkpoint.tar");
        checkpoint(husk, &id, &location).await?;
        let listed = names(&location)?;
        for name in [
            "config.dump",
            "spec.dump",
            "status",
            "rootfs-diff.tar",
            "checkpoint/descriptors.json",
        ] {
            ensure!(
                listed.iter().any(|l| l == name),
                "{name} is missing in {listed:?}"
            );
        }
        let unpacked = husk.share("unpacked")?;
        let status = Command::new("tar")
            .arg("xf")
            .arg(&location)
            .arg("-C")
            .arg(&unpacked)
            .status()?;
        ensure!(status.success());
        let changes = names(&unpacked.join("rootfs-diff.tar"))?;
        for name in ["begun", "count", "etc/.wh.passwd"] {
            ensure!(
                changes.iter().any(|l| l == name),
                "{name} is missing in {changes:?}"
            );
        }
        husk.cri.remove(&id).await?;

        let again = restored("again", &location.display().to_string());
        let again = husk.cri.create(&pod, again).await?;
        let waiting = husk.cri.pid(&again).await?;
        husk.cri.start(&again).await?;
        let pid = husk.cri.pid(&again).await?;
        ensure!(
            pid != waiting && process::alive(pid),
            "the helper is still taken for the container"
        );
        let log = husk.cri.status(&again).await?.log_path;
        eventually("it says so", async || {
            let log = logs::read(log.as_ref())?;
            Ok((log.len() == 1 && log[0].text == b"restored").then_some(()))
        })
        .await?;
        let cgroup = process::cgroup_dir(pid, "memory")?;
        ensure!(cgroup.to_string_lossy().contains(&again), "{cgroup:?}");
        husk.cri.stop(&again, 10).await?;
        let status = husk.cri.status(&again).await?;
        ensure!(status.exit_code == 7 && status.reason == "Error", "{status:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_criu_that_fails_leaves_the_container_as_it_was() -> Result<()> {
    for (answer, words) in [
        // It refuses; it dies; it ends before it has dumped; it talks nonsense.
        (r"say '\010\001\020\000\112\004oops'; exit 1", "oops"),
        ("kill -9 $$", "without an answer"),
        ("exit 0", "without an answer"),
        ("say nonsense; exit 0", "understand criu's answer"),
    ] {
        with_stand_in(answer, async |husk| {
            let image = husk.busybox().await?;
            let pod = own_network(husk, "fails").await?;
            let id = husk.cri.launch(&pod, counter("counter", &image)).await?;
            let location = husk.dir().join("checkpoint.tar");
            let refused = checkpoint(husk, &id, &location).await.refused()?;
            ensure!(refused.message().contains(words), "{answer}: {refused:?}");
            ensure!(!location.exists(), "something was written");
            let seen = counted(husk, &id).await?;
            eventually("it goes on", async || {
                Ok((counted(husk, &id).await? > seen).then_some(()))
            })
            .await?;
            // What a restore needs, without a checkpoint that came to be.
            let archive = Layer::new()
                .file("config.dump", format!(r#"{{"rootfsImage":{image:?}}}"#), 0o644)
                .file("spec.dump", r#"{"ociVersion":"1.2.0"}"#, 0o644)
                .dir("checkpoint/")
                .compressed(husk_e2e::image::Compression::None);
            let built = Image::new().layer(archive).build()?;
            std::fs::write(&location, &built.layers[0].data)?;
            let lost = restored("lost", &location.display().to_string());
            let lost = husk.cri.create(&pod, lost).await?;
            let refused = husk.cri.start(&lost).await.refused()?;
            ensure!(refused.message().contains(words), "{answer}: {refused:?}");
            let status = husk.cri.status(&lost).await?;
            ensure!(
                status.reason == "StartError" && status.exit_code == 128,
                "{answer}: {status:?}"
            );
            Ok(())
        })
        .await
        .with_context(|| answer.to_owned())?;
    }
    Ok(())
}

#[tokio::test]
async fn a_limit_answers_and_the_dump_is_brought_to_its_end() -> Result<()> {
    with_stand_in("sleep 3", async |husk| {
        let image = husk.busybox().await?;
        let pod = own_network(husk, "limit").await?;
        let id = husk.cri.launch(&pod, counter("counter", &image)).await?;
        let location = husk.dir().join("checkpoint.tar");
        let request = CheckpointContainerRequest {
            container_id: id.clone(),
            location: location.display().to_string(),
            timeout: 1,
        };
        let late = husk.cri.runtime().checkpoint_container(request).await;
        late.refused_with(Code::DeadlineExceeded)?;
        eventually("it is written all the same", async || {
            Ok(location.exists().then_some(()))
        })
        .await
    })
    .await
}
