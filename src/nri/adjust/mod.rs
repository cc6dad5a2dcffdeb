//! The changes that plugins want made to a container's spec. Pure: a spec and an adjustment in, a spec out.
//!
//! Plugins are asked one after the other, each with what came of those before it. Their adjustments are claimed
//! ([`owners`]), so that two plugins do not fight over one field unseen, and applied at once. What husk cannot do is
//! refused by name, never left out.

pub mod owners;
mod policy;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Hook, Hooks, Linux, LinuxDevice, LinuxDeviceCgroup, LinuxNamespace, LinuxNamespaceType, Mount,
    PosixRlimitBuilder, PosixRlimitType, Process, Spec,
};

use crate::spec::cdi;
use crate::types::error::{Context, Error, Kind, Result};

use super::proto::{self as p, Field};
use super::resources;
use owners::{Owners, claim_resources};

/// A key that begins with this asks for removal.
const REMOVAL: char = '-';

/// The key that asks for the removal of `key`.
pub fn removal(key: &str) -> String {
    format!("{REMOVAL}{key}")
}

/// Claims and applies what one plugin wants of the container `id`.
///
/// # Errors
/// Another plugin has set the same; husk does not support it; it is not valid.
pub fn apply(
    spec: &mut Spec,
    owners: &mut Owners,
    id: &str,
    plugin: &str,
    adjust: &p::ContainerAdjustment,
) -> Result<()> {
    Adjuster {
        spec,
        owners,
        id,
        plugin,
    }
    .all(adjust)
    .map_err(|e| e.context(format!("NRI plugin {plugin}")))
}

struct Adjuster<'a> {
    spec: &'a mut Spec,
    owners: &'a mut Owners,
    id: &'a str,
    plugin: &'a str,
}

