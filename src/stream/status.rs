//! How a session ended, in the words of its protocol: plain text, or a Kubernetes `Status` since version 4.

use bytes::Bytes;
use serde::Serialize;

use crate::types::error::Error;

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Success,
    /// The command ended with this code, which is not 0.
    ExitCode(i32),
    /// There is no exit code to tell.
    Failed(Error),
}

/// How outcomes are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Nothing if all is well, else text: versions 1 to 3.
    Text,
    /// JSON: versions 4 and 5.
    Json,
}

#[derive(Serialize)]
struct Status<'a> {
    metadata: Metadata,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Serialize)]
struct Metadata {}

#[derive(Serialize)]
struct Details<'a> {
    causes: [Cause<'a>; 1],
}

#[derive(Serialize)]
struct Cause<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    message: String,
}

impl Outcome {
    /// What goes over the error stream; may be nothing.
    pub fn encode(&self, format: Format) -> Bytes {
        match format {
            Format::Text => match self {
                Self::Success => Bytes::new(),
                Self::ExitCode(code) => exit_message(*code).into(),
                Self::Failed(error) => error.message().to_owned().into(),
            },
            Format::Json => serde_json::to_vec(&self.status()).unwrap_or_default().into(),
        }
    }

    fn status(&self) -> Status<'_> {
        let status = Status {
            metadata: Metadata {},
            status: "Failure",
            message: None,
            reason: None,
            details: None,
            code: None,
        };
        match self {
            Self::Success => Status {
                status: "Success",
                ..status
            },
            Self::ExitCode(code) => Status {
                message: Some(exit_message(*code)),
                reason: Some("NonZeroExitCode"),
                details: Some(Details {
                    causes: [Cause {
                        reason: Some("ExitCode"),
                        message: code.to_string(),
                    }],
                }),
                ..status
            },
            Self::Failed(error) => Status {
                message: Some(error.message().to_owned()),
                reason: Some("InternalError"),
                details: Some(Details {
                    causes: [Cause {
                        reason: None,
                        message: error.message().to_owned(),
                    }],
                }),
                code: Some(500),
                ..status
            },
        }
    }
}

fn exit_message(code: i32) -> String {
    format!("command terminated with exit code {code}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(outcome: &Outcome) -> String {
        String::from_utf8_lossy(&outcome.encode(Format::Json)).into_owned()
    }

    #[test]
    fn clients_find_what_they_look_for() {
        assert_eq!(json(&Outcome::Success), r#"{"metadata":{},"status":"Success"}"#);
        assert_eq!(
            json(&Outcome::ExitCode(3)),
            r#"{"metadata":{},"status":"Failure","message":"command terminated with exit code 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#
        );
        assert_eq!(
            json(&Outcome::Failed(Error::internal("no \"such\" thing"))),
            r#"{"metadata":{},"status":"Failure","message":"no \"such\" thing","reason":"InternalError","details":{"causes":[{"message":"no \"such\" thing"}]},"code":500}"#
        );
    }

    #[test]
    fn older_clients_get_text_and_silence() {
        assert!(Outcome::Success.encode(Format::Text).is_empty());
        assert_eq!(
            Outcome::ExitCode(3).encode(Format::Text),
            "command terminated with exit code 3"
        );
        assert_eq!(
            Outcome::Failed(Error::internal("why")).encode(Format::Text),
            "why"
        );
    }
}
