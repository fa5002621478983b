//! OCCO: `interruptable_consumer_example.py`.

use std::sync::Arc;
use std::time::Duration;

use kombu::handler::Payload;
use tokio::sync::{Notify, oneshot};

use super::occo_infinite_consumer::core_func;

pub(crate) async fn run(url: &str) -> kombu::Result<()> {
    let config = super::occo::config(url)?;
    let registry = kombu::registry();
    let processed = Arc::new(Notify::new());
    let processor = {
        let processed = processed.clone();
        async move |message: Payload<String>| {
            let outcome = core_func(message).await;
            processed.notify_one();
            outcome
        }
    };
    let consumer = config.event_driven_consumer(&registry, processor).await?;
    let (cancel, cancelled) = oneshot::channel::<()>();
    let consuming = tokio::spawn(consumer.start_consuming_until(async {
        drop(cancelled.await);
    }));
    // Interrupted when it has processed a message, or when none comes.
    let _ = tokio::time::timeout(Duration::from_secs(5), processed.notified()).await;
    drop(cancel);
    if let Ok(exit) = consuming.await {
        println!("interrupted: {:?}", exit?);
    }
    Ok(())
}
