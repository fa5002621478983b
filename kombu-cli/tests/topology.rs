//! Declaring, binding, deleting and counting on every broker, and files of declarations.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(
    not(all(kombu_test_amqp, kombu_test_nats, kombu_test_redis)),
    allow(dead_code, unused_imports)
)]

mod common;

use std::process::Stdio;
use std::time::Duration;

use kombu::{ErrorKind, Queue};
use kombu_testkit::Broker;
use kombu_testkit::expect::collect_one;
use kombu_testkit::proxy::Proxy;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use self::common::{command, declare, done, feed, finish, on_every_broker, ready, run};

async fn what_is_bound_arrives_and_what_is_unbound_does_not(broker: &Broker) {
    declare(broker, &["videos"]).await;
    done(broker, &["declare", "exchange", "media", "type=topic"]).await;
    let ends = ["media", "-q", "videos", "-k", "video.#"];
    done(broker, &[&["bind"][..], &ends].concat()).await;
    done(broker, &["publish", "-e", "media", "-k", "video.new", "1"]).await;
    assert_eq!(done(broker, &["get", "videos"]).await.text(), "1\n");
    done(broker, &[&["unbind"][..], &ends].concat()).await;
    let sent = done(
        broker,
        &["publish", "-e", "media", "-k", "video.new", "1", "--json"],
    )
    .await;
    assert_eq!(sent.json()[0]["unrouted"], 1);
}

/// Of each type one, which its name says.
async fn what_brokers_have_from_the_start_is_bound_by_its_name(broker: &Broker) {
    for exchange in [
        "amq.direct",
        "amq.fanout",
        "amq.topic",
        "amq.headers",
        "amq.match",
    ] {
        declare(broker, &[exchange.trim_start_matches("amq.")]).await;
        let queue = exchange.trim_start_matches("amq.");
        done(broker, &["bind", exchange, "-q", queue, "-k", "a"]).await;
        done(
            broker,
            &["publish", "-e", exchange, "-k", "a", "1", "--mandatory"],
        )
        .await;
        assert_eq!(done(broker, &["get", queue]).await.text(), "1\n");
        done(broker, &["unbind", exchange, "-q", queue, "-k", "a"]).await;
    }
}

async fn what_was_not_there_is_not_said_to_be_removed(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    let deleted = done(broker, &["delete", "exchange", "nowhere"]).await;
    let said = "there was no exchange `nowhere`";
    assert!(deleted.errors.contains(said), "{}", deleted.errors);
    done(broker, &["declare", "exchange", "media", "type=topic"]).await;
    let deleted = done(broker, &["delete", "exchange", "media"]).await;
    let said = "exchange `media` is deleted";
    assert!(deleted.errors.contains(said), "{}", deleted.errors);
    let unbound = done(broker, &["unbind", "nowhere", "-q", "jobs", "-k", "a"]).await;
    let said = "queue `jobs` isn't bound to exchange `nowhere` by key `a`";
    assert!(unbound.errors.contains(said), "{}", unbound.errors);
}

async fn an_exchange_is_bound_to_another_one(broker: &Broker) {
    declare(broker, &["archived"]).await;
    done(broker, &["declare", "exchange", "media", "type=topic"]).await;
    done(broker, &["declare", "exchange", "archive", "type=fanout"]).await;
    done(broker, &["bind", "archive", "-q", "archived"]).await;
    done(broker, &["bind", "media", "-e", "archive", "-k", "#"]).await;
    done(
        broker,
        &["publish", "-e", "media", "-k", "a", "1", "--mandatory"],
    )
    .await;
    assert_eq!(done(broker, &["get", "archived"]).await.text(), "1\n");
}

