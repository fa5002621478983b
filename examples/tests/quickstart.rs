use super::*;

async fn run_with(arguments: &[&str]) -> Result<bool> {
    run("quickstart", arguments.iter().map(OsString::from)).await
}

/// A file that goes with the test.
struct Lines(PathBuf);

impl Lines {
    fn new(test: &str, text: &str) -> Self {
        let name = format!("quickstart-{}-{test}.jsonl", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Lines(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

const LINE: &str =
    r#"{"id": 1, "kind": "order.paid", "region": "eu", "at": "2026-11-02", "data": null}"#;

fn event(kind: &str, region: &str) -> Event {
    Event {
        id: 7,
        kind: kind.to_owned(),
        region: region.to_owned(),
        at: "2026-11-02".to_owned(),
        data: serde_json::json!({"amount": [1, 2.5, -3]}),
    }
}

fn arrival(content_type: &str, event: Event) -> Arrival {
    Arrival {
        content_type: content_type.to_owned(),
        event,
    }
}

#[tokio::test]
async fn the_shipped_events_arrive_as_they_should() {
    assert!(run_with(&[]).await.unwrap());
}

#[test]
fn the_shipped_file_has_what_formats_stumble_over() {
    let events = read_events(Path::new(FILE)).unwrap();
    assert!(events.len() >= 200, "{}", events.len());
    let all_bindings: Vec<&str> = QUEUES
        .iter()
        .flat_map(|(_, patterns)| *patterns)
        .copied()
        .collect();
    let wanted: Vec<Event> = expect(&all_bindings, &events)
        .into_iter()
        .map(|one| one.event)
        .collect();
    let texts = serde_json::to_string(&wanted).unwrap();
    for telling in [
        "18446744073709551615",
        "-9223372036854775808",
        "5e-324",
        "-273.15",
        "\"no\"",
        "true",
        "null",
        "田中",
        "Петрова",
        "فاطمة",
        "👩‍🚀",
    ] {
        assert!(texts.contains(telling), "{telling}");
    }
    for (name, patterns) in QUEUES {
        let expected = expect(patterns, &events);
        for (_, content_type) in SERIALIZERS {
            let some = expected.iter().any(|one| one.content_type == content_type);
            assert!(some, "{name} has nothing of {content_type}");
        }
    }
}

#[tokio::test]
async fn nothing_stays_on_the_broker() {
    let file = Lines::new("nothing-stays", LINE);
    let url = "memory://quickstart-nothing-stays";
    let connection = kombu::connect(url).await.unwrap();
    assert!(run_with(&["--url", url, file.path()]).await.unwrap());

    for (name, _) in QUEUES {
        let queue = Queue::new(format!("quickstart.{name}")).passive();
        let error = connection.declare_queue(&queue).await.unwrap_err();
        assert_eq!(error.kind(), kombu::ErrorKind::NotFound, "{error}");
    }
    let exchange = Exchange::topic("quickstart").passive();
    let error = connection.declare_exchange(&exchange).await.unwrap_err();
    assert_eq!(error.kind(), kombu::ErrorKind::NotFound, "{error}");
}

#[tokio::test]
async fn a_line_that_is_no_event_is_named() {
    let broken = Lines::new("broken", &format!("{LINE}\n\n{{\"id\": 2, \"kind\"}}\n"));
    let problem = run_with(&[broken.path()]).await.unwrap_err().to_string();
    assert!(
        problem.contains("line 3, column 17: expected `:`"),
        "{problem}"
    );

    let incomplete = Lines::new("incomplete", &format!("{LINE}\n{{\"id\": 2}}"));
    let problem = run_with(&[incomplete.path()])
        .await
        .unwrap_err()
        .to_string();
    assert!(
        problem.contains("line 2, column 9: missing field `kind`"),
        "{problem}"
    );

    let empty = Lines::new("empty", "\n\n");
    let problem = run_with(&[empty.path()]).await.unwrap_err().to_string();
    assert!(problem.contains("there are no events in"), "{problem}");
}

#[tokio::test]
async fn a_missing_file_is_named() {
    let problem = run_with(&["no/such.jsonl"]).await.unwrap_err().to_string();
    assert!(
        problem.starts_with("can't read no/such.jsonl: "),
        "{problem}"
    );
}

#[tokio::test]
async fn arguments_that_cannot_be_are_refused_with_the_usage() {
    for (arguments, said) in [
        (&["--fast"][..], "unknown option `--fast`"),
        (&["--url"], "--url needs a URL"),
        (&["one.jsonl", "two.jsonl"], "more than one file"),
    ] {
        let problem = run_with(arguments).await.unwrap_err().to_string();
        assert!(
            problem.contains(said) && problem.ends_with(USAGE),
            "{problem}"
        );
    }
}

#[tokio::test]
async fn a_url_without_a_transport_is_refused() {
    let problem = run_with(&["--url", "pigeon://roof"])
        .await
        .unwrap_err()
        .to_string();
    assert!(
        problem.contains("no transport for `pigeon://`"),
        "{problem}"
    );
}

#[test]
fn star_stands_for_one_word_and_hash_for_any_number() {
    for (pattern, key, expected) in [
        ("order.#", "order", true),
        ("order.#", "order.item.returned.eu", true),
        ("order.#", "orders.eu", false),
        ("*.*.eu", "order.paid.eu", true),
        ("*.*.eu", "payment.eu", false),
        ("*.*.eu", "order.item.returned.eu", false),
        ("#.failed.*", "failed.eu", true),
        ("#.failed.*", "video.encode.failed.eu", true),
        ("#.failed.*", "payment.failed", false),
        ("#", "anything.at.all", true),
        ("*", "two.words", false),
    ] {
        let (pattern_words, key_words): (Vec<_>, Vec<_>) =
            (pattern.split('.').collect(), key.split('.').collect());
        assert_eq!(
            matches(&pattern_words, &key_words),
            expected,
            "{pattern} {key}"
        );
    }
}

#[test]
fn a_queue_with_overlapping_bindings_expects_one_copy() {
    let events = [event("payment.failed", "eu")];
    assert_eq!(expect(QUEUES[2].1, &events).len(), 1);
}

#[test]
fn every_kind_of_difference_is_found() {
    let paid = arrival("application/json", event("order.paid", "eu"));
    let mut altered = paid.clone();
    altered.event.data["amount"][2] = serde_json::json!(-4);
    let other_format = arrival("application/x-yaml", paid.event.clone());
    let expected = [paid.clone()];

    assert_eq!(differences(&expected, &expected), Vec::<String>::new());
    assert_eq!(differences(&expected, &[]).len(), 1);
    assert_eq!(differences(&[], &expected).len(), 1);
    assert_eq!(differences(&expected, &[altered]).len(), 2);
    assert_eq!(differences(&expected, &[other_format]).len(), 2);
    let twice = differences(&expected, &[paid.clone(), paid]);
    assert_eq!(twice.len(), 1);
    assert!(twice[0].starts_with("unexpected "), "{twice:?}");
}

#[test]
fn a_wrong_arrival_fails_the_run() {
    let events = [event("order.paid", "us")];
    let right = expect(QUEUES[0].1, &events);
    assert!(report(&events, 0, &[right.clone(), vec![], vec![]]));
    assert!(!report(&events, 0, &[vec![], right.clone(), vec![]]));
    assert!(!report(&events, 1, &[right, vec![], vec![]]));
}
