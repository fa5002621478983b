//! Publishes a file of events in three formats to a topic exchange, and checks what arrives in three queues.
//!
//! `cargo run --example quickstart [-- [--url URL] [FILE]]`

use std::collections::VecDeque;
use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use kombu::prelude::*;

const USAGE: &str = "usage: quickstart [--url URL] [FILE]";
const URL: &str = "memory://";
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/events.jsonl");

/// Each queue with its bindings. `payment.failed.eu` matches both of the last one, and arrives there once.
const QUEUES: [(&str, &[&str]); 3] = [
    ("orders", &["order.#"]),
    ("europe", &["*.*.eu"]),
    ("trouble", &["#.failed.*", "payment.#"]),
];

/// Serializers take turns; the content type of a message says which one it was.
const SERIALIZERS: [(&str, &str); 3] = [
    ("json", "application/json"),
    ("msgpack", "application/x-msgpack"),
    ("yaml", "application/x-yaml"),
];

/// A queue that is silent for longer has stalled.
const PATIENCE: Duration = Duration::from_secs(30);

/// One line of the file. What is the same in all events has a type, the rest stays as it comes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    id: u64,
    kind: String,
    region: String,
    at: String,
    data: serde_json::Value,
}

/// An event in a queue.
#[derive(Clone, Debug, PartialEq)]
struct Arrival {
    content_type: String,
    event: Event,
}

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