async fn a_declaration_that_differs_is_code_7(broker: &Broker) {
    done(broker, &["declare", "queue", "jobs", "max_length=10"]).await;
    // Text that looks like a number stays as it was written.
    let key = "dead_letter_routing_key=1.10";
    let mut left = vec!["declare", "queue", "left", "dead_letter_exchange=", key];
    done(broker, &left).await;
    let connection = broker.connect().await;
    let queue = Queue::new("left").dead_letter_exchange("");
    let same = queue.clone().dead_letter_routing_key("1.10");
    connection.declare_queue(&same).await.unwrap();
    let other = queue.dead_letter_routing_key("1.1");
    let other = connection.declare_queue(&other).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::PreconditionFailed);
    connection.close().await.unwrap();
    left.pop();
    assert_eq!(run(broker.url(), &left).await.code, Some(7));
    done(broker, &["declare", "queue", "jobs", "max_length=10"]).await;
    let other = run(broker.url(), &["declare", "queue", "jobs", "max_length=11"]).await;
    assert_eq!(other.code, Some(7), "{}", other.errors);
    let wrong = run(broker.url(), &["declare", "queue", "jobs", "max_lenght=10"]).await;
    assert_eq!(wrong.code, Some(2), "{}", wrong.errors);
    let said = "`max_lenght`; did you mean `max_length`?";
    assert!(wrong.errors.contains(said), "{}", wrong.errors);
}

/// The words of RabbitMQ's arguments, and numbers as people write them.
async fn an_attribute_that_can_not_be_read_is_named_with_the_way_out(broker: &Broker) {
    for (attribute, said) in [
        (
            "queue_type=quorum",
            "unknown attribute `queue_type`; did you mean `type`?",
        ),
        (
            "x-queue-type=quorum",
            "unknown attribute `x-queue-type`; did you mean `type`?",
        ),
        (
            "x-max-length=7",
            "unknown attribute `x-max-length`; did you mean `max_length`?",
        ),
        (
            "max_priority=300",
            "`max_priority`: invalid value: integer `300`, expected a whole number from 0 to 255",
        ),
        (
            "max_length=-1",
            "`max_length`: invalid value: integer `-1`, expected a whole number that isn't negative",
        ),
        ("name=others", "`name` is said twice"),
        (
            "durable=yes",
            "`durable`: invalid type: string \"yes\", expected true or false",
        ),
    ] {
        let wrong = run(broker.url(), &["declare", "queue", "jobs", attribute]).await;
        assert_eq!(wrong.code, Some(2), "{attribute}: {}", wrong.errors);
        assert!(wrong.errors.contains(said), "{attribute}: {}", wrong.errors);
    }
}

async fn a_queue_without_a_name_is_told_by_the_one_that_it_got(broker: &Broker) {
    let declared = done(broker, &["declare", "queue", "", "--json"]).await;
    let name = declared.json()[0]["declared"]["queue"].clone();
    let name = name.as_str().unwrap();
    assert_eq!(ready(broker, name).await, 0);
    let declared = done(broker, &["declare", "queue", "own", "exclusive=true"]).await;
    assert!(
        declared.errors.contains("went with this command"),
        "{}",
        declared.errors
    );
    assert_eq!(run(broker.url(), &["queues", "own"]).await.code, Some(5));
}

async fn nothing_is_lost_before_somebody_said_yes(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    done(broker, &["publish", "-q", "jobs", "1", "2"]).await;
    for arguments in [&["purge", "jobs"][..], &["delete", "queue", "jobs"]] {
        // Nobody sits at a pipe, whatever it says.
        let refused = feed(broker.url(), arguments, b"y\n").await;
        assert_eq!(refused.code, Some(2), "{arguments:?}");
        assert!(refused.errors.contains("--yes"), "{}", refused.errors);
    }
    assert_eq!(ready(broker, "jobs").await, 2);
    let purged = done(broker, &["purge", "jobs", "--yes", "--json"]).await;
    assert_eq!(
        purged.json(),
        [json!({"purged": {"queue": "jobs", "messages": 2}})]
    );
    done(broker, &["delete", "queue", "jobs"]).await;
    assert_eq!(run(broker.url(), &["queues", "jobs"]).await.code, Some(5));
}

async fn ctrl_c_is_an_answer_where_somebody_is_asked(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    done(broker, &["publish", "-q", "jobs", "1"]).await;
    for arguments in [&["purge", "jobs"][..], &["delete", "queue", "jobs"]] {
        let (_person, terminal) = common::terminal();
        let mut asking = command(broker.url(), arguments);
        let mut child = asking.stdin(terminal).spawn().unwrap();
        let mut errors = child.stderr.take().unwrap();
        let mut asked = String::new();
        while !asked.ends_with("[y/N] ") {
            asked.push(errors.read_u8().await.unwrap().into());
        }
        common::interrupt(&child);
        let ended = timeout(Duration::from_secs(10), finish(child, b"")).await;
        assert_eq!(ended.expect("Ctrl-C is heard").code, Some(130));
    }
    assert_eq!(ready(broker, "jobs").await, 1);
}

