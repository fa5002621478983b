//! Encoding and decoding through the registry, against the format's own crate.

use std::hint::black_box;

use kombu::serializers::Registry;
use kombu_bench_raw::sample::{Video, video};

use super::{Case, Limit, Outcome, nothing};

const COUNT: u64 = 500_000;
const BAR: f64 = 0.9;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "codec/json-encode",
            bar: BAR,
            count: COUNT,
            prepare: nothing(),
            ours: Box::new(|count| encode("json", count)),
            limit: Limit::side(|count| repeat(count, &video(), serde_json::to_vec)),
        },
        Case {
            name: "codec/json-decode",
            bar: BAR,
            count: COUNT,
            prepare: nothing(),
            ours: Box::new(|count| {
                decode("application/json", count, serde_json::to_vec(&video())?)
            }),
            limit: Limit::side(|count| {
                let body = serde_json::to_vec(&video())?;
                repeat(count, &body, |body| serde_json::from_slice::<Video>(body))
            }),
        },
        Case {
            name: "codec/msgpack-encode",
            bar: BAR,
            count: COUNT,
            prepare: nothing(),
            ours: Box::new(|count| encode("msgpack", count)),
            limit: Limit::side(|count| repeat(count, &video(), rmp_serde::to_vec_named)),
        },
        Case {
            name: "codec/msgpack-decode",
            bar: BAR,
            count: COUNT,
            prepare: nothing(),
            ours: Box::new(|count| {
                decode(
                    "application/x-msgpack",
                    count,
                    rmp_serde::to_vec_named(&video())?,
                )
            }),
            limit: Limit::side(|count| {
                let body = rmp_serde::to_vec_named(&video())?;
                repeat(count, &body, |body| rmp_serde::from_slice::<Video>(body))
            }),
        },
    ]
}

/// As a producer does it: the codec is looked up once, by name.
fn encode(name: &str, count: u64) -> Outcome {
    let codec = Registry::default().by_name(name)?;
    repeat(count, &video(), |video| codec.encode(video))
}

/// As a consumer does it: the codec is looked up for each message, by content type.
fn decode(content_type: &str, count: u64, body: Vec<u8>) -> Outcome {
    let registry = Registry::default();
    repeat(count, &body, |body| {
        registry
            .decoder_for(Some(content_type), None, &Default::default())?
            .decode::<Video>(body)
    })
}

fn repeat<I, T, E: std::error::Error + 'static>(
    count: u64,
    input: &I,
    work: impl Fn(&I) -> Result<T, E>,
) -> Outcome {
    for _ in 0..count {
        black_box(work(black_box(input))?);
    }
    Ok(())
}
