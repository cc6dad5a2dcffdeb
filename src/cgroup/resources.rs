//! Resources as CRI states them, as OCI states them. Pure.

use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxHugepageLimit, LinuxMemory,
    LinuxPids, LinuxResources,
};

use crate::types::Resources;

/// The resources of a new container: its limits, and device rules. Without `all_devices` everything is forbidden but
/// `rules` and what every container needs, which is added where the rules are enforced.
pub fn resources(resources: &Resources, all_devices: bool, rules: Vec<LinuxDeviceCgroup>) -> LinuxResources {
    let mut out = limits(resources);
    let mut devices = vec![everything(all_devices)];
    if !all_devices {
        devices.extend(rules);
    }
    out.set_devices(Some(devices));
    out
}

/// The limits alone: what an update of a live container may change. What is zero or empty is left out.
pub fn limits(resources: &Resources) -> LinuxResources {
    let mut out = LinuxResources::default();
    out.set_cpu(cpu(resources));
    out.set_memory(memory(resources));
    if resources.pids_limit != 0 {
        let mut pids = LinuxPids::default();
        pids.set_limit(resources.pids_limit);
        out.set_pids(Some(pids));
    }
    if !resources.hugepage_limits.is_empty() {
        out.set_hugepage_limits(Some(resources.hugepage_limits.iter().map(hugepage).collect()));
    }
    if !resources.unified.is_empty() {
        out.set_unified(Some(resources.unified.clone().into_iter().collect()));
    }
    out
}

/// Limits of the OCI spec as CRI states them: the reverse of [`limits`], less what CRI has no words for.
pub fn stated(limits: &LinuxResources) -> Resources {
    let signed = |n: Option<u64>| n.map_or(0, |n| i64::try_from(n).unwrap_or(i64::MAX));
    let mut out = Resources::default();
    if let Some(cpu) = limits.cpu() {
        out.cpu_shares = signed(cpu.shares());
        out.cpu_period = signed(cpu.period());
        out.cpu_quota = cpu.quota().unwrap_or(0);
        out.cpuset_cpus = cpu.cpus().clone().unwrap_or_default();
        out.cpuset_mems = cpu.mems().clone().unwrap_or_default();
    }
    if let Some(memory) = limits.memory() {
        out.memory_limit = memory.limit().unwrap_or(0);
        out.memory_swap_limit = memory.swap().unwrap_or(0);
    }
    out.pids_limit = limits.pids().map_or(0, |p| p.limit());
    let pages = limits.hugepage_limits().iter().flatten();
    out.hugepage_limits = pages
        .map(|l| (l.page_size().clone(), u64::try_from(l.limit()).unwrap_or(0)))
        .collect();
    out.unified = limits.unified().clone().unwrap_or_default().into_iter().collect();
    out
}

fn cpu(resources: &Resources) -> Option<LinuxCpu> {
    let text = |s: &String| (!s.is_empty()).then(|| s.clone());
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(positive(resources.cpu_shares));
    cpu.set_period(positive(resources.cpu_period));
    cpu.set_quota((resources.cpu_quota != 0).then_some(resources.cpu_quota.max(-1)));
    cpu.set_cpus(text(&resources.cpuset_cpus));
    cpu.set_mems(text(&resources.cpuset_mems));
    (cpu != LinuxCpu::default()).then_some(cpu)
}

fn memory(resources: &Resources) -> Option<LinuxMemory> {
    let set = |n: i64| (n != 0).then_some(n.max(-1));
    let mut memory = LinuxMemory::default();
    memory.set_limit(set(resources.memory_limit));
    memory.set_swap(set(resources.memory_swap_limit));
    (memory != LinuxMemory::default()).then_some(memory)
}

fn hugepage((size, limit): &(String, u64)) -> LinuxHugepageLimit {
    let mut out = LinuxHugepageLimit::default();
    out.set_page_size(size.clone());
    out.set_limit(i64::try_from(*limit).unwrap_or(i64::MAX));
    out
}

fn positive(n: i64) -> Option<u64> {
    u64::try_from(n).ok().filter(|n| *n > 0)
}

fn everything(allow: bool) -> LinuxDeviceCgroup {
    LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .typ(LinuxDeviceType::A)
        .access("rwm")
        .build()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn zero_and_empty_are_left_out() {
        assert_eq!(limits(&Resources::default()), LinuxResources::default());
    }

    #[test]
    fn values_arrive() {
        let asked = Resources {
            cpu_period: 50_000,
            cpu_quota: -5,
            cpu_shares: 512,
            memory_limit: 64 << 20,
            memory_swap_limit: -1,
            cpuset_cpus: "0-1".into(),
            hugepage_limits: vec![("2MB".into(), 0)],
            unified: [("memory.high".to_owned(), "1000".to_owned())].into(),
            pids_limit: -1,
            ..Resources::default()
        };
        let got = limits(&asked);
        let cpu = got.cpu().clone().unwrap();
        assert_eq!(
            (cpu.shares(), cpu.quota(), cpu.period()),
            (Some(512), Some(-1), Some(50_000))
        );
        assert_eq!(
            (cpu.cpus().as_deref(), cpu.mems().as_deref()),
            (Some("0-1"), None)
        );
        let memory = got.memory().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(64 << 20), Some(-1)));
        assert_eq!(got.pids().unwrap().limit(), -1);
        assert_eq!(got.hugepage_limits().as_ref().unwrap()[0].page_size(), "2MB");
        assert_eq!(got.unified().as_ref().unwrap()["memory.high"], "1000");
        assert!(got.devices().is_none());
    }

    #[test]
    fn limits_come_back_as_they_were_stated() {
        let asked = Resources {
            cpu_period: 50_000,
            cpu_quota: -1,
            cpu_shares: 512,
            memory_limit: 64 << 20,
            memory_swap_limit: -1,
            cpuset_cpus: "0-1".into(),
            cpuset_mems: "0".into(),
            hugepage_limits: vec![("2MB".into(), 1 << 21)],
            unified: [("memory.high".to_owned(), "1000".to_owned())].into(),
            pids_limit: 5,
            oom_score_adj: 0,
        };
        assert_eq!(stated(&limits(&asked)), asked);
        assert_eq!(stated(&LinuxResources::default()), Resources::default());
    }

    #[test]
    fn privileged_is_one_rule_and_others_begin_with_nothing() {
        let rule = everything(true);
        let all = resources(&Resources::default(), true, vec![rule.clone()]);
        assert_eq!(all.devices().clone().unwrap(), [everything(true)]);
        let some = resources(&Resources::default(), false, vec![rule.clone()]);
        assert_eq!(some.devices().clone().unwrap(), [everything(false), rule]);
    }
}
