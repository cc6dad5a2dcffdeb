//! What a handler changes in the specs of its containers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Spec};

use crate::host::Host;
use crate::spec::plan::{ImageVolume, image_path};
use crate::types::error::{Error, Result};
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