async fn ctrl_c_ends_a_call_that_waits_for_its_question(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    let mut call = command(broker.url(), &["call", "-q", "jobs"]);
    let mut child = call.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // More than a pipe holds: when it is written, somebody reads.
    stdin.write_all(&vec![b'x'; 1_000_000]).await.unwrap();
    common::interrupt(&child);
    let ended = timeout(Duration::from_secs(10), finish(child, b"")).await;
    assert_eq!(ended.expect("Ctrl-C is heard").code, Some(130));
}

async fn ctrl_c_ends_a_watch_while_the_broker_is_away(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    let mut url = url::Url::parse(broker.url()).unwrap();
    let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let proxy = Proxy::start(server).await.unwrap();
    url.set_port(Some(proxy.address().port())).unwrap();
    let watch = ["queues", "jobs", "--watch", "--interval", "50ms", "--json"];
    let mut child = command(url.as_str(), &watch).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next_line().await.unwrap().unwrap();
    proxy.blackhole();
    // What it asked for before may still be written.
    while let Ok(line) = timeout(Duration::from_secs(1), lines.next_line()).await {
        line.unwrap().unwrap();
    }
    common::interrupt(&child);
    let ended = timeout(Duration::from_secs(20), finish(child, b"")).await;
    assert_eq!(ended.expect("Ctrl-C is heard").code, Some(0));
}

async fn what_a_consumer_holds_is_not_lost_either_before_somebody_said_yes(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    done(broker, &["publish", "-q", "jobs", "1"]).await;
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let held = collect_one(&mut consumer).await;
    let refused = run(broker.url(), &["delete", "queue", "jobs"]).await;
    assert_eq!(refused.code, Some(2), "{}", refused.errors);
    held.ack().await.unwrap();
    connection.close().await.unwrap();
}

/// Whoever uses a queue in the file, too.
async fn each_declaration_of_a_file_is_planned_once(broker: &Broker) {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/config/pipeline.yaml"
    );
    let planned = done(broker, &["plan", path]).await;
    let mut rows: Vec<_> = planned.text().lines().map(str::to_owned).collect();
    assert!(
        rows.contains(&"+ queue pipeline.orders".to_owned()),
        "{rows:?}"
    );
    assert!(
        rows.iter().all(|row| row.split(' ').count() == 3),
        "{rows:?}"
    );
    let count = rows.len();
    rows.sort();
    rows.dedup();
    assert_eq!(rows.len(), count, "{rows:?}");
}

/// Brokers don't tell which bindings they have.
async fn bindings_are_made_again_and_not_compared_and_that_is_said(broker: &Broker) {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("{}-{:p}-bound.yaml", std::process::id(), broker));
    std::fs::write(
        &file,
        "exchanges:
  media: {type: topic}
queues:
  videos:
    bindings:
      - {exchange: media, routing_key: 'video.#'}
      - {exchange: {name: written, type: fanout, bindings: [{exchange: media, routing_key: old}]}}
  again: {name: videos, bindings: [{exchange: media, routing_key: film}, {exchange: media, routing_key: 'video.#'}]}
",
    )
    .unwrap();
    let path = file.to_str().unwrap();
    let planned = done(broker, &["plan", path]).await;
    assert_eq!(
        planned.text(),
        "+ exchange media\n+ exchange written\n+ queue videos\n"
    );
    let said = "4 bindings not compared, since brokers don't tell theirs: apply makes them again";
    assert!(planned.errors.contains(said), "{}", planned.errors);
    let applied = done(broker, &["apply", path]).await;
    assert!(
        applied
            .errors
            .contains("3 made, 0 there already; 4 bindings made again"),
        "{}",
        applied.errors
    );
    // One that has gone is no difference, and comes back.
    done(
        broker,
        &["unbind", "media", "-q", "videos", "-k", "video.#"],
    )
    .await;
    let same = done(broker, &["diff", path]).await;
    assert_eq!(same.text(), "");
    assert!(same.errors.contains(said), "{}", same.errors);
    for command in ["plan", "diff"] {
        let rows = done(broker, &[command, path, "--json"]).await.json();
        let mut bindings = rows.iter().filter(|row| row["what"] == "binding");
        let names: Vec<_> = bindings.clone().map(|row| row["name"].clone()).collect();
        assert_eq!(
            names,
            [
                "of exchange `written` to `media` by `old`",
                "of queue `videos` to `media` by `film`",
                "of queue `videos` to `media` by `video.#`",
                "of queue `videos` to `written` by ``",
            ]
        );
        assert!(bindings.all(|row| row["state"] == "not_compared"));
    }
    done(broker, &["apply", path]).await;
    for (exchange, key) in [
        ("media", "video.new"),
        ("written", "x"),
        ("media", "old"),
        ("media", "film"),
    ] {
        let sent = ["publish", "-e", exchange, "-k", key, "1", "--mandatory"];
        done(broker, &sent).await;
    }
    assert_eq!(ready(broker, "videos").await, 4);
    std::fs::remove_file(&file).unwrap();
}

