#![allow(clippy::unwrap_used)]

use super::files::{size_name, value, version};
use super::*;

#[test]
fn releases_are_read() {
    for (release, numbers) in [
        ("6.12.3-rc1+deb", (6, 12)),
        ("5.4", (5, 4)),
        ("6.18.44-fc-v595", (6, 18)),
        ("", (0, 0)),
        ("x.y", (0, 0)),
    ] {
        assert_eq!(version(release), numbers, "{release}");
    }
}

#[test]
fn sizes_are_named_as_the_kernel_does() {
    assert_eq!(
        [64, 2048, 1 << 20, 3 << 19].map(size_name),
        ["64KB", "2MB", "1GB", "1536MB"]
    );
}

#[test]
fn a_key_is_no_prefix() {
    assert_eq!(
        value("MemTotalX:  1 kB\nMemTotal:  2 kB\n", "MemTotal"),
        Some("2 kB")
    );
}

#[test]
fn this_node_is_told_as_it_is() {
    let host = Host::probe();
    assert!(host.kernel >= (5, 4), "{:?}", host.kernel);
    assert!(host.openat2 && host.detached_mounts && host.mount_setattr);
    assert_eq!(host.boot_id.len(), 36);
    assert!(host.memory_total > 1 << 28);
    assert!(host.cpus >= 1);
    assert!(host.seccomp_actions.iter().any(|a| a == "errno"));
    // What /proc says of the bounding set is what prctl(2) says, bit for bit.
    for cap in 0..=host.last_capability {
        let set = rustix::thread::CapabilitySet::from_bits_retain(1 << cap);
        let has = rustix::thread::capability_is_in_bounding_set(set).unwrap();
        assert_eq!(
            has,
            host.capability_bounding & (1 << cap) != 0,
            "capability {cap}"
        );
    }
}

#[test]
fn a_node_can_be_made_up() {
    let host = Host {
        kernel: (5, 10),
        cgroup: CgroupVersion::V2,
        ..Host::default()
    };
    assert!(host.unified_cgroup());
}
