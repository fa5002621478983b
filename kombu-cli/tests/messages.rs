//! `publish`, `get` and `consume` on every broker.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(
    not(all(kombu_test_amqp, kombu_test_nats, kombu_test_redis)),
    allow(dead_code, unused_imports)
)]

mod common;

use std::process::Stdio;
use std::time::Duration;

use kombu_testkit::Broker;
use kombu_testkit::proxy::Direction;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use self::common::{
    command, declare, done, feed, finish, interrupt, on_every_broker, proxied, ready, run,
};

const IMAGE: &[u8] = b"\xff\xd8\x00\x1b[2J";

async fn what_is_published_is_consumed(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    let published = done(
        broker,
        &["publish", "-q", "jobs", "{\"id\": 7}", "hello", "--json"],
    )
    .await;
    assert_eq!(
        published.json(),
        [json!({"published": 2, "unrouted": 0, "resent": 0})]
    );
    let consumed = done(broker, &["consume", "jobs", "-n", "2"]).await;
    assert_eq!(consumed.text(), "{\"id\": 7}\nhello\n");
    assert_eq!(ready(broker, "jobs").await, 0);
}

async fn what_is_published_and_received_is_told_where_that_is_asked_for(broker: &Broker) {
    const SECRETS: [&str; 2] = ["in-the-body", "in-a-header"];
    declare(broker, &["jobs", "questions"]).await;
    let publish = [
        "publish",
        "-q",
        "jobs",
        SECRETS[0],
        "-H",
        "token=in-a-header",
    ];
    let silent = done(broker, &publish).await;
    assert!(!silent.errors.contains("DEBUG"), "{}", silent.errors);
    let told = done(broker, &[&["--debug"], &publish[..]].concat()).await;
    let by_variable = async |arguments: &[&str]| {
        let mut command = command(broker.url(), arguments);
        let child = command.env("POSTAGE_DEBUG_MODE", "True").spawn().unwrap();
        finish(child, b"").await
    };
    let get = by_variable(&["get", "jobs", "--timeout", "60s"]).await;
    let quiet = [
        "publish",
        "-q",
        "jobs",
        "-Q",
        "--timeout",
        "60s",
        SECRETS[0],
    ];
    let quiet = by_variable(&quiet).await;
    assert_eq!((quiet.code, quiet.errors.as_str()), (Some(0), ""));
    let consume = done(broker, &["consume", "jobs", "-n", "2", "--debug"]).await;
    let serve = ["serve", "questions", "--timeout", "60s", "--", "cat"];
    let serve = command(broker.url(), &serve).spawn().unwrap();
    let call = done(broker, &["call", "-q", "questions", SECRETS[0], "--debug"]).await;
    interrupt(&serve);
    let serve = finish(serve, b"").await;
    assert_eq!(serve.code, Some(0), "{}", serve.errors);
    assert_eq!(call.text(), format!("{}\n", SECRETS[0]));
    for (run, published, received) in [(&told, 1, 0), (&get, 0, 1), (&consume, 0, 2), (&call, 1, 1)]
    {
        let count = |end: &str| {
            let lines = run.errors.lines();
            let ours = lines.filter(|line| line.contains("DEBUG kombu_core::"));
            ours.filter(|line| line.contains(end)).count()
        };
        let counts = (count(": publish "), count(": received "));
        assert_eq!(
            (run.code, counts),
            (Some(0), (published, received)),
            "{}",
            run.errors
        );
        // What is in a message is nobody else's business.
        let tells = SECRETS.iter().any(|secret| run.errors.contains(secret));
        assert!(!tells, "{}", run.errors);
    }
}

async fn nobody_has_to_read_what_is_told(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    let publish = [
        "publish",
        "-q",
        "jobs",
        "hello",
        "--debug",
        "--timeout",
        "60s",
    ];
    let mut publish = command(broker.url(), &publish).spawn().unwrap();
    drop(publish.stderr.take());
    assert_eq!(publish.wait().await.unwrap().code(), Some(0));
    assert_eq!(ready(broker, "jobs").await, 1);
}

