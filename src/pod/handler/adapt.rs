//! What a handler changes in the specs of its containers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, Mount, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Spec};

use crate::host::Host;
use crate::spec::plan::{self, ImageVolume, RuntimePlan, device_path, image_path, mapped_path};
use crate::types::error::{Error, Result};
use crate::types::security::{IdMapping, NamespaceMode};
use crate::types::{ContainerConfig, PodConfig};

use super::Handler;

/// A version of the OCI specification that every runtime knows.
const OLDEST_SPEC: &str = "1.0.2";

impl Handler {
    /// Applies the handler's options to a spec, and refuses what its runtime cannot do.
    ///
    /// # Errors
    /// `InvalidArgument` for a mount that cannot be had.
    pub fn adapt(
        &self,
        spec: &mut Spec,
        pod: &PodConfig,
        config: &ContainerConfig,
        host: &Host,
    ) -> Result<()> {
        if let Some(m) = config.mounts.iter().find(|m| m.recursive_read_only)
            && !self.features.recursive_read_only
        {
            return Err(Error::invalid(format!(
                "mount at {:?}: runtime handler {:?} cannot make mounts recursively read-only",
                m.container_path, self.name
            )));
        }
        let mut annotations = spec.annotations().clone().unwrap_or_default();
        carry(
            &mut annotations,
            pod.annotations.iter(),
            &self.options.pod_annotations,
        );
        carry(
            &mut annotations,
            config.annotations.iter(),
            &self.options.container_annotations,
        );
        spec.set_annotations(Some(annotations));
        if self.options.cgroup_writable {
            make_cgroup_writable(spec);
        }
        if !self.options.is_builtin() {
            // Newer ones take it too; older ones refuse what they were not written for, whether or not it is in there.
            spec.set_version(OLDEST_SPEC.to_owned());
            if !host.sys_resource {
                keep_within_own_limits(spec);
            }
            let namespaces = &pod.security.namespaces;
            if namespaces.own_user().is_some() && namespaces.network == NamespaceMode::Node {
                bind_sysfs(spec);
            }
        }
        Ok(())
    }
}

impl Handler {
    /// Has an OCI runtime bind the images that husk mounts for it in the bundle, where the spec has mounts that stand for
    /// them.
    pub fn bind_images(&self, spec: &mut Spec, volumes: &[ImageVolume], bundle: &Path) {
        if self.options.is_builtin() || volumes.is_empty() {
            return;
        }
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        for (number, volume) in volumes.iter().enumerate() {
            let place = mounts.iter_mut().find(|m| *m.destination() == volume.destination);
            let Some(mount) = place else { continue };
            let given = mount.options().iter().flatten();
            let access = given.filter(|o| matches!(o.as_str(), "ro" | "rro")).cloned();
            let options = ["rbind".to_owned(), "rprivate".to_owned()];
            let options = options.into_iter().chain(access).collect();
            mount
                .set_typ(Some("bind".to_owned()))
                .set_source(Some(image_path(bundle, number)))
                .set_options(Some(options));
        }
        spec.set_mounts(Some(mounts));
    }
}

impl Handler {
    /// Has an OCI runtime bind volumes with mapped ids from where husk mounts them in the bundle: not every runtime maps
    /// ids, and some ignore that they should. Returns what husk has to mount there.
    ///
    /// # Errors
    /// `InvalidArgument` for one that is to propagate to the node.
    pub fn bind_mapped(&self, spec: &mut Spec, bundle: &Path) -> Result<Vec<plan::Mount>> {
        let mut mapped = Vec::new();
        if self.options.is_builtin() {
            return Ok(mapped);
        }
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        let is_mapped = |m: &&mut Mount| m.uid_mappings().is_some() || m.gid_mappings().is_some();
        for mount in mounts.iter_mut().filter(is_mapped) {
            let has = |name: &str| mount.options().iter().flatten().any(|o| o == name);
            if has("rshared") || has("shared") {
                return Err(Error::invalid(format!(
                    "mount at {:?}: runtime handler {:?} cannot map ids of a mount that propagates to the node",
                    mount.destination(),
                    self.name
                )));
            }
            let place = mapped_path(bundle, mapped.len());
            mapped.push(plan::Mount {
                destination: mount.destination().clone(),
                kind: plan::MountKind::Bind {
                    source: mount.source().clone().unwrap_or_default(),
                    recursive: has("rbind"),
                },
                attributes: plan::Attributes::default(),
                recursive: plan::Attributes::default(),
                // What is mounted on the node below it comes along, if the runtime lets it.
                propagation: vec![libc::MS_SLAVE | libc::MS_REC],
                uid_mappings: mappings(mount.uid_mappings().as_ref()),
                gid_mappings: mappings(mount.gid_mappings().as_ref()),
                id_map: None,
            });
            mount
                .set_source(Some(place))
                .set_uid_mappings(None)
                .set_gid_mappings(None);
        }
        spec.set_mounts(Some(mounts));
        Ok(mapped)
    }
}

