//! What is there, and what an error says, if some codecs are not compiled in.
//!
//! Each test is for builds without some feature: `cargo test --no-default-features --features
//! json`, for one.

use kombu_serializers::Registry;

#[test]
fn the_codecs_of_the_enabled_features_are_there() {
    let expected = [
        ("json", cfg!(feature = "json")),
        ("msgpack", cfg!(feature = "msgpack")),
        ("yaml", cfg!(feature = "yaml")),
        ("raw", cfg!(feature = "raw")),
        ("text", cfg!(feature = "raw")),
    ];
    let expected: Vec<&str> = expected
        .iter()
        .filter(|(_, enabled)| *enabled)
        .map(|(name, _)| *name)
        .collect();
    assert_eq!(Registry::default().names(), expected);
}

#[cfg(any(
    not(feature = "json"),
    not(feature = "msgpack"),
    not(feature = "yaml"),
    not(feature = "raw")
))]
#[test]
fn a_codec_that_is_not_compiled_in_names_its_feature() {
    use kombu_serializers::{Accept, SerializerErrorKind};
    let registry = Registry::default();
    let absent = [
        ("json", "application/json", "json", cfg!(feature = "json")),
        (
            "msgpack",
            "application/x-msgpack",
            "msgpack",
            cfg!(feature = "msgpack"),
        ),
        ("yaml", "application/x-yaml", "yaml", cfg!(feature = "yaml")),
        ("raw", "application/data", "raw", cfg!(feature = "raw")),
        ("text", "text/plain", "raw", cfg!(feature = "raw")),
    ];
    for (name, content_type, feature, _) in absent.into_iter().filter(|(.., enabled)| !enabled) {
        let way_out = format!("enable the feature `{feature}`");
        let error = registry.by_name(name).unwrap_err();
        assert_eq!(error.kind(), SerializerErrorKind::UnknownSerializer);
        assert!(error.to_string().ends_with(&way_out), "{error}");
        let error = registry
            .decoder_for(Some(content_type), None, &Accept::all())
            .unwrap_err();
        assert_eq!(error.kind(), SerializerErrorKind::UnknownContentType);
        assert!(error.to_string().contains(&way_out), "{error}");
    }
}

#[cfg(not(any(
    feature = "json",
    feature = "msgpack",
    feature = "yaml",
    feature = "raw"
)))]
#[test]
fn without_features_there_is_no_codec_but_those_registered() {
    let registry = Registry::default();
    let error = registry.by_name("quote").unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no serializer \"quote\", there are none: choose one of these, or register it"
    );
}
