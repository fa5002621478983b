use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use futures_util::task::AtomicWaker;

/// How many more messages a consumer may be given, over all of its queues: its window, less what is unsettled.
///
/// A [reader](super::Reader) is opened with one. RabbitMQ sends to a consumer as long as it has room, whether the consumer
/// is waiting or busy elsewhere, and such a message takes no place in its queue. A store whose broker can't send may
/// look here wherever that makes a difference; the room changes by itself as deliveries are settled.
#[derive(Clone, Debug)]
pub struct Room(Arc<Window>);

impl Room {
    pub(super) fn of(window: Arc<Window>) -> Self {
        Room(window)
    }

    /// How many unsettled messages there may be in all; `usize::MAX` without a limit, and 0 while the consumer is paused.
    pub fn limit(&self) -> usize {
        self.0.limit()
    }

    /// Which window it is: readers with the same number share what is left, and as long as one of them is there, no other
    /// consumer has it.
    pub fn number(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// How many more there may be now; `usize::MAX` without a limit.
    pub fn left(&self) -> usize {
        self.0.room()
    }
}

/// Room without a limit.
impl Default for Room {
    fn default() -> Self {
        Room(Arc::new(Window::new(0)))
    }
}

/// How many deliveries a subscription may have unsettled, over all of its queues.
#[derive(Debug)]
pub(super) struct Window {
    limit: AtomicU32,
    /// Taken and not settled, whether handed out or still buffered.
    outstanding: AtomicU32,
    ended: AtomicBool,
    paused: AtomicBool,
    task: AtomicWaker,
}

impl Window {
    pub(super) fn new(limit: u32) -> Self {
        Window {
            limit: AtomicU32::new(limit),
            outstanding: AtomicU32::new(0),
            ended: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            task: AtomicWaker::new(),
        }
    }

    fn limit(&self) -> usize {
        if self.paused.load(Ordering::Relaxed) {
            return 0;
        }
        match self.limit.load(Ordering::Relaxed) {
            0 => usize::MAX,
            limit => limit as usize,
        }
    }

    /// How many more may be taken now.
    pub(super) fn room(&self) -> usize {
        match self.limit() {
            usize::MAX => usize::MAX,
            // Acquire pairs with `give_back`: whoever sees the room sees the settled message gone.
            limit => limit.saturating_sub(self.outstanding.load(Ordering::Acquire) as usize),
        }
    }

    pub(super) fn take(&self, count: u32) {
        self.outstanding.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn give_back(&self) {
        let before = self.outstanding.fetch_sub(1, Ordering::Release);
        let limit = self.limit.load(Ordering::Relaxed);
        if limit != 0 && before >= limit {
            self.task.wake();
        }
    }

    pub(super) fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
        self.task.wake();
    }

    /// While it is paused, there is no room.
    pub(super) fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
        self.task.wake();
    }

    /// The session is over: wakes the subscription so that it ends.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.task.wake();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Registers the task for [`give_back`](Self::give_back), [`set_limit`](Self::set_limit) and
    /// [`end`](Self::end). Look at the state again afterwards.
    pub(super) fn register(&self, context: &std::task::Context<'_>) {
        self.task.register(context.waker());
    }
}
