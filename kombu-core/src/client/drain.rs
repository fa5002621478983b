use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::{join, join_all};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout_at;

use crate::engine;
use crate::error::Result;
use crate::watched::Watched;

use super::Connection;
use super::delivery::Link;
use super::producer;

/// What became of everything that was under way when a connection was drained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Deliveries that their holders settled, or dropped, within the grace.
    pub settled: usize,
    /// Deliveries that were still held at its end. They went back to their queues, and settling them fails.
    pub unsettled: usize,
    /// Publishes that were answered within the grace.
    pub confirmed: usize,
    /// Publishes that were not. Their receipts fail, and say that the broker may have the message.
    pub unconfirmed: usize,
    /// Whether the broker answered the end of the connection. If not, it has ended all the same, as after a
    /// [`close`](Connection::close) that failed.
    pub closed: bool,
}

/// The open consumers and producers of a connection.
#[derive(Default)]
pub(super) struct Open {
    links: Mutex<Vec<Weak<Link>>>,
    producers: Mutex<Vec<Weak<producer::Inner>>>,
    /// Deliveries that were settled or dropped while the connection was drained.
    settled: AtomicUsize,
    changed: Notify,
    /// How often a drain began.
    drains: Watched<u64>,
}

impl Open {
    pub(super) fn add_link(&self, link: &Arc<Link>) {
        let mut links = self.links.lock();
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(link));
    }

    pub(super) fn add_producer(&self, producer: &Arc<producer::Inner>) {
        let mut producers = self.producers.lock();
        producers.retain(|producer| producer.strong_count() > 0);
        producers.push(Arc::downgrade(producer));
    }

    pub(super) fn drains(&self) -> u64 {
        *self.drains.get()
    }

    /// Resolves when a drain has begun after so many others.
    pub(super) async fn drained_after(&self, drains: u64) {
        let begun = |now: &u64| (*now != drains).then_some(());
        self.drains.until(begun).await;
    }

    /// A delivery was settled or dropped while the connection is drained.
    pub(super) fn count_settled(&self) {
        self.settled.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    fn deliveries(&self) -> usize {
        let links = self.links.lock();
        links
            .iter()
            .filter_map(Weak::upgrade)
            .map(|link| link.deliveries.load(Ordering::SeqCst))
            .sum()
    }

    /// Resolves when no delivery is held.
    async fn all_settled(&self) {
        loop {
            let changed = self.changed.notified();
            if self.deliveries() == 0 {
                return;
            }
            changed.await;
        }
    }

    fn publishes(&self) -> usize {
        let producers = self.producers();
        producers.map(|producer| producer.outbox.count()).sum()
    }

    /// Resolves when every publish has been answered, of those that there are now at least.
    async fn all_confirmed(&self) {
        join_all(
            self.producers()
                .map(async |producer| producer.outbox.empty().await),
        )
        .await;
    }

    fn producers(&self) -> impl Iterator<Item = Arc<producer::Inner>> + use<> {
        let producers = self.producers.lock().clone();
        producers
            .into_iter()
            .filter_map(|producer| producer.upgrade())
    }
}

impl Connection {
    /// Ends the connection in an orderly way: consumers stop and end without an error, deliveries that are held
    /// have `grace` to be settled, and publishes to be confirmed; then it is closed.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// use std::time::Duration;
    ///
    /// let connection = kombu::connect("memory://").await?;
    /// let report = connection.drain(Duration::from_secs(30)).await?;
    /// assert_eq!(report.unsettled, 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) outside of a tokio runtime. Whatever the broker does, there is a report.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves consumers stopped, those too that were waiting for the next session, and the connection
    /// open.
    pub async fn drain(&self, grace: Duration) -> Result<DrainReport> {
        engine::check_runtime().map_err(|error| error.during("drain"))?;
        let open = &self.inner().open;
        let end = engine::deadline(grace);
        // Before those are told that have a subscription: one that is being opened finds it out by itself.
        open.drains.change_if(|drains| {
            *drains += 1;
            true
        });
        let links: Vec<_> = open.links.lock().iter().filter_map(Weak::upgrade).collect();
        for link in &links {
            link.stop();
        }
        drop(links);
        let under_way = open.publishes();
        let nothing_is_left = async {
            // Whoever handled a delivery may have published.
            while open.deliveries() + open.publishes() > 0 {
                join(open.all_settled(), open.all_confirmed()).await;
            }
        };
        // When it is too late, the report says so.
        drop(timeout_at(end, nothing_is_left).await);
        // Not what is settled while it is closed: that has gone back.
        let settled = open.settled.load(Ordering::Relaxed);
        let (unsettled, unconfirmed) = (open.deliveries(), open.publishes());
        let closed = self.close().await;
        if let Err(error) = &closed {
            tracing::warn!(%error, "a drained connection was not closed in an orderly way");
        }
        Ok(DrainReport {
            settled,
            unsettled,
            confirmed: under_way.saturating_sub(unconfirmed),
            unconfirmed,
            closed: closed.is_ok(),
        })
    }
}
