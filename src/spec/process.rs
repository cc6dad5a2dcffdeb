//! The process part of a spec: command, environment, directory, user, capabilities, limits.

use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxCapabilities, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, User as OciUser,
};

use crate::types::ContainerConfig;
use crate::types::capability::ContainerCaps;
use crate::types::error::{Error, Result};

use super::ContainerInputs;
use super::container::text;

/// `PATH` where neither image nor client sets one.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What an image says about the processes made from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageDefaults {
    /// `ENTRYPOINT`.
    pub entrypoint: Vec<String>,
    /// `CMD`.
    pub cmd: Vec<String>,
    /// `ENV`, as `NAME=value`.
    pub env: Vec<String>,
    /// `USER`.
    pub user: String,
    /// `WORKDIR`.
    pub working_dir: String,
    /// `VOLUME` paths.
    pub volumes: Vec<String>,
    /// `STOPSIGNAL`.
    pub stop_signal: String,
}

/// The user a process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub additional_gids: Vec<u32>,
}

/// Builds the process.
///
/// # Errors
/// Neither image nor client names a command.
pub fn process(inputs: &ContainerInputs<'_>) -> Result<Process> {
    let config = inputs.config;
    let mut user = OciUser::default();
    user.set_uid(inputs.user.uid)
        .set_gid(inputs.user.gid)
        .set_additional_gids(Some(inputs.user.additional_gids.clone()));
    let mut process = Process::default();
    process
        .set_terminal(Some(config.tty))
        .set_user(user)
        .set_args(Some(args(config, inputs.image)?))
        .set_env(Some(env(config, inputs.image, &inputs.pod.hostname)))
        .set_cwd(cwd(config, inputs.image).into())
        .set_capabilities(Some(capabilities(&inputs.capabilities)))
        .set_no_new_privileges(Some(config.security.no_new_privs))
        .set_rlimits(rlimits(inputs.nofile))
        .set_apparmor_profile(inputs.apparmor.clone())
        .set_selinux_label(text(&inputs.selinux.process))
        .set_oom_score_adj(i32::try_from(config.resources.oom_score_adj).ok());
    Ok(process)
}

/// The command line, by the rules CRI shares with Kubernetes: a command replaces entrypoint and cmd, args replace cmd.
fn args(config: &ContainerConfig, image: &ImageDefaults) -> Result<Vec<String>> {
    let (first, rest) = match (config.command.is_empty(), config.args.is_empty()) {
        (true, true) => (&image.entrypoint, &image.cmd),
        (true, false) => (&image.entrypoint, &config.args),
        (false, _) => (&config.command, &config.args),
    };
    let args: Vec<String> = first.iter().chain(rest).cloned().collect();
    if args.is_empty() {
        return Err(Error::invalid(format!(
            "container {:?}: no command: the image {:?} has neither ENTRYPOINT nor CMD and the request names none",
            config.metadata.name, config.image.image
        )));
    }
    Ok(args)
}

/// The environment: defaults, then the image's, then the client's, each name once with the last value in the first
/// place it appeared.
fn env(config: &ContainerConfig, image: &ImageDefaults, hostname: &str) -> Vec<String> {
    let defaults = [
        Some(("PATH", DEFAULT_PATH)),
        config.tty.then_some(("TERM", "xterm")),
        (!hostname.is_empty()).then_some(("HOSTNAME", hostname)),
    ];
    let image = image
        .env
        .iter()
        .map(|entry| entry.split_once('=').unwrap_or((entry, "")));
    let client = config
        .envs
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let mut list: Vec<(&str, &str)> = Vec::new();
    // A request or an image may bring hundreds of thousands: looking each up in the list would take minutes.
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (name, value) in defaults.into_iter().flatten().chain(image).chain(client) {
        let place = *places.entry(name).or_insert(list.len());
        match list.get_mut(place) {
            Some(entry) => entry.1 = value,
            None => list.push((name, value)),
        }
    }
    list.into_iter().map(|(n, v)| format!("{n}={v}")).collect()
}

fn cwd(config: &ContainerConfig, image: &ImageDefaults) -> String {
    let dir = if config.working_dir.is_empty() {
        &image.working_dir
    } else {
        &config.working_dir
    };
    // Images may say "app" and mean "/app".
    if dir.starts_with('/') {
        dir.clone()
    } else {
        format!("/{dir}")
    }
}

fn capabilities(caps: &ContainerCaps) -> LinuxCapabilities {
    let mut out = LinuxCapabilities::default();
    out.set_bounding(Some(caps.granted.to_oci()))
        .set_permitted(Some(caps.granted.to_oci()))
        .set_effective(Some(caps.granted.to_oci()))
        .set_inheritable(Some(caps.inheritable.to_oci()))
        .set_ambient(Some(caps.ambient.to_oci()));
    out
}

fn rlimits(nofile: u64) -> Option<Vec<PosixRlimit>> {
    (nofile > 0).then(|| {
        PosixRlimitBuilder::default()
            .typ(PosixRlimitType::RlimitNofile)
            .hard(nofile)
            .soft(nofile)
            .build()
            .into_iter()
            .collect()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn command_and_args_combine_as_kubernetes_documents() {
        let image = ImageDefaults {
            entrypoint: list(&["/ep"]),
            cmd: list(&["c"]),
            ..Default::default()
        };
        let case = |command: &[&str], args_: &[&str]| {
            let config = ContainerConfig {
                command: list(command),
                args: list(args_),
                ..Default::default()
            };
            args(&config, &image).unwrap()
        };
        assert_eq!(case(&[], &[]), list(&["/ep", "c"]));
        assert_eq!(case(&[], &["a"]), list(&["/ep", "a"]));
        assert_eq!(case(&["/x"], &[]), list(&["/x"]));
        assert_eq!(case(&["/x"], &["a"]), list(&["/x", "a"]));
        assert!(args(&ContainerConfig::default(), &ImageDefaults::default()).is_err());
    }

    #[test]
    fn later_environment_wins_and_keeps_its_place() {
        let image = ImageDefaults {
            env: list(&["A=1", "PATH=/i", "EMPTY"]),
            ..Default::default()
        };
        let config = ContainerConfig {
            envs: vec![("A".into(), "2".into()), ("B".into(), "x=y".into())],
            ..Default::default()
        };
        assert_eq!(
            env(&config, &image, "pod"),
            list(&["PATH=/i", "HOSTNAME=pod", "A=2", "EMPTY=", "B=x=y"])
        );
    }

    #[test]
    fn working_directory_is_absolute() {
        let image = ImageDefaults {
            working_dir: "app".into(),
            ..Default::default()
        };
        assert_eq!(cwd(&ContainerConfig::default(), &image), "/app");
        assert_eq!(cwd(&ContainerConfig::default(), &ImageDefaults::default()), "/");
        let config = ContainerConfig {
            working_dir: "/w".into(),
            ..Default::default()
        };
        assert_eq!(cwd(&config, &image), "/w");
    }
}
