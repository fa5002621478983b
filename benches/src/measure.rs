//! Rounds of both sides in turn, and what they come to.

use std::time::{Duration, Instant};

use cpu_time::ProcessTime;
use kombu_bench_raw::laps;

/// Wall and CPU time of one run.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
    /// Where single operations are timed.
    pub(crate) latency: Option<Latency>,
}

/// How long single operations took.
#[derive(Clone, Copy)]
pub(crate) struct Latency {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

impl Latency {
    fn of(laps: Vec<Duration>) -> Option<Self> {
        let mut seconds: Vec<f64> = laps.iter().map(Duration::as_secs_f64).collect();
        seconds.sort_by(f64::total_cmp);
        let at = |part| Duration::from_secs_f64(quantile(&seconds, part));
        (!seconds.is_empty()).then(|| Latency {
            p50: at(0.5),
            p99: at(0.99),
        })
    }
}

/// Runs `work` once and takes its times. The CPU time is the whole process's, all threads.
pub(crate) fn time<E>(work: impl FnOnce() -> Result<(), E>) -> Result<Sample, E> {
    drop(laps::take());
    let (wall, cpu) = (Instant::now(), ProcessTime::now());
    work()?;
    Ok(Sample {
        wall: wall.elapsed(),
        cpu: cpu.elapsed(),
        latency: Latency::of(laps::take()),
    })
}

/// Median and interquartile range.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) range: f64,
}

pub(crate) fn spread(values: impl IntoIterator<Item = f64>) -> Spread {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    Spread {
        median: quantile(&values, 0.5),
        range: quantile(&values, 0.75) - quantile(&values, 0.25),
    }
}

/// Linear interpolation between the two nearest values.
fn quantile(sorted: &[f64], at: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = at * last as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_of_five_values_is_their_middle_and_the_distance_of_the_quartiles() {
        let spread = spread([5.0, 1.0, 3.0, 2.0, 4.0]);
        assert_eq!((spread.median, spread.range), (3.0, 2.0));
    }

    #[test]
    fn of_a_hundred_and_one_times_the_middle_and_the_last_but_one_are_told() {
        assert!(Latency::of(Vec::new()).is_none());
        let laps = (0..=100).rev().map(Duration::from_secs).collect();
        let latency = Latency::of(laps).unwrap();
        let seconds = Duration::from_secs;
        assert_eq!((latency.p50, latency.p99), (seconds(50), seconds(99)));
    }
}
