//! A program that consumes a queue of numbers until its input ends, `worker URL QUEUE NUMBER PREFETCH hold|ack`, or publishes to it,
//! `worker URL QUEUE NUMBER MESSAGES publish MILLISECONDS`, odd numbers with this delay. What happens it prints as the events of a
//! history, lines of JSON.

// A program for tests says no by panicking.
#![allow(clippy::expect_used)]

use std::time::Duration;

use kombu::Queue;
use kombu_tests::{Work, publish, work};
use tokio::io::AsyncReadExt;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (url, queue, number, count, what, delay) = match &arguments[..] {
        [url, queue, number, count, what] => (url, queue, number, count, what.as_str(), "0"),
        [url, queue, number, count, what, delay] => {
            (url, queue, number, count, what.as_str(), delay.as_str())
        }
        _ => {
            eprintln!("usage: worker URL QUEUE NUMBER COUNT hold|ack|publish [MILLISECONDS]");
            std::process::exit(2);
        }
    };
    let queue: Queue = serde_json::from_str(queue).expect("a queue as JSON");
    let number: u32 = number.parse().expect("a number");
    let count: u64 = count.parse().expect("a number");
    let connection = kombu::connect(url.as_str()).await.expect("it connects");
    let tell = |event| println!("{}", serde_json::json!(event));
    let what = match what {
        "publish" => {
            let delay = Duration::from_millis(delay.parse().expect("milliseconds"));
            publish(connection, &queue, (number, count), delay, tell).await;
            return;
        }
        "hold" => Work::Hold,
        _ => Work::Ack,
    };
    let drained = async {
        let read = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
        read.expect("its input can be read");
    };
    let prefetch = u32::try_from(count).expect("a number");
    work(connection, &queue, (number, prefetch), what, tell, drained).await;
}
