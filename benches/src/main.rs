//! Measures kombu against the raw client, or the named limit, in the same run.
//!
//! `scripts/bench [FILTER] [--json FILE]`; see `benches/README.md` for what is fixed and when a bar holds.

mod cases;
mod measure;

use std::error::Error;
use std::process::ExitCode;

use serde::Serialize;

use self::cases::Case;
use self::measure::{Spread, spread, time};

/// Rounds that count; one more is run before them and thrown away.
const ROUNDS: usize = 7;

#[derive(Serialize)]
struct Row {
    case: &'static str,
    ours_per_second: f64,
    limit_per_second: f64,
    ratio: f64,
    /// The ratio less half its interquartile range: this has to reach the bar.
    ratio_held: f64,
    bar: f64,
    holds: bool,
    ours_cpu_ns: f64,
    limit_cpu_ns: f64,
    cpu_ratio: f64,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("bench: {problem}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool, Box<dyn Error>> {
    let mut filter = String::new();
    let mut json = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => json = Some(arguments.next().ok_or("--json needs a file")?),
            // `cargo bench` adds it.
            "--bench" => {}
            other if other.starts_with('-') => return Err(format!("unknown option {other}").into()),
            other => filter = other.to_owned(),
        }
    }
    let cases: Vec<Case> = cases::all()
        .into_iter()
        .filter(|case| case.name.contains(&filter))
        .collect();
    if cases.is_empty() {
        return Err(format!("no case has `{filter}` in its name").into());
    }
    println!(
        "{:<28} {:>13} {:>13} {:>14} {:>6} {:>6} {:>10}",
        "case", "ours/s", "limit/s", "ratio (held)", "bar", "holds", "CPU ratio"
    );
    let mut rows = Vec::new();
    for case in &cases {
        let row = measure(case)?;
        println!(
            "{:<28} {:>13.0} {:>13.0} {:>6.3} ({:.3}) {:>6} {:>6} {:>10.2}",
            row.case,
            row.ours_per_second,
            row.limit_per_second,
            row.ratio,
            row.ratio_held,
            row.bar,
            if row.holds { "yes" } else { "NO" },
            row.cpu_ratio
        );
        rows.push(row);
    }
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_vec_pretty(&rows)?)?;
    }
    Ok(rows.iter().all(|row| row.holds))
}

fn measure(case: &Case) -> Result<Row, Box<dyn Error>> {
    let mut samples = Vec::new();
    for round in 0..=ROUNDS {
        // The order changes from round to round, so that a drift of the machine favours nobody.
        let (ours, limit) = if round % 2 == 0 {
            let limit = time(|| (case.limit)(case.count))?;
            (time(|| (case.ours)(case.count))?, limit)
        } else {
            let ours = time(|| (case.ours)(case.count))?;
            (ours, time(|| (case.limit)(case.count))?)
        };
        if round > 0 {
            samples.push((ours, limit));
        }
    }
    let count = case.count as f64;
    let median = |values: Vec<f64>| -> Spread { spread(values) };
    let of = |value: fn(&(measure::Sample, measure::Sample)) -> f64| {
        median(samples.iter().map(value).collect())
    };
    let ratio = of(|(ours, limit)| limit.wall.as_secs_f64() / ours.wall.as_secs_f64());
    let ratio_held = ratio.median - ratio.range / 2.0;
    Ok(Row {
        case: case.name,
        ours_per_second: count / of(|(ours, _)| ours.wall.as_secs_f64()).median,
        limit_per_second: count / of(|(_, limit)| limit.wall.as_secs_f64()).median,
        ratio: ratio.median,
        ratio_held,
        bar: case.bar,
        holds: ratio_held >= case.bar,
        ours_cpu_ns: of(|(ours, _)| ours.cpu.as_secs_f64()).median / count * 1e9,
        limit_cpu_ns: of(|(_, limit)| limit.cpu.as_secs_f64()).median / count * 1e9,
        cpu_ratio: of(|(ours, limit)| ours.cpu.as_secs_f64() / limit.cpu.as_secs_f64()).median,
    })
}
