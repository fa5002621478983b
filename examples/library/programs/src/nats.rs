//! The newsroom on NATS: that of `--url URL`, of the environment variable `NATS_URL`, or one on this machine.

use std::error::Error;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = match (arguments.next().as_deref(), arguments.next()) {
        (Some("--url"), Some(url)) => url,
        (None, _) => std::env::var("NATS_URL").unwrap_or_else(|_| "nats://localhost".into()),
        _ => return Err("usage: newsroom-nats [--url URL]".into()),
    };
    newsroom_programs::run(kombu::connect(url).await?).await
}
