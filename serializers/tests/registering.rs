//! Codecs that join at run time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests are tests"
)]

use std::error::Error;

use kombu_serializers::{
    Accept, BoxError, Codec, Decoder, Registry, SerializerErrorKind, Value, Visit, erased_serde,
};
use serde::de::value::{BorrowedStrDeserializer, Error as FormatError};

/// A format of one text behind a `>`.
struct Quote;

impl Decoder for Quote {
    fn decode<'de>(&self, body: &'de [u8], visit: &mut Visit<'_, 'de>) -> Result<(), BoxError> {
        let text = std::str::from_utf8(body)?
            .strip_prefix('>')
            .ok_or("there is no quote")?;
        visit.value(BorrowedStrDeserializer::<FormatError>::new(text))?;
        Ok(())
    }
}

/// Writes texts and numbers, and refuses the rest.
fn describe(value: &dyn erased_serde::Serialize, out: &mut Vec<u8>) -> Result<(), BoxError> {
    out.push(b'>');
    struct Text<'a>(&'a mut Vec<u8>);
    impl std::fmt::Write for Text<'_> {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }
    // `std` has a serializer of texts and numbers: its formatter.
    struct Shown<'a>(&'a dyn erased_serde::Serialize);
    impl std::fmt::Display for Shown<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            serde::Serialize::serialize(self.0, f)
        }
    }
    Ok(std::fmt::Write::write_fmt(
        &mut Text(out),
        format_args!("{}", Shown(value)),
    )?)
}

fn quote() -> Codec {
    Codec::builder("quote", "text/x-quote", "utf-8")
        .encoder(describe)
        .decoder(Quote)
        .build()
        .unwrap()
}

#[test]
fn a_registered_codec_is_found_by_name_and_by_content_type() {
    let registry = Registry::default();
    registry.register(quote());
    let codec = registry.by_name("quote").unwrap();
    assert_eq!(
        (codec.content_type(), codec.content_encoding()),
        ("text/x-quote", "utf-8")
    );
    assert_eq!(
        registry.by_content_type("Text/X-Quote; x=y").unwrap(),
        codec
    );
    assert_eq!(
        registry
            .decoder_for(Some("text/x-quote"), Some("utf-8"), &Accept::all())
            .unwrap(),
        codec
    );
    assert_eq!(
        registry
            .decoder_for(Some("text/x-quote"), None, &Accept::only(["quote"]))
            .unwrap(),
        codec
    );
    assert_eq!(registry.names().last().map(String::as_str), Some("quote"));
    assert_eq!(format!("{codec:?}"), "Codec(\"quote\")");
}

#[test]
fn a_registered_codec_encodes_decodes_and_lets_values_borrow() {
    let codec = quote();
    let body = codec.encode("word").unwrap();
    assert_eq!(&body[..], b">word");
    assert_eq!(&codec.encode(&7).unwrap()[..], b">7");
    let word: &str = codec.decode(&body).unwrap();
    assert_eq!(word, "word");
    assert!(body.as_ptr_range().contains(&word.as_ptr()));
    assert_eq!(codec.decode::<Value>(&body).unwrap(), Value::from("word"));
    assert_eq!(codec.decode::<String>(&body).unwrap(), "word");
}

#[test]
fn errors_of_a_registered_codec_are_the_source() {
    let error = quote().decode::<&str>(b"word").unwrap_err();
    assert_eq!(error.kind(), SerializerErrorKind::Decode);
    assert!(
        error.to_string().contains("quote codec (text/x-quote)"),
        "{error}"
    );
    assert_eq!(error.source().unwrap().to_string(), "there is no quote");
    let error = quote().decode::<u8>(b">word").unwrap_err();
    assert!(
        error
            .source()
            .unwrap()
            .to_string()
            .contains("invalid type: string \"word\", expected u8")
    );
    let error = quote().encode(&[1]).unwrap_err();
    assert_eq!(error.kind(), SerializerErrorKind::Encode);
}

#[test]
fn a_codec_with_an_encoder_only_does_not_decode() {
    let codec = Codec::builder("out", "text/x-out", "utf-8")
        .encoder(describe)
        .build()
        .unwrap();
    assert!(codec.can_encode() && !codec.can_decode());
    assert!(codec.encode("a").is_ok());
    let error = codec.decode::<&str>(b"a").unwrap_err();
    assert_eq!(error.kind(), SerializerErrorKind::CannotDecode);
    assert!(
        error
            .to_string()
            .contains("out codec (text/x-out) only encodes"),
        "{error}"
    );

    let registry = Registry::default();
    registry.register(codec);
    let error = registry
        .decoder_for(Some("text/x-out"), None, &Accept::all())
        .unwrap_err();
    assert_eq!(error.kind(), SerializerErrorKind::CannotDecode);
}

