//! NRI, the Node Resource Interface: programs on the node that are told about pods and containers, may adjust what is
//! made of them, and may change limits of those that run.
//!
//! Owns the socket that plugins connect to, who they are and in which order they are asked, and what they know of. Pods
//! and containers themselves belong to `pod`, which names none of this: it calls [`crate::pod::plugins::Plugins`].
//!
//! ```text
//! plugin ──socket──> mux (two connections) ──> ttrpc ──> service: RegisterPlugin, UpdateContainers
//!                                                └─────< plugin: Configure, Synchronize, then events in order of index
//! ```
//!
//! Events are dispatched one at a time under one lock, as plugins are used to. A plugin that joins is given the state of
//! the node under the same lock, and what a plugin knows of changes only under it: so every object is either in that
//! state or announced by an event afterwards, and none is both or neither.

mod adjust;
pub mod connection;
mod dispatch;
mod events;
#[doc(hidden)]
pub mod fuzz;
mod known;
pub mod mux;
mod plugin;
pub mod proto;
mod resources;
mod service;
pub mod ttrpc;
mod updates;
mod view;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::pod::Runtime;
use crate::socket;
use crate::types::error::{Error, Kind, Result};

use known::Known;
use plugin::Plugin;
use proto::ttrpc::Request;

/// Most plugins at once, those that have not registered yet included.
const MAX_PLUGINS: usize = 64;
/// How long to wait after the socket could not accept a connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// How husk talks to plugins.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where plugins connect.
    pub socket: PathBuf,
    /// How long a plugin may take to register, and to take in the state of the node.
    pub registration_timeout: Duration,
    /// How long a plugin may take to answer anything else.
    pub request_timeout: Duration,
    /// husk's name, for plugins.
    pub runtime_name: String,
    /// husk's version, for plugins.
    pub runtime_version: String,
}

/// The plugins of this node.
pub struct Nri {
    settings: Settings,
    /// The runtime holds this, so this must not hold the runtime.
    runtime: Weak<Runtime>,
    /// In the order they are asked. The lock is what makes events come one at a time.
    plugins: tokio::sync::Mutex<Vec<Arc<Plugin>>>,
    known: Mutex<Known>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Nri {
    /// Starts to listen for plugins, and has them told of everything that happens in `runtime` from now on.
    ///
    /// # Errors
    /// The socket cannot be made, or somebody else serves it.
    pub async fn start(runtime: &Arc<Runtime>, settings: Settings) -> Result<Arc<Self>> {
        // Only root may reach it: a plugin can do to containers what it likes.
        let listener = socket::listen(&settings.socket, 0o600)
            .await
            .map_err(|e| e.context("NRI"))?;
        let nri = Arc::new(Self {
            settings,
            runtime: Arc::downgrade(runtime),
            plugins: tokio::sync::Mutex::default(),
            known: Mutex::default(),
            places: Arc::new(Semaphore::new(MAX_PLUGINS)),
            stop: CancellationToken::new(),
        });
        // In this order: what ends in between is ignored as unknown, and then learnt as ended.
        runtime.attach_plugins(Arc::new(events::Events(Arc::clone(&nri))));
        nri.learn(runtime).await;
        info!(socket = %nri.settings.socket.display(), "NRI plugins may connect");
        tokio::spawn(accept(Arc::clone(&nri), listener));
        Ok(nri)
    }

    /// Takes no more plugins, tells those that are there, and removes the socket.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let plugins = std::mem::take(&mut *self.plugins.lock().await);
        futures_util::future::join_all(plugins.iter().map(|p| p.shut_down())).await;
        let _ = std::fs::remove_file(&self.settings.socket);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn runtime(&self) -> Result<Arc<Runtime>> {
        self.runtime
            .upgrade()
            .ok_or_else(|| Error::new(Kind::Unavailable, "husk is stopping"))
    }

    /// Serves a plugin from its connection to its end.
    async fn host(self: Arc<Self>, stream: UnixStream) {
        let (plugin, requests) = match Plugin::register(stream, &self.settings).await {
            Ok(registered) => registered,
            Err(error) => {
                warn!(%error, "NRI plugin could not register");
                return;
            }
        };
        let plugin = Arc::new(plugin);
        let worker = tokio::spawn(Arc::clone(&self).work(Arc::clone(&plugin), requests));
        match self.join(&plugin).await {
            Ok(()) => plugin.connection().closed().await,
            Err(error) => {
                warn!(%error, "NRI plugin could not join");
                plugin.connection().close("it could not join");
            }
        }
        info!(plugin = %plugin.name, reason = %plugin.connection().reason(), "NRI plugin is gone");
        self.plugins.lock().await.retain(|p| !p.is_gone());
        // No more requests come, and the one it works on is not given up half-way: limits that the kernel has and the
        // records have not would be lost with the next restart.
        let _ = worker.await;
    }

    /// Gives a plugin the state of the node and takes it into the circle of those who are asked.
    async fn join(&self, plugin: &Arc<Plugin>) -> Result<()> {
        let mut plugins = self.plugins.lock().await;
        let (pods, containers) = self.snapshot();
        let counts = (pods.len(), containers.len());
        let updates = plugin
            .synchronize(pods, containers, self.settings.registration_timeout)
            .await?;
        plugins.push(Arc::clone(plugin));
        plugins.sort_by(|a, b| a.index.cmp(&b.index));
        info!(plugin = %plugin.name, pods = counts.0, containers = counts.1, "NRI plugin is synchronized");
        self.apply_updates(&plugin.name, updates).await;
        Ok(())
    }

    /// Works on what a plugin asks for, one request at a time.
    async fn work(self: Arc<Self>, plugin: Arc<Plugin>, mut requests: mpsc::Receiver<(u32, Request)>) {
        while let Some((stream, request)) = requests.recv().await {
            let outcome = match service::understand(&request) {
                Ok(service::Call::Update(wanted)) => self.unsolicited(&plugin.name, wanted).await,
                Ok(service::Call::Register(_)) => Err(service::status(
                    ttrpc::code::FAILED_PRECONDITION,
                    "the plugin is registered already",
                )),
                Err(status) => Err(status),
            };
            plugin.connection().respond(stream, outcome).await;
        }
    }
}

async fn accept(nri: Arc<Nri>, listener: UnixListener) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = nri.stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => match Arc::clone(&nri.places).try_acquire_owned() {
                Ok(place) => {
                    let nri = Arc::clone(&nri);
                    tokio::spawn(async move {
                        nri.host(stream).await;
                        drop(place);
                    });
                }
                Err(_) => warn!("NRI plugin is refused: {MAX_PLUGINS} are connected"),
            },
            Err(error) => {
                warn!(%error, "connection of an NRI plugin could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}
