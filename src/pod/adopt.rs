//! Adoptable operations: a call that is repeated while its first run is still working joins that run.
//!
//! kubelet gives up on a call after its deadline and sends it again. The first run goes on meanwhile (it is a task of
//! its own, not the caller's), so the repeat waits for it and gets its result. Nothing is ever "reserved".

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tracing::Instrument;

use crate::types::error::{Error, Kind, Result};

type Outcome<V> = Option<Result<V>>;

/// Operations in flight by key. `S` is what a repeat must agree on with the first call, such as the request.
pub struct Operations<K, S, V> {
    running: Arc<Mutex<HashMap<K, Running<S, V>>>>,
}

struct Running<S, V> {
    request: S,
    outcome: watch::Receiver<Outcome<V>>,
}

impl<K, S, V> Default for Operations<K, S, V> {
    fn default() -> Self {
        Self {
            running: Arc::default(),
        }
    }
}

/// What [`Operations::begin`] found.
pub enum Begin<S, V> {
    /// Wait for the operation, which is ours or an equal one.
    Wait(Wait<V>),
    /// An operation with this key and another request is in flight.
    Differs(S),
}

/// Waits for an operation. Dropping it does not stop the operation.
pub struct Wait<V>(watch::Receiver<Outcome<V>>);

impl<V: Clone> Wait<V> {
    /// The operation's result.
    pub async fn outcome(mut self) -> Result<V> {
        match self.0.wait_for(Option::is_some).await {
            Ok(outcome) => outcome
                .clone()
                .unwrap_or_else(|| Err(Error::internal("operation ended without a result"))),
            Err(_) => Err(Error::new(
                Kind::Unavailable,
                "husk stopped working on this call; try again",
            )),
        }
    }
}

impl<K, S, V> Operations<K, S, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    S: PartialEq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Joins the operation in flight under `key`, or starts `work` as a task of its own.
    ///
    /// `known` is asked, under the same lock, for the result of an operation that has already ended.
    pub fn begin<F>(
        &self,
        key: K,
        request: S,
        known: impl FnOnce() -> Option<Result<V>>,
        work: impl FnOnce() -> F,
    ) -> Begin<S, V>
    where
        F: Future<Output = Result<V>> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(op) = running.get(&key) {
            return if op.request == request {
                Begin::Wait(Wait(op.outcome.clone()))
            } else {
                Begin::Differs(op.request.clone())
            };
        }
        let (tx, rx) = watch::channel(known());
        if tx.borrow().is_some() {
            return Begin::Wait(Wait(rx));
        }
        running.insert(
            key.clone(),
            Running {
                request,
                outcome: rx.clone(),
            },
        );
        let work = tokio::spawn(work().in_current_span());
        let table = Arc::clone(&self.running);
        tokio::spawn(async move {
            let result = match work.await {
                Ok(result) => result,
                Err(e) => Err(Error::internal(format!(
                    "husk failed while working on this call: {e}"
                ))),
            };
            table.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            tx.send_replace(Some(result));
        });
        Begin::Wait(Wait(rx))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    fn wait<S, V>(begin: Begin<S, V>) -> Wait<V> {
        match begin {
            Begin::Wait(w) => w,
            Begin::Differs(_) => panic!("differs"),
        }
    }

    #[tokio::test]
    async fn a_repeat_joins_and_a_lost_caller_cancels_nothing() {
        let ops: Operations<u8, u8, u32> = Operations::default();
        let runs = Arc::new(AtomicU32::new(0));
        let work = || {
            let runs = Arc::clone(&runs);
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(runs.fetch_add(1, Ordering::SeqCst) + 1)
            }
        };
        drop(wait(ops.begin(1, 7, || None, work)));
        let repeat = wait(ops.begin(1, 7, || None, work));
        assert!(matches!(ops.begin(1, 8, || None, work), Begin::Differs(7)));
        assert_eq!(repeat.outcome().await, Ok(1));
        assert_eq!(wait(ops.begin(1, 8, || None, work)).outcome().await, Ok(2));
    }

    #[tokio::test]
    async fn a_panic_is_an_error_for_every_waiter_and_frees_the_key() {
        let ops: Operations<u8, (), ()> = Operations::default();
        let first = wait(ops.begin(1, (), || None, || async { panic!("bug") }));
        assert!(first.outcome().await.is_err());
        assert_eq!(
            wait(ops.begin(1, (), || None, || async { Ok(()) }))
                .outcome()
                .await,
            Ok(())
        );
    }
}
