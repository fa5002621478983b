//! A newsroom: articles come in, desks edit them, and what is too long is spiked.
//!
//! It is a library on kombu that doesn't choose a broker. It takes a [`Connection`], and its `Cargo.toml` asks for
//! a codec and for no transport. The programs next to it decide: one runs on memory, one on RabbitMQ, one on a
//! transport that is no part of kombu.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use kombu::prelude::*;
use kombu::{Error, ErrorKind, Result};

/// What comes in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Article {
    /// The desk that it is for.
    pub desk: String,
    /// Its headline.
    pub headline: String,
    /// Its length.
    pub words: u32,
}

/// What comes out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edition {
    /// The articles of each desk, in the order in which they came in.
    pub pages: BTreeMap<String, Vec<Article>>,
    /// Articles that were too long.
    pub spiked: Vec<Article>,
    /// Articles for a desk that the newsroom doesn't have.
    pub returned: Vec<Article>,
}

/// The longest article that a desk prints.
const LONGEST: u32 = 1000;

/// Publishes the articles, lets each desk edit its own, and answers what became of them.
///
/// # Errors
///
/// What the connection meets, and [`ErrorKind::Timeout`] if a broker stalls.
pub async fn edit(
    connection: &Connection,
    desks: &[&str],
    articles: &[Article],
) -> Result<Edition> {
    let newsroom = Newsroom::new(desks);
    let edition = newsroom.edit(connection, articles).await;
    newsroom.clear(connection).await?;
    edition
}

struct Newsroom {
    /// Leads an article to the desk that its routing key names.
    articles: Exchange,
    /// Tells every desk that no more articles come.
    deadline: Exchange,
    /// Takes what a desk rejects.
    spike: Exchange,
    spiked: Queue,
    desks: Vec<(String, Queue)>,
}

impl Newsroom {
    fn new(desks: &[&str]) -> Self {
        let articles = Exchange::direct("newsroom.articles");
        let deadline = Exchange::fanout("newsroom.deadline");
        let spike = Exchange::fanout("newsroom.spike");
        let desk = |name: &&str| {
            let queue = Queue::new(format!("newsroom.desk.{name}"))
                .bind(&articles, *name)
                .bind(&deadline, "")
                .dead_letter_exchange(spike.name());
            ((*name).to_owned(), queue)
        };
        Newsroom {
            desks: desks.iter().map(desk).collect(),
            spiked: Queue::new("newsroom.spiked").bind(&spike, ""),
            articles,
            deadline,
            spike,
        }
    }

    async fn edit(&self, connection: &Connection, articles: &[Article]) -> Result<Edition> {
        let mut edition = Edition::default();
        // Queues keep what is published from now on, so the desks can start later.
        connection.declare_queue(&self.spiked).await?;
        for (_, queue) in &self.desks {
            connection.declare_queue(queue).await?;
        }

        let producer = connection.producer(&self.articles).await?;
        for article in articles {
            let published = producer.publish(article).routing_key(&article.desk).await;
            match published {
                Ok(_) => {}
                // On a direct exchange, a key without a queue is an error.
                Err(error) if error.kind() == ErrorKind::Unroutable => {
                    edition.returned.push(article.clone());
                }
                Err(error) => return Err(error),
            }
        }
        let deadline = connection.producer(&self.deadline).await?;
        deadline.publish_text("no more").await?;

        let mut rejected = 0;
        for (desk, queue) in &self.desks {
            let mut consumer = connection.consumer(queue).await?;
            let page = edition.pages.entry(desk.clone()).or_default();
            loop {
                let delivery = next(&mut consumer).await?;
                if delivery.exchange() == self.deadline.name() {
                    delivery.ack().await?;
                    break;
                }
                let (article, delivery) = delivery.take::<Article>()?;
                if article.words > LONGEST {
                    delivery.reject().await?; // to the dead-letter exchange of the queue
                    rejected += 1;
                } else {
                    delivery.ack().await?;
                    page.push(article);
                }
            }
        }

        let mut consumer = connection.consumer(&self.spiked).await?;
        for _ in 0..rejected {
            let (article, delivery) = next(&mut consumer).await?.take()?;
            delivery.ack().await?;
            edition.spiked.push(article);
        }
        Ok(edition)
    }

    async fn clear(&self, connection: &Connection) -> Result<()> {
        let desks = self.desks.iter().map(|(_, queue)| queue);
        for queue in desks.chain([&self.spiked]) {
            connection.delete_queue(queue.name()).await?;
        }
        for exchange in [&self.articles, &self.deadline, &self.spike] {
            connection.delete_exchange(exchange.name()).await?;
        }
        Ok(())
    }
}

async fn next(consumer: &mut Consumer) -> Result<Delivery> {
    let delivery = consumer.receive(Duration::from_secs(30)).await?;
    delivery.ok_or_else(|| Error::new(ErrorKind::Timeout, "an article didn't arrive"))
}

impl fmt::Display for Edition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (desk, articles) in &self.pages {
            write_section(f, desk, articles)?;
        }
        write_section(f, "spiked", &self.spiked)?;
        write_section(f, "returned", &self.returned)
    }
}

fn write_section(f: &mut fmt::Formatter<'_>, name: &str, articles: &[Article]) -> fmt::Result {
    let words: u32 = articles.iter().map(|article| article.words).sum();
    writeln!(f, "{name}, articles: {}, words: {words}", articles.len())?;
    for article in articles {
        writeln!(f, "  {}", article.headline)?;
    }
    Ok(())
}