impl Adjuster<'_> {
    fn all(&mut self, adjust: &p::ContainerAdjustment) -> Result<()> {
        // They are only claimed: what they are is not known before all plugins have spoken and the vendors' files are read.
        for device in &adjust.cdi_devices {
            cdi::check_name(&device.name)?;
            self.claim(Field::CdiDevices, &device.name)?;
        }
        self.annotations(adjust)?;
        self.env(&adjust.env)?;
        self.args(&adjust.args)?;
        self.hooks(adjust.hooks.as_ref())?;
        self.rlimits(&adjust.rlimits)?;
        self.mounts(&adjust.mounts)?;
        match &adjust.linux {
            Some(linux) => self.linux(linux),
            None => Ok(()),
        }
    }

    fn linux(&mut self, set: &p::LinuxContainerAdjustment) -> Result<()> {
        for (is_set, what) in [
            (!set.net_devices.is_empty(), "network devices"),
            (set.rdt.as_ref().is_some_and(|r| !r.remove), "RDT"),
            (set.memory_policy.is_some(), "memory policies"),
        ] {
            if is_set {
                return Err(unsupported(what));
            }
        }
        self.devices(&set.devices)?;
        self.namespaces(&set.namespaces)?;
        self.sysctls(set)?;
        if let Some(limits) = &set.resources {
            claim_resources(self.owners, self.id, self.plugin, limits)?;
            let linux = self.linux_mut();
            let mut merged = linux.resources().clone().unwrap_or_default();
            resources::merge(&mut merged, limits)?;
            linux.set_resources(Some(merged));
        }
        if !set.cgroups_path.is_empty() {
            self.claim(Field::CgroupsPath, "")?;
            self.linux_mut()
                .set_cgroups_path(Some(PathBuf::from(&set.cgroups_path)));
        }
        if let Some(score) = &set.oom_score_adj {
            self.claim(Field::OomScoreAdj, "")?;
            let score = i32::try_from(score.value)
                .map_err(|_| Error::invalid(format!("oom_score_adj {} is out of range", score.value)))?;
            self.process_mut().set_oom_score_adj(Some(score));
        }
        if let Some(priority) = &set.io_priority {
            self.claim(Field::IoPriority, "")?;
            let priority = policy::io_priority(priority)?;
            self.process_mut().set_io_priority(priority);
        }
        if let Some(scheduler) = &set.scheduler {
            self.claim(Field::LinuxSched, "")?;
            let scheduler = policy::scheduler(scheduler)?;
            self.process_mut().set_scheduler(scheduler);
        }
        if let Some(seccomp) = &set.seccomp_policy {
            self.claim(Field::SeccompPolicy, "")?;
            let seccomp = policy::seccomp(seccomp)?;
            self.linux_mut().set_seccomp(Some(seccomp));
        }
        Ok(())
    }

    fn claim(&mut self, field: Field, key: &str) -> Result<()> {
        self.owners.claim(self.id, field, key, self.plugin)
    }

    fn clear(&mut self, field: Field, key: &str) {
        self.owners.clear(self.id, field, key, self.plugin);
    }

    /// Clears what is to be removed, then claims what is to be set. Returns the keys to remove.
    fn settle<'k>(&mut self, field: Field, keys: impl Iterator<Item = &'k str>) -> Result<Vec<&'k str>> {
        let (gone, set): (Vec<_>, Vec<_>) = keys.partition(|k| k.starts_with(REMOVAL));
        let gone: Vec<_> = gone.into_iter().map(|k| &k[REMOVAL.len_utf8()..]).collect();
        for key in &gone {
            self.clear(field, key);
        }
        for key in set {
            if key.is_empty() {
                return Err(Error::invalid(format!("{}: an empty key", field.as_str_name())));
            }
            self.claim(field, key)?;
        }
        Ok(gone)
    }

    fn annotations(&mut self, adjust: &p::ContainerAdjustment) -> Result<()> {
        let gone = self.settle(Field::Annotations, adjust.annotations.keys().map(String::as_str))?;
        let set = adjust.annotations.iter().filter(|(k, _)| !k.starts_with(REMOVAL));
        let mut all = self.spec.annotations().clone().unwrap_or_default();
        change(&mut all, &gone, set);
        self.spec.set_annotations(Some(all));
        Ok(())
    }

    fn sysctls(&mut self, set: &p::LinuxContainerAdjustment) -> Result<()> {
        if set.sysctl.is_empty() {
            return Ok(());
        }
        let gone = self.settle(Field::Sysctl, set.sysctl.keys().map(String::as_str))?;
        let set = set.sysctl.iter().filter(|(k, _)| !k.starts_with(REMOVAL));
        let linux = self.linux_mut();
        let mut all = linux.sysctl().clone().unwrap_or_default();
        change(&mut all, &gone, set);
        linux.set_sysctl(Some(all));
        Ok(())
    }

    /// A variable that is there keeps its place.
    fn env(&mut self, env: &[p::KeyValue]) -> Result<()> {
        if env.is_empty() {
            return Ok(());
        }
        let gone = self.settle(Field::Env, env.iter().map(|e| e.key.as_str()))?;
        let mut all = self.process_mut().env().clone().unwrap_or_default();
        let name = |entry: &str| entry.split_once('=').map_or(entry, |(n, _)| n).to_owned();
        let set = env.iter().filter(|e| !e.key.starts_with(REMOVAL));
        let set: Vec<_> = set
            .map(|e| (e.key.as_str(), format!("{}={}", e.key, e.value)))
            .collect();
        if let Some((key, _)) = set.iter().find(|(key, _)| key.contains('=')) {
            return Err(Error::invalid(format!(
                "environment variable {key:?} has = in its name"
            )));
        }
        all.retain(|entry| {
            let name = name(entry);
            !gone.contains(&name.as_str()) || set.iter().any(|(key, _)| *key == name)
        });
        for (key, entry) in set {
            match all.iter_mut().find(|e| name(e) == key) {
                Some(old) => *old = entry,
                None => all.push(entry),
            }
        }
        self.process_mut().set_env(Some(all));
        Ok(())
    }

    /// An empty first argument says that the arguments of another plugin are to be replaced.
    fn args(&mut self, args: &[String]) -> Result<()> {
        let (replaces, args) = match args.split_first() {
            None => return Ok(()),
            Some((first, rest)) if first.is_empty() => (true, rest),
            Some(_) => (false, args),
        };
        if replaces {
            self.clear(Field::Args, "");
        }
        self.claim(Field::Args, "")?;
        if args.is_empty() {
            return Err(Error::invalid("the arguments are empty"));
        }
        self.process_mut().set_args(Some(args.to_vec()));
        Ok(())
    }

    fn hooks(&mut self, set: Option<&p::Hooks>) -> Result<()> {
        let Some(set) = set.filter(|h| **h != p::Hooks::default()) else {
            return Ok(());
        };
        self.owners.share(self.id, Field::OciHooks, self.plugin);
        let mut hooks = self.spec.hooks().clone().unwrap_or_default();
        add_hooks(&mut hooks, set);
        self.spec.set_hooks(Some(hooks));
        Ok(())
    }

    fn rlimits(&mut self, set: &[p::PosixRlimit]) -> Result<()> {
        if set.is_empty() {
            return Ok(());
        }
        let mut all = self.process_mut().rlimits().clone().unwrap_or_default();
        for limit in set {
            self.claim(Field::Rlimits, &limit.r#type)?;
            let kind: PosixRlimitType = limit
                .r#type
                .parse()
                .map_err(|_| Error::invalid(format!("resource limit {:?} is not known", limit.r#type)))?;
            all.retain(|l| l.typ() != kind);
            let new = PosixRlimitBuilder::default()
                .typ(kind)
                .hard(limit.hard)
                .soft(limit.soft)
                .build();
            all.push(new.context("resource limit")?);
        }
        self.process_mut().set_rlimits(Some(all));
        Ok(())
    }

    fn mounts(&mut self, set: &[p::Mount]) -> Result<()> {
        if set.is_empty() {
            return Ok(());
        }
        let gone = self.settle(Field::Mounts, set.iter().map(|m| m.destination.as_str()))?;
        let mut all = self.spec.mounts().clone().unwrap_or_default();
        all.retain(|m| !gone.iter().any(|g| Path::new(g) == m.destination()));
        for mount in set.iter().filter(|m| !m.destination.starts_with(REMOVAL)) {
            let new = self.mount(mount)?;
            all.retain(|m| m.destination() != new.destination());
            all.push(new);
        }
        // Parents before what is mounted below them; the order is kept otherwise.
        all.sort_by_key(|m| m.destination().components().count());
        self.spec.set_mounts(Some(all));
        Ok(())
    }

    fn mount(&mut self, set: &p::Mount) -> Result<Mount> {
        if !set.destination.starts_with('/') {
            return Err(Error::invalid(format!(
                "mount at {:?}: the path is not absolute",
                set.destination
            )));
        }
        let propagation = set
            .options
            .iter()
            .rev()
            .find(|o| matches!(o.as_str(), "rprivate" | "rslave" | "rshared"));
        let linux = self.linux_mut();
        let root = linux.rootfs_propagation().clone().unwrap_or_default();
        // What is mounted below a private root does not propagate.
        match propagation.map(String::as_str) {
            Some("rshared") => drop(linux.set_rootfs_propagation(Some("rshared".into()))),
            Some("rslave") if root != "rshared" => drop(linux.set_rootfs_propagation(Some("rslave".into()))),
            _ => {}
        }
        let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        let mut mount = Mount::default();
        mount
            .set_destination(PathBuf::from(&set.destination))
            .set_typ(text(&set.r#type))
            .set_source(text(&set.source).map(PathBuf::from))
            .set_options(Some(set.options.clone()));
        Ok(mount)
    }

    fn devices(&mut self, set: &[p::LinuxDevice]) -> Result<()> {
        if set.is_empty() {
            return Ok(());
        }
        let gone = self.settle(Field::Devices, set.iter().map(|d| d.path.as_str()))?;
        let linux = self.linux_mut();
        let mut all = linux.devices().clone().unwrap_or_default();
        let mut limits = linux.resources().clone().unwrap_or_default();
        let mut rules = limits.devices().clone().unwrap_or_default();
        all.retain(|d| !gone.iter().any(|g| Path::new(g) == d.path()));
        for device in set.iter().filter(|d| !d.path.starts_with(REMOVAL)) {
            let (node, rule) = node(device)?;
            all.retain(|d| d.path() != node.path());
            all.push(node);
            rules.push(rule);
        }
        limits.set_devices(Some(rules));
        linux.set_devices(Some(all)).set_resources(Some(limits));
        Ok(())
    }

    fn namespaces(&mut self, set: &[p::LinuxNamespace]) -> Result<()> {
        for ns in set {
            let (remove, name) = match ns.r#type.strip_prefix(REMOVAL) {
                Some(name) => (true, name),
                None => (false, ns.r#type.as_str()),
            };
            let kind = LinuxNamespaceType::try_from(name)
                .map_err(|_| Error::invalid(format!("namespace {name:?} is not known")))?;
            self.claim(Field::Namespace, name)?;
            let linux = self.linux_mut();
            let mut all = linux.namespaces().clone().unwrap_or_default();
            all.retain(|n| n.typ() != kind);
            if !remove {
                let mut new = LinuxNamespace::default();
                new.set_typ(kind)
                    .set_path((!ns.path.is_empty()).then(|| PathBuf::from(&ns.path)));
                all.push(new);
            }
            linux.set_namespaces(Some(all));
        }
        Ok(())
    }

    fn process_mut(&mut self) -> &mut Process {
        self.spec.process_mut().get_or_insert_with(Process::default)
    }

    fn linux_mut(&mut self) -> &mut Linux {
        self.spec.linux_mut().get_or_insert_with(Linux::default)
    }
}

fn change<'a>(
    map: &mut HashMap<String, String>,
    gone: &[&str],
    set: impl Iterator<Item = (&'a String, &'a String)>,
) {
    for key in gone {
        map.remove(*key);
    }
    map.extend(set.map(|(k, v)| (k.clone(), v.clone())));
}

#[allow(deprecated)]
fn add_hooks(hooks: &mut Hooks, set: &p::Hooks) {
    append(hooks.prestart_mut(), &set.prestart);
    append(hooks.create_runtime_mut(), &set.create_runtime);
    append(hooks.create_container_mut(), &set.create_container);
    append(hooks.start_container_mut(), &set.start_container);
    append(hooks.poststart_mut(), &set.poststart);
    append(hooks.poststop_mut(), &set.poststop);
}

fn append(list: &mut Option<Vec<Hook>>, new: &[p::Hook]) {
    if new.is_empty() {
        return;
    }
    list.get_or_insert_default().extend(new.iter().map(|h| {
        let mut hook = Hook::default();
        hook.set_path(PathBuf::from(&h.path))
            .set_args(Some(h.args.clone()))
            .set_env(Some(h.env.clone()))
            .set_timeout(h.timeout.as_ref().map(|t| t.value));
        hook
    }));
}

/// A device and the rule that lets it be used as its mode says.
fn node(device: &p::LinuxDevice) -> Result<(LinuxDevice, LinuxDeviceCgroup)> {
    let kind = resources::device_type(&device.r#type)?;
    let mode = device.file_mode.as_ref().map(|m| m.value);
    let mut node = LinuxDevice::default();
    node.set_path(PathBuf::from(&device.path))
        .set_typ(kind)
        .set_major(device.major)
        .set_minor(device.minor)
        .set_file_mode(mode)
        .set_uid(device.uid.as_ref().map(|u| u.value))
        .set_gid(device.gid.as_ref().map(|g| g.value));
    let may = |bits: u32| mode.is_none_or(|m| m & bits != 0);
    let mut access = String::new();
    for (granted, letter) in [(may(0o444), 'r'), (may(0o222), 'w'), (device.r#type == "b", 'm')] {
        if granted {
            access.push(letter);
        }
    }
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true);
    rule.set_typ(Some(kind));
    rule.set_major(Some(device.major));
    rule.set_minor(Some(device.minor));
    rule.set_access(Some(access));
    Ok((node, rule))
}

fn unsupported(what: &str) -> Error {
    Error::new(
        Kind::Unimplemented,
        format!("it wants {what} changed, which husk does not support"),
    )
}
