//! Messages that are taken from one place and published to another. Each is acknowledged when the broker at the other end has
//! confirmed it, so whatever ends this loses nothing: at most, what was under way is there twice. It counts as moved when it is
//! known to be gone from where it was. What the other end doesn't take
//! for the time being is kept and published again: giving it back would count as a delivery on some queues, and use it up. It goes
//! back once when the other end is away for so long that what is held would be retried.

use std::collections::VecDeque;
use std::time::Duration;

use indicatif::ProgressBar;
use kombu::{Connection, Consumer, Content, Delivery, ErrorKind, Name, Producer, Receipt};
use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::acks::Acks;
use crate::commands::publish::Pace;
use crate::failure::Result;
use crate::idle::Idle;
use crate::output;
use crate::stop::Stop;

/// Messages under way, and so at most those that are there twice after a crash.
pub(crate) const WINDOW: u32 = 1_000;
/// What their bodies may come to: few large ones fill the memory, too.
const WINDOW_BYTES: usize = 32 * 1024 * 1024;
/// How many are fetched before it is known how large they are.
pub(crate) const FIRST_FETCHED: u32 = 8;
/// How long what fails for the time being is left alone.
const PAUSE: Duration = Duration::from_secs(1);
/// How long what was fetched waits for its turn where a rate is asked for. RabbitMQ takes it back after 30 min, and closes the channel.
const LONGEST_TURN: Duration = Duration::from_secs(5 * 60);
/// How long something is held. On RabbitMQ it is retried after 25 min, which counts and puts it behind the others.
const MOST_HELD: Duration = Duration::from_secs(20 * 60);

/// When it is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) count: u64,
    /// When nothing comes for so long from a broker that is there.
    pub(crate) idle: Duration,
    pub(crate) rate: Option<f64>,
    /// Whether to try again what the other end doesn't take for the time being.
    pub(crate) persists: bool,
    /// Whether what reaches no queue is left where it is, and doesn't end it.
    pub(crate) leaves_unroutable: bool,
}

impl Limits {
    /// How many are fetched before it is known how large they are.
    pub(crate) fn first_fetched(&self) -> u32 {
        self.window(0).min(FIRST_FETCHED)
    }

    /// How many are fetched ahead at most, where so many stay.
    fn window(&self, stay: usize) -> u32 {
        let wanted = usize::try_from(self.count).unwrap_or(usize::MAX);
        let in_time = match self.rate {
            Some(rate) => (rate * LONGEST_TURN.as_secs_f64()) as usize,
            None => usize::MAX,
        };
        let most = in_time.max(1).saturating_add(stay).min(wanted);
        u32::try_from(most).map_or(WINDOW, |most| most.clamp(1, WINDOW))
    }
}

/// What becomes of a message.
pub(crate) enum Route {
    /// It is published so, with this key in place of its own.
    To(Box<Content>, Option<Name>),
    /// It stays where it is.
    Stay,
}

/// What became of all.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Totals {
    /// They are known to be gone from where they were.
    pub(crate) moved: u64,
    /// They stay: they were looked at, or not got to before it ended.
    pub(crate) left: u64,
    /// Of those, how many would have reached no queue.
    #[serde(skip)]
    pub(crate) unroutable: u64,
    /// What stays fills the room for all, so it ended before the rest was looked at.
    #[serde(skip)]
    pub(crate) crowded: bool,
    /// They may be at the other end twice, or come again from this one, where they weren't counted as moved: a connection was lost.
    pub(crate) perhaps_twice: u64,
}

impl Totals {
    /// It ended before all of so many were looked at.
    pub(crate) fn stay(&mut self, count: u64) {
        self.left = count.saturating_sub(self.moved);
    }

