//! Work that several callers want: done once, shared by all, stopped when the last of them leaves.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::types::{Error, Result};

/// Work in progress by key. `M` is what joiners can watch meanwhile.
pub(super) struct Flights<K, T, M>(Mutex<HashMap<K, Weak<Flight<T, M>>>>);

struct Flight<T, M> {
    outcome: watch::Receiver<Option<Result<T>>>,
    meter: M,
    task: AbortHandle,
}

impl<T, M> Drop for Flight<T, M> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One caller's interest in a piece of work. Dropping it is leaving.
pub(super) struct Ticket<T, M> {
    flight: Arc<Flight<T, M>>,
    /// This caller's request started the work.
    pub started: bool,
}

impl<K, T, M> Default for Flights<K, T, M> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K, T, M> Flights<K, T, M>
where
    K: Eq + Hash,
    T: Clone + Send + Sync + 'static,
    M: Clone,
{
    /// Joins the work under `key`, or starts it; work that has failed is started anew. Must be called within a runtime.
    pub(super) fn join<F>(&self, key: K, meter: M, start: impl FnOnce() -> F) -> Ticket<T, M>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |f: &Arc<Flight<T, M>>| matches!(*f.outcome.borrow(), Some(Err(_)));
        if let Some(flight) = flights.get(&key).and_then(Weak::upgrade).filter(|f| !failed(f)) {
            return Ticket {
                flight,
                started: false,
            };
        }
        flights.retain(|_, f| f.strong_count() > 0);
        let work = start();
        let (sender, outcome) = watch::channel(None);
        let task = tokio::spawn(async move {
            let result = work.await;
            sender.send_replace(Some(result));
        });
        let flight = Arc::new(Flight {
            outcome,
            meter,
            task: task.abort_handle(),
        });
        flights.insert(key, Arc::downgrade(&flight));
        Ticket {
            flight,
            started: true,
        }
    }
}

impl<T: Clone, M> Ticket<T, M> {
    /// What the work's starter gave to watch it by.
    pub(super) fn meter(&self) -> &M {
        &self.flight.meter
    }

    /// Waits for the work's end.
    pub(super) async fn outcome(&self) -> Result<T> {
        let mut outcome = self.flight.outcome.clone();
        let result = match outcome.wait_for(Option::is_some).await {
            Ok(done) => done.clone(),
            Err(_) => None,
        };
        result.unwrap_or_else(|| {
            Err(Error::internal(
                "a task of the image store ended without a result",
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    type Work = Flights<&'static str, u32, ()>;

    #[tokio::test]
    async fn callers_share_one_run_and_its_result() {
        let (flights, runs) = (Work::default(), Arc::new(AtomicU32::new(0)));
        let (go, wait) = oneshot::channel::<()>();
        let counter = Arc::clone(&runs);
        let first = flights.join("k", (), || async move {
            wait.await.unwrap();
            Ok(counter.fetch_add(1, Ordering::Relaxed) + 7)
        });
        let second = flights.join("k", (), || async { panic!("started twice") });
        let other = flights.join("other", (), || async { Err(Error::not_found("x")) });
        assert!(first.started && !second.started);
        go.send(()).unwrap();
        assert_eq!((first.outcome().await, second.outcome().await), (Ok(7), Ok(7)));
        assert!(other.outcome().await.is_err());
        drop((first, second));
        let again = flights.join("k", (), || async { Ok(1) });
        assert!(again.started);
        assert_eq!(again.outcome().await, Ok(1));
    }

    #[tokio::test]
    async fn failed_work_is_not_joined() {
        let flights = Work::default();
        let first = flights.join("k", (), || async { Err(Error::not_found("x")) });
        assert!(first.outcome().await.is_err());
        let second = flights.join("k", (), || async { Ok(1) });
        assert!(second.started);
        assert_eq!(second.outcome().await, Ok(1));
        assert!(first.outcome().await.is_err());
    }

    #[tokio::test]
    async fn only_the_last_to_leave_stops_the_work() {
        struct Tell(Option<oneshot::Sender<()>>);
        impl Drop for Tell {
            fn drop(&mut self) {
                self.0.take().map(|s| s.send(()));
            }
        }
        let flights = Work::default();
        let (sender, mut stopped) = oneshot::channel();
        let tell = Tell(Some(sender));
        let first = flights.join("k", (), || async move {
            let _tell = tell;
            std::future::pending().await
        });
        let second = flights.join("k", (), || async { Ok(0) });
        tokio::task::yield_now().await;
        drop(first);
        tokio::task::yield_now().await;
        assert!(stopped.try_recv().is_err());
        drop(second);
        stopped.await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_is_an_error_for_those_who_wait() {
        let flights = Work::default();
        let ticket = flights.join("k", (), || async { panic!("on purpose") });
        assert_eq!(
            ticket.outcome().await.unwrap_err().kind(),
            crate::types::Kind::Internal
        );
    }
}
