//! The signal that asks a container to stop.

use crate::spec::process::ImageDefaults;
use crate::types::error::{Error, Result};

/// The signal by number: the client's, the image's, or SIGTERM.
pub(in crate::pod) fn stop_signal(asked: i32, image: &ImageDefaults) -> Result<i32> {
    if asked != 0 {
        return Ok(asked);
    }
    if image.stop_signal.is_empty() {
        return Ok(libc::SIGTERM);
    }
    parse_signal(&image.stop_signal).ok_or_else(|| {
        Error::invalid(format!(
            "image: STOPSIGNAL {:?} is not a signal",
            image.stop_signal
        ))
    })
}

/// `9`, `KILL`, `SIGKILL`, `SIGRTMIN+3`.
fn parse_signal(text: &str) -> Option<i32> {
    const RTMIN: i32 = 34;
    let number = if let Ok(n) = text.parse::<i32>() {
        n
    } else {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(n) = name.strip_prefix("RTMIN") {
            RTMIN + offset(n, '+')?
        } else if let Some(n) = name.strip_prefix("RTMAX") {
            64 - offset(n, '-')?
        } else {
            format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok()? as i32
        }
    };
    (1..=64).contains(&number).then_some(number)
}

/// What follows `RTMIN` or `RTMAX`: nothing, or a sign and a small number. Images write what they like here.
fn offset(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    text.strip_prefix(sign)?.parse::<u8>().ok().map(i32::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [
            ("9", Some(9)),
            ("KILL", Some(9)),
            ("sigterm", Some(15)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX", Some(64)),
            ("RTMAX-14", Some(50)),
            ("SIGRTMIN+31", None),
            ("SIGRTMIN+2147483647", None),
            ("RTMAX--2147483648", None),
            ("SIGNONE", None),
            ("0", None),
            ("65", None),
            ("", None),
        ] {
            assert_eq!(parse_signal(text), number, "{text}");
        }
    }
}