async fn what_others_write_does_nothing_to_a_terminal(broker: &Broker) {
    done(broker, &["declare", "exchange", "news", "type=fanout"]).await;
    let publish = [
        "publish",
        "-e",
        "news",
        "-k",
        "\u{1b}[2J",
        "hello",
        "--debug",
    ];
    let told = done(broker, &publish).await;
    assert!(told.errors.contains("key=\\u{1b}[2J"), "{}", told.errors);
    assert!(!told.errors.contains('\u{1b}'), "{}", told.errors);
}

async fn a_recording_is_published_as_it_was(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    let properties = [
        "publish",
        "-q",
        "jobs",
        "--priority",
        "3",
        "--correlation-id",
        "c-1",
        "--type",
        "job",
        "-H",
        "tenant=7",
        "-H",
        "name=anna",
        "--message-id",
        "m-1",
        "{\"b\": 1.0,  \"a\": 2}",
        "text",
    ];
    done(broker, &properties).await;
    let image = feed(
        broker.url(),
        &["publish", "-q", "jobs", "--content-type", "image/jpeg"],
        IMAGE,
    )
    .await;
    assert_eq!(image.code, Some(0), "{}", image.errors);
    let packed = [
        "publish",
        "-q",
        "jobs",
        "--serializer",
        "msgpack",
        "--compression",
        "zlib",
        "[1]",
    ];
    done(broker, &packed).await;

    let recording = done(broker, &["consume", "jobs", "--json", "-n", "4"]).await;
    let published = feed(broker.url(), &["publish", "--record"], &recording.out).await;
    assert_eq!(published.code, Some(0), "{}", published.errors);
    let again = done(broker, &["consume", "jobs", "--json", "-n", "4"]).await;
    assert_eq!(again.text(), recording.text());
    let first = &again.json()[0];
    assert_eq!(first["headers"], json!({"tenant": 7, "name": "anna"}));
    assert_eq!(first["properties"]["correlation_id"], "c-1");
    assert!(
        again.text().contains("{\"b\": 1.0,  \"a\": 2}"),
        "{}",
        again.text()
    );
}

async fn a_binary_body_comes_out_byte_for_byte(broker: &Broker) {
    declare(broker, &["images"]).await;
    let published = feed(broker.url(), &["publish", "-q", "images"], IMAGE).await;
    assert_eq!(published.code, Some(0), "{}", published.errors);
    let looked = done(broker, &["get", "images", "--release"]).await;
    assert_eq!(looked.text(), "base64:/9gAG1sySg==\n");
    let raw = done(broker, &["consume", "images", "-n", "1", "--raw"]).await;
    assert_eq!(raw.out, IMAGE);
}

async fn lines_and_files_are_messages(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    let lines = feed(
        broker.url(),
        &["publish", "-q", "jobs", "--lines"],
        b"one\ntwo\n\nlast",
    )
    .await;
    assert_eq!(lines.code, Some(0), "{}", lines.errors);
    let consumed = done(broker, &["consume", "jobs", "-n", "4"]).await;
    assert_eq!(consumed.text(), "one\ntwo\n\nlast\n");
    let folder =
        std::env::temp_dir().join(format!("kombu-cli-{}-{:p}", std::process::id(), broker));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("body.json");
    std::fs::write(&file, "[1]").unwrap();
    let path = file.to_str().unwrap();
    done(broker, &["publish", "-q", "jobs", "--file", path, path]).await;
    let consumed = done(broker, &["get", "jobs", "-n", "2"]).await;
    assert_eq!(consumed.text(), "[1]\n[1]\n");
    std::fs::remove_dir_all(&folder).unwrap();
}

async fn what_decodes_is_shown_as_what_it_stands_for(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    let packed = [
        "publish",
        "-q",
        "jobs",
        "--serializer",
        "msgpack",
        "--compression",
        "zlib",
        "{\"a\": [1]}",
    ];
    done(broker, &packed).await;
    assert_eq!(
        done(broker, &["get", "jobs", "--release"]).await.text(),
        "{\"a\":[1]}\n"
    );
    let json = done(broker, &["get", "jobs", "--json", "--decoded"])
        .await
        .json();
    assert_eq!(json[0]["decoded"], json!({"a": [1]}));
}

