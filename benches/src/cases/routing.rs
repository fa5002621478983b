//! Routing over many bindings: the table alone, and publishing through connections whose table it is.

use std::cell::OnceCell;
use std::error::Error;
use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use kombu::driver::Destination;
use kombu::virt::{BindingRecord, Change, Table};
use kombu::{
    Binding, Connection, Content, Exchange, FieldTable, FieldValue, Name, Producer, Queue,
};
use kombu_bench_raw::sample::BODY;
use tokio::runtime::Runtime;

use super::{Case, Limit, Outcome, Side, nothing, on, runtime};

/// How many bindings there are, except where a case says otherwise.
const MANY: usize = 10_000;
const EXCHANGE: &str = "bench";
const QUEUE: &str = "bench";

pub(super) fn cases() -> Vec<Case> {
    let limit = |name, limit, count, ours: Side| Case {
        name,
        bar: 1.0,
        count,
        prepare: nothing(),
        ours,
        limit: Limit::Time(limit),
    };
    vec![
        limit(
            "routing/direct-10k",
            Duration::from_micros(1),
            1_000_000,
            routing(direct),
        ),
        limit(
            "routing/topic-10k",
            Duration::from_micros(20),
            100_000,
            routing(topic),
        ),
        limit(
            "routing/headers-1k",
            Duration::from_micros(50),
            50_000,
            routing(headers),
        ),
        limit(
            "routing/publish-10k-keys",
            Duration::from_micros(5),
            100_000,
            once(
                || bound(1),
                |bound, count| bound.runtime.block_on(publish(bound, count)),
            ),
        ),
        limit(
            "routing/publish-after-bind",
            Duration::from_micros(100),
            5_000,
            once(
                || bound(10),
                |bound, count| bound.runtime.block_on(publish_after_bind(bound, count)),
            ),
        ),
        limit(
            "routing/bind-10k",
            Duration::from_micros(100),
            MANY as u64,
            Box::new(|count| on(1, bind(count))),
        ),
    ]
}

/// What a case needs is made in its first round, which doesn't count.
fn once<T: 'static>(
    make: impl Fn() -> Result<T, Box<dyn Error>> + 'static,
    run: impl Fn(&T, u64) -> Outcome + 'static,
) -> Side {
    let made = OnceCell::new();
    Box::new(move |count| {
        if made.get().is_none() {
            let value = make()?;
            made.get_or_init(|| value);
        }
        made.get().map_or(Ok(()), |made| run(made, count))
    })
}

/// A table, and messages that are routed over it in turn.
struct Routing {
    table: Table,
    messages: Vec<Content>,
}

fn routing(make: fn() -> Routing) -> Side {
    once(
        move || Ok(make()),
        |Routing { table, messages }, count| {
            for message in messages.iter().cycle().take(count as usize) {
                if black_box(table.route(message)?).queues.is_empty() {
                    return Err("a message reached no queue".into());
                }
            }
            Ok(())
        },
    )
}

/// One exchange, and one queue for each binding.
fn table(exchange: Exchange, bindings: impl IntoIterator<Item = (String, FieldTable)>) -> Table {
    let mut table = Table::new();
    table.apply(&Change::PutExchange(exchange));
    for (index, (key, arguments)) in bindings.into_iter().enumerate() {
        let queue = Name::from(format!("queue-{index}"));
        table.apply(&Change::PutQueue(Queue::new(&queue), None));
        table.apply(&Change::Bind(BindingRecord {
            source: EXCHANGE.into(),
            destination: Destination::Queue(queue),
            routing_key: key.into(),
            arguments,
        }));
    }
    table
}

fn message(key: String) -> Content {
    Content::new(EXCHANGE.into(), key.into(), Bytes::from_static(BODY))
}

/// Each key is bound once.
fn direct() -> Routing {
    Routing {
        table: table(
            Exchange::direct(EXCHANGE),
            (0..MANY).map(|index| (key(index), FieldTable::new())),
        ),
        messages: (0..MANY).map(|index| message(key(index))).collect(),
    }
}

/// Keys of five words, of which every pattern leaves some open, in four ways; a message matches about four patterns.
fn topic() -> Routing {
    let pattern = |index: usize| {
        let (region, tenant) = (index % 10, index / 4);
        match index % 4 {
            0 => format!("region.{region}.tenant.{tenant}.*"),
            1 => format!("*.*.tenant.{tenant}.created"),
            2 => format!("#.{tenant}.#"),
            _ => format!("region.#.{tenant}.*"),
        }
    };
    let key = |index: usize| {
        // The region that the first of a tenant's four patterns names.
        let (region, tenant) = (index / 4 * 4 % 10, index / 4);
        format!("region.{region}.tenant.{tenant}.created")
    };
    Routing {
        table: table(
            Exchange::topic(EXCHANGE),
            (0..MANY).map(|index| (pattern(index), FieldTable::new())),
        ),
        messages: (0..MANY).map(|index| message(key(index))).collect(),
    }
}

