//! The settings of canopsis' messaging.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu::driver::BoxFuture;
use kombu::handler::Attempt;
use kombu::mom::{DataType, Mom, Receiver, Settings};

use serde_json::{Value, json};

use kombu::{Content, ErrorKind, Event, Faults, Interceptor, RetryPolicy};

fn parsed(uri: &str) -> Settings {
    uri.parse().unwrap()
}

#[test]
fn a_scheme_has_a_protocol_and_a_data_type() {
    let plain = parsed("kombu://localhost:5672");
    assert_eq!(
        (plain.protocol.as_str(), plain.data_type),
        ("amqp", DataType::Pt2Pt)
    );
    let demo = parsed("kombu-pubsub://canopsis:canopsis@demo.canopsis.org:5672/canopsis");
    assert_eq!(
        (demo.protocol.as_str(), demo.data_type),
        ("amqp", DataType::PubSub)
    );
    assert_eq!(
        demo.uri.as_deref(),
        Some("amqp://canopsis:canopsis@demo.canopsis.org:5672/canopsis")
    );
    let redis = parsed("redis-pt2pt://localhost/3?prefix=x.&senders=a");
    assert_eq!(
        (redis.protocol.as_str(), redis.data_type),
        ("redis", DataType::Pt2Pt)
    );
    assert_eq!(redis.uri.as_deref(), Some("redis://localhost/3?prefix=x."));
    let empty = parsed("memory-://shop");
    assert_eq!(empty.data_type, DataType::Pt2Pt);
    let wrong = "kombu-nonsense://host".parse::<Settings>().unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Config);
    assert!(wrong.to_string().contains("nonsense"), "{wrong}");
}

/// As canopsis' documentation has them.
#[test]
fn a_uri_has_parts() {
    let parts = |uri: &str| {
        let settings = parsed(uri);
        let text = |part: Option<String>| part.unwrap_or_default();
        (
            [settings.user, settings.pwd, settings.host, settings.path].map(text),
            settings.port,
        )
    };
    let local = ["", "", "localhost", ""].map(str::to_owned);
    assert_eq!(parts("kombu://localhost:5672"), (local, Some(5672)));
    let demo = ["canopsis", "canopsis", "demo.canopsis.org", ""].map(str::to_owned);
    let uri = "kombu-pubsub://canopsis:canopsis@demo.canopsis.org:5672";
    assert_eq!(parts(uri), (demo, Some(5672)));
    let escaped = ["m\u{e9}", "a/b", "host", "my/vhost"].map(str::to_owned);
    let uri = "kombu://m%C3%A9:a%2Fb@host/my%2Fvhost?heartbeat=5&senders=a";
    assert_eq!(parts(uri), (escaped, None));
    let several = ["", "", "", ""].map(str::to_owned);
    assert_eq!(parts("kombu://one:1,two:2/vhost"), (several, None));
}

/// The same place, said by parts.
#[test]
fn parts_make_the_uri_that_has_them() {
    for uri in [
        "memory-pubsub://canopsis:a%2Fb@shop:5672/can%2Fopsis",
        "memory-pt2pt://shop",
    ] {
        let (whole, registry) = (parsed(uri), kombu::registry());
        assert_eq!(whole.uri(&registry).unwrap(), uri);
        let by_parts = Settings { uri: None, ..whole };
        assert_eq!(by_parts.uri(&registry).unwrap(), uri);
    }
}

#[test]
fn senders_and_receivers_stand_in_the_uri_both_ways() {
    let uri =
        "memory-pubsub://shop?senders=canopsis.events:topic,canopsis.alerts&receivers=q:work,other";
    let settings = parsed(uri);
    let names: Vec<_> = settings.senders.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["canopsis.events:topic", "canopsis.alerts"]);
    let (q, other) = (&settings.receivers[0], &settings.receivers[1]);
    assert_eq!(
        (q.name.as_str(), q.callback.as_deref()),
        ("q", Some("work"))
    );
    assert_eq!(
        (other.name.as_str(), other.callback.as_deref()),
        ("other", None)
    );
    let written = settings.uri(&kombu::registry()).unwrap();
    assert_eq!(parsed(&written), settings);
    let wrong = "memory://shop?senders=a:sideways".parse::<Settings>();
    assert!(wrong.unwrap_err().to_string().contains("sideways"));
}

