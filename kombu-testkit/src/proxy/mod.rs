//! A TCP proxy in front of a broker, which does to connections what networks do.
//!
//! ```
//! use std::io::ErrorKind;
//!
//! use kombu_testkit::proxy::{Direction, Proxy};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use tokio::net::{TcpListener, TcpStream};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let server = TcpListener::bind("127.0.0.1:0").await?;
//! let proxy = Proxy::start(server.local_addr()?.to_string()).await?;
//! let mut client = TcpStream::connect(proxy.address()).await?;
//! let (mut served, _) = server.accept().await?;
//!
//! proxy.cut_after(Direction::ToServer, 5);
//! client.write_all(b"hello, world").await?;
//! let mut arrived = String::new();
//! served.read_to_string(&mut arrived).await?;
//! assert_eq!(arrived, "hello");
//!
//! proxy.refuse().await;
//! let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
//! assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
//! proxy.heal().await?;
//! TcpStream::connect(proxy.address()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! What ends connections ([`cut`](Proxy::cut), [`reset`](Proxy::reset)) does so once, for those that are open; what is wrong
//! with the network ([`freeze`](Proxy::freeze), [`blackhole`](Proxy::blackhole), [`delay`](Proxy::delay),
//! [`throttle`](Proxy::throttle), [`refuse`](Proxy::refuse)) stays so, for new ones too, until [`heal`](Proxy::heal).
//! What happens can be waited for with [`until`](Proxy::until).

mod line;
mod plan;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::ports;
use line::Line;
use plan::{Plan, Trigger};

/// One of the two ways through a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What the client sends.
    ToServer,
    /// What the server sends.
    ToClient,
}

/// What went through a [`Proxy`] so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Connections that clients made.
    pub accepted: u64,
    /// Those that are open.
    pub open: u64,
    /// How often the proxy ended what was open, as ordered or as planned.
    pub cuts: u64,
    /// How often it did so to lose a reply.
    pub lost_replies: u64,
    /// Bytes that were passed on to the server.
    pub to_server: u64,
    /// Bytes that were passed on to clients.
    pub to_client: u64,
    /// Bytes that were taken from either side and not passed on.
    pub swallowed: u64,
}

/// A proxy on a port of the loopback interface, in front of one server.
///
/// # Drop
///
/// Ends what is open, and listens no more.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    lines: Arc<Mutex<JoinSet<()>>>,
    acceptor: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    server: String,
    network: watch::Sender<Network>,
    counts: watch::Sender<Counts>,
    generation: Mutex<Generation>,
    plan: Mutex<Plan>,
}

/// How the network is, for as long as nobody heals it.
#[derive(Clone, Copy, Debug, Default)]
struct Network {
    flow: Flow,
    delay: [Duration; 2],
    /// Bytes per second.
    rate: [Option<u32>; 2],
    /// How often each direction was closed: a line obeys what was ordered after it came.
    half_closed: [u64; 2],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Flow {
    #[default]
    Pass,
    Hold,
    Swallow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Cut,
    Reset,
}

/// The lines that are ended together.
#[derive(Debug)]
struct Generation {
    end: watch::Sender<Option<Ending>>,
    member: Member,
    /// Ends when the last member is gone.
    gone: mpsc::Receiver<()>,
}

/// Held by a line as long as its sockets are open.
#[derive(Clone, Debug)]
struct Member {
    end: watch::Receiver<Option<Ending>>,
    _here: mpsc::Sender<()>,
}

impl Generation {
    fn new() -> Self {
        let (end, ended) = watch::channel(None);
        let (here, gone) = mpsc::channel(1);
        let member = Member {
            end: ended,
            _here: here,
        };
        Generation { end, member, gone }
    }
}

impl Member {
    async fn ended(&mut self) -> Ending {
        match self.end.wait_for(Option::is_some).await {
            Ok(ending) => ending.unwrap_or(Ending::Cut),
            Err(_) => Ending::Cut,
        }
    }
}

impl Shared {
    /// Orders all lines to end; whoever awaits the answer waits until they have.
    fn end(&self, ending: Ending) -> mpsc::Receiver<()> {
        let old = std::mem::replace(&mut *self.generation.lock(), Generation::new());
        old.end.send_replace(Some(ending));
        self.counts.send_modify(|counts| counts.cuts += 1);
        old.gone
    }

    /// A new line, among those that are ended together. It obeys what is ordered from here on.
    fn join(self: Arc<Self>) -> (Line, Member) {
        let generation = self.generation.lock();
        let member = generation.member.clone();
        let line = Line::new(self.clone());
        drop(generation);
        (line, member)
    }
}

/// Counts a line for as long as it is open.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        shared.counts.send_modify(|counts| {
            counts.accepted += 1;
            counts.open += 1;
        });
        Open(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.open -= 1);
    }
}

impl Proxy {
    /// Starts one in front of `server` (`host:port`), which has to be there only when a client connects.
    ///
    /// # Errors
    ///
    /// If no port is free.
    pub async fn start(server: impl Into<String>) -> io::Result<Self> {
        let listener = ports::listen()?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let proxy = Proxy {
            address: listener.local_addr()?,
            shared: Arc::new(Shared {
                server: server.into(),
                network: watch::Sender::default(),
                counts: watch::Sender::default(),
                generation: Mutex::new(Generation::new()),
                plan: Mutex::default(),
            }),
            lines: Arc::default(),
            acceptor: tokio::sync::Mutex::default(),
        };
        *proxy.acceptor.lock().await = Some(proxy.accept_from(listener));
        Ok(proxy)
    }

