//! kombu: sub-classing the messaging classes. Here a type of one's own has a producer, and a consumer is a handler.

use kombu::handler::{Outcome, Payload, Retries, Router};
use kombu::{Connection, Exchange, Producer, Queue};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Action {
    action: String,
    feed_url: String,
}

struct FeedProducer(Producer);

impl FeedProducer {
    async fn open(connection: &Connection, exchange: &Exchange) -> kombu::Result<Self> {
        let producer = connection.producer(exchange).routing_key("importer");
        producer.await.map(FeedProducer)
    }

    async fn act(&self, action: &str, feed_url: &str) -> kombu::Result<()> {
        let action = Action {
            action: action.to_owned(),
            feed_url: feed_url.to_owned(),
        };
        self.0.publish(&action).await.map(drop)
    }

    async fn import_feed(&self, feed_url: &str) -> kombu::Result<()> {
        self.act("import_feed", feed_url).await
    }
}

/// What it fails with is rejected, and kept as a dead letter.
async fn receive(Payload(message): Payload<Action>) -> Result<Outcome, String> {
    match message.action.as_str() {
        "import_feed" => {
            println!("importing {}", message.feed_url);
            Ok(Outcome::Ack)
        }
        "stop" => Ok(Outcome::Quit),
        action => Err(format!("Unknown action: {action}")),
    }
}

pub(crate) async fn run(url: &str) -> kombu::Result<()> {
    let exchange = Exchange::direct("seeds.own");
    let dead = Queue::new("seeds.own.dead");
    let queue = Queue::new("seeds.own").bind(&exchange, "importer");
    let queue = queue
        .dead_letter_exchange("")
        .dead_letter_routing_key(dead.name());
    let connection = kombu::connect(url).await?;
    for queue in [&dead, &queue] {
        connection.declare_queue(queue).await?;
    }
    let producer = FeedProducer::open(&connection, &exchange).await?;
    producer
        .import_feed("http://cnn.com/rss/edition.rss")
        .await?;
    producer
        .act("delete_feed", "http://cnn.com/rss/edition.rss")
        .await?;
    producer.act("stop", "").await?;
    let serve = connection.serve(Router::new().fallback(receive));
    let serve = serve.retries(Retries::new(0));
    serve.queues(&queue).run().await?;
    let mut failed = connection.consumer(&dead).await?;
    if let Some(delivery) = failed.try_next().await? {
        println!("failed: {}", delivery.decode::<Action>()?.action);
        delivery.ack().await?;
    }
    connection.close().await
}
