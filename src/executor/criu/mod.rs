//! A conversation with criu, which writes processes down and makes them again.
//!
//! criu is run as `criu swrk <descriptor>` by whoever has a use for it and serves one request over a socket. It may ask
//! back at stages on the way. What went wrong it says in its log, newer versions also in their answer.

pub mod rpc;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use prost::Message as _;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use super::error::{During, LaunchError, Step};
use rpc::{Request, Response, Type};

/// By this name the images know the network namespace of the pod. Other runtimes use it, too.
pub const NETWORK: &str = "extRootNetNS";
/// And the process id namespace of a pod whose containers share one.
pub const PIDS: &str = "extRootPidNS";
/// File among the images that says what the standard streams were, as a JSON list of three.
pub const STREAMS: &str = "descriptors.json";

/// No answer is longer.
const MAX_ANSWER: usize = 64 * 1024;
/// Most bytes read of a log's end.
const MAX_LOG: u64 = 256 * 1024;
/// Most complaints that are passed on, and how long they may be together, in characters.
const MAX_COMPLAINTS: usize = 3;
const MAX_TEXT: usize = 800;

/// husk's end of the socket.
#[derive(Debug)]
pub struct Session(OwnedFd);

impl Session {
    /// A session, and criu's end of it. Both are closed by execve. No answer may take longer than `patience`.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn new(patience: Duration) -> Step<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .during("create", || "socket to criu")?;
        set_socket_timeout(&ours, Timeout::Recv, Some(patience)).during("set up", || "socket to criu")?;
        Ok((Self(ours), theirs))
    }

    /// Sends the request and waits for its answer. At each stage that criu asks about, `stage` is called with its name;
    /// an error of it makes criu give up. Blocks for as long as criu takes.
    ///
    /// # Errors
    /// What `stage` said; that criu refused, as far as it says why in its answer; that it ended without one.
    pub fn ask(
        &self,
        request: &Request,
        mut stage: impl FnMut(&str) -> Result<(), LaunchError>,
    ) -> Step<Response> {
        self.say(request)?;
        loop {
            let answer = self.hear()?;
            if answer.kind != Type::Notify as i32 {
                return match answer.success {
                    true => Ok(answer),
                    false => Err(refused(&answer)),
                };
            }
            let name = answer.notify.and_then(|n| n.stage).unwrap_or_default();
            let outcome = stage(&name);
            self.say(&Request {
                kind: Type::Notify as i32,
                options: None,
                notify_success: Some(outcome.is_ok()),
            })?;
            if let Err(error) = outcome {
                // It undoes what it has begun, and says that it has failed.
                let _ = self.hear();
                return Err(error);
            }
        }
    }

    fn say(&self, request: &Request) -> Step {
        let bytes = request.encode_to_vec();
        send(&self.0, &bytes, SendFlags::NOSIGNAL)
            .map(drop)
            .during("send to", || "criu")
    }

    fn hear(&self) -> Step<Response> {
        let mut bytes = vec![0; MAX_ANSWER];
        let length = loop {
            match recv(&self.0, bytes.as_mut_slice(), RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    return Err(LaunchError::new("hear from", "criu", "it takes too long").advise(
                        "a process or a file of the container may be on a file system that does not answer",
                    ));
                }
                other => break other.during("hear from", || "criu")?.0,
            }
        };
        if length == 0 {
            return Err(LaunchError::new(
                "hear from",
                "criu",
                "it ended without an answer",
            ));
        }
        Response::decode(&bytes[..length])
            .map_err(|e| LaunchError::new("understand", "criu's answer", e.to_string()))
    }
}

fn refused(answer: &Response) -> LaunchError {
    let reason = match (&answer.message, answer.errno) {
        (Some(text), _) if !text.trim().is_empty() => text.trim().to_owned(),
        (_, Some(errno)) if errno > 0 => super::error::describe(errno),
        _ => "it failed and gave no reason".to_owned(),
    };
    LaunchError::new("run", "criu", reason)
}

/// The first complaints in a log of criu's, or `None` if there are none to be found.
pub fn complaints(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_LOG))).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_LOG).read_to_end(&mut bytes).ok()?;
    said(&String::from_utf8_lossy(&bytes))
}

