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
/// How long a token waits to be used.
pub const LIFE: Duration = Duration::from_secs(60);
/// Random bytes of a token.
const SECRET: usize = 16;

/// Tokens and what each allows.
#[derive(Debug)]
pub struct Tokens<T> {
    waiting: Mutex<HashMap<String, (Instant, T)>>,
}

impl<T> Default for Tokens<T> {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
        }
    }
}

impl<T> Tokens<T> {
    /// A fresh token for `what`, good for one use within [`LIFE`].
    ///
    /// # Errors
    /// [`Kind::ResourceExhausted`] if [`MAX_WAITING`] are waiting.
    pub fn issue(&self, what: T) -> Result<String> {
        self.issue_at(what, Instant::now())
    }

    fn issue_at(&self, what: T, now: Instant) -> Result<String> {
        let mut secret = [0; SECRET];
        crate::sys::random(&mut secret);
        let token = hex(&secret);
        let mut waiting = self.lock();
        // Nobody else does: what a token allows may be long, such as a command, and is not to be kept for nothing.
        waiting.retain(|_, (issued, _)| now.duration_since(*issued) < LIFE);
        if waiting.len() >= MAX_WAITING {
            return Err(Error::new(
                Kind::ResourceExhausted,
                format!(
                    "{MAX_WAITING} streaming addresses wait to be used; each is given up after {} s",
                    LIFE.as_secs()
                ),
            ));
        }
        waiting.insert(token.clone(), (now, what));
        Ok(token)
    }

    /// Looks at what `token` allows, if it is still good, without using it up.
    pub fn look<R>(&self, token: &str, look: impl FnOnce(&T) -> R) -> Option<R> {
        let waiting = self.lock();
        let (issued, what) = waiting.get(token)?;
        (issued.elapsed() < LIFE).then(|| look(what))
    }

    /// Uses `token` up.
    pub fn take(&self, token: &str) -> Option<T> {
        self.take_at(token, Instant::now())
    }

    fn take_at(&self, token: &str, now: Instant) -> Option<T> {
        let (issued, what) = self.lock().remove(token)?;
        (now.duration_since(issued) < LIFE).then_some(what)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, T)>> {
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
        let (one, two) = (tokens.issue(1).unwrap(), tokens.issue(2).unwrap());
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
        let (soon, late) = (tokens.issue_at(1, now).unwrap(), tokens.issue_at(2, now).unwrap());
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
        let old = tokens.issue_at(1, now).unwrap();
        let young = tokens.issue_at(2, now + LIFE / 2).unwrap();
        tokens.issue_at(3, now + LIFE).unwrap();
        assert!(!tokens.lock().contains_key(&old));
        assert!(tokens.lock().contains_key(&young));
    }

    #[test]
    fn a_thousand_wait_and_the_next_is_refused_until_they_are_old() {
        let tokens = Tokens::default();
        let now = Instant::now();
        for n in 0..MAX_WAITING {
            tokens.issue_at(n, now).unwrap();
        }
        let refused = tokens.issue_at(0, now + LIFE / 2).unwrap_err();
        assert_eq!(refused.kind(), Kind::ResourceExhausted);
        let fresh = tokens.issue_at(7, now + LIFE).unwrap();
        assert_eq!(tokens.lock().len(), 1, "the old ones are gone");
        assert_eq!(tokens.take_at(&fresh, now + LIFE), Some(7));
    }
}