    pub(crate) fn sentence(&self, done: &str) -> String {
        let mut sentence = format!("{} {done}", output::counted(self.moved, "message"));
        if self.left > 0 {
            sentence.push_str(&format!(", {} left where they were", self.left));
        }
        if self.perhaps_twice > 0 {
            sentence.push_str(&format!(
                "; a connection was lost, so {} may come again, or be there twice",
                self.perhaps_twice
            ));
        }
        sentence
    }
}

/// The two ends.
pub(crate) struct Ends<'a> {
    pub(crate) from: &'a Connection,
    pub(crate) to: &'a Connection,
    pub(crate) consumer: Consumer,
    pub(crate) producer: &'a Producer,
    /// Whether a message that reaches no queue counts as moved.
    pub(crate) allow_unroutable: bool,
}

/// A message that was taken and isn't settled.
struct Taken {
    delivery: Delivery,
    since: Instant,
    /// An earlier try may have brought it there.
    may_be_there: bool,
}

struct UnderWay {
    taken: Taken,
    receipt: Receipt,
}

/// A message that was looked at, and goes back at the end.
struct Left {
    taken: Taken,
    is_unroutable: bool,
}

/// Forwards until there is nothing more to do, the end is asked for, or something fails. Whatever it was, what is under way is
/// waited for; then the consumer ends, and what stays is given back, once.
pub(crate) async fn forward(
    mut ends: Ends<'_>,
    limits: Limits,
    stop: &Stop,
    bar: &ProgressBar,
    mut route: impl FnMut(&Delivery) -> Route,
) -> (Totals, Result<()>) {
    let mut totals = Totals::default();
    let mut under_way: VecDeque<UnderWay> = VecDeque::new();
    let source = ends.consumer.queues().first().cloned();
    let mut acks = Acks::new(ends.from, source.unwrap_or_default());
    let mut again: VecDeque<Taken> = VecDeque::new();
    let mut left: VecDeque<Left> = VecDeque::new();
    let mut failed = Vec::new();
    let mut bytes = 0;
    let mut count = 0;
    let mut pace = Pace::new(limits.rate);
    let mut fetched = Fetched::default();
    let mut pause = Pause::default();
    let mut idle = Idle::of(limits.idle);
    let mut result = Ok(());
    let mut is_over = false;
    loop {
        while goes_back(left.front()).await
            && let Some(stayed) = left.pop_front()
        {
            // It comes again, and is looked at once more.
            count -= 1;
            totals.left -= 1;
            totals.unroutable -= u64::from(stayed.is_unroutable);
            give_back(stayed.taken.delivery).await;
        }
        // An end that is there and refuses is tried with what was taken: giving that back over and over would use it up.
        if again.front().is_some_and(Taken::is_old) && !ends.to.health().connected {
            if !ends.consumer.is_paused() {
                output::note("what waits is given back until the other end is there again");
                ends.consumer.pause();
            }
            for taken in again.drain(..) {
                count -= 1;
                bytes -= taken.delivery.body().len();
                totals.perhaps_twice += u64::from(taken.may_be_there);
                give_back(taken.delivery).await;
            }
        }
        fetched.adapt(&mut ends.consumer, &limits, left.len());
        // What stays is among what was fetched ahead: nothing comes once it is all of that.
        totals.crowded = !left.is_empty() && left.len() >= fetched.ahead as usize;
        let room = under_way.len() + left.len() < WINDOW as usize && bytes < WINDOW_BYTES;
        let room = room && !totals.crowded && acks.has_room();
        let repeats = !again.is_empty() && result.is_ok() && !stop.is_asked();
        let takes = !is_over && again.is_empty() && count < limits.count && room;
        let (mut taken, published) = tokio::select! {
            biased;
            published = first(&mut under_way), if !under_way.is_empty() => {
                let Some(done) = under_way.pop_front() else {
                    continue;
                };
                (done.taken, Some(published))
            }
            checked = acks.next(), if !acks.is_empty() => {
                totals.moved += checked.done;
                totals.perhaps_twice += checked.twice + checked.in_doubt;
                // They come again, to us or to somebody else.
                count -= checked.in_doubt;
                bar.set_position(totals.moved);
                if let Some(error) = checked.error
                    && !(limits.persists && error.is_transient())
                {
                    is_over = true;
                    result = result.and(Err(error.into()));
                }
                continue;
            }
            () = stop.asked(), if takes || repeats => {
                is_over = true;
                continue;
            }
            () = may_go_on(&pace, &pause), if repeats => {
                let Some(taken) = again.pop_front() else {
                    continue;
                };
                if taken.is_lost().await {
                    // It comes again by itself.
                    count -= 1;
                    bytes -= taken.delivery.body().len();
                    totals.perhaps_twice += u64::from(taken.may_be_there);
                    continue;
                }
                (taken, None)
            }
            next = next(&mut ends, &mut idle, &pace, &pause), if takes => {
                let delivery = match next {
                    Ok(Some(delivery)) => delivery,
                    Ok(None) => {
                        is_over = true;
                        continue;
                    }
                    Err(failure) => {
                        is_over = true;
                        result = result.and(Err(failure));
                        continue;
                    }
                };
                count += 1;
                bytes += delivery.body().len();
                fetched.see(delivery.body().len());
                let since = Instant::now();
                (Taken { delivery, since, may_be_there: false }, None)
            }
            else => break,
        };
        let size = taken.delivery.body().len();
        let published = match published {
            Some(published) => published,
            None => {
                pace.step();
                match route(&taken.delivery) {
                    Route::Stay => {
                        totals.left += 1;
                        bytes -= size;
                        left.push_back(Left {
                            taken,
                            is_unroutable: false,
                        });
                        continue;
                    }
                    Route::To(content, key) => match send(&ends, &content, key).await {
                        Ok(receipt) => {
                            under_way.push_back(UnderWay { taken, receipt });
                            continue;
                        }
                        Err(error) => Err(error),
                    },
                }
            }
        };
        let error = match published {
            Ok(published) => {
                bytes -= size;
                acks.send(taken.delivery, published.resent || taken.may_be_there);
                continue;
            }
            Err(error) => error,
        };
        taken.may_be_there |= error.may_have_been_stored();
        if limits.persists && error.is_transient() {
            pause.begin(&error);
            again.push_back(taken);
            continue;
        }
        bytes -= size;
        totals.perhaps_twice += u64::from(taken.may_be_there);
        if limits.leaves_unroutable && error.kind() == ErrorKind::Unroutable {
            totals.left += 1;
            totals.unroutable += 1;
            left.push_back(Left {
                taken,
                is_unroutable: true,
            });
            continue;
        }
        is_over = true;
        result = result.and(Err(error.into()));
        failed.push(taken.delivery);
    }
    // Before something is given back, or this consumer would get it again.
    let cancelled = ends.consumer.cancel().await;
    for stayed in left {
        give_back(stayed.taken.delivery).await;
    }
    for taken in again {
        totals.perhaps_twice += u64::from(taken.may_be_there);
        give_back(taken.delivery).await;
    }
    for delivery in failed {
        give_back(delivery).await;
    }
    (totals, result.and(cancelled.map_err(Into::into)))
}

