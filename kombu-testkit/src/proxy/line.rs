use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::plan::{LONGEST, Verdict};
use super::{Direction, Ending, Flow, Member, Network, Shared};

const PIECE: usize = 16 * 1024;
/// Together with [`PIECE`], how much a direction takes in when it can't pass it on.
const PIECES: usize = 256;

/// One client's connection, and ours to the server.
pub(super) struct Line {
    shared: Arc<Shared>,
    number: u64,
    half_closed: [u64; 2],
    /// Has lost something: it can never go on.
    is_broken: AtomicBool,
}

/// What was read, and when it may be written. Empty at the end of the stream.
type Piece = (Instant, Bytes);

impl Line {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let half_closed = shared.network.borrow().half_closed;
        Line {
            shared,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            half_closed,
            is_broken: AtomicBool::new(false),
        }
    }

    /// Carries what comes until one side ends it, or it is ended.
    pub(super) async fn carry(&self, mut client: TcpStream, mut member: Member) {
        let mut server = None;
        let ending = tokio::select! {
            biased;
            ending = member.ended() => ending,
            // An error of either side is its end, and so the other's.
            _ = self.connect_and_pass(&mut client, &mut server) => Ending::Cut,
        };
        for stream in [Some(client), server].into_iter().flatten() {
            close(stream, ending).await;
        }
        self.shared.plan.lock().forget(self.number);
    }

    async fn connect_and_pass(
        &self,
        client: &mut TcpStream,
        server: &mut Option<TcpStream>,
    ) -> io::Result<()> {
        let mut network = self.shared.network.subscribe();
        if self.flow(&mut network).await == Flow::Swallow {
            return self.swallow(client, network).await;
        }
        let server = server.insert(TcpStream::connect(&self.shared.server).await?);
        for stream in [&*client, &*server] {
            stream.set_nodelay(true)?;
        }
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        tokio::select! {
            biased;
            () = self.healed_too_late(network) => Ok(()),
            both = async { tokio::try_join!(
                self.pass(Direction::ToServer, client_read, server_write),
                self.pass(Direction::ToClient, server_read, client_write),
            ) } => both.map(|_| ()),
        }
    }

    /// Waits while everything is held, and returns what is to be done instead.
    async fn flow(&self, network: &mut watch::Receiver<Network>) -> Flow {
        match network.wait_for(|network| network.flow != Flow::Hold).await {
            Ok(network) => network.flow,
            Err(_) => Flow::Swallow,
        }
    }

    /// For a client that came while everything was swallowed: its server never hears of it.
    async fn swallow(
        &self,
        client: &mut TcpStream,
        mut network: watch::Receiver<Network>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; PIECE];
        loop {
            tokio::select! {
                biased;
                _ = network.wait_for(|network| network.flow == Flow::Pass) => return Ok(()),
                read = client.read(&mut buffer) => match read? {
                    0 => return Ok(()),
                    bytes => self.count_swallowed(bytes),
                },
            }
        }
    }

    /// Waits until the network is as it should be, and this line has lost something before.
    async fn healed_too_late(&self, mut network: watch::Receiver<Network>) {
        loop {
            let flow = network.borrow_and_update().flow;
            if flow == Flow::Pass && self.is_broken.load(Ordering::Relaxed) {
                return;
            }
            if network.changed().await.is_err() {
                return;
            }
        }
    }

    async fn half_closed(&self, side: usize, network: &mut watch::Receiver<Network>) {
        let before = self.half_closed[side];
        drop(
            network
                .wait_for(|network| network.half_closed[side] > before)
                .await,
        );
    }

    async fn pass(
        &self,
        direction: Direction,
        from: ReadHalf<'_>,
        to: WriteHalf<'_>,
    ) -> io::Result<()> {
        let (pieces, arrived) = mpsc::channel(PIECES);
        tokio::try_join!(
            self.read(direction, from, pieces),
            self.write(direction, to, arrived)
        )?;
        Ok(())
    }

    async fn read(
        &self,
        direction: Direction,
        mut from: ReadHalf<'_>,
        pieces: mpsc::Sender<Piece>,
    ) -> io::Result<()> {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            let mut room = (&mut from).take(PIECE as u64);
            let read = room.read_buf(&mut buffer).await;
            let network = *self.shared.network.borrow();
            if network.flow == Flow::Pass {
                // Otherwise, nobody is to hear of it yet.
                read?;
            }
            let delay = network.delay[direction as usize];
            let piece = buffer.split().freeze();
            let is_end = piece.is_empty();
            let sent = pieces.send((Instant::now() + delay, piece)).await;
            if is_end || sent.is_err() {
                return Ok(());
            }
        }
    }

    async fn write(
        &self,
        direction: Direction,
        mut to: WriteHalf<'_>,
        mut pieces: mpsc::Receiver<Piece>,
    ) -> io::Result<()> {
        let mut network = self.shared.network.subscribe();
        let mut orders = self.shared.network.subscribe();
        let side = direction as usize;
        let mut is_closed = false;
        let mut before = Vec::new();
        loop {
            let next = tokio::select! {
                biased;
                next = pieces.recv() => next,
                () = self.half_closed(side, &mut orders), if !is_closed => {
                    to.shutdown().await?;
                    is_closed = true;
                    continue;
                }
            };
            let Some((due, mut piece)) = next else {
                return Ok(());
            };
            sleep_until(due).await;
            if piece.is_empty() {
                if self.flow(&mut network).await == Flow::Swallow {
                    self.is_broken.store(true, Ordering::Relaxed);
                    // The other side isn't to know.
                    return std::future::pending().await;
                }
                return to.shutdown().await;
            }
            while !piece.is_empty() {
                if self.flow(&mut network).await == Flow::Swallow {
                    self.is_broken.store(true, Ordering::Relaxed);
                }
                if is_closed || self.is_broken.load(Ordering::Relaxed) {
                    self.count_swallowed(piece.len());
                    break;
                }
                let rate = network.borrow().rate[side];
                let most = match rate {
                    // Twenty times a second, so that it flows.
                    Some(rate) => (rate as usize / 20).max(1),
                    None => piece.len(),
                };
                let part = piece.split_to(most.min(piece.len()));
                self.write_part(direction, &mut to, &before, &part).await?;
                remember(&mut before, &part);
                if let Some(rate) = rate {
                    sleep(Duration::from_secs_f64(part.len() as f64 / f64::from(rate))).await;
                }
            }
        }
    }

    async fn write_part(
        &self,
        direction: Direction,
        to: &mut WriteHalf<'_>,
        before: &[u8],
        part: &[u8],
    ) -> io::Result<()> {
        let verdict = {
            let mut plan = self.shared.plan.lock();
            plan.judge(self.number, direction, before, part)
        };
        let passing = match verdict {
            Verdict::Pass => part.len(),
            Verdict::CutAfter(bytes) => bytes,
            Verdict::LoseReply => 0,
        };
        to.write_all(&part[..passing]).await?;
        self.shared.counts.send_modify(|counts| match direction {
            Direction::ToServer => counts.to_server += passing as u64,
            Direction::ToClient => counts.to_client += passing as u64,
        });
        if verdict == Verdict::Pass {
            return Ok(());
        }
        self.count_swallowed(part.len() - passing);
        self.shared.end(Ending::Cut);
        if verdict == Verdict::LoseReply {
            let counts = &self.shared.counts;
            counts.send_modify(|counts| counts.lost_replies += 1);
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    fn count_swallowed(&self, bytes: usize) {
        let counts = &self.shared.counts;
        counts.send_modify(|counts| counts.swallowed += bytes as u64);
    }
}

/// Keeps the end of what passed.
fn remember(before: &mut Vec<u8>, part: &[u8]) {
    before.extend_from_slice(&part[part.len().saturating_sub(LONGEST)..]);
    let surplus = before.len().saturating_sub(LONGEST);
    before.drain(..surplus);
}

async fn close(mut stream: TcpStream, ending: Ending) {
    // Either may be refused by a socket that the peer has closed already.
    match ending {
        Ending::Cut => drop(stream.shutdown().await),
        Ending::Reset => drop(stream.set_zero_linger()),
    }
}
