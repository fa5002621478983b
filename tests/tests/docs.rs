//! What the documents in `docs/` claim: that the tests they name are there, that no row is missing, and that the table
//! of capabilities is the one that the code renders.
//!
//! `KOMBU_WRITE_DOCS=1 cargo test -p kombu-tests --test docs` writes what is rendered.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use kombu::{Capabilities, Feature, Support};
use kombu_testkit::{Freedom, table};

/// What rows of the seeds may wait for. Each goes as soon as it is there.
const LATER: &[&str] = &[];

/// The seeds, and how many rows each has.
const SEEDS: &[(&str, u32)] = &[("K", 47), ("PU", 47), ("P", 52), ("O", 25), ("C", 24)];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|problem| panic!("{}: {problem}", path.display()))
}

/// What stands between backticks.
fn code_in(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The tests that a text names: a case of the suite or a module of it (`routing::topic`), or a function in a file
/// (`kombu-core/tests/engine.rs::a_consumer_goes_on_after_a_cut`). Paths of the API begin with `kombu::` or in upper
/// case.
fn tests_in(text: &str) -> impl Iterator<Item = &str> {
    code_in(text).filter(|code| {
        code.contains("::") && !code.starts_with("kombu::") && !code.starts_with(char::is_uppercase)
    })
}

/// Says what is wrong with a name of a test.
fn problem_with(test: &str) -> Option<String> {
    let Some((file, function)) = test.split_once(".rs::") else {
        let module = format!("{test}::");
        let mut cases = kombu_testkit::all_cases().iter();
        let is_there = cases.any(|case| case.name() == test || case.name().starts_with(&module));
        return (!is_there).then(|| format!("there is no case `{test}`"));
    };
    let path = root().join(format!("{file}.rs"));
    let Ok(text) = std::fs::read_to_string(path) else {
        return Some(format!("`{test}`: there is no such file"));
    };
    let signature = format!("fn {function}(");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_test = |line: usize| {
        let above = lines[..line].iter().rev();
        above
            .take_while(|line| line.starts_with("#[") || line.starts_with("//"))
            .any(|line| line.starts_with("#[") && line.contains("test"))
    };
    let mut found = (0..lines.len()).filter(|line| {
        let line = lines[*line];
        line.starts_with(&signature) || line.starts_with(&format!("async {signature}"))
    });
    match found.next() {
        Some(line) if is_test(line) => None,
        // A macro makes tests of those that it lists.
        Some(_)
            if lines
                .iter()
                .any(|line| line.trim_end_matches(',') == function) =>
        {
            None
        }
        Some(_) => Some(format!("`{test}` is not a test")),
        None => Some(format!("`{test}`: the file has no such function")),
    }
}

fn assert_no_problems(document: &str, problems: &[String]) {
    assert!(problems.is_empty(), "{document}:\n{}", problems.join("\n"));
}

#[test]
fn every_test_that_a_document_names_is_there() {
    for document in ["docs/seeds.md", "docs/semantics.md"] {
        let text = read(document);
        assert!(tests_in(&text).count() > 20, "{document} names no tests");
        let problems: Vec<_> = tests_in(&text).filter_map(problem_with).collect();
        assert_no_problems(document, &problems);
    }
}

#[test]
fn every_file_that_a_document_names_is_there() {
    for document in ["docs/seeds.md", "docs/semantics.md", "docs/reliability.md"] {
        let text = read(document);
        let files = code_in(&text).filter(|code| code.contains('/') && code.ends_with(".rs"));
        let missing: Vec<_> = files
            .filter(|file| !root().join(file).is_file())
            .map(|file| format!("there is no file `{file}`"))
            .collect();
        assert_no_problems(document, &missing);
    }
}

#[test]
fn names_that_are_no_tests_are_found_out() {
    for wrong in [
        "routing::nowhere",
        "routing::topic::hash_matches",
        "kombu-core/tests/nowhere.rs::a_consumer_goes_on_after_a_cut",
        "kombu-core/tests/engine.rs::a_consumer_goes_on",
        "kombu-core/tests/engine.rs::until_restored",
    ] {
        assert!(problem_with(wrong).is_some(), "{wrong}");
    }
    for right in [
        "routing",
        "routing::topic",
        "routing::topic::hash_matches_every_key",
        "kombu-core/tests/engine.rs::a_consumer_goes_on_after_a_cut",
    ] {
        assert_eq!(problem_with(right), None);
    }
}

/// A row of the seeds: its id, what it is about, and where it is proven.
fn rows(text: &str) -> Vec<[&str; 3]> {
    let (seeds, _) = text.split_once("## Python's kombu of today").unwrap();
    let lines = seeds.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = lines.map(|line| {
        let line = line.trim_end().trim_end_matches('|');
        let cells: Vec<&str> = line.split(" | ").map(str::trim).collect();
        <[&str; 3]>::try_from(cells).unwrap_or_else(|cells| panic!("not three cells: {cells:?}"))
    });
    cells
        .filter(|[id, ..]| {
            SEEDS
                .iter()
                .any(|(seed, _)| id.split('-').next() == Some(*seed))
        })
        .collect()
}

#[test]
fn every_row_of_the_seeds_is_there_once() {
    let text = read("docs/seeds.md");
    let found: Vec<&str> = rows(&text).iter().map(|row| row[0]).collect();
    let expected: Vec<String> = SEEDS
        .iter()
        .flat_map(|(seed, count)| (1..=*count).map(move |number| format!("{seed}-{number:02}")))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn every_row_of_the_seeds_is_proven_or_says_why_not() {
    let text = read("docs/seeds.md");
    let mut problems = Vec::new();
    let mut waited_for = Vec::new();
    for [id, what, proof] in rows(&text) {
        let later: Vec<&str> = proof
            .match_indices("ater, ")
            .map(|(at, word)| &proof[at + word.len()..])
            .collect();
        for wish in &later {
            match LATER.iter().find(|later| wish.starts_with(**later)) {
                Some(later) => waited_for.push(*later),
                None => problems.push(format!("{id} waits for something unknown: {wish}")),
            }
        }
        let is_excluded = proof.starts_with("Not built: ");
        if tests_in(proof).next().is_none() && later.is_empty() && !is_excluded {
            problems.push(format!("{id} names no test"));
        }
        if what.is_empty() {
            problems.push(format!("{id} is about nothing"));
        }
    }
    let nobody_waits = LATER.iter().filter(|later| !waited_for.contains(later));
    problems.extend(nobody_waits.map(|later| format!("nothing waits for `{later}` any more")));
    assert_no_problems("docs/seeds.md", &problems);
}

/// What a transport that is there says, or what one that is planned will say.
fn capabilities_of(transport: &str) -> (Capabilities, bool) {
    match kombu::registry().capabilities(transport) {
        Some(found) => (found, true),
        None => (table::of(transport).unwrap(), false),
    }
}

/// What a cell says. What the table asks for and a transport hasn't got yet is planned.
fn cell(transport: &str, feature: Feature) -> &'static str {
    let (found, _) = capabilities_of(transport);
    let wanted = table::of(transport).unwrap().support(feature);
    match found.support(feature) {
        Support::Unsupported if wanted != Support::Unsupported => "planned",
        Support::Unsupported => "–",
        Support::Emulated => "emulated",
        Support::Native => "native",
    }
}

fn row(name: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<String> = cells.collect();
    format!("| {name} | {} |\n", cells.join(" | "))
}

fn rendered_capabilities() -> String {
    let transports = table::TRANSPORTS.iter().copied();
    let mut text = String::from(
        "# Capabilities\n\n\
         What the transports do of what not every broker has. This file is rendered from what they say of themselves \
         (`Connection::capabilities`), and, for a transport that is planned, from the table that it will be compared \
         with; `tests/tests/docs.rs` compares and writes it.\n\n\
         - **native**: the broker does it. **emulated**: the client does what the broker doesn't. **planned**: not \
         there yet; asking for it is refused until then.\n\
         - **–**: asking for it is refused with `ErrorKind::Unsupported`, before anything is sent.\n\n\
         Every transport has direct, fanout, topic and headers exchanges, the default exchange, confirmed and mandatory \
         publishes, batches, windows over several queues, `ack`, `release`, `retry` and `reject`. Where they may differ \
         all the same is a closed list in [semantics.md](semantics.md#declared-freedoms).\n\n",
    );
    let heads = transports.clone().map(|transport| {
        let (_, is_there) = capabilities_of(transport);
        let mark = if is_there { "" } else { " (planned)" };
        format!("{transport}{mark}")
    });
    text.push_str(&row("feature", heads));
    text.push_str(&row("---", transports.clone().map(|_| "---".to_owned())));
    for feature in Feature::ALL {
        let cells = transports
            .clone()
            .map(|transport| cell(transport, *feature).to_owned());
        text.push_str(&row(&feature.to_string(), cells));
    }
    let priorities = transports.map(|transport| {
        let (found, _) = capabilities_of(transport);
        found.max_priority().to_string()
    });
    text.push_str(&row("highest `max_priority` of a queue", priorities));
    text
}

#[test]
fn the_table_of_capabilities_is_what_the_code_says() {
    let rendered = rendered_capabilities();
    let path = "docs/capabilities.md";
    if std::env::var_os("KOMBU_WRITE_DOCS").is_some() {
        std::fs::write(root().join(path), &rendered).unwrap();
    }
    assert_eq!(
        read(path),
        rendered,
        "{path} is out of date; KOMBU_WRITE_DOCS=1 writes it"
    );
}

#[test]
fn what_cases_allow_is_a_declared_freedom() {
    let semantics = read("docs/semantics.md");
    let (_, declared) = semantics.split_once("## Declared freedoms").unwrap();
    for transport in table::TRANSPORTS {
        for freedom in table::freedoms(transport) {
            let row = format!("| {transport} | {freedom}");
            assert!(declared.contains(&row), "there is no row `{row}…`");
        }
    }
    let is_used = |freedom: &Freedom| {
        let mut transports = table::TRANSPORTS.iter();
        transports.any(|transport| table::freedoms(transport).contains(freedom))
    };
    assert!(Freedom::ALL.iter().all(is_used));
}
