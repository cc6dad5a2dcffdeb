//! Who the process is and what the kernel lets it do.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{ContainerConfigExt, PodConfigExt, sleeper};
use husk_e2e::husk::shared_registry;
use husk_e2e::image;
use husk_e2e::v1::*;
use husk_e2e::{CriExt, Husk, Pod, process, run};
use serde_json::json;

/// The capabilities that containers get unless told otherwise.
const DEFAULT: u64 = bits(&[0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31]);
const CHOWN: u64 = bits(&[0]);
const SYS_ADMIN: u64 = bits(&[21]);

const fn bits(numbers: &[u32]) -> u64 {
    let (mut set, mut i) = (0, 0);
    while i < numbers.len() {
        set |= 1 << numbers[i];
        i += 1;
    }
    set
}

async fn privileged_pod(husk: &Husk) -> Result<Pod> {
    let mut config = husk.pod_config("privileged");
    config.security().privileged = true;
    Ok(husk.cri.pod(config).await?)
}

/// /proc/1/status of a container with this security context.
async fn status_with(
    husk: &Husk,
    pod: &Pod,
    name: &str,
    change: impl FnOnce(&mut LinuxContainerSecurityContext),
) -> Result<HashMap<String, String>> {
    let image = husk.busybox().await?;
    let id = husk
        .cri
        .launch(pod, sleeper(name, &image).secured(change))
        .await?;
    let status = process::status(husk.cri.pid(&id).await?);
    husk.cri.remove(&id).await?;
    Ok(status)
}

fn capabilities(status: &HashMap<String, String>, set: &str) -> Result<u64> {
    let text = status.get(set).with_context(|| format!("no {set}"))?;
    Ok(u64::from_str_radix(text, 16)?)
}

