//! Which codec a message gets.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use kombu_serializers::{Accept, Registry};

#[cfg(all(
    feature = "json",
    feature = "msgpack",
    feature = "yaml",
    feature = "raw"
))]
mod all_features {
    use super::*;
    use kombu_serializers::SerializerErrorKind::{
        ContentRefused, Decode, UnknownContentType, UnknownSerializer,
    };
    use kombu_serializers::{Codec, SerializerErrorKind};

    fn kind(
        registry: &Registry,
        content_type: &str,
        encoding: &str,
        accept: &Accept,
    ) -> SerializerErrorKind {
        registry
            .decoder_for(Some(content_type), Some(encoding), accept)
            .unwrap_err()
            .kind()
    }

    #[test]
    fn names_content_types_and_encodings_are_those_of_python_kombu() {
        let known = [
            (Codec::JSON, "json", "application/json", "utf-8"),
            (Codec::MSGPACK, "msgpack", "application/x-msgpack", "binary"),
            (Codec::YAML, "yaml", "application/x-yaml", "utf-8"),
            (Codec::RAW, "raw", "application/data", "binary"),
            (Codec::TEXT, "text", "text/plain", "utf-8"),
        ];
        let registry = Registry::default();
        assert_eq!(registry.names(), known.clone().map(|(_, name, ..)| name));
        for (codec, name, content_type, encoding) in known {
            assert_eq!(
                (codec.name(), codec.content_type(), codec.content_encoding()),
                (name, content_type, encoding)
            );
            assert_eq!(registry.by_name(name).unwrap(), codec);
            assert_eq!(registry.by_content_type(content_type), Some(codec.clone()));
            assert!(codec.can_encode() && codec.can_decode());
            assert_eq!(format!("{codec:?}"), format!("Codec({name:?})"));
        }
    }

    #[test]
    fn parameters_and_case_of_a_content_type_do_not_matter() {
        let registry = Registry::default();
        for content_type in [
            "application/json; charset=utf-8",
            "APPLICATION/JSON",
            " application/json;",
        ] {
            assert_eq!(registry.by_content_type(content_type), Some(Codec::JSON));
            let codec = registry
                .decoder_for(Some(content_type), None, &Accept::only(["json"]))
                .unwrap();
            assert_eq!(codec, Codec::JSON);
        }
        assert_eq!(registry.by_content_type("application/jsonp"), None);
    }

    #[test]
    fn a_message_without_a_content_type_is_raw() {
        let registry = Registry::default();
        for none in [None, Some(""), Some(" ")] {
            assert_eq!(
                registry
                    .decoder_for(none, Some("utf-8"), &Accept::all())
                    .unwrap(),
                Codec::RAW
            );
            let error = registry
                .decoder_for(none, None, &Accept::only(["json"]))
                .unwrap_err();
            assert_eq!(error.kind(), ContentRefused);
        }
    }

    #[test]
    fn an_accept_list_takes_names_and_content_types_and_refuses_the_rest() {
        let registry = Registry::default();
        let accept = Accept::only(["json", "application/x-msgpack"]);
        assert!(accept.check(&registry).is_ok());
        assert_eq!(
            registry
                .decoder_for(Some("application/json"), None, &accept)
                .unwrap(),
            Codec::JSON
        );
        assert_eq!(
            registry
                .decoder_for(Some("application/x-msgpack"), None, &accept)
                .unwrap(),
            Codec::MSGPACK
        );
        for refused in [
            "application/x-yaml",
            "text/plain",
            "application/data",
            "application/x-unheard-of",
            "json",
        ] {
            assert_eq!(
                kind(&registry, refused, "utf-8", &accept),
                ContentRefused,
                "{refused}"
            );
        }
        assert_eq!(
            kind(
                &registry,
                "application/json",
                "utf-8",
                &Accept::only([""; 0])
            ),
            ContentRefused
        );
    }

