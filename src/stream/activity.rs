//! Signs of life of a client: when something last went over its connection, and whether it has hung up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Tells whether the peer has hung up, without reading from it.
pub type HungUp = Arc<dyn Fn() -> bool + Send + Sync>;

/// When something last went over a connection, in either direction. As with other runtimes a frame that carries no data,
/// such as a ping, counts too.
#[derive(Debug)]
pub struct Activity {
    start: Instant,
    last_ms: AtomicU64,
}

impl Activity {
    /// Now.
    pub fn start() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            last_ms: AtomicU64::new(0),
        })
    }

    /// Something went over the connection.
    pub fn touch(&self) {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms, Ordering::Relaxed);
    }

    /// Comes back when nothing has for `limit`.
    pub async fn idle(&self, limit: Duration) {
        loop {
            let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
            let left = limit.saturating_sub(self.start.elapsed().saturating_sub(last));
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn idle_is_counted_from_the_last_sign_of_life() {
        let activity = Activity::start();
        let limit = Duration::from_millis(40);
        tokio::time::sleep(Duration::from_millis(30)).await;
        let from = Instant::now();
        activity.touch();
        activity.idle(limit).await;
        // The sign of life is kept in whole milliseconds.
        assert!(
            from.elapsed() + Duration::from_millis(1) >= limit,
            "{:?}",
            from.elapsed()
        );
    }
}