/// A thousand bindings that ask for all of two headers, for any of two, or for the presence of one; messages have
/// four headers.
fn headers() -> Routing {
    let bindings = (0..1_000).map(|index| {
        let tenant = ("tenant", FieldValue::from(index));
        let arguments: FieldTable = match index % 4 {
            0 | 1 => [tenant, ("kind", "created".into())].into(),
            2 => [tenant, ("x-match", "any".into()), ("kind", "never".into())].into(),
            _ => [
                ("x-match", FieldValue::from("all")),
                (&format!("flag-{index}"), FieldValue::Void),
            ]
            .into(),
        };
        (String::new(), arguments)
    });
    let message = |index: i32| {
        let mut message = message(String::new());
        for (name, value) in [
            ("tenant", FieldValue::I64(i64::from(index / 4 * 4))),
            ("kind", "created".into()),
            ("region", "eu".into()),
            (&format!("flag-{index}"), true.into()),
        ] {
            message.headers_mut().insert(name, value);
        }
        message
    };
    Routing {
        table: table(Exchange::headers(EXCHANGE), bindings),
        messages: (0..1_000).map(message).collect(),
    }
}

fn key(index: usize) -> String {
    format!("tenant.{index}.created")
}

/// Connections to a broker with 10,000 bindings, which another one has made.
struct Bound {
    runtime: Runtime,
    declares: Connection,
    producer: Producer,
    keys: Vec<Name>,
}

/// One queue, bound with 10,000 keys that are spread over so many direct exchanges.
fn bound(exchanges: usize) -> Result<Bound, Box<dyn Error>> {
    let runtime = runtime(1)?;
    let url = format!("memory://bench-routing-{exchanges}");
    let exchange = |index: usize| Exchange::direct(format!("{EXCHANGE}-{}", index % exchanges));
    let queue = (0..MANY).fold(Queue::new(QUEUE), |queue, index| {
        queue.bind(exchange(index), key(index))
    });
    let (declares, producer) = runtime.block_on(async {
        let all = kombu::connect(&url).await?;
        all.declare_queue(&queue).await?;
        let declares = kombu::connect(&url).await?;
        let publishes = kombu::connect(&url).await?;
        kombu::Result::Ok((declares, publishes.producer(exchange(0)).await?))
    })?;
    Ok(Bound {
        runtime,
        declares,
        producer,
        keys: (0..MANY).map(|index| key(index).into()).collect(),
    })
}

/// Publishes with one key after the other: more keys than a publisher remembers the routes of.
async fn publish(bound: &Bound, messages: u64) -> Outcome {
    for key in bound.keys.iter().cycle().take(messages as usize) {
        publish_with(bound, key).await?;
    }
    Ok(bound.declares.purge(QUEUE).await.map(drop)?)
}

/// One connection binds or unbinds, then another one publishes: it has to learn of the change first.
async fn publish_after_bind(bound: &Bound, times: u64) -> Outcome {
    let extra = Binding::new(Exchange::direct(format!("{EXCHANGE}-0")), "extra");
    for time in 0..times {
        if time % 2 == 0 {
            bound.declares.bind_queue(QUEUE, &extra).await?;
        } else {
            bound.declares.unbind_queue(QUEUE, &extra).await?;
        }
        publish_with(bound, &bound.keys[0]).await?;
    }
    Ok(bound.declares.purge(QUEUE).await.map(drop)?)
}

async fn publish_with(bound: &Bound, key: &Name) -> kombu::Result<()> {
    let publish = bound.producer.publish_bytes(&BODY[..]);
    publish.routing_key(key).await.map(drop)
}

/// Ten connections bind in turn, so that each has to learn what the others bound.
async fn bind(bindings: u64) -> Outcome {
    let (exchange, queue) = (Exchange::topic(EXCHANGE), Queue::new(QUEUE));
    let mut connections = Vec::new();
    for _ in 0..10 {
        let connection = kombu::connect("memory://bench-routing-bind").await?;
        connection.declare_exchange(&exchange).await?;
        connection.declare_queue(&queue).await?;
        connections.push(connection);
    }
    for (connection, index) in connections.iter().cycle().zip(0..bindings as usize) {
        let binding = Binding::new(&exchange, key(index));
        connection.bind_queue(QUEUE, &binding).await?;
    }
    kombu::memory::remove("bench-routing-bind");
    Ok(())
}
