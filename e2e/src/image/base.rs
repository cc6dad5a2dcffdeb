//! Images made from this distribution's own packages.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

use super::{Image, Layer};

/// A layer with a statically linked busybox, its applets and the files every program expects.
pub fn busybox_layer() -> Result<Layer> {
    static LAYER: OnceLock<Layer> = OnceLock::new();
    if let Some(layer) = LAYER.get() {
        return Ok(layer.clone());
    }
    let binary =
        std::fs::read("/bin/busybox").context("read /bin/busybox (apt-get install busybox-static)")?;
    let applets = Command::new("/bin/busybox")
        .arg("--list")
        .output()
        .context("busybox --list")?;
    let mut layer = Layer::new()
        .dir("bin")
        .dir("etc")
        .dir("root")
        .entry(super::Entry::new("tmp", super::Kind::Dir).mode(0o1777))
        .file("bin/busybox", binary, 0o755)
        .file("etc/passwd", PASSWD, 0o644)
        .file("etc/group", GROUP, 0o644);
    for applet in String::from_utf8(applets.stdout)?
        .lines()
        .filter(|a| *a != "busybox")
    {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox");
    }
    Ok(LAYER.get_or_init(|| layer).clone())
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    web:x:1001:1002:web:/home/web:/bin/sh\n\
    nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\nweb:x:1002:\nextra:x:1003:web\nmore:x:1004:web,nobody\nnogroup:x:65534:\n";

/// An image with busybox in one layer.
pub fn busybox() -> Result<Image> {
    Ok(Image::new()
        .layer(busybox_layer()?)
        .set("Cmd", serde_json::json!(["sh"])))
}

/// An image with a minimal Debian as debootstrap makes it: thousands of files, hard links, odd owners and modes.
/// The archive is kept in the target directory, so that it is made once per machine.
pub fn debian() -> Result<Image> {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let archive = crate::target_dir().join("debian-minbase.tar");
    if !archive.exists() {
        debootstrap(&archive)?;
    }
    let tar = std::fs::read(&archive)?;
    Ok(Image::new()
        .layer(Layer::from_tar(tar))
        .set("Cmd", serde_json::json!(["bash"])))
}

fn debootstrap(archive: &Path) -> Result<()> {
    let scratch = tempfile::tempdir_in(crate::base_dir())?;
    let root = scratch.path().join("root");
    let suite = suite()?;
    let mirror = mirror(&suite)?;
    // Unpacked and configured in a mount namespace of its own: nothing that debootstrap mounts can stay behind.
    run(Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "debootstrap",
            "--variant=minbase",
            &suite,
        ])
        .arg(&root)
        .arg(mirror))?;
    let partial = PathBuf::from(format!("{}.partial", archive.display()));
    run(Command::new("tar")
        .args([
            "--numeric-owner",
            "--xattrs",
            "--format=pax",
            "--exclude=./var/cache/apt/archives/*.deb",
        ])
        .arg("-C")
        .arg(&root)
        .arg("-cf")
        .arg(&partial)
        .arg("."))?;
    std::fs::rename(partial, archive)?;
    Ok(())
}

fn suite() -> Result<String> {
    let release = std::fs::read_to_string("/etc/os-release")?;
    release
        .lines()
        .find_map(|l| l.strip_prefix("VERSION_CODENAME="))
        .map(|v| v.trim_matches('"').to_owned())
        .context("no VERSION_CODENAME in /etc/os-release")
}

/// The mirror that this machine's own apt uses.
fn mirror(suite: &str) -> Result<String> {
    let policy = Command::new("apt-cache")
        .args(["policy", "base-files"])
        .output()?;
    let wanted = format!("{suite}/main");
    String::from_utf8_lossy(&policy.stdout)
        .lines()
        .filter(|l| l.contains(&wanted))
        .find_map(|l| {
            l.split_whitespace()
                .find(|w| w.starts_with("http"))
                .map(str::to_owned)
        })
        .context("apt knows no mirror for base-files: run apt-get update")
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
