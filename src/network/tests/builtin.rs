//! The built-in network.

use super::*;
use crate::types::Kind;

#[test]
fn pods_reach_each_other_the_node_and_beyond() {
    on_a_node(|node| async move {
        let network = Network::start(node.builtin_config()).await.unwrap();
        assert!(network.condition().ready);
        let (one, two) = (pod("one"), pod("two"));
        let (a, b) = (run(&network, &one).await, run(&network, &two).await);
        assert_eq!(a.ips, [ip("10.88.0.2"), ip("fd88::2")]);
        assert_eq!(b.ips, [ip("10.88.0.3"), ip("fd88::3")]);
        let (one_at, two_at) = (network.netns_path(&one.id), network.netns_path(&two.id));
        serve_tcp(&one_at, 80);
        serve(TcpListener::bind(("::", 81)).unwrap());
        serve(node.outside(|| TcpListener::bind(("::", 82)).unwrap()));

        for (to, peer) in a.ips.iter().zip(&b.ips) {
            let seen = netns::inside(&two_at, || ask_tcp(*to, 80)).unwrap().unwrap();
            assert_eq!(seen, peer.to_string(), "pod to pod");
        }
        assert_eq!(ask_tcp(a.ips[0], 80).unwrap(), "10.88.0.1", "node to pod");
        assert_eq!(ask_tcp(a.ips[1], 80).unwrap(), "fd88::1", "node to pod");
        let seen = netns::inside(&two_at, || ask_tcp(ip("10.88.0.1"), 81))
            .unwrap()
            .unwrap();
        assert_eq!(seen, "10.88.0.3", "pod to node");
        let seen = netns::inside(&two_at, || ask_tcp(ip(OUTSIDE), 82))
            .unwrap()
            .unwrap();
        assert_eq!(seen, NODE, "a pod that reaches out is hidden behind the node");

        let counters = read_counters(&network, &two.id).unwrap();
        assert_eq!(counters.len(), 1);
        assert!(counters[0].name == "eth0" && counters[0].rx_bytes > 0 && counters[0].tx_packets > 0);

        quit_tcp(a.ips[0], 80);
        stop(&network, &one).await;
        stop(&network, &two).await;
        assert!(read_counters(&network, &two.id).is_err());
        network.shutdown().await;
        node.assert_clean();
    });
}

#[test]
fn host_ports_lead_to_the_pod_from_everywhere() {
    on_a_node(|node| async move {
        let network = Network::start(node.builtin_config()).await.unwrap();
        let mut web = pod("web");
        web.port_mappings = vec![
            mapping(Protocol::Tcp, "", 8080, 80),
            mapping(Protocol::Tcp, "127.0.0.1", 8081, 80),
            mapping(Protocol::Udp, "", 8080, 53),
            mapping(Protocol::Sctp, "", 8080, 80),
            mapping(Protocol::Tcp, "", 0, 99),
        ];
        let client = pod("client");
        let given = run(&network, &web).await;
        run(&network, &client).await;
        let (web_at, client_at) = (network.netns_path(&web.id), network.netns_path(&client.id));
        serve_tcp(&web_at, 80);

        assert_eq!(
            ask_tcp(ip("127.0.0.1"), 8080).unwrap(),
            "10.88.0.1",
            "127.0.0.1 on the node"
        );
        assert_eq!(
            ask_tcp(ip(NODE), 8080).unwrap(),
            NODE,
            "the node's address on the node"
        );
        assert_eq!(ask_tcp(ip("127.0.0.1"), 8081).unwrap(), "10.88.0.1", "host IP");
        assert!(ask_tcp(ip(NODE), 8081).is_err(), "only the host IP");
        assert_eq!(
            node.outside(|| ask_tcp(ip(NODE), 8080)).unwrap(),
            OUTSIDE,
            "a neighbour of the node"
        );
        assert!(
            node.outside(|| ask_tcp(ip(NODE), 8081)).is_err(),
            "only the host IP"
        );
        let seen = netns::inside(&client_at, || ask_tcp(ip(NODE), 8080))
            .unwrap()
            .unwrap();
        assert_eq!(seen, "10.88.0.1", "another pod, by the node's address");
        let seen = netns::inside(&web_at, || ask_tcp(ip(NODE), 8080))
            .unwrap()
            .unwrap();
        assert_eq!(seen, "10.88.0.1", "the pod itself, by the node's address");
        assert_eq!(ask_tcp(ip("fd88::1"), 8080).unwrap(), "fd88::1", "IPv6");

        let server = netns::inside(&web_at, || UdpSocket::bind(("0.0.0.0", 53)).unwrap()).unwrap();
        let asking = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        asking.send_to(b"hello", ("127.0.0.1", 8080)).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        let (length, peer) = server.recv_from(&mut [0; 16]).unwrap();
        assert_eq!((length, peer.ip()), (5, ip("10.88.0.1")), "UDP");
        assert!(node.left_over().1.contains("sctp . 8080 : 10.88.0.2 . 80"));
        // An open socket keeps its namespace alive.
        drop(server);

        quit_tcp(given.ips[0], 80);
        stop(&network, &web).await;
        assert!(
            ask_tcp(ip("127.0.0.1"), 8080).is_err(),
            "nothing is behind the port any more"
        );
        stop(&network, &client).await;
        network.shutdown().await;
        node.assert_clean();
    });
}

