//! Passwords that are wrong, revoked and replaced, and that nobody may read.

use std::fmt::Write as _;
use std::future::IntoFuture;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kombu::{Credentials, ErrorKind, Event, Events};
use kombu_testkit::faults::{Breakable, Fault, Row};
use kombu_testkit::history::Recorder;
use kombu_tests::Captured;
use tokio::time::timeout;
use tracing::{Metadata, span, subscriber};

use crate::stand::{self, count, inflict, patient};
use crate::traffic::Sentinels;

const PATIENCE: Duration = Duration::from_secs(60);
const USER: &str = "rotating";
/// All of them have this in them.
const SECRET: &str = "Xk7-tell-nobody";

pub(crate) async fn are_revoked_and_replaced(broker: &mut Breakable) {
    let rounds = count(2, 20);
    let listening = Listening::begin();
    let mut shown = String::new();
    let recorder = Recorder::new();
    let current = Arc::new(Mutex::new(format!("{SECRET}-wrong")));
    let as_user = |broker: &Breakable| {
        let current = current.clone();
        let builder = broker.builder().deadlines(patient());
        builder.credentials(move || {
            let password = current.lock().unwrap().clone();
            async move { Ok(Credentials::new(USER, password)) }
        })
    };
    let change_password = |broker: &mut Breakable, password: &str| {
        tokio::task::block_in_place(|| {
            let server = broker.server().expect("a server has users");
            server.set_user(USER, password).unwrap();
        });
    };
    change_password(broker, &format!("{SECRET}-0"));

    // At once: nothing gets better by waiting for it.
    let second = Duration::from_secs(1);
    let builder = as_user(broker);
    write!(shown, "{builder:?}").unwrap();
    let refused = recorder
        .call("connect", second, builder.into_future())
        .await;
    let refused = refused.expect("it ends").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Credentials, "{refused}");
    write!(shown, "{refused} {refused:?}").unwrap();

    *current.lock().unwrap() = format!("{SECRET}-0");
    let connection = as_user(broker).await.unwrap();
    let mut events = connection.events();
    let mut sentinels = Sentinels::start(broker, &connection, &recorder).await;
    sentinels.send_and_wait().await;
    for round in 1..=rounds {
        let password = format!("{SECRET}-{round}");
        change_password(broker, &password);
        let is_told = round % 2 == 0;
        if is_told {
            *current.lock().unwrap() = password.clone();
        }
        inflict(broker, &recorder, Fault::Disconnect).await;
        if !is_told {
            // It goes on trying: somebody may give it back.
            let refused = until(
                &mut events,
                |event| matches!(event, Event::Retrying { kind, .. } if *kind == ErrorKind::Credentials),
            );
            write!(shown, "{:?}", refused.await).unwrap();
            *current.lock().unwrap() = password;
        }
        sentinels.send_and_wait().await;
        write!(shown, "{:?} {connection:?}", connection.health()).unwrap();
    }
    sentinels.end().await;
    connection.close().await.unwrap();
    let captured = listening.end();
    assert!(!captured.is_empty(), "nothing was captured");
    for text in [shown, captured] {
        if let Some(at) = text.find(SECRET) {
            panic!("a secret is told: {}", &text[at.saturating_sub(300)..at]);
        }
    }
    let history = recorder.history();
    let (name, fault) = (broker.name(), "password wrong, revoked, replaced");
    let row = Row::of(name, fault, rounds, &history, PATIENCE, Breakable::RECOVERY);
    stand::report(vec![row], &history);
}

async fn until(events: &mut Events, is_it: impl Fn(&Event) -> bool) -> Event {
    let looking = async {
        loop {
            let event = events.next().await.unwrap();
            if is_it(&event) {
                return event;
            }
        }
    };
    timeout(PATIENCE, looking).await.expect("the event")
}

/// Takes down what is traced in the whole process, that of drivers with threads of their own too; other scenarios aren't listened
/// to.
struct Listening(Captured);

static IS_LISTENING: AtomicBool = AtomicBool::new(false);
static LISTENER: Mutex<Option<Captured>> = Mutex::new(None);

impl Listening {
    fn begin() -> Self {
        let mut listener = LISTENER.lock().unwrap();
        let captured = listener.get_or_insert_with(|| {
            let captured = Captured::default();
            subscriber::set_global_default(Switched(captured.clone())).unwrap();
            captured
        });
        IS_LISTENING.store(true, Ordering::Release);
        Listening(captured.clone())
    }

    fn end(self) -> String {
        IS_LISTENING.store(false, Ordering::Release);
        self.0.take()
    }
}

struct Switched(Captured);

impl tracing::Subscriber for Switched {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> subscriber::Interest {
        subscriber::Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        IS_LISTENING.load(Ordering::Acquire)
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        self.0.new_span(attributes)
    }

    fn record(&self, id: &span::Id, values: &span::Record<'_>) {
        self.0.record(id, values);
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        self.0.event(event);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
