//! Brokers that can be broken, in the same words for each: a scenario is told once, and runs on all of them.
//!
//! ```
//! use std::future::IntoFuture;
//!
//! use kombu::{Exchange, Queue};
//! use kombu_testkit::faults::{Breakable, Fault};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // In process, faults are injected. A private broker is broken for real: `Breakable::real(kombu::registry(), Redis::start()?)`.
//! let forget = || {
//!     kombu::memory::remove("faults-example");
//! };
//! let mut broker = Breakable::injected("memory", kombu::registry(), "memory://faults-example", forget);
//! let connection = broker.builder().await?;
//! let mut consumer = connection.consumer(&Queue::new("jobs")).await?;
//! let producer = connection.producer(Exchange::default()).routing_key("jobs").await?;
//!
//! broker.inflict(Fault::Kill).await?;
//! // It is started again, with its data, while the publish waits.
//! let (published, healed) = tokio::join!(producer.publish(&7).into_future(), broker.heal());
//! healed?;
//! published?;
//! let delivery = consumer.try_next().await?.expect("it goes on by itself");
//! delivery.ack().await?;
//! # connection.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`history`](crate::history) writes down what happens meanwhile, and finds what must not. A [`Row`] is what one scenario came
//! to, and [`table`] shows many of them.

mod fault;
mod report;
mod victim;

pub use fault::Fault;
pub use report::{Row, table};
pub use victim::Victim;

use std::time::Duration;
use std::{fmt, io};

use tokio::time::timeout;

use kombu_core::layers::Faults;
use kombu_core::{Connection, ConnectionBuilder, Deadlines, Registry, RetryPolicy};

use crate::brokers::Data;
use crate::proxy::{Direction, Proxy};

/// How much later everything comes while there is a [`Fault::Delay`].
const DELAY: Duration = Duration::from_millis(50);

/// Within what time somebody has to ask something of which a [`Fault::LoseReply`] loses the answer, and to give up what was
/// half closed.
const ASKED: Duration = Duration::from_secs(10);

/// A broker, and everything that can befall it.
pub struct Breakable {
    name: String,
    registry: Registry,
    place: Place,
    inflicted: Vec<Fault>,
}

enum Place {
    Real {
        server: Box<dyn Victim>,
        proxy: Proxy,
    },
    Injected {
        url: String,
        faults: Faults,
        forget: Box<dyn Fn() + Send + Sync>,
    },
}

impl Breakable {
    /// A private broker, which [`builder`](Breakable::builder) reaches through a proxy.
    ///
    /// It is started and ended on the thread that asks for it, so this takes a runtime with several.
    ///
    /// # Errors
    ///
    /// If no port is free for the proxy.
    pub async fn real(registry: Registry, server: impl Victim) -> io::Result<Self> {
        Ok(Breakable {
            name: server.name().to_owned(),
            registry,
            place: Place::Real {
                proxy: Proxy::start(server.address()).await?,
                server: Box::new(server),
            },
            inflicted: Vec::new(),
        })
    }

    /// A broker within the process. Its faults lie between the client and the driver, so that everything that the client does
    /// about them is real; `forget` has the broker lose all of its state.
    pub fn injected(
        name: impl Into<String>,
        registry: Registry,
        url: impl Into<String>,
        forget: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Breakable {
            name: name.into(),
            registry,
            place: Place::Injected {
                url: url.into(),
                faults: Faults::default(),
                forget: Box::new(forget),
            },
            inflicted: Vec::new(),
        }
    }

    /// What it is called in tables.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Calls it otherwise: `amqp, quorum queues`.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Whether its faults are injected.
    pub fn is_injected(&self) -> bool {
        matches!(self.place, Place::Injected { .. })
    }

    /// The server, to do with it what is no [`Fault`]; `None` if faults are injected.
    pub fn server(&mut self) -> Option<&mut dyn Victim> {
        match &mut self.place {
            Place::Real { server, .. } => Some(server.as_mut()),
            Place::Injected { .. } => None,
        }
    }

    /// The proxy in front of the server, if there is one.
    pub fn proxy(&self) -> Option<&Proxy> {
        match &self.place {
            Place::Real { proxy, .. } => Some(proxy),
            Place::Injected { .. } => None,
        }
    }