#[test]
fn loopback_services_of_the_node_stay_out_of_reach() {
    on_a_node(|node| async move {
        let network = Network::start(node.builtin_config()).await.unwrap();
        let mut web = pod("web");
        web.port_mappings = vec![mapping(Protocol::Tcp, "", 8080, 80)];
        run(&network, &web).await;
        let secret = UdpSocket::bind(("127.0.0.1", 700)).unwrap();
        secret.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let path = network.netns_path(&web.id);
        // A hostile pod routes 127.0.0.1 to the node.
        let sent = netns::inside(&path, || {
            let ip = |args: &[&str]| {
                assert!(
                    std::process::Command::new("ip")
                        .args(args)
                        .status()
                        .unwrap()
                        .success()
                )
            };
            ip(&["addr", "del", "127.0.0.1/8", "dev", "lo"]);
            ip(&["route", "add", "127.0.0.1/32", "via", "10.88.0.1", "dev", "eth0"]);
            fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            let socket = UdpSocket::bind(("10.88.0.2", 0)).unwrap();
            socket.send_to(b"x", ("127.0.0.1", 700)).is_ok()
        });
        assert!(sent.unwrap());
        assert!(secret.recv_from(&mut [0; 8]).is_err());
        assert!(
            fs::read_to_string("/proc/sys/net/ipv4/conf/card0/route_localnet")
                .unwrap()
                .starts_with('0')
        );
        stop(&network, &web).await;
        network.shutdown().await;
        node.assert_clean();
    });
}

#[test]
fn a_taken_port_fails_the_pod_and_leaves_nothing_of_it() {
    on_a_node(|node| async move {
        let network = Network::start(node.builtin_config()).await.unwrap();
        let (mut one, mut two) = (pod("one"), pod("two"));
        one.port_mappings = vec![mapping(Protocol::Tcp, "", 8080, 80)];
        two.port_mappings = vec![mapping(Protocol::Tcp, "127.0.0.1", 8080, 80)];
        run(&network, &one).await;
        network.create_netns(&two.id).unwrap();
        let error = network.setup(&two).await.unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(
            error.message().contains("8080/tcp") && error.message().contains(one.id.short()),
            "{error}"
        );
        assert!(network.attachment(&two.id).is_none());
        stop(&network, &one).await;
        network.setup(&two).await.unwrap();
        stop(&network, &two).await;
        network.shutdown().await;
        node.assert_clean();
    });
}

