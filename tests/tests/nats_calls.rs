//! Calls over NATS, whose answers go to an inbox and lie in no stream.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_nats), allow(dead_code, unused_imports))]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use kombu::{Connection, Deadlines, ErrorKind, Event, Exchange, Faults, Queue};
use kombu_testkit::brokers::Nats;
use kombu_testkit::expect::{assert_refused, collect_one};
use kombu_tests::{NatsFilter, NatsLine};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

async fn connect(nats: &Nats) -> Connection {
    kombu::connect(nats.url()).await.unwrap()
}

/// Whether anybody listens at a subject.
fn is_heard(nats: &Nats, subject: &str) -> bool {
    let mut line = TcpStream::connect(nats.address()).unwrap();
    let connect = r#"CONNECT {"verbose":false,"headers":true,"no_responders":true}"#;
    let ask = format!("SUB told 1\r\nPUB {subject} told 0\r\n\r\nPING");
    line.write_all(format!("{connect}\r\n{ask}\r\n").as_bytes())
        .unwrap();
    for text in BufReader::new(line).lines() {
        match text.unwrap() {
            text if text.starts_with("HMSG told") => return false,
            text if text == "PONG" => return true,
            _ => {}
        }
    }
    panic!("the server has hung up");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn answers_lie_in_no_stream_and_are_listened_for_until_the_last_caller_is_gone() {
    let nats = Nats::start().unwrap();
    let (here, there) = (connect(&nats).await, connect(&nats).await);
    let mut questions = there.consumer(&Queue::new("questions")).await.unwrap();
    let streams = || {
        let url = nats.url().parse().unwrap();
        NatsLine::open(&url).request("$JS.API.STREAM.NAMES", "")["streams"].clone()
    };
    let before = streams();
    let caller = here.caller(Exchange::default()).routing_key("questions");
    let caller = caller.await.unwrap();
    let asking = caller.clone();
    let call = tokio::spawn(async move { asking.call::<_, i64>("what?").await });
    let question = collect_one(&mut questions).await;
    let inbox = question.reply_to().unwrap().to_owned();
    assert!(inbox.starts_with("_INBOX."), "{inbox}");
    let answered = question.reply(&42).await.unwrap();
    assert!(answered.routed);
    question.ack().await.unwrap();
    assert_eq!(call.await.unwrap().unwrap(), 42);
    assert_eq!(streams(), before);
    assert!(is_heard(&nats, &inbox));
    drop(caller);
    let is_over = async {
        while is_heard(&nats, &inbox) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, is_over).await.expect("nobody listens");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn an_answer_that_is_given_after_a_cut_arrives() {
    let nats = Nats::start().unwrap();
    let there = connect(&nats).await;
    let faults = Faults::default();
    let here = Connection::builder(kombu::registry()).url(nats.url());
    let here = here.layer(faults.clone()).await.unwrap();
    let mut questions = there.consumer(&Queue::new("questions")).await.unwrap();
    let caller = here.caller(Exchange::default()).routing_key("questions");
    let caller = caller.timeout(PATIENCE).max_retries(0).await.unwrap();
    let call = tokio::spawn(async move { caller.call::<_, i64>("what?").await });
    let question = collect_one(&mut questions).await;
    let mut events = here.events();
    faults.cut();
    while !matches!(events.next().await, Some(Event::Restored { .. }) | None) {}
    question.reply(&42).await.unwrap();
    question.ack().await.unwrap();
    assert_eq!(call.await.unwrap().unwrap(), 42);
}

/// Where somebody does, the server never says that nobody has heard something.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn whoever_listens_to_everything_disturbs_no_session_and_no_answer() {
    let nats = Nats::start().unwrap();
    let mut listener = TcpStream::connect(nats.address()).unwrap();
    let listen = "CONNECT {\"verbose\":false}\r\nSUB > 1\r\nPING\r\n";
    listener.write_all(listen.as_bytes()).unwrap();
    let heard = BufReader::new(&listener).lines().map(Result::unwrap);
    assert!(heard.into_iter().any(|line| line == "PONG"));
    let filter = NatsFilter::start(nats.address()).await;
    let mut deadlines = Deadlines::default();
    deadlines.liveness = Duration::from_secs(1);
    let there = Connection::builder(kombu::registry()).url(filter.url());
    let there = there.deadlines(deadlines).await.unwrap();
    let mut events = there.events();
    // Each is sent when the one before was answered.
    let pinged = filter.until("_INBOX.", 3);
    timeout(PATIENCE, pinged).await.expect("it looks for signs");
    let here = connect(&nats).await;
    let mut questions = there.consumer(&Queue::new("questions")).await.unwrap();
    let caller = here.caller(Exchange::default()).routing_key("questions");
    let caller = caller.await.unwrap();
    let call = tokio::spawn(async move { caller.call::<_, i64>("what?").await });
    let question = collect_one(&mut questions).await;
    question.reply(&42).await.unwrap();
    question.ack().await.unwrap();
    assert_eq!(call.await.unwrap().unwrap(), 42);
    there.close().await.unwrap();
    while let Some(event) = events.next().await {
        assert!(!matches!(event, Event::Lost { .. }), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn no_queue_is_called_like_an_inbox() {
    let nats = Nats::start().unwrap();
    let connection = connect(&nats).await;
    let declared = connection.declare_queue(&Queue::new("_INBOX.mine")).await;
    assert_refused(declared, ErrorKind::AccessRefused, 403);
    connection
        .declare_queue(&Queue::new("_INBOX"))
        .await
        .unwrap();
}