fn said(log: &str) -> Option<String> {
    // `(00.088570) Error (criu/namespaces.c:1117): text`, in restored processes `(00.08)  12: Error (...)`.
    let errors = log
        .lines()
        .filter_map(|line| line.split_once("Error (")?.1.split_once("): "));
    let worth = |text: &&str| !text.contains("RLIMIT_NOFILE") && !text.starts_with("exited, status=");
    let texts: Vec<&str> = errors
        .map(|(_, text)| text.trim())
        .filter(worth)
        .take(MAX_COMPLAINTS)
        .collect();
    let text: String = texts.join(" / ").chars().take(MAX_TEXT).collect();
    Some(text).filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::rpc::{Notify, Options, Restored};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Plays criu's part: takes the requests, gives the answers, one each.
    fn serve(socket: OwnedFd, answers: Vec<Response>) -> std::thread::JoinHandle<Vec<Request>> {
        std::thread::spawn(move || {
            let mut heard = Vec::new();
            for answer in answers {
                let mut bytes = vec![0; MAX_ANSWER];
                let n = recv(&socket, bytes.as_mut_slice(), RecvFlags::empty()).unwrap().0;
                heard.push(Request::decode(&bytes[..n]).unwrap());
                send(&socket, &answer.encode_to_vec(), SendFlags::NOSIGNAL).unwrap();
            }
            heard
        })
    }

    fn dump() -> Request {
        Request {
            kind: Type::Dump as i32,
            options: Some(Options {
                images_dir_fd: 5,
                pid: Some(7),
                ..Options::default()
            }),
            notify_success: None,
        }
    }

    fn answer(kind: Type, success: bool) -> Response {
        Response {
            kind: kind as i32,
            success,
            ..Response::default()
        }
    }

    fn at(stage: &str) -> Response {
        Response {
            notify: Some(Notify {
                stage: Some(stage.into()),
                pid: None,
            }),
            ..answer(Type::Notify, true)
        }
    }

    #[test]
    fn stages_are_answered_until_it_is_done() {
        let (session, theirs) = Session::new(PATIENCE).unwrap();
        let done = Response {
            restored: Some(Restored { pid: 12 }),
            ..answer(Type::Dump, true)
        };
        let criu = serve(theirs, vec![at("pre-dump"), at("post-dump"), done]);
        let mut stages = Vec::new();
        let answer = session.ask(&dump(), |s| {
            stages.push(s.to_owned());
            Ok(())
        });
        assert_eq!(answer.unwrap().restored.map(|r| r.pid), Some(12));
        assert_eq!(stages, ["pre-dump", "post-dump"]);
        let heard = criu.join().unwrap();
        assert_eq!(heard[0], dump());
        assert_eq!((heard[1].kind, heard[1].notify_success), (6, Some(true)));
        assert_eq!(heard[2].notify_success, Some(true));
    }

    #[test]
    fn a_stage_that_fails_makes_criu_give_up() {
        let (session, theirs) = Session::new(PATIENCE).unwrap();
        let criu = serve(theirs, vec![at("post-dump"), answer(Type::Dump, false)]);
        let error = session
            .ask(&dump(), |_| {
                Err(LaunchError::new("pack", "it", "the disk is full"))
            })
            .unwrap_err();
        assert!(error.to_string().contains("the disk is full"), "{error}");
        assert_eq!(criu.join().unwrap()[1].notify_success, Some(false));
    }

    #[test]
    fn refusals_and_silence_are_told() {
        for (message, errno, words) in [
            (Some(" no such thing\n"), None, "no such thing"),
            (Some(""), Some(3), "ESRCH"),
            (None, None, "gave no reason"),
        ] {
            let (session, theirs) = Session::new(PATIENCE).unwrap();
            let refusal = Response {
                message: message.map(Into::into),
                errno,
                ..answer(Type::Dump, false)
            };
            let criu = serve(theirs, vec![refusal]);
            let error = session.ask(&dump(), |_| Ok(())).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            criu.join().unwrap();
        }
        let (session, theirs) = Session::new(PATIENCE).unwrap();
        drop(theirs);
        assert!(session.ask(&dump(), |_| Ok(())).is_err());
    }

    #[test]
    fn no_answer_is_waited_for_for_ever() {
        let (session, _theirs) = Session::new(Duration::from_millis(50)).unwrap();
        let error = session.ask(&dump(), |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
    }

    #[test]
    fn complaints_are_found_in_a_log() {
        let log = "(00.04) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: no\n\
                   (00.05) Warn  (criu/x.c:1): careful\n\
                   (00.08) Error (criu/namespaces.c:1117): Can't dump a pid namespace without the process init\n\
                   (00.09)     12: Error (criu/y.c:2): second\n\
                   (00.10) Error (criu/util.c:657): exited, status=1\n";
        assert_eq!(
            said(log).as_deref(),
            Some("Can't dump a pid namespace without the process init / second")
        );
        assert_eq!(said("(00.04) nothing\n"), None);
        let long = format!("(0) Error (a:1): {}\n", "x".repeat(5000));
        assert_eq!(said(&long).map(|t| t.len()), Some(MAX_TEXT));
    }
}
