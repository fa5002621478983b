//! Byte stages: which there are, what they are called, and what they make of bodies.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::error::Error;

use kombu_serializers::{BoxError, ByteStage, Registry, SerializerErrorKind, Stage};

const OURS: [(&str, &str, &str, bool); 3] = [
    ("zlib", "gzip", "application/x-gzip", cfg!(feature = "zlib")),
    (
        "bzip2",
        "bzip",
        "application/x-bz2",
        cfg!(feature = "bzip2"),
    ),
    (
        "zstd",
        "zstandard",
        "application/zstd",
        cfg!(feature = "zstd"),
    ),
];

/// Turns every bit over, and knows no limit.
struct Inverse;

impl ByteStage for Inverse {
    fn encode(&self, body: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(body.iter().map(|byte| !byte).collect())
    }

    fn decode(&self, body: &[u8], _limit: usize) -> Result<Vec<u8>, BoxError> {
        self.encode(body)
    }
}

fn inverse(name: &str, content_type: &str) -> Stage {
    Stage::new(name, content_type, Inverse).unwrap()
}

#[test]
fn the_compression_of_the_enabled_features_is_there_by_kombus_names() {
    let registry = Registry::default();
    let enabled = || OURS.into_iter().filter(|(.., enabled)| *enabled);
    let names: Vec<&str> = enabled().map(|(name, ..)| name).collect();
    assert_eq!(registry.stages().names(), names);
    for (name, alias, content_type, _) in enabled() {
        let upper = content_type.to_uppercase();
        for wanted in [name, alias, content_type, &upper] {
            let stage = registry.stages().by_name(wanted).unwrap();
            assert_eq!((stage.name(), stage.content_type()), (name, content_type));
            assert_eq!(stage.aliases(), [alias]);
        }
    }
}

#[test]
fn compression_that_is_not_compiled_in_names_its_feature() {
    let registry = Registry::default();
    for (name, alias, content_type, _) in OURS.into_iter().filter(|(.., enabled)| !enabled) {
        for wanted in [name, alias, content_type] {
            let error = registry.stages().by_name(wanted).unwrap_err();
            assert_eq!(error.kind(), SerializerErrorKind::UnknownStage);
            let way_out = format!("enable the feature `{name}`");
            assert!(error.to_string().ends_with(&way_out), "{error}");
        }
    }
}

#[test]
fn an_unknown_name_gets_the_nearest_one_or_those_that_are_there() {
    let registry = Registry::default();
    registry
        .stages()
        .register(inverse("inverse", "application/x-inverse"));
    let complaint = |name: &str| {
        let error = registry.stages().by_name(name).unwrap_err();
        assert_eq!(error.kind(), SerializerErrorKind::UnknownStage);
        error.to_string()
    };
    assert!(complaint("invers").ends_with("did you mean `inverse`?"));
    let error = complaint("application/x-invers");
    assert!(
        error.ends_with("did you mean `application/x-inverse`?"),
        "{error}"
    );
    let error = complaint("rot13");
    assert!(
        error.ends_with("inverse: choose one of these, or register it"),
        "{error}"
    );
    // A header is somebody else's text.
    let error = complaint(&"\n".repeat(1_000_000));
    assert!(error.len() < 500 && !error.contains('\n'), "{error}");
}

#[test]
fn what_a_stage_makes_it_undoes() {
    let registry = Registry::default();
    registry
        .stages()
        .register(inverse("inverse", "application/x-inverse"));
    let random: Vec<u8> = (0..2_000_000).map(|_| fastrand::u8(..)).collect();
    let regular = b"all is well\n".repeat(100_000);
    for name in registry.stages().names() {
        let stage = registry.stages().by_name(&name).unwrap();
        for body in [&b""[..], b"\0", b"kombu", &regular, &random] {
            let encoded = stage.encode(body).unwrap();
            assert_eq!(stage.decode(&encoded, body.len()).unwrap(), body, "{name}");
        }
        if name != "inverse" {
            assert!(stage.encode(&regular).unwrap().len() < regular.len() / 20);
            assert!(stage.encode(&random).unwrap().len() < random.len() / 100 * 102);
        }
    }
}

#[test]
fn a_stage_that_is_registered_takes_the_place_of_its_name_and_type() {
    let registry = Registry::default();
    let clone = registry.clone();
    let first = inverse("inverse", "application/x-inverse");
    registry.stages().register(first.clone());
    assert_eq!(clone.stages().by_name("inverse").unwrap(), first);
    let second = inverse("other", "Application/X-Inverse");
    registry.stages().register(second.clone());
    assert!(registry.stages().by_name("inverse").is_err());
    assert_eq!(
        registry.stages().by_name("application/x-inverse").unwrap(),
        second
    );
    let third = inverse("other", "application/x-other");
    registry.stages().register(third.clone());
    assert_eq!(registry.stages().by_name("other").unwrap(), third);
    assert!(registry.stages().by_name("application/x-inverse").is_err());
}