/// Has an OCI runtime bind device nodes from where husk makes them in the bundle, in a pod with a user namespace: nobody
/// in there can make any, and a runtime only binds those that the node has under the same path. One that makes no sense
/// is left for the runtime to complain about.
pub fn bind_devices(spec: &mut Spec, plan: &mut RuntimePlan) {
    let Some(linux) = spec
        .linux_mut()
        .as_mut()
        .filter(|_| plan.user_namespace.is_some())
    else {
        return;
    };
    let mut left = Vec::new();
    let mut binds = Vec::new();
    for device in linux.devices_mut().take().unwrap_or_default() {
        let Ok(node) = plan::device(&device) else {
            left.push(device);
            continue;
        };
        let mut bind = Mount::default();
        bind.set_destination(node.path.clone())
            .set_typ(Some("bind".to_owned()))
            .set_source(Some(device_path(&plan.bundle, plan.devices.len())))
            .set_options(Some(["bind", "rprivate"].map(str::to_owned).to_vec()));
        binds.push(bind);
        plan.devices.push(node);
    }
    linux.set_devices(Some(left));
    spec.mounts_mut().get_or_insert_default().extend(binds);
}

fn mappings(list: Option<&Vec<LinuxIdMapping>>) -> Vec<IdMapping> {
    let list = list.into_iter().flatten();
    list.map(|m| IdMapping {
        host_id: m.host_id(),
        container_id: m.container_id(),
        length: m.size(),
    })
    .collect()
}

/// A user namespace that does not own the network namespace may not mount sysfs: it gets to see the node's, read-only, as
/// with the executor.
fn bind_sysfs(spec: &mut Spec) {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for mount in mounts.iter_mut().filter(|m| m.typ().as_deref() == Some("sysfs")) {
        let options = ["rbind", "rprivate", "nosuid", "noexec", "nodev", "ro"];
        mount
            .set_typ(Some("bind".to_owned()))
            .set_source(Some("/sys".into()))
            .set_options(Some(options.map(str::to_owned).to_vec()));
    }
    spec.set_mounts(Some(mounts));
}

/// Sources of mounts that are to propagate to the node.
pub fn bidirectional(spec: &Spec) -> Vec<PathBuf> {
    let shared = |m: &&Mount| {
        let options = m.options().iter().flatten();
        options.into_iter().any(|o| o == "rshared" || o == "shared")
    };
    let mounts = spec.mounts().iter().flatten().filter(shared);
    mounts.filter_map(|m| m.source().clone()).collect()
}

fn carry<'a>(
    into: &mut HashMap<String, String>,
    from: impl Iterator<Item = (&'a String, &'a String)>,
    allowed: &[String],
) {
    let matches = |name: &str| {
        allowed.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        })
    };
    for (name, value) in from.filter(|(name, _)| matches(name)) {
        into.insert(name.clone(), value.clone());
    }
}

fn make_cgroup_writable(spec: &mut Spec) {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for mount in &mut mounts {
        if mount.destination() == Path::new("/sys/fs/cgroup") && mount.typ().as_deref() == Some("cgroup") {
            let options = mount.options().iter().flatten();
            let options = options.map(|o| if o == "ro" { "rw".to_owned() } else { o.clone() });
            let options = options.collect();
            mount.set_options(Some(options));
        }
    }
    spec.set_mounts(Some(mounts));
}

