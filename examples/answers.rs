//! Several answers to one question, an answer in parts, one before the work is done, and queues with put and get.
//!
//! `cargo run --example answers [-- --url URL]`

use std::collections::BTreeMap;
use std::time::Duration;

use kombu::Name;
use kombu::call::{Replies, Responder};
use kombu::handler::{Payload, Router, State};
use kombu::prelude::*;
use tokio::sync::oneshot;

const PATIENCE: Duration = Duration::from_secs(10);

/// A shop that says what something costs there. It listens when this returns.
async fn shop(connection: &Connection, name: &'static str, price: u64) -> kombu::Result<()> {
    let questions = Queue::new(format!("answers.{name}")).bind(shops(), "");
    let mut questions = connection.consumer(&questions).await?;
    tokio::spawn(async move {
        while let Some(question) = questions.try_next().await? {
            let item: String = question.decode()?;
            question.reply(&(name, item.len() as u64 * price)).await?;
            question.ack().await?;
        }
        kombu::Result::Ok(())
    });
    Ok(())
}

fn shops() -> Exchange {
    Exchange::fanout("answers.shops")
}

/// What each of two shops wants for it.
async fn prices(caller: &Caller, item: &str) -> kombu::Result<BTreeMap<String, u64>> {
    let asking = caller.call::<_, (String, u64)>(item).timeout(PATIENCE);
    asking
        .gather(2)
        .await?
        .into_iter()
        .map(|answer| Ok(answer?))
        .collect()
}

/// Counts down from what it is asked for, a number at a time.
async fn counter(connection: &Connection) -> kombu::Result<Name> {
    let questions = Queue::new("answers.counter");
    let mut asked = connection.consumer(&questions).await?;
    tokio::spawn(async move {
        while let Some(question) = asked.try_next().await? {
            if let Some(responder) = question.responder() {
                for number in (1..=question.decode::<u64>()?).rev() {
                    responder.part(&number).await?;
                }
                responder.end().await?;
            }
            question.ack().await?;
        }
        kombu::Result::Ok(())
    });
    Ok(questions.name().clone())
}

/// Puts jobs into a queue, and takes them out again.
async fn work(connection: &Connection) -> kombu::Result<()> {
    let mut jobs = connection.simple_queue("answers.jobs").await?;
    for job in ["dig", "sow", "reap"] {
        jobs.put(job).await?;
    }
    while let Some(job) = jobs.get(Duration::ZERO).await? {
        println!("job: {}", job.decode::<String>()?);
        job.ack().await?;
    }
    Ok(())
}

/// Answers first, and then files what was said, as it came.
async fn note(
    Payload(text): Payload<String>,
    responder: Responder,
    State(archive): State<Producer>,
    said: Delivery,
) -> kombu::Result<()> {
    responder.reply(&format!("{text} is noted")).await?;
    archive.forward(&said).routing_key(ARCHIVE).await?;
    said.ack().await
}

const ARCHIVE: &str = "answers.archive";

/// Has notes taken of several people at once, of each in the order in which they speak. The answers wait until they are fetched.
async fn notes(connection: &Connection) -> kombu::Result<()> {
    let questions = Queue::new("answers.notes");
    connection.declare_queue(&questions).await?;
    let mut archived = connection.simple_buffer(ARCHIVE).await?;
    let archive = connection.producer(Exchange::default()).await?;
    let router = Router::new().fallback(note).with_state(archive);
    let notes = connection.serve(router).queues(&questions).concurrency(4);
    let notes = notes.in_order_by(|said| said.app_id().map(Name::from));
    let (stop, stopped) = oneshot::channel::<()>();
    let notes = tokio::spawn(notes.run_until(async { drop(stopped.await) }));

    let caller = connection.caller(Exchange::default());
    let caller = caller.routing_key(questions.name()).await?;
    let mut asked = Vec::new();
    for (who, text) in [("ann", "dig"), ("ben", "sow"), ("ann", "reap")] {
        asked.push(caller.call::<_, String>(text).app_id(who).ask().await?);
    }
    for mut asked in asked {
        println!("{}", asked.answer(PATIENCE).await?);
    }
    let mut filed = BTreeMap::<_, Vec<String>>::new();
    for _ in 0..3 {
        if let Some(said) = archived.get(PATIENCE).await? {
            let who = said.app_id().unwrap_or_default().to_owned();
            filed.entry(who).or_default().push(said.decode()?);
        }
    }
    for (who, texts) in filed {
        println!("{who}: {}", texts.join(", "));
    }
    // What is being noted is noted to its end.
    drop(stop);
    if let Ok(ended) = notes.await {
        ended?;
    }
    Ok(())
}

async fn run(url: &str) -> kombu::Result<()> {
    let connection = kombu::connect(url).await?;
    shop(&connection, "corner", 3).await?;
    shop(&connection, "market", 2).await?;
    let caller = connection.caller(shops()).await?;
    for (shop, price) in prices(&caller, "apples").await? {
        println!("{shop}: {price}");
    }

    let counter = counter(&connection).await?;
    let caller = connection.caller(Exchange::default());
    let caller = caller.routing_key(counter).await?;
    let mut numbers: Replies<u64> = caller.call(&3).timeout(PATIENCE).stream();
    while let Some(number) = numbers.next().await {
        println!("{}", number?);
    }

    work(&connection).await?;
    notes(&connection).await?;
    connection.close().await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let url = match arguments.as_slice() {
        [] => "memory://answers",
        [option, url] if option == "--url" => url,
        _ => return Err("usage: answers [--url URL]".into()),
    };
    Ok(run(url).await?)
}

#[cfg(test)]
#[path = "tests/answers.rs"]
mod tests;
