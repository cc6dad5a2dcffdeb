#![allow(clippy::unwrap_used)]

use std::os::fd::AsFd;

use super::*;
use crate::network::netns;
use crate::types::Kind;

fn port(host_ip: &str, host_port: u16, protocol: Protocol) -> PortMapping {
    PortMapping {
        protocol,
        container_port: 80,
        host_port,
        host_ip: host_ip.into(),
    }
}

fn tcp(host_ip: &str, host_port: u16) -> PortMapping {
    port(host_ip, host_port, Protocol::Tcp)
}

#[test]
fn a_port_belongs_to_one_pod_at_a_time() {
    let mapper = Mapper::new("husk-unit".into());
    let (one, two) = (PodId::random(), PodId::random());
    mapper
        .claim(&one, &[tcp("", 80), tcp("127.0.0.1", 81), tcp("", 0)])
        .unwrap();
    for taken in [tcp("", 80), tcp("10.0.0.1", 80), tcp("", 81), tcp("0.0.0.0", 81)] {
        let error = mapper.claim(&two, std::slice::from_ref(&taken)).unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition, "{taken:?}");
        assert!(error.message().contains(one.short()), "{error}");
    }
    mapper
        .claim(
            &two,
            &[port("", 80, Protocol::Udp), tcp("127.0.0.2", 81), tcp("::", 81)],
        )
        .unwrap();
    mapper.withdraw(&one).unwrap();
    mapper.withdraw(&one).unwrap();
    mapper.claim(&two, &[tcp("", 80)]).unwrap();
}

#[test]
fn nonsense_is_refused_before_anything_happens() {
    let mapper = Mapper::new("husk-unit".into());
    let pod = PodId::random();
    assert!(
        mapper
            .claim(&pod, &[tcp("localhost", 80)])
            .unwrap_err()
            .message()
            .contains("localhost")
    );
    assert!(
        mapper
            .claim(&pod, &[tcp("", 80), tcp("127.0.0.1", 80)])
            .unwrap_err()
            .message()
            .contains("twice")
    );
    let v4_only = ["10.0.0.2/24".parse().unwrap()];
    let claims = [Claim::of(&tcp("::1", 80)).unwrap()];
    assert!(
        mappings(&claims, &v4_only)
            .unwrap_err()
            .message()
            .contains("family")
    );
}

#[test]
fn the_table_survives_being_flushed_by_others() {
    let netns = netns::create().unwrap();
    netns::inside_fd(netns.as_fd(), || {
        let nft = |args: &[&str]| std::process::Command::new("nft").args(args).output().unwrap();
        let listed = || String::from_utf8(nft(&["list", "ruleset"]).stdout).unwrap();
        let address = ["10.7.0.2/24".parse().unwrap()];
        let mut socket = Socket::route().unwrap();
        socket
            .run(vec![route::create_bridge("br0", [2, 0, 0, 0, 0, 1], 0)])
            .unwrap();
        let bridge = nix::net::if_::if_nametoindex("br0").unwrap();
        socket
            .run(vec![route::add_address(bridge, "10.7.0.1/24".parse().unwrap())])
            .unwrap();
        let mapper = Mapper::new("husk-unit".into());
        let (one, two) = (PodId::random(), PodId::random());
        mapper.hide(&["10.7.0.1/24".parse().unwrap()]).unwrap();
        mapper.claim(&one, &[tcp("", 8081)]).unwrap();
        mapper.publish(&one, &address).unwrap();
        assert!(listed().contains("8081") && listed().contains("10.7.0.0/24"));
        nft(&["flush", "ruleset"]);
        mapper.claim(&two, &[tcp("", 8082)]).unwrap();
        mapper.publish(&two, &address).unwrap();
        assert!(listed().contains("8081") && listed().contains("8082") && listed().contains("10.7.0.0/24"));
        nft(&["flush", "ruleset"]);
        mapper.withdraw(&one).unwrap();
        assert!(!listed().contains("8081") && listed().contains("8082"));
        assert!(!mapper.close().unwrap());
        mapper.withdraw(&two).unwrap();
        assert!(mapper.close().unwrap());
        assert_eq!(listed(), "");
    })
    .unwrap();
}