async fn a_decoded_body_is_what_shows_without_json(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    let zlib = ["publish", "-q", "jobs", "--compression", "zlib"];
    done(broker, &[&zlib[..], &["hello"]].concat()).await;
    let typed = ["--content-type", "image/jpeg"];
    for arguments in [&zlib[..3], &zlib, &[&zlib[..], &typed].concat()] {
        let image = feed(broker.url(), arguments, IMAGE).await;
        assert_eq!(image.code, Some(0), "{}", image.errors);
    }
    let looked = done(broker, &["get", "jobs", "-n", "4", "--release"]).await;
    let image = "base64:/9gAG1sySg==";
    let shown: Vec<_> = looked.text().lines().collect();
    assert_eq!(shown, ["hello", image, image, image]);
    let json = ["get", "jobs", "-n", "4", "--json", "--decoded"];
    let rows = done(broker, &json).await.json();
    let decoded: Vec<_> = rows.iter().map(|row| &row["decoded"]).collect();
    assert_eq!(decoded, shown);
}

async fn a_body_that_ends_its_line_adds_no_empty_one(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    let published = feed(
        broker.url(),
        &["publish", "-q", "jobs", "-f", "-"],
        b"hello\n",
    )
    .await;
    assert_eq!(published.code, Some(0), "{}", published.errors);
    let looked = done(broker, &["get", "jobs", "--release"]).await;
    assert_eq!(looked.text(), "hello\n");
    let raw = done(broker, &["consume", "jobs", "-n", "1", "--raw"]).await;
    assert_eq!(raw.text(), "hello\n");
}

async fn a_header_without_a_value_is_null(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    done(broker, &["publish", "-q", "jobs", "-H", "none=null", "1"]).await;
    let first = done(broker, &["get", "jobs", "--json"]).await;
    assert_eq!(first.json()[0]["headers"], json!({"none": null}));
    let again = feed(broker.url(), &["publish", "--record"], &first.out).await;
    assert_eq!(again.code, Some(0), "{}", again.errors);
    assert_eq!(
        done(broker, &["get", "jobs", "--json"]).await.text(),
        first.text()
    );
}

async fn a_line_that_is_no_record_is_told_by_its_number(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    let lines = b"{\"text\": \"a\", \"routing_key\": \"jobs\"}\n{\"text\": 1}\n";
    let refused = feed(broker.url(), &["publish", "--record", "-f", "-"], lines).await;
    assert_eq!(refused.code, Some(2), "{}", refused.errors);
    let said = "standard input, line 2: no message";
    assert!(refused.errors.contains(said), "{}", refused.errors);
    assert_eq!(
        refused.errors.matches("line ").count(),
        1,
        "{}",
        refused.errors
    );
}

async fn a_look_takes_nothing(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    done(broker, &["publish", "-q", "jobs", "1", "2", "3"]).await;
    let looked = done(broker, &["consume", "jobs", "--release", "-n", "3"]).await;
    assert_eq!(looked.text(), "1\n2\n3\n");
    assert_eq!(
        done(broker, &["get", "jobs", "-n", "3"]).await.text(),
        "1\n2\n3\n"
    );
}

