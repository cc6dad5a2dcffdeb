//! One-time addresses: what a call of the CRI has allowed, until somebody comes for it.
//!
//! Owns nothing that must survive: a token that a restarted daemon does not know answers 404, and kubelet asks anew.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::types::error::{Error, Kind, Result};
use crate::types::id::hex;

/// Most tokens waiting to be used.
pub const MAX_WAITING: usize = 1000;
/// Most bytes that all of them may hold, such as long commands.
pub const MAX_BYTES: usize = 64 << 20;
/// How long a token waits to be used.
pub const LIFE: Duration = Duration::from_secs(60);
/// Random bytes of a token.
const SECRET: usize = 16;

/// Tokens and what each allows.
#[derive(Debug)]
pub struct Tokens<T> {
    waiting: Mutex<HashMap<String, Waiting<T>>>,
}

/// What a token allows.
#[derive(Debug)]
struct Waiting<T> {
    issued: Instant,
    bytes: usize,
    what: T,
}

impl<T> Default for Tokens<T> {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
        }
    }
}

impl<T> Tokens<T> {
    /// A fresh token for `what`, which holds about that many bytes; good for one use within [`LIFE`].
    ///
    /// # Errors
    /// [`Kind::ResourceExhausted`] if [`MAX_WAITING`] are waiting, or if they would hold more than [`MAX_BYTES`].
    pub fn issue(&self, what: T, bytes: usize) -> Result<String> {
        self.issue_at(what, bytes, Instant::now())
    }

    fn issue_at(&self, what: T, bytes: usize, now: Instant) -> Result<String> {
        let mut secret = [0; SECRET];
        crate::sys::random(&mut secret);
        let token = hex(&secret);
        let mut waiting = self.lock();
        // Nobody else does: what a token allows may be long, such as a command, and is not to be kept for nothing.
        waiting.retain(|_, w| now.duration_since(w.issued) < LIFE);
        let held: usize = waiting.values().map(|w| w.bytes).sum();
        if waiting.len() >= MAX_WAITING || held.saturating_add(bytes) > MAX_BYTES {
            return Err(Error::new(
                Kind::ResourceExhausted,
                format!(
                    "{} streaming addresses with {held} bytes of commands wait to be used; each is given up after {} s",
                    waiting.len(),
                    LIFE.as_secs()
                ),
            ));
        }
        let issued = now;
        waiting.insert(token.clone(), Waiting { issued, bytes, what });
        Ok(token)
    }

    /// Looks at what `token` allows, if it is still good, without using it up.
    pub fn look<R>(&self, token: &str, look: impl FnOnce(&T) -> R) -> Option<R> {
        let waiting = self.lock();
        let found = waiting.get(token)?;
        (found.issued.elapsed() < LIFE).then(|| look(&found.what))
    }

    /// Uses `token` up.
    pub fn take(&self, token: &str) -> Option<T> {
        self.take_at(token, Instant::now())
    }

    fn take_at(&self, token: &str, now: Instant) -> Option<T> {
        let found = self.lock().remove(token)?;
        (now.duration_since(found.issued) < LIFE).then_some(found.what)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Waiting<T>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_token_is_good_once() {
        let tokens = Tokens::default();
        let (one, two) = (tokens.issue(1, 0).unwrap(), tokens.issue(2, 0).unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), 2 * SECRET);
        assert_eq!(tokens.look(&one, |n| *n), Some(1));
        assert_eq!(tokens.take(&one), Some(1));
        assert_eq!(tokens.look(&one, |n| *n), None);
        assert_eq!(tokens.take(&one), None);
        assert_eq!(tokens.take(""), None);
        assert_eq!(tokens.take(&two), Some(2));
    }

    #[test]
    fn a_token_is_good_for_a_minute() {
        let tokens = Tokens::default();
        let now = Instant::now();
        let (soon, late) = (
            tokens.issue_at(1, 0, now).unwrap(),
            tokens.issue_at(2, 0, now).unwrap(),
        );
        assert_eq!(
            tokens.take_at(&soon, now + LIFE - Duration::from_millis(1)),
            Some(1)
        );
        assert_eq!(tokens.take_at(&late, now + LIFE), None);
    }

    #[test]
    fn old_ones_are_given_up_when_a_new_one_is_issued() {
        let tokens = Tokens::default();
        let now = Instant::now();
        let old = tokens.issue_at(1, 0, now).unwrap();
        let young = tokens.issue_at(2, 0, now + LIFE / 2).unwrap();
        tokens.issue_at(3, 0, now + LIFE).unwrap();
        assert!(!tokens.lock().contains_key(&old));
        assert!(tokens.lock().contains_key(&young));
    }

    #[test]
    fn a_thousand_wait_and_the_next_is_refused_until_they_are_old() {
        let tokens = Tokens::default();
        let now = Instant::now();
        for n in 0..MAX_WAITING {
            tokens.issue_at(n, 0, now).unwrap();
        }
        let refused = tokens.issue_at(0, 0, now + LIFE / 2).unwrap_err();
        assert_eq!(refused.kind(), Kind::ResourceExhausted);
        let fresh = tokens.issue_at(7, 0, now + LIFE).unwrap();
        assert_eq!(tokens.lock().len(), 1, "the old ones are gone");
        assert_eq!(tokens.take_at(&fresh, now + LIFE), Some(7));
    }

    #[test]
    fn what_waits_holds_no_more_than_so_many_bytes() {
        let tokens = Tokens::default();
        let now = Instant::now();
        let half = MAX_BYTES / 2;
        let first = tokens.issue_at(1, half, now).unwrap();
        tokens.issue_at(2, half, now).unwrap();
        let refused = tokens.issue_at(3, 1, now).unwrap_err();
        assert_eq!(refused.kind(), Kind::ResourceExhausted);
        assert_eq!(tokens.take_at(&first, now), Some(1));
        tokens.issue_at(4, half, now).unwrap();
        assert!(tokens.issue_at(5, usize::MAX, now).is_err());
    }
}
