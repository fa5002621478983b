use std::fs::OpenOptions;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use fastrand::Rng;
use kombu::Deadlines;
use kombu_testkit::brokers::{Nats, RabbitMq, Redis};
use kombu_testkit::faults::{Breakable, Fault, Row, Victim};
use kombu_testkit::history::{History, Recorder};
use tokio::runtime::{Builder, Handle};
use tokio::time::{sleep, timeout};

/// Which scenarios run beside each other: each has a broker of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    BesideOthers,
    /// It counts what the process has as a whole, or listens to all that is traced.
    Alone,
    /// It counts that in the long run only.
    AloneIfLong,
}

static RUNNING: RwLock<()> = RwLock::new(());

/// Whether the scenario that runs is the only one.
static IS_ALONE: AtomicBool = AtomicBool::new(false);

/// Runs a scenario when it is its turn.
fn in_turn<T>(turn: Turn, run: impl FnOnce() -> T) -> T {
    let timed = || {
        let begin = Instant::now();
        let result = run();
        println!("it took {:?}", begin.elapsed());
        result
    };
    let is_alone = turn == Turn::Alone || turn == Turn::AloneIfLong && is_long();
    if is_alone {
        let _alone = RUNNING.write().unwrap_or_else(PoisonError::into_inner);
        IS_ALONE.store(true, Ordering::Relaxed);
        timed()
    } else {
        let _beside = RUNNING.read().unwrap_or_else(PoisonError::into_inner);
        IS_ALONE.store(false, Ordering::Relaxed);
        timed()
    }
}

pub(crate) fn on_memory(turn: Turn, scenario: impl AsyncFnOnce(&mut Breakable)) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    in_turn(turn, || {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let name = format!("fault-suite-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let url = format!("memory://{name}");
        let forget = {
            let name = name.clone();
            move || {
                kombu::memory::remove(&name);
            }
        };
        let mut broker = Breakable::injected("memory", kombu::registry(), url, forget);
        runtime.block_on(scenario(&mut broker));
        kombu::memory::remove(&name);
    });
}

pub(crate) fn on_rabbitmq(turn: Turn, scenario: impl AsyncFnOnce(&mut Breakable)) {
    in_turn(turn, || on_real(|| RabbitMq::start().unwrap(), scenario));
}

pub(crate) fn on_redis(turn: Turn, scenario: impl AsyncFnOnce(&mut Breakable)) {
    let start = || Redis::builder().persistent().start().unwrap();
    in_turn(turn, || on_real(start, scenario));
}

/// With several of them, which the scenario starts itself.
pub(crate) fn with_redis<T>(scenario: impl Future<Output = T>) -> T {
    in_turn(Turn::BesideOthers, || on_threads(scenario))
}

pub(crate) fn on_nats(turn: Turn, scenario: impl AsyncFnOnce(&mut Breakable)) {
    let start = || Nats::builder().account().start().unwrap();
    in_turn(turn, || on_real(start, scenario));
}

fn on_real<V: Victim>(start: impl FnOnce() -> V, scenario: impl AsyncFnOnce(&mut Breakable)) {
    on_threads(async {
        let broker = Breakable::real(kombu::registry(), start());
        scenario(&mut broker.await.unwrap()).await;
    });
}

fn on_threads<T>(scenario: impl Future<Output = T>) -> T {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(scenario)
}

pub(crate) fn is_long() -> bool {
    std::env::var("KOMBU_TEST_FAULTS").is_ok_and(|length| length == "long")
}

/// How often, in the short run and in the long one.
pub(crate) fn count(short: u64, long: u64) -> u64 {
    if is_long() { long } else { short }
}