#[test]
fn a_configuration_has_the_same_keys() {
    let settings: Settings = serde_json::from_str(
        r#"{
            "protocol": "memory", "data_type": "pubsub", "host": "shop", "path": "tests",
            "safe": false, "conn_timeout": 20000, "in_timeout": 5, "out_timeout": 100,
            "senders": "canopsis.events,canopsis.alerts,canopsis.incidents", "receivers": ["jobs:work"]
        }"#,
    )
    .unwrap();
    assert_eq!(settings.senders.len(), 3);
    assert_eq!(settings.in_timeout, Duration::from_millis(5));
    assert!(!settings.safe);
    let uri = settings.uri(&kombu::registry()).unwrap();
    assert!(uri.starts_with("memory-pubsub://shop/tests?"), "{uri}");
    let from_uri = parsed(&uri);
    assert_eq!(
        (from_uri.senders, from_uri.receivers),
        (settings.senders, settings.receivers)
    );
    let unknown = serde_json::from_str::<Settings>(r#"{"sender": "a"}"#);
    assert!(unknown.is_err());
    let secret = parsed("kombu://me:secret@host");
    assert!(!format!("{secret:?}").contains("secret"));
}

/// What it says counts, whatever the other keys say.
#[tokio::test]
async fn a_uri_is_a_key_as_well() {
    let read = |text: &str| serde_json::from_str::<Settings>(text).unwrap();
    let settings = read(
        r#"{"uri": "memory-pubsub://mom-key?senders=events", "protocol": "amqp", "data_type": "pt2pt",
            "receivers": "events"}"#,
    );
    let one = Mom::open(kombu::registry(), settings.clone())
        .await
        .unwrap();
    let other = Mom::open(kombu::registry(), settings.clone()).await;
    for mut mom in [one, other.unwrap()] {
        for (_, sent) in mom.send("to each", "key").await.unwrap() {
            assert!(sent.unwrap().routed);
        }
        let received = mom.receive("events", Duration::from_secs(1)).await;
        received.unwrap().unwrap().ack().await.unwrap();
    }
    let uri = settings.uri(&kombu::registry()).unwrap();
    let whole = "memory-pubsub://mom-key?senders=events&receivers=events";
    assert_eq!(uri, whole);
    let parts = read(
        r#"{"protocol": "memory", "data_type": "pubsub", "host": "mom-key", "senders": "events", "receivers": "events"}"#,
    );
    assert_eq!(parts.uri(&kombu::registry()).unwrap(), whole);
}

const KEYS: &[&str] = &[
    "uri",
    "protocol",
    "data_type",
    "data_scope",
    "host",
    "port",
    "path",
    "user",
    "pwd",
    "auto_connect",
    "safe",
    "conn_timeout",
    "in_timeout",
    "out_timeout",
    "ssl",
    "ssl_key",
    "ssl_cert",
    "senders",
    "receivers",
];

/// As canopsis' own file has them.
#[test]
fn keys_without_a_value_are_as_good_as_none() {
    let settings: Settings = serde_json::from_str(
        r#"{
            "uri": "", "protocol": "kombu", "data_type": "pubsub", "data_scope": "canopsis", "auto_connect": true,
            "host": "localhost", "user": "", "pwd": "", "ssl": false, "ssl_key": "", "ssl_cert": "", "receivers": ""
        }"#,
    )
    .unwrap();
    assert_eq!(
        (settings.uri.as_deref(), settings.user.as_deref()),
        (None, None)
    );
    let scoped = parsed("kombu-pubsub-canopsis://localhost");
    let scope = Some("canopsis".to_owned());
    assert_eq!(
        (scoped.data_scope, settings.data_scope),
        (scope.clone(), scope)
    );
    let defaults = Settings::default();
    let nothing = KEYS.iter().map(|key| (*key, Value::Null));
    let empty = ["protocol", "data_type"].map(|key| (key, json!("")));
    for (key, value) in nothing.chain(empty) {
        let read = serde_json::from_value::<Settings>(json!({ key: value }));
        assert!(read.unwrap() == defaults, "{key}");
    }
    for (key, advice) in [
        ("ssl", "query of `uri`"),
        ("auto_connect", "can't be false"),
    ] {
        let wrong = format!(r#"{{"{key}": {}}}"#, key == "ssl");
        let wrong = serde_json::from_str::<Settings>(&wrong).unwrap_err();
        assert!(wrong.to_string().contains(advice), "{wrong}");
    }
}

#[test]
fn a_uri_can_name_several_hosts() {
    let settings = parsed("redis-pubsub://one:1,two:2/3?senders=a&prefix=x.");
    let plain = "redis://one:1,two:2/3?prefix=x.";
    assert_eq!(settings.uri.as_deref(), Some(plain));
}