#[tokio::main]
async fn main() -> ExitCode {
    // A fresh name, so that runs on a shared broker don't meet.
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let name = format!(
        "quickstart.{}.{}",
        std::process::id(),
        since_1970.as_nanos()
    );
    match run(&name, std::env::args_os().skip(1)).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("quickstart: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Answers whether everything arrived as it should.
async fn run(name: &str, arguments: impl Iterator<Item = OsString>) -> Result<bool> {
    let (url, file) = read_arguments(arguments)?;
    let events = read_events(&file)?;

    // Declarations are plain values: nothing is sent yet.
    let exchange = Exchange::topic(name);
    let queues = QUEUES.map(|(queue, patterns)| {
        let queue = Queue::new(format!("{name}.{queue}"));
        patterns
            .iter()
            .fold(queue, |queue, pattern| queue.bind(&exchange, *pattern))
    });

    let connection = kombu::connect(url).await?;
    let outcome = publish_and_collect(&connection, &exchange, &queues, &events).await;

    // Nothing of ours stays on the broker, whatever happened.
    let cleaned = clean_up(&connection, &exchange, &queues).await;
    let (unroutable, arrivals) = outcome?;
    cleaned?;
    Ok(report(&events, unroutable, &arrivals))
}

async fn clean_up(
    connection: &Connection,
    exchange: &Exchange,
    queues: &[Queue],
) -> kombu::Result<()> {
    for queue in queues {
        connection.delete_queue(queue.name()).await?;
    }
    connection.delete_exchange(exchange.name()).await?;
    connection.close().await
}

/// Answers how many events no queue wanted, and what arrived in each queue.
async fn publish_and_collect(
    connection: &Connection,
    exchange: &Exchange,
    queues: &[Queue],
    events: &[Event],
) -> Result<(usize, Vec<Vec<Arrival>>)> {
    let mut collecting = Vec::new();
    for queue in queues {
        // Opening a consumer declares its queue, with the exchange and the bindings.
        let consumer = connection.consumer(queue).prefetch(32).await?;
        collecting.push(tokio::spawn(collect(consumer)));
    }

    let producer = connection.producer(exchange).await?;
    let mut receipts = Vec::new();
    for (event, (serializer, _)) in events.iter().zip(SERIALIZERS.iter().cycle()) {
        // `send` doesn't wait for the broker's answer: the next event goes out before this one is confirmed.
        let receipt = producer
            .publish(event)
            .serializer(serializer)
            .routing_key(routing_key(event))
            .send()
            .await?;
        receipts.push(receipt);
    }
    let mut unroutable = 0;
    for receipt in receipts {
        // Publishing to nobody is no error on a topic exchange.
        if !receipt.await?.routed {
            unroutable += 1;
        }
    }

    // The default exchange leads to the queue that the routing key names. The broker has all events by now,
    // so this is the last message of each queue.
    let producer = connection.producer(Exchange::default()).await?;
    for queue in queues {
        producer
            .publish_text("")
            .kind("end")
            .routing_key(queue.name())
            .await?;
    }

    let mut arrivals = Vec::new();
    for task in collecting {
        arrivals.push(task.await??);
    }
    Ok((unroutable, arrivals))
}

async fn collect(mut consumer: Consumer) -> Result<Vec<Arrival>> {
    let mut arrivals = Vec::new();
    loop {
        let Some(delivery) = consumer.receive(PATIENCE).await? else {
            return Err(format!("{:?} are silent before their end", consumer.queues()).into());
        };
        if delivery.kind() == Some("end") {
            delivery.ack().await?;
            return Ok(arrivals);
        }
        let (event, delivery) = delivery.take::<Event>()?; // decoded by content type
        arrivals.push(Arrival {
            content_type: delivery.content_type().unwrap_or_default().to_owned(),
            event,
        });
        delivery.ack().await?; // takes the delivery: settling it twice doesn't compile
    }
}

fn routing_key(event: &Event) -> String {
    format!("{}.{}", event.kind, event.region)
}

fn read_arguments(mut given: impl Iterator<Item = OsString>) -> Result<(String, PathBuf)> {
    let mut url = None;
    let mut file = None;
    while let Some(argument) = given.next() {
        match argument.to_str() {
            Some("--url") => {
                let value = given.next().and_then(|value| value.into_string().ok());
                url = Some(value.ok_or(format!("--url needs a URL; {USAGE}"))?);
            }
            Some(option) if option.starts_with('-') => {
                return Err(format!("unknown option `{option}`; {USAGE}").into());
            }
            _ if file.is_some() => {
                return Err(format!("more than one file is given; {USAGE}").into());
            }
            _ => file = Some(PathBuf::from(argument)),
        }
    }
    Ok((
        url.unwrap_or_else(|| URL.to_owned()),
        file.unwrap_or_else(|| PathBuf::from(FILE)),
    ))
}

fn read_events(file: &Path) -> Result<Vec<Event>> {
    let name = file.display();
    let text =
        std::fs::read_to_string(file).map_err(|problem| format!("can't read {name}: {problem}"))?;
    let mut events = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let event = serde_json::from_str(line).map_err(|problem| {
            // The parser sees one line at a time and calls each of them line 1.
            let (text, column) = (problem.to_string(), problem.column());
            let text = text
                .strip_suffix(&format!(" at line 1 column {column}"))
                .unwrap_or(&text);
            format!("{name}, line {}, column {column}: {text}", index + 1)
        })?;
        events.push(event);
    }
    if events.is_empty() {
        return Err(format!("there are no events in {name}").into());
    }
    Ok(events)
}

/// Prints a table of what arrived against what the file and the bindings say.
fn report(events: &[Event], unroutable: usize, arrivals: &[Vec<Arrival>]) -> bool {
    let mut problems = Vec::new();
    println!(
        "{:8} {:22} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "queue", "bindings", "expected", "arrived", "json", "msgpack", "yaml"
    );
    for ((name, patterns), arrived) in QUEUES.iter().zip(arrivals) {
        let expected = expect(patterns, events);
        let found = differences(&expected, arrived);
        let [json, msgpack, yaml] = SERIALIZERS.map(|(_, content_type)| {
            let same = arrived
                .iter()
                .filter(|one| one.content_type == content_type);
            same.count()
        });
        println!(
            "{name:8} {:22} {:8} {:8} {json:8} {msgpack:8} {yaml:8}  {}",
            patterns.join(", "),
            expected.len(),
            arrived.len(),
            if found.is_empty() { "ok" } else { "WRONG" },
        );
        problems.extend(found.iter().map(|problem| format!("{name}: {problem}")));
    }

    let nowhere = events
        .iter()
        .filter(|event| !QUEUES.iter().any(|(_, patterns)| is_bound(patterns, event)))
        .count();
    if unroutable != nowhere {
        problems.push(format!(
            "{unroutable} events were reported as unroutable, and {nowhere} are"
        ));
    }
    println!(
        "{} events were published, {unroutable} of them to nobody",
        events.len()
    );
    for problem in problems.iter().take(10) {
        println!("WRONG  {problem}");
    }
    if problems.len() > 10 {
        println!("WRONG  {} more", problems.len() - 10);
    }
    problems.is_empty()
}

/// What a queue with these bindings gets, found without the library.
fn expect(patterns: &[&str], events: &[Event]) -> Vec<Arrival> {
    events
        .iter()
        .zip(SERIALIZERS.iter().cycle())
        .filter(|(event, _)| is_bound(patterns, event))
        .map(|(event, (_, content_type))| Arrival {
            content_type: (*content_type).to_owned(),
            event: event.clone(),
        })
        .collect()
}

fn is_bound(patterns: &[&str], event: &Event) -> bool {
    let key = routing_key(event);
    let key: Vec<&str> = key.split('.').collect();
    patterns.iter().any(|pattern| {
        let pattern: Vec<&str> = pattern.split('.').collect();
        matches(&pattern, &key)
    })
}

/// `*` stands for one word, `#` for any number of them.
fn matches(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern, key) {
        (["#", rest @ ..], _) => (0..=key.len()).any(|words| matches(rest, &key[words..])),
        ([first, pattern @ ..], [word, key @ ..]) => {
            (*first == "*" || first == word) && matches(pattern, key)
        }
        (pattern, key) => pattern.is_empty() && key.is_empty(),
    }
}

/// Compares contents, in any order: each difference in words.
fn differences(expected: &[Arrival], arrived: &[Arrival]) -> Vec<String> {
    let mut surplus: VecDeque<&Arrival> = arrived.iter().collect();
    let mut found = Vec::new();
    for arrival in expected {
        match surplus.iter().position(|other| *other == arrival) {
            Some(index) => drop(surplus.remove(index)),
            None => found.push(format!("missing {arrival:?}")),
        }
    }
    found.extend(
        surplus
            .iter()
            .map(|arrival| format!("unexpected {arrival:?}")),
    );
    found
}

#[cfg(test)]
#[path = "tests/quickstart.rs"]
mod tests;
