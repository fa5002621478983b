//! A program that consumes a queue of numbers until its input ends: `worker URL QUEUE NUMBER PREFETCH hold|ack`. What happens it
//! prints as the events of a history, lines of JSON.

// A program for tests says no by panicking.
#![allow(clippy::expect_used)]

use kombu::Queue;
use kombu_tests::{Work, work};
use tokio::io::AsyncReadExt;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, queue, number, prefetch, what] = &arguments[..] else {
        eprintln!("usage: worker URL QUEUE NUMBER PREFETCH hold|ack");
        std::process::exit(2);
    };
    let what = match what.as_str() {
        "hold" => Work::Hold,
        _ => Work::Ack,
    };
    let queue: Queue = serde_json::from_str(queue).expect("a queue as JSON");
    let numbers = (
        number.parse().expect("a number"),
        prefetch.parse().expect("a number"),
    );
    let connection = kombu::connect(url.as_str()).await.expect("it connects");
    let tell = |event| println!("{}", serde_json::json!(event));
    let drained = async {
        let read = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
        read.expect("its input can be read");
    };
    work(connection, &queue, numbers, what, tell, drained).await;
}
