//! Random bodies, cut ones, and valid ones with some bits turned over: none makes a codec or a stage panic, or takes long.
//!
//! The seed of a run is printed; `KOMBU_TEST_SEED` runs it again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    dead_code,
    reason = "helpers of tests are tests, and without features there is less to test"
)]

use std::time::Duration;

use cpu_time::ThreadTime;
use fastrand::Rng;
use kombu_serializers::{Codec, Registry, SerializerErrorKind, Value};
use serde::Deserialize;
use serde::de::IgnoredAny;

const INPUTS: u64 = 10_000;
/// A debug build is slower by far.
const FAST: Duration = match cfg!(debug_assertions) {
    true => Duration::from_secs(2),
    false => Duration::from_millis(100),
};

#[derive(Debug, Deserialize)]
enum Shape {
    Nothing,
    Number(i64),
    Inner(Box<Shape>),
    Named {
        text: String,
        list: Vec<Option<f64>>,
    },
}

fn seed() -> u64 {
    let seed = match std::env::var("KOMBU_TEST_SEED") {
        Ok(seed) => seed.parse().expect("KOMBU_TEST_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("KOMBU_TEST_SEED={seed}");
    seed
}

/// How a body came to be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sort {
    Random,
    Cut,
    Flipped,
    Spliced,
}

/// Something that may be wrong, out of a body that is right.
fn spoil(rng: &mut Rng, mut valid: Vec<u8>) -> (Sort, Vec<u8>) {
    match rng.u8(..4) {
        1 if !valid.is_empty() => {
            valid.truncate(rng.usize(..valid.len()));
            (Sort::Cut, valid)
        }
        2 if !valid.is_empty() => {
            for _ in 0..rng.u8(1..=4) {
                let place = rng.usize(..valid.len());
                valid[place] ^= 1 << rng.u8(..8);
            }
            (Sort::Flipped, valid)
        }
        3 if !valid.is_empty() => {
            let part = rng.usize(..valid.len())..;
            let place = rng.usize(..=valid.len());
            let part = valid[part].to_vec();
            valid.splice(place..place, part);
            (Sort::Spliced, valid)
        }
        _ => {
            let length = rng.usize(..300);
            (Sort::Random, (0..length).map(|_| rng.u8(..)).collect())
        }
    }
}

/// Shows what made a test panic.
struct Shown<'a>(u64, Sort, &'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Shown(index, sort, body) = self;
            println!("input {index}, {sort:?}: {}", body.escape_ascii());
        }
    }
}

/// Makes so many bodies of valid ones, and has each tried.
fn fuzz(mut valid: impl FnMut(&mut Rng) -> Vec<u8>, mut attempt: impl FnMut(Sort, &[u8])) {
    let seed = seed();
    for index in 0..INPUTS {
        let mut rng = Rng::with_seed(seed.wrapping_add(index));
        let whole = valid(&mut rng);
        let (sort, body) = spoil(&mut rng, whole);
        let _shown = Shown(index, sort, &body);
        let start = ThreadTime::now();
        attempt(sort, &body);
        let took = start.elapsed();
        assert!(took < FAST, "{took:?}");
    }
}

fn text(rng: &mut Rng) -> String {
    let length = rng.usize(..20);
    let characters = [
        'a', '"', ':', ' ', '\n', '-', '*', '&', 'é', '🦀', '\0', '~',
    ];
    (0..length)
        .map(|_| characters[rng.usize(..characters.len())])
        .collect()
}

fn value(rng: &mut Rng, depth: usize) -> Value {
    let items = rng.usize(..5);
    match rng.u8(..if depth == 0 { 6 } else { 8 }) {
        0 => Value::Null,
        1 => rng.bool().into(),
        2 => rng.i64(..).into(),
        3 => (rng.u64(..) >> rng.u8(..64)).into(),
        4 => rng.f64().into(),
        5 => text(rng).as_str().into(),
        6 => Value::from_iter((0..items).map(|_| value(rng, depth - 1))),
        _ => {
            let mut entries: Vec<(String, Value)> = Vec::new();
            for _ in 0..items {
                entries.push((text(rng), value(rng, depth - 1)));
            }
            entries.sort_by(|one, other| one.0.cmp(&other.0));
            entries.dedup_by(|one, other| one.0 == other.0);
            Value::from_iter(
                entries
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.clone())),
            )
        }
    }
}

fn decode_as<'de, T: Deserialize<'de>>(codec: &Codec, body: &'de [u8]) -> Option<T> {
    match codec.decode(body) {
        Ok(value) => Some(value),
        Err(error) => {
            assert_eq!(error.kind(), SerializerErrorKind::Decode);
            None
        }
    }
}

