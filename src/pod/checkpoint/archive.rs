//! What a checkpoint consists of. It is the layout that containerd, CRI-O and Podman have, so that their tools read it:
//!
//! ```text
//! config.dump        which container it was, of which image
//! spec.dump          its OCI spec
//! status             how it stood
//! checkpoint/        criu's images, and what the standard streams were
//! rootfs-diff.tar    what it changed in its root file system, as an image layer
//! dump.log, stats-dump
//! ```

use std::fs::File;
use std::io::{BufWriter, Read as _, Write};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::executor::criu;
use crate::image::layer::pack::pack_tree;
use crate::types::error::{Context, Error, Result};

/// Which container it was.
pub(super) const CONFIG: &str = "config.dump";
/// Its OCI spec.
pub(super) const SPEC: &str = "spec.dump";
/// How it stood, as containerd says it.
pub(super) const STATUS: &str = "status";
/// criu's images.
pub(super) const IMAGES: &str = "checkpoint";
/// What it changed in its root file system.
pub(super) const CHANGES: &str = "rootfs-diff.tar";
/// criu's log.
pub(super) const LOG: &str = "dump.log";

/// Most bytes of a description in a checkpoint that somebody else made.
const MAX_TEXT: u64 = 4 << 20;

/// [`CONFIG`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Description {
    /// The container.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    /// The image as the client named it.
    pub rootfs_image: String,
    /// The image by id.
    pub rootfs_image_ref: String,
    /// The image by a name under which it can be pulled.
    pub rootfs_image_name: String,
    /// What made the container.
    pub runtime: String,
    /// Times in RFC 3339.
    pub created_time: String,
    /// When it was written down.
    pub checkpointed_time: String,
    /// Of no meaning here; others want to read it.
    pub restored_time: String,
    /// Likewise.
    pub restored: bool,
}

/// [`STATUS`]. Times in nanoseconds since the epoch.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Standing {
    pub created_at: i64,
    pub started_at: i64,
    pub finished_at: i64,
    pub exit_code: i32,
    pub pid: i32,
    pub reason: String,
    pub message: String,
}

/// The time in RFC 3339.
pub(super) fn time(nanos: i64) -> String {
    jiff::Timestamp::from_nanosecond(nanos.into()).map_or(String::new(), |t| t.to_string())
}

/// Writes `value` as JSON to `name` in `dir`.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write_json(dir: &Path, name: &str, value: &impl Serialize) -> Result<()> {
    let path = dir.join(name);
    let text = serde_json::to_vec_pretty(value).with_context(|| format!("encode {name}"))?;
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// Packs what is in `dir` into `file`, which is there as a whole or not at all. Only root may read it: it holds the
/// memory of processes.
///
/// # Errors
/// The tree cannot be read, the file cannot be written.
pub(super) fn pack(dir: &Path, file: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let what = || format!("write {}", file.display());
    let part = part(file)?;
    // A former try may have left one, and a link there must not be followed.
    let _ = std::fs::remove_file(&part);
    let outcome = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&part)
        .and_then(|out| pack_tree(dir, BufWriter::with_capacity(1 << 20, out)))
        .and_then(|mut out| {
            out.flush()?;
            out.get_ref().sync_all()?;
            std::fs::rename(&part, file)
        });
    if outcome.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    outcome.with_context(what)
}

fn part(file: &Path) -> Result<PathBuf> {
    let mut name = file
        .file_name()
        .ok_or_else(|| Error::invalid(format!("{} names no file", file.display())))?
        .to_owned();
    name.push(".part");
    Ok(file.with_file_name(name))
}

/// Whether `dir` looks like an unpacked checkpoint.
pub(super) fn is_checkpoint(dir: &Path) -> bool {
    let is = |name: &str, directory: bool| {
        std::fs::symlink_metadata(dir.join(name)).is_ok_and(|m| m.is_dir() == directory && !m.is_symlink())
    };
    is(CONFIG, false) && is(SPEC, false) && is(IMAGES, true)
}

/// Reads the description of an unpacked checkpoint.
///
/// # Errors
/// `InvalidArgument` if there is none that makes sense.
pub(super) fn description(dir: &Path) -> Result<Description> {
    let text = read(&dir.join(CONFIG))?;
    serde_json::from_slice(&text).map_err(|e| Error::invalid(format!("{CONFIG} of the checkpoint: {e}")))
}

/// Reads the spec of the container that was written down.
///
/// # Errors
/// `InvalidArgument` if there is none that makes sense.
pub(super) fn spec(dir: &Path) -> Result<Spec> {
    let text = read(&dir.join(SPEC))?;
    serde_json::from_slice(&text).map_err(|e| Error::invalid(format!("{SPEC} of the checkpoint: {e}")))
}

/// What the standard streams of the checkpoint were. Empty if it does not say.
///
/// # Errors
/// `InvalidArgument` if it says what makes no sense.
pub(super) fn streams(dir: &Path) -> Result<Vec<String>> {
    let path = dir.join(IMAGES).join(criu::STREAMS);
    if !path.exists() {
        return Ok(Vec::new());
    }
    serde_json::from_slice(&read(&path)?)
        .map_err(|e| Error::invalid(format!("{} of the checkpoint: {e}", criu::STREAMS)))
}

