//! OCCO: `interruptable_consumer_example.py`.

use std::time::Duration;

use tokio::sync::oneshot;

use super::occo_infinite_consumer::core_func;

pub(crate) async fn run(url: &str) -> kombu::Result<()> {
    let config = super::occo::config(url)?;
    let registry = kombu::registry();
    let consumer = config.event_driven_consumer(&registry, core_func).await?;
    let (cancel, cancelled) = oneshot::channel::<()>();
    let consuming = tokio::spawn(consumer.start_consuming_until(async {
        drop(cancelled.await);
    }));
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(cancel);
    if let Ok(exit) = consuming.await {
        println!("interrupted: {:?}", exit?);
    }
    Ok(())
}