#[test]
fn a_codec_with_a_decoder_only_does_not_encode() {
    let codec = Codec::builder("in", "text/x-in", "utf-8")
        .decoder(Quote)
        .build()
        .unwrap();
    assert!(!codec.can_encode() && codec.can_decode());
    assert_eq!(codec.decode::<&str>(b">a").unwrap(), "a");
    let error = codec.encode("a").unwrap_err();
    assert_eq!(error.kind(), SerializerErrorKind::CannotEncode);
    assert!(
        error
            .to_string()
            .contains("in codec (text/x-in) only decodes"),
        "{error}"
    );
}

#[test]
fn a_codec_that_makes_no_sense_is_not_built() {
    let refused = [
        Codec::builder("neither", "text/x-a", "utf-8"),
        Codec::builder("", "text/x-a", "utf-8").decoder(Quote),
        Codec::builder("with/slash", "text/x-a", "utf-8").decoder(Quote),
        Codec::builder("typeless", "", "utf-8").decoder(Quote),
        Codec::builder("typeless", "text; a/b", "utf-8").decoder(Quote),
    ];
    for builder in refused {
        let shown = format!("{builder:?}");
        let error = builder.build().expect_err(&shown);
        assert_eq!(error.kind(), SerializerErrorKind::Config, "{shown}");
    }
}

#[test]
fn a_codec_takes_the_place_of_those_with_its_name_or_its_content_type() {
    let registry = Registry::default();
    let build = |name, content_type| {
        Codec::builder(name, content_type, "utf-8")
            .decoder(Quote)
            .build()
            .unwrap()
    };
    registry.register(build("a", "text/x-a"));
    registry.register(build("b", "text/x-b"));
    registry.register(build("a", "TEXT/x-b"));
    assert_eq!(registry.by_content_type("text/x-a"), None);
    assert_eq!(registry.by_content_type("text/x-b").unwrap().name(), "a");
    assert!(registry.by_name("b").is_err());
    assert_eq!(registry.by_name("a").unwrap().content_type(), "TEXT/x-b");
}

#[cfg(feature = "json")]
#[test]
fn a_built_in_codec_can_be_replaced_and_remains_as_a_constant() {
    let registry = Registry::default();
    registry.register(
        Codec::builder("json", "application/json", "utf-8")
            .decoder(Quote)
            .build()
            .unwrap(),
    );
    let codec = registry
        .decoder_for(Some("application/json"), None, &Accept::only(["json"]))
        .unwrap();
    assert_eq!(codec.decode::<&str>(b">a").unwrap(), "a");
    assert_ne!(codec, Codec::JSON);
    assert_eq!(Codec::JSON.decode::<&str>(b"\"a\"").unwrap(), "a");
    assert_eq!(Registry::default().by_name("json").unwrap(), Codec::JSON);
}

#[test]
fn clones_of_a_registry_are_the_same_registry() {
    let registry = Registry::default();
    let clone = registry.clone();
    std::thread::spawn(move || clone.register(quote()))
        .join()
        .unwrap();
    assert!(registry.by_name("quote").is_ok());
    assert!(format!("{registry:?}").contains("\"quote\""));
    assert!(Registry::default().by_name("quote").is_err());
}

#[test]
fn codecs_are_equal_if_they_are_clones() {
    let codec = quote();
    assert_eq!(codec.clone(), codec);
    assert_ne!(quote(), codec);
}

#[test]
fn a_name_on_an_accept_list_means_the_codec_that_has_it_now() {
    let registry = Registry::default();
    let accept = Accept::only(["quote"]);
    assert!(accept.check(&registry).is_err());
    assert!(
        registry
            .decoder_for(Some("text/x-quote"), None, &accept)
            .is_err()
    );
    registry.register(quote());
    assert!(accept.check(&registry).is_ok());
    assert!(
        registry
            .decoder_for(Some("text/x-quote"), None, &accept)
            .is_ok()
    );
}

#[test]
fn a_text_codec_is_not_given_other_encodings_but_its_own() {
    let registry = Registry::default();
    let build = |name, content_type, encoding| {
        Codec::builder(name, content_type, encoding)
            .decoder(Quote)
            .build()
    };
    registry.register(build("text8", "text/x-8", "UTF8").unwrap());
    registry.register(build("latin", "text/x-latin", "latin-1").unwrap());
    let decoder = |content_type, encoding| {
        registry.decoder_for(Some(content_type), Some(encoding), &Accept::all())
    };
    assert!(decoder("text/x-8", "utf-8").is_ok());
    assert_eq!(
        decoder("text/x-8", "latin-1").unwrap_err().kind(),
        SerializerErrorKind::Decode
    );
    assert!(decoder("text/x-latin", "latin-1").is_ok());
}

fn decode_with(decoder: impl Decoder) -> String {
    let codec = Codec::builder("odd", "text/x-odd", "utf-8")
        .decoder(decoder)
        .build()
        .unwrap();
    let error = codec.decode::<u8>(b"1").unwrap_err();
    assert_eq!(error.kind(), SerializerErrorKind::Decode);
    error.source().unwrap().to_string()
}

