//! Postage: a processor with message handlers: for the content, for the whole message, for calls, and for `quit`.

use kombu::handler::{Outcome, Payload, Router};
use kombu::postage::{self, Content, Message, Nothing, Parameters, Producer, RpcResult};
use kombu::{Exchange, Queue};

async fn msg_status(Payload(message): Payload<Message<Nothing>>) {
    println!("status: {:?}", message.name);
}

async fn rpc_sum(Content(command): Content<Parameters<Vec<i64>>>) -> Message<RpcResult<i64>> {
    Message::result(command.parameters.iter().sum())
}

async fn msg_quit() -> Outcome {
    println!("quit");
    Outcome::Quit
}

pub(crate) async fn run(url: &str) -> kombu::Result<()> {
    let connection = kombu::connect(url).await?;
    let exchange = Exchange::direct("seeds.processor");
    let queue = Queue::new("seeds.processor").bind(&exchange, "all");
    connection.declare_queue(&queue).await?;
    let router = Router::new()
        .on("status", msg_status)
        .on_named("command", "sum", rpc_sum)
        .on_named("command", "quit", msg_quit);
    let processor = tokio::spawn(postage::serve(&connection, router).queues(&queue).run());

    let producer = Producer::open(&connection).to(&exchange, "all").await?;
    producer.status("ready").await?;
    let result: RpcResult<i64> = producer.rpc("sum", [1, 2, 3]).await?;
    println!("sum: {result:?}");
    producer.command("quit", Nothing {}).await?;
    if let Ok(exit) = processor.await {
        println!("{:?}", exit?);
    }
    connection.close().await
}
