//! Prints the rows that the fault suite wrote as one table in Markdown: `fault_table FILE`. Fails if something in them is broken, or
//! if there is none.

use std::process::ExitCode;

use kombu_testkit::faults::{Row, table};

fn main() -> ExitCode {
    let path = std::env::args().nth(1).unwrap_or_default();
    let lines = match std::fs::read_to_string(&path) {
        Ok(lines) => lines,
        Err(problem) => {
            eprintln!("{path} can't be read: {problem}");
            return ExitCode::FAILURE;
        }
    };
    let rows: Result<Vec<Row>, _> = lines.lines().map(serde_json::from_str).collect();
    let rows = match rows {
        Ok(rows) => rows,
        Err(problem) => {
            eprintln!("{path} has a line that isn't a row: {problem}");
            return ExitCode::FAILURE;
        }
    };
    print!("{}", table(&rows));
    if rows.is_empty() || rows.iter().any(Row::is_broken) {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
