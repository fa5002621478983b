//! is not a handler
//! `Delivery` as the last one only
use kombu::Delivery;
use kombu::handler::Payload;

async fn handle(delivery: Delivery, _: Payload<u32>) {
    let _ = delivery.ack().await;
}

fn main() {
    kombu::handler::Router::<()>::new().on("job", handle);
}
