//! Packets between daemon and supervisor, read by either end.

use husk::spec::plan::{ExecPlan, LaunchPlan};
use husk::supervisor::protocol::Op;
use husk::supervisor::wire::Message;

use crate::Said;

pub(super) const WORDS: &[&str] = &[
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "/run/husk",
    "{}",
    "{\"mounts\":[",
    "{\"process\":{",
    "net.ipv4.ip_forward",
    "../..",
    "\u{0}",
];

pub(super) fn packet(data: &[u8]) -> Said {
    let message = match Message::decode(data) {
        Ok(message) => message,
        Err(e) => return e.to_string(),
    };
    // What was understood is understood the same way once more by the other end.
    if !matches!(message, Message::Hello { .. } | Message::Greeting(_)) {
        let again = Message::decode(&message.encode());
        match &message {
            // Answered with the failure, never sent on.
            Message::Request(_, Err(failure)) => return failure.error.to_string(),
            _ => assert_eq!(again.map(|m| format!("{m:?}")), Ok(format!("{message:?}"))),
        }
    }
    let plan = match &message {
        Message::Request(_, Ok(Op::Create(_, create))) => {
            serde_json::from_slice::<LaunchPlan>(&create.plan_json)
                .map(|p| format!("{} mounts", p.mounts.len()))
        }
        Message::Request(_, Ok(Op::Exec(_, exec))) => serde_json::from_slice::<ExecPlan>(&exec.plan_json)
            .map(|p| format!("{} args", p.process.args.len())),
        _ => Ok(String::new()),
    };
    let kind: String = format!("{message:?}").chars().take(40).collect();
    format!("{kind} {plan:?}")
}