#[tokio::test]
async fn capabilities_are_added_and_dropped_from_the_default() -> Result<()> {
    run(async |husk| {
        let pod = husk.cri.pod(husk.pod_config("caps")).await?;
        let all = u64::from_str_radix(process::status(1).get("CapBnd").context("no CapBnd")?, 16)?
            & u64::from_str_radix(
                process::status(husk.pid()?).get("CapBnd").context("no CapBnd")?,
                16,
            )?;
        let with = |add: &[&str], drop: &[&str]| {
            let words = |w: &[&str]| w.iter().map(|&w| w.to_owned()).collect();
            Capability {
                add_capabilities: words(add),
                drop_capabilities: words(drop),
                ..Default::default()
            }
        };
        for (name, change, wanted) in [
            ("default", with(&[], &[]), DEFAULT & all),
            ("add", with(&["SYS_ADMIN"], &[]), (DEFAULT | SYS_ADMIN) & all),
            ("drop", with(&[], &["CHOWN"]), DEFAULT & !CHOWN & all),
            ("add-all", with(&["ALL"], &[]), all),
            ("drop-all", with(&[], &["ALL"]), 0),
            ("only", with(&["CHOWN"], &["ALL"]), CHOWN),
            ("all-but", with(&["ALL"], &["SYS_ADMIN"]), all & !SYS_ADMIN),
        ] {
            let status = status_with(husk, &pod, name, |s| s.capabilities = Some(change)).await?;
            for set in ["CapBnd", "CapEff", "CapPrm"] {
                let got = capabilities(&status, set)?;
                ensure!(got == wanted, "{name}: {set} is {got:x}, not {wanted:x}");
            }
            ensure!(
                capabilities(&status, "CapAmb")? == 0,
                "{name}: ambient capabilities nobody asked for"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_user_other_than_root_has_no_capabilities_but_ambient_ones() -> Result<()> {
    run(async |husk| {
        let pod = husk.cri.pod(husk.pod_config("nonroot")).await?;
        let status = status_with(husk, &pod, "plain", |s| {
            s.run_as_user = Some(Int64Value { value: 1001 })
        })
        .await?;
        ensure!(
            capabilities(&status, "CapEff")? == 0 && capabilities(&status, "CapPrm")? == 0,
            "{status:?}"
        );
        ensure!(
            capabilities(&status, "CapInh")? == 0,
            "inheritable capabilities: {status:?}"
        );
        let ambient = Capability {
            add_capabilities: vec!["NET_BIND_SERVICE".into()],
            add_ambient_capabilities: vec!["NET_BIND_SERVICE".into()],
            ..Default::default()
        };
        let status = status_with(husk, &pod, "ambient", |s| {
            s.run_as_user = Some(Int64Value { value: 1001 });
            s.capabilities = Some(ambient);
        })
        .await?;
        ensure!(capabilities(&status, "CapEff")? == bits(&[10]), "{status:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn users_and_groups_are_resolved_in_the_image() -> Result<()> {
    run(async |husk| {
        let reference = shared_registry()?.push(
            "security/user",
            "web",
            &image::busybox()?.set("User", json!("web:extra")).build()?,
        )?;
        husk.cri.pull(&reference).await?;
        let busybox = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("users")).await?;
        let number = |value: i64| Some(Int64Value { value });
        type Change<'a> = &'a dyn Fn(&mut LinuxContainerSecurityContext);
        let cases: [(&str, &str, Change<'_>, &str, &str, &str); 8] = [
            // name, image, change, uid, gid, supplementary groups
            ("root", &busybox, &|_| {}, "0", "0", "0"),
            ("image", &reference, &|_| {}, "1001", "1003", "1003 1004"),
            (
                "number",
                &busybox,
                &|s| s.run_as_user = number(1001),
                "1001",
                "1002",
                "1002 1003 1004",
            ),
            (
                "name",
                &busybox,
                &|s| s.run_as_username = "web".into(),
                "1001",
                "1002",
                "1002 1003 1004",
            ),
            (
                "unknown",
                &busybox,
                &|s| s.run_as_user = number(4242),
                "4242",
                "0",
                "0",
            ),
            (
                "both",
                &busybox,
                &|s| {
                    s.run_as_user = number(1001);
                    s.run_as_group = number(77);
                },
                "1001",
                "77",
                "77 1003 1004",
            ),
            (
                "more",
                &busybox,
                &|s| {
                    s.run_as_user = number(4242);
                    s.run_as_group = number(77);
                    s.supplemental_groups = vec![5000, 5001];
                },
                "4242",
                "77",
                "77 5000 5001",
            ),
            (
                "strict",
                &busybox,
                &|s| {
                    s.run_as_user = number(1001);
                    s.run_as_group = number(1002);
                    s.supplemental_groups = vec![5000];
                    s.supplemental_groups_policy = SupplementalGroupsPolicy::Strict.into();
                },
                "1001",
                "1002",
                "1002 5000",
            ),
        ];
        for (name, image, change, uid, gid, groups) in cases {
            let id = husk
                .cri
                .launch(&pod, sleeper(name, image).secured(change))
                .await?;
            let got = husk.cri.sh(&id, "id -u; id -g; id -G").await?;
            let mut got: Vec<_> = got.lines().collect();
            let mut all: Vec<_> = got.pop().unwrap_or_default().split(' ').collect();
            all.sort_unstable_by_key(|g| g.parse::<u32>().ok());
            ensure!(
                got == [uid, gid] && all.join(" ") == groups,
                "{name}: {got:?} {all:?}"
            );
            let told = husk
                .cri
                .status(&id)
                .await?
                .user
                .and_then(|u| u.linux)
                .context("no user in the status")?;
            ensure!(
                told.uid.to_string() == uid && told.gid.to_string() == gid,
                "{name}: status says {told:?}"
            );
            husk.cri.remove(&id).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_home_of_the_user_is_in_the_environment() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("home")).await?;
        let config = sleeper("main", &image).secured(|s| s.run_as_username = "web".into());
        let id = husk.cri.launch(&pod, config).await?;
        ensure!(husk.cri.sh(&id, "echo $HOME").await? == "/home/web");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn no_new_privileges_is_what_was_asked_for() -> Result<()> {
    run(async |husk| {
        let pod = husk.cri.pod(husk.pod_config("nnp")).await?;
        for wanted in [false, true] {
            let status =
                status_with(husk, &pod, &format!("nnp-{wanted}"), |s| s.no_new_privs = wanted).await?;
            let got = status.get("NoNewPrivs").map(String::as_str);
            ensure!(got == Some(if wanted { "1" } else { "0" }), "{wanted}: {got:?}");
        }
        // And it has its effect: a program's own capabilities (cap_net_raw+ep here) count or do not count.
        let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let program = image::Kind::File(std::fs::read("/bin/busybox")?);
        let program = image::Entry::new("capable/busybox", program)
            .mode(0o755)
            .xattr("security.capability", &capability);
        let base = image::busybox()?.layer(image::Layer::new().entry(program));
        let reference = shared_registry()?.push("security/capable", "1", &base.build()?)?;
        husk.cri.pull(&reference).await?;
        for (wanted, capabilities) in [(false, "0000000000002000"), (true, "0000000000000000")] {
            let config = sleeper(&format!("capable-{wanted}"), &reference).secured(|s| {
                s.run_as_user = Some(Int64Value { value: 1001 });
                s.no_new_privs = wanted;
            });
            let id = husk.cri.launch(&pod, config).await?;
            let got = husk
                .cri
                .sh(
                    &id,
                    "/capable/busybox awk '/^CapEff/ {print $2}' /proc/self/status",
                )
                .await?;
            ensure!(got == capabilities, "no_new_privs={wanted}: {got}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn seccomp_profiles_filter() -> Result<()> {
    run(async |husk| {
        let profile = husk.share("seccomp")?.join("no-mkdir.json");
        let rules = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 }],
        });
        std::fs::write(&profile, rules.to_string())?;
        let pod = husk.cri.pod(husk.pod_config("seccomp")).await?;
        let image = husk.busybox().await?;
        let with = |kind: security_profile::ProfileType, path: &str| {
            Some(SecurityProfile {
                profile_type: kind.into(),
                localhost_ref: path.into(),
            })
        };
        use security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
        for (name, seccomp, mode) in [
            ("default", with(RuntimeDefault, ""), "2"),
            ("unconfined", with(Unconfined, ""), "0"),
            ("none", None, "0"),
            ("localhost", with(Localhost, &profile.display().to_string()), "2"),
        ] {
            let id = husk
                .cri
                .launch(&pod, sleeper(name, &image).secured(|s| s.seccomp = seccomp))
                .await?;
            let status = process::status(husk.cri.pid(&id).await?);
            ensure!(
                status.get("Seccomp").map(String::as_str) == Some(mode),
                "{name}: {:?}",
                status.get("Seccomp")
            );
            let reply = husk.cri.exec_sync(&id, &["mkdir", "/made"], 20).await?;
            let refused = String::from_utf8_lossy(&reply.stderr).contains("not supported");
            ensure!(
                (reply.exit_code != 0 && refused) == (name == "localhost"),
                "{name}: {reply:?}"
            );
        }
        let missing =
            sleeper("missing", &image).secured(|s| s.seccomp = with(Localhost, "/no/such/profile.json"));
        let refused = husk.cri.launch(&pod, missing).await.refused()?;
        ensure!(refused.message().contains("/no/such/profile.json"), "{refused:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_default_profile_stops_what_capabilities_alone_would_allow() -> Result<()> {
    run(async |husk| {
        let pod = husk.cri.pod(husk.pod_config("default")).await?;
        let image = husk.busybox().await?;
        // unshare(CLONE_NEWUSER) needs no capability, and is refused by the default profile without CAP_SYS_ADMIN.
        let text = "unshare --user true";
        for (name, kind, allowed) in [
            ("default", security_profile::ProfileType::RuntimeDefault, false),
            ("unconfined", security_profile::ProfileType::Unconfined, true),
        ] {
            let seccomp = SecurityProfile {
                profile_type: kind.into(),
                ..Default::default()
            };
            let id = husk
                .cri
                .launch(&pod, sleeper(name, &image).secured(|s| s.seccomp = Some(seccomp)))
                .await?;
            let reply = husk.cri.exec_sync(&id, &["sh", "-c", text], 20).await?;
            ensure!((reply.exit_code == 0) == allowed, "{name}: {reply:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_privileged_container_has_everything() -> Result<()> {
    run(async |husk| {
        let pod = privileged_pod(husk).await?;
        let image = husk.busybox().await?;
        let config = sleeper("main", &image).secured(|s| {
            s.privileged = true;
            s.masked_paths = vec!["/proc/kcore".into()];
        });
        let id = husk.cri.launch(&pod, config).await?;
        let status = process::status(husk.cri.pid(&id).await?);
        let own = process::status(husk.pid()?);
        ensure!(
            status.get("CapEff") == own.get("CapBnd"),
            "{:?} {:?}",
            status.get("CapEff"),
            own.get("CapBnd")
        );
        ensure!(
            status.get("Seccomp").map(String::as_str) == Some("0"),
            "privileged means unconfined"
        );
        husk.cri
            .sh(&id, "mount -t tmpfs x /tmp && touch /tmp/x && umount /tmp")
            .await?;
        let got = husk
            .cri
            .sh(
                &id,
                "grep -c ' /sys sysfs rw' /proc/mounts; [ -e /dev/kmsg ] && echo devices",
            )
            .await?;
        ensure!(got == "1\ndevices", "{got}");
        let plain = husk.cri.launch(&pod, sleeper("plain", &image)).await?;
        let refused = husk
            .cri
            .exec_sync(&plain, &["mount", "-t", "tmpfs", "x", "/tmp"], 20)
            .await?;
        ensure!(
            refused.exit_code != 0,
            "an unprivileged container of a privileged pod may mount"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_privileged_container_needs_a_privileged_pod() -> Result<()> {
    run(async |husk| {
        let pod = husk.cri.pod(husk.pod_config("unprivileged")).await?;
        let image = husk.busybox().await?;
        let config = sleeper("main", &image).secured(|s| s.privileged = true);
        husk.cri.launch(&pod, config).await.refused()?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_runtimes_own_program_cannot_be_reached_from_inside() -> Result<()> {
    run(async |husk| {
        let pod = husk.cri.pod(husk.pod_config("breakout")).await?;
        let image = husk.busybox().await?;
        // Opening one's own executable for writing while it is still the runtime's was CVE-2019-5736.
        let mut config = sleeper("main", &image);
        config.command = vec!["/proc/self/exe".into()];
        let id = husk.cri.create(&pod, config).await?;
        let before = std::fs::read(husk_e2e::husk::binary()?)?;
        let _ = husk.cri.start(&id).await;
        ensure!(std::fs::read(husk_e2e::husk::binary()?)? == before);
        let main = husk.cri.launch(&pod, sleeper("second", &image)).await?;
        let reply = husk
            .cri
            .exec_sync(&main, &["/proc/self/exe", "--help"], 10)
            .await?;
        let text = String::from_utf8_lossy(&reply.stdout).to_lowercase();
        ensure!(!text.contains("husk"), "husk runs inside the container: {text}");
        Ok(())
    })
    .await
}