fn number(text: &str) -> BorrowedStrDeserializer<'_, FormatError> {
    BorrowedStrDeserializer::new(text)
}

#[test]
fn a_decoder_that_visits_nothing_is_an_error() {
    fn idle<'de>(_: &'de [u8], _: &mut Visit<'_, 'de>) -> Result<(), BoxError> {
        Ok(())
    }
    assert!(decode_with(idle).contains("without having visited"));
}

#[test]
fn a_decoder_that_swallows_the_error_of_its_visit_is_an_error() {
    fn careless<'de>(_: &'de [u8], visit: &mut Visit<'_, 'de>) -> Result<(), BoxError> {
        let _ = visit.value(number("no number"));
        Ok(())
    }
    assert!(decode_with(careless).contains("invalid type: string"));
}

#[test]
fn a_decoder_that_visits_twice_is_an_error() {
    use serde::de::IntoDeserializer;
    fn eager<'de>(_: &'de [u8], visit: &mut Visit<'_, 'de>) -> Result<(), BoxError> {
        visit.value(IntoDeserializer::<FormatError>::into_deserializer(1_u8))?;
        let _ = visit.value(IntoDeserializer::<FormatError>::into_deserializer(2_u8));
        Ok(())
    }
    assert!(decode_with(eager).contains("more than one value"));
}

#[test]
fn what_a_decoder_finds_wrong_after_its_visit_counts() {
    use serde::de::IntoDeserializer;
    fn strict<'de>(_: &'de [u8], visit: &mut Visit<'_, 'de>) -> Result<(), BoxError> {
        visit.value(IntoDeserializer::<FormatError>::into_deserializer(1_u8))?;
        Err("there is more".into())
    }
    assert_eq!(decode_with(strict), "there is more");
}

#[cfg(feature = "json")]
#[test]
fn every_kind_of_type_goes_through_a_registered_codec() {
    use serde::{Deserialize, Serialize};
    use std::collections::BTreeMap;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Shape {
        Nothing,
        Circle(f64),
        Line(i8, u16),
        Box { label: Option<String> },
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Newtype(i32);
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Everything<'a> {
        borrowed: &'a str,
        shapes: Vec<Shape>,
        either: (Either, Either),
        newtype: Newtype,
        unit: (),
        map: BTreeMap<u8, Option<bool>>,
        big: i128,
        letter: char,
        #[serde(flatten)]
        rest: BTreeMap<String, Value>,
    }

    fn encode(value: &dyn erased_serde::Serialize, out: &mut Vec<u8>) -> Result<(), BoxError> {
        Ok(serde_json::to_writer(out, value)?)
    }
    fn decode<'de>(body: &'de [u8], visit: &mut Visit<'_, 'de>) -> Result<(), BoxError> {
        let mut json = serde_json::Deserializer::from_slice(body);
        visit.erased(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut json))?;
        Ok(json.end()?)
    }
    let codec = Codec::builder("json2", "application/x-json2", "utf-8")
        .encoder(encode)
        .decoder(decode)
        .build()
        .unwrap();

    let sent = Everything {
        borrowed: "text",
        shapes: vec![
            Shape::Nothing,
            Shape::Circle(0.5),
            Shape::Line(-1, 2),
            Shape::Box { label: None },
        ],
        either: (Either::Number(1), Either::Text("a".into())),
        newtype: Newtype(-3),
        unit: (),
        map: BTreeMap::from([(1, Some(true)), (2, None)]),
        big: i128::from(i64::MAX),
        letter: 'é',
        rest: BTreeMap::from([("more".into(), Value::from_iter([1, 2]))]),
    };
    let body = codec.encode(&sent).unwrap();
    assert_eq!(body, Codec::JSON.encode(&sent).unwrap());
    assert_eq!(codec.decode::<Everything<'_>>(&body).unwrap(), sent);
    let error = codec
        .decode::<Everything<'_>>(br#"{"borrowed":1}"#)
        .unwrap_err();
    let cause = error.source().unwrap().to_string();
    assert!(
        cause.contains("invalid type: integer `1`, expected a borrowed string at line 1 column"),
        "{cause}"
    );
}

#[test]
fn a_codec_that_is_replaced_may_use_the_registry_as_it_goes() {
    struct Farewell(Registry);
    impl Decoder for Farewell {
        fn decode<'de>(&self, _: &'de [u8], _: &mut Visit<'_, 'de>) -> Result<(), BoxError> {
            Ok(())
        }
    }
    impl Drop for Farewell {
        fn drop(&mut self) {
            let _ = self.0.names();
        }
    }
    let registry = Registry::default();
    let farewell = Farewell(registry.clone());
    let codec = Codec::builder("farewell", "text/x-quote", "utf-8").decoder(farewell);
    registry.register(codec.build().unwrap());
    registry.register(quote());
    assert!(registry.by_name("farewell").is_err());
}
