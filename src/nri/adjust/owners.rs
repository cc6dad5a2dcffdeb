//! Who set what: no two plugins may set the same thing, unless the later one says that it replaces it.

use std::collections::BTreeMap;

use crate::nri::proto as p;
use crate::nri::proto::Field;
use crate::types::error::{Error, Result};

/// Owners of the fields of several containers.
#[derive(Debug, Default)]
pub struct Owners {
    /// By container, field, and key within the field, which is empty for fields without keys.
    owners: BTreeMap<(String, i32, String), Owner>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Owner {
    /// Set it.
    Set(String),
    /// Removed it, and alone may set it now.
    Cleared(String),
}

impl Owners {
    /// Claims a field, or a key of it, for a plugin.
    ///
    /// # Errors
    /// Another plugin has it; both are named.
    pub fn claim(&mut self, container: &str, field: Field, key: &str, plugin: &str) -> Result<()> {
        let at = (container.to_owned(), field.into(), key.to_owned());
        match self.owners.get(&at) {
            Some(Owner::Set(other) | Owner::Cleared(other)) if other != plugin => {
                let key = if key.is_empty() {
                    String::new()
                } else {
                    format!(" {key:?}")
                };
                Err(Error::invalid(format!(
                    "NRI plugins {other} and {plugin} both set {}{key} of container {container}",
                    field.as_str_name()
                )))
            }
            _ => {
                self.owners.insert(at, Owner::Set(plugin.to_owned()));
                Ok(())
            }
        }
    }

    /// Gives up whoever's claim there is in favour of a plugin that removes the value.
    pub fn clear(&mut self, container: &str, field: Field, key: &str, plugin: &str) {
        let at = (container.to_owned(), field.into(), key.to_owned());
        self.owners.insert(at, Owner::Cleared(plugin.to_owned()));
    }

    /// Adds a plugin to those that own a field together.
    pub fn share(&mut self, container: &str, field: Field, plugin: &str) {
        let at = (container.to_owned(), field.into(), String::new());
        let together = match self.owners.get(&at) {
            Some(Owner::Set(others)) => format!("{others},{plugin}"),
            _ => plugin.to_owned(),
        };
        self.owners.insert(at, Owner::Set(together));
    }

    /// For plugins that judge.
    pub fn message(&self) -> p::OwningPlugins {
        let mut out = p::OwningPlugins::default();
        for ((container, field, key), owner) in &self.owners {
            let fields = out.owners.entry(container.clone()).or_default();
            let name = match owner {
                Owner::Set(plugin) => plugin.clone(),
                Owner::Cleared(plugin) => format!("-{plugin}"),
            };
            if key.is_empty() {
                fields.simple.insert(*field, name);
            } else {
                let compound = fields.compound.entry(*field).or_default();
                compound.owners.insert(key.clone(), name);
            }
        }
        out
    }
}

/// Claims each limit that is set.
///
/// # Errors
/// As [`Owners::claim`].
pub fn claim_resources(
    owners: &mut Owners,
    container: &str,
    plugin: &str,
    set: &p::LinuxResources,
) -> Result<()> {
    let memory = set.memory.unwrap_or_default();
    let cpu = set.cpu.clone().unwrap_or_default();
    for (is_set, field) in [
        (memory.limit.is_some(), Field::MemLimit),
        (memory.reservation.is_some(), Field::MemReservation),
        (memory.swap.is_some(), Field::MemSwapLimit),
        (memory.kernel.is_some(), Field::MemKernelLimit),
        (memory.kernel_tcp.is_some(), Field::MemTcpLimit),
        (memory.swappiness.is_some(), Field::MemSwappiness),
        (memory.disable_oom_killer.is_some(), Field::MemDisableOomKiller),
        (memory.use_hierarchy.is_some(), Field::MemUseHierarchy),
        (cpu.shares.is_some(), Field::CpuShares),
        (cpu.quota.is_some(), Field::CpuQuota),
        (cpu.period.is_some(), Field::CpuPeriod),
        (cpu.realtime_runtime.is_some(), Field::CpuRealtimeRuntime),
        (cpu.realtime_period.is_some(), Field::CpuRealtimePeriod),
        (!cpu.cpus.is_empty(), Field::CpuSetCpUs),
        (!cpu.mems.is_empty(), Field::CpuSetMems),
        (set.blockio_class.is_some(), Field::BlockioClass),
        (set.rdt_class.is_some(), Field::RdtClass),
        (set.pids.is_some(), Field::PidsLimit),
    ] {
        if is_set {
            owners.claim(container, field, "", plugin)?;
        }
    }
    for limit in &set.hugepage_limits {
        owners.claim(container, Field::HugepageLimits, &limit.page_size, plugin)?;
    }
    for key in set.unified.keys() {
        owners.claim(container, Field::CgroupsUnified, key, plugin)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_second_plugin_is_refused_and_both_are_named() {
        let mut owners = Owners::default();
        owners.claim("c", Field::Env, "A", "00-one").unwrap();
        owners.claim("c", Field::Env, "B", "10-two").unwrap();
        owners.claim("d", Field::Env, "A", "10-two").unwrap();
        owners.claim("c", Field::Env, "A", "00-one").unwrap();
        let error = owners.claim("c", Field::Env, "A", "10-two").unwrap_err();
        for word in ["00-one", "10-two", "Env", "\"A\""] {
            assert!(error.message().contains(word), "{error}");
        }
    }

    #[test]
    fn who_removes_may_set_anew() {
        let mut owners = Owners::default();
        owners.claim("c", Field::Mounts, "/m", "00-one").unwrap();
        owners.clear("c", Field::Mounts, "/m", "10-two");
        assert!(owners.claim("c", Field::Mounts, "/m", "20-three").is_err());
        owners.claim("c", Field::Mounts, "/m", "10-two").unwrap();
    }

    #[test]
    fn each_limit_is_claimed_for_itself() {
        let cpu = |cpus: &str, mems: &str| p::LinuxResources {
            cpu: Some(p::LinuxCpu {
                cpus: cpus.into(),
                mems: mems.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut owners = Owners::default();
        claim_resources(&mut owners, "c", "a", &cpu("0", "")).unwrap();
        claim_resources(&mut owners, "c", "b", &cpu("", "0")).unwrap();
        assert!(claim_resources(&mut owners, "c", "b", &cpu("1", "")).is_err());
    }

    #[test]
    fn judges_see_owners_by_field() {
        let mut owners = Owners::default();
        owners.claim("c", Field::Args, "", "a").unwrap();
        owners.claim("c", Field::Env, "K", "a").unwrap();
        owners.share("c", Field::OciHooks, "a");
        owners.share("c", Field::OciHooks, "b");
        owners.clear("c", Field::Sysctl, "s", "b");
        let message = owners.message();
        let fields = &message.owners["c"];
        assert_eq!(fields.simple[&Field::Args.into()], "a");
        assert_eq!(fields.simple[&Field::OciHooks.into()], "a,b");
        assert_eq!(fields.compound[&Field::Env.into()].owners["K"], "a");
        assert_eq!(fields.compound[&Field::Sysctl.into()].owners["s"], "-b");
    }
}
