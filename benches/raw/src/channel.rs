//! `tokio::sync::mpsc`, bounded at 1000: one producer task, one consumer task.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::sample::{BODY, Video, video};

/// How many messages the channel holds.
pub const CAPACITY: usize = 1000;

/// Sends and receives `messages` bodies of 100 bytes.
pub async fn bytes(messages: u64) -> Result<(), Box<dyn std::error::Error>> {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(CAPACITY);
    let producer = tokio::spawn(async move {
        for _ in 0..messages {
            if sender.send(Bytes::from_static(BODY)).await.is_err() {
                break;
            }
        }
    });
    let consumer = tokio::spawn(async move {
        let mut received = 0;
        while let Some(body) = receiver.recv().await {
            received += u64::from(body.len() == BODY.len());
        }
        received
    });
    producer.await?;
    check(consumer.await?, messages)
}

/// Sends and receives `messages` videos as JSON, encoded and decoded with serde_json.
pub async fn json(messages: u64) -> Result<(), Box<dyn std::error::Error>> {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(CAPACITY);
    let producer = tokio::spawn(async move {
        let video = video();
        for _ in 0..messages {
            let Ok(body) = serde_json::to_vec(&video) else {
                break;
            };
            if sender.send(Bytes::from(body)).await.is_err() {
                break;
            }
        }
    });
    let consumer = tokio::spawn(async move {
        let mut received = 0;
        while let Some(body) = receiver.recv().await {
            received += u64::from(serde_json::from_slice::<Video>(&body).is_ok());
        }
        received
    });
    producer.await?;
    check(consumer.await?, messages)
}

fn check(received: u64, sent: u64) -> Result<(), Box<dyn std::error::Error>> {
    if received == sent {
        Ok(())
    } else {
        Err(format!("sent {sent}, received {received}").into())
    }
}
