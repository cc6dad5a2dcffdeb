//! Limits: between NRI's messages and the OCI runtime spec. Pure.

use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxResources,
};

use crate::types::error::{Error, Kind, Result};

use super::proto as p;

/// Limits of the spec as plugins see them.
pub fn from_oci(oci: &LinuxResources) -> p::LinuxResources {
    p::LinuxResources {
        memory: oci.memory().as_ref().map(memory_from),
        cpu: oci.cpu().as_ref().map(cpu_from),
        hugepage_limits: oci
            .hugepage_limits()
            .iter()
            .flatten()
            .map(|l| p::HugepageLimit {
                page_size: l.page_size().clone(),
                limit: u64::try_from(l.limit()).unwrap_or(0),
            })
            .collect(),
        blockio_class: None,
        rdt_class: None,
        unified: oci.unified().clone().unwrap_or_default().into_iter().collect(),
        devices: oci.devices().iter().flatten().map(device_from).collect(),
        pids: oci.pids().map(|pids| p::LinuxPids { limit: pids.limit() }),
    }
}

fn memory_from(m: &LinuxMemory) -> p::LinuxMemory {
    p::LinuxMemory {
        limit: m.limit().map(int64),
        reservation: m.reservation().map(int64),
        swap: m.swap().map(int64),
        kernel: None,
        kernel_tcp: m.kernel_tcp().map(int64),
        swappiness: m.swappiness().map(uint64),
        disable_oom_killer: m.disable_oom_killer().map(|value| p::OptionalBool { value }),
        use_hierarchy: m.use_hierarchy().map(|value| p::OptionalBool { value }),
    }
}

fn cpu_from(c: &LinuxCpu) -> p::LinuxCpu {
    p::LinuxCpu {
        shares: c.shares().map(uint64),
        quota: c.quota().map(int64),
        period: c.period().map(uint64),
        realtime_runtime: c.realtime_runtime().map(int64),
        realtime_period: c.realtime_period().map(uint64),
        cpus: c.cpus().clone().unwrap_or_default(),
        mems: c.mems().clone().unwrap_or_default(),
    }
}

fn device_from(d: &LinuxDeviceCgroup) -> p::LinuxDeviceCgroup {
    p::LinuxDeviceCgroup {
        allow: d.allow(),
        r#type: d.typ().map_or_else(|| "a".to_owned(), |t| t.as_str().to_owned()),
        major: d.major().map(int64),
        minor: d.minor().map(int64),
        access: d.access().clone().unwrap_or_default(),
    }
}

fn int64(value: i64) -> p::OptionalInt64 {
    p::OptionalInt64 { value }
}

fn uint64(value: u64) -> p::OptionalUInt64 {
    p::OptionalUInt64 { value }
}

/// Lays what a plugin set over `into`; the rest stays. A memory limit without a swap limit allows no swap beyond it, as
/// with other runtimes.
///
/// # Errors
/// `Unimplemented` for what husk does not do: block I/O and RDT classes, kernel memory.
pub fn merge(into: &mut LinuxResources, set: &p::LinuxResources) -> Result<()> {
    refuse(set)?;
    if let Some(m) = &set.memory {
        let mut memory = into.memory().unwrap_or_default();
        merge_memory(&mut memory, m);
        into.set_memory((memory != LinuxMemory::default()).then_some(memory));
    }
    if let Some(c) = &set.cpu {
        let mut cpu = into.cpu().clone().unwrap_or_default();
        merge_cpu(&mut cpu, c);
        into.set_cpu((cpu != LinuxCpu::default()).then_some(cpu));
    }
    if !set.hugepage_limits.is_empty() {
        let mut limits = into.hugepage_limits().clone().unwrap_or_default();
        for limit in &set.hugepage_limits {
            limits.retain(|l| *l.page_size() != limit.page_size);
            let mut new = LinuxHugepageLimit::default();
            new.set_page_size(limit.page_size.clone());
            new.set_limit(i64::try_from(limit.limit).unwrap_or(i64::MAX));
            limits.push(new);
        }
        into.set_hugepage_limits(Some(limits));
    }
    if !set.unified.is_empty() {
        let mut unified = into.unified().clone().unwrap_or_default();
        unified.extend(set.unified.clone());
        into.set_unified(Some(unified));
    }
    if let Some(pids) = &set.pids {
        let mut new = LinuxPids::default();
        new.set_limit(pids.limit);
        into.set_pids(Some(new));
    }
    if !set.devices.is_empty() {
        let mut rules = into.devices().clone().unwrap_or_default();
        for device in &set.devices {
            rules.push(rule(device)?);
        }
        into.set_devices(Some(rules));
    }
    Ok(())
}

fn refuse(set: &p::LinuxResources) -> Result<()> {
    let class = |c: &Option<p::OptionalString>| c.as_ref().is_some_and(|c| !c.value.is_empty());
    let kernel = set.memory.as_ref().is_some_and(|m| m.kernel.is_some());
    for (set, what) in [
        (class(&set.blockio_class), "block I/O classes"),
        (class(&set.rdt_class), "RDT classes"),
        (kernel, "limits of kernel memory, which kernels no longer have"),
    ] {
        if set {
            return Err(Error::new(
                Kind::Unimplemented,
                format!("husk does not support {what}"),
            ));
        }
    }
    Ok(())
}