/// The queue `jobs`, with so many messages of a megabyte.
async fn declare_with_large(broker: &Broker, messages: u64) {
    declare(broker, &["jobs"]).await;
    let connection = broker.connect().await;
    let producer = connection.producer(kombu::Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    for _ in 0..messages {
        let body = vec![b'x'; 1_000_000];
        producer.publish_bytes(body).await.unwrap();
    }
    connection.close().await.unwrap();
}

/// All of them are more than what is fetched at once.
async fn a_look_at_large_messages_shows_all_of_them(broker: &Broker) {
    const MESSAGES: u64 = 40;
    declare_with_large(broker, MESSAGES).await;
    let looked = done(broker, &["consume", "jobs", "--release", "-n", "40"]).await;
    assert_eq!(looked.text().lines().count() as u64, MESSAGES);
    common::until(async || ready(broker, "jobs").await == MESSAGES).await;
}

/// What it holds has an end.
async fn a_look_at_very_much_ends_and_says_so(broker: &Broker) {
    const MESSAGES: u64 = 70;
    declare_with_large(broker, MESSAGES).await;
    for (arguments, code) in [
        (&["consume", "jobs", "--release", "-n", "100"][..], 6),
        (&["get", "jobs", "--release", "-n", "100"], 6),
        (&["dead", "show", "jobs", "-n", "100"], 6),
        // All that there is was asked for, whatever that is.
        (&["consume", "jobs", "--release"], 0),
    ] {
        let looked = run(broker.url(), arguments).await;
        assert_eq!(looked.code, Some(code), "{}", looked.errors);
        // As many as come to 64 MiB.
        assert_eq!(looked.text().lines().count(), 68);
        let said = "there may be more";
        assert!(looked.errors.contains(said), "{}", looked.errors);
        common::until(async || ready(broker, "jobs").await == MESSAGES).await;
    }
}

async fn a_look_whose_connection_was_lost_has_given_back_what_it_held(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    done(broker, &["publish", "-q", "jobs", "1", "2", "3"]).await;
    let (proxy, url) = proxied(broker).await;
    let look = ["consume", "jobs", "--release", "-n", "4"];
    let mut child = command(&url, &look).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in ["1", "2", "3"] {
        assert_eq!(lines.next_line().await.unwrap().unwrap(), line);
    }
    proxy.cut().await;
    done(broker, &["publish", "-q", "jobs", "4"]).await;
    lines.next_line().await.unwrap().unwrap();
    let ended = finish(child, b"").await;
    assert_eq!(ended.code, Some(0), "{}", ended.errors);
    common::until(async || ready(broker, "jobs").await == 4).await;
}

async fn a_broker_that_is_away_does_not_end_a_consume(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    done(broker, &["publish", "-q", "jobs", "1"]).await;
    let (proxy, url) = proxied(broker).await;
    let mut child = command(&url, &["consume", "jobs", "--idle", "1s"])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "1");
    proxy.refuse().await;
    proxy.cut().await;
    let ended = timeout(Duration::from_secs(3), lines.next_line()).await;
    assert!(ended.is_err(), "{ended:?}");
    done(broker, &["publish", "-q", "jobs", "2"]).await;
    proxy.heal().await.unwrap();
    // The first one comes again if it wasn't acknowledged in time.
    while lines.next_line().await.unwrap().unwrap() != "2" {}
    common::interrupt(&child);
    let ended = finish(child, b"").await;
    assert_eq!(ended.code, Some(0), "{}", ended.errors);
}

async fn a_queue_without_messages_has_a_code_of_its_own(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    let got = run(broker.url(), &["get", "jobs"]).await;
    assert_eq!((got.code, got.text()), (Some(6), ""), "{}", got.errors);
    let consumed = run(
        broker.url(),
        &["consume", "jobs", "-n", "1", "--idle", "100ms"],
    )
    .await;
    assert_eq!(consumed.code, Some(6), "{}", consumed.errors);
}

async fn a_missing_queue_or_exchange_is_an_error_and_is_not_made(broker: &Broker) {
    for arguments in [
        &["publish", "-q", "nowhere", "1"][..],
        &["publish", "-e", "nowhere", "1"],
        &["consume", "nowhere"],
        &["get", "nowhere"],
        &["queues", "nowhere"],
        &["purge", "nowhere", "--yes"],
        &["bind", "nowhere", "-q", "nowhere"],
    ] {
        let run = run(broker.url(), arguments).await;
        assert_eq!(run.code, Some(5), "{arguments:?}: {}", run.errors);
        assert!(run.errors.contains("nowhere"), "{}", run.errors);
        assert!(!run.errors.contains("connection."), "{}", run.errors);
        assert_eq!(run.text(), "");
    }
    let deleted = done(broker, &["delete", "queue", "nowhere"]).await;
    assert!(deleted.errors.contains("no queue"), "{}", deleted.errors);
    assert_eq!(
        run(broker.url(), &["queues", "nowhere"]).await.code,
        Some(5)
    );
}

