//! CNI through the reference plugins, as Debian packages them (1.1.1: they know up to specification 1.0.0).

use super::*;

/// `$DIR` is replaced by the node's directory: host-local keeps its leases there.
const BRIDGE: &str = r#"{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"hairpinMode":true,
    "ipam":{"type":"host-local","dataDir":"$DIR/leases","ranges":[[{"subnet":"10.77.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}"#;
const PORTMAP: &str = r#"{"type":"portmap","capabilities":{"portMappings":true}}"#;

fn configure(node: &Node, version: &str, plugins: &[&str]) {
    fs::create_dir_all(node.path("net.d")).unwrap();
    let plugins = plugins
        .join(",")
        .replace("$DIR", node.dir.path().to_str().unwrap());
    let text = format!(r#"{{"cniVersion":"{version}","name":"debnet","plugins":[{plugins}]}}"#);
    fs::write(node.path("net.d/10-deb.conflist"), text).unwrap();
}

fn leases(node: &Node) -> Vec<String> {
    let entries = fs::read_dir(node.path("leases/debnet")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("10.")).collect()
}

#[test]
fn pods_of_all_versions_reach_each_other_and_beyond() {
    on_a_node(|node| async move {
        for version in ["0.3.1", "0.4.0", "1.0.0"] {
            configure(&node, version, &[BRIDGE, PORTMAP]);
            let network = Network::start(node.config()).await.unwrap();
            assert!(network.condition().ready);
            let (one, two) = (pod("one"), pod("two"));
            let (a, _) = (run(&network, &one).await, run(&network, &two).await);
            assert!(
                a.interfaces
                    .iter()
                    .any(|i| i.name == "eth0" && i.sandbox == network.netns_path(&one.id).to_str().unwrap())
            );
            serve_tcp(&network.netns_path(&one.id), 80);
            serve(node.outside(|| TcpListener::bind(("::", 82)).unwrap()));
            let two_at = network.netns_path(&two.id);
            assert!(
                netns::inside(&two_at, || ask_tcp(a.ips[0], 80)).unwrap().is_ok(),
                "{version}: pod to pod"
            );
            let seen = netns::inside(&two_at, || ask_tcp(ip(OUTSIDE), 82))
                .unwrap()
                .unwrap();
            assert_eq!(seen, NODE, "{version}: pod to the world");
            assert_eq!(leases(&node).len(), 2);
            quit_tcp(a.ips[0], 80);
            let _ = ask_quit_outside(&two_at);
            stop(&network, &one).await;
            stop(&network, &two).await;
            assert_eq!(leases(&node).len(), 0);
            network.shutdown().await;
        }
        remove_what_the_plugins_keep();
        node.assert_clean();
    });
}

fn ask_quit_outside(from: &Path) -> Result<()> {
    netns::inside(from, || quit_tcp(ip(OUTSIDE), 82))
}

/// The bridge plugin leaves its bridge, and iptables the chains it has made.
fn remove_what_the_plugins_keep() {
    let _ = Socket::route().unwrap().batch(vec![route::delete_link("cni0")]);
    let rules = |args: &[&str]| {
        std::process::Command::new("iptables")
            .args(args)
            .output()
            .unwrap()
    };
    let listed = String::from_utf8(rules(&["-t", "nat", "-S"]).stdout).unwrap();
    // Rules of pods would be leaks; only the static ones of portmap may be there.
    assert!(!listed.contains("10.77.0."), "{listed}");
    std::process::Command::new("nft")
        .args(["flush", "ruleset"])
        .status()
        .unwrap();
}

#[test]
fn host_ports_work_through_the_plugin_and_without_one() {
    on_a_node(|node| async move {
        for plugins in [&[BRIDGE, PORTMAP][..], &[BRIDGE][..]] {
            configure(&node, "1.0.0", plugins);
            let network = Network::start(node.config()).await.unwrap();
            let mut web = pod("web");
            web.port_mappings = vec![mapping(Protocol::Tcp, "", 8080, 80)];
            let given = run(&network, &web).await;
            serve_tcp(&network.netns_path(&web.id), 80);
            let what = format!("with {} plugins", plugins.len());
            assert_eq!(
                ask_tcp(ip("127.0.0.1"), 8080).unwrap(),
                "10.77.0.1",
                "{what}: 127.0.0.1"
            );
            assert!(ask_tcp(ip(NODE), 8080).is_ok(), "{what}: the node's address");
            assert_eq!(
                node.outside(|| ask_tcp(ip(NODE), 8080)).unwrap(),
                OUTSIDE,
                "{what}: a neighbour"
            );
            quit_tcp(given.ips[0], 80);
            stop(&network, &web).await;
            assert!(ask_tcp(ip("127.0.0.1"), 8080).is_err());
            assert_eq!(leases(&node).len(), 0);
            network.shutdown().await;
        }
        remove_what_the_plugins_keep();
        node.assert_clean();
    });
}

#[test]
fn a_lease_does_not_survive_a_reboot() {
    on_a_node(|node| async move {
        configure(&node, "1.0.0", &[BRIDGE, PORTMAP]);
        let network = Network::start(node.config()).await.unwrap();
        let mut web = pod("web");
        web.port_mappings = vec![mapping(Protocol::Tcp, "", 8080, 80)];
        run(&network, &web).await;
        drop(network);
        // What a reboot does: interfaces, rules and mounts are gone, files stay.
        std::process::Command::new("nft")
            .args(["flush", "ruleset"])
            .status()
            .unwrap();
        netns::unpin(&node.path("netns").join(web.id.as_str())).unwrap();
        fs::write(node.path("netns").join(web.id.as_str()), "").unwrap();
        assert_eq!(leases(&node).len(), 1);
        fs::remove_dir_all(node.path("net.d")).unwrap();

        let network = Network::start(node.config()).await.unwrap();
        network.teardown(&web.id).await.unwrap();
        network.remove_netns(&web.id).unwrap();
        assert_eq!(leases(&node).len(), 0);
        network.shutdown().await;
        remove_what_the_plugins_keep();
        node.assert_clean();
    });
}

#[test]
fn an_address_range_that_is_used_up_is_reported_as_the_plugin_says_it() {
    on_a_node(|node| async move {
        configure(
            &node,
            "1.0.0",
            &[&BRIDGE.replace("10.77.0.0/24", "10.77.0.0/30"), PORTMAP],
        );
        let network = Network::start(node.config()).await.unwrap();
        let (one, two) = (pod("one"), pod("two"));
        run(&network, &one).await;
        network.create_netns(&two.id).unwrap();
        let error = network.setup(&two).await.unwrap_err();
        assert!(
            error.message().contains("\"bridge\"") && error.message().contains("no IP addresses available"),
            "{error}"
        );
        assert_eq!(leases(&node).len(), 1);
        network.collect(&HashSet::new()).await;
        assert_eq!(leases(&node).len(), 0);
        network.shutdown().await;
        remove_what_the_plugins_keep();
        node.assert_clean();
    });
}

#[test]
fn a_version_the_plugins_do_not_know_makes_the_node_not_ready() {
    on_a_node(|node| async move {
        configure(&node, "1.1.0", &[BRIDGE]);
        let network = Network::start(node.config()).await.unwrap();
        let condition = network.condition();
        assert!(
            !condition.ready && condition.message.contains("1.1.0") && condition.message.contains("1.0.0"),
            "{condition:?}"
        );
    });
}