/// Without CAP_SYS_RESOURCE hard limits cannot be raised and `oom_score_adj` cannot be lowered. The executor gives what
/// there is and notes it; an OCI runtime would refuse to start the container.
fn keep_within_own_limits(spec: &mut Spec) {
    let Some(mut process) = spec.process().clone() else {
        return;
    };
    let limits = process.rlimits().iter().flatten().map(within_own).collect();
    process.set_rlimits(Some(limits));
    let own = std::fs::read_to_string("/proc/self/oom_score_adj");
    if let Some(own) = own.ok().and_then(|t| t.trim().parse::<i32>().ok()) {
        process.set_oom_score_adj(process.oom_score_adj().map(|wanted| wanted.max(own)));
    }
    spec.set_process(Some(process));
}

fn within_own(limit: &PosixRlimit) -> PosixRlimit {
    let most = match limit.typ() {
        PosixRlimitType::RlimitNofile => crate::sys::process::limits(libc::RLIMIT_NOFILE),
        _ => return *limit,
    };
    let most = most.map_or(u64::MAX, |(_, hard)| hard);
    PosixRlimitBuilder::default()
        .typ(limit.typ())
        .hard(limit.hard().min(most))
        .soft(limit.soft().min(most))
        .build()
        .unwrap_or(*limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_are_carried_by_name_or_beginning() {
        let annotations: std::collections::BTreeMap<String, String> =
            ["io.kata.a", "io.kata.b", "com.x", "com.xy"]
                .map(|n| (n.to_owned(), n.to_owned()))
                .into();
        let mut carried = HashMap::new();
        carry(
            &mut carried,
            annotations.iter(),
            &["io.kata.*".to_owned(), "com.x".to_owned()],
        );
        let mut names: Vec<_> = carried.into_keys().collect();
        names.sort();
        assert_eq!(names, ["com.x", "io.kata.a", "io.kata.b"]);
    }

    #[test]
    fn devices_are_bound_where_nobody_can_make_them() {
        let device = |path: &str, minor: i64| {
            let mut device = oci_spec::runtime::LinuxDevice::default();
            device.set_path(path.into()).set_major(1).set_minor(minor);
            device.set_typ(oci_spec::runtime::LinuxDeviceType::C);
            device
        };
        let made = |namespace: Option<&str>| {
            let mut spec = Spec::default();
            let mut linux = oci_spec::runtime::Linux::default();
            // The second one makes no sense.
            linux.set_devices(Some(vec![
                device("/dev/a", 5),
                device("/dev/b", -1),
                device("/dev/c", 7),
            ]));
            spec.set_linux(Some(linux)).set_mounts(Some(Vec::new()));
            let mut plan = RuntimePlan {
                bundle: "/b".into(),
                user_namespace: namespace.map(PathBuf::from),
                ..Default::default()
            };
            bind_devices(&mut spec, &mut plan);
            let mounts = spec.mounts().iter().flatten();
            let binds: Vec<_> = mounts
                .map(|m| (m.destination().clone(), m.source().clone().unwrap_or_default()))
                .collect();
            let left = spec.linux().as_ref().and_then(|l| l.devices().clone());
            let left: Vec<_> = left.iter().flatten().map(|d| d.path().clone()).collect();
            (binds, left, plan.devices.len())
        };
        let path = PathBuf::from;
        assert_eq!(
            made(Some("/proc/1/ns/user")),
            (
                vec![
                    (path("/dev/a"), path("/b/devices/device-0")),
                    (path("/dev/c"), path("/b/devices/device-1")),
                ],
                vec![path("/dev/b")],
                2
            )
        );
        let all = ["/dev/a", "/dev/b", "/dev/c"].map(PathBuf::from).to_vec();
        assert_eq!(made(None), (vec![], all, 0));
    }

    #[test]
    fn only_the_cgroup_mount_becomes_writable() {
        let mount = |to: &str, kind: &str| {
            let mut m = Mount::default();
            m.set_destination(to.into())
                .set_typ(Some(kind.into()))
                .set_options(Some(vec!["nosuid".into(), "ro".into()]));
            m
        };
        let mut spec = Spec::default();
        spec.set_mounts(Some(vec![
            mount("/sys", "sysfs"),
            mount("/sys/fs/cgroup", "cgroup"),
        ]));
        make_cgroup_writable(&mut spec);
        let options: Vec<_> = spec
            .mounts()
            .iter()
            .flatten()
            .map(|m| {
                m.options()
                    .iter()
                    .flatten()
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(",")
            })
            .collect();
        assert_eq!(options, ["nosuid,ro", "nosuid,rw"]);
    }
}