pub(crate) fn rng() -> Rng {
    let seed = match std::env::var("KOMBU_TEST_SEED") {
        Ok(seed) => seed.parse().expect("KOMBU_TEST_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("KOMBU_TEST_SEED={seed}");
    Rng::with_seed(seed)
}

/// Those of [`Breakable::builder`], for publishes that wait until a broker is up again.
pub(crate) fn patient() -> Deadlines {
    let mut deadlines = Breakable::deadlines();
    deadlines.publish = Duration::from_secs(120);
    deadlines.declare = Duration::from_secs(120);
    deadlines
}

/// Adds rows to the table, and fails if something in them is broken. Keeps the history if one is.
pub(crate) fn report(rows: Vec<Row>, history: &History) {
    let mut broken = Vec::new();
    for row in &rows {
        let line = serde_json::to_string(row).unwrap();
        println!("{line}");
        if let Some(path) = std::env::var_os("KOMBU_TEST_FAULTS_TABLE") {
            let file = OpenOptions::new().create(true).append(true).open(path);
            writeln!(file.unwrap(), "{line}").unwrap();
        }
        if row.is_broken() {
            broken.push(row.fault.as_str());
        }
    }
    if let Some(folder) = std::env::var_os("KOMBU_TEST_FAULTS_HISTORIES") {
        let test = std::thread::current().name().unwrap_or("test").to_owned();
        let path = std::path::Path::new(&folder).join(format!("{}.jsonl", test.replace("::", ".")));
        std::fs::write(path, history.to_lines()).unwrap();
    }
    assert!(broken.is_empty(), "broken: {broken:?}");
}

/// Longer than any deadline of a connection.
const HANGS: Duration = Duration::from_secs(150);

/// Awaits what has to end by itself, and fails with its name if it doesn't.
pub(crate) async fn ends<T>(what: &str, work: impl IntoFuture<Output = T>) -> T {
    match timeout(HANGS, work).await {
        Ok(value) => value,
        Err(_) => panic!("{what} hangs: it isn't over after {HANGS:?}"),
    }
}

/// Counts what should stay the same: tasks, files that this process has open, what the server has for it.
#[derive(Debug)]
pub(crate) struct Counts(Vec<(&'static str, u64)>);

impl Counts {
    pub(crate) fn now(broker: &Breakable) -> Self {
        let tasks = Handle::current().metrics().num_alive_tasks();
        let mut counts = vec![("tasks", tasks as u64)];
        // Others open and close some meanwhile.
        if IS_ALONE.load(Ordering::Relaxed) {
            let files = std::fs::read_dir("/dev/fd").unwrap().count();
            counts.push(("open files", files as u64));
        }
        counts.extend(broker.counts().unwrap());
        Counts(counts)
    }

    /// Those that stay the same for a second: what was cut is there again.
    pub(crate) async fn steady(broker: &Breakable) -> Self {
        let mut counts = Counts::now(broker);
        loop {
            sleep(Duration::from_secs(1)).await;
            let now = Counts::now(broker);
            if now.0 == counts.0 {
                return now;
            }
            counts = now;
        }
    }

    /// Waits a while until there is no more than before, and takes down both.
    pub(crate) async fn compare(&self, broker: &Breakable, recorder: &Recorder) {
        let mut now = Counts::now(broker);
        for _ in 0..60 {
            let is_back = std::iter::zip(&self.0, &now.0).all(|(before, now)| now.1 <= before.1);
            if is_back {
                break;
            }
            sleep(Duration::from_millis(500)).await;
            now = Counts::now(broker);
        }
        for Counts(counts) in [self, &now] {
            for (what, count) in counts {
                recorder.count(*what, *count, 0);
            }
        }
    }
}

/// What a consumer has to know of its broker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// Whether it answers settles.
    pub(crate) answers: bool,
    /// How long a consumer waits for what may still come, when nothing is published any more.
    pub(crate) patience: Duration,
}

impl Habits {
    pub(crate) fn of(broker: &Breakable) -> Self {
        Habits {
            answers: broker.answers_settles(),
            patience: Breakable::RECOVERY + broker.gives_back_within(),
        }
    }
}

/// What a scenario inflicts, written down by the name that the table has for it.
pub(crate) async fn inflict(broker: &mut Breakable, recorder: &Recorder, fault: Fault) {
    recorder.fault(fault.to_string());
    broker.inflict(fault).await.unwrap();
    if !fault.lasts() {
        recorder.over();
    }
}

/// Ends what lasts.
pub(crate) async fn heal(broker: &mut Breakable, recorder: &Recorder) {
    broker.heal().await.unwrap();
    recorder.over();
}