    /// The URL that can be broken.
    pub fn url(&self) -> String {
        match &self.place {
            Place::Real { server, proxy } => server.url(&proxy.address().to_string()),
            Place::Injected { url, .. } => url.clone(),
        }
    }

    /// A connection to what can be broken. It notices within [`LIVENESS`](Self::LIVENESS) that the broker is silent, and waits at most
    /// [`LONGEST_PAUSE`](Self::LONGEST_PAUSE) between two attempts.
    pub fn builder(&self) -> ConnectionBuilder {
        let builder = self.connection(self.url());
        match &self.place {
            Place::Real { .. } => builder,
            Place::Injected { faults, .. } => builder.layer(faults.clone()),
        }
    }

    /// A connection that the faults of a network don't touch: to look at what is there, and to do what others do.
    pub fn observer(&self) -> ConnectionBuilder {
        self.connection(match &self.place {
            Place::Real { server, .. } => server.url(&server.address()),
            Place::Injected { url, .. } => url.clone(),
        })
    }

    /// The deadlines of its connections: those that every connection has, but for the liveness interval.
    pub fn deadlines() -> Deadlines {
        let mut deadlines = Deadlines::default();
        deadlines.liveness = Self::LIVENESS;
        deadlines
    }

    fn connection(&self, url: String) -> ConnectionBuilder {
        Connection::builder(self.registry.clone())
            .url(url)
            .deadlines(Self::deadlines())
            .retry(RetryPolicy::default().longest_pause(Self::LONGEST_PAUSE))
    }

    /// The liveness interval of its connections.
    pub const LIVENESS: Duration = Duration::from_secs(2);

    /// The longest pause between two attempts to connect.
    pub const LONGEST_PAUSE: Duration = Duration::from_secs(1);

    /// How long after its healing something published goes through at the latest: twice the liveness interval and one back-off.
    pub const RECOVERY: Duration = Duration::from_secs(5);

    /// Within what time the broker gives back what a client held that was killed.
    pub fn gives_back_within(&self) -> Duration {
        match &self.place {
            Place::Real { server, .. } => server.gives_back_within(),
            Place::Injected { .. } => Duration::ZERO,
        }
    }

    /// Whether the broker answers a settle. Otherwise, one that was sent may still be lost with the broker.
    pub fn answers_settles(&self) -> bool {
        match &self.place {
            Place::Real { server, .. } => server.answers_settles(),
            Place::Injected { .. } => true,
        }
    }

    /// Whether the fault can be inflicted.
    pub fn can(&self, fault: Fault) -> bool {
        match &self.place {
            Place::Real { server, .. } => fault.is_of_any_broker() || server.can(fault),
            Place::Injected { .. } => !matches!(fault, Fault::DiskAlarm),
        }
    }

    /// Every fault that can be inflicted.
    pub fn faults(&self) -> Vec<Fault> {
        let all = Fault::ALL.iter().copied();
        all.filter(|fault| self.can(*fault)).collect()
    }

    /// Inflicts a fault. What [lasts](Fault::lasts) does so until [`heal`](Breakable::heal); the others are over when this is:
    /// for a [`Fault::LoseReply`], somebody has to publish meanwhile. In process, that one comes with the next publish.
    ///
    /// # Errors
    ///
    /// If the server doesn't obey, or can't be broken in this way; if nobody asks anything whose reply could be lost, or somebody
    /// goes on with a connection that is half closed.
    pub async fn inflict(&mut self, fault: Fault) -> io::Result<()> {
        match &mut self.place {
            Place::Real { server, proxy } => break_real(server.as_mut(), proxy, fault).await?,
            Place::Injected { faults, forget, .. } => inject(faults, forget, fault),
        }
        if fault.lasts() {
            self.inflicted.push(fault);
        }
        Ok(())
    }

