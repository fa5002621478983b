use std::sync::OnceLock;

/// How many levels it takes for every index.
const LEVELS: usize = 17;

/// Values by number, which are added while others read, without a lock: they never move and are never taken away.
pub(super) struct Indexed<T> {
    /// Each level has twice as many places as the one before it; the first one has one.
    levels: [OnceLock<Box<[OnceLock<T>]>>; LEVELS],
}

impl<T> Indexed<T> {
    pub(super) fn new() -> Self {
        Indexed {
            levels: [const { OnceLock::new() }; LEVELS],
        }
    }

    #[inline]
    pub(super) fn get(&self, index: u16) -> Option<&T> {
        let (level, place) = Self::place(index);
        self.levels[level].get()?.get(place)?.get()
    }

    /// Adds a value. A number that has one keeps it.
    pub(super) fn add(&self, index: u16, value: T) {
        let (level, place) = Self::place(index);
        let places =
            self.levels[level].get_or_init(|| (0..1 << level).map(|_| OnceLock::new()).collect());
        drop(places[place].set(value));
    }

    #[inline]
    fn place(index: u16) -> (usize, usize) {
        let number = usize::from(index) + 1;
        let level = number.ilog2() as usize;
        (level, number - (1 << level))
    }
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
