//! A virtual host that is named beside a URL, as each transport has them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use kombu::{ErrorKind, Place};

fn url(protocol: &str, virtual_host: &str) -> String {
    let mut place = Place::new(protocol);
    place.host = Some("broker");
    place.user = Some("me");
    place.password = Some("p@ss/word%");
    place.virtual_host = Some(virtual_host);
    kombu::registry().url_of(&place).unwrap()
}

#[test]
fn each_transport_has_its_own_place_for_a_virtual_host() {
    let me = "me:p%40ss%2Fword%25@broker";
    for (protocol, virtual_host, expected) in [
        ("amqp", "/", format!("amqp://{me}")),
        ("amqp", "test", format!("amqp://{me}/test")),
        ("amqp", "a/b", format!("amqp://{me}/a%2Fb")),
        ("memory", "test", format!("memory://{me}/test")),
        ("redis", "3", format!("redis://{me}/3")),
        ("redis", "test", format!("redis://{me}?prefix=test.")),
        ("nats", "test", format!("nats://{me}?prefix=test")),
    ] {
        assert_eq!(url(protocol, virtual_host), expected);
    }
}

#[test]
fn what_is_missing_is_left_to_the_transport() {
    let registry = kombu::registry();
    assert_eq!(registry.url_of(&Place::new("amqp")).unwrap(), "amqp://");
    let mut place = Place::new("amqp");
    place.port = Some(5673);
    assert_eq!(registry.url_of(&place).unwrap(), "amqp://localhost:5673");
    let unknown = registry.url_of(&Place::new("pigeon")).unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::UnknownScheme);
    assert!(unknown.to_string().contains("nats"), "{unknown}");
}