/// Refuses criu's images if they are anything but plain files: criu would follow a link, and wait for a pipe.
///
/// # Errors
/// `InvalidArgument` with the name of the first that is not.
pub(super) fn check_images(dir: &Path) -> Result<()> {
    let images = dir.join(IMAGES);
    let what = || format!("list {}", images.display());
    for entry in std::fs::read_dir(&images).with_context(what)? {
        let entry = entry.with_context(what)?;
        if !entry.file_type().with_context(what)?.is_file() {
            return Err(Error::invalid(format!(
                "{IMAGES}/{} of the checkpoint is not a plain file",
                entry.file_name().display()
            )));
        }
    }
    Ok(())
}

/// Opens a plain file that may come from anybody: no link is followed, no pipe waited for.
///
/// # Errors
/// `NotFound`; `InvalidArgument` for anything else than a plain file.
pub(super) fn open(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let what = || format!("open {}", path.display());
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::not_found(format!("{}: {e}", what())),
            _ => Error::invalid(format!("{}: {e}", what())),
        })?;
    match file.metadata().with_context(what)?.is_file() {
        true => Ok(file),
        false => Err(Error::invalid(format!("{} is not a plain file", path.display()))),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    open(path)?
        .take(MAX_TEXT + 1)
        .read_to_end(&mut text)
        .with_context(|| format!("read {}", path.display()))?;
    match text.len() as u64 > MAX_TEXT {
        true => Err(Error::invalid(format!(
            "{}: longer than {MAX_TEXT} bytes",
            path.display()
        ))),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::Kind;

    fn checkpoint() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(IMAGES)).unwrap();
        std::fs::write(dir.path().join(SPEC), "{}").unwrap();
        // As others write it: more fields, and times that are not needed.
        let text = r#"{"id":"1","name":"web","rootfsImage":"a:1","rootfsImageName":"r/a:1","rootfsImageRef":"sha256:0",
            "createdTime":"2024-01-01T00:00:00Z","new":[1]}"#;
        std::fs::write(dir.path().join(CONFIG), text).unwrap();
        dir
    }

    #[test]
    fn descriptions_are_read() {
        let dir = checkpoint();
        assert!(is_checkpoint(dir.path()));
        let found = description(dir.path()).unwrap();
        assert_eq!(
            (found.name.as_str(), found.rootfs_image_name.as_str()),
            ("web", "r/a:1")
        );
        assert_eq!(streams(dir.path()).unwrap(), Vec::<String>::new());
        let list = dir.path().join(IMAGES).join(criu::STREAMS);
        std::fs::write(&list, r#"["/dev/null","pipe:[1]","pipe:[2]"]"#).unwrap();
        assert_eq!(streams(dir.path()).unwrap()[2], "pipe:[2]");
        std::fs::write(&list, "{}").unwrap();
        assert_eq!(streams(dir.path()).unwrap_err().kind(), Kind::InvalidArgument);
    }

    #[test]
    fn what_is_no_checkpoint_is_not_taken_for_one() {
        let dir = checkpoint();
        std::fs::remove_file(dir.path().join(SPEC)).unwrap();
        assert!(!is_checkpoint(dir.path()));
        // A link could lead anywhere on the node.
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join(SPEC)).unwrap();
        assert!(!is_checkpoint(dir.path()));
        std::fs::remove_file(dir.path().join(CONFIG)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join(CONFIG)).unwrap();
        assert_eq!(description(dir.path()).unwrap_err().kind(), Kind::InvalidArgument);
    }

    #[test]
    fn only_plain_files_are_read() {
        let dir = checkpoint();
        let images = dir.path().join(IMAGES);
        std::fs::write(images.join("pages-1.img"), "x").unwrap();
        check_images(dir.path()).unwrap();
        let pipe = images.join("core-1.img");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let error = check_images(dir.path()).unwrap_err();
        assert!(
            error.kind() == Kind::InvalidArgument && error.message().contains("core-1.img"),
            "{error}"
        );
        assert_eq!(open(&pipe).unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(open(&images).unwrap_err().kind(), Kind::InvalidArgument);
        std::fs::remove_file(&pipe).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &pipe).unwrap();
        assert!(check_images(dir.path()).is_err());
        assert_eq!(open(&pipe).unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(open(&images.join("missing")).unwrap_err().kind(), Kind::NotFound);
        let long = images.join("long");
        File::create(&long).unwrap().set_len(MAX_TEXT + 1).unwrap();
        assert_eq!(read(&long).unwrap_err().kind(), Kind::InvalidArgument);
    }

    #[test]
    fn an_archive_is_whole_or_not_there() {
        use std::os::unix::fs::PermissionsExt as _;
        let (dir, out) = (checkpoint(), tempfile::tempdir().unwrap());
        let file = out.path().join("checkpoint.tar");
        std::fs::write(out.path().join("checkpoint.tar.part"), "left by a former try").unwrap();
        pack(dir.path(), &file).unwrap();
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 1);
        assert!(pack(&dir.path().join("missing"), &out.path().join("no.tar")).is_err());
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 1);
        assert!(pack(dir.path(), Path::new("/")).is_err());
    }
}