async fn queues_are_counted(broker: &Broker) {
    declare(broker, &["jobs", "events"]).await;
    done(broker, &["publish", "-q", "jobs", "1", "2"]).await;
    let counted = done(broker, &["queues", "jobs", "events", "--json"])
        .await
        .json();
    assert_eq!(counted[0]["ready"], 2);
    assert_eq!(
        counted[1],
        json!({"queue": "events", "ready": 0, "unacked": counted[1]["unacked"], "consumers": 0})
    );
    let table = done(broker, &["queues", "jobs"]).await;
    assert!(
        table
            .text()
            .starts_with("queue  ready  unacked  consumers\njobs       2"),
        "{}",
        table.text()
    );
}

async fn a_watch_goes_on_until_it_is_ended(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    let arguments = ["queues", "jobs", "--watch", "--interval", "100ms", "--json"];
    let mut child = command(broker.url(), &arguments).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    assert!(first.contains("\"ready\":0"), "{first}");
    done(broker, &["publish", "-q", "jobs", "1"]).await;
    loop {
        let line = lines.next_line().await.unwrap().unwrap();
        if line.contains("\"ready\":1") {
            break;
        }
    }
    common::interrupt(&child);
    assert_eq!(finish(child, b"").await.code, Some(0));
}

async fn a_file_is_planned_applied_and_compared(broker: &Broker) {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("{}-{:p}.yaml", std::process::id(), broker));
    std::fs::write(
        &file,
        "exchanges: {media: {type: topic}}
queues:
  videos: {max_length: 10, bindings: [{exchange: media, routing_key: 'video.#'}]}
",
    )
    .unwrap();
    let path = file.to_str().unwrap();
    let planned = done(broker, &["plan", path]).await;
    assert_eq!(planned.text(), "+ exchange media\n+ queue videos\n");
    assert_eq!(run(broker.url(), &["queues", "videos"]).await.code, Some(5));
    assert_eq!(run(broker.url(), &["diff", path]).await.code, Some(7));
    done(broker, &["apply", path]).await;
    done(
        broker,
        &[
            "publish",
            "-e",
            "media",
            "-k",
            "video.new",
            "1",
            "--mandatory",
        ],
    )
    .await;
    let planned = done(broker, &["plan", path]).await;
    assert_eq!(planned.text(), "= exchange media\n= queue videos\n");
    assert_eq!(done(broker, &["diff", path]).await.text(), "");

    std::fs::write(&file, "queues: {others: {}, videos: {max_length: 11}}").unwrap();
    let differs = run(broker.url(), &["diff", path]).await;
    assert_eq!(differs.code, Some(7), "{}", differs.errors);
    assert!(
        differs
            .text()
            .starts_with("+ queue others\n! queue videos: "),
        "{}",
        differs.text()
    );
    let refused = run(broker.url(), &["apply", path]).await;
    assert_eq!(refused.code, Some(7), "{}", refused.errors);
    assert_eq!(run(broker.url(), &["queues", "others"]).await.code, Some(5));
    std::fs::remove_file(&file).unwrap();
}

