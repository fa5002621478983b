//! Whether a transport can do what a program declares, asked before anything is connected.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu::driver::SubscribeOptions;
use kombu::handler::Retries;
use kombu::virt::BindingRecord;
use kombu::{
    Binding, Capabilities, Content, ErrorKind, Exchange, Feature, Overflow, Portable, Queue,
    Support, Topology,
};
use kombu_testkit::expect::assert_unsupported;
use kombu_testkit::table;

fn capabilities(transport: &str) -> Capabilities {
    kombu::registry().capabilities(transport).unwrap()
}

/// One queue for each thing that a queue can ask for.
fn queues() -> Vec<(Feature, Queue)> {
    let minute = Duration::from_secs(60);
    vec![
        (Feature::ExclusiveQueue, Queue::new("q").exclusive(true)),
        (Feature::AutoDelete, Queue::new("q").auto_delete(true)),
        (Feature::QueueExpiry, Queue::new("q").expires(minute)),
        (
            Feature::QueueMessageTtl,
            Queue::new("q").message_ttl(minute),
        ),
        (Feature::MaxLength, Queue::new("q").max_length(3)),
        (Feature::MaxLengthBytes, Queue::new("q").max_length_bytes(3)),
        (
            Feature::RejectPublish,
            Queue::new("q").overflow(Overflow::RejectPublish),
        ),
        (Feature::Priority, Queue::new("q").max_priority(3)),
        (
            Feature::DeadLetter,
            Queue::new("q").dead_letter_exchange("dead"),
        ),
        (
            Feature::MaxDeliveries,
            Queue::new("q")
                .dead_letter_exchange("dead")
                .max_deliveries(3),
        ),
        (
            Feature::SingleActiveConsumer,
            Queue::new("q").single_active_consumer(true),
        ),
    ]
}

fn exchanges() -> Vec<(Feature, Exchange)> {
    let fanout = || Exchange::fanout("x");
    vec![
        (Feature::AlternateExchange, fanout().alternate_exchange("a")),
        (Feature::AutoDelete, fanout().auto_delete(true)),
        (
            Feature::ExchangeBinding,
            fanout().bind(Exchange::topic("source"), "#"),
        ),
        (
            Feature::CustomExchangeKind,
            Exchange::custom("x-random", "x"),
        ),
    ]
}

fn consumers() -> Vec<(Feature, SubscribeOptions)> {
    let options = || SubscribeOptions::new(1);
    vec![
        (Feature::ExclusiveConsumer, options().exclusive(true)),
        (Feature::ConsumerPriority, options().priority(1)),
        (
            Feature::NoLocal,
            options().exclusive(true).no_local(Some(0)),
        ),
    ]
}

/// A topology for each feature that one can ask for.
fn asking() -> Vec<(Feature, Topology)> {
    let queues = queues()
        .into_iter()
        .map(|(feature, queue)| (feature, Topology::new().queue(queue)));
    let exchanges = exchanges()
        .into_iter()
        .map(|(feature, exchange)| (feature, Topology::new().exchange(exchange)));
    let consumers = consumers()
        .into_iter()
        .map(|(feature, options)| (feature, Topology::new().consumer(["q"], options)));
    queues.chain(exchanges).chain(consumers).collect()
}

fn support_of(topology: &Topology, capabilities: &Capabilities, feature: Feature) -> Vec<Support> {
    let report = topology.check(capabilities);
    let asked = report.declarations().iter().flat_map(|one| &one.asks);
    asked
        .filter(|asked| asked.feature == feature)
        .map(|asked| asked.support)
        .collect()
}

#[test]
fn what_a_declaration_asks_for_is_native_emulated_or_unsupported_as_the_transport_says() {
    for transport in table::TRANSPORTS {
        let capabilities = capabilities(transport);
        for (feature, topology) in asking() {
            let found = support_of(&topology, &capabilities, feature);
            assert!(!found.is_empty(), "{feature}");
            let said = capabilities.support(feature);
            assert!(
                found.iter().all(|found| *found == said),
                "{transport}: {feature}"
            );
        }
    }
}