async fn a_message_that_reaches_nobody_is_told(broker: &Broker) {
    done(broker, &["declare", "exchange", "media", "type=topic"]).await;
    let sent = done(
        broker,
        &["publish", "-e", "media", "-k", "a", "1", "--json"],
    )
    .await;
    assert_eq!(sent.json()[0]["unrouted"], 1);
    let sent = run(
        broker.url(),
        &["publish", "-e", "media", "-k", "a", "1", "--mandatory"],
    )
    .await;
    assert_eq!(sent.code, Some(5), "{}", sent.errors);
}

async fn a_closed_pipe_ends_quietly_and_loses_nothing(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    let line = "x".repeat(100_000);
    let bodies = vec![line.as_str(); 8];
    done(broker, &[&["publish", "-q", "jobs"][..], &bodies].concat()).await;
    let mut child = command(broker.url(), &["consume", "jobs", "--follow"])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), line);
    drop(lines);
    let ended = finish(child, b"").await;
    assert_eq!((ended.code, ended.errors.as_str()), (Some(0), ""));
    // One was read; one more may have been in the pipe, which takes 64 KiB.
    let left = run(broker.url(), &["consume", "jobs", "--idle", "3s"]).await;
    let left = left.text().lines().count();
    assert!((6..=7).contains(&left), "{left}");
}

async fn ctrl_c_ends_in_an_orderly_way(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    done(broker, &["publish", "-q", "jobs", "1", "2"]).await;
    let mut child = command(broker.url(), &["consume", "jobs", "--follow"])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "1");
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "2");
    common::interrupt(&child);
    let ended = finish(child, b"").await;
    assert_eq!((ended.code, ended.errors.as_str()), (Some(0), ""));
    assert_eq!(ready(broker, "jobs").await, 0);
}

/// As `timeout -s INT` sends them: to the process, and to its group.
async fn two_signals_at_once_are_one(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    done(broker, &["publish", "-q", "jobs", "1"]).await;
    let mut child = command(broker.url(), &["consume", "jobs", "--follow"])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "1");
    for _ in 0..2 {
        common::interrupt(&child);
        common::caught(&child).await;
    }
    let ended = finish(child, b"").await;
    assert_eq!((ended.code, ended.errors.as_str()), (Some(0), ""));
    assert_eq!(ready(broker, "jobs").await, 0);
}

async fn ctrl_c_says_what_is_waited_for_while_the_broker_is_away(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    let (proxy, url) = proxied(broker).await;
    let mut publish = command(
        &url,
        &["publish", "-q", "jobs", "--lines", "--timeout", "60s"],
    );
    let mut child = publish.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"1\n").await.unwrap();
    let consumed = done(broker, &["consume", "jobs", "-n", "1"]).await;
    assert_eq!(consumed.text(), "1\n");
    proxy.refuse().await;
    proxy.cut().await;
    // More than a pipe holds: when it is written, some of it was read.
    let line = format!("{}\n", "x".repeat(1_000));
    stdin.write_all(line.repeat(70).as_bytes()).await.unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
    common::interrupt(&child);
    let said = "what is under way is waited for, and the broker if it is away; Ctrl-C again";
    while !errors.next_line().await.unwrap().unwrap().contains(said) {}
    common::interrupt(&child);
    assert_eq!(child.wait().await.unwrap().code(), Some(130));
    drop(stdin);
}

async fn ctrl_c_ends_a_look_at_all_there_is(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    done(broker, &["publish", "-q", "jobs", "1"]).await;
    let look = ["consume", "jobs", "--release", "--idle", "60s"];
    let mut child = command(broker.url(), &look).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "1");
    common::interrupt(&child);
    let ended = finish(child, b"").await;
    assert_eq!(ended.code, Some(130), "{}", ended.errors);
    common::until(async || ready(broker, "jobs").await == 1).await;
}

