//! Connections that are shared by URL, up to a limit.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, ErrorKind, Result};

use super::{Connection, ConnectionBuilder, Registry};

/// How many connections a URL has at most, unless it is said otherwise.
const LIMIT: usize = 10;

/// Pools of connections, one for each URL; a clone is another handle to the same ones.
///
/// One connection serves any number of tasks, so most programs need one and no pool. It is for those that want several: to
/// keep tasks apart, or to spread them over a cluster.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kombu::Result<()> {
/// use kombu::{ErrorKind, Pools, Queue};
///
/// let pools = Pools::new(kombu::registry()).limit(2);
/// let one = pools.acquire("memory://shop").await?;
/// let other = pools.acquire("memory://shop").await?;
/// let refused = pools.try_acquire("memory://shop").await.unwrap_err();
/// assert_eq!(refused.kind(), ErrorKind::Backpressure);
///
/// one.declare_queue(&Queue::new("jobs")).await?;
/// drop(one); // back in the pool, still connected
/// let again = pools.try_acquire("memory://shop").await?;
/// assert_eq!(again.queue_info("jobs").await?.ready, 0);
/// # drop(other);
/// # Ok(())
/// # }
/// ```
///
/// # Drop
///
/// Connections that nobody has end with the last handle to their pools.
#[derive(Clone)]
pub struct Pools {
    shared: Arc<Shared>,
}

type Build = Arc<dyn Fn() -> ConnectionBuilder + Send + Sync>;

struct Shared {
    build: Build,
    limit: usize,
    pools: Mutex<HashMap<String, Arc<Pool>>>,
}

/// The connections of one URL.
struct Pool {
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Pools {
    /// Without connections, for the transports of a registry.
    pub fn new(registry: Registry) -> Self {
        Pools::built_by(move || Connection::builder(registry.clone()))
    }

    /// The same for connections with options of their own. The URL is added to them.
    pub fn built_by(build: impl Fn() -> ConnectionBuilder + Send + Sync + 'static) -> Self {
        Pools::with(Arc::new(build), LIMIT)
    }

    fn with(build: Build, limit: usize) -> Self {
        Pools {
            shared: Arc::new(Shared {
                build,
                limit,
                pools: Mutex::default(),
            }),
        }
    }

    /// Other pools with at most so many connections for each URL, and none yet. Default: 10.
    #[must_use]
    pub fn limit(&self, connections: usize) -> Self {
        Pools::with(self.shared.build.clone(), connections.max(1))
    }

    fn pool(&self, url: &str) -> Arc<Pool> {
        let mut pools = self.shared.pools.lock();
        if let Some(pool) = pools.get(url) {
            return pool.clone();
        }
        let pool = Arc::new(Pool {
            permits: Arc::new(Semaphore::new(self.shared.limit)),
            idle: Mutex::default(),
        });
        pools.insert(url.to_owned(), pool.clone());
        pool
    }

    /// A connection to this URL for oneself, until it is dropped: one that was made before, or a new one. Waits while as many
    /// as the limit are in use, in the order of the calls.
    ///
    /// # Errors
    ///
    /// Those of connecting.
    pub async fn acquire(&self, url: &str) -> Result<Pooled> {
        let pool = self.pool(url);
        match pool.permits.clone().acquire_owned().await {
            Ok(permit) => self.take(pool, url, permit).await,
            Err(_) => Err(Error::new(ErrorKind::Closed, "the pool is closed")),
        }
    }

    /// The same without waiting.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Backpressure`] if as many as the limit are in use, and those of connecting.
    pub async fn try_acquire(&self, url: &str) -> Result<Pooled> {
        let pool = self.pool(url);
        match pool.permits.clone().try_acquire_owned() {
            Ok(permit) => self.take(pool, url, permit).await,
            Err(_) => Err(Error::new(
                ErrorKind::Backpressure,
                format!(
                    "all {} connections of the pool are in use; wait with `acquire`, or raise the limit",
                    self.shared.limit
                ),
            )),
        }
    }

    async fn take(
        &self,
        pool: Arc<Pool>,
        url: &str,
        permit: OwnedSemaphorePermit,
    ) -> Result<Pooled> {
        let idle = {
            let mut idle = pool.idle.lock();
            idle.retain(is_open);
            idle.pop()
        };
        let connection = match idle {
            Some(connection) => connection,
            None => (self.shared.build)().url(url).await?,
        };
        Ok(Pooled {
            connection,
            pool,
            _permit: permit,
        })
    }

    /// Closes the connections that nobody has.
    ///
    /// # Errors
    ///
    /// That of the first one that could not be [closed](Connection::close) in an orderly way; the others are closed all the
    /// same.
    pub async fn close_idle(&self) -> Result<()> {
        let pools: Vec<_> = self.shared.pools.lock().values().cloned().collect();
        let idle = pools
            .iter()
            .flat_map(|pool| std::mem::take(&mut *pool.idle.lock()));
        let mut closed = Ok(());
        for connection in idle.collect::<Vec<_>>() {
            closed = closed.and(connection.close().await);
        }
        closed
    }
}

fn is_open(connection: &Connection) -> bool {
    !connection.inner().engine.is_over()
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URLs may hold passwords.
        f.debug_struct("Pools")
            .field("limit", &self.shared.limit)
            .field("urls", &self.shared.pools.lock().len())
            .finish_non_exhaustive()
    }
}

/// A [`Connection`] of a pool.
///
/// # Drop
///
/// It goes back, for the next one who wants it. What was opened on it goes on, and should be dropped before.
pub struct Pooled {
    connection: Connection,
    pool: Arc<Pool>,
    // Given back behind the connection: fields are dropped after `drop` has run.
    _permit: OwnedSemaphorePermit,
}

impl Deref for Pooled {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if is_open(&self.connection) {
            self.pool.idle.lock().push(self.connection.clone());
        }
    }
}

impl fmt::Debug for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pooled").field(&self.connection).finish()
    }
}
