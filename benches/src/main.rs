//! Measures kombu against the raw client, or the named limit, in the same run.
//!
//! `scripts/bench [FILTER] [--json FILE]`; see `benches/README.md` for what is fixed and when a bar holds.

mod cases;
mod measure;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use self::cases::{Case, Limit, Side};
use self::measure::{Latency, Sample, spread, time};

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
    /// Only another program needs CPU time.
    limit_cpu_ns: Option<f64>,
    cpu_ratio: Option<f64>,
    /// Where the time of a single operation counts: then the ratio is that of the medians.
    latency_us: Option<Latencies>,
}

/// In µs, ours and the limit's.
#[derive(Serialize)]
struct Latencies {
    p50: (f64, f64),
    p99: (f64, f64),
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
    for (broker, url) in [
        ("RabbitMQ", "KOMBU_TEST_AMQP_URL"),
        ("Redis", "KOMBU_TEST_REDIS_URL"),
        ("NATS", "KOMBU_TEST_NATS_URL"),
    ] {
        if std::env::var_os(url).is_none() {
            eprintln!("without {broker}, its cases are left out; scripts/bench starts one");
        }
    }
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
            "{:<28} {:>13.0} {:>13.0} {:>6.3} ({:.3}) {:>6} {:>6} {:>10}",
            row.case,
            row.ours_per_second,
            row.limit_per_second,
            row.ratio,
            row.ratio_held,
            row.bar,
            if row.holds { "yes" } else { "NO" },
            row.cpu_ratio
                .map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
        );
        if let Some(Latencies { p50, p99 }) = &row.latency_us {
            println!(
                "{:<28} p50 {:.0} µs to {:.0}, p99 {:.0} µs to {:.0}",
                "", p50.0, p50.1, p99.0, p99.1
            );
        }
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
        let sample = one_round(case, round)?;
        if round > 0 {
            samples.push(sample);
        }
    }
    let count = case.count as f64;
    let of = |value: fn(&Round) -> f64| spread(samples.iter().map(value));
    let of_cpu = |value: fn(f64, f64) -> f64| {
        let values: Option<Vec<f64>> = samples
            .iter()
            .map(|round| {
                let limit = round.limit_cpu?.as_secs_f64();
                Some(value(round.ours.cpu.as_secs_f64(), limit))
            })
            .collect();
        values.map(|values| spread(values).median)
    };
    let ratio = of(|round| match round.latencies() {
        Some((ours, limit)) => limit.p50.as_secs_f64() / ours.p50.as_secs_f64(),
        None => round.limit_wall.as_secs_f64() / round.ours.wall.as_secs_f64(),
    });
    let latency = |of: fn(&Latency) -> Duration| {
        let both: Option<Vec<_>> = samples.iter().map(Round::latencies).collect();
        let (ours, limit): (Vec<_>, Vec<_>) = both?.into_iter().unzip();
        let median = |all: &[Latency]| {
            let times = all.iter().map(|one| of(one).as_secs_f64() * 1e6);
            spread(times).median
        };
        Some((median(&ours), median(&limit)))
    };
    let ratio_held = ratio.median - ratio.range / 2.0;
    Ok(Row {
        case: case.name,
        ours_per_second: count / of(|round| round.ours.wall.as_secs_f64()).median,
        limit_per_second: count / of(|round| round.limit_wall.as_secs_f64()).median,
        ratio: ratio.median,
        ratio_held,
        bar: case.bar,
        holds: ratio_held >= case.bar,
        ours_cpu_ns: of(|round| round.ours.cpu.as_secs_f64()).median / count * 1e9,
        limit_cpu_ns: of_cpu(|_, limit| limit).map(|limit| limit / count * 1e9),
        cpu_ratio: of_cpu(|ours, limit| ours / limit),
        latency_us: latency(|one| one.p50)
            .zip(latency(|one| one.p99))
            .map(|(p50, p99)| Latencies { p50, p99 }),
    })
}

struct Round {
    ours: Sample,
    limit_wall: Duration,
    limit_cpu: Option<Duration>,
    limit_latency: Option<Latency>,
}

impl Round {
    /// Ours and the limit's.
    fn latencies(&self) -> Option<(Latency, Latency)> {
        self.ours.latency.zip(self.limit_latency)
    }
}

fn one_round(case: &Case, round: usize) -> Result<Round, Box<dyn Error>> {
    let run = |side: &Side| {
        (case.prepare)(case.count)?;
        time(|| side(case.count))
    };
    let ours = || run(&case.ours);
    let limit = match &case.limit {
        Limit::Side(limit) => limit,
        Limit::Time(limit) => {
            return Ok(Round {
                ours: ours()?,
                limit_wall: limit.mul_f64(case.count as f64),
                limit_cpu: None,
                limit_latency: None,
            });
        }
    };
    // The order changes from round to round, so that a drift of the machine favours nobody.
    let (ours, limit) = if round.is_multiple_of(2) {
        let limit = run(limit)?;
        (ours()?, limit)
    } else {
        let ours = ours()?;
        (ours, run(limit)?)
    };
    Ok(Round {
        ours,
        limit_wall: limit.wall,
        limit_cpu: Some(limit.cpu),
        limit_latency: limit.latency,
    })
}