#[test]
fn a_daemon_that_was_killed_is_followed_by_one_that_knows() {
    on_a_node(|node| async move {
        let (mut web, lost) = (pod("web"), pod("lost"));
        web.port_mappings = vec![mapping(Protocol::Tcp, "", 8080, 80)];
        let first = Network::start(node.builtin_config()).await.unwrap();
        let given = run(&first, &web).await;
        run(&first, &lost).await;
        drop(first);
        std::process::Command::new("nft")
            .args(["flush", "ruleset"])
            .status()
            .unwrap();

        let second = Network::start(node.builtin_config()).await.unwrap();
        assert_eq!(second.attachment(&web.id), Some(given.clone()));
        serve_tcp(&second.netns_path(&web.id), 80);
        assert_eq!(
            ask_tcp(ip("127.0.0.1"), 8080).unwrap(),
            "10.88.0.1",
            "ports are back"
        );
        let found = second.collect(&HashSet::from([web.id.clone()])).await;
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|line| line.starts_with("removed ")), "{found:?}");
        assert!(second.collect(&HashSet::from([web.id.clone()])).await.is_empty());
        assert_ne!(run(&second, &pod("x")).await.ips, given.ips);

        second.shutdown().await;
        assert!(
            !node.left_over().0.is_empty(),
            "pods keep their network when a daemon shuts down"
        );
        quit_tcp(given.ips[0], 80);
        let third = Network::start(node.builtin_config()).await.unwrap();
        third.collect(&HashSet::new()).await;
        third.shutdown().await;
        node.assert_clean();
    });
}

#[test]
fn a_subnet_that_is_taken_makes_way() {
    on_a_node(|node| async move {
        let mut socket = Socket::route().unwrap();
        let card = nix::net::if_::if_nametoindex("card0").unwrap();
        socket
            .run(vec![route::add_address(card, "10.88.0.77/24".parse().unwrap())])
            .unwrap();
        let network = Network::start(node.builtin_config()).await.unwrap();
        let one = pod("one");
        assert_eq!(run(&network, &one).await.ips[0], ip("10.88.1.2"));

        let other = NetworkConfig {
            state_dir: node.path("state2"),
            netns_dir: node.path("netns2"),
            ..node.builtin_config()
        };
        let other = Network::start(other).await.unwrap();
        let two = pod("two");
        assert_eq!(
            run(&other, &two).await.ips[0],
            ip("10.88.2.2"),
            "two daemons share a node"
        );
        stop(&other, &two).await;
        other.shutdown().await;
        stop(&network, &one).await;
        network.shutdown().await;
        node.assert_clean();
    });
}

#[test]
fn a_bridge_that_was_removed_comes_back_with_the_next_pod() {
    on_a_node(|node| async move {
        let network = Network::start(node.builtin_config()).await.unwrap();
        let (one, two) = (pod("one"), pod("two"));
        let interfaces = run(&network, &one).await.interfaces;
        Socket::route()
            .unwrap()
            .run(vec![route::delete_link(&interfaces[0].name)])
            .unwrap();
        let given = run(&network, &two).await;
        serve_tcp(&network.netns_path(&two.id), 80);
        assert!(ask_tcp(given.ips[0], 80).is_ok());
        quit_tcp(given.ips[0], 80);
        stop(&network, &one).await;
        stop(&network, &two).await;
        network.shutdown().await;
        node.assert_clean();
    });
}

#[test]
fn a_repeated_setup_starts_over() {
    on_a_node(|node| async move {
        let network = Network::start(node.builtin_config()).await.unwrap();
        let one = pod("one");
        run(&network, &one).await;
        assert_eq!(
            network.create_netns(&one.id).unwrap(),
            network.netns_path(&one.id)
        );
        let again = network.setup(&one).await.unwrap();
        serve_tcp(&network.netns_path(&one.id), 80);
        assert!(ask_tcp(again.ips[0], 80).is_ok());
        quit_tcp(again.ips[0], 80);
        stop(&network, &one).await;
        stop(&network, &one).await;
        network.shutdown().await;
        node.assert_clean();
    });
}

#[test]
fn without_a_namespace_or_addresses_there_is_a_clear_error() {
    on_a_node(|node| async move {
        let mut config = node.builtin_config();
        if let Some(builtin) = &mut config.builtin {
            builtin.subnet = "10.88.0.0/29".parse().unwrap();
            builtin.subnet6 = None;
        }
        let network = Network::start(config).await.unwrap();
        assert_eq!(
            network.setup(&pod("none")).await.unwrap_err().kind(),
            Kind::FailedPrecondition
        );
        let pods: Vec<PodNetwork> = (0..5).map(|n| pod(&n.to_string())).collect();
        for pod in &pods {
            run(&network, pod).await;
        }
        let late = pod("late");
        network.create_netns(&late.id).unwrap();
        let error = network.setup(&late).await.unwrap_err();
        assert_eq!(error.kind(), Kind::ResourceExhausted);
        assert!(error.message().contains("10.88.0.0/29"), "{error}");
        stop(&network, &pods[3]).await;
        network.setup(&late).await.unwrap();
        network.collect(&HashSet::new()).await;
        network.shutdown().await;
        node.assert_clean();
    });
}

