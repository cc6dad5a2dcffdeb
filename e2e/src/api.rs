//! As much of a Kubernetes API server as kubectl needs to exec, attach, forward ports and copy: it answers discovery, shows
//! one pod, and hands upgraded connections through to the address that husk's CRI gives.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use k8s_cri::v1::{AttachRequest, ExecRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::cri::Cri;
use crate::websocket::address;

/// The server.
#[derive(Debug)]
pub struct Api {
    /// Where it listens.
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

/// What the one pod is.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The sandbox.
    pub pod: String,
    /// Its only container.
    pub container: String,
    /// It has standard input and a terminal.
    pub interactive: bool,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A request's head.
#[derive(Debug)]
struct Head {
    method: String,
    path: String,
    query: Vec<(String, String)>,
    /// As it came, without the first line and the host.
    headers: Vec<(String, String)>,
}

impl Api {
    /// Shows `shown` as pod `web` in namespace `default`, with container `main`.
    pub async fn start(cri: Cri, shown: Shown) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (cri, shown) = (cri.clone(), shown.clone());
                tokio::spawn(async move {
                    if let Err(error) = serve(tcp, cri, shown).await {
                        eprintln!("the stand-in for the API server: {error:#}");
                    }
                });
            }
        });
        Ok(Self { address, accepting })
    }
}

async fn serve(mut tcp: TcpStream, cri: Cri, shown: Shown) -> Result<()> {
    let Some(head) = read_head(&mut tcp).await? else {
        return Ok(());
    };
    let pod = "/api/v1/namespaces/default/pods/web";
    let (status, body) = match head.path.as_str() {
        "/version" => (
            200,
            r#"{"major":"1","minor":"32","gitVersion":"v1.32.0"}"#.to_owned(),
        ),
        "/api" => (200, r#"{"kind":"APIVersions","versions":["v1"]}"#.to_owned()),
        "/apis" => (
            200,
            r#"{"kind":"APIGroupList","apiVersion":"v1","groups":[]}"#.to_owned(),
        ),
        "/api/v1" => (200, resources()),
        path if path == pod => (200, show(&shown)),
        path => match path.strip_prefix(pod) {
            Some("/exec" | "/attach" | "/portforward") => {
                return match open(&cri, &head, &shown).await {
                    Ok(url) => proxy(tcp, &head, &url).await,
                    Err(error) => answer(&mut tcp, 500, &failure(&format!("{error:#}"))).await,
                };
            }
            _ => (404, failure(&format!("there is no {path}"))),
        },
    };
    answer(&mut tcp, status, &body).await
}

/// Makes husk give an address.
async fn open(cri: &Cri, head: &Head, shown: &Shown) -> Result<String> {
    let set = |name: &str| {
        head.query
            .iter()
            .any(|(n, v)| n == name && (v == "true" || v == "1"))
    };
    let (stdin, stdout, stderr, tty) = (set("stdin"), set("stdout"), set("stderr"), set("tty"));
    if head.path.ends_with("/exec") {
        let cmd = head.query.iter().filter(|(n, _)| n == "command");
        let request = ExecRequest {
            container_id: shown.container.clone(),
            cmd: cmd.map(|(_, v)| v.clone()).collect(),
            stdin,
            stdout,
            stderr,
            tty,
        };
        return Ok(cri.exec_url(request).await?);
    }
    if head.path.ends_with("/attach") {
        let request = AttachRequest {
            container_id: shown.container.clone(),
            stdin,
            stdout,
            stderr,
            tty,
        };
        return Ok(cri.attach_url(request).await?);
    }
    Ok(cri.port_forward_url(&shown.pod, Vec::new()).await?)
}

/// Sends the request on to `url`, and copies bytes both ways.
async fn proxy(mut client: TcpStream, head: &Head, url: &str) -> Result<()> {
    let target = address(url)?;
    let path = url.splitn(4, '/').nth(3).context("an address without a path")?;
    let mut server = TcpStream::connect(target).await?;
    let mut text = format!("{} /{path} HTTP/1.1\r\nHost: {target}\r\n", head.method);
    for (name, value) in &head.headers {
        write!(text, "{name}: {value}\r\n")?;
    }
    text += "\r\n";
    server.write_all(text.as_bytes()).await?;
    // A broken connection is what some tests are about.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    Ok(())
}

async fn answer(tcp: &mut TcpStream, status: u16, body: &str) -> Result<()> {
    let head = format!(
        "HTTP/1.1 {status} Some\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    tcp.write_all(head.as_bytes()).await?;
    tcp.write_all(body.as_bytes()).await?;
    Ok(tcp.shutdown().await?)
}

async fn read_head(tcp: &mut TcpStream) -> Result<Option<Head>> {
    let mut text = Vec::new();
    // One byte at a time: what comes behind the head belongs to whoever is behind us.
    while !text.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if tcp.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        text.push(byte[0]);
    }
    let text = String::from_utf8(text)?;
    let mut lines = text.lines();
    let mut start = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (
        start.next().unwrap_or_default(),
        start.next().context("no target")?,
    );
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let headers = lines.filter_map(|line| line.split_once(": "));
    Ok(Some(Head {
        method: method.into(),
        path: path.into(),
        query: pairs.map(|(n, v)| (decode(n), decode(v))).collect(),
        headers: headers
            .filter(|(n, _)| !n.eq_ignore_ascii_case("host"))
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect(),
    }))
}

/// Undoes URL encoding.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
                u8::from_str_radix(&String::from_utf8_lossy(&digits), 16).unwrap_or(b'?')
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn resources() -> String {
    let resource = |name: &str, kind: &str| {
        serde_json::json!({"name": name, "singularName": "", "namespaced": true, "kind": kind,
            "verbs": ["create", "get", "list"], "shortNames": if name == "pods" { vec!["po"] } else { vec![] }})
    };
    let list = [
        ("pods", "Pod"),
        ("pods/exec", "PodExecOptions"),
        ("pods/attach", "PodAttachOptions"),
        ("pods/portforward", "PodPortForwardOptions"),
    ];
    serde_json::json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1",
        "resources": list.map(|(name, kind)| resource(name, kind)),
    })
    .to_string()
}

fn show(shown: &Shown) -> String {
    serde_json::json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": "web", "namespace": "default", "uid": "u"},
        "spec": {"containers": [{"name": "main", "image": "busybox", "stdin": shown.interactive, "tty": shown.interactive}]},
        "status": {"phase": "Running", "containerStatuses": [{"name": "main", "ready": true, "state": {"running": {}}}]},
    })
    .to_string()
}

fn failure(message: &str) -> String {
    serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": 500})
        .to_string()
}