    /// Takes back every fault. Returns when the broker and the network to it are as they should be.
    ///
    /// # Errors
    ///
    /// If the server doesn't start: the first error, when everything else is healed.
    pub async fn heal(&mut self) -> io::Result<()> {
        let inflicted = std::mem::take(&mut self.inflicted);
        match &mut self.place {
            Place::Real { server, proxy } => {
                let mut healed = Ok(());
                for fault in inflicted {
                    let one = blocking(|| match fault {
                        Fault::Kill => server.server().restart(Data::Keep),
                        Fault::Pause => server.server().resume(),
                        Fault::MemoryAlarm | Fault::DiskAlarm => server.relieve(fault),
                        _ => Ok(()),
                    });
                    healed = healed.and(one);
                }
                healed.and(proxy.heal().await)
            }
            Place::Injected { faults, .. } => {
                faults.outage(false);
                faults.silence(false);
                faults.unblock();
                faults.delay_publishes(Duration::ZERO);
                Ok(())
            }
        }
    }

    /// What the server has for its clients: how many connections, and what there is one of for each session. Empty if faults are
    /// injected.
    ///
    /// # Errors
    ///
    /// If the server doesn't say.
    pub fn counts(&self) -> io::Result<Vec<(&'static str, u64)>> {
        match &self.place {
            Place::Real { server, .. } => blocking(|| server.counts()),
            Place::Injected { .. } => Ok(Vec::new()),
        }
    }
}

/// Others go on meanwhile.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

async fn break_real(server: &mut dyn Victim, proxy: &Proxy, fault: Fault) -> io::Result<()> {
    match fault {
        Fault::Kill => blocking(|| server.server().kill()),
        Fault::Restart => blocking(|| server.server().restart(Data::Keep)),
        Fault::Erase => blocking(|| server.server().restart(Data::Erase)),
        Fault::Pause => server.server().pause(),
        Fault::Cut => {
            proxy.cut().await;
            Ok(())
        }
        Fault::Reset => {
            proxy.reset().await;
            Ok(())
        }
        Fault::HalfClose => {
            // What a server sends before its client has closed is lost, and may come again late.
            let ended = timeout(ASKED, proxy.half_close_until_ended(Direction::ToClient)).await;
            ended.map_err(|_| unheard("somebody goes on with a connection that is half closed"))
        }
        Fault::LoseReply => lose_reply(proxy).await,
        Fault::Refuse => {
            proxy.refuse().await;
            proxy.cut().await;
            Ok(())
        }
        Fault::Blackhole => {
            proxy.blackhole();
            Ok(())
        }
        Fault::Freeze => {
            proxy.freeze();
            Ok(())
        }
        Fault::Silence => {
            proxy.blackhole();
            proxy.cut().await;
            Ok(())
        }
        Fault::Delay => {
            for direction in [Direction::ToServer, Direction::ToClient] {
                proxy.delay(direction, DELAY);
            }
            Ok(())
        }
        Fault::Disconnect | Fault::MemoryAlarm | Fault::DiskAlarm | Fault::Wipe => {
            blocking(|| server.inflict(fault))
        }
    }
}

/// Until then, it is only planned.
async fn lose_reply(proxy: &Proxy) -> io::Result<()> {
    let lost = proxy.counts().lost_replies;
    proxy.lose_reply_after(0);
    let until_lost = proxy.until(|counts| counts.lost_replies > lost);
    match timeout(ASKED, until_lost).await {
        Ok(_) => Ok(()),
        Err(_) => Err(unheard("nobody asked anything whose reply could be lost")),
    }
}

fn unheard(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, text)
}

fn inject(faults: &Faults, forget: &dyn Fn(), fault: Fault) {
    match fault {
        Fault::Kill | Fault::Refuse => faults.outage(true),
        Fault::Restart | Fault::Cut | Fault::Reset | Fault::HalfClose | Fault::Disconnect => {
            faults.cut();
        }
        Fault::Erase | Fault::Wipe => {
            forget();
            faults.cut();
        }
        Fault::LoseReply => faults.lose_replies(1),
        Fault::Pause | Fault::Blackhole | Fault::Freeze => faults.silence(true),
        Fault::Silence => {
            faults.cut();
            faults.silence(true);
        }
        Fault::Delay => faults.delay_publishes(DELAY),
        Fault::MemoryAlarm | Fault::DiskAlarm => faults.block(fault.to_string()),
    }
}

impl fmt::Debug for Breakable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breakable")
            .field("name", &self.name)
            .field("inflicted", &self.inflicted)
            .finish_non_exhaustive()
    }
}
