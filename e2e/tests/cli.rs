//! The command line: what people on a node type.

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{script, sleeper};
use husk_e2e::husk::shared_busybox;
use husk_e2e::{eventually, run};
use serde_json::Value;

/// The cells of a table's first row, by the names in its head.
fn row(table: &str) -> Result<Vec<(String, String)>> {
    let mut lines = table.lines();
    let (head, first) = (lines.next().context("no head")?, lines.next().context("no row")?);
    let mut starts: Vec<usize> = head
        .char_indices()
        .filter(|&(at, c)| c != ' ' && (at == 0 || head[..at].ends_with("  ")))
        .map(|(at, _)| at)
        .collect();
    starts.push(usize::MAX);
    let cut = |line: &str, from: usize, to: usize| {
        let letters = line.chars().skip(from).take(to.saturating_sub(from));
        letters.collect::<String>().trim().to_owned()
    };
    Ok(starts
        .windows(2)
        .map(|w| (cut(head, w[0], w[1]), cut(first, w[0], w[1])))
        .collect())
}

#[tokio::test]
async fn a_walk_from_pull_to_rmi() -> Result<()> {
    run(async |husk| {
        let reference = shared_busybox()?;
        let id = husk.cli(&["pull", "--quiet", &reference]).await?.fine()?;
        let image = husk.cri.image(&reference).await?.context("not pulled")?;
        ensure!(id.trim() == image.id, "pull --quiet says {id}");
        let table = husk.cli(&["images"]).await?.fine()?;
        let cells = row(&table)?;
        ensure!(
            cells.iter().any(|(_, cell)| cell.contains("base/busybox")),
            "{table}"
        );
        let json: Value = serde_json::from_str(&husk.cli(&["images", "--json"]).await?.fine()?)?;
        ensure!(json[0]["id"] == image.id.as_str(), "{json}");

        let pod = husk.cri.pod(husk.pod_config("walk")).await?;
        let text =
            "echo one; echo two; echo three >&2; trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";
        let container = husk.cri.launch(&pod, script("main", &reference, text)).await?;
        ensure!(husk.cli(&["pods"]).await?.fine()?.contains("walk"));
        ensure!(husk.cli(&["pods", "-q"]).await?.fine()?.trim() == pod.id);
        let table = husk.cli(&["ps"]).await?.fine()?;
        ensure!(row(&table)?.iter().any(|(_, cell)| cell == "main"), "{table}");
        let json: Value = serde_json::from_str(&husk.cli(&["ps", "--json"]).await?.fine()?)?;
        ensure!(json[0]["id"] == container.as_str(), "{json}");

        // By the whole id, the beginning of the id, and the name.
        for name in [container.as_str(), &container[..12], "main"] {
            let output = husk
                .cli(&["exec", name, "sh", "-c", "echo out; echo err >&2; exit 7"])
                .await?;
            ensure!(
                output.code == Some(7) && output.stdout == "out\n" && output.stderr == "err\n",
                "{output:?}"
            );
        }
        eventually("the log", async || {
            let log = husk.cli(&["logs", "main"]).await?;
            Ok((log.stdout == "one\ntwo\n" && log.stderr == "three\n").then_some(()))
        })
        .await?;
        let json: Value = serde_json::from_str(&husk.cli(&["inspect", "main"]).await?.fine()?)?;
        ensure!(json.to_string().contains(&container), "{json}");

        husk.cli(&["stop", "main"]).await?.fine()?;
        ensure!(husk.cli(&["ps", "-q"]).await?.fine()?.trim().is_empty());
        ensure!(husk.cli(&["ps", "--all", "-q"]).await?.fine()?.trim() == container);
        husk.cli(&["rm", "main"]).await?.fine()?;
        husk.cli(&["stop", &pod.id]).await?.fine()?;
        husk.cli(&["rm", &pod.id]).await?.fine()?;
        husk.cli(&["rmi", &reference]).await?.fine()?;
        ensure!(husk.cli(&["images", "-q"]).await?.fine()?.trim().is_empty());
        ensure!(husk.cri.list_pods(None).await?.is_empty());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_running_is_not_removed_by_mistake() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("kept")).await?;
        let container = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        husk.cli(&["rm", &container]).await?.failed()?;
        ensure!(husk.cri.list(None).await?.len() == 1, "it was removed");
        husk.cli(&["rm", "--force", &container]).await?.fine()?;
        ensure!(husk.cri.list(None).await?.is_empty());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_followed_log_ends_with_its_container() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("followed")).await?;
        let text = "for i in 1 2 3 4 5; do echo $i; sleep 0.1; done";
        husk.cri.launch(&pod, script("main", &image, text)).await?;
        ensure!(husk.cli(&["logs", "--follow", "main"]).await?.fine()? == "1\n2\n3\n4\n5\n");
        ensure!(husk.cli(&["logs", "--tail", "2", "main"]).await?.fine()? == "4\n5\n");
        let stamped = husk
            .cli(&["logs", "--timestamps", "--tail", "1", "main"])
            .await?
            .fine()?;
        ensure!(
            stamped.starts_with("20") && stamped.ends_with(" 5\n"),
            "{stamped}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn mistakes_are_explained() -> Result<()> {
    run(async |husk| {
        for (arguments, wanted) in [
            (vec!["pull", "not a reference"], "not a reference"),
            (vec!["pull", "127.0.0.1:1/no/such:image"], "127.0.0.1:1"),
            (vec!["logs", "no-such-container"], "no-such-container"),
            (vec!["exec", "no-such-container", "true"], "no-such-container"),
            (vec!["inspect", "no-such-thing"], "no-such-thing"),
            (vec!["stop", "no-such-thing"], "no-such-thing"),
            (vec!["rm", "no-such-thing"], "no-such-thing"),
            (vec!["rmi", "no-such/image"], "no-such/image"),
            (vec!["ps", "--no-such-flag"], "--no-such-flag"),
            (vec!["no-such-command"], "no-such-command"),
            (vec!["ps", "--socket", "/no/such/socket"], "/no/such/socket"),
        ] {
            let said = husk
                .cli(&arguments)
                .await?
                .failed()
                .with_context(|| format!("{arguments:?}"))?;
            ensure!(said.contains(wanted), "{arguments:?}: {said}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_daemon_that_cannot_start_says_why() -> Result<()> {
    run(async |husk| {
        let dir = husk.share("serve")?;
        let config = dir.join("config.toml");
        std::fs::write(&config, "[network]\nbuiltn = true\n")?;
        let (config, file) = (
            config.display().to_string(),
            dir.join("file").display().to_string(),
        );
        std::fs::write(&file, "in the way")?;
        // What starts late enough to have made something takes it away again.
        let late = dir.join("late.toml").display().to_string();
        std::fs::write(
            &late,
            format!("[cgroup]\nparent = \"{}/late\"\n", husk.cgroup_parent()),
        )?;
        let below = format!("{file}/below");
        let free = |name: &str| dir.join(name).display().to_string();
        let (root, run) = (free("root"), free("run"));
        let long = format!("{run}/{}", "s".repeat(120));
        for (arguments, wanted) in [
            (vec!["--config", "/no/such/config.toml"], "/no/such/config.toml"),
            (vec!["--config", &config], "builtin"),
            (vec!["--root", &below, "--run", &run], below.as_str()),
            (vec!["--root", &root, "--run", &below], &below),
            (
                vec![
                    "--config", &late, "--root", &root, "--run", &run, "--socket", &long,
                ],
                &long,
            ),
            (
                vec!["--root", &root, "--run", &run, "--cgroup-driver", "none"],
                "none",
            ),
            (vec!["--root", "relative", "--run", &run], "relative"),
        ] {
            let all = [vec!["serve"], arguments.clone()].concat();
            let said = husk
                .cli(&all)
                .await?
                .failed()
                .with_context(|| format!("{arguments:?}"))?;
            ensure!(said.contains(wanted), "{arguments:?}: {said}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_demo_holds_and_leaves_nothing() -> Result<()> {
    run(async |husk| {
        let dir = husk.share("demo")?;
        let said = husk
            .cli(&["demo", "--dir", &dir.display().to_string()])
            .await?
            .fine()?;
        ensure!(said.lines().count() > 10, "{said}");
        let left: Vec<_> = std::fs::read_dir(&dir)?.flatten().map(|e| e.path()).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
}
