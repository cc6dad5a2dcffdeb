//! CDI devices: what vendors' files say happens to the containers that name the devices.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{labels, script, sleeper};
use husk_e2e::runtimes::{pod, with_each_and};
use husk_e2e::v1::*;
use husk_e2e::{CriExt, Options, run_with};
use tonic::Code;

/// Options whose configuration names two directories of device files.
fn options(static_: &Path, dynamic: &Path) -> Options {
    Options::new().toml(&format!(
        "[container]\ncdi_dirs = [\"{}\", \"{}\"]\n",
        static_.display(),
        dynamic.display()
    ))
}

fn device(name: &str) -> CdiDevice {
    CdiDevice { name: name.into() }
}

#[tokio::test]
async fn devices_edit_the_containers_that_name_them() -> Result<()> {
    let dirs = [tempfile::tempdir()?, tempfile::tempdir()?];
    run_with(options(dirs[0].path(), dirs[1].path()), async |husk| {
        let image = husk.busybox().await?;
        let share = husk.share("cdi")?;
        std::fs::write(share.join("lib"), "vendor library")?;
        let told = share.join("told");
        let yaml = format!(
            r#"
cdiVersion: "0.6.0"
kind: vendor.com/gpu
containerEdits:
  env: ["VENDOR=all"]
  hooks:
    - hookName: createRuntime
      path: /bin/sh
      args: [sh, -c, "cat > {told}"]
    - hookName: createContainer
      path: /bin/sh
      args: [sh, -c, "b=$(sed 's/.*\"bundle\":\"\\([^\"]*\\)\".*/\\1/'); r=$(sed 's/.*\"root\":{{\"path\":\"\\([^\"]*\\)\".*/\\1/' $b/config.json); case $r in /*) ;; *) r=$b/$r;; esac; echo hooked > $r/tmp/hooked"]
      env: ["PATH=/bin:/usr/bin"]
devices:
  - name: one
    containerEdits:
      env: ["DEVICE=one"]
      deviceNodes: [{{path: /dev/vendor/zero, hostPath: /dev/zero, permissions: r}}]
      mounts: [{{hostPath: "{lib}", containerPath: /usr/lib/vendor, options: [ro, rbind]}}]
      additionalGids: [4242]
  - name: broken
    containerEdits:
      hooks: [{{hookName: createRuntime, path: /bin/sh, args: [sh, -c, "echo no such device >&2; exit 1"]}}]
"#,
            told = told.display(),
            lib = share.join("lib").display()
        );
        let pod = husk.cri.pod(husk.pod_config("cdi")).await?;
        let named = |name: &str, device_: &str| {
            let mut config = sleeper(name, &image);
            config.cdi_devices = vec![device(device_)];
            config
        };
        // A device that nobody describes is named with the directories.
        let refused = husk
            .cri
            .create(&pod, named("early", "vendor.com/gpu=one"))
            .await
            .refused_with(Code::NotFound)?;
        for part in ["vendor.com/gpu=one", &dirs[0].path().display().to_string(), &dirs[1].path().display().to_string()] {
            ensure!(refused.message().contains(part), "{refused:?}");
        }
        // The file appears while the daemon runs.
        std::fs::write(dirs[0].path().join("vendor.yaml"), &yaml)?;
        let id = husk.cri.launch(&pod, named("main", "vendor.com/gpu=one")).await?;
        let text = "echo $VENDOR $DEVICE; head -c 2 /dev/vendor/zero | od -An -tx1; cat /usr/lib/vendor; \
                    echo; id -G | tr ' ' '\\n' | grep -c 4242; cat /tmp/hooked; touch /usr/lib/vendor 2>&1 | grep -c Read-only";
        let seen = husk.cri.sh(&id, text).await?;
        ensure!(seen == "all one\n 00 00\nvendor library\n1\nhooked\n1", "{seen}");
        let user = husk.cri.status(&id).await?.user.context("no user in the status")?;
        let user = user.linux.context("no user in the status")?;
        ensure!(user.supplemental_groups.contains(&4242), "{user:?}");
        let state: serde_json::Value = serde_json::from_slice(&std::fs::read(&told)?)?;
        ensure!(
            state["id"] == id.as_str() && state["pid"] == husk.cri.pid(&id).await?,
            "{state}"
        );
        // crun says "created" a moment early.
        let exactly = husk_e2e::husk::other_runtime().is_none();
        ensure!(state["status"] == "creating" || !exactly, "{state}");
        // By annotation, and a later directory wins.
        let json = r#"{"cdiVersion":"0.5.0","kind":"vendor.com/gpu","devices":[{"name":"one","containerEdits":{"env":["DEVICE=dynamic"]}}]}"#;
        std::fs::write(dirs[1].path().join("plugin.json"), json)?;
        let mut config = script("annotated", &image, "echo $DEVICE; exec sleep 1000");
        config.annotations = labels(&[("cdi.k8s.io/plugin_dev", "vendor.com/gpu=one")]);
        let id = husk.cri.launch(&pod, config).await?;
        let dynamic = husk.cri.sh(&id, "echo $DEVICE; ls -d /dev/vendor 2>/dev/null; true").await?;
        ensure!(dynamic == "dynamic", "{dynamic}");
        // A hook that fails fails the creation, with what it said.
        let refused = husk
            .cri
            .create(&pod, named("broken", "vendor.com/gpu=broken"))
            .await
            .refused()?;
        // crun does not pass on what it said.
        let words = if exactly { "no such device" } else { "hook" };
        ensure!(refused.message().contains(words), "{refused:?}");
        let bad = husk.cri.create(&pod, named("bad", "gpu0")).await;
        bad.refused_with(Code::InvalidArgument).context("no name of a device")?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn oci_runtimes_give_the_same_devices() -> Result<()> {
    let dirs = [tempfile::tempdir()?, tempfile::tempdir()?];
    let options = options(dirs[0].path(), dirs[1].path());
    with_each_and(options, async |husk, handler| {
        let image = husk.busybox().await?;
        let share = husk.share("cdi")?;
        std::fs::write(share.join("lib"), "vendor library")?;
        let told = share.join("told");
        let yaml = format!(
            r#"
cdiVersion: "0.6.0"
kind: vendor.com/gpu
devices:
  - name: one
    containerEdits:
      env: ["DEVICE=one"]
      deviceNodes: [{{path: /dev/vendor/zero, hostPath: /dev/zero, permissions: r}}]
      mounts: [{{hostPath: "{lib}", containerPath: /usr/lib/vendor, options: [ro, rbind]}}]
      additionalGids: [4242]
      hooks: [{{hookName: createRuntime, path: /bin/sh, args: [sh, -c, "cat > {told}"]}}]
"#,
            lib = share.join("lib").display(),
            told = told.display(),
        );
        std::fs::write(dirs[0].path().join("vendor.yaml"), &yaml)?;
        let pod = pod(husk, handler, "cdi").await?;
        let mut config = sleeper("main", &image);
        config.cdi_devices = vec![device("vendor.com/gpu=one")];
        let id = husk.cri.launch(&pod, config).await?;
        let text = "echo $DEVICE; head -c 2 /dev/vendor/zero | od -An -tx1; cat /usr/lib/vendor; echo; \
                    grep -w Groups: /proc/1/status | grep -c 4242";
        let seen = husk.cri.sh(&id, text).await?;
        ensure!(seen == "one\n 00 00\nvendor library\n1", "{seen}");
        let state: serde_json::Value = serde_json::from_slice(&std::fs::read(&told)?)?;
        ensure!(
            state["id"] == id.as_str() && state["pid"] == husk.cri.pid(&id).await?,
            "{state}"
        );
        Ok(())
    })
    .await
}
