//! OCCO: `async_producer_example.py`.

pub(crate) async fn run(url: &str) -> kombu::Result<()> {
    let config = super::occo::config(url)?;
    let producer = config.asynchronous_producer(&kombu::registry()).await?;
    producer.push_message("test message").await?;
    println!("pushed");
    producer.connection().close().await
}