#[test]
fn a_feature_that_is_not_there_makes_its_declaration_unsupported() {
    let memory = capabilities("memory");
    for (feature, topology) in asking() {
        assert_eq!(topology.check(&memory).support(), Support::Native);
        topology.check(&memory).require().unwrap();
        let emulating = memory.emulated(feature);
        assert_eq!(topology.check(&emulating).support(), Support::Emulated);
        topology.check(&emulating).require().unwrap();
        let lacking = memory.without(feature);
        assert_eq!(topology.check(&lacking).support(), Support::Unsupported);
        let error = topology.check(&lacking).require().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(&feature.to_string()), "{error}");
    }
}

#[tokio::test]
async fn the_check_says_what_a_connection_says() {
    let awkward = kombu_testkit::awkward::Awkward::default();
    let registry = kombu::Registry::new().with(awkward);
    let connection = kombu::Connection::builder(registry.clone())
        .url("awkward://portability")
        .exchange_kind("x-random", |_: &Content, _: &[&BindingRecord]| Vec::new())
        .await
        .unwrap();
    let before = registry.capabilities("awkward").unwrap();
    let mut refused = 0;
    for (number, (_, queue)) in queues().into_iter().enumerate() {
        let queue = queue.with_name(format!("q{number}"));
        let checked = Topology::new().queue(&queue).check(&before).require();
        match connection.declare_queue(&queue).await {
            Ok(_) => checked.unwrap(),
            refusal => {
                let refusal = assert_unsupported(refusal);
                assert_eq!(checked.unwrap_err().message(), refusal.message());
                refused += 1;
            }
        }
    }
    for (number, (_, exchange)) in exchanges().into_iter().enumerate() {
        let exchange = exchange.with_name(format!("x{number}"));
        let checked = Topology::new().exchange(&exchange).check(&before);
        let checked = checked.require();
        match connection.declare_exchange(&exchange).await {
            Ok(_) => checked.unwrap(),
            refusal => {
                let refusal = assert_unsupported(refusal);
                assert_eq!(checked.unwrap_err().message(), refusal.message());
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "nothing was refused");
}

#[tokio::test]
async fn what_redis_lacks_is_told_in_the_words_of_its_refusal() {
    let connection = kombu::connect("memory://?like=redis").await.unwrap();
    let redis = capabilities("redis");
    let higher = Queue::new("higher").max_priority(10);
    let checked = Topology::new().queue(&higher).check(&redis).require();
    let refused = assert_unsupported(connection.declare_queue(&higher).await);
    assert_eq!(checked.unwrap_err().message(), refused.message());

    let jobs = Queue::new("jobs");
    let first = SubscribeOptions::new(1).priority(1);
    let checked = Topology::new().consumer(["jobs"], first).check(&redis);
    let refused = connection.consumer(&jobs).priority(1).await;
    let refused = assert_unsupported(refused);
    assert_eq!(checked.require().unwrap_err().message(), refused.message());
}

#[test]
fn handlers_whose_messages_come_again_later_ask_for_that() {
    let one = SubscribeOptions::new(1);
    let asked = |on: &Capabilities, retries: Retries| {
        let checked = Topology::new().handlers(["jobs"], one, &retries).check(on);
        checked.require().unwrap();
        let [consumer] = checked.declarations() else {
            panic!("{checked}");
        };
        let asked = consumer.asks.iter();
        let asked = asked.map(|asked| (asked.feature, asked.support, asked.note.is_some()));
        asked.collect::<Vec<_>>()
    };
    for transport in ["amqp", "redis", "nats", "memory"] {
        let on = capabilities(transport);
        let has = (
            Feature::DelayedRetry,
            on.support(Feature::DelayedRetry),
            on.note(Feature::DelayedRetry).is_some(),
        );
        assert_eq!(asked(&on, Retries::new(1)), [has], "{transport}");
        assert_eq!(asked(&on, Retries::none()), []);
        let at_once = Retries::new(1).first_pause(Duration::ZERO);
        assert_eq!(asked(&on, at_once), []);
        // The handler waits itself.
        let without = on.without(Feature::DelayedRetry);
        let emulated = (Feature::DelayedRetry, Support::Emulated, true);
        assert_eq!(asked(&without, Retries::new(1)), [emulated]);
    }
}

/// RabbitMQ does something at these, and a transport without a broker that reads them nothing.
#[tokio::test]
async fn what_arguments_ask_for_is_told_in_the_words_of_the_refusal() {
    for (argument, value) in [
        ("x-queue-type", "stream"),
        ("x-queue-type", "nonsense"),
        ("x-dead-letter-strategy", "at-least-once"),
    ] {
        let jobs = Queue::new("jobs").argument(argument, value);
        let topology = Topology::new().queue(&jobs);
        topology.check(&capabilities("amqp")).require().unwrap();
        let connection = kombu::connect("memory://").await.unwrap();
        let refused = assert_unsupported(connection.declare_queue(&jobs).await);
        for transport in ["memory", "redis", "nats"] {
            let report = topology.check(&capabilities(transport));
            let declaration = named(report.declarations(), "queue `jobs`");
            assert_eq!(declaration.support, Support::Unsupported, "{transport}");
            let checked = report.require().unwrap_err();
            assert_eq!(checked.message(), refused.message());
            let line = format!("\n  unsupported: `{argument}: {value}`, which");
            assert!(report.to_string().contains(&line), "{report}");
        }
        let theirs = Topology::new().queue(jobs.passive());
        theirs.check(&capabilities("nats")).require().unwrap();
    }
    let hints = Queue::new("hints")
        .argument("x-queue-type", "classic")
        .argument("x-dead-letter-strategy", "at-most-once")
        .argument("x-of-mine", 1);
    let hints = Topology::new().queue(hints).check(&capabilities("redis"));
    hints.require().unwrap();
}

#[tokio::test]
async fn the_priority_that_queues_say_is_asked_for_by_their_consumer() {
    let connection = kombu::connect("memory://?like=redis").await.unwrap();
    let first = Queue::new("first").consumer_argument("x-priority", 3);
    let other = Queue::new("other").consumer_argument("x-priority", 4);
    let options = |queues: &[Queue]| SubscribeOptions::new(1).with_priority_of(queues);
    for (queues, is_refused) in [
        (vec![first.clone()], true),
        (vec![first.clone(), first.clone().with_name("second")], true),
        // They don't agree, so nothing is asked for.
        (vec![first, other], false),
    ] {
        let topology = Topology::new().consumer(&queues, options(&queues).unwrap());
        let checked = topology.check(&capabilities("redis")).require();
        match connection.consumer(queues).await {
            Ok(_) => assert!(!is_refused && checked.is_ok()),
            refused => {
                let refused = assert_unsupported(refused);
                assert_eq!(checked.unwrap_err().message(), refused.message());
                assert!(is_refused);
            }
        }
    }
    let wrong = Queue::new("wrong").consumer_argument("x-priority", "high");
    let read = options(std::slice::from_ref(&wrong)).unwrap_err();
    let refused = connection.consumer(&wrong).await.unwrap_err();
    assert_eq!(read.kind(), ErrorKind::Config);
    assert_eq!(read.message(), refused.message());
}

#[tokio::test]
async fn no_local_without_exclusive_is_told_in_the_words_of_its_refusal() {
    let connection = kombu::connect("memory://").await.unwrap();
    let refused = connection
        .consumer(&Queue::new("jobs"))
        .no_local(true)
        .await;
    let refused = assert_unsupported(refused);
    let options = SubscribeOptions::new(1).no_local(Some(0));
    let report = Topology::new()
        .consumer(["jobs"], options)
        .check(&capabilities("memory"));
    let problem = report.declarations()[0].problem.as_deref();
    assert_eq!(problem, Some(refused.message()));
    assert!(report.require().is_err());
}

#[test]
fn every_emulated_feature_says_how() {
    for transport in table::TRANSPORTS {
        let capabilities = capabilities(transport);
        for feature in Feature::ALL {
            let note = capabilities.note(*feature);
            match capabilities.support(*feature) {
                Support::Emulated => assert!(note.is_some(), "{transport}: {feature}"),
                Support::Unsupported => assert_eq!(note, None, "{transport}: {feature}"),
                Support::Native => {}
            }
        }
    }
}

fn named<'a>(declarations: &'a [Portable], name: &str) -> &'a Portable {
    let mut found = declarations.iter().filter(|one| one.name == name);
    let first = found
        .next()
        .unwrap_or_else(|| panic!("{name} in {declarations:?}"));
    assert!(found.next().is_none(), "{name} is there twice");
    first
}

