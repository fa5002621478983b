use std::sync::OnceLock;

/// How many levels it takes for every index but the first.
const LEVELS: usize = 16;

/// Values by number, which are added while others read, without a lock: they never move and are never taken away.
pub(super) struct Indexed<T> {
    /// Mostly there is no other one.
    first: OnceLock<T>,
    /// Each level has twice as many places as the one before it; the first one has one.
    others: OnceLock<Box<[Level<T>; LEVELS]>>,
}

type Level<T> = OnceLock<Box<[OnceLock<T>]>>;

impl<T> Indexed<T> {
    pub(super) fn new() -> Self {
        Indexed {
            first: OnceLock::new(),
            others: OnceLock::new(),
        }
    }

    #[inline]
    pub(super) fn get(&self, index: u16) -> Option<&T> {
        let Some((level, place)) = place(index) else {
            return self.first.get();
        };
        self.others.get()?[level].get()?.get(place)?.get()
    }

    /// Adds a value. A number that has one keeps it.
    pub(super) fn add(&self, index: u16, value: T) {
        let slot = match place(index) {
            None => &self.first,
            Some((level, place)) => {
                let levels = self
                    .others
                    .get_or_init(|| Box::new([const { OnceLock::new() }; LEVELS]));
                let size = 1 << level;
                let places =
                    levels[level].get_or_init(|| (0..size).map(|_| OnceLock::new()).collect());
                &places[place]
            }
        };
        drop(slot.set(value));
    }
}

/// Level, and place in it, of every index but the first.
fn place(index: u16) -> Option<(usize, usize)> {
    let level = index.checked_ilog2()?;
    Some((level as usize, usize::from(index) - (1 << level)))
}

impl<T> FromIterator<(u16, T)> for Indexed<T> {
    fn from_iter<I: IntoIterator<Item = (u16, T)>>(values: I) -> Self {
        let indexed = Indexed::new();
        for (index, value) in values {
            indexed.add(index, value);
        }
        indexed
    }
}

#[cfg(test)]
mod tests {
    use super::Indexed;

    #[test]
    fn every_index_has_a_place_of_its_own() {
        let indexed: Indexed<u16> = (0..=u16::MAX).map(|index| (index, index)).collect();
        assert!((0..=u16::MAX).all(|index| indexed.get(index) == Some(&index)));
    }

    #[test]
    fn what_was_not_added_is_not_there_and_what_was_stays() {
        let indexed = Indexed::new();
        indexed.add(5, "five");
        indexed.add(5, "other");
        assert_eq!((indexed.get(4), indexed.get(5)), (None, Some(&"five")));
        assert_eq!(indexed.get(u16::MAX), None);
    }
}
