//! What the fault proxy does to connections, seen from both of their ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(feature = "proxy")]

use std::io::ErrorKind;
use std::time::Duration;

use kombu_testkit::proxy::{Direction, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

/// Longer than anything takes that comes at all.
const SILENCE: Duration = Duration::from_millis(200);

/// A server that is told what to say.
struct Server {
    listener: TcpListener,
    proxy: Proxy,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let proxy = Proxy::start(address).await.unwrap();
        Server { listener, proxy }
    }

    /// The two ends of a connection through the proxy.
    async fn connect(&self) -> (TcpStream, TcpStream) {
        let client = self.connect_only().await;
        let (server, _) = self.listener.accept().await.unwrap();
        (client, server)
    }

    async fn connect_only(&self) -> TcpStream {
        TcpStream::connect(self.proxy.address()).await.unwrap()
    }

    async fn no_one_comes(&self) -> bool {
        timeout(SILENCE, self.listener.accept()).await.is_err()
    }
}

async fn send(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// Reads as much as this text, and fails if it is another one.
async fn receive(stream: &mut TcpStream, text: &str) {
    let mut bytes = vec![0; text.len()];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), text);
}

async fn ends(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 16]).await, Ok(0))
}

async fn is_reset(stream: &mut TcpStream) -> bool {
    let read = stream.read(&mut [0; 16]).await;
    read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    timeout(SILENCE, stream.read(&mut [0; 16])).await.is_err()
}

#[tokio::test]
async fn without_a_fault_everything_passes_and_is_counted() {
    let server = Server::start().await;
    let (mut client, mut served) = server.connect().await;
    send(&mut client, "hello").await;
    receive(&mut served, "hello").await;
    send(&mut served, "hi").await;
    receive(&mut client, "hi").await;

    let counts = server.proxy.until(|counts| counts.to_client == 2).await;
    assert_eq!((counts.accepted, counts.open, counts.cuts), (1, 1, 0));
    assert_eq!((counts.to_server, counts.swallowed), (5, 0));

    // Who closes for writing may still read.
    client.shutdown().await.unwrap();
    assert!(ends(&mut served).await);
    send(&mut served, "bye").await;
    receive(&mut client, "bye").await;
    drop(served);
    assert!(ends(&mut client).await);
    server.proxy.until(|counts| counts.open == 0).await;
}

