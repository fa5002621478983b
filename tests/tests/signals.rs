//! Signals end a program in an orderly way, and a second one at once. Tested in a process of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(unix)]

use std::future::{Future, poll_fn};
use std::io::{BufRead, BufReader, Lines};
use std::pin::pin;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::task::Poll;
use std::time::Duration;

use kombu::{Exchange, Queue};

const ROLE: &str = "KOMBU_TEST_SIGNALS_ROLE";

/// The program under test: it holds one delivery, and settles it if its role says so when it is asked to end.
#[test]
fn program() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let connection = kombu::connect("memory://").await.unwrap();
        let mut consumer = connection.consumer(&Queue::new("q")).await.unwrap();
        let producer = connection.producer(Exchange::default()).await.unwrap();
        producer.publish(&1).routing_key("q").await.unwrap();
        let delivery = consumer.try_next().await.unwrap().unwrap();
        let worker = tokio::spawn(async move {
            assert!(consumer.next().await.is_none());
            println!("stopped");
            match role.as_str() {
                "settles" => delivery.ack().await.unwrap(),
                _ => std::future::pending().await,
            }
        });
        let mut drain = pin!(kombu::drain_on_signal(
            &connection,
            Duration::from_secs(3600)
        ));
        // The handler is installed when it is first polled.
        let waits = poll_fn(|context| Poll::Ready(drain.as_mut().poll(context).is_pending()));
        assert!(waits.await);
        println!("ready");
        let report = drain.await.unwrap();
        println!("settled {} unsettled {}", report.settled, report.unsettled);
        worker.abort();
    });
}

fn start(role: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "program", "--nocapture"])
        .env(ROLE, role)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

fn until(lines: &mut Lines<BufReader<ChildStdout>>, wanted: &str) -> String {
    lines
        .map(|line| line.unwrap())
        .find(|line| line.contains(wanted))
        .unwrap_or_else(|| panic!("the program ended without {wanted:?}"))
}

fn terminate(child: &Child) {
    let killed = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
}

#[test]
fn the_first_signal_waits_for_what_is_held() {
    let (mut child, mut lines) = start("settles");
    until(&mut lines, "ready");
    terminate(&child);
    until(&mut lines, "stopped");
    until(&mut lines, "settled 1 unsettled 0");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_second_signal_does_not() {
    let (mut child, mut lines) = start("holds");
    until(&mut lines, "ready");
    terminate(&child);
    until(&mut lines, "stopped");
    terminate(&child);
    until(&mut lines, "settled 0 unsettled 1");
    assert!(child.wait().unwrap().success());
}
