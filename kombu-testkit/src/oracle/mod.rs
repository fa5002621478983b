//! The same sequence of operations on two brokers, and what a user sees of each: where it differs, one of them is wrong.
//!
//! A sequence is made from a number, its seed: exchanges of all kinds, queues with limits, times to live, priorities and
//! dead-letter exchanges, bindings between them, and then publishes, gets, settles, purges, deletions and declarations in
//! any order. After each step the answers are compared, and the counts of all queues. The model is a broker in
//! the process, which shows at once what was done; the other one has some time to show the same.
//!
//! ```
//! # struct MemoryHarness;
//! # impl kombu_testkit::Harness for MemoryHarness {
//! #     fn name(&self) -> &str { "memory" }
//! #     fn registry(&self) -> kombu::Registry { kombu::registry() }
//! #     async fn broker(&self) -> kombu_testkit::Broker {
//! #         kombu_testkit::Broker::new(self.registry(), format!("memory://oracle-{}", fastrand::u64(..)))
//! #     }
//! # }
//! use kombu_testkit::oracle::Oracle;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let oracle = Oracle::new(&MemoryHarness, &MemoryHarness).await;
//! oracle.assert_alike(0..5).await;
//! # }
//! ```

mod freedoms;
mod observe;
mod sequence;
mod shrink;

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use observe::{Observed, User};
use sequence::Names;
pub use sequence::{Link, Operation, Publish, Sequence, Step};

use crate::{Broker, Harness};

/// How long the other broker may take to show the counts of the model. It needs a small part of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same where a difference was seen before: while it is shrunk, most sequences have one.
const LESS_PATIENCE: Duration = Duration::from_millis(300);

/// Two brokers, and what compares them.
pub struct Oracle {
    names: [String; 2],
    model: Broker,
    other: Broker,
}

/// A sequence that two brokers answer differently.
#[derive(Clone, Debug)]
pub struct Difference {
    /// What makes the sequence.
    pub seed: u64,
    /// What is left of it: without any of these steps, they answer alike. All of it where they differ only now and then.
    pub sequence: Sequence,
    /// The last step, as a user of each sees it, with the name of its transport.
    pub observed: [(String, String); 2],
}

impl Oracle {
    /// Compares with a `model`, whose broker shows at once what was done.
    ///
    /// # Panics
    ///
    /// If either broker can't be reached.
    pub async fn new(model: &impl Harness, other: &impl Harness) -> Self {
        Oracle {
            names: [model.name().to_owned(), other.name().to_owned()],
            model: model.broker().await,
            other: other.broker().await,
        }
    }

    /// Fails if the brokers answer the sequence of one of these seeds differently.
    ///
    /// # Panics
    ///
    /// If they do, with the [`Difference`].
    pub async fn assert_alike(&self, seeds: Range<u64>) {
        for seed in seeds {
            if let Some(difference) = self.difference(seed).await {
                panic!("{difference}");
            }
        }
    }

    /// What the brokers answer differently in the sequence of this seed.
    pub async fn difference(&self, seed: u64) -> Option<Difference> {
        let names = Names::of(seed);
        let mut sequence = Sequence::generate(seed);
        freedoms::leave_out_for(&self.other, &mut sequence);
        let (step, model, other) = self.compare(&sequence, &names, PATIENCE).await?;
        sequence.0.truncate(step + 1);
        let whole = self.tell(seed, sequence, &model, &other);
        // It takes minutes until the rest is known, and a broker may fail meanwhile.
        eprintln!("before it is shrunk: {whole}");
        let sequence = shrink::shrink(whole.sequence.clone(), async |sequence| {
            self.compare(sequence, &names, LESS_PATIENCE)
                .await
                .is_some()
        });
        let mut sequence = sequence.await;
        // What differs only now and then differs all the same.
        let Some((step, model, other)) = self.compare(&sequence, &names, PATIENCE).await else {
            return Some(whole);
        };
        sequence.0.truncate(step + 1);
        Some(self.tell(seed, sequence, &model, &other))
    }

    fn tell(
        &self,
        seed: u64,
        sequence: Sequence,
        model: &Observed,
        other: &Observed,
    ) -> Difference {
        let [model_name, other_name] = self.names.clone();
        Difference {
            seed,
            sequence,
            observed: [(model_name, text(model)), (other_name, text(other))],
        }
    }

    /// The first step that differs, and what each shows of it.
    async fn compare(
        &self,
        sequence: &Sequence,
        names: &Names,
        patience: Duration,
    ) -> Option<(usize, Observed, Observed)> {
        let mut model = User::new(&self.model).await.observe(sequence, names).await;
        model.truncate(self.decided(sequence, names, &model).await);
        model.truncate(freedoms::keeps_order_until(&self.other, &model));
        let user = User::new(&self.other).await;
        let other = user.follow(sequence, names, &model, patience).await;
        let pairs = model.into_iter().zip(other);
        let mut pairs = pairs.enumerate();
        let (step, (model, other)) = pairs.find(|(_, (model, other))| model != other)?;
        Some((step, model, other))
    }

    /// How many steps of the model don't depend on the order in which queues get a message.
    async fn decided(&self, sequence: &Sequence, names: &Names, model: &[Observed]) -> usize {
        let sequence = freedoms::mirrored(sequence).unwrap();
        let mirror = User::new(&self.model).await.observe(&sequence, names).await;
        let mut pairs = model.iter().zip(&mirror);
        let undecided = pairs.position(|(one, mirror)| *one != freedoms::mirrored(mirror).unwrap());
        undecided.unwrap_or(model.len())
    }
}

fn text(observed: &Observed) -> String {
    format!("{} and then {:?}", observed.answer, observed.counts)
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the sequence of seed {} differs in its last step:\n{}",
            self.seed, self.sequence
        )?;
        for (name, observed) in &self.observed {
            writeln!(f, "{name}: {observed}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Oracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Oracle")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}