impl Taken {
    fn is_old(&self) -> bool {
        self.since.elapsed() >= MOST_HELD
    }

    /// Whether somebody else gets it, because its session has ended or it was held for too long.
    async fn is_lost(&self) -> bool {
        timeout(Duration::ZERO, self.delivery.lost()).await.is_ok()
    }
}

/// Whether the first one that stays is lost, or can't be held any longer.
async fn goes_back(first: Option<&Left>) -> bool {
    match first {
        Some(Left { taken, .. }) => taken.is_old() || taken.is_lost().await,
        None => false,
    }
}

async fn send(ends: &Ends<'_>, content: &Content, key: Option<Name>) -> kombu::Result<Receipt> {
    let mut publish = ends.producer.forward(content);
    if let Some(key) = key {
        publish = publish.routing_key(key);
    }
    publish = match ends.allow_unroutable {
        true => publish.allow_unroutable(),
        false => publish.mandatory(),
    };
    publish.send().await
}

async fn first(under_way: &mut VecDeque<UnderWay>) -> kombu::Result<kombu::Published> {
    match under_way.front_mut() {
        Some(first) => (&mut first.receipt).await,
        None => std::future::pending().await,
    }
}

/// Waits until the next message may be published. Cancel safe.
async fn may_go_on(pace: &Pace, pause: &Pause) {
    pause.wait().await;
    pace.wait().await;
}

