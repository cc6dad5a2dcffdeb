#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::cgroup::{Hugetlb, Io, Psi, Stats as CgroupStats, Swap};
use crate::pod::container::{ContainerFacts, ContainerStatus};
use crate::stats::{InterfaceReading, Processes};
use crate::types::{ContainerId, Digest, PodConfig, PodId, Realm};

fn sample() -> ContainerSample {
    let mut cgroup = CgroupStats {
        swap: Some(Swap::default()),
        io: vec![Io::default()],
        hugetlb: vec![Hugetlb {
            page_size: "2MB".into(),
            ..Hugetlb::default()
        }],
        cpu_pressure: Some(Psi::default()),
        memory_pressure: Some(Psi::default()),
        io_pressure: Some(Psi::default()),
        ..CgroupStats::default()
    };
    cgroup.limits.cpu_quota = 20_000;
    cgroup.cpu.usage_nanos = 1_500_000_000;
    // As the database has it: fields that come later have a default there.
    let facts: ContainerFacts = serde_json::from_value(serde_json::json!({
        "id": ContainerId::random(),
        "pod": PodId::random(),
        "config": {},
        "created_at": 0,
        "image_id": Digest::sha256(b"image"),
        "image_ref": "",
        "log_path": "/log",
        "stop_signal": 15,
        "cgroup_path": "/pod/c",
        "uid": 0,
        "gid": 0,
        "groups": [],
    }))
    .unwrap();
    ContainerSample {
        container: Container::new(facts, ContainerStatus::default()),
        reading: Some(Arc::new(Reading {
            at: 7_000_000_000,
            cgroup,
            processes: Processes {
                soft_limits: vec![("max_open_files", -1)],
                ..Processes::default()
            },
            cpu_nano_cores: None,
        })),
        layer: Some(LayerUsage {
            at: 1,
            bytes: 4096,
            inodes: 1,
        }),
    }
}

fn series(family: &Family, sample: &ContainerSample) -> Vec<(Vec<String>, f64)> {
    let mut found = Vec::new();
    family.of_container(sample, &FileSystem::default(), &mut |labels, value| {
        found.push((labels.iter().map(|l| (*l).to_owned()).collect(), value));
    });
    found
}

fn family(name: &str) -> &'static Family {
    FAMILIES.iter().find(|f| f.name == name).unwrap()
}

#[test]
fn names_are_unique_and_say_what_they_are() {
    let names: BTreeSet<_> = FAMILIES.iter().map(|f| f.name).collect();
    assert_eq!(names.len(), FAMILIES.len());
    assert_eq!(names.len(), 56);
    for family in FAMILIES {
        assert!(family.name.starts_with("container_") && !family.help.is_empty());
        // The inodes there are in total do not count up.
        let counts = family.name.ends_with("_total") && family.name != "container_fs_inodes_total";
        assert!(!counts || family.kind == Kind::Counter, "{}", family.name);
    }
}

#[test]
fn every_family_has_as_many_labels_as_it_declares() {
    let sample = sample();
    for family in FAMILIES
        .iter()
        .filter(|f| !matches!(f.values, Values::Interface(_)))
    {
        let found = series(family, &sample);
        assert!(!found.is_empty(), "{}", family.name);
        assert!(
            found
                .iter()
                .all(|(labels, _)| labels.len() == family.labels.len()),
            "{}",
            family.name
        );
    }
}

#[test]
fn values_have_the_unit_of_their_name() {
    let sample = sample();
    assert_eq!(
        series(family("container_cpu_usage_seconds_total"), &sample)[0].1,
        1.5
    );
    assert_eq!(series(family("container_last_seen"), &sample)[0].1, 7.0);
    let limits = series(family("container_ulimits_soft"), &sample);
    assert_eq!(limits, [(vec!["max_open_files".to_owned()], -1.0)]);
    assert_eq!(
        series(family("container_memory_failures_total"), &sample).len(),
        4
    );
}

#[test]
fn what_has_ended_or_was_never_set_has_no_series() {
    let mut sample = sample();
    sample.layer = None;
    assert!(series(family("container_fs_usage_bytes"), &sample).is_empty());
    sample.reading = None;
    assert!(FAMILIES.iter().all(|f| series(f, &sample).is_empty()));
}

#[test]
fn traffic_is_the_pods_and_by_interface() {
    let pod = Pod::new(PodId::random(), Realm::K8s, PodConfig::default(), 0);
    let interfaces = InterfaceReading {
        at: 1,
        counters: vec![InterfaceCounters {
            name: "eth0".into(),
            tx_dropped: 5,
            ..InterfaceCounters::default()
        }],
    };
    let sample = PodSample {
        pod,
        reading: None,
        interfaces: Some(Arc::new(interfaces)),
        containers: Vec::new(),
    };
    let mut found = Vec::new();
    for family in FAMILIES {
        family.of_pod(&sample, &mut |labels, value| {
            found.push((family.name, labels.join(","), value))
        });
    }
    assert_eq!(found.len(), 8);
    let dropped = "container_network_transmit_packets_dropped_total";
    assert!(found.contains(&(dropped, "eth0".to_owned(), 5.0)));
}

#[test]
fn only_what_the_node_can_feed_is_declared() {
    let count = |host: &Host| available(host).count();
    let mut host = Host::default();
    assert_eq!(count(&host), 56 - 6 - 2);
    host.hugepage_sizes.push("2MB".into());
    host.psi = true;
    // The file of version 1 speaks for the whole node only.
    assert_eq!(count(&host), 56 - 6);
    host.cgroup = CgroupVersion::V2;
    assert_eq!(count(&host), 56);
}
