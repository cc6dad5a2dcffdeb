//! Following a supervisor: its events, a connection that is lost, and what is not yet known of its containers.
//!
//! A supervisor that does not answer is not gone: it may be held up by a log on a server that hangs, and its containers
//! run meanwhile. Only its process's end says that it is gone, or that nobody listens on its socket.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info, warn};

use crate::supervisor::protocol::{ContainerStatus, Event, Phase};
use crate::types::time::now_nanos;
use crate::types::{ContainerState, Kind, PodState};

use super::Runtime;
use super::client::Client;
use super::container::{Container, ContainerStatus as Known};
use super::exits::Ending;
use super::sandbox::Pod;

/// Pause before a supervisor is connected to again that never greeted on the last connection.
const RECONNECT_PAUSE: Duration = Duration::from_secs(5);
/// First pause between two questions for a supervisor's state.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl Runtime {
    /// Follows the events of a pod's supervisor until it ends.
    pub(super) fn watch_supervisor(self: &Arc<Self>, pod: &Arc<Pod>) {
        let Some(supervisor) = pod.supervisor() else {
            return;
        };
        let (this, pod) = (Arc::clone(self), Arc::clone(pod));
        tokio::spawn(async move {
            let mut client = supervisor.client;
            loop {
                // There is one receiver of events for each connection, and this is its only taker.
                let Some(mut events) = client.events() else { return };
                while let Some(event) = events.recv().await {
                    this.on_event(event);
                }
                // Tells those who wait for an event that it will not come any more.
                drop(events);
                match this.reconnect(&pod, &client).await {
                    Some(fresh) => client = fresh,
                    None => break,
                }
            }
            this.supervisor_ended(&pod).await;
        });
    }

    /// After a connection was closed: another one, if the supervisor lives and nobody has stopped it.
    async fn reconnect(self: &Arc<Self>, pod: &Arc<Pod>, old: &Client) -> Option<Client> {
        let mut pause = !old.has_greeted();
        loop {
            let facts = pod.supervisor()?.facts;
            if !old.is_alive() {
                return None;
            }
            if pause {
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
            let client = match Client::take_over(&self.paths.pod(&pod.id), &pod.id, facts.pid) {
                Ok(client) => client,
                Err(error) if error.kind() == Kind::NotFound => return None,
                Err(error) => {
                    warn!(pod = ?pod.id, %error, "connection to the supervisor was lost; trying again");
                    pause = true;
                    continue;
                }
            };
            warn!(pod = ?pod.id, "connection to the supervisor was lost; connected again");
            pod.status_mut().supervisor.as_mut()?.client = client.clone();
            let (this, pod, asked) = (Arc::clone(self), Arc::clone(pod), client.clone());
            tokio::spawn(async move { this.catch_up(&pod, &asked).await });
            return Some(client);
        }
    }

    /// Brings what is known of a pod's containers to agree with what its supervisor knows. Comes back when it does; when
    /// the connection is closed, which whoever follows its events deals with; or when there is nothing to ask.
    pub(super) async fn catch_up(self: &Arc<Self>, pod: &Arc<Pod>, client: &Client) {
        let (mut pause, mut silent) = (FIRST_PAUSE, false);
        loop {
            // As of before the question: what is made or removed meanwhile need not be in the answer.
            let mut known = self.index.containers_of(&pod.id);
            known.retain(|c| is_at_supervisor(&c.status()));
            if known.is_empty() {
                return;
            }
            let again = match client.state().await {
                Ok(state) => {
                    let mut again = false;
                    for container in &known {
                        let view = state.containers.iter().find(|c| c.id == *container.id());
                        again |= self.reconcile(container, view).await;
                    }
                    again
                }
                Err(_) if client.is_closed() || !client.is_alive() => return,
                Err(error) if silent => {
                    debug!(pod = ?pod.id, %error, "supervisor is still silent");
                    true
                }
                Err(error) => {
                    warn!(pod = ?pod.id, %error, "supervisor does not answer; its pod is taken to be as it was recorded");
                    silent = true;
                    true
                }
            };
            if !again {
                if silent {
                    info!(pod = ?pod.id, "supervisor answers again");
                }
                return;
            }
            tokio::time::sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Whether it has to be asked again: a start that nobody waits for any more is under way, and how that goes is told to
    /// nobody else.
    async fn reconcile(&self, container: &Arc<Container>, view: Option<&ContainerStatus>) -> bool {
        if !is_at_supervisor(&container.status()) {
            return false;
        }
        let ending = match view {
            None => self.ending_without_supervisor(container, super::recover::UNSEEN_END),
            Some(ContainerStatus { exit: Some(exit), .. }) => Ending::exited(exit),
            Some(view) => {
                self.change_container(container, |s| advance(s, view));
                return view.phase == Phase::Starting;
            }
        };
        self.ended(container, ending).await;
        false
    }

    /// Does not wait: neither for a cgroup whose processes take their time to die, nor for anything else that would keep
    /// the next event, which may be of a neighbour whose probe is waited for.
    fn on_event(self: &Arc<Self>, event: Event) {
        match event {
            // There is one for each container, and of all events of one only this changes anything.
            Event::ContainerExited(id, record) => {
                if let Ok(container) = self.find_container(id.as_str()) {
                    let this = Arc::clone(self);
                    tokio::spawn(async move { this.ended(&container, Ending::exited(&record)).await });
                }
            }
            Event::ExecExited(exit) => self.execs.ended(&exit.exec_id, exit.exit_code),
            Event::OomSeen { container, kills } => {
                info!(
                    ?container,
                    kills, "a process of the container was killed for lack of memory"
                );
            }
            Event::LogTrouble {
                container,
                dropped,
                reason,
            } if reason.is_empty() => {
                info!(?container, dropped, "container output is logged again");
            }
            Event::LogTrouble {
                container,
                dropped,
                reason,
            } => {
                warn!(?container, dropped, %reason, "container output could not be logged");
            }
        }
    }

    /// A supervisor is gone. If nobody asked for that, its containers go too: never a silent orphan.
    async fn supervisor_ended(self: &Arc<Self>, pod: &Arc<Pod>) {
        if pod.status_mut().supervisor.take().is_none() {
            return;
        }
        warn!(pod = ?pod.id, "supervisor ended unexpectedly; killing the pod's containers");
        for container in self.index.containers_of(&pod.id) {
            let lost = "the pod's supervisor was killed, and with it the container's process";
            let ending = self.ending_without_supervisor(&container, lost);
            self.ended(&container, ending).await;
        }
        self.change_pod(pod, |s| s.state = PodState::NotReady);
        if let Err(error) = self.save_pod(pod) {
            warn!(pod = ?pod.id, %error, "pod record could not be written");
        }
    }
}

/// Whether a supervisor has to know of a container in this state.
fn is_at_supervisor(status: &Known) -> bool {
    matches!(status.state, ContainerState::Created | ContainerState::Running) && !status.removing
}

/// Takes over what a supervisor said of a container that has not ended. Its answer may be older than what is known by now:
/// it never takes anything back.
fn advance(known: &mut Known, view: &ContainerStatus) {
    match (known.state, view.phase) {
        (ContainerState::Created, Phase::Running) => known.state = ContainerState::Running,
        // That it is being started, whoever asked for it, keeps it from being started twice.
        (ContainerState::Created, Phase::Starting) if known.started_at == 0 => known.started_at = now_nanos(),
        (ContainerState::Created, _) | (ContainerState::Running, Phase::Running) => {}
        _ => return,
    }
    known.pid = view.pid;
    if view.started_at != 0 {
        known.started_at = view.started_at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(phase: Phase) -> ContainerStatus {
        ContainerStatus {
            id: crate::types::ContainerId::random(),
            phase,
            pid: 7,
            created_at: 1,
            started_at: if phase == Phase::Running { 9 } else { 0 },
            tty: false,
            exit: None,
            execs: Vec::new(),
            log_dropped: 0,
            notes: Vec::new(),
        }
    }

    fn after(state: ContainerState, phases: &[Phase]) -> Known {
        let mut known = Known {
            state,
            ..Known::default()
        };
        for phase in phases {
            advance(&mut known, &view(*phase));
        }
        known
    }

    #[test]
    fn a_supervisors_word_only_leads_on() {
        let created = after(ContainerState::Created, &[Phase::Created]);
        assert_eq!(
            (created.state, created.pid, created.started_at),
            (ContainerState::Created, 7, 0)
        );
        let starting = after(ContainerState::Created, &[Phase::Starting]);
        assert_eq!(starting.state, ContainerState::Created);
        assert_ne!(starting.started_at, 0, "it could be started a second time");
        let running = after(ContainerState::Created, &[Phase::Starting, Phase::Running]);
        assert_eq!((running.state, running.started_at), (ContainerState::Running, 9));
        // Answers that were on their way when something newer became known.
        let late = after(
            ContainerState::Created,
            &[Phase::Running, Phase::Created, Phase::Starting],
        );
        assert_eq!((late.state, late.started_at), (ContainerState::Running, 9));
        let ended = after(ContainerState::Exited, &[Phase::Running]);
        assert_eq!((ended.state, ended.pid), (ContainerState::Exited, 0));
    }
}
