//! `call`, `serve`, `bench` and `doctor` on every broker.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(
    not(all(kombu_test_amqp, kombu_test_nats, kombu_test_redis)),
    allow(dead_code, unused_imports)
)]

mod common;

use kombu::handler::{Payload, Reply, Retries, Router};
use kombu::{Exchange, Queue};
use kombu_testkit::Broker;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use self::common::{command, declare, done, finish, on_every_broker, ready, run};

async fn a_call_is_answered_by_a_program(broker: &Broker) {
    declare(broker, &["shout"]).await;
    let served = ["serve", "shout", "--", "tr", "a-z", "A-Z"];
    let child = command(broker.url(), &served).spawn().unwrap();
    let answered = done(broker, &["call", "-q", "shout", "hello"]).await;
    assert_eq!(answered.text(), "HELLO\n");
    common::interrupt(&child);
    assert_eq!(finish(child, b"").await.code, Some(0));
}

async fn an_answer_of_a_program_is_what_it_looks_like(broker: &Broker) {
    declare(broker, &["sizes"]).await;
    let served = ["serve", "sizes", "--", "wc", "-c"];
    let child = command(broker.url(), &served).spawn().unwrap();
    let connection = broker.connect().await;
    let caller = connection.caller(Exchange::default()).routing_key("sizes");
    let caller = caller.await.unwrap();
    assert_eq!(caller.call::<_, u64>("seven").await.unwrap(), 7);
    connection.close().await.unwrap();
    common::interrupt(&child);
    assert_eq!(finish(child, b"").await.code, Some(0));
}

async fn a_key_that_no_environment_can_have_ends_nothing(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    done(broker, &["declare", "exchange", "news", "type=fanout"]).await;
    done(broker, &["bind", "news", "-q", "jobs"]).await;
    let connection = broker.connect().await;
    let news = Exchange::fanout("news");
    let producer = connection.producer(&news).await.unwrap();
    let publish = producer.publish_text("hello").routing_key("a\0b");
    publish.await.unwrap();
    connection.close().await.unwrap();
    let served = ["serve", "jobs", "--", "cat"];
    let mut child = command(broker.url(), &served).spawn().unwrap();
    let mut text = [0; 5];
    let mut written = child.stdout.take().unwrap();
    written.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"hello");
    common::interrupt(&child);
    assert_eq!(finish(child, b"").await.code, Some(0));
    assert_eq!(ready(broker, "jobs").await, 0);
}

async fn a_program_is_told_of_the_message_and_settles_it(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    let script = "printf '%s %s ' \"$KOMBU_QUEUE\" \"$KOMBU_HEADER_TENANT\"; cat; echo; test -z \"$KOMBU_URL\"";
    let served = ["serve", "jobs", "--", "sh", "-c", script];
    done(
        broker,
        &["publish", "-q", "jobs", "-H", "tenant=7", "hello"],
    )
    .await;
    let mut child = command(broker.url(), &served).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "jobs 7 hello");
    common::interrupt(&child);
    let ended = finish(child, b"").await;
    assert_eq!((ended.code, ended.errors.as_str()), (Some(0), ""));
    assert_eq!(ready(broker, "jobs").await, 0);
}

async fn a_message_whose_program_fails_comes_again(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    let script = "echo \"$KOMBU_ATTEMPT\"; test \"$KOMBU_ATTEMPT\" = 2";
    let served = [
        "serve",
        "jobs",
        "--retry-after",
        "100ms",
        "--",
        "sh",
        "-c",
        script,
    ];
    done(broker, &["publish", "-q", "jobs", "1"]).await;
    let mut child = command(broker.url(), &served).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "1");
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "2");
    common::interrupt(&child);
    let ended = finish(child, b"").await;
    assert_eq!(ended.code, Some(0), "{}", ended.errors);
    assert_eq!(ready(broker, "jobs").await, 0);
}

