//! puka: synchronously receive three messages.

use kombu::Queue;
use kombu::blocking::{self, Wait};

pub(crate) fn run(url: &str) -> kombu::Result<()> {
    let client = blocking::connect(url)?;
    let mut consumer = client.consumer(&Queue::new("seeds.test")).wait()?;
    for result in blocking::each(consumer.values::<String>().limit(3)) {
        let (message, delivery) = result?;
        println!(" [x] Received message {message:?}");
        delivery.ack().wait()?;
    }
    consumer.cancel().wait()?;
    client.close().wait()
}
