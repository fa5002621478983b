//! A password in an `amqp://` URL stays there, whatever lapin writes down. This test is alone in its program: lapin has
//! threads of its own, so the subscriber is everybody's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_amqp), allow(dead_code, unused_imports))]

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};

use kombu::{Connection, Credentials, ErrorKind};
use tracing::field::{Field, Visit};
use tracing::span;

/// Writes down every span and event, with all of their fields.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<String>>);

impl Captured {
    fn write(&self, name: &str, record: impl FnOnce(&mut dyn Visit)) {
        struct Fields<'a>(&'a mut String);
        impl Visit for Fields<'_> {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                let _ = write!(self.0, " {field}={value:?}");
            }
        }
        let mut text = self.0.lock().unwrap();
        text.push_str(name);
        record(&mut Fields(&mut text));
        text.push('\n');
    }
}

impl tracing::Subscriber for Captured {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        self.write(attributes.metadata().name(), |fields| {
            attributes.record(fields)
        });
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        self.write("record", |fields| values.record(fields));
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        self.write(event.metadata().target(), |fields| event.record(fields));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn no_output_tells_a_password_that_is_sent() {
    const SECRET: &str = "Xk7-tell-nobody";
    let captured = Captured::default();
    tracing::subscriber::set_global_default(captured.clone()).unwrap();
    let url = std::env::var("KOMBU_TEST_AMQP_URL").unwrap();
    let in_url = Connection::builder(kombu::registry())
        .url(url.replace("guest:guest@", &format!("guest:{SECRET}@")));
    let provided = Connection::builder(kombu::registry())
        .url(url)
        .credentials(async || Ok(Credentials::new("guest", SECRET)));
    let mut shown = Vec::new();
    for builder in [in_url, provided] {
        shown.push(format!("{builder:?}"));
        let error = builder.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Credentials);
        shown.push(format!("{error} {error:?}"));
    }
    let captured = captured.0.lock().unwrap().clone();
    assert!(captured.contains("StartOk"), "{captured}");
    shown.push(captured);
    for text in shown {
        assert!(!text.contains(SECRET), "{text}");
    }
}
