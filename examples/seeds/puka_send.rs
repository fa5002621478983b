//! puka: synchronously send a message.

use kombu::blocking::{self, Wait};
use kombu::{Exchange, Queue};

pub(crate) fn run(url: &str) -> kombu::Result<()> {
    let client = blocking::connect(url)?;
    client.declare_queue(&Queue::new("seeds.test")).wait()?;
    let producer = client.producer(Exchange::default()).wait()?;
    let publish = producer.publish_text("Hello world!");
    publish.routing_key("seeds.test").wait()?;
    println!(" [*] Message sent");
    client.close().wait()
}
