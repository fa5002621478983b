use std::task::Waker;

/// Readers by number, each once.
#[derive(Default)]
pub(super) struct Waiting(Vec<(u64, Waker)>);

/// Readers that have something to look at. Whoever is woken may come back here at once, so it is done without any
/// lock.
#[derive(Default)]
#[must_use = "they wait until they are woken"]
pub(crate) enum Woken {
    #[default]
    Nobody,
    One(Waker),
    Several(Vec<(u64, Waker)>),
}

impl Woken {
    #[inline]
    pub(crate) fn wake(self) {
        match self {
            Woken::Nobody => {}
            Woken::One(waker) => waker.wake(),
            Woken::Several(wakers) => wakers.into_iter().for_each(|(_, waker)| waker.wake()),
        }
    }
}

/// For what wakes none, one or several.
impl IntoIterator for Woken {
    type Item = Woken;
    type IntoIter = std::iter::Once<Woken>;

    fn into_iter(self) -> Self::IntoIter {
        std::iter::once(self)
    }
}

impl Waiting {
    pub(super) fn insert(&mut self, reader: u64, waker: &Waker) {
        match self.0.iter_mut().find(|(waiting, _)| *waiting == reader) {
            Some((_, registered)) => registered.clone_from(waker),
            None => self.0.push((reader, waker.clone())),
        }
    }

    /// Takes everybody out, to be woken when no lock is held.
    #[inline]
    pub(super) fn take(&mut self) -> Woken {
        if self.0.len() <= 1 {
            return match self.0.pop() {
                None => Woken::Nobody,
                Some((_, waker)) => Woken::One(waker),
            };
        }
        Woken::Several(std::mem::take(&mut self.0))
    }

    pub(super) fn remove(&mut self, reader: u64) {
        self.0.retain(|(waiting, _)| *waiting != reader);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woke(AtomicUsize);

    impl Wake for Woke {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn times(woke: &Woke) -> usize {
        woke.0.load(Ordering::Relaxed)
    }

    #[test]
    fn every_reader_is_woken() {
        let readers: [_; 3] = std::array::from_fn(|_| Arc::<Woke>::default());
        let mut waiting = Waiting::default();
        for (number, reader) in (0..).zip(&readers) {
            waiting.insert(number, &reader.clone().into());
        }
        waiting.take().wake();
        assert_eq!(readers.each_ref().map(|reader| times(reader)), [1, 1, 1]);
    }

    #[test]
    fn a_reader_is_woken_where_it_waited_last() {
        let [before, now] = std::array::from_fn(|_| Arc::<Woke>::default());
        let mut waiting = Waiting::default();
        waiting.insert(1, &before.clone().into());
        waiting.insert(1, &now.clone().into());
        waiting.take().wake();
        assert_eq!([times(&before), times(&now)], [0, 1]);
    }
}
