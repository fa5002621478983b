use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use futures_util::FutureExt;

use crate::{Broker, Harness, cases};

/// How long a case may take; a correct transport needs a small part of it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Beyond all deadlines that [`judge`] keeps.
const PATIENCE: Duration = Duration::from_secs(180);

type Behaviour = for<'a> fn(&'a Broker) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// One behaviour, with its path below [`cases`].
#[derive(Clone, Copy, Debug)]
pub struct Case {
    name: &'static str,
    behaviour: Behaviour,
}

impl Case {
    pub(crate) const fn new(name: &'static str, behaviour: Behaviour) -> Self {
        Case { name, behaviour }
    }

    /// The path below [`cases`], for example `routing::fanout::every_bound_queue_gets_a_copy`.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// Every case of the suite, for runners of other kinds than [`conformance!`](crate::conformance).
pub fn all_cases() -> &'static [Case] {
    cases::table::ALL
}

/// Runs the case of this name on a broker of its own, on a current-thread runtime.
///
/// # Panics
///
/// If the case fails, isn't over within [`DEADLINE`], or doesn't exist.
pub fn run(harness: impl Harness + 'static, name: &'static str) {
    let Some(case) = all_cases().iter().find(|case| case.name == name) else {
        panic!("there is no case `{name}`");
    };
    on_a_thread(name, PATIENCE, async move || {
        judge(&harness, name, DEADLINE, case.behaviour).await;
    });
}

/// A case that failed, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The name of the case.
    pub case: &'static str,
    /// What it panicked with.
    pub reason: String,
}

/// Runs every case, several at once, and answers which ones failed, in the order of their names.
///
/// A case that isn't over within `deadline` has failed. [`DEADLINE`] is what the tests of
/// [`conformance!`](crate::conformance) have; a shorter one serves where many cases are expected to hang.
pub fn failures(harness: impl Harness, deadline: Duration) -> Vec<Failure> {
    const AT_ONCE: usize = 8;
    let next = AtomicUsize::new(0);
    let run = || {
        let mut failures = Vec::new();
        while let Some(case) = all_cases().get(next.fetch_add(1, Ordering::Relaxed)) {
            let judged = || block_on(judge(&harness, case.name, deadline, case.behaviour));
            if let Err(panic) = catch_unwind(AssertUnwindSafe(judged)) {
                failures.push(Failure {
                    case: case.name,
                    reason: reason(&*panic),
                });
            }
        }
        failures
    };
    let mut failures = Vec::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(run)).collect();
        for thread in threads {
            match thread.join() {
                Ok(found) => failures.extend(found),
                Err(panic) => resume_unwind(panic),
            }
        }
    });
    failures.sort_unstable_by_key(|failure: &Failure| failure.case);
    failures
}

fn reason(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without words").to_owned()
}

/// Checks that the brokers of a harness are apart from each other: every case relies on it.
///
/// # Panics
///
/// If a queue of one broker is there on another one.
pub fn run_isolation(harness: impl Harness + 'static) {
    on_a_thread("isolation", PATIENCE, async move || {
        let other = harness.broker().await;
        judge(&harness, "isolation", DEADLINE, async |one: &Broker| {
            cases::share_nothing(one, &other).await;
        })
        .await;
        harness.clean_up(other).await;
    });
}

/// Runs a case on a thread of its own: where a transport blocks its thread, no deadline of the runtime's holds.
fn on_a_thread(name: &'static str, patience: Duration, case: impl AsyncFnOnce() + Send + 'static) {
    let (running, over) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        let _running = running;
        block_on(case());
    });
    if over.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("`{name}` blocks its thread");
    }
    if let Err(panic) = thread.join() {
        resume_unwind(panic);
    }
}

fn block_on(case: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(case),
        Err(problem) => panic!("no runtime for a case: {problem}"),
    }
}

/// Runs a behaviour within the deadline, and cleans up whether it passed or not.
async fn judge(
    harness: &impl Harness,
    name: &str,
    deadline: Duration,
    behaviour: impl AsyncFnOnce(&Broker),
) {
    let late = format!("after {} s", deadline.as_secs_f32());
    let Some(broker) = within(deadline, harness.broker()).await else {
        panic!("{}: there is no broker for `{name}` {late}", harness.name());
    };
    let judged = within(deadline, behaviour(&broker));
    let outcome = AssertUnwindSafe(judged).catch_unwind().await;
    let cleaned_up = within(deadline, harness.clean_up(broker)).await;
    match outcome {
        Ok(Some(())) => {}
        Ok(None) => panic!("{}: `{name}` is not over {late}", harness.name()),
        Err(panic) => resume_unwind(panic),
    }
    if cleaned_up.is_none() {
        panic!("{}: `{name}` is not cleaned up {late}", harness.name());
    }
}

