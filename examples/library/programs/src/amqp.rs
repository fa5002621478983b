//! The newsroom on RabbitMQ: that of `--url URL`, of the environment variable `AMQP_URL`, or one on this machine.

use std::error::Error;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = match (arguments.next().as_deref(), arguments.next()) {
        (Some("--url"), Some(url)) => url,
        (None, _) => std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into()),
        _ => return Err("usage: newsroom-amqp [--url URL]".into()),
    };
    newsroom_programs::run(kombu::connect(url).await?).await
}
