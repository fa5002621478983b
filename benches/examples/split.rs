//! temp
use kombu::{Exchange, Queue};
use std::time::Instant;
fn main() {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(run())
}
async fn run() {
    let c = kombu::connect("memory://").await.unwrap();
    let q = Queue::new("bench");
    let mut consumer = c.consumer(&q).prefetch(1000).await.unwrap();
    let p = c
        .producer(Exchange::default())
        .routing_key("bench")
        .await
        .unwrap();
    const B: &[u8; 100] = &[7; 100];
    let (mut tp, mut tc, mut tb) = (0u128, 0u128, 0u128);
    for round in 0..3000 {
        let t = Instant::now();
        for _ in 0..500 {
            drop(p.publish_bytes(&B[..]));
        }
        if round > 100 {
            tb += t.elapsed().as_nanos();
        }
        let t = Instant::now();
        for _ in 0..500 {
            p.publish_bytes(&B[..]).await.unwrap();
        }
        if round > 100 {
            tp += t.elapsed().as_nanos();
        }
        let t = Instant::now();
        for _ in 0..500 {
            consumer
                .try_next()
                .await
                .unwrap()
                .unwrap()
                .ack()
                .await
                .unwrap();
        }
        if round > 100 {
            tc += t.elapsed().as_nanos();
        }
    }
    println!(
        "builder {} publish {} next+ack {}",
        tb / 500 / 2900,
        tp / 500 / 2900,
        tc / 500 / 2900
    );
    println!(
        "sizes: content {} delivery {} publishing {}",
        size_of::<kombu::Content>(),
        size_of::<kombu::Delivery>(),
        size_of::<kombu::Publishing>()
    );
}