fn decode(codec: &Codec, body: &[u8]) {
    decode_as::<Value>(codec, body);
    decode_as::<IgnoredAny>(codec, body);
    decode_as::<Shape>(codec, body);
    decode_as::<Vec<Shape>>(codec, body);
    decode_as::<&str>(codec, body);
    decode_as::<f32>(codec, body);
    decode_as::<Vec<u8>>(codec, body);
}

fn fuzz_values(codec: &Codec) {
    fuzz(
        |rng| codec.encode(&value(rng, 4)).unwrap().to_vec(),
        |_, body| decode(codec, body),
    );
}

#[cfg(feature = "json")]
#[test]
fn json_takes_anything() {
    fuzz_values(&Codec::JSON);
}

#[cfg(feature = "msgpack")]
#[test]
fn msgpack_takes_anything() {
    fuzz_values(&Codec::MSGPACK);
}

#[cfg(feature = "yaml")]
#[test]
fn yaml_takes_anything() {
    fuzz_values(&Codec::YAML);
}

#[cfg(feature = "raw")]
#[test]
fn raw_bytes_take_anything() {
    fuzz(
        |rng| text(rng).into_bytes(),
        |_, body| {
            assert_eq!(Codec::RAW.decode::<&[u8]>(body).unwrap(), body);
            decode(&Codec::RAW, body);
        },
    );
}

#[cfg(feature = "raw")]
#[test]
fn text_takes_anything() {
    fuzz(
        |rng| text(rng).into_bytes(),
        |_, body| {
            let valid = std::str::from_utf8(body);
            assert_eq!(Codec::TEXT.decode::<&str>(body).ok(), valid.ok());
            decode(&Codec::TEXT, body);
        },
    );
}

/// Whatever the bytes behind a value are.
#[cfg(all(feature = "json", feature = "msgpack"))]
#[test]
fn a_value_and_anything_behind_it_are_refused() {
    let seed = seed();
    for index in 0..INPUTS {
        let mut rng = Rng::with_seed(seed.wrapping_add(index));
        let value = value(&mut rng, 3);
        let behind: Vec<u8> = (0..rng.usize(1..5)).map(|_| rng.u8(..)).collect();
        let msgpack = [&Codec::MSGPACK.encode(&value).unwrap(), &behind[..]].concat();
        let _shown = Shown(index, Sort::Spliced, &msgpack);
        assert!(decode_as::<Value>(&Codec::MSGPACK, &msgpack).is_none());
        // A digit would make another number of one, and space is nothing.
        let json = [&Codec::JSON.encode(&[value]).unwrap(), &behind[..]].concat();
        let _shown = Shown(index, Sort::Spliced, &json);
        let refused = decode_as::<Value>(&Codec::JSON, &json).is_none();
        assert!(refused || behind.iter().all(|byte| b" \t\r\n".contains(byte)));
    }
}

/// What is cut is refused, and what is damaged too, unless it comes to the same: each format has a checksum. That of zlib is
/// blind to changes of 1, -2 and 1 at equal distances, as every zlib is; and a few bits more in its last bytes and itself fit each
/// other again. Nothing may come out that it doesn't fit.
fn fuzz_stage(name: &str) {
    let stage = Registry::default().stages().by_name(name).unwrap();
    let original = std::cell::RefCell::new(Vec::new());
    fuzz(
        |rng| {
            let mut body = original.borrow_mut();
            body.clear();
            for _ in 0..rng.u8(..4) {
                match rng.bool() {
                    true => body.extend(vec![rng.u8(..); rng.usize(..5_000)]),
                    false => body.extend((0..rng.usize(..200)).map(|_| rng.u8(..))),
                }
            }
            stage.encode(&body).unwrap().to_vec()
        },
        |sort, spoilt| {
            let original = original.borrow();
            for limit in [original.len(), original.len() / 2, 1_000_000] {
                match stage.decode(spoilt, limit) {
                    Ok(decoded) => {
                        assert!(decoded.len() <= limit);
                        let fits = name == "zlib" && spoilt.ends_with(&adler32(&decoded));
                        assert!(sort == Sort::Random || decoded == original[..] || fits);
                        assert_ne!(sort, Sort::Cut);
                    }
                    Err(error) => assert!(matches!(
                        error.kind(),
                        SerializerErrorKind::Decode | SerializerErrorKind::TooLarge
                    )),
                }
            }
        },
    );
}

/// RFC 1950, 8.2, as it ends a stream.
fn adler32(bytes: &[u8]) -> [u8; 4] {
    let (a, b) = bytes.iter().fold((1, 0), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    (b << 16 | a).to_be_bytes()
}

#[cfg(feature = "zlib")]
#[test]
fn zlib_takes_anything() {
    fuzz_stage("zlib");
}

#[cfg(feature = "bzip2")]
#[test]
fn bzip2_takes_anything() {
    fuzz_stage("bzip2");
}

#[cfg(feature = "zstd")]
#[test]
fn zstd_takes_anything() {
    fuzz_stage("zstd");
}
