use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt;

use crate::{Broker, Harness, cases};

/// How long a case may take; a correct transport needs a small part of it.
pub const DEADLINE: Duration = Duration::from_secs(30);

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
pub fn run(harness: impl Harness, name: &str) {
    let Some(case) = all_cases().iter().find(|case| case.name == name) else {
        panic!("there is no case `{name}`");
    };
    block_on(judge(&harness, name, case.behaviour));
}

/// Checks that the brokers of a harness are apart from each other: every case relies on it.
///
/// # Panics
///
/// If a queue of one broker is there on another one.
pub fn run_isolation(harness: impl Harness) {
    block_on(async {
        let other = harness.broker().await;
        judge(&harness, "isolation", async |one: &Broker| {
            cases::share_nothing(one, &other).await;
        })
        .await;
        harness.clean_up(other).await;
    });
}

fn block_on(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(future),
        Err(problem) => panic!("no runtime for the case: {problem}"),
    }
}

/// Runs a behaviour within the deadline, and cleans up whether it passed or not.
async fn judge(harness: &impl Harness, name: &str, behaviour: impl AsyncFnOnce(&Broker)) {
    let broker = harness.broker().await;
    let within_deadline = tokio::time::timeout(DEADLINE, behaviour(&broker));
    let outcome = AssertUnwindSafe(within_deadline).catch_unwind().await;
    harness.clean_up(broker).await;
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(_)) => panic!(
            "{}: `{name}` is not over after {} s",
            harness.name(),
            DEADLINE.as_secs()
        ),
        Err(panic) => resume_unwind(panic),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use kombu_core::Registry;

    use super::*;

    #[derive(Default)]
    struct Recording {
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
            Broker::new(self.registry(), "recording://one")
        }

        async fn clean_up(&self, broker: Broker) {
            self.cleaned_up
                .lock()
                .unwrap()
                .push(broker.url().to_owned());
        }
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
        let judged = judge(&harness, "hangs", async |_: &Broker| {
            std::future::pending::<()>().await;
        });
        let panic = AssertUnwindSafe(judged).catch_unwind().await.unwrap_err();
        assert_eq!(text(panic), "recording: `hangs` is not over after 30 s");
        assert_eq!(begin.elapsed().as_secs(), 30);
        assert_eq!(*harness.cleaned_up.lock().unwrap(), ["recording://one"]);
    }

    #[tokio::test]
    async fn a_case_that_fails_is_cleaned_up_and_fails_with_its_own_message() {
        let harness = Recording::default();
        let judged = judge(&harness, "fails", async |_: &Broker| {
            panic!("not this time")
        });
        let panic = AssertUnwindSafe(judged).catch_unwind().await.unwrap_err();
        assert_eq!(text(panic), "not this time");
        assert_eq!(*harness.cleaned_up.lock().unwrap(), ["recording://one"]);
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