#[test]
fn the_report_has_each_exchange_queue_and_binding_once() {
    let media = Exchange::topic("media").alternate_exchange("rest");
    let archive = Exchange::fanout("archive").bind(&media, "#.old");
    let videos = Queue::new("videos").bind(&media, "video.#").max_priority(9);
    let images = Queue::new("images")
        .bind(&media, "image.#")
        .bind(&archive, "");
    let topology = Topology::new()
        .exchange(&media)
        .queue(&videos)
        .queue(&images);
    let report = topology.check(&capabilities("redis"));
    report.require().unwrap();
    let declarations = report.declarations();
    assert_eq!(declarations.len(), 8, "{report}");
    for (name, support) in [
        ("exchange `media`", Support::Emulated),
        ("exchange `archive`", Support::Emulated),
        ("queue `videos`", Support::Emulated),
        ("queue `images`", Support::Native),
        (
            "queue `videos` bound to `media` by `video.#`",
            Support::Native,
        ),
        ("queue `images` bound to `archive` by ``", Support::Native),
        (
            "exchange `archive` bound to `media` by `#.old`",
            Support::Emulated,
        ),
    ] {
        assert_eq!(named(declarations, name).support, support, "{name}");
    }
    let text = report.to_string();
    let line = "queue `videos`: emulated\n  emulated: priorities (up to 9 in four levels";
    assert!(text.contains(line), "{text}");
}

