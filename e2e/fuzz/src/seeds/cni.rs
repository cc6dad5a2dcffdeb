//! CNI results of all versions, and configurations.

use super::{Seed, bytes};

/// What plugins print.
pub fn results() -> Vec<Seed> {
    [
        (
            "v0.2",
            r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24","gateway":"10.0.0.1","routes":[{"dst":"0.0.0.0/0"}]},"ip6":{"ip":"fd00::2/64"},"dns":{}}"#,
        ),
        (
            "v0.4",
            r#"{"cniVersion":"0.4.0","interfaces":[{"name":"br0","mac":"0a:58:0a:00:00:01"},{"name":"eth0","mac":"0a:58:0a:00:00:02","sandbox":"/run/netns/x"}],"ips":[{"version":"4","interface":1,"address":"10.0.0.2/24","gateway":"10.0.0.1"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"}]}"#,
        ),
        (
            "v1.1",
            r#"{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mtu":1500,"sandbox":"/run/netns/x"}],"ips":[{"interface":0,"address":"10.0.0.2/24"},{"interface":0,"address":"fd00::2/64"}],"routes":[{"dst":"::/0","mtu":1400,"table":7}],"dns":{"nameservers":["10.0.0.10"]}}"#,
        ),
        ("no-version", r#"{"ips":[{"address":"10.0.0.2/24"}]}"#),
        ("error", r#"{"cniVersion":"1.0.0","code":7,"msg":"no addresses left","details":"range is full"}"#),
    ]
    .map(|(name, text)| (name, bytes(text)))
    .into()
}

/// What `/etc/cni/net.d` holds.
pub fn configurations() -> Vec<Seed> {
    [
        (
            "bridge",
            r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.0.0.0/24"}]]}},{"type":"portmap","capabilities":{"portMappings":true}},{"type":"bandwidth","capabilities":{"bandwidth":true,"io.kubernetes.cri.pod-annotations":true}}]}"#,
        ),
        (
            "newest",
            r#"{"cniVersion":"1.1.0","cniVersions":["0.4.0","1.0.0","1.1.0"],"name":"pods","disableGC":true,"disableCheck":true,"loadOnlyInlinedPlugins":true,"plugins":[{"type":"ptp"}]}"#,
        ),
        ("one", r#"{"name":"lo","plugins":[{"type":"loopback"}]}"#),
    ]
    .map(|(name, text)| (name, bytes(text)))
    .into()
}