/// It is there for the connection that declared it only.
async fn an_exclusive_queue_of_a_file_is_left_to_whoever_uses_it(broker: &Broker) {
    let path = std::env::temp_dir().join(format!(
        "kombu-cli-{}-exclusive-{:p}.yaml",
        std::process::id(),
        broker
    ));
    std::fs::write(&path, "queues: {jobs: {}, own: {exclusive: true}}").unwrap();
    let path = path.to_str().unwrap();
    let connection = broker.connect().await;
    let own = Queue::new("own").exclusive(true);
    connection.declare_queue(&own).await.unwrap();
    assert_eq!(done(broker, &["plan", path]).await.text(), "+ queue jobs\n");
    assert_eq!(
        done(broker, &["apply", path]).await.text(),
        "+ queue jobs\n"
    );
    connection.close().await.unwrap();
    assert_eq!(done(broker, &["apply", path]).await.text(), "");
    std::fs::remove_file(path).unwrap();
}

/// What `check` says of it without a broker.
async fn nothing_is_made_of_a_file_that_every_broker_refuses(broker: &Broker) {
    for (text, problem) in [
        (
            "queues: {first: {}, second: {name: jobs}, third: {name: jobs, max_length: 1}}",
            "it is declared twice, and not alike",
        ),
        (
            "exchanges: {one: {name: media}, other: {name: media, type: topic}}
queues: {first: {}}",
            "it is declared twice, and not alike",
        ),
        (
            "exchanges: {amq.topic: {type: direct}}
queues: {first: {}}",
            "`type` of exchange `amq.topic` is topic, not direct",
        ),
        (
            "exchanges: {orders: {type: headers}}
queues: {first: {}, second: {bindings: [{exchange: orders, arguments: {x-match: some}}]}}",
            "`x-match` of a binding to exchange `orders`",
        ),
        (
            "queues: {first: {}, amq.second: {}}",
            "queue names starting with `amq.` are reserved",
        ),
    ] {
        let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
        let file = folder.join(format!("{}-{:p}-refused.yaml", std::process::id(), broker));
        std::fs::write(&file, text).unwrap();
        let path = file.to_str().unwrap();
        for command in ["check", "plan", "diff", "apply"] {
            let refused = run(broker.url(), &[command, path]).await;
            assert_eq!(
                refused.code,
                Some(7),
                "{command} {text}: {}",
                refused.errors
            );
            let said = [refused.text(), &refused.errors].concat();
            assert!(said.contains(problem), "{command}: {said}");
            assert!(!said.contains("deleted first"), "{said}");
        }
        assert_eq!(run(broker.url(), &["queues", "first"]).await.code, Some(5));
        std::fs::remove_file(&file).unwrap();
    }
}

/// It is bound to an exchange that nobody declares.
async fn what_was_made_is_told_though_something_behind_it_failed(broker: &Broker) {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("{}-{:p}-half.yaml", std::process::id(), broker));
    let text =
        "queues: {jobs: {bindings: [{exchange: {name: nowhere, type: topic, declare: never}}]}}";
    std::fs::write(&file, text).unwrap();
    let failed = run(broker.url(), &["apply", file.to_str().unwrap()]).await;
    assert_eq!(failed.code, Some(5), "{}", failed.errors);
    assert_eq!(failed.text(), "+ queue jobs\n");
    assert_eq!(ready(broker, "jobs").await, 0);
    std::fs::remove_file(&file).unwrap();
}

on_every_broker! {
    what_was_not_there_is_not_said_to_be_removed
    what_brokers_have_from_the_start_is_bound_by_its_name
    an_attribute_that_can_not_be_read_is_named_with_the_way_out
    a_queue_without_a_name_is_told_by_the_one_that_it_got
    nothing_is_made_of_a_file_that_every_broker_refuses
    what_was_made_is_told_though_something_behind_it_failed
    an_exclusive_queue_of_a_file_is_left_to_whoever_uses_it
    ctrl_c_is_an_answer_where_somebody_is_asked
    ctrl_c_ends_a_call_that_waits_for_its_question
    ctrl_c_ends_a_watch_while_the_broker_is_away
    what_is_bound_arrives_and_what_is_unbound_does_not
    an_exchange_is_bound_to_another_one
    a_declaration_that_differs_is_code_7
    nothing_is_lost_before_somebody_said_yes
    what_a_consumer_holds_is_not_lost_either_before_somebody_said_yes
    each_declaration_of_a_file_is_planned_once
    bindings_are_made_again_and_not_compared_and_that_is_said
    queues_are_counted
    a_watch_goes_on_until_it_is_ended
    a_file_is_planned_applied_and_compared
}