/// Longer than a connection tries by itself.
#[tokio::test(start_paused = true)]
async fn connecting_takes_as_long_as_the_settings_say() {
    let faults = Faults::default();
    faults.refuse_connects([ErrorKind::ConnectionLost; 1_000]);
    let begin = tokio::time::Instant::now();
    let opening = Mom::open(kombu::registry(), parsed("memory-pt2pt://mom-connect"));
    let policy = RetryPolicy::default().longest_pause(Duration::from_secs(1));
    let opening = opening.connection(move |connection| connection.layer(faults).retry(policy));
    assert!(opening.await.is_err());
    let tried = begin.elapsed().as_secs();
    assert!((19..=20).contains(&tried), "{tried}");
}

/// Takes its time for one exchange.
struct Slow;

impl Interceptor for Slow {
    fn on_publish<'a>(&'a self, content: &'a mut Content) -> BoxFuture<'a, kombu::Result<()>> {
        Box::pin(async move {
            if content.exchange() == "slow" {
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
            Ok(())
        })
    }
}

/// Whoever sends it again knows to which of them; what was given up may be sent all the same.
#[tokio::test(start_paused = true)]
async fn a_sender_that_takes_too_long_is_given_up_by_itself() {
    let settings = parsed("memory-pubsub://slow-mom?senders=fast,slow");
    let mom = Mom::open(kombu::registry(), settings)
        .connection(move |connection| connection.intercept(Slow))
        .await
        .unwrap();
    for (timeout, expected) in [(None, 2_000), (Some(7), 7)] {
        let begin = tokio::time::Instant::now();
        let mut sending = mom.send("message", "key");
        if let Some(timeout) = timeout {
            sending = sending.timeout(Duration::from_millis(timeout));
        }
        let sent = sending.await.unwrap();
        assert_eq!(begin.elapsed(), Duration::from_millis(expected));
        let [(fast, done), (slow, late)] = &sent[..] else {
            panic!("{sent:?}");
        };
        assert_eq!((fast.as_str(), slow.as_str()), ("fast", "slow"));
        assert!(done.is_ok(), "{done:?}");
        let late = late.as_ref().unwrap_err();
        assert_eq!(
            (late.kind(), late.may_have_been_stored()),
            (ErrorKind::Timeout, true)
        );
    }
}

/// Whoever asks for its messages is told, since nobody takes them.
#[tokio::test]
async fn a_callback_that_ended_is_told() {
    let settings = parsed("memory-pt2pt://mom-ended?senders=jobs&receivers=jobs");
    let mut mom = Mom::open(kombu::registry(), settings).await.unwrap();
    mom.on_receive("jobs", async || {}).await.unwrap();
    let mut events = mom.connection().events();
    mom.connection().delete_queue("jobs").await.unwrap();
    while !matches!(
        events.next().await.unwrap(),
        Event::ConsumerCancelled { .. }
    ) {}
    let told = loop {
        let refused = mom.receive("jobs", Duration::ZERO).await.unwrap_err();
        if refused.kind() != ErrorKind::PreconditionFailed {
            break refused;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(told.kind(), ErrorKind::ConsumerCancelled);
    let again = mom.receive("jobs", Duration::ZERO).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Closed);
    mom.on_receive("jobs", async || {}).await.unwrap();
    let refused = mom.receive("jobs", Duration::ZERO).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PreconditionFailed);
    mom.close().await.unwrap();
}

/// It may finish, unless it never does.
#[tokio::test(start_paused = true)]
async fn a_callback_that_never_returns_keeps_nothing_from_ending() {
    for safe in [true, false] {
        let mut settings = parsed("memory-pt2pt://?senders=jobs&receivers=jobs");
        settings.safe = safe;
        let mut mom = Mom::open(kombu::registry(), settings).await.unwrap();
        let (begun, mut begins) = tokio::sync::mpsc::channel(1);
        let stuck = async move || {
            begun.send(()).await.unwrap();
            std::future::pending::<()>().await;
        };
        mom.on_receive("jobs", stuck).await.unwrap();
        mom.send("job", "jobs").await.unwrap();
        begins.recv().await.unwrap();
        let closing = tokio::time::timeout(Duration::from_secs(60), mom.close());
        closing.await.unwrap().unwrap();
    }
}

/// Each has its own 30 s.
#[tokio::test(start_paused = true)]
async fn callbacks_that_never_return_are_ended_beside_each_other() {
    let settings = parsed("memory-pt2pt://?senders=a,b,c&receivers=a,b,c");
    let mut mom = Mom::open(kombu::registry(), settings).await.unwrap();
    let (begun, mut begins) = tokio::sync::mpsc::channel(1);
    for name in ["a", "b", "c"] {
        let begun = begun.clone();
        let stuck = async move || {
            begun.send(()).await.unwrap();
            std::future::pending::<()>().await;
        };
        mom.on_receive(name, stuck).await.unwrap();
        mom.send("job", name).sender(name).await.unwrap();
        begins.recv().await.unwrap();
    }
    let begin = tokio::time::Instant::now();
    mom.cancel_receivers(["a", "b"]).await.unwrap();
    assert_eq!(begin.elapsed().as_secs(), 30);
    mom.cancel_all_receivers().await.unwrap();
    assert_eq!(begin.elapsed().as_secs(), 60);
}

/// The others come and go as they were asked to.
#[tokio::test(start_paused = true)]
async fn a_receiver_that_does_not_end_in_time_keeps_no_other_from_it() {
    let faults = Faults::default();
    let settings = parsed("memory-pt2pt://?receivers=a,b");
    let layer = faults.clone();
    // Nobody takes the session for lost meanwhile, which would be the receivers' end.
    let mut deadlines = kombu::Deadlines::default();
    deadlines.liveness = Duration::from_secs(3600);
    let mom = Mom::open(kombu::registry(), settings);
    let mom = mom.connection(move |connection| connection.layer(layer).deadlines(deadlines));
    let mut mom = mom.await.unwrap();
    faults.withhold_replies(true);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(45)).await;
        faults.withhold_replies(false);
    });
    let receivers = ["c".parse::<Receiver>().unwrap()];
    let late = mom.set_receivers(receivers).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
    assert_eq!(mom.receivers().collect::<Vec<_>>(), ["c"]);
}