async fn a_message_whose_program_fails_comes_as_often_as_it_is_told(broker: &Broker) {
    declare(broker, &["failed"]).await;
    let dead_letters = ["dead_letter_exchange=", "dead_letter_routing_key=failed"];
    done(
        broker,
        &[&["declare", "queue", "jobs"], &dead_letters[..]].concat(),
    )
    .await;
    done(broker, &["publish", "-q", "jobs", "1"]).await;
    let twice = ["serve", "jobs", "--retries", "1", "--retry-after", "10ms"];
    let program = ["--", "sh", "-c", "echo again; exit 1"];
    let served = [&twice[..], &program].concat();
    let child = command(broker.url(), &served).spawn().unwrap();
    common::until(async || ready(broker, "failed").await == 1).await;
    common::interrupt(&child);
    let ended = finish(child, b"").await;
    assert_eq!((ended.code, ended.text()), (Some(0), "again\nagain\n"));
}

async fn a_program_that_is_not_there_ends_it_and_keeps_the_message(broker: &Broker) {
    declare(broker, &["jobs"]).await;
    done(broker, &["publish", "-q", "jobs", "1"]).await;
    let ended = run(broker.url(), &["serve", "jobs", "--", "/no/such/program"]).await;
    assert_eq!(ended.code, Some(2), "{}", ended.errors);
    common::until(async || ready(broker, "jobs").await == 1).await;
}

async fn a_question_that_reaches_nobody_and_one_without_an_answer_have_codes_of_their_own(
    broker: &Broker,
) {
    declare(broker, &["unserved"]).await;
    done(broker, &["declare", "exchange", "media", "type=topic"]).await;
    let nobody = run(broker.url(), &["call", "-e", "media", "-k", "a", "1"]).await;
    assert_eq!(nobody.code, Some(5), "{}", nobody.errors);
    let late = ["call", "-q", "unserved", "--wait", "300ms", "1"];
    let late = run(broker.url(), &late).await;
    assert_eq!(late.code, Some(3), "{}", late.errors);
}

async fn an_answers_value_is_written_too_and_what_went_wrong_does_nothing_to_a_terminal(
    broker: &Broker,
) {
    async fn answer(Payload(question): Payload<String>) -> Result<Reply<u32>, String> {
        match question.as_str() {
            "seven" => Ok(Reply(7)),
            _ => Err("a\u{1b}[2J".to_owned()),
        }
    }
    declare(broker, &["numbers"]).await;
    let connection = broker.connect().await;
    let router = Router::new().queue("numbers", answer);
    let serving = connection
        .serve(router)
        .queues([Queue::new("numbers")])
        .retries(Retries::none())
        .tell_errors(true)
        .open()
        .await
        .unwrap();
    let serving = tokio::spawn(serving.run());
    let answered = done(
        broker,
        &["--json", "call", "-q", "numbers", "--decoded", "\"seven\""],
    );
    assert_eq!(answered.await.json()[0]["decoded"], 7);
    let failed = run(broker.url(), &["call", "-q", "numbers", "\"none\""]).await;
    assert_eq!(failed.code, Some(1), "{}", failed.errors);
    assert!(failed.errors.contains("a\\u{1b}[2J"), "{}", failed.errors);
    serving.abort();
    connection.close().await.unwrap();
}