    #[test]
    fn a_refusal_names_the_content_type_and_what_is_accepted() {
        let registry = Registry::default();
        let error = registry
            .decoder_for(Some("application/x-yaml"), None, &Accept::only(["json"]))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "content of type \"application/x-yaml\" is refused, only json is accepted: \
             put it on the accept list, or read the body as bytes"
        );
    }

    #[test]
    fn an_accept_list_with_a_name_that_nobody_has_is_an_error() {
        let registry = Registry::default();
        for wrong in ["jsno", "", "JSON"] {
            let error = Accept::only(["json", wrong]).check(&registry).unwrap_err();
            assert_eq!(error.kind(), UnknownSerializer);
            assert!(error.to_string().contains(&format!("{wrong:?}")), "{error}");
        }
        assert!(
            Accept::only(["application/x-not-yet"])
                .check(&registry)
                .is_ok()
        );
        assert!(Accept::all().check(&registry).is_ok());
    }

    #[test]
    fn an_unknown_name_lists_what_is_there() {
        let error = Registry::default().by_name("jsno").unwrap_err();
        assert_eq!(error.kind(), UnknownSerializer);
        assert_eq!(
            error.to_string(),
            "there is no serializer \"jsno\", there are json, msgpack, yaml, raw, text: choose one of these, or register it"
        );
    }

    #[test]
    fn an_unknown_content_type_lists_what_is_there() {
        let registry = Registry::default();
        let error = registry
            .decoder_for(Some("image/png\n"), None, &Accept::all())
            .unwrap_err();
        assert_eq!(error.kind(), UnknownContentType);
        assert_eq!(
            error.to_string(),
            "there is no codec for content of type \"image/png\\n\", there are application/json, application/x-msgpack, \
             application/x-yaml, application/data, text/plain: register one, or read the body as bytes"
        );
    }

    #[test]
    fn text_in_another_encoding_than_utf8_is_refused_before_it_is_decoded() {
        let registry = Registry::default();
        for text in ["application/json", "application/x-yaml", "text/plain"] {
            for encoding in ["utf-8", "UTF-8", "utf8", "us-ascii", "ascii", "binary", ""] {
                assert!(
                    registry
                        .decoder_for(Some(text), Some(encoding), &Accept::all())
                        .is_ok(),
                    "{text} {encoding}"
                );
            }
            let error = registry
                .decoder_for(Some(text), Some("ISO-8859-1"), &Accept::all())
                .unwrap_err();
            assert_eq!(error.kind(), Decode);
            assert!(error.to_string().contains("\"ISO-8859-1\""), "{error}");
        }
        for binary in ["application/x-msgpack", "application/data"] {
            assert!(
                registry
                    .decoder_for(Some(binary), Some("latin-1"), &Accept::all())
                    .is_ok()
            );
        }
    }

    #[test]
    fn what_is_not_accepted_is_refused_even_in_a_wrong_encoding() {
        let accept = Accept::only(["msgpack"]);
        assert_eq!(
            kind(&Registry::default(), "application/json", "latin-1", &accept),
            ContentRefused
        );
    }

    #[test]
    fn the_type_asked_for_must_fit_and_the_error_says_which_codec_read() {
        use std::error::Error;
        let error = Codec::JSON.decode::<u8>(b"\"a\"").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the body can't be decoded by the json codec (application/json)")
        );
        let cause = error.source().unwrap();
        assert!(cause.downcast_ref::<serde_json::Error>().is_some());
        assert!(
            cause.to_string().contains("invalid type: string"),
            "{cause}"
        );
    }
}

#[test]
fn the_default_accept_list_accepts_all() {
    let registry = Registry::default();
    for name in registry.names() {
        let codec = registry.by_name(&name).unwrap();
        assert!(
            registry
                .decoder_for(Some(codec.content_type()), None, &Accept::default())
                .is_ok(),
            "{name}"
        );
    }
}