/// It isn't taken for one that is there when it is asked for again.
#[tokio::test]
async fn a_sender_that_can_not_be_declared_is_told_each_time() {
    let sender = |text: &str| text.parse::<kombu::mom::Sender>().unwrap();
    let settings = parsed("memory-pt2pt://?senders=events&receivers=events");
    let mut mom = Mom::open(kombu::registry(), settings).await.unwrap();
    for _ in 0..2 {
        let refused = mom.set_senders([sender("events:topic")]).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PreconditionFailed);
    }
    // The one that was there still is.
    for (_, sent) in mom.send("event", "events").await.unwrap() {
        assert!(sent.unwrap().routed);
    }
    mom.set_senders([sender("events")]).await.unwrap();
    mom.close().await.unwrap();
}

/// Nothing that somebody may want is thrown away: it goes on being tried.
#[tokio::test(start_paused = true)]
async fn what_a_callback_fails_with_again_and_again_stays() {
    let settings = parsed("memory-pt2pt://?senders=jobs&receivers=jobs");
    let mut mom = Mom::open(kombu::registry(), settings).await.unwrap();
    let (seen, mut attempts) = tokio::sync::mpsc::unbounded_channel();
    let failing = async move |Attempt(attempt): Attempt| {
        seen.send(attempt).unwrap();
        Err::<(), _>("bad luck")
    };
    mom.on_receive("jobs", failing).await.unwrap();
    mom.send("job", "jobs").await.unwrap();
    for attempt in 1..=20 {
        let next = tokio::time::timeout(Duration::from_secs(3600), attempts.recv());
        assert_eq!(next.await, Ok(Some(attempt)));
    }
    mom.close().await.unwrap();
}

/// Whether they were in the settings or came later.
#[tokio::test]
async fn receivers_that_ended_are_opened_again() {
    let receiver = |text: &str| text.parse::<Receiver>().unwrap();
    let settings = parsed("memory-pt2pt://?senders=jobs,more&receivers=jobs:work,left:work");
    let mom = Mom::open(kombu::registry(), settings);
    let (seen, mut handled) = tokio::sync::mpsc::unbounded_channel();
    let work = async move || seen.send(()).unwrap();
    let mut mom = mom.callback("work", work).await.unwrap();
    mom.add_receiver("more").await.unwrap();
    for text in ["held", "waits"] {
        mom.send(text, "more").await.unwrap();
    }
    let held = mom.receive("more", Duration::from_secs(1)).await.unwrap();
    // What the first one ended with is still to be told.
    for queue in ["left", "jobs"] {
        mom.connection().delete_queue(queue).await.unwrap();
    }
    while mom
        .receive("jobs", Duration::ZERO)
        .await
        .unwrap_err()
        .kind()
        == ErrorKind::PreconditionFailed
    {
        tokio::task::yield_now().await;
    }
    let receivers = [receiver("jobs:work"), receiver("more")];
    mom.set_receivers(receivers).await.unwrap();
    assert_eq!(mom.receivers().collect::<Vec<_>>(), ["jobs", "more"]);
    mom.send("job", "jobs").await.unwrap();
    handled.recv().await.unwrap();
    // This one has stayed, with what it had.
    let more = mom.receive("more", Duration::ZERO).await.unwrap();
    assert!(more.is_none());
    held.unwrap().ack().await.unwrap();
    mom.close().await.unwrap();
}
