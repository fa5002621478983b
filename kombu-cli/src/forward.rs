//! Messages that are taken from one place and published to another. Each is acknowledged when the broker at the other end has
//! confirmed it, so whatever ends this loses nothing: at most, what was under way is there twice.

use std::collections::VecDeque;
use std::time::Duration;

use indicatif::ProgressBar;
use kombu::{Consumer, Content, Delivery, ErrorKind, Name, Producer, Receipt};
use serde::Serialize;
use tokio::time::{Instant, sleep_until, timeout};

use crate::commands::publish::Pace;
use crate::failure::Result;
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

/// When it is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) count: u64,
    /// When nothing comes for so long.
    pub(crate) idle: Duration,
    pub(crate) rate: Option<f64>,
    /// Whether to try again what the other end doesn't take for the time being.
    pub(crate) persists: bool,
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
    pub(crate) moved: u64,
    /// They were looked at and stay.
    pub(crate) left: u64,
    /// What stays fills the room for all, so it ended before the rest was looked at.
    #[serde(skip)]
    pub(crate) crowded: bool,
    /// They may be at both ends, or twice at the other one, because a connection was lost.
    pub(crate) perhaps_twice: u64,
}

impl Totals {
    pub(crate) fn sentence(&self, done: &str) -> String {
        let mut sentence = format!("{} messages {done}", self.moved);
        if self.left > 0 {
            sentence.push_str(&format!(", {} left where they were", self.left));
        }
        if self.perhaps_twice > 0 {
            sentence.push_str(&format!(
                "; a connection was lost, so {} of them may be there twice",
                self.perhaps_twice
            ));
        }
        sentence
    }
}

/// The two ends.
pub(crate) struct Ends<'a> {
    pub(crate) consumer: &'a mut Consumer,
    pub(crate) producer: &'a Producer,
    /// Whether a message that reaches no queue counts as moved.
    pub(crate) allow_unroutable: bool,
}

struct UnderWay {
    delivery: Delivery,
    receipt: Receipt,
    bytes: usize,
}

/// Forwards until there is nothing more to do, the end is asked for, or something fails. Whatever it was, what is under way is
/// waited for.
pub(crate) async fn forward(
    ends: Ends<'_>,
    limits: Limits,
    stop: &Stop,
    bar: &ProgressBar,
    mut route: impl FnMut(&Delivery) -> Route,
) -> (Totals, Result<()>) {
    let mut totals = Totals::default();
    let mut under_way: VecDeque<UnderWay> = VecDeque::new();
    let mut left = Vec::new();
    let mut bytes = 0;
    let mut taken = 0;
    let mut pace = Pace::new(limits.rate);
    let mut fetched = Fetched::default();
    let mut pause = Pause::default();
    let mut result = Ok(());
    let mut is_over = false;
    loop {
        // What stays is among what was fetched ahead: nothing comes once it is all of that.
        totals.crowded = !left.is_empty() && left.len() >= fetched.ahead as usize;
        let room = under_way.len() + left.len() < WINDOW as usize && bytes < WINDOW_BYTES;
        let room = room && !totals.crowded;
        let takes = !is_over && taken < limits.count && room;
        let next = tokio::select! {
            biased;
            published = first(&mut under_way), if !under_way.is_empty() => {
                if let Some(done) = under_way.pop_front() {
                    bytes -= done.bytes;
                    let settled = settle(done.delivery, published, &mut totals).await;
                    bar.set_position(totals.moved);
                    if let Err(error) = settled {
                        if limits.persists && error.is_transient() {
                            taken -= 1;
                            pause.begin(&error);
                            continue;
                        }
                        is_over = true;
                        result = result.and(Err(error.into()));
                    }
                }
                continue;
            }
            () = stop.asked(), if takes => {
                is_over = true;
                continue;
            }
            next = next(ends.consumer, limits.idle, &pace, &pause), if takes => next,
            else => break,
        };
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
        taken += 1;
        pace.step();
        fetched.adapt(ends.consumer, delivery.body().len(), limits.count);
        let Route::To(content, key) = route(&delivery) else {
            totals.left += 1;
            left.push(delivery);
            continue;
        };
        let mut publish = ends.producer.forward(&content);
        if let Some(key) = key {
            publish = publish.routing_key(key);
        }
        publish = match ends.allow_unroutable {
            true => publish.allow_unroutable(),
            false => publish.mandatory(),
        };
        match publish.send().await {
            Ok(receipt) => {
                let size = content.body().len();
                bytes += size;
                under_way.push_back(UnderWay {
                    delivery,
                    receipt,
                    bytes: size,
                });
            }
            Err(error) => {
                give_back(delivery).await;
                if limits.persists && error.is_transient() {
                    taken -= 1;
                    pause.begin(&error);
                    continue;
                }
                is_over = true;
                result = result.and(Err(error.into()));
            }
        }
    }
    for delivery in left {
        give_back(delivery).await;
    }
    (totals, result)
}

async fn first(under_way: &mut VecDeque<UnderWay>) -> kombu::Result<kombu::Published> {
    match under_way.front_mut() {
        Some(first) => (&mut first.receipt).await,
        None => std::future::pending().await,
    }
}

/// The next message, or none when nothing came for too long. Cancel safe: the pace is kept, and nothing was taken.
async fn next(
    consumer: &mut Consumer,
    idle: Duration,
    pace: &Pace,
    pause: &Pause,
) -> Result<Option<Delivery>> {
    pause.wait().await;
    pace.wait().await;
    match timeout(idle, consumer.try_next()).await {
        Ok(next) => Ok(next?),
        Err(_) => Ok(None),
    }
}

/// How many are fetched ahead: few of large ones.
#[derive(Default)]
struct Fetched {
    largest: usize,
    ahead: u32,
}

impl Fetched {
    fn adapt(&mut self, consumer: &mut Consumer, bytes: usize, wanted: u64) {
        self.largest = self.largest.max(bytes).max(1);
        let fit = u32::try_from(WINDOW_BYTES / self.largest).unwrap_or(WINDOW);
        let ahead = fit.min(window(wanted)).max(1);
        if ahead != self.ahead {
            self.ahead = ahead;
            consumer.set_prefetch(ahead);
        }
    }
}

/// How many are fetched ahead at most, where so many are wanted.
pub(crate) fn window(wanted: u64) -> u32 {
    u32::try_from(wanted).map_or(WINDOW, |wanted| wanted.clamp(1, WINDOW))
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

/// It goes from here when it is there.
async fn settle(
    delivery: Delivery,
    published: kombu::Result<kombu::Published>,
    totals: &mut Totals,
) -> kombu::Result<()> {
    let published = match published {
        Ok(published) => published,
        Err(error) => {
            if error.may_have_been_stored() {
                totals.perhaps_twice += 1;
            }
            give_back(delivery).await;
            return Err(error);
        }
    };
    totals.moved += 1;
    let mut twice = published.resent;
    match delivery.ack().await {
        Ok(()) => {}
        // Somebody else gets it, or we do.
        Err(error) if error.kind() == ErrorKind::SettleLost => twice = true,
        Err(error) => return Err(error),
    }
    totals.perhaps_twice += u64::from(twice);
    Ok(())
}

/// What can't be given back has gone back already, with its session.
pub(crate) async fn give_back(delivery: Delivery) {
    let _ = delivery.release().await;
}
