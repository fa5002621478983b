//! A program that consumes a queue of numbers until its input ends, `worker URL QUEUE NUMBER PREFETCH hold|hold-alone|ack`, or until it
//! gets one of which it dies, `worker URL QUEUE NUMBER PREFETCH die MESSAGE`, or publishes to it, `worker URL QUEUE NUMBER MESSAGES
//! publish MILLISECONDS`, odd numbers with this delay. What happens it prints as the events of a history, lines of JSON.

// A program for tests says no by panicking.
#![allow(clippy::expect_used)]

use std::time::Duration;

use kombu::Queue;
use kombu_testkit::history::Event;
use kombu_tests::{Work, publish, work};
use tokio::io::AsyncReadExt;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (url, queue, number, count, what, more) = match &arguments[..] {
        [url, queue, number, count, what] => (url, queue, number, count, what.as_str(), "0"),
        [url, queue, number, count, what, more] => {
            (url, queue, number, count, what.as_str(), more.as_str())
        }
        _ => {
            eprintln!(
                "usage: worker URL QUEUE NUMBER COUNT hold|hold-alone|ack|die|publish [MESSAGE|MILLISECONDS]"
            );
            std::process::exit(2);
        }
    };
    let queue: Queue = serde_json::from_str(queue).expect("a queue as JSON");
    let number: u32 = number.parse().expect("a number");
    let count: u64 = count.parse().expect("a number");
    let connection = kombu::connect(url.as_str()).await.expect("it connects");
    let deadly = (what == "die").then(|| more.parse::<u64>().expect("a message"));
    let tell = move |event: Event| {
        println!("{}", serde_json::json!(event));
        if let Event::Received { message, .. } = event
            && Some(message) == deadly
        {
            std::process::abort();
        }
    };
    let what = match what {
        "publish" => {
            let delay = Duration::from_millis(more.parse().expect("milliseconds"));
            publish(connection, &queue, (number, count), delay, tell).await;
            return;
        }
        "hold" => Work::Hold,
        "hold-alone" => Work::HoldAlone,
        _ => Work::Ack,
    };
    let drained = async {
        let read = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
        read.expect("its input can be read");
    };
    let prefetch = u32::try_from(count).expect("a number");
    work(connection, &queue, (number, prefetch), what, tell, drained).await;
}