/// The next message, or none when nothing came for too long. Cancel safe: the pace is kept, and nothing was taken.
async fn next(
    ends: &mut Ends<'_>,
    idle: &mut Idle,
    pace: &Pace,
    pause: &Pause,
) -> Result<Option<Delivery>> {
    while ends.consumer.is_paused() {
        match ends.to.health().connected {
            true => ends.consumer.resume(),
            false => sleep(PAUSE).await,
        }
    }
    may_go_on(pace, pause).await;
    idle.next(ends.from, &mut ends.consumer).await
}

/// How many are fetched ahead: few of large ones.
#[derive(Default)]
struct Fetched {
    largest: usize,
    ahead: u32,
}

impl Fetched {
    fn see(&mut self, bytes: usize) {
        self.largest = self.largest.max(bytes).max(1);
    }

    /// Beside those that stay.
    fn adapt(&mut self, consumer: &mut Consumer, limits: &Limits, stay: usize) {
        if self.largest == 0 {
            return;
        }
        let ahead = fitting(self.largest).min(limits.window(stay));
        if ahead != self.ahead {
            self.ahead = ahead;
            consumer.set_prefetch(ahead);
        }
    }
}

/// How many of this size are fetched ahead.
pub(crate) fn fitting(bytes: usize) -> u32 {
    let fit = u32::try_from(WINDOW_BYTES / bytes.max(1)).unwrap_or(WINDOW);
    fit.clamp(1, WINDOW)
}

/// Until when the other end is left alone.
#[derive(Default)]
struct Pause(Option<Instant>);

impl Pause {
    /// Begins, and says why; what fails meanwhile fails for the same reason.
    fn begin(&mut self, error: &kombu::Error) {
        let now = Instant::now();
        if self.0.is_none_or(|end| end < now) {
            output::note(&format!("{error}; it is tried again"));
        }
        self.0 = Some(now + PAUSE);
    }

    async fn wait(&self) {
        if let Some(end) = self.0 {
            sleep_until(end).await;
        }
    }
}

/// What can't be given back has gone back already, with its session.
pub(crate) async fn give_back(delivery: Delivery) {
    let _ = delivery.release().await;
}

