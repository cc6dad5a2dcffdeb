//! Tests of the whole module, each on a node of its own: a network namespace in which husk, its plugins and its rules
//! live, so that nothing of this machine is touched and nothing can be left on it.

#![allow(clippy::unwrap_used)]

mod builtin;
mod debian;
mod leftover;
mod plugins;

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use std::collections::HashSet;

use tempfile::TempDir;

use super::netlink::{Socket, route};
use super::*;
use crate::types::pod::{PortMapping, Protocol};

/// The node's own address towards [`Node::outside`].
const NODE: &str = "203.0.113.1";
const OUTSIDE: &str = "203.0.113.2";

/// A node with a neighbour.
struct Node {
    dir: TempDir,
    outside: OwnedFd,
}

/// Runs `task` on a fresh node, with a runtime whose threads all live there.
fn on_a_node<F: Future<Output = ()>>(task: impl FnOnce(Node) -> F + Send) {
    let home = netns::create().unwrap();
    netns::inside_fd(home.as_fd(), || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let node = Node {
            dir: tempfile::tempdir().unwrap(),
            outside: netns::create().unwrap(),
        };
        node.connect_outside();
        runtime.block_on(task(node));
        runtime.shutdown_timeout(Duration::from_secs(10));
    })
    .unwrap();
}

impl Node {
    /// One end of a pair stands in for the node's network card.
    fn connect_outside(&self) {
        let veth = route::Veth {
            host: "card0",
            bridge: 0,
            inner: "eth0",
            mac: [2, 0, 0, 0, 0, 2],
            netns: self.outside.as_fd(),
            mtu: 0,
        };
        let mut socket = Socket::route().unwrap();
        socket
            .run(vec![veth.create(), route::set_up_by_name("card0")])
            .unwrap();
        let card = nix::net::if_::if_nametoindex("card0").unwrap();
        socket
            .run(vec![route::add_address(
                card,
                format!("{NODE}/24").parse().unwrap(),
            )])
            .unwrap();
        netns::inside_fd(self.outside.as_fd(), || {
            let eth0 = nix::net::if_::if_nametoindex("eth0").unwrap();
            let address = format!("{OUTSIDE}/24").parse().unwrap();
            Socket::route()
                .unwrap()
                .run(vec![route::set_up(eth0), route::add_address(eth0, address)])
                .unwrap();
        })
        .unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> NetworkConfig {
        NetworkConfig {
            cni_conf_dir: self.path("net.d"),
            cni_conf_template: None,
            cni_bin_dirs: vec![self.path("bin"), "/usr/lib/cni".into()],
            state_dir: self.path("state"),
            netns_dir: self.path("netns"),
            builtin: None,
            netns_pool: 2,
            cni_timeout: Duration::from_secs(60),
            cni_shared_cache: None,
            missing_plugin_patience: MISSING_PLUGIN_PATIENCE,
        }
    }

    fn builtin_config(&self) -> NetworkConfig {
        let subnet = "10.88.0.0/24".parse().unwrap();
        let subnet6 = Some("fd88::/64".parse().unwrap());
        let builtin = BuiltinConfig {
            bridge: String::new(),
            subnet,
            subnet6,
            mtu: 0,
        };
        NetworkConfig {
            builtin: Some(builtin),
            ..self.config()
        }
    }

    /// Runs `task` in the neighbour's namespace.
    fn outside<T: Send>(&self, task: impl FnOnce() -> T + Send) -> T {
        netns::inside_fd(self.outside.as_fd(), task).unwrap()
    }

    /// Names of the node's interfaces that were not there at the start, and its packet filter rules.
    fn left_over(&self) -> (Vec<String>, String) {
        let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let names = table
            .lines()
            .skip(2)
            .filter_map(|line| line.split_once(':'))
            .map(|(name, _)| name.trim());
        // What the kernel puts into every namespace for loaded tunnel modules is nobody's.
        let ours = names
            .filter(|name| name.starts_with("husk") || name.starts_with("hk") || name.starts_with("veth"));
        let links = ours.map(str::to_owned).collect();
        let rules = std::process::Command::new("nft")
            .args(["list", "ruleset"])
            .output()
            .unwrap();
        (links, String::from_utf8(rules.stdout).unwrap())
    }

    /// Waits until the namespaces that were closed have taken their interfaces along.
    fn assert_clean(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.left_over() != (vec![], String::new()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(self.left_over(), (vec![], String::new()));
        assert_eq!(fs::read_dir(self.path("netns")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(self.path("state/pods")).unwrap().count(), 0);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()));
    }
}

/// A test that fails half-way must not leave mounts on this machine.
impl Drop for Node {
    fn drop(&mut self) {
        for dir in ["netns", "netns2"] {
            for entry in fs::read_dir(self.path(dir)).into_iter().flatten().flatten() {
                let _ = netns::unpin(&entry.path());
            }
        }
    }
}

fn pod(name: &str) -> PodNetwork {
    PodNetwork {
        id: PodId::random(),
        name: name.into(),
        namespace: "default".into(),
        uid: format!("uid-{name}"),
        port_mappings: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        dns: None,
    }
}

fn mapping(protocol: Protocol, host_ip: &str, host_port: u16, container_port: u16) -> PortMapping {
    PortMapping {
        protocol,
        container_port,
        host_port,
        host_ip: host_ip.into(),
    }
}

async fn run(network: &Network, pod: &PodNetwork) -> Attachment {
    network.create_netns(&pod.id).unwrap();
    network.setup(pod).await.unwrap()
}

async fn stop(network: &Network, pod: &PodNetwork) {
    network.teardown(&pod.id).await.unwrap();
    network.remove_netns(&pod.id).unwrap();
}

/// Echoes one message per connection, on `port` of all addresses in the namespace at `path`, prefixed by the peer.
fn serve_tcp(path: &Path, port: u16) {
    let listener = netns::inside(path, || TcpListener::bind(("::", port)).unwrap()).unwrap();
    serve(listener);
}

fn serve(listener: TcpListener) {
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let mut byte = [0; 1];
            if stream.read_exact(&mut byte).is_ok() && byte == *b"q" {
                return;
            }
            let _ = write!(stream, "{}", peer.ip().to_canonical());
        }
    });
}

/// What the server sees as the peer's address, or the error.
fn ask_tcp(to: IpAddr, port: u16) -> Result<String, std::io::Error> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(to, port), Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all(b"?")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn quit_tcp(to: IpAddr, port: u16) {
    if let Ok(mut stream) = TcpStream::connect_timeout(&SocketAddr::new(to, port), Duration::from_secs(3)) {
        let _ = stream.write_all(b"q");
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