#[cfg(feature = "zlib")]
#[test]
fn a_name_goes_before_an_alias() {
    let registry = Registry::default();
    let own = inverse("gzip", "application/gzip");
    registry.stages().register(own.clone());
    assert_eq!(registry.stages().by_name("gzip").unwrap(), own);
    assert_eq!(
        registry
            .stages()
            .by_name("application/x-gzip")
            .unwrap()
            .name(),
        "zlib"
    );
}

#[test]
fn a_stage_without_a_proper_name_or_type_is_refused() {
    for (name, content_type) in [
        ("", "application/x-inverse"),
        (" ", "application/x-inverse"),
        ("a/b", "application/x-inverse"),
        ("inverse", "inverse"),
        ("inverse", ""),
        ("inverse", ";a/b"),
    ] {
        let error = Stage::new(name, content_type, Inverse).unwrap_err();
        assert_eq!(
            error.kind(),
            SerializerErrorKind::Config,
            "{name:?} {content_type:?}"
        );
    }
}

#[test]
fn a_stage_that_keeps_to_no_limit_is_held_to_it() {
    let stage = inverse("inverse", "application/x-inverse");
    assert_eq!(stage.decode(&[0xff; 10], 10).unwrap(), [0; 10][..]);
    let error = stage.decode(&[0xff; 11], 10).unwrap_err();
    assert_eq!(error.kind(), SerializerErrorKind::TooLarge);
    assert!(error.to_string().contains("10 bytes"), "{error}");
}

#[test]
fn what_a_stage_says_is_the_source_of_the_error() {
    struct Refusal;
    impl ByteStage for Refusal {
        fn encode(&self, _: &[u8]) -> Result<Vec<u8>, BoxError> {
            Err("not today".into())
        }

        fn decode(&self, _: &[u8], _: usize) -> Result<Vec<u8>, BoxError> {
            Err("nor tomorrow".into())
        }
    }
    let stage = Stage::new("refusal", "application/x-refusal", Refusal).unwrap();
    let error = stage.encode(b"").unwrap_err();
    assert_eq!(error.kind(), SerializerErrorKind::Encode);
    assert_eq!(error.source().unwrap().to_string(), "not today");
    let error = stage.decode(b"", 0).unwrap_err();
    assert_eq!(error.kind(), SerializerErrorKind::Decode);
    assert_eq!(error.source().unwrap().to_string(), "nor tomorrow");
    assert!(
        error
            .to_string()
            .contains("refusal (application/x-refusal)"),
        "{error}"
    );
}

/// `python/make.py` says how they were made.
#[cfg(all(feature = "zlib", feature = "bzip2", feature = "zstd"))]
#[test]
fn what_python_kombu_compresses_is_decompressed() {
    let registry = Registry::default();
    let value = include_bytes!("python/value.json");
    for (content_type, body) in [
        (
            "application/x-gzip",
            &include_bytes!("python/value.json.zlib")[..],
        ),
        ("application/x-bz2", include_bytes!("python/value.json.bz2")),
        ("application/zstd", include_bytes!("python/value.json.zst")),
        ("application/zstd", include_bytes!("python/piped.json.zst")),
    ] {
        let stage = registry.stages().by_name(content_type).unwrap();
        assert_eq!(
            stage.decode(body, value.len()).unwrap(),
            value[..],
            "{stage:?}"
        );
        assert!(stage.decode(body, value.len() - 1).is_err());
    }
}

/// Python's `zlib.decompress`, `bz2.decompress` and `ZstdDecompressor().decompress`, which wants to know how much comes out.
#[cfg(all(feature = "zlib", feature = "bzip2", feature = "zstd"))]
#[test]
fn what_is_written_begins_as_python_expects() {
    let registry = Registry::default();
    let encode = |name: &str| {
        registry
            .stages()
            .by_name(name)
            .unwrap()
            .encode(&[7; 100])
            .unwrap()
    };
    assert_eq!(encode("zlib")[0], 0x78);
    assert!(encode("bzip2").starts_with(b"BZh"));
    let zstd = encode("zstd");
    // One segment, a checksum, and the size in one byte.
    assert_eq!(zstd[..6], *b"\x28\xb5\x2f\xfd\x24\x64");
}
