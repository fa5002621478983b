//! What is sent and encoded: the same on both sides of every comparison.

use serde::{Deserialize, Serialize};

/// A struct of nine fields with one nested: 261 bytes of JSON, 209 of msgpack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Video {
    pub id: u64,
    pub title: String,
    pub owner: String,
    pub duration_seconds: f64,
    pub views: u32,
    pub public: bool,
    pub rating: Option<f32>,
    pub tags: Vec<String>,
    pub format: Format,
}

/// The nested part of a [`Video`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Format {
    pub container: String,
    pub width: u16,
    pub height: u16,
    pub codec: String,
}

/// The video that every message carries.
pub fn video() -> Video {
    Video {
        id: 9_007_199_254,
        title: "A cat that opens doors, part 2".into(),
        owner: "someone@example.org".into(),
        duration_seconds: 131.75,
        views: 1_301_013,
        public: true,
        rating: Some(4.5),
        tags: vec!["cats".into(), "doors".into(), "funny".into()],
        format: Format {
            container: "webm".into(),
            width: 1920,
            height: 1080,
            codec: "av1".into(),
        },
    }
}

/// A body of 100 bytes that is never copied, allocated or counted.
pub const BODY: &[u8; 100] = &[7; 100];

/// The queue of all cases.
pub const QUEUE: &str = "kombu-bench";
/// Publishes without an answer, and deliveries that aren't acked.
pub const WINDOW: usize = 1000;
