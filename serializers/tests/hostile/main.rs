//! Bodies that mean harm are refused, fast, in little memory, on an ordinary stack.
//!
//! How fast is measured in a release build only: `cargo test --release -p kombu-serializers --all-features --test hostile`.
#![cfg(any(feature = "json", feature = "msgpack", feature = "yaml"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests are tests"
)]

use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cpu_time::ThreadTime;
use kombu_serializers::{Codec, SerializerError, SerializerErrorKind, Value};
use peak_alloc::PeakAlloc;
use serde::Deserialize;
use serde::de::IgnoredAny;

#[cfg(feature = "json")]
mod json;
#[cfg(feature = "msgpack")]
mod msgpack;
#[cfg(feature = "json")]
mod registered;
#[cfg(feature = "yaml")]
mod yaml;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Memory is that of the whole process: one measurement at a time. The bodies of other tests count, and are small.
static MEASURING: Mutex<()> = Mutex::new(());

/// Of one thread, so that what runs beside doesn't count. A debug build is slower by far; what would go wrong takes
/// minutes there, too.
const FAST: Duration = match cfg!(debug_assertions) {
    true => Duration::from_secs(5),
    false => Duration::from_millis(100),
};
const MIB: usize = 1024 * 1024;
const LITTLE: usize = 64 * MIB;

/// What it comes to, how long that took, and how many bytes more than before were held meanwhile.
fn measured<T>(call: impl FnOnce() -> T) -> (T, Duration, usize) {
    let _alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let start = ThreadTime::now();
    let outcome = call();
    let took = start.elapsed();
    let held = ALLOCATOR.peak_usage().saturating_sub(before);
    (outcome, took, held)
}

#[derive(Debug, Deserialize)]
struct List(#[allow(dead_code)] Vec<List>);

#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Map {
    #[allow(dead_code)]
    inner: std::collections::BTreeMap<String, Map>,
}

#[derive(Debug, Deserialize)]
struct Node {
    #[allow(dead_code)]
    next: Option<Box<Node>>,
}

#[derive(Debug, Deserialize)]
enum Chain {
    #[allow(dead_code)]
    End,
    #[allow(dead_code)]
    Link(Box<Chain>),
    #[allow(dead_code)]
    Ring { inner: Box<Chain> },
    #[allow(dead_code)]
    Pair(Box<Chain>, u8),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Either {
    #[allow(dead_code)]
    Number(u64),
    #[allow(dead_code)]
    List(Vec<Either>),
    #[allow(dead_code)]
    Map(std::collections::BTreeMap<String, Either>),
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
enum Tagged {
    #[allow(dead_code)]
    Leaf,
    #[allow(dead_code)]
    Branch { next: Box<Tagged> },
}

fn refused<'de, T: Deserialize<'de>>(codec: &Codec, body: &'de [u8]) -> SerializerError {
    let (outcome, took, held) = measured(|| codec.decode::<T>(body).map(|_| ()));
    let what = String::from_utf8_lossy(&body[..body.len().min(40)]);
    assert!(took < FAST, "{took:?} for {what:?}");
    assert!(held < LITTLE, "{held} bytes for {what:?}");
    let error = outcome.expect_err(&what);
    assert_eq!(error.kind(), SerializerErrorKind::Decode);
    assert!(
        error
            .source()
            .is_some_and(|cause| cause.to_string().len() < 1_000)
    );
    error
}

/// Whatever the type, and whether or not it could hold the body.
fn refused_as_anything(codec: &Codec, body: &[u8]) {
    refused::<Value>(codec, body);
    refused::<IgnoredAny>(codec, body);
    refused_as_any_type(codec, body);
}

fn refused_as_any_type(codec: &Codec, body: &[u8]) {
    refused::<List>(codec, body);
    refused::<Map>(codec, body);
    refused::<Node>(codec, body);
    refused::<Chain>(codec, body);
    refused::<Either>(codec, body);
    refused::<Tagged>(codec, body);
}