#[test]
fn all_that_is_unsupported_is_listed_at_once() {
    let topology = Topology::new()
        .queue(Queue::new("one").max_priority(10))
        .queue(Queue::new("two").max_priority(200))
        .consumer(["one"], SubscribeOptions::new(1).priority(3));
    let refused = topology.check(&capabilities("nats")).require();
    let message = refused.unwrap_err().to_string();
    for part in [
        "queue `one` asks for priorities up to 10",
        "queue `two` asks for priorities up to 200",
        "consumer priorities",
    ] {
        assert!(message.contains(part), "`{part}` is missing in: {message}");
    }
}

#[test]
fn what_is_only_verified_or_not_declared_asks_for_nothing() {
    let topology = Topology::new()
        .queue(Queue::new("theirs").max_priority(200).passive())
        .queue(Queue::new("others").max_priority(200).no_declare())
        .exchange(Exchange::custom("x-random", "x").passive());
    let report = topology.check(&Capabilities::basic());
    assert_eq!(report.support(), Support::Native, "{report}");
}

#[test]
fn what_every_broker_refuses_is_told_with_the_reason() {
    let lossy = Queue::new("lossy").max_deliveries(3);
    let report = Topology::new().queue(&lossy).check(&capabilities("memory"));
    let declaration = named(report.declarations(), "queue `lossy`");
    assert_eq!(declaration.support, Support::Unsupported);
    let problem = declaration.problem.as_ref().unwrap();
    assert_eq!(problem, lossy.check().unwrap_err().message());
    assert!(report.require().is_err());
}

