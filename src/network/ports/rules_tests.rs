//! Tests of the rules of host ports.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::network::netns;
use std::os::fd::AsFd;
use std::process::Command;

fn networks(texts: &[&str]) -> Vec<Cidr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn keys(elements: &[Element]) -> Vec<(Vec<u8>, bool)> {
    elements.iter().map(|e| (e.key.clone(), e.ends_range)).collect()
}

#[test]
fn overlapping_and_touching_networks_become_one_range() {
    let list = networks(&[
        "10.1.2.0/24",
        "10.1.0.0/16",
        "10.2.0.0/16",
        "fd00::/64",
        "192.168.0.0/24",
    ]);
    let expected = [
        (vec![10, 1, 0, 0], false),
        (vec![10, 3, 0, 0], true),
        (vec![192, 168, 0, 0], false),
        (vec![192, 168, 1, 0], true),
    ];
    assert_eq!(keys(&ranges(Family::V4, &list)), expected);
    assert_eq!(ranges(Family::V6, &list).len(), 2);
    assert_eq!(
        keys(&ranges(Family::V4, &networks(&["0.0.0.0/0"]))),
        [(vec![0, 0, 0, 0], false)]
    );
}

/// What the nft tool makes of the table: the kernel took it, and a person can read it.
fn listing() -> String {
    let output = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_table_is_what_it_says() {
    let netns = netns::create().unwrap();
    let mapping = |host_ip: Option<&str>, pod: &str, protocol| Mapping {
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        host_port: 8080,
        protocol,
        pod_ip: pod.parse().unwrap(),
        pod_port: 80,
    };
    let any = mapping(None, "10.1.0.2", Protocol::Tcp);
    let one = mapping(Some("127.0.0.1"), "10.1.0.2", Protocol::Udp);
    let six = mapping(Some("fd00::1"), "fd01::2", Protocol::Sctp);
    let content = Content {
        mappings: vec![any],
        mapped: networks(&["10.1.0.0/16"]),
        hidden: networks(&["10.1.0.0/16", "fd01::/64"]),
    };
    let (full, empty) = netns::inside_fd(netns.as_fd(), || {
        let mut to = Connection::default();
        rebuild(&mut to, "husk-test", &content).unwrap();
        rebuild(&mut to, "husk-test", &content).unwrap();
        publish(&mut to, "husk-test", &[one, six], Some(&content)).unwrap();
        let taken = publish(&mut to, "husk-test", &[any], None).unwrap_err();
        assert_eq!(taken.errno(), libc::EEXIST);
        let full = listing();
        withdraw(&mut to, "husk-test", &[any, one, six]).unwrap();
        assert_eq!(
            withdraw(&mut to, "husk-test", &[any]).unwrap_err().errno(),
            libc::ENOENT
        );
        remove(&mut to, "husk-test").unwrap();
        assert_eq!(remove(&mut to, "husk-test").unwrap_err().errno(), libc::ENOENT);
        (full, listing())
    })
    .unwrap();
    for part in [
        "tcp . 8080 : 10.1.0.2 . 80",
        "127.0.0.1 . udp . 8080 : 10.1.0.2 . 80",
        "fd00::1 . sctp . 8080 : fd01::2 . 80",
        "elements = { 10.1.0.0/16 }",
        "elements = { fd01::/64 }",
        "fib daddr type local jump hostports",
        "ip daddr . meta l4proto . th dport map @hostports4",
        "meta l4proto . th dport map @ports4",
        "ip saddr 127.0.0.0/8 ip daddr @mapped4 ct status dnat masquerade",
        "ip saddr @hidden4 ip daddr != @hidden4 masquerade",
        "iif != \"lo\" ip daddr 127.0.0.0/8 drop",
        "hook prerouting priority raw",
        "hook postrouting priority srcnat",
    ] {
        assert!(full.contains(part), "{part} is not in\n{full}");
    }
    assert_eq!(empty, "");
}