#[cfg(all(test, feature = "memory"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use kombu::{Exchange, Faults, Queue};

    use super::*;

    /// As `move` does it.
    const LIMITS: Limits = Limits {
        count: u64::MAX,
        idle: Duration::from_secs(5),
        rate: None,
        persists: false,
        leaves_unroutable: false,
    };

    /// A queue `from`, and a queue `to` on another broker.
    struct Places {
        from: Connection,
        to: Connection,
        from_faults: Faults,
        to_faults: Faults,
    }

    impl Places {
        async fn open(name: &str, messages: u64) -> Self {
            let (from_faults, to_faults) = (Faults::default(), Faults::default());
            let connect = async |url: String, faults: &Faults| {
                let builder = Connection::builder(kombu::registry()).url(url);
                builder.layer(faults.clone()).await.unwrap()
            };
            let from = connect(format!("memory://from-{name}"), &from_faults).await;
            let to = connect(format!("memory://to-{name}"), &to_faults).await;
            from.declare_queue(&Queue::new("from")).await.unwrap();
            to.declare_queue(&Queue::new("to")).await.unwrap();
            let producer = from.producer(Exchange::default()).await.unwrap();
            for number in 0..messages {
                producer.publish(&number).routing_key("from").await.unwrap();
            }
            Places {
                from,
                to,
                from_faults,
                to_faults,
            }
        }

        async fn forward(
            &self,
            limits: Limits,
            mut look: impl FnMut(&Delivery) -> Option<Route>,
        ) -> Totals {
            let producer = self.to.producer(Exchange::default()).await.unwrap();
            let queue = Queue::new("from");
            // As on RabbitMQ.
            let limit = Duration::from_secs(25 * 60);
            let consumer = self.from.consumer(&queue).max_processing_time(limit);
            let ends = Ends {
                from: &self.from,
                to: &self.to,
                consumer: consumer.prefetch(limits.first_fetched()).await.unwrap(),
                producer: &producer,
                allow_unroutable: false,
            };
            let bar = ProgressBar::hidden();
            let route = |delivery: &Delivery| {
                let content = Box::new((**delivery).clone());
                look(delivery).unwrap_or(Route::To(content, Some(Name::from("to"))))
            };
            let (totals, result) = forward(ends, limits, &Stop::listen(), &bar, route).await;
            result.unwrap();
            totals
        }

        async fn left(&self) -> u64 {
            self.from.queue_info("from").await.unwrap().ready
        }
    }

    async fn there(places: &Places) -> u64 {
        places.to.queue_info("to").await.unwrap().ready
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_of_the_source_does_not_end_a_move() {
        let places = Places::open("outage", 20).await;
        let limits = Limits {
            count: 20,
            rate: Some(1.0),
            ..LIMITS
        };
        let outage = async {
            sleep(Duration::from_millis(5_500)).await;
            places.from_faults.outage(true);
            sleep(Duration::from_secs(60)).await;
            places.from_faults.outage(false);
        };
        let (totals, ()) = tokio::join!(places.forward(limits, |_| None), outage);
        assert_eq!((totals.moved, places.left().await), (20, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_is_silent_does_not_end_a_move() {
        let places = Places::open("silence", 1).await;
        let limits = Limits { count: 2, ..LIMITS };
        let silence = async {
            sleep(Duration::from_secs(1)).await;
            places.from_faults.silence(true);
            let other = kombu::connect("memory://from-silence").await.unwrap();
            let producer = other.producer(Exchange::default()).await.unwrap();
            producer.publish(&1).routing_key("from").await.unwrap();
            sleep(Duration::from_secs(9)).await;
            places.from_faults.silence(false);
        };
        let (totals, ()) = tokio::join!(places.forward(limits, |_| None), silence);
        assert_eq!((totals.moved, places.left().await), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_again_because_its_session_ended_is_moved_too() {
        let places = Places::open("cut", 3).await;
        places.to_faults.delay_publishes(Duration::from_secs(2));
        let limits = Limits { count: 3, ..LIMITS };
        let cut = async {
            sleep(Duration::from_secs(1)).await;
            places.from_faults.cut();
        };
        let (totals, ()) = tokio::join!(places.forward(limits, |_| None), cut);
        assert_eq!((totals.moved, totals.perhaps_twice), (3, 1));
        assert_eq!(places.left().await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_ack_that_a_lost_session_had_under_way_does_not_count_as_moved() {
        let places = Places::open("under-way", 3).await;
        places.to_faults.delay_publishes(Duration::from_secs(2));
        let limits = Limits { count: 3, ..LIMITS };
        let lost = async {
            sleep(Duration::from_secs(1)).await;
            places.from_faults.silence(true);
            sleep(Duration::from_secs(8)).await;
            assert_eq!(there(&places).await, 1);
            places.from_faults.cut();
            places.from_faults.silence(false);
        };
        let (totals, ()) = tokio::join!(places.forward(limits, |_| None), lost);
        assert_eq!((totals.moved, totals.perhaps_twice), (3, 1));
        assert_eq!((places.left().await, there(&places).await), (0, 4));
    }

    /// As on RabbitMQ, which answers no acks: one that was sent is as good as lost until something else is answered.
    #[tokio::test(start_paused = true)]
    async fn an_ack_counts_when_its_session_answers_what_was_asked_after_it() {
        let places = Places::open("unanswered", 3).await;
        let limits = Limits {
            count: 3,
            rate: Some(1.0),
            ..LIMITS
        };
        let lost = async {
            sleep(Duration::from_millis(500)).await;
            places.from_faults.withhold_replies(true);
            sleep(Duration::from_secs(1)).await;
            places.from_faults.cut();
            places.from_faults.withhold_replies(false);
        };
        let (totals, ()) = tokio::join!(places.forward(limits, |_| None), lost);
        assert_eq!((totals.moved, totals.perhaps_twice), (2, 1));
        assert_eq!((places.left().await, there(&places).await), (0, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_the_other_end_is_never_retried() {
        let places = Places::open("away", 20).await;
        let limits = Limits {
            count: 20,
            rate: Some(1.0),
            persists: true,
            ..LIMITS
        };
        let outage = async {
            sleep(Duration::from_millis(5_500)).await;
            places.to_faults.outage(true);
            sleep(Duration::from_secs(75 * 60)).await;
            places.to_faults.outage(false);
        };
        let mut attempts = 0;
        let look = |delivery: &Delivery| {
            attempts = attempts.max(delivery.attempt());
            None
        };
        let (totals, ()) = tokio::join!(places.forward(limits, look), outage);
        assert_eq!((totals.moved, attempts), (20, 1));
        assert_eq!(places.left().await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_stays_for_long_is_never_retried() {
        let places = Places::open("stays", 5).await;
        let limits = Limits {
            count: 5,
            rate: Some(1.0 / 600.0),
            ..LIMITS
        };
        let mut attempts = 0;
        let look = |delivery: &Delivery| {
            attempts = attempts.max(delivery.attempt());
            (delivery.body()[..] == b"0"[..]).then_some(Route::Stay)
        };
        let totals = places.forward(limits, look).await;
        assert_eq!((totals.moved, totals.left, attempts), (4, 1, 1));
        let first = places.from.get("from").await.unwrap().unwrap();
        assert_eq!((first.attempt(), &first.body()[..]), (1, &b"0"[..]));
        first.ack().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_fetched_ahead_than_goes_on_in_five_minutes() {
        let places = Places::open("rate", 20).await;
        let limits = Limits {
            count: 20,
            rate: Some(0.01),
            ..LIMITS
        };
        let looks = async {
            sleep(Duration::from_secs(50)).await;
            // One is gone, and two were fetched with it.
            assert_eq!(places.left().await, 17);
        };
        let (totals, ()) = tokio::join!(places.forward(limits, |_| None), looks);
        assert_eq!((totals.moved, places.left().await), (20, 0));
    }

    #[test]
    fn something_is_fetched_ahead_however_low_the_rate_is() {
        for (rate, count, stay, ahead) in [
            (None, u64::MAX, 0, 1_000),
            (None, 7, 0, 7),
            (Some(0.001), u64::MAX, 0, 1),
            (Some(0.001), u64::MAX, 4, 5),
            (Some(2.0), u64::MAX, 0, 600),
            (Some(2.0), 7, 0, 7),
            (Some(1e300), u64::MAX, 0, 1_000),
        ] {
            let limits = Limits {
                count,
                rate,
                ..LIMITS
            };
            assert_eq!(limits.window(stay), ahead, "{rate:?} {count} {stay}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_queue_ends_a_move() {
        let places = Places::open("empty", 3).await;
        let began = Instant::now();
        let totals = places.forward(LIMITS, |_| None).await;
        assert_eq!((totals.moved, places.left().await), (3, 0));
        assert!(began.elapsed() < 2 * LIMITS.idle);
    }
}