fn merge_memory(into: &mut LinuxMemory, set: &p::LinuxMemory) {
    if let Some(v) = &set.limit {
        into.set_limit(Some(v.value));
        if set.swap.is_none() {
            into.set_swap(Some(v.value));
        }
    }
    if let Some(v) = &set.reservation {
        into.set_reservation(Some(v.value));
    }
    if let Some(v) = &set.swap {
        into.set_swap(Some(v.value));
    }
    if let Some(v) = &set.kernel_tcp {
        into.set_kernel_tcp(Some(v.value));
    }
    if let Some(v) = &set.swappiness {
        into.set_swappiness(Some(v.value));
    }
    if let Some(v) = &set.disable_oom_killer {
        into.set_disable_oom_killer(Some(v.value));
    }
    if let Some(v) = &set.use_hierarchy {
        into.set_use_hierarchy(Some(v.value));
    }
}

fn merge_cpu(into: &mut LinuxCpu, set: &p::LinuxCpu) {
    if let Some(v) = &set.shares {
        into.set_shares(Some(v.value));
    }
    if let Some(v) = &set.quota {
        into.set_quota(Some(v.value));
    }
    if let Some(v) = &set.period {
        into.set_period(Some(v.value));
    }
    if let Some(v) = &set.realtime_runtime {
        into.set_realtime_runtime(Some(v.value));
    }
    if let Some(v) = &set.realtime_period {
        into.set_realtime_period(Some(v.value));
    }
    if !set.cpus.is_empty() {
        into.set_cpus(Some(set.cpus.clone()));
    }
    if !set.mems.is_empty() {
        into.set_mems(Some(set.mems.clone()));
    }
}

fn rule(device: &p::LinuxDeviceCgroup) -> Result<LinuxDeviceCgroup> {
    let mut out = LinuxDeviceCgroup::default();
    out.set_allow(device.allow);
    out.set_typ(Some(device_type(&device.r#type)?));
    out.set_major(device.major.as_ref().map(|m| m.value));
    out.set_minor(device.minor.as_ref().map(|m| m.value));
    out.set_access(Some(device.access.clone()));
    Ok(out)
}

/// The type of a device by its letter.
///
/// # Errors
/// `InvalidArgument` for another one.
pub fn device_type(letter: &str) -> Result<LinuxDeviceType> {
    match letter {
        "" | "a" => Ok(LinuxDeviceType::A),
        "b" => Ok(LinuxDeviceType::B),
        "c" => Ok(LinuxDeviceType::C),
        "u" => Ok(LinuxDeviceType::U),
        "p" => Ok(LinuxDeviceType::P),
        other => Err(Error::invalid(format!(
            "device type {other:?} is none of a, b, c, u, p"
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn some() -> p::LinuxResources {
        p::LinuxResources {
            memory: Some(p::LinuxMemory {
                limit: Some(int64(1 << 20)),
                ..Default::default()
            }),
            cpu: Some(p::LinuxCpu {
                shares: Some(uint64(512)),
                quota: Some(int64(5000)),
                cpus: "0-1".into(),
                ..Default::default()
            }),
            hugepage_limits: vec![p::HugepageLimit {
                page_size: "2MB".into(),
                limit: 4 << 20,
            }],
            unified: [("memory.high".to_owned(), "1".to_owned())].into(),
            pids: Some(p::LinuxPids { limit: 7 }),
            devices: vec![p::LinuxDeviceCgroup {
                allow: true,
                r#type: "c".into(),
                major: Some(int64(1)),
                minor: None,
                access: "rw".into(),
            }],
            ..Default::default()
        }
    }

    #[test]
    fn what_is_set_arrives_and_comes_back() {
        let mut oci = LinuxResources::default();
        oci.set_devices(None);
        merge(&mut oci, &some()).unwrap();
        let mut expected = some();
        // No swap beyond the memory limit.
        expected.memory.as_mut().unwrap().swap = Some(int64(1 << 20));
        assert_eq!(from_oci(&oci), expected);
    }

    #[test]
    fn what_is_not_set_stays() {
        let mut oci = LinuxResources::default();
        merge(&mut oci, &some()).unwrap();
        let before = oci.clone();
        merge(&mut oci, &p::LinuxResources::default()).unwrap();
        assert_eq!(oci, before);
        let shares = p::LinuxResources {
            cpu: Some(p::LinuxCpu {
                shares: Some(uint64(2)),
                ..Default::default()
            }),
            ..Default::default()
        };
        merge(&mut oci, &shares).unwrap();
        let cpu = oci.cpu().clone().unwrap();
        assert_eq!((cpu.shares(), cpu.quota()), (Some(2), Some(5000)));
    }

    #[test]
    fn a_huge_page_limit_replaces_that_of_its_size() {
        let mut oci = LinuxResources::default();
        merge(&mut oci, &some()).unwrap();
        let mut again = p::LinuxResources {
            hugepage_limits: some().hugepage_limits,
            ..Default::default()
        };
        again.hugepage_limits[0].limit = 0;
        merge(&mut oci, &again).unwrap();
        let limits = oci.hugepage_limits().clone().unwrap();
        assert_eq!((limits.len(), limits[0].limit()), (1, 0));
    }

    #[test]
    fn what_husk_does_not_do_is_refused_by_name() {
        for (set, word) in [
            (
                p::LinuxResources {
                    blockio_class: Some(p::OptionalString { value: "gold".into() }),
                    ..Default::default()
                },
                "block I/O",
            ),
            (
                p::LinuxResources {
                    rdt_class: Some(p::OptionalString { value: "gold".into() }),
                    ..Default::default()
                },
                "RDT",
            ),
        ] {
            let error = merge(&mut LinuxResources::default(), &set).unwrap_err();
            assert_eq!(error.kind(), Kind::Unimplemented);
            assert!(error.message().contains(word), "{error}");
        }
    }
}
