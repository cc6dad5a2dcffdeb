//! CPU, memory and process limits, as the kernel has them.

use anyhow::{Result, ensure};
use husk_e2e::config::{ContainerConfigExt, sleeper};
use husk_e2e::process::cgroup_value;
use husk_e2e::{process, run};

#[tokio::test]
async fn limits_are_in_the_cgroup_and_in_the_status() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("limits")).await?;
        let config = sleeper("main", &image).limited(|r| {
            r.cpu_period = 100_000;
            r.cpu_quota = 50_000;
            r.cpu_shares = 512;
            r.memory_limit_in_bytes = 64 << 20;
            r.cpuset_cpus = "0".into();
            r.oom_score_adj = 500;
        });
        let wanted = config.linux.clone().and_then(|l| l.resources).unwrap_or_default();
        let id = husk.cri.launch(&pod, config).await?;
        let pid = husk.cri.pid(&id).await?;
        let memory = cgroup_value(pid, "memory", "memory.limit_in_bytes", "memory.max")?;
        ensure!(memory == (64 << 20).to_string(), "memory {memory}");
        if process::is_v2() {
            let max = cgroup_value(pid, "cpu", "", "cpu.max")?;
            ensure!(max == "50000 100000", "cpu.max {max}");
        } else {
            let quota = cgroup_value(pid, "cpu", "cpu.cfs_quota_us", "")?;
            let period = cgroup_value(pid, "cpu", "cpu.cfs_period_us", "")?;
            let shares = cgroup_value(pid, "cpu", "cpu.shares", "")?;
            ensure!((quota.as_str(), period.as_str(), shares.as_str()) == ("50000", "100000", "512"));
        }
        let cpus = cgroup_value(pid, "cpuset", "cpuset.cpus", "cpuset.cpus")?;
        ensure!(cpus == "0", "cpuset {cpus}");
        let score = String::from_utf8(process::file(pid, "oom_score_adj"))?;
        ensure!(score.trim() == "500", "oom_score_adj {score}");
        let told = husk
            .cri
            .status(&id)
            .await?
            .resources
            .and_then(|r| r.linux)
            .unwrap_or_default();
        for (what, told, wanted) in [
            ("period", told.cpu_period, wanted.cpu_period),
            ("quota", told.cpu_quota, wanted.cpu_quota),
            ("shares", told.cpu_shares, wanted.cpu_shares),
            ("memory", told.memory_limit_in_bytes, wanted.memory_limit_in_bytes),
        ] {
            ensure!(told == wanted, "{what}: status says {told}, not {wanted}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn without_limits_there_are_none() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("unlimited")).await?;
        let id = husk.cri.launch(&pod, sleeper("main", &image)).await?;
        let memory = cgroup_value(
            husk.cri.pid(&id).await?,
            "memory",
            "memory.limit_in_bytes",
            "memory.max",
        )?;
        ensure!(
            memory == "max" || memory.parse::<u64>()? > 1 << 60,
            "memory {memory}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_score_that_may_not_be_lowered_is_no_reason_to_fail() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("score")).await?;
        // kubelet gives guaranteed pods -997; lowering a score needs CAP_SYS_RESOURCE.
        let id = husk
            .cri
            .launch(&pod, sleeper("main", &image).limited(|r| r.oom_score_adj = -997))
            .await?;
        let score = String::from_utf8(process::file(husk.cri.pid(&id).await?, "oom_score_adj"))?;
        let own = String::from_utf8(process::file(husk.pid()?, "oom_score_adj"))?;
        ensure!(score.trim() == "-997" || score == own, "oom_score_adj {score}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_container_has_a_cgroup_of_its_own_and_cannot_leave_it() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("leaf")).await?;
        let one = husk.cri.launch(&pod, sleeper("one", &image)).await?;
        let two = husk.cri.launch(&pod, sleeper("two", &image)).await?;
        let dirs = [
            process::cgroup_dir(husk.cri.pid(&one).await?, "memory")?,
            process::cgroup_dir(husk.cri.pid(&two).await?, "memory")?,
        ];
        ensure!(dirs[0] != dirs[1] && dirs[0].parent() == dirs[1].parent(), "{dirs:?}");
        let parent = husk.cgroup_parent();
        ensure!(dirs[0].to_string_lossy().contains(&parent), "{} is not below {parent}", dirs[0].display());
        let text = "for f in $(find /sys/fs/cgroup -name cgroup.procs); do (echo 0 > $f) 2>/dev/null && echo $f; done";
        let reply = husk.cri.exec_sync(&one, &["sh", "-c", text], 60).await?;
        ensure!(reply.stdout.is_empty(), "writable: {}", String::from_utf8_lossy(&reply.stdout));
        let pid = husk.cri.pid(&one).await?;
        let supervisor = process::cgroup_dir(process::parent(pid)?, "memory")?;
        let pod_dir = dirs[0].parent().map(std::path::Path::to_owned).unwrap_or_default();
        ensure!(!supervisor.starts_with(&pod_dir), "the supervisor is within the pod's limits");
        Ok(())
    })
    .await
}