async fn a_bench_measures_and_leaves_nothing(broker: &Broker) {
    let measured = done(broker, &["bench", "-n", "200", "--json"]).await.json();
    let whats: Vec<_> = measured
        .iter()
        .map(|row| row["what"].as_str().unwrap())
        .collect();
    assert_eq!(whats, ["publish", "consume", "round-trip"]);
    for row in &measured {
        assert!(row["per_second"].as_f64().unwrap() > 0.0, "{row}");
    }
    let times = &measured[0]["microseconds"];
    assert!(
        times["p50"].as_u64().unwrap() <= times["max"].as_u64().unwrap(),
        "{times}"
    );
    // One at a time: the longest way isn't much shorter than the mean one, which has the acknowledgement, too.
    let there = &measured[2];
    let mean = there["seconds"].as_f64().unwrap() / there["messages"].as_f64().unwrap();
    let longest = there["microseconds"]["max"].as_f64().unwrap() / 1e6;
    assert!(longest * 2.0 >= mean, "{there}");
    let buckets = times["histogram"].as_array().unwrap();
    let counted: u64 = buckets
        .iter()
        .map(|bucket| bucket["count"].as_u64().unwrap())
        .sum();
    assert_eq!(counted, 200);
    let table = done(broker, &["bench", "publish", "-n", "50", "--histogram"]).await;
    assert!(
        table.text().contains("from a publish to its confirm"),
        "{}",
        table.text()
    );
    assert!(!table.text().contains("consume"), "{}", table.text());
}

async fn a_bench_shows_how_far_it_is(broker: &Broker) {
    let (person, terminal) = common::terminal();
    let mut bench = command(broker.url(), &["bench", "publish", "-n", "1000000"]);
    let child = bench.stderr(terminal).spawn().unwrap();
    drop(bench);
    let mut screen = tokio::fs::File::from_std(person.into());
    let mut shown = String::new();
    // As `published [##] 640/1000000, 6400/s, 2m left`.
    let moves = |shown: &str| {
        let Some((begun, _)) = shown.rsplit_once("/1000000, ") else {
            return false;
        };
        let position = begun.rsplit(' ').next().unwrap();
        position.parse::<u64>().is_ok_and(|position| position > 0)
    };
    while !moves(&shown) {
        let mut bytes = [0; 1_000];
        let read = screen.read(&mut bytes).await.unwrap();
        shown.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    let (_, rate) = shown.rsplit_once("/1000000, ").unwrap();
    let (rate, _) = rate.split_once("/s").unwrap();
    assert!(rate.parse::<u64>().is_ok(), "{shown:?}");
    common::interrupt(&child);
    assert_eq!(finish(child, b"").await.code, Some(130));
}

async fn a_doctor_finds_nothing_wrong(broker: &Broker) {
    let found = done(broker, &["doctor", "--json"]).await.json();
    let checks: Vec<_> = found
        .iter()
        .map(|row| row["check"].as_str().unwrap())
        .collect();
    let all = [
        "reach",
        "TLS",
        "credentials",
        "version",
        "clock",
        "declare",
        "publish",
        "consume",
        "delete",
        "limits",
    ];
    assert_eq!(checks, all);
    assert!(found.iter().all(|row| row["ok"] == true), "{found:?}");
    let of = |check| {
        let row = found.iter().find(|row| row["check"] == check);
        row.unwrap()["found"].as_str().unwrap()
    };
    let (product, number) = of("version").rsplit_once(' ').unwrap();
    let (scheme, _) = broker.url().split_once(':').unwrap();
    let (products, clock) = match scheme {
        "amqp" => (&["RabbitMQ"][..], "the broker doesn't tell"),
        "redis" => (&["Redis", "Valkey"][..], "as this machine's"),
        _ => (&["NATS"][..], "as this machine's"),
    };
    assert!(products.contains(&product), "{product}");
    assert!(number.contains('.'), "{number}");
    assert_eq!(of("clock"), clock);
}

on_every_broker! {
    a_call_is_answered_by_a_program
    an_answer_of_a_program_is_what_it_looks_like
    a_key_that_no_environment_can_have_ends_nothing
    a_program_is_told_of_the_message_and_settles_it
    a_message_whose_program_fails_comes_again
    a_message_whose_program_fails_comes_as_often_as_it_is_told
    a_program_that_is_not_there_ends_it_and_keeps_the_message
    a_question_that_reaches_nobody_and_one_without_an_answer_have_codes_of_their_own
    an_answers_value_is_written_too_and_what_went_wrong_does_nothing_to_a_terminal
    a_bench_measures_and_leaves_nothing
    a_bench_shows_how_far_it_is
    a_doctor_finds_nothing_wrong
}
