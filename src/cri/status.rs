//! The one place where husk's errors become gRPC codes.

use std::borrow::Cow;

use tonic::{Code, Status};

use crate::types::error::{Error, Kind};

/// Turns an error into the status a client sees.
pub fn status(error: Error) -> Status {
    let code = match error.kind() {
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
        Kind::Unavailable => Code::Unavailable,
        Kind::ResourceExhausted => Code::ResourceExhausted,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::PermissionDenied => Code::PermissionDenied,
        Kind::Cancelled => Code::Cancelled,
        // kubelet recognises `RegistryUnavailable:` and the like only under this code.
        Kind::Unknown => Code::Unknown,
        Kind::Internal => Code::Internal,
    };
    Status::new(code, shortened(error.message()))
}

/// Longest message of a status in bytes. It travels in a header, where other than plain letters take three times the
/// room, and clients take as little as 16 KiB of headers; whoever shows it shows less.
const MAX_MESSAGE: usize = 4096;

/// A message that fits, whatever of the request it quotes. Both ends stay: what was attempted, and why it failed.
pub fn shortened(message: &str) -> Cow<'_, str> {
    if message.len() <= MAX_MESSAGE {
        return Cow::Borrowed(message);
    }
    let head = message.floor_char_boundary(MAX_MESSAGE * 5 / 8);
    let tail = message.ceil_char_boundary(message.len() - MAX_MESSAGE / 4);
    Cow::Owned(format!(
        "{} [{} bytes left out] {}",
        &message[..head],
        tail - head,
        &message[tail..]
    ))
}

/// A message for the log, where a line break of a client's making must not look like the next line.
pub fn one_line(message: &str) -> String {
    let short = shortened(message);
    let mut line = String::with_capacity(short.len());
    for c in short.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// The answer of a call that husk does not have yet.
pub fn unimplemented(call: &str) -> Status {
    Status::unimplemented(format!("{call} is not implemented by this version of husk"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_fits_whatever_it_quotes() {
        assert_eq!(shortened("short"), "short");
        let long = format!("attempt: {}: reason", "\u{e9}".repeat(1 << 20));
        let status = status(Error::invalid(long));
        assert!(
            status.message().len() <= MAX_MESSAGE,
            "{}",
            status.message().len()
        );
        assert!(status.message().starts_with("attempt: ") && status.message().ends_with(": reason"));
        assert!(status.message().contains("bytes left out"));
    }

    #[test]
    fn a_log_line_stays_one() {
        assert_eq!(
            one_line("a\nINFO b\u{1b}[31m \u{e9}"),
            "a\\nINFO b\\u{1b}[31m \u{e9}"
        );
    }
}