#[test]
fn a_configuration_that_cannot_work_is_refused_at_the_start() {
    on_a_node(|node| async move {
        for (bridge, subnet, subnet6) in [
            ("a-name-that-is-too-long", "10.88.0.0/24", None),
            ("", "10.88.0.0/30", None),
            ("", "fd00::/64", None),
            ("", "10.88.0.0/24", Some("10.0.0.0/8")),
        ] {
            let mut config = node.builtin_config();
            let subnet6 = subnet6.map(|s: &str| s.parse().unwrap());
            let subnet = subnet.parse().unwrap();
            config.builtin = Some(BuiltinConfig {
                bridge: bridge.into(),
                subnet,
                subnet6,
                mtu: 0,
            });
            let error = Network::start(config).await.err().unwrap();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
        }
    });
}

#[test]
fn a_udp_sender_follows_its_port_to_the_next_pod() {
    on_a_node(|node| async move {
        let network = Network::start(node.builtin_config()).await.unwrap();
        let sender = UdpSocket::bind((NODE, 5000)).unwrap();
        let send = || sender.send_to(b"x", (NODE, 5353)).unwrap();
        for _ in 0..3 {
            // Before, between and after pods: each leaves a flow that leads elsewhere.
            send();
            let mut dns = pod("dns");
            dns.port_mappings = vec![mapping(Protocol::Udp, "", 5353, 53)];
            run(&network, &dns).await;
            let path = network.netns_path(&dns.id);
            let server = netns::inside(&path, || UdpSocket::bind(("0.0.0.0", 53)).unwrap()).unwrap();
            server.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            send();
            assert_eq!(server.recv_from(&mut [0; 8]).unwrap().0, 1);
            drop(server);
            stop(&network, &dns).await;
        }
        network.shutdown().await;
        node.assert_clean();
    });
}

#[test]
fn many_pods_at_once_get_an_address_each() {
    on_a_node(|node| async move {
        let network = Network::start(node.builtin_config()).await.unwrap();
        let pods: Vec<PodNetwork> = (0..40).map(|n| pod(&n.to_string())).collect();
        let mut tasks = tokio::task::JoinSet::new();
        for pod in pods {
            let network = Arc::clone(&network);
            tasks.spawn(async move {
                let given = run(&network, &pod).await;
                (pod, given)
            });
        }
        let started = tasks.join_all().await;
        let addresses: HashSet<IpAddr> = started.iter().flat_map(|(_, given)| given.ips.clone()).collect();
        assert_eq!(addresses.len(), 80);
        for (pod, _) in &started {
            stop(&network, pod).await;
        }
        network.shutdown().await;
        node.assert_clean();
    });
}

#[test]
fn a_node_without_a_free_subnet_is_not_ready_until_there_is_one() {
    on_a_node(|node| async move {
        let card = nix::net::if_::if_nametoindex("card0").unwrap();
        let mut socket = Socket::route().unwrap();
        socket
            .run(vec![route::add_address(card, "10.0.0.1/8".parse().unwrap())])
            .unwrap();
        let network = Network::start(node.builtin_config()).await.unwrap();
        let one = pod("one");
        network.create_netns(&one.id).unwrap();
        let error = network.setup(&one).await.unwrap_err();
        assert!(
            error.message().contains("10.88.0.0/24") && error.message().contains("10.0.0.0/8"),
            "{error}"
        );
        assert!(!network.condition().ready);
        let status = std::process::Command::new("ip")
            .args(["addr", "del", "10.0.0.1/8", "dev", "card0"])
            .status();
        assert!(status.unwrap().success());
        let deadline = Instant::now() + Duration::from_secs(60);
        while !network.condition().ready && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(
            network.condition().ready,
            "it tries again by itself: kubelet sends no pods meanwhile"
        );
        run(&network, &one).await;
        stop(&network, &one).await;
        network.shutdown().await;
        node.assert_clean();
    });
}

fn read_counters(network: &Network, pod: &PodId) -> crate::types::Result<Vec<InterfaceCounters>> {
    network.counters(std::slice::from_ref(pod)).unwrap().remove(0)
}
