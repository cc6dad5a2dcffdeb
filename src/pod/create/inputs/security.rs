//! Whom a container runs as and what it may do: user, capabilities, seccomp profile, SELinux labels.

use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxSeccomp;

use crate::image::lookup;
use crate::pod::Runtime;
use crate::pod::sandbox::{Pod, Supervisor};
use crate::seccomp::profile::Environment;
use crate::seccomp::{self, Abi};
use crate::spec::identity;
use crate::spec::process::{ImageDefaults, User};
use crate::spec::selinux::Labels;
use crate::types::ContainerConfig;
use crate::types::capability::{self, CapSet, ContainerCaps};
use crate::types::error::{Context, Error, Kind, Result};
use crate::types::security::Profile;

/// Most bytes read of an image's `/etc/passwd` or `/etc/group`.
const MAX_ACCOUNTS_BYTES: u64 = 10 << 20;

pub(super) fn user(config: &ContainerConfig, image: &ImageDefaults, layers: &[PathBuf]) -> Result<User> {
    let accounts = |path| lookup::read(layers, Path::new(path), MAX_ACCOUNTS_BYTES);
    let security = &config.security;
    let found = identity::resolve(
        &identity::Request {
            image_user: &image.user,
            run_as_user: security.run_as_user,
            run_as_username: &security.run_as_username,
            run_as_group: security.run_as_group,
            supplemental_groups: &security.supplemental_groups,
            policy: security.groups_policy,
            image: &config.image.image,
        },
        &accounts("/etc/passwd")?,
        &accounts("/etc/group")?,
    )?;
    Ok(User {
        uid: found.uid,
        gid: found.gid,
        additional_gids: found.additional_gids,
    })
}

pub(super) fn capabilities(config: &ContainerConfig, available: CapSet) -> Result<ContainerCaps> {
    if config.security.privileged {
        return Ok(capability::privileged(available));
    }
    capability::apply(&config.security.capabilities, CapSet::DEFAULT, available)
}

pub(super) fn seccomp_profile(
    runtime: &Runtime,
    config: &ContainerConfig,
    caps: CapSet,
) -> Result<Option<LinuxSeccomp>> {
    if config.security.privileged {
        return Ok(None);
    }
    match &config.security.seccomp {
        None | Some(Profile::Unconfined) => Ok(None),
        Some(Profile::RuntimeDefault) => Ok(Some(seccomp::default_profile(caps))),
        Some(Profile::Localhost(path)) => localhost_profile(runtime, path, caps).map(Some),
    }
}

fn localhost_profile(runtime: &Runtime, path: &str, caps: CapSet) -> Result<LinuxSeccomp> {
    // Old clients put the scheme in front.
    let path = Path::new(path.strip_prefix("localhost/").unwrap_or(path));
    if !path.is_absolute() {
        return Err(Error::invalid(format!(
            "seccomp profile {} is not an absolute path",
            path.display()
        )));
    }
    let what = || format!("seccomp profile {}", path.display());
    let text = read_file(path, seccomp::profile::MAX_BYTES as u64).map_err(|e| e.context(what()))?;
    let native = Abi::native().ok_or_else(|| {
        Error::new(
            Kind::Unimplemented,
            "seccomp profiles are not supported on this machine's architecture",
        )
    })?;
    let environment = Environment {
        native,
        caps,
        kernel: runtime.host().kernel,
    };
    seccomp::profile::parse(&path.display().to_string(), &text, &environment)
}

/// Reads a file that a client named: it may as well be a pipe that nobody writes to, or `/dev/zero`.
fn read_file(path: &Path, most: u64) -> Result<Vec<u8>> {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let file = std::fs::File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .context("open")?;
    if !file.metadata().context("look at it")?.is_file() {
        return Err(Error::invalid("it is not a regular file"));
    }
    let mut text = Vec::new();
    file.take(most + 1).read_to_end(&mut text).context("read")?;
    if text.len() as u64 > most {
        return Err(Error::invalid(format!("it has more than {most} bytes")));
    }
    Ok(text)
}

pub(super) fn selinux_labels(
    runtime: &Runtime,
    pod: &Pod,
    supervisor: &Supervisor,
    config: &ContainerConfig,
) -> Result<Labels> {
    let wish = config
        .security
        .selinux
        .as_ref()
        .or(pod.config.security.selinux.as_ref());
    runtime.selinux_labels(wish, &supervisor.facts.selinux_level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_clients_are_files_and_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let (pipe, file) = (dir.path().join("pipe"), dir.path().join("file"));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        std::fs::write(&file, "12345").expect("a file");
        assert_eq!(read_file(&file, 5), Ok(b"12345".to_vec()));
        for (path, most, part) in [
            (file.as_path(), 4, "more than 4"),
            (&pipe, 5, "regular"),
            (Path::new("/dev/zero"), 5, "regular"),
            (Path::new("/"), 5, "regular"),
            (&dir.path().join("absent"), 5, "No such file"),
        ] {
            let error = read_file(path, most).expect_err("refused");
            assert!(error.message().contains(part), "{}: {error}", path.display());
        }
    }
}