async fn within<T>(deadline: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        // The clock first: a timeout of tokio polls the future once more when the time is over, and one that
        // nobody had woken would be ready then.
        biased;
        () = tokio::time::sleep(deadline) => None,
        value = future => Some(value),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};
    use std::sync::Mutex;
    use std::task::Poll;

    use kombu_core::Registry;

    use super::*;

    #[derive(Default)]
    struct Recording {
        has_no_broker: bool,
        never_cleans_up: bool,
        cleaned_up: Mutex<Vec<String>>,
    }

    impl Harness for Recording {
        fn name(&self) -> &str {
            "recording"
        }

        fn registry(&self) -> Registry {
            Registry::new()
        }

        async fn broker(&self) -> Broker {
            if self.has_no_broker {
                pending::<()>().await;
            }
            Broker::new(self.registry(), "recording://one")
        }

        async fn clean_up(&self, broker: Broker) {
            if self.never_cleans_up {
                pending::<()>().await;
            }
            self.cleaned_up
                .lock()
                .unwrap()
                .push(broker.url().to_owned());
        }
    }

    async fn failure(harness: &Recording, behaviour: impl AsyncFnOnce(&Broker)) -> String {
        let judged = judge(harness, "case", DEADLINE, behaviour);
        text(AssertUnwindSafe(judged).catch_unwind().await.unwrap_err())
    }

    fn text(panic: Box<dyn std::any::Any + Send>) -> String {
        match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(panic) => (*panic.downcast::<&str>().unwrap()).to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_case_that_never_ends_fails_at_the_deadline_and_is_cleaned_up() {
        let harness = Recording::default();
        let begin = tokio::time::Instant::now();
        let failure = failure(&harness, async |_: &Broker| pending().await).await;
        assert_eq!(failure, "recording: `case` is not over after 30 s");
        assert_eq!(begin.elapsed(), DEADLINE);
        assert_eq!(*harness.cleaned_up.lock().unwrap(), ["recording://one"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_case_that_nobody_wakes_fails() {
        let mut polls = 0;
        let harness = Recording::default();
        let failure = failure(&harness, async |_: &Broker| {
            poll_fn(|_| {
                polls += 1;
                match polls {
                    1 => Poll::Pending,
                    _ => Poll::Ready(()),
                }
            })
            .await;
        });
        assert_eq!(failure.await, "recording: `case` is not over after 30 s");
    }

    #[tokio::test]
    async fn a_case_that_fails_is_cleaned_up_and_fails_with_its_own_message() {
        let harness = Recording::default();
        let failure = failure(&harness, async |_: &Broker| panic!("not this time")).await;
        assert_eq!(failure, "not this time");
        assert_eq!(*harness.cleaned_up.lock().unwrap(), ["recording://one"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_harness_that_hangs_fails_the_case() {
        let harness = Recording {
            has_no_broker: true,
            ..Recording::default()
        };
        let failed = failure(&harness, async |_: &Broker| ()).await;
        assert_eq!(
            failed,
            "recording: there is no broker for `case` after 30 s"
        );
        let harness = Recording {
            never_cleans_up: true,
            ..Recording::default()
        };
        let failed = failure(&harness, async |_: &Broker| ()).await;
        assert_eq!(failed, "recording: `case` is not cleaned up after 30 s");
        let failed = failure(&harness, async |_: &Broker| panic!("not this time")).await;
        assert_eq!(failed, "not this time");
    }

    #[test]
    #[should_panic(expected = "`blocks` blocks its thread")]
    fn a_case_that_blocks_its_thread_fails() {
        let (_release, blocked) = mpsc::channel::<()>();
        on_a_thread("blocks", Duration::from_millis(20), async move || {
            // Until the test is over.
            let _ = blocked.recv();
        });
    }

    #[test]
    fn failures_are_told_with_their_cases_and_reasons() {
        // No transport answers to the URL of this harness, so every case that connects fails.
        let failures = failures(Recording::default(), DEADLINE);
        let acking = failures.iter().find(|failure| {
            failure.case == "settling::acking::an_acked_message_does_not_come_again"
        });
        let reason = &acking.unwrap().reason;
        assert!(
            reason.starts_with("no connection to the broker of this case"),
            "{reason}"
        );
        assert!(failures.is_sorted_by(|one, next| one.case < next.case));
    }

    #[test]
    fn case_names_are_unique() {
        let mut names: Vec<&str> = all_cases().iter().map(Case::name).collect();
        names.sort_unstable();
        assert!(names.is_sorted_by(|one, next| one < next));
    }

    #[test]
    #[should_panic(expected = "there is no case `routing::nowhere`")]
    fn a_case_that_does_not_exist_is_an_error() {
        run(Recording::default(), "routing::nowhere");
    }
}
