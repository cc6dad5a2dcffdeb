//! Commands that cannot be executed: the cause, the same whether the container or an exec should have run it.
//!
//! OCI runtimes have causes of their own, and find them when they create the container.

use anyhow::{Result, ensure};
use husk_e2e::config::{ContainerConfigExt, container, sleeper};
use husk_e2e::husk::shared_registry;
use husk_e2e::image::{self, Entry, Kind, Layer};
use husk_e2e::{CriExt, run_on_executor};

/// Commands, the exit code a shell would give, and what has to be said.
const COMMANDS: [(&str, i32, &str); 14] = [
    ("/none", 127, "the file does not exist in the container"),
    ("/no/such/place", 127, "not even /no exists"),
    ("/etc/passwd/x", 127, "/etc/passwd is not a directory"),
    (
        "nowhere",
        127,
        "PATH is /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("/bad/dangling", 127, "symbolic link to /gone"),
    ("/bad", 126, "it is a directory"),
    ("/bad/plain", 126, "no execute permission"),
    ("/bad/text", 126, "neither a program nor a script"),
    ("/bad/crlf", 126, "Unix line endings"),
    ("/bad/script", 126, "its interpreter /usr/bin/python does not"),
    ("/bad/arm", 126, "for aarch64"),
    ("/bad/dynamic", 126, "its loader /lib64/ld-linux"),
    ("/bad/empty", 126, "empty"),
    ("/noexec/tool", 126, "it is on /noexec, which is mounted noexec"),
];

#[tokio::test]
async fn commands_that_cannot_run_name_the_cause() -> Result<()> {
    run_on_executor(async |husk| {
        let mut arm = std::fs::read("/bin/busybox")?[..4096].to_vec();
        arm[18] = 183;
        let broken = Layer::new()
            .dir("bad")
            .file("bad/plain", "#!/bin/sh\n", 0o644)
            .file("bad/text", "echo hi\n", 0o755)
            .file("bad/crlf", "#!/bin/sh\r\necho\r\n", 0o755)
            .file("bad/script", "#!/usr/bin/python\n", 0o755)
            .file("bad/arm", arm, 0o755)
            .file("bad/dynamic", std::fs::read("/bin/cat")?, 0o755)
            .file("bad/empty", "", 0o755)
            .symlink("bad/dangling", "/gone")
            .entry(Entry::new("closed", Kind::Dir).mode(0o700))
            .file("closed/tool", "#!/bin/sh\n", 0o755);
        let image = shared_registry()?.push("exec/errors", "1", &image::busybox()?.layer(broken).build()?)?;
        husk.cri.pull(&image).await?;
        let pod = husk.cri.pod(husk.pod_config("exec-errors")).await?;
        // A bind mount takes the flag along.
        let dir = husk.share("noexec")?;
        let noexec = NoExec::mount(&dir)?;
        let prepare = |config: husk_e2e::v1::ContainerConfig| config.mounted(&dir, "/noexec", |_| {});
        let id = husk.cri.launch(&pod, prepare(sleeper("main", &image))).await?;
        for (number, (command, code, part)) in COMMANDS.into_iter().enumerate() {
            let reply = husk.cri.exec_sync(&id, &[command], 60).await?;
            let said = String::from_utf8_lossy(&reply.stderr);
            ensure!(
                reply.exit_code == code && said.contains(command) && said.contains(part),
                "exec {command}: {reply:?}: {said}"
            );
            let config = prepare(container(&format!("c{number}"), &image, &[command]));
            let failing = husk.cri.create(&pod, config).await?;
            let error = husk.cri.start(&failing).await.refused()?;
            ensure!(error.message().contains(part), "start {command}: {error:?}");
            let status = husk.cri.wait_exit(&failing).await?;
            ensure!(
                status.exit_code == code && status.reason == "StartError" && status.message.contains(part),
                "start {command}: {status:?}"
            );
        }
        // Another user is told which directory stands in the way.
        let config = sleeper("user", &image).secured(|s| {
            s.run_as_user = Some(husk_e2e::v1::Int64Value { value: 1001 });
            // Up to the very last step the process has them, and CAP_DAC_OVERRIDE is one.
            s.capabilities = Some(husk_e2e::v1::Capability {
                drop_capabilities: vec!["ALL".into()],
                ..Default::default()
            });
        });
        let id = husk.cri.launch(&pod, config).await?;
        let reply = husk.cri.exec_sync(&id, &["/closed/tool"], 60).await?;
        let said = String::from_utf8_lossy(&reply.stderr);
        ensure!(
            reply.exit_code == 126
                && said.contains(
                    "this user (uid 1001) may not search the directory /closed (mode 700, owner 0:0)"
                ),
            "{reply:?}: {said}"
        );
        husk.cri.stop_pod(&pod.id).await?;
        husk.cri.remove_pod(&pod.id).await?;
        drop(noexec);
        Ok(())
    })
    .await
}

/// A tmpfs that forbids execution, with a program on it.
struct NoExec(std::path::PathBuf);

impl NoExec {
    fn mount(path: &std::path::Path) -> Result<Self> {
        use nix::mount::{MsFlags, mount};
        mount(
            Some("noexec"),
            path,
            Some("tmpfs"),
            MsFlags::MS_NOEXEC,
            Some("size=4m"),
        )?;
        let mounted = Self(path.to_owned());
        std::fs::copy("/bin/busybox", path.join("tool"))?;
        Ok(mounted)
    }
}

impl Drop for NoExec {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
