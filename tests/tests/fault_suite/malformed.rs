//! Entries that no program of ours would write, by somebody who knows nothing of this library, amid messages that are as they should
//! be.

mod amqp;
mod bodies;
mod nats;
mod redis;

use std::collections::BTreeMap;
use std::panic::{self, PanicHookInfo};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use fastrand::Rng;
use kombu::handler::{Exit, Outcome, Payload, Retries, Router};
use kombu::{Connection, Event, Exchange, FieldValue, Message, Producer, Queue};
use kombu_testkit::expect::{drain, info};
use kombu_testkit::faults::{Breakable, Row};
use kombu_testkit::history::{self, Answer, Recorder};
use kombu_tests::RedisAdmin;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::stand::{self, count};

const PATIENCE: Duration = Duration::from_secs(60);
/// So many entries are under way at most.
const AT_ONCE: u64 = 50;

/// They are handled, or dead letters that say why; nobody ends, and everything else is handled once and in order.
pub(crate) async fn is_data(broker: &mut Breakable) {
    watch_panics();
    let entries = count(500, 10_000);
    let (seeds, entries) = match std::env::var("KOMBU_TEST_ENTRY") {
        // Alone.
        Ok(seed) => (vec![seed.parse().expect("KOMBU_TEST_ENTRY is a number")], 1),
        Err(_) => {
            let mut rng = stand::rng();
            ((0..entries).map(|_| rng.u64(..)).collect(), entries)
        }
    };
    let recorder = Recorder::new();
    let failed = Exchange::fanout("failed");
    let dead = Queue::new("dead").bind(&failed, "");
    let mut queue = Queue::new("jobs").dead_letter_exchange("failed");
    if broker.name() != "nats" {
        // There, each has a subject of its own, and the queue has no others.
        queue = queue.max_priority(9);
    }
    if broker.name() == "amqp" {
        queue = queue.bind(Exchange::fanout(amqp::FANOUT), "");
    }
    let connection = broker.observer().max_decompressed_size(bodies::MOST);
    let connection = connection.await.unwrap();
    let mut events = connection.events();
    connection.declare_queue(&dead).await.unwrap();
    connection.declare_queue(&queue).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    let mut foreign = Foreign::of(broker, &producer);
    let mut consuming = Consuming::start(&connection, &queue, &recorder);

    let mut written = Written::new();
    let mut refused = 0;
    let mut receipts = Vec::new();
    for (number, seed) in (1..).zip(seeds) {
        let token = token(number);
        let (is_taken, shown) = foreign.write(seed, &token).await;
        match is_taken {
            true => drop(written.insert(token, format!("KOMBU_TEST_ENTRY={seed}: {shown}"))),
            false => refused += 1,
        }
        recorder.publishing(0, number);
        recorder.expect_among_others("jobs", number, Breakable::RECOVERY, PATIENCE);
        let good = json!({ "good": number });
        receipts.push((number, producer.publish(&good).send().await.unwrap()));
        if number % AT_ONCE == 0 || number == entries {
            for (number, receipt) in receipts.drain(..) {
                recorder.answered(number, &receipt.await);
            }
            consuming.until(number, &written).await;
        }
    }
    let emptied = async {
        loop {
            let left = info(&connection, "jobs").await;
            if (left.ready, left.unsettled.unwrap_or(0)) == (0, 0) {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let is_empty = timeout(PATIENCE, emptied).await.is_ok();
    let handled = consuming.end().await;
    let letters = drain(&connection, "dead").await;
    let left = drain(&connection, "jobs").await;
    connection.close().await.unwrap();

    let mut broken = Vec::new();
    if !is_empty {
        broken.push("something stays in the queue".to_owned());
    }
    broken.extend(
        left.iter()
            .map(|message| format!("left: {}", shown(message))),
    );
    for letter in letters.iter().filter(|letter| !tells_its_death(letter)) {
        let entry = token_of(letter).and_then(|token| written.get(&token));
        let letter = shown(letter);
        broken.push(format!(
            "{letter} doesn't say why it died. It was {entry:?}"
        ));
    }
    println!(
        "of {entries} entries, {refused} were refused, {} handled, {} dead",
        handled.len(),
        letters.len()
    );
    broken.extend(unaccounted(written, handled.iter().chain(&letters)));
    while let Some(event) = events.next().await {
        if matches!(event, Event::Lost { .. }) {
            broken.push(format!("{event:?}"));
        }
    }
    broken.extend(panics());
    let history = recorder.history();
    let (name, allowed) = (broker.name(), Breakable::RECOVERY);
    let mut row = Row::of(
        name,
        "malformed entries",
        entries,
        &history,
        PATIENCE,
        allowed,
    );
    row.broken.extend(broken);
    stand::report(vec![row], &history);
}

/// By its token, what an entry is, and how it is made again.
type Written = BTreeMap<String, String>;

/// Whoever writes entries.
enum Foreign {
    /// Nobody else can write there.
    Program(Producer),
    RabbitMq(amqp::Line),
    Redis(RedisAdmin),
    Nats(nats::Line),
}

impl Foreign {
    fn of(broker: &mut Breakable, producer: &Producer) -> Self {
        let name = broker.name().to_owned();
        let Some(server) = broker.server() else {
            return Foreign::Program(producer.clone());
        };
        let address = server.address();
        match name.as_str() {
            "amqp" => Foreign::RabbitMq(amqp::Line::open(&address)),
            "redis" => Foreign::Redis(RedisAdmin::at(address)),
            _ => Foreign::Nats(nats::Line::open(&server.url(&address))),
        }
    }

    /// Writes the entry that this seed makes. Whether the broker takes it, and what it is.
    async fn write(&mut self, seed: u64, token: &str) -> (bool, String) {
        let mut rng = Rng::with_seed(seed);
        if let Foreign::Program(producer) = self {
            return publish(&mut rng, producer, token).await;
        }
        tokio::task::block_in_place(|| match self {
            Foreign::RabbitMq(line) => {
                let entry = amqp::entry(&mut rng, token);
                (line.write(&entry), entry.shown())
            }
            Foreign::Redis(admin) => {
                let entry = redis::entry(&mut rng, token);
                entry.write(admin);
                (true, entry.shown())
            }
            Foreign::Nats(line) => {
                let entry = nats::entry(&mut rng, token);
                (line.write(&entry), entry.shown())
            }
            Foreign::Program(_) => unreachable!("it has published"),
        })
    }
}

/// What a program can do wrong through the library.
async fn publish(rng: &mut Rng, producer: &Producer, token: &str) -> (bool, String) {
    let body = bodies::any(rng, token);
    let text = |bytes: Option<Vec<u8>>| String::from_utf8(bytes?).ok();
    let shown = bodies::shown(&body.bytes);
    let mut publish = producer.publish_bytes(body.bytes).header("entry", token);
    if let Some(kind) = text(body.content_type) {
        publish = publish.content_type(kind);
    }
    if let Some(encoding) = text(body.content_encoding) {
        publish = publish.content_encoding(encoding);
    }
    if let Some(compression) = text(body.compression) {
        publish = publish.header("compression", compression);
    }
    for _ in 0..rng.usize(..4) {
        let names = [
            "x-death",
            "x-first-death-reason",
            "id",
            "BCC",
            "",
            "x-delivery-count",
        ];
        let values = [
            FieldValue::I64(i64::MIN),
            FieldValue::from("soon"),
            FieldValue::Void,
            FieldValue::Array(vec![FieldValue::U8(7), FieldValue::Void]),
            FieldValue::F64(f64::NAN),
        ];
        publish = publish.header(*rng.choice(&names).unwrap(), rng.choice(values).unwrap());
    }
    if rng.bool() {
        publish = publish.priority(255);
    }
    if rng.bool() {
        let milliseconds = rng.choice([0, 1, u32::MAX.into(), u64::MAX]).unwrap();
        publish = publish.expiration(Duration::from_millis(milliseconds));
    }
    (publish.await.is_ok(), shown)
}

/// A component that handles all that is JSON.
struct Consuming {
    stop: oneshot::Sender<()>,
    running: tokio::task::JoinHandle<kombu::Result<Exit>>,
    latest: watch::Receiver<u64>,
    /// Those that aren't good.
    handled: Arc<Mutex<Vec<Message>>>,
}

impl Consuming {
    fn start(connection: &Connection, queue: &Queue, recorder: &Recorder) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (came, latest) = watch::channel(0);
        let handled = Arc::new(Mutex::new(Vec::new()));
        let handle = {
            let (recorder, handled) = (recorder.clone(), handled.clone());
            move |Payload(value): Payload<Value>, message: Message| {
                match value["good"].as_u64() {
                    Some(number) => {
                        record(&recorder, number);
                        came.send_replace(number);
                    }
                    None => handled.lock().unwrap().push(message),
                }
                std::future::ready(Outcome::Ack)
            }
        };
        let serving = connection
            .serve(Router::new().fallback(handle))
            .queues(queue);
        let serving = serving.prefetch(16).retries(Retries::none());
        let running = tokio::spawn(serving.run_until(async move { drop(stopped.await) }));
        Consuming {
            stop,
            running,
            latest,
            handled,
        }
    }

    /// Waits until this good one is handled.
    async fn until(&mut self, number: u64, written: &Written) {
        let came = self.latest.wait_for(|latest| *latest >= number);
        let problem = match timeout(PATIENCE, came).await {
            Ok(Ok(_)) => return,
            Ok(Err(_)) => format!("it ended by itself: {:?}", (&mut self.running).await),
            Err(_) => "it handles nothing".to_owned(),
        };
        let had = *self.latest.borrow();
        let suspects = (had..=number).filter_map(|number| written.get(&token(number)));
        let suspects: Vec<_> = suspects.map(String::as_str).collect();
        panic!(
            "{problem}, behind {had}. Written since:\n{}",
            suspects.join("\n")
        );
    }

    async fn end(self) -> Vec<Message> {
        assert!(
            !self.running.is_finished(),
            "it ended by itself: {:?}",
            self.running.await
        );
        self.stop.send(()).unwrap();
        let ended = stand::ends("the component", self.running).await;
        assert_eq!(ended.unwrap().unwrap(), Exit::Stopped);
        std::mem::take(&mut self.handled.lock().unwrap())
    }
}

/// It is acked as soon as this is over.
fn record(recorder: &Recorder, message: u64) {
    recorder.record(history::Event::Received {
        consumer: 0,
        queue: "jobs".into(),
        message,
        redelivered: false,
        attempt: 1,
    });
    recorder.settled(0, message, history::Outcome::Ack, Answer::Queued);
}

fn shown(message: &Message) -> String {
    format!("{:?} {}", message.headers(), bodies::shown(message.body()))
}

fn tells_its_death(letter: &Message) -> bool {
    let deaths = letter.headers().get("x-death");
    let deaths = deaths.and_then(FieldValue::as_array).unwrap_or_default();
    let last = deaths.first().and_then(FieldValue::as_table);
    let field = |name| last?.get(name)?.as_str();
    field("queue") == Some("jobs") && matches!(field("reason"), Some("rejected" | "expired"))
}

fn token(number: u64) -> String {
    format!("entry-{number};")
}

/// Which one a message is, as far as that can be seen.
fn token_of(message: &Message) -> Option<String> {
    let header = message.header("entry");
    let places = [
        header.unwrap_or_default(),
        message.correlation_id().unwrap_or_default(),
    ];
    let body = String::from_utf8_lossy(message.body());
    places.into_iter().chain([&*body]).find_map(|text| {
        let from = text.find("entry-")?;
        let (token, _) = text[from..].split_once(';')?;
        Some(format!("{token};"))
    })
}

/// What was written and isn't found once. Some don't say which one they are: they stand for those that aren't found.
fn unaccounted<'a>(mut written: Written, found: impl Iterator<Item = &'a Message>) -> Vec<String> {
    let mut strangers = Vec::new();
    for message in found {
        let known = token_of(message).and_then(|token| written.remove(&token));
        if known.is_none() {
            strangers.push(shown(message));
        }
    }
    if strangers.len() == written.len() {
        return Vec::new();
    }
    let missing = written.into_values().map(|entry| format!("gone: {entry}"));
    let strangers = strangers.into_iter().map(|found| format!("found: {found}"));
    missing.chain(strangers).collect()
}

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Takes down where anything panics but tests, whose panics are their failures.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panicked: &PanicHookInfo<'_>| {
            usual(panicked);
            let place = panicked.location().map(ToString::to_string);
            let place = place.unwrap_or_default();
            let is_of_tests = ["tests/", "kombu-testkit/"];
            if !is_of_tests.iter().any(|folder| place.starts_with(folder)) {
                PANICS.lock().unwrap().push(format!("a panic at {place}"));
            }
        }));
    });
}

fn panics() -> Vec<String> {
    std::mem::take(&mut PANICS.lock().unwrap())
}
