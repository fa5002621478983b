use crate::declare::Queue;

/// One queue or several, for [`Connection::consumer`](super::Connection::consumer).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a queue, nor a list of queues",
    label = "expected `&Queue`, `[&Queue; N]`, `&[Queue]` or `Vec<Queue>`",
    note = "make a declaration with `Queue::new(\"name\")` and pass `&queue`"
)]
pub trait Queues {
    /// The queues, in the order in which deliveries are to be looked for.
    fn into_queues(self) -> Vec<Queue>;
}

impl Queues for &Queue {
    fn into_queues(self) -> Vec<Queue> {
        vec![self.clone()]
    }
}

impl Queues for Vec<Queue> {
    fn into_queues(self) -> Vec<Queue> {
        self
    }
}

impl Queues for &Vec<Queue> {
    fn into_queues(self) -> Vec<Queue> {
        self.clone()
    }
}

impl Queues for &[Queue] {
    fn into_queues(self) -> Vec<Queue> {
        self.to_vec()
    }
}

impl<const N: usize> Queues for [Queue; N] {
    fn into_queues(self) -> Vec<Queue> {
        self.into()
    }
}

impl<const N: usize> Queues for &[Queue; N] {
    fn into_queues(self) -> Vec<Queue> {
        self.to_vec()
    }
}

impl<const N: usize> Queues for [&Queue; N] {
    fn into_queues(self) -> Vec<Queue> {
        self.into_iter().cloned().collect()
    }
}

impl Queues for Vec<&Queue> {
    fn into_queues(self) -> Vec<Queue> {
        self.into_iter().cloned().collect()
    }
}