#[test]
fn one_name_that_is_declared_in_two_ways_is_found() {
    let topology = Topology::new()
        .queue(Queue::new("a").bind(Exchange::topic("media"), "#"))
        .queue(Queue::new("b").bind(Exchange::direct("media"), "b"))
        .queue(Queue::new("c").bind(Exchange::direct("media"), "c"));
    let report = topology.check(&capabilities("memory"));
    // Told once, however many use it.
    let declarations = report.declarations().iter();
    let problems = declarations.filter(|declaration| declaration.problem.is_some());
    assert_eq!(problems.count(), 1);
    let error = report.require().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("exchange `media`: it is declared twice"),
        "{error}"
    );
    let same = Topology::new()
        .queue(Queue::new("a").bind(Exchange::topic("media"), "#"))
        .queue(Queue::new("b").bind(Exchange::topic("media"), "b"))
        .queue(Queue::server_named().exclusive(true))
        .queue(Queue::server_named());
    same.check(&capabilities("memory")).require().unwrap();
}

#[test]
fn a_kind_that_only_the_broker_or_the_program_knows_is_told() {
    let topology = Topology::new().exchange(Exchange::custom("topc", "media"));
    for (transport, whose) in [
        ("amqp", "if a plugin of the broker has it"),
        ("memory", "if the program registers it"),
        ("nats", "if the program registers it"),
        ("redis", "if the program registers it"),
    ] {
        let report = topology.check(&capabilities(transport));
        let asked = &report.declarations()[0].asks[0];
        let note = asked.note.as_deref().unwrap();
        assert!(note.starts_with("`topc`, "), "{note}");
        assert!(note.contains(whose), "{transport}: {note}");
        assert!(note.contains("did you mean `topic`?"), "{note}");
    }
    let hashing = Topology::new().exchange(Exchange::custom("x-consistent-hash", "media"));
    let report = hashing.check(&capabilities("amqp")).to_string();
    assert!(!report.contains("did you mean"), "{report}");
}

#[test]
fn what_is_kept_and_does_nothing_is_told() {
    let queue = Queue::new("jobs").quorum();
    let queue = queue.argument("x-quorum-initial-group-size", 3);
    let exchange = Exchange::topic("media").argument("x-note", "ours");
    let topology = Topology::new().queue(&queue).exchange(&exchange);
    for transport in ["memory", "nats", "redis"] {
        let report = topology.check(&capabilities(transport));
        report.require().unwrap();
        let kept = |name| named(report.declarations(), name).kept.join(", ");
        let jobs = kept("queue `jobs`");
        assert!(jobs.contains("`type: quorum`"), "{jobs}");
        assert!(jobs.contains("`x-quorum-initial-group-size`"), "{jobs}");
        assert_eq!(kept("exchange `media`"), "the argument `x-note`");
    }
    let report = topology.check(&capabilities("amqp"));
    assert!(report.declarations().iter().all(|one| one.kept.is_empty()));
}

#[test]
fn how_headers_match_is_looked_at_by_the_name_of_the_exchange_alone() {
    let by_kind = Exchange::headers("amq.headers");
    let by_name = Exchange::direct("amq.match").no_declare();
    for exchange in [by_kind, by_name] {
        let binding = Binding::new(&exchange, "").argument("x-match", "some");
        let queue = Queue::new("jobs").bind_with(binding);
        let report = Topology::new().queue(&queue).check(&capabilities("amqp"));
        let problem = report.require().unwrap_err();
        assert!(problem.to_string().contains("`x-match`"), "{problem}");
    }
}

#[test]
fn consumers_that_ask_for_the_same_are_told_once() {
    let options = SubscribeOptions::new(1);
    let topology = Topology::new().consumer(["jobs"], options);
    let topology = topology.consumer(["jobs"], options);
    let other = topology.consumer(["jobs"], options.priority(3));
    let report = other.check(&capabilities("amqp"));
    assert_eq!(report.declarations().len(), 2);
}
