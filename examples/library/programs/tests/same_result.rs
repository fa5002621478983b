//! One library, two transports, one result.

#![allow(clippy::unwrap_used)]

use std::process::Command;

const EDITION: &str = "\
culture, articles: 2, words: 1410
  『七人の侍』が帰ってくる
  Le cinéma muet parle encore
science, articles: 2, words: 1360
  A comet after 80 000 years
  Что слышат киты
sport, articles: 2, words: 595
  Ein Tor in der Nachspielzeit
  كرة القدم في المساء
spiked, articles: 2, words: 49001
  A trilogy, in full
  Everything about everything
returned, articles: 1, words: 350
  Roses in November
";

fn output(program: &str) -> String {
    let output = Command::new(program).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn both_programs_print_the_same_edition() {
    let on_memory = output(env!("CARGO_BIN_EXE_newsroom-memory"));
    let on_shelf = output(env!("CARGO_BIN_EXE_newsroom-shelf"));
    assert_eq!(on_memory, EDITION);
    assert_eq!(on_shelf, on_memory);
}