    fn accept_from(&self, listener: TcpListener) -> JoinHandle<()> {
        let shared = self.shared.clone();
        let lines = self.lines.clone();
        tokio::spawn(async move {
            // Accepting fails when no file descriptor is left; that passes, and a client that waits is served then.
            loop {
                if let Ok((client, _)) = listener.accept().await {
                    let open = Open::new(shared.clone());
                    let (line, member) = shared.clone().join();
                    let line = serve(client, line, member, open);
                    let mut lines = lines.lock();
                    while lines.try_join_next().is_some() {}
                    lines.spawn(line);
                } else {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        })
    }

    /// Where clients find it. It stays the same.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What went through it so far.
    pub fn counts(&self) -> Counts {
        *self.shared.counts.borrow()
    }

    /// Waits until the counts are as wanted, and returns them.
    pub async fn until(&self, wanted: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.shared.counts.subscribe();
        match counts.wait_for(wanted).await {
            Ok(counts) => *counts,
            // The sender is ours, so this never comes.
            Err(_) => self.counts(),
        }
    }

    /// Closes all connections on both sides, and waits until it is done. Both sides read the end of the stream, unless they have
    /// sent something that nobody has read: then they may read a reset.
    pub async fn cut(&self) {
        self.end(Ending::Cut).await;
    }

    /// Resets all connections on both sides (RST), and waits until it is done.
    pub async fn reset(&self) {
        self.end(Ending::Reset).await;
    }

    async fn end(&self, ending: Ending) {
        let mut gone = self.shared.end(ending);
        // Nothing is ever sent: this is their end.
        let _ = gone.recv().await;
    }

    /// Closes one direction of all connections, behind what is under way: who reads there finds the end of the stream, and may
    /// go on sending. What comes later in the closed direction is swallowed.
    pub fn half_close(&self, direction: Direction) {
        self.change(|network| network.half_closed[direction as usize] += 1);
    }

    /// The same, and waits until all of them have ended: clients that never close keep it waiting. Until then, nothing
    /// [cuts](Proxy::cut) them; they are cut if this is dropped before.
    pub async fn half_close_until_ended(&self, direction: Direction) {
        let old = {
            // None joins between the order and the end of those that it is for.
            let mut generation = self.shared.generation.lock();
            self.half_close(direction);
            std::mem::replace(&mut *generation, Generation::new())
        };
        let Generation {
            end: _end,
            member,
            mut gone,
        } = old;
        drop(member);
        // Nothing is ever sent: this is their end.
        let _ = gone.recv().await;
    }

    /// Holds back everything in both directions. Connections stay, new ones are accepted, and all go on where they were when
    /// the proxy is healed: a network that lost its way for a while. Up to 4 MiB of each connection and direction are taken in;
    /// then its sender has to wait.
    pub fn freeze(&self) {
        self.change(|network| network.flow = Flow::Hold);
    }

    /// Takes everything and passes on nothing. Connections stay, new ones are accepted and hear nothing, and no side learns that
    /// the other one has closed. Those that lost something end when the proxy is healed.
    pub fn blackhole(&self) {
        self.change(|network| network.flow = Flow::Swallow);
    }

    /// Passes on everything so much later in this direction, in order.
    pub fn delay(&self, direction: Direction, delay: Duration) {
        self.change(|network| network.delay[direction as usize] = delay);
    }

    /// Passes on at most so many bytes per second in this direction, for each connection; 0 counts as 1.
    pub fn throttle(&self, direction: Direction, bytes_per_second: u32) {
        let rate = Some(bytes_per_second.max(1));
        self.change(|network| network.rate[direction as usize] = rate);
    }

    fn change(&self, change: impl FnOnce(&mut Network)) {
        self.shared.network.send_modify(change);
    }

    /// Cuts all connections when so many more bytes have passed in this direction, counted over all of them. Once.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.shared.plan.lock().cut_after(direction, bytes);
    }

    /// Passes on the next request that has these bytes in it, swallows what the server sends next on that connection, and cuts all
    /// of them: the server has done what it was asked, and the client doesn't know. Once.
    ///
    /// What the server sends of itself meanwhile, such as a heartbeat, is taken for the reply. The bytes may come in pieces;
    /// of more than 256, the last 256 are looked for.
    pub fn lose_reply_to(&self, request: impl AsRef<[u8]>) {
        let trigger = Trigger::bytes(request.as_ref());
        self.shared.plan.lock().lose_reply(trigger);
    }

    /// The same for whatever is sent when `bytes` more have passed to the server, counted over all connections: with 0, for the
    /// next request.
    pub fn lose_reply_after(&self, bytes: u64) {
        self.shared.plan.lock().lose_reply(Trigger::After(bytes));
    }

    /// Refuses new connections from now on: nobody listens. Those that are open stay.
    pub async fn refuse(&self) {
        if let Some(acceptor) = self.acceptor.lock().await.take() {
            acceptor.abort();
            // It was aborted, and its listener is closed now.
            let _ = acceptor.await;
        }
    }

    /// Takes back every fault, and what was planned and hasn't happened.
    ///
    /// # Errors
    ///
    /// If it was refusing connections and somebody else has taken its port.
    pub async fn heal(&self) -> io::Result<()> {
        let mut acceptor = self.acceptor.lock().await;
        if acceptor.is_none() {
            *acceptor = Some(self.accept_from(TcpListener::bind(self.address).await?));
        }
        *self.shared.plan.lock() = Plan::default();
        self.change(|network| {
            *network = Network {
                half_closed: network.half_closed,
                ..Network::default()
            };
        });
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(acceptor) = self.acceptor.get_mut() {
            acceptor.abort();
        }
        self.lines.lock().abort_all();
    }
}

/// `member` and `open` are given up when the sockets are closed.
async fn serve(client: TcpStream, line: Line, member: Member, open: Open) {
    line.carry(client, member.clone()).await;
    drop(open);
    drop(member);
}
