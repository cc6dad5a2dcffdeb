//! What the layers of an image become in a container's root file system.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use husk_e2e::config::{script, sleeper};
use husk_e2e::husk::shared_registry;
use husk_e2e::image::{self, Entry, Image, Kind, Layer};
use husk_e2e::{Husk, run};

/// A running container of an image made of busybox and these layers.
async fn container_of(husk: &Husk, name: &str, layers: Vec<Layer>) -> Result<String> {
    let image = layers.into_iter().fold(image::busybox()?, Image::layer);
    let reference = shared_registry()?.push(&format!("layers/{name}"), "1", &image.build()?)?;
    husk.cri.pull(&reference).await?;
    let pod = husk.cri.pod(husk.pod_config(name)).await?;
    Ok(husk.cri.launch(&pod, sleeper("main", &reference)).await?)
}

#[tokio::test]
async fn whiteouts_remove_and_opaque_directories_hide() -> Result<()> {
    run(async |husk| {
        let below = Layer::new()
            .dir("a")
            .file("a/gone", "1", 0o644)
            .file("a/stays", "2", 0o644)
            .dir("b")
            .file("b/hidden", "3", 0o644)
            .dir("b/sub")
            .file("b/sub/hidden", "4", 0o644)
            .dir("c")
            .file("c/x", "5", 0o644)
            .dir("dir-to-file")
            .file("dir-to-file/x", "6", 0o644)
            .file("file-to-dir", "7", 0o644)
            .dir("back");
        let middle = Layer::new()
            .whiteout("a/gone")
            .opaque("b")
            .file("b/new", "8", 0o644)
            .whiteout("c")
            .whiteout("back")
            .file("dir-to-file", "9", 0o644)
            .dir("file-to-dir")
            .file("file-to-dir/x", "10", 0o644);
        let above = Layer::new().dir("back").file("back/again", "11", 0o644);
        let id = container_of(husk, "whiteouts", vec![below, middle, above]).await?;
        let listing = husk
            .cri
            .sh(
                &id,
                "find /a /b /back /dir-to-file /file-to-dir | sort; [ ! -e /c ]",
            )
            .await?;
        let wanted =
            "/a\n/a/stays\n/b\n/b/new\n/back\n/back/again\n/dir-to-file\n/file-to-dir\n/file-to-dir/x";
        ensure!(listing == wanted, "{listing}");
        ensure!(husk.cri.sh(&id, "cat /dir-to-file /file-to-dir/x").await? == "910");
        let markers = husk.cri.sh(&id, "find / -xdev -name '.wh.*' | wc -l").await?;
        ensure!(markers == "0", "{markers} whiteout files can be seen");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn kinds_owners_modes_and_times_of_files_are_kept() -> Result<()> {
    run(async |husk| {
        let long = format!("deep/{}", "long-name/".repeat(20)) + "end";
        let layer = Layer::new()
            .entry(
                Entry::new("owned", Kind::File(b"x".into()))
                    .mode(0o640)
                    .owner(1001, 1002)
                    .mtime(1_234_567_890),
            )
            .entry(Entry::new("setuid", Kind::File(b"x".into())).mode(0o4755))
            .entry(
                Entry::new("setgid", Kind::Dir)
                    .mode(0o2775)
                    .owner(0, 1002)
                    .mtime(1_000_000_001),
            )
            .file("setgid/inner", "x", 0o600)
            .entry(Entry::new("sticky", Kind::Dir).mode(0o1777))
            .entry(Entry::new("high", Kind::File(b"x".into())).owner(3_000_000, 3_000_001))
            .entry(Entry::new("pipe", Kind::Fifo).mode(0o622))
            .entry(Entry::new("null", Kind::Char(1, 3)).mode(0o666))
            .entry(Entry::new("block", Kind::Block(7, 0)).mode(0o660).owner(0, 6))
            .symlink("link", "/owned")
            .symlink("dangling", "../../nowhere")
            .entry(Entry::new("owned-link", Kind::Symlink("owned".into())).owner(1001, 1002))
            // The header of a hard link describes the file once more.
            .entry(
                Entry::new("hard", Kind::Hardlink("owned".into()))
                    .mode(0o640)
                    .owner(1001, 1002)
                    .mtime(1_234_567_890),
            )
            .file("no-parents/in/between", "x", 0o644)
            .file(&long, "deep", 0o644)
            .file("name with spaces and ü", "x", 0o644);
        let id = container_of(husk, "kinds", vec![layer]).await?;
        for (path, format, wanted) in [
            (
                "/owned",
                "%a %u %g %Y %F",
                "640 1001 1002 1234567890 regular file",
            ),
            ("/setuid", "%a %u %g", "4755 0 0"),
            ("/setgid", "%a %u %g %Y %F", "2775 0 1002 1000000001 directory"),
            ("/sticky", "%a", "1777"),
            ("/high", "%u %g", "3000000 3000001"),
            ("/pipe", "%a %F", "622 fifo"),
            ("/null", "%a %t %T %F", "666 1 3 character special file"),
            ("/block", "%a %u %g %t %T %F", "660 0 6 7 0 block special file"),
            ("/link", "%F %N", "symbolic link '/link' -> '/owned'"),
            ("/dangling", "%N", "'/dangling' -> '../../nowhere'"),
            ("/owned-link", "%u %g", "1001 1002"),
            ("/hard", "%a %u %g %h", "640 1001 1002 2"),
            ("/no-parents/in", "%a %u %g %F", "755 0 0 directory"),
            ("/name with spaces and ü", "%a", "644"),
        ] {
            let got = husk.cri.sh(&id, &format!("stat -c '{format}' '{path}'")).await?;
            ensure!(got == wanted, "{path}: {got:?} is not {wanted:?}");
        }
        ensure!(husk.cri.sh(&id, &format!("cat /{long}")).await? == "deep");
        let same = husk.cri.sh(&id, "[ /hard -ef /owned ] && echo same").await?;
        ensure!(same == "same", "the hard link is a copy");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_directory_that_a_layer_only_implies_stays_what_the_layers_below_made_it() -> Result<()> {
    run(async |husk| {
        let below = Layer::new()
            .entry(
                Entry::new("srv", Kind::Dir)
                    .mode(0o1777)
                    .owner(1001, 1002)
                    .mtime(1_234_567_890),
            )
            .entry(
                Entry::new("srv/deep", Kind::Dir)
                    .mode(0o700)
                    .owner(1001, 1002)
                    .mtime(1_234_567_890),
            )
            .symlink("way", "srv");
        let above = Layer::new().file("srv/deep/file", "x", 0o644);
        let id = container_of(husk, "implied", vec![below, above]).await?;
        let got = husk
            .cri
            .sh(&id, "stat -c '%n %a %u %g' /srv /srv/deep /srv/deep/file")
            .await?;
        ensure!(
            got == "/srv 1777 1001 1002\n/srv/deep 700 1001 1002\n/srv/deep/file 644 0 0",
            "{got}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn extended_attributes_are_kept() -> Result<()> {
    run(async |husk| {
        // cap_net_raw+ep, revision 2.
        let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let layer = Layer::new().entry(
            Entry::new("marked", Kind::File(b"x".into()))
                .owner(1001, 1002)
                .xattr("user.husk", b"one\ntwo")
                .xattr("security.capability", &capability),
        );
        let id = container_of(husk, "xattrs", vec![layer]).await?;
        let path = format!("/proc/{}/root/marked", husk.cri.pid(&id).await?);
        let get = |name: &str| -> Result<Vec<u8>> {
            let mut value = vec![0; 256];
            let length =
                rustix::fs::getxattr(&path, name, &mut value).with_context(|| format!("getxattr {name}"))?;
            value.truncate(length);
            Ok(value)
        };
        ensure!(get("user.husk")? == b"one\ntwo");
        // A file system may answer with the current revision of the same capability.
        ensure!(get("security.capability")?[4..] == capability[4..]);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_root_file_system_is_writable_and_private() -> Result<()> {
    run(async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("private")).await?;
        let one = husk.cri.launch(&pod, sleeper("one", &image)).await?;
        let two = husk.cri.launch(&pod, sleeper("two", &image)).await?;
        husk.cri
            .sh(
                &one,
                "echo mine > /file; rm /etc/group; chown 1 /bin; mkdir /new; mv /root /moved",
            )
            .await?;
        let seen = husk.cri.sh(
            &two,
            "ls -d /file /new /moved 2>/dev/null; stat -c %u /bin; ls /etc/group; ls -d /root",
        );
        let seen = seen.await?;
        ensure!(seen == "0\n/etc/group\n/root", "the other container sees: {seen}");
        let id = husk.cri.launch(&pod, sleeper("three", &image)).await?;
        ensure!(
            husk.cri.sh(&id, "ls /file 2>/dev/null || echo none").await? == "none",
            "the image was changed"
        );
        Ok(())
    })
    .await
}

/// Everything that `find` can say about a tree, leaving out what a runtime puts there itself.
const SURVEY: &str = "cd \"$1\" && find . -xdev \
    \\( -path ./proc -o -path ./sys -o -path ./dev -o -path ./run -o -path ./etc/hosts -o -path ./etc/hostname \
       -o -path ./etc/resolv.conf \\) -prune \
    -o \\( -type d -printf '%p %y %m %U %G\\n' -o -printf '%p %y %m %U %G %s %n %l %TY%Tm%Td%TH%TM\\n' \\) | LC_ALL=C sort";

#[tokio::test]
async fn a_real_distribution_unpacks_as_tar_would_unpack_it() -> Result<()> {
    run(async |husk| {
        let reference = shared_registry()?.push("layers/debian", "1", &image::debian()?.build()?)?;
        husk.cri.pull(&reference).await?;
        let pod = husk.cri.pod(husk.pod_config("debian")).await?;
        let id = husk
            .cri
            .launch(&pod, script("main", &reference, "exec sleep 1000"))
            .await?;
        let root = format!("/proc/{}/root/", husk.cri.pid(&id).await?);
        let got = survey(Path::new(&root))?;
        let archive = husk_e2e::target_dir().join("debian-minbase.tar");
        let plain = husk.share("plain")?;
        let status = Command::new("tar")
            .arg("-xpf")
            .arg(archive)
            .arg("-C")
            .arg(&plain)
            .args(["--numeric-owner"])
            .status()?;
        ensure!(status.success(), "tar: {status}");
        let wanted = survey(&plain)?;
        ensure!(
            wanted.lines().count() > 3000,
            "only {} files in the archive",
            wanted.lines().count()
        );
        let differs = wanted.lines().zip(got.lines()).find(|(a, b)| a != b);
        ensure!(
            differs.is_none() && wanted.len() == got.len(),
            "first difference: {differs:?}"
        );
        ensure!(
            husk.cri
                .sh(&id, "dpkg --audit && dpkg -l | grep -c ^ii")
                .await?
                .parse::<u32>()?
                > 50
        );
        Ok(())
    })
    .await
}

fn survey(root: &Path) -> Result<String> {
    let output = Command::new("sh").args(["-c", SURVEY, "sh"]).arg(root).output()?;
    ensure!(
        output.status.success(),
        "find: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}