/// The second message takes seconds to come.
async fn ctrl_c_ends_a_look_that_waits(broker: &Broker) {
    let large = "x".repeat(1_000_000);
    // One for each: on NATS, what was under way over a slow line may come again 30 s later.
    for queue in ["jobs", "failed"] {
        declare(broker, &[queue]).await;
        done(broker, &["publish", "-q", queue, "1"]).await;
        let published = feed(broker.url(), &["publish", "-q", queue], large.as_bytes()).await;
        assert_eq!(published.code, Some(0), "{}", published.errors);
    }
    let (proxy, url) = proxied(broker).await;
    proxy.throttle(Direction::ToClient, 200_000);
    for (queue, look) in [
        ("jobs", &["get", "jobs", "--release", "-n", "2"][..]),
        ("failed", &["dead", "show", "failed", "-n", "2"]),
    ] {
        let mut child = command(&url, look).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "1");
        common::interrupt(&child);
        let ended = finish(child, b"").await;
        assert_eq!(ended.code, Some(130), "{}", ended.errors);
        common::until(async || ready(broker, queue).await == 2).await;
    }
}

async fn a_publish_that_is_interrupted_says_so(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    let mut publish = command(broker.url(), &["publish", "-q", "jobs", "--lines"]);
    let mut child = publish.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"1\n").await.unwrap();
    let consumed = done(broker, &["consume", "jobs", "-n", "1"]).await;
    assert_eq!(consumed.text(), "1\n");
    common::interrupt(&child);
    let ended = finish(child, b"").await;
    assert_eq!(ended.code, Some(130), "{}", ended.errors);
    assert!(ended.errors.contains("1 published"), "{}", ended.errors);
    drop(stdin);
}

async fn a_message_that_is_refused_ends_it_before_more_is_read(broker: &Broker) {
    let full = [
        "declare",
        "queue",
        "full",
        "max_length=1",
        "overflow=reject-publish",
    ];
    done(broker, &full).await;
    let mut publish = command(broker.url(), &["publish", "-q", "full", "--lines"]);
    let mut child = publish.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, b"1\n2\n3\n")
        .await
        .unwrap();
    // It has no end.
    let ended = tokio::time::timeout(std::time::Duration::from_secs(30), finish(child, b""));
    let ended = ended
        .await
        .expect("it ends although there may be more lines");
    assert_eq!(ended.code, Some(1), "{}", ended.errors);
    assert!(ended.errors.contains("1 published"), "{}", ended.errors);
    drop(stdin);
}

async fn a_wrong_line_of_a_recording_is_named(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    let input = b"{\"text\": \"good\"}\n{\"txet\": \"bad\"}\n";
    let run = feed(broker.url(), &["publish", "-q", "jobs", "--record"], input).await;
    assert_eq!(run.code, Some(2), "{}", run.errors);
    assert!(
        run.errors.contains("standard input, line 2"),
        "{}",
        run.errors
    );
    assert_eq!(done(broker, &["get", "jobs"]).await.text(), "good\n");
}

on_every_broker! {
    what_is_published_is_consumed
    what_is_published_and_received_is_told_where_that_is_asked_for
    nobody_has_to_read_what_is_told
    what_others_write_does_nothing_to_a_terminal
    a_recording_is_published_as_it_was
    a_binary_body_comes_out_byte_for_byte
    lines_and_files_are_messages
    what_decodes_is_shown_as_what_it_stands_for
    a_decoded_body_is_what_shows_without_json
    two_signals_at_once_are_one
    ctrl_c_says_what_is_waited_for_while_the_broker_is_away
    a_body_that_ends_its_line_adds_no_empty_one
    a_header_without_a_value_is_null
    a_line_that_is_no_record_is_told_by_its_number
    a_look_takes_nothing
    a_look_at_large_messages_shows_all_of_them
    a_look_at_very_much_ends_and_says_so
    a_look_whose_connection_was_lost_has_given_back_what_it_held
    a_broker_that_is_away_does_not_end_a_consume
    a_queue_without_messages_has_a_code_of_its_own
    a_missing_queue_or_exchange_is_an_error_and_is_not_made
    a_message_that_reaches_nobody_is_told
    a_closed_pipe_ends_quietly_and_loses_nothing
    ctrl_c_ends_in_an_orderly_way
    ctrl_c_ends_a_look_at_all_there_is
    ctrl_c_ends_a_look_that_waits
    a_publish_that_is_interrupted_says_so
    a_message_that_is_refused_ends_it_before_more_is_read
    a_wrong_line_of_a_recording_is_named
}
