//! Postage: a producer with messages of its own.

use std::time::SystemTime;

use kombu::postage::{Fingerprint, Message, Parameters, Producer};
use kombu::{Connection, Exchange, Queue};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Sent {
    send_time: f64,
}

fn build_message_ping((): ()) -> Message<Parameters<Sent>> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let send_time = now.unwrap_or_default().as_secs_f64();
    Message::command("ping", Sent { send_time })
}

async fn ping_producer(connection: &Connection, exchange: &Exchange) -> kombu::Result<Producer> {
    let me = Fingerprint::of_process()
        .on(connection)
        .named("pinger", "example");
    let producer = Producer::open(connection).to(exchange, "ping");
    let producer = producer.message_builder("ping", build_message_ping);
    producer.fingerprint(me).await
}

pub(crate) async fn run(url: &str) -> kombu::Result<()> {
    let connection = kombu::connect(url).await?;
    let exchange = Exchange::direct("seeds.ping-exchange");
    let queue = Queue::new("seeds.pings").bind(&exchange, "ping");
    let mut consumer = connection.consumer(&queue).await?;
    let producer = ping_producer(&connection, &exchange).await?;
    producer.named("ping", ()).await?;

    let mut messages = consumer.values::<Message<Parameters<Sent>>>();
    if let Some((message, delivery)) = messages.try_next().await? {
        let sent = message.content.parameters.send_time > 0.0;
        let [name, kind, ..] = message.fingerprint.as_tuple();
        println!("{:?} from {name:?}, {kind:?}: {sent}", message.name);
        delivery.ack().await?;
    }
    connection.close().await
}