#[tokio::test]
async fn megabytes_pass_in_both_directions_at_once_and_in_order() {
    const SIZE: usize = 20_000_000;
    let server = Server::start().await;
    let (client, served) = server.connect().await;
    let mut tasks = Vec::new();
    for stream in [client, served] {
        let (mut read, mut write) = stream.into_split();
        tasks.push(tokio::spawn(async move {
            let bytes: Vec<u8> = (0..SIZE).map(|index| (index / 7) as u8).collect();
            write.write_all(&bytes).await.unwrap();
            write.shutdown().await.unwrap();
        }));
        tasks.push(tokio::spawn(async move {
            let mut bytes = Vec::new();
            read.read_to_end(&mut bytes).await.unwrap();
            assert_eq!(bytes.len(), SIZE);
            let place = |(index, byte): (usize, &u8)| *byte == (index / 7) as u8;
            assert!(bytes.iter().enumerate().all(place));
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_cut_ends_what_is_open_and_nothing_else() {
    let server = Server::start().await;
    let mut both = [server.connect().await, server.connect().await];
    server.proxy.cut().await;
    let counts = server.proxy.counts();
    assert_eq!((counts.accepted, counts.open, counts.cuts), (2, 0, 1));
    for (client, served) in &mut both {
        assert!(ends(client).await);
        assert!(ends(served).await);
    }
    let (mut client, mut served) = server.connect().await;
    send(&mut client, "again").await;
    receive(&mut served, "again").await;
}

#[tokio::test]
async fn a_reset_is_one_on_both_sides() {
    let server = Server::start().await;
    let (mut client, mut served) = server.connect().await;
    send(&mut client, "hello").await;
    receive(&mut served, "hello").await;
    server.proxy.reset().await;
    assert!(is_reset(&mut client).await);
    assert!(is_reset(&mut served).await);
}

#[tokio::test]
async fn a_half_closed_connection_goes_on_in_the_other_direction() {
    let server = Server::start().await;
    for direction in [Direction::ToClient, Direction::ToServer] {
        let (mut client, mut served) = server.connect().await;
        let (reader, writer) = match direction {
            Direction::ToClient => (&mut client, &mut served),
            Direction::ToServer => (&mut served, &mut client),
        };
        send(writer, "last").await;
        receive(reader, "last").await;
        server.proxy.half_close(direction);
        assert!(ends(reader).await);
        let swallowed = server.proxy.counts().swallowed;
        send(writer, "lost").await;
        let lost = |counts: &_| count_swallowed(counts) == swallowed + 4;
        server.proxy.until(lost).await;
        send(reader, "still here").await;
        receive(writer, "still here").await;
    }
    let (mut client, mut served) = server.connect().await;
    send(&mut client, "new ones are whole").await;
    receive(&mut served, "new ones are whole").await;
}

#[tokio::test]
async fn the_end_of_those_that_are_open_can_be_waited_for() {
    let server = Server::start().await;
    let (mut client, mut served) = server.connect().await;
    let ending = server.proxy.half_close_until_ended(Direction::ToClient);
    let mut ended = std::pin::pin!(ending);
    assert!(timeout(SILENCE, &mut ended).await.is_err());
    let (mut newer, mut served_too) = server.connect().await;
    assert!(ends(&mut client).await);
    drop(client);
    assert!(ends(&mut served).await);
    drop(served);
    ended.await;
    send(&mut newer, "this one stays").await;
    receive(&mut served_too, "this one stays").await;
}

fn count_swallowed(counts: &kombu_testkit::proxy::Counts) -> u64 {
    counts.swallowed
}

#[tokio::test]
async fn what_is_frozen_goes_on_where_it_was() {
    let server = Server::start().await;
    let (mut client, mut served) = server.connect().await;
    send(&mut client, "one ").await;
    receive(&mut served, "one ").await;
    server.proxy.freeze();
    send(&mut client, "two").await;
    send(&mut served, "three").await;
    let mut late = server.connect_only().await;
    send(&mut late, "late").await;
    assert!(is_silent(&mut served).await && is_silent(&mut client).await);
    assert!(server.no_one_comes().await);

    server.proxy.heal().await.unwrap();
    receive(&mut served, "two").await;
    receive(&mut client, "three").await;
    let (mut served_late, _) = server.listener.accept().await.unwrap();
    receive(&mut served_late, "late").await;
    assert_eq!(server.proxy.counts().swallowed, 0);
}

#[tokio::test]
async fn a_blackhole_takes_everything_and_says_nothing() {
    let server = Server::start().await;
    let (mut client, mut served) = server.connect().await;
    let (gone, mut served_gone) = server.connect().await;
    let (mut idle, mut served_idle) = server.connect().await;
    server.proxy.blackhole();
    send(&mut client, "hello").await;
    send(&mut served, "hi").await;
    let mut late = server.connect_only().await;
    send(&mut late, "anybody?").await;
    server.proxy.until(|counts| counts.swallowed == 15).await;
    drop(gone);
    assert!(is_silent(&mut served_gone).await);
    assert!(is_silent(&mut late).await);
    assert!(server.no_one_comes().await);

    server.proxy.heal().await.unwrap();
    // Those that have lost something can't go on.
    for stream in [&mut client, &mut served, &mut served_gone, &mut late] {
        assert!(ends(stream).await);
    }
    send(&mut idle, "nothing happened").await;
    receive(&mut served_idle, "nothing happened").await;
    let (mut client, mut served) = server.connect().await;
    send(&mut served, "hello").await;
    receive(&mut client, "hello").await;
}

#[tokio::test]
async fn a_delay_counts_for_one_direction_and_holds_up_nobody_else() {
    const DELAY: Duration = Duration::from_millis(300);
    let server = Server::start().await;
    let (mut client, mut served) = server.connect().await;
    server.proxy.delay(Direction::ToClient, DELAY);
    let start = Instant::now();
    send(&mut client, "ping").await;
    receive(&mut served, "ping").await;
    assert!(start.elapsed() < DELAY);
    for pong in ["one", "two", "three"] {
        send(&mut served, pong).await;
        // Each is read by itself, and they are on their way together.
        tokio::time::sleep(DELAY / 10).await;
    }
    receive(&mut client, "one").await;
    assert!(start.elapsed() >= DELAY);
    receive(&mut client, "twothree").await;
    assert!(start.elapsed() < 2 * DELAY, "{:?}", start.elapsed());

    server.proxy.heal().await.unwrap();
    let start = Instant::now();
    send(&mut served, "now").await;
    receive(&mut client, "now").await;
    assert!(start.elapsed() < DELAY);
}

#[tokio::test]
async fn a_throttled_direction_is_as_slow_as_it_was_told() {
    let server = Server::start().await;
    let (mut client, mut served) = server.connect().await;
    server.proxy.throttle(Direction::ToServer, 10_000);
    let text = "x".repeat(5_000);
    let start = Instant::now();
    send(&mut served, &text).await;
    receive(&mut client, &text).await;
    assert!(start.elapsed() < Duration::from_millis(250));
    send(&mut client, &text).await;
    receive(&mut served, &text).await;
    // The last part needs no time behind it.
    assert!(start.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn a_connection_is_cut_after_exactly_so_many_bytes() {
    let server = Server::start().await;
    for direction in [Direction::ToServer, Direction::ToClient] {
        for size in [0, 4, 10, 12] {
            let (mut client, mut served) = server.connect().await;
            let (mut other, _served) = server.connect().await;
            server.proxy.cut_after(direction, size);
            let (reader, writer) = match direction {
                Direction::ToClient => (&mut client, &mut served),
                Direction::ToServer => (&mut served, &mut client),
            };
            send(writer, "hello, you").await;
            if size > 10 {
                receive(reader, "hello, you").await;
                send(writer, "hello").await;
                receive(reader, "he").await;
            } else {
                receive(reader, &"hello, you"[..size as usize]).await;
            }
            assert!(ends(reader).await);
            assert!(ends(writer).await);
            assert!(ends(&mut other).await);
        }
    }
    let (mut client, mut served) = server.connect().await;
    send(&mut client, "only once").await;
    receive(&mut served, "only once").await;
}

#[tokio::test]
async fn the_reply_to_a_request_is_lost_after_the_server_has_the_request() {
    let server = Server::start().await;
    let (mut client, mut served) = server.connect().await;
    server.proxy.lose_reply_to("STORE");
    send(&mut client, "look").await;
    receive(&mut served, "look").await;
    send(&mut served, "nothing").await;
    receive(&mut client, "nothing").await;
    // It comes in two parts.
    send(&mut client, "ST").await;
    receive(&mut served, "ST").await;
    send(&mut client, "ORE it").await;
    receive(&mut served, "ORE it").await;
    assert!(is_silent(&mut client).await);
    send(&mut served, "stored").await;
    assert!(ends(&mut client).await);
    assert!(ends(&mut served).await);
    let counts = server.proxy.counts();
    assert_eq!((counts.cuts, counts.swallowed), (1, 6));

    let (mut client, mut served) = server.connect().await;
    send(&mut client, "STORE").await;
    receive(&mut served, "STORE").await;
    send(&mut served, "stored").await;
    receive(&mut client, "stored").await;
}

#[tokio::test]
async fn the_reply_is_lost_to_what_follows_so_many_bytes() {
    let server = Server::start().await;
    let (mut client, mut served) = server.connect().await;
    let (mut other, mut served_other) = server.connect().await;
    server.proxy.lose_reply_after(4);
    send(&mut client, "four").await;
    receive(&mut served, "four").await;
    send(&mut served, "yes").await;
    receive(&mut client, "yes").await;
    send(&mut client, "more").await;
    receive(&mut served, "more").await;
    // It is the reply on this connection.
    send(&mut served_other, "by the way").await;
    receive(&mut other, "by the way").await;
    send(&mut served, "yes").await;
    assert!(ends(&mut client).await);
    assert!(ends(&mut other).await);
    assert_eq!(server.proxy.counts().lost_replies, 1);
}

#[tokio::test]
async fn another_reply_is_lost_if_the_one_that_was_due_never_comes() {
    let server = Server::start().await;
    let (mut client, mut served) = server.connect().await;
    server.proxy.lose_reply_after(0);
    send(&mut client, "question").await;
    receive(&mut served, "question").await;
    drop((client, served));
    server.proxy.until(|counts| counts.open == 0).await;
    let (mut client, mut served) = server.connect().await;
    send(&mut client, "question").await;
    receive(&mut served, "question").await;
    send(&mut served, "answer").await;
    assert!(ends(&mut client).await);
    assert_eq!(server.proxy.counts().lost_replies, 1);
}

#[tokio::test]
async fn nobody_listens_while_connections_are_refused() {
    let server = Server::start().await;
    let (mut client, mut served) = server.connect().await;
    server.proxy.refuse().await;
    let refused = TcpStream::connect(server.proxy.address()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    send(&mut client, "still here").await;
    receive(&mut served, "still here").await;
    server.proxy.heal().await.unwrap();
    server.connect().await;
    assert_eq!(server.proxy.counts().accepted, 2);
}

#[tokio::test]
async fn healing_forgets_what_was_planned() {
    let server = Server::start().await;
    let (mut client, mut served) = server.connect().await;
    server.proxy.cut_after(Direction::ToServer, 3);
    server.proxy.lose_reply_after(0);
    server.proxy.heal().await.unwrap();
    send(&mut client, "hello").await;
    receive(&mut served, "hello").await;
    send(&mut served, "hi").await;
    receive(&mut client, "hi").await;
}

#[tokio::test]
async fn a_client_of_a_missing_server_is_turned_away() {
    let server = Server::start().await;
    let Server { listener, proxy } = server;
    drop(listener);
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(ends(&mut client).await);
}

#[tokio::test]
async fn dropping_the_proxy_ends_its_connections() {
    let server = Server::start().await;
    let (mut client, mut served) = server.connect().await;
    let address = server.proxy.address();
    drop(server.proxy);
    assert!(ends(&mut client).await);
    assert!(ends(&mut served).await);
    assert!(TcpStream::connect(address).await.is_err());
}
