//! What is being made in a pod, and for how long: whoever has to have the pod to itself waits for it, and says what for if
//! that takes too long.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::RwLockWriteGuard;

use crate::types::error::{Error, Kind, Result};

use super::sandbox::Pod;

/// How long to wait. Clients give a stop two minutes, and repeat it.
const PATIENCE: Duration = Duration::from_secs(20);

/// The operations of one pod.
#[derive(Default)]
pub(super) struct UnderWay(Mutex<Vec<(u64, Instant, String)>>);

/// One of them; it is over when this is dropped.
pub(super) struct Operation<'a> {
    all: &'a UnderWay,
    number: u64,
}

impl UnderWay {
    /// Notes that `what` starts now: "create container \"main\"".
    pub fn start(&self, what: String) -> Operation<'_> {
        let mut list = self.list();
        let number = list.last().map_or(0, |(last, ..)| last + 1);
        list.push((number, Instant::now(), what));
        Operation { all: self, number }
    }

    /// Each with its age, the oldest first.
    fn said(&self) -> String {
        let one = |(_, since, what): &(u64, Instant, String)| {
            format!("{what}, since {} s", since.elapsed().as_secs())
        };
        self.list().iter().map(one).collect::<Vec<_>>().join("; ")
    }

    fn list(&self) -> MutexGuard<'_, Vec<(u64, Instant, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        self.all.list().retain(|(number, ..)| *number != self.number);
    }
}

impl Pod {
    /// The pod to oneself.
    ///
    /// # Errors
    /// `DeadlineExceeded` if something is made in it for too long, as on a mount of the node that does not answer. The call
    /// may be repeated.
    pub(super) async fn alone(&self) -> Result<RwLockWriteGuard<'_, ()>> {
        let waited = tokio::time::timeout(PATIENCE, self.lifecycle.write()).await;
        waited.map_err(|_| {
            Error::new(
                Kind::DeadlineExceeded,
                format!(
                    "pod {} is held up by what is being made in it ({}); if that waits for a mount of the node that does not \
                     answer, the mount has to be dealt with, then the call can be repeated",
                    self.id,
                    self.under_way.said()
                ),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_is_not_said() {
        let all = UnderWay::default();
        let first = all.start("create a".into());
        let second = all.start("create b".into());
        assert_eq!(all.said(), "create a, since 0 s; create b, since 0 s");
        drop(first);
        let third = all.start("create c".into());
        drop(second);
        assert_eq!(all.said(), "create c, since 0 s");
        drop(third);
        assert_eq!(all.said(), "");
    }
}
