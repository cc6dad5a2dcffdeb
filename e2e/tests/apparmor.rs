//! AppArmor: the default profile and profiles by name, on a node that has it; what becomes of a wish on one that has not.
//! `make vm` runs this where the kernel has it.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{ContainerConfigExt, PodConfigExt, sleeper};
use husk_e2e::v1::*;
use husk_e2e::{CriExt, Husk, run};
use tonic::Code;

/// Whether this kernel has AppArmor. Elsewhere there is nothing to see, unless the caller says that there must be.
fn enabled() -> bool {
    let on =
        std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text == "Y\n");
    assert!(
        on || std::env::var_os("HUSK_E2E_APPARMOR").is_none(),
        "no AppArmor here"
    );
    on
}

fn profile(kind: security_profile::ProfileType, name: &str) -> SecurityProfile {
    SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: name.into(),
    }
}

/// What the kernel says of a process that is executed in the container, and of its first one.
async fn confined_by(husk: &Husk, id: &str) -> Result<String> {
    let inside = husk.cri.sh(id, "cat /proc/self/attr/current").await?;
    let first = std::fs::read_to_string(format!("/proc/{}/attr/current", husk.cri.pid(id).await?))?;
    ensure!(first.trim_end() == inside, "{first:?} and {inside:?}");
    Ok(inside)
}

fn load(text: &str) -> Result<()> {
    let mut parser = Command::new("apparmor_parser")
        .arg("-Kr")
        .stdin(Stdio::piped())
        .spawn()
        .context("run apparmor_parser")?;
    parser
        .stdin
        .take()
        .context("no stdin")?
        .write_all(text.as_bytes())?;
    ensure!(parser.wait()?.success(), "apparmor_parser refused {text}");
    Ok(())
}

#[tokio::test]
async fn containers_are_confined_by_the_default_unless_they_ask_otherwise() -> Result<()> {
    use security_profile::ProfileType;
    if !enabled() {
        return Ok(());
    }
    run(async |husk| {
        let image = husk.busybox().await?;
        let mut config = husk.pod_config("default");
        config.security().privileged = true;
        let pod = husk.cri.pod(config).await?;
        let plain = husk.cri.launch(&pod, sleeper("plain", &image)).await?;
        ensure!(confined_by(husk, &plain).await? == "husk-default (enforce)");
        // It lets a container do its work, and keeps it from what namespaces do not.
        husk.cri
            .sh(
                &plain,
                "echo x > /file && mkdir /d && kill -0 1 && cat /proc/self/status",
            )
            .await?;
        let reply = husk
            .cri
            .exec_sync(&plain, &["sh", "-c", "echo x > /proc/sys/kernel/hostname"], 20)
            .await?;
        ensure!(reply.exit_code != 0, "{reply:?}");
        for (name, wish, privileged) in [
            ("unconfined", Some(profile(ProfileType::Unconfined, "")), false),
            ("privileged", None, true),
        ] {
            let config = sleeper(name, &image).secured(|s| (s.apparmor, s.privileged) = (wish, privileged));
            let id = husk.cri.launch(&pod, config).await?;
            ensure!(confined_by(husk, &id).await? == "unconfined", "{name}");
        }
        let wish = profile(ProfileType::RuntimeDefault, "");
        let config = sleeper("named", &image).secured(|s| s.apparmor = Some(wish));
        let id = husk.cri.launch(&pod, config).await?;
        ensure!(confined_by(husk, &id).await? == "husk-default (enforce)");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_profile_that_is_named_confines_and_one_that_is_not_loaded_is_refused() -> Result<()> {
    use security_profile::ProfileType;
    if !enabled() {
        return Ok(());
    }
    load(
        "profile husk-e2e-no-secret flags=(attach_disconnected) {\n  file,\n  signal,\n  deny /secret r,\n}\n",
    )?;
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("named")).await?;
        let with = |name: &str, profile_name: &str| {
            let wish = profile(ProfileType::Localhost, profile_name);
            sleeper(name, &image).secured(|s| s.apparmor = Some(wish))
        };
        let id = husk.cri.launch(&pod, with("main", "husk-e2e-no-secret")).await?;
        ensure!(confined_by(husk, &id).await? == "husk-e2e-no-secret (enforce)");
        husk.cri
            .sh(&id, "echo x > /secret && echo x > /other && cat /other")
            .await?;
        let reply = husk.cri.exec_sync(&id, &["cat", "/secret"], 20).await?;
        ensure!(
            String::from_utf8_lossy(&reply.stderr).contains("Permission denied"),
            "{reply:?}"
        );
        let refused = husk
            .cri
            .create(&pod, with("bad", "no-such-profile"))
            .await
            .refused_with(Code::NotFound)?;
        ensure!(
            refused.message().contains("no-such-profile") && refused.message().contains("apparmor_parser")
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn without_apparmor_a_profile_that_is_named_is_refused() -> Result<()> {
    use security_profile::ProfileType;
    if enabled() {
        return Ok(());
    }
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("absent")).await?;
        let wish = profile(ProfileType::Localhost, "any");
        let config = sleeper("main", &image).secured(|s| s.apparmor = Some(wish));
        let refused = husk
            .cri
            .create(&pod, config)
            .await
            .refused_with(Code::InvalidArgument)?;
        ensure!(refused.message().contains("not enabled"), "{refused:?}");
        Ok(())
    })
    .await
}
