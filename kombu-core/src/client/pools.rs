//! Connections that are shared by URL, up to a limit.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::engine::{by, deadline};
use crate::error::{Error, ErrorKind, Result};

use super::{Connection, ConnectionBuilder, Registry};

/// How many connections a URL has at most, unless it is said otherwise.
const LIMIT: usize = 10;
/// How long somebody waits for one, unless it is said otherwise.
const PATIENCE: Duration = Duration::from_secs(10);

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

#[derive(Clone)]
struct Settings {
    build: Build,
    limit: usize,
    patience: Duration,
    max_age: Option<Duration>,
}

struct Shared {
    settings: Settings,
    pools: Mutex<HashMap<String, Arc<Pool>>>,
}

/// The connections of one URL.
struct Pool {
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Aged>>,
}

/// A connection, and when it was made.
#[derive(Clone)]
struct Aged {
    connection: Connection,
    made: Instant,
}

impl Aged {
    /// Whether somebody else may have it.
    fn is_fit(&self, max_age: Option<Duration>) -> bool {
        let is_over = self.connection.inner().engine.is_over();
        !is_over && max_age.is_none_or(|max_age| self.made.elapsed() < max_age)
    }
}

impl Pools {
    /// Without connections, for the transports of a registry.
    pub fn new(registry: Registry) -> Self {
        Pools::built_by(move || Connection::builder(registry.clone()))
    }

    /// The same for connections with options of their own. The URL is added to them.
    pub fn built_by(build: impl Fn() -> ConnectionBuilder + Send + Sync + 'static) -> Self {
        Pools::with(Settings {
            build: Arc::new(build),
            limit: LIMIT,
            patience: PATIENCE,
            max_age: None,
        })
    }

    fn with(settings: Settings) -> Self {
        Pools {
            shared: Arc::new(Shared {
                settings,
                pools: Mutex::default(),
            }),
        }
    }

    /// Other pools, without connections yet, whose settings are changed.
    fn but(&self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.shared.settings.clone();
        change(&mut settings);
        Pools::with(settings)
    }

    /// Other pools with at most so many connections for each URL, and none yet. Default: 10.
    #[must_use]
    pub fn limit(&self, connections: usize) -> Self {
        self.but(|settings| settings.limit = connections.max(1))
    }

    /// Other pools, without connections yet, that let nobody wait for longer than this while all are in use. Default: 10 s.
    #[must_use]
    pub fn patience(&self, patience: Duration) -> Self {
        self.but(|settings| settings.patience = patience)
    }

    /// Other pools, without connections yet, that hand out no connection again which is older than this: it ends when it
    /// comes back, or when it would be its turn. Default: none is too old.
    #[must_use]
    pub fn max_age(&self, max_age: Duration) -> Self {
        self.but(|settings| settings.max_age = Some(max_age))
    }

    fn pool(&self, url: &str) -> Arc<Pool> {
        let mut pools = self.shared.pools.lock();
        if let Some(pool) = pools.get(url) {
            return pool.clone();
        }
        let pool = Arc::new(Pool {
            permits: Arc::new(Semaphore::new(self.shared.settings.limit)),
            idle: Mutex::default(),
        });
        pools.insert(url.to_owned(), pool.clone());
        pool
    }

    /// A connection to this URL for oneself, until it is dropped: one that was made before, or a new one. Waits while as many
    /// as the limit are in use, in the order of the calls. One that was [closed](Connection::close), or given up, isn't handed
    /// out; one that has lost its session and is about to get another one is.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Backpressure`] if all are in use for as long as the [`patience`](Self::patience) of the pools, and those of
    /// connecting, which takes its own time.
    pub async fn acquire(&self, url: &str) -> Result<Pooled> {
        let pool = self.pool(url);
        let permits = pool.permits.clone();
        let waiting = async {
            let permit = permits.acquire_owned().await;
            permit.map_err(|_| Error::new(ErrorKind::Closed, "the pool is closed"))
        };
        let Settings { patience, .. } = self.shared.settings;
        let late = || self.exhausted(&format!("were in use for {patience:?}"));
        let permit = by(deadline(patience), waiting, late).await?;
        self.take(pool, url, permit).await
    }

    fn exhausted(&self, how: &str) -> Error {
        Error::new(
            ErrorKind::Backpressure,
            format!(
                "all {} connections of the pool {how}; give some back, or raise the limit",
                self.shared.settings.limit
            ),
        )
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
            Err(_) => Err(self.exhausted("are in use")),
        }
    }

    async fn take(
        &self,
        pool: Arc<Pool>,
        url: &str,
        permit: OwnedSemaphorePermit,
    ) -> Result<Pooled> {
        let Settings { build, max_age, .. } = &self.shared.settings;
        let max_age = *max_age;
        let idle = {
            let mut idle = pool.idle.lock();
            idle.retain(|aged| aged.is_fit(max_age));
            idle.pop()
        };
        let aged = match idle {
            Some(aged) => aged,
            None => Aged {
                connection: build().url(url).await?,
                made: Instant::now(),
            },
        };
        Ok(Pooled {
            aged,
            max_age,
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
        for aged in idle.collect::<Vec<_>>() {
            closed = closed.and(aged.connection.close().await);
        }
        closed
    }
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URLs may hold passwords.
        f.debug_struct("Pools")
            .field("limit", &self.shared.settings.limit)
            .field("patience", &self.shared.settings.patience)
            .field("max_age", &self.shared.settings.max_age)
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
    aged: Aged,
    max_age: Option<Duration>,
    pool: Arc<Pool>,
    // Given back behind the connection: fields are dropped after `drop` has run.
    _permit: OwnedSemaphorePermit,
}

impl Deref for Pooled {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.aged.connection
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if self.aged.is_fit(self.max_age) {
            self.pool.idle.lock().push(self.aged.clone());
        }
    }
}

impl fmt::Debug for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connection = &self.aged.connection;
        f.debug_tuple("Pooled").field(connection).finish()
    }
}
