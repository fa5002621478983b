use std::fmt;

use super::FieldValue;
use crate::error::Error;
use crate::name::Name;

/// Named values: the headers of a message, the arguments of a declaration, a table inside of either.
///
/// The entries are kept in the order of their names, so two tables with the same entries are equal
/// and have the same hash however they were filled.
///
/// ```
/// use kombu_core::field::FieldTable;
///
/// let mut table = FieldTable::new();
/// table.insert("tenant", 7);
/// table.insert("region", "eu");
/// let names: Vec<&str> = table.iter().map(|(name, _)| name.as_str()).collect();
/// assert_eq!(names, ["region", "tenant"]);
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct FieldTable(Vec<(Name, FieldValue)>);

impl FieldTable {
    /// An empty table; takes no memory until the first entry.
    pub const fn new() -> Self {
        FieldTable(Vec::new())
    }

    /// An empty table with room for so many entries.
    pub fn with_capacity(entries: usize) -> Self {
        FieldTable(Vec::with_capacity(entries))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<&FieldValue> {
        let at = self.find(name).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    /// The value of this name, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut FieldValue> {
        let at = self.find(name).ok()?;
        self.0.get_mut(at).map(|(_, value)| value)
    }

    /// The values in the order of their names, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut FieldValue> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    /// Whether there is an entry of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// Sets the value of a name and returns the one that it had.
    pub fn insert(
        &mut self,
        name: impl Into<Name>,
        value: impl Into<FieldValue>,
    ) -> Option<FieldValue> {
        let (name, value) = (name.into(), value.into());
        match self.find(&name) {
            Ok(at) => {
                let (_, held) = self.0.get_mut(at)?;
                Some(std::mem::replace(held, value))
            }
            Err(at) => {
                if self.0.len() == self.0.capacity() {
                    self.0.reserve_exact(self.0.len().max(1));
                }
                self.0.insert(at, (name, value));
                None
            }
        }
    }

    /// Takes the entry of this name out and returns its value.
    pub fn remove(&mut self, name: &str) -> Option<FieldValue> {
        let at = self.find(name).ok()?;
        Some(self.0.remove(at).1)
    }

    /// Takes all entries out.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Keeps the entries for which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&Name, &FieldValue) -> bool) {
        self.0.retain(|(name, value)| keep(name, value));
    }

    /// The entries in the order of their names.
    pub fn iter(&self) -> Iter<'_> {
        Iter(self.0.iter())
    }

    /// Fails if an AMQP 0-9-1 field table can't carry this one.
    ///
    /// With [`ErrorKind::InvalidName`](crate::ErrorKind::InvalidName) for a name over
    /// [`Name::MAX_LEN`] bytes, with [`ErrorKind::Encode`](crate::ErrorKind::Encode) for arrays and
    /// tables nested deeper than [`FieldValue::MAX_DEPTH`] and for a text of 4 GiB or more. Nested
    /// tables are checked, too.
    pub fn check(&self) -> Result<(), Error> {
        self.check_at(0)
    }

    pub(super) fn check_at(&self, depth: usize) -> Result<(), Error> {
        self.0.iter().try_for_each(|(name, value)| {
            name.check_length("field name")?;
            value.check_below(name, depth)
        })
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(held, _)| held.as_str().cmp(name))
    }
}

impl fmt::Debug for FieldTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<N: Into<Name>, V: Into<FieldValue>> Extend<(N, V)> for FieldTable {
    fn extend<I: IntoIterator<Item = (N, V)>>(&mut self, entries: I) {
        for (name, value) in entries {
            self.insert(name, value);
        }
    }
}

impl<N: Into<Name>, V: Into<FieldValue>> FromIterator<(N, V)> for FieldTable {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(entries: I) -> Self {
        let mut table = FieldTable::new();
        table.extend(entries);
        table
    }
}

impl<N: Into<Name>, V: Into<FieldValue>, const LEN: usize> From<[(N, V); LEN]> for FieldTable {
    fn from(entries: [(N, V); LEN]) -> Self {
        entries.into_iter().collect()
    }
}

/// Sorts the entries once, which matters where there are thousands of them; of those with the same name, the last one
/// counts.
impl From<Vec<(Name, FieldValue)>> for FieldTable {
    fn from(mut entries: Vec<(Name, FieldValue)>) -> Self {
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        entries.dedup_by(|later, earlier| {
            let is_same = later.0 == earlier.0;
            if is_same {
                std::mem::swap(later, earlier);
            }
            is_same
        });
        FieldTable(entries)
    }
}

/// The entries of a [`FieldTable`], borrowed, in the order of their names.
#[derive(Clone, Debug)]
pub struct Iter<'a>(std::slice::Iter<'a, (Name, FieldValue)>);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a Name, &'a FieldValue);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(name, value)| (name, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl<'a> IntoIterator for &'a FieldTable {
    type Item = (&'a Name, &'a FieldValue);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// The entries of a [`FieldTable`] in the order of their names.
#[derive(Debug)]
pub struct IntoIter(std::vec::IntoIter<(Name, FieldValue)>);

impl Iterator for IntoIter {
    type Item = (Name, FieldValue);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for IntoIter {}

impl IntoIterator for FieldTable {
    type Item = (Name, FieldValue);
    type IntoIter = IntoIter;

    fn into_iter(self) -> IntoIter {
        IntoIter(self.0.into_iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::hash::{BuildHasher, RandomState};

    #[test]
    fn the_order_of_inserts_changes_neither_equality_nor_hash() {
        let one = FieldTable::from([("a", 1), ("b", 2), ("c", 3)]);
        let other = FieldTable::from([("c", 3), ("a", 1), ("b", 2)]);
        assert_eq!(one, other);
        let hasher = RandomState::new();
        assert_eq!(hasher.hash_one(&one), hasher.hash_one(&other));
    }

    #[test]
    fn one_entry_takes_one_slot() {
        let mut table = FieldTable::new();
        assert_eq!(table.0.capacity(), 0);
        table.insert("a", 1);
        assert_eq!(table.0.capacity(), 1);
        table.insert("b", 1);
        assert_eq!(table.0.capacity(), 2);
    }

    #[test]
    fn an_insert_replaces_and_returns_the_old_value() {
        let mut table = FieldTable::new();
        assert_eq!(table.insert("a", 1), None);
        assert_eq!(table.insert("a", "x"), Some(FieldValue::I32(1)));
        assert_eq!(table.len(), 1);
        assert_eq!(table.remove("a"), Some(FieldValue::Text("x".into())));
        assert_eq!(table.remove("a"), None);
        assert!(table.is_empty());
    }

    #[test]
    fn of_entries_with_the_same_name_the_last_one_counts() {
        let entries = [("b", 1), ("a", 2), ("b", 3), ("c", 4), ("b", 5)];
        let given = entries.map(|(name, value)| (Name::from(name), FieldValue::from(value)));
        assert_eq!(
            FieldTable::from(given.to_vec()),
            FieldTable::from([("a", 2), ("b", 5), ("c", 4)])
        );
    }

    #[test]
    fn values_are_changed_in_place() {
        let mut table = FieldTable::from([("a", 1), ("b", 2)]);
        for value in table.values_mut() {
            *value = FieldValue::I64(value.as_i64().unwrap());
        }
        *table.get_mut("b").unwrap() = "x".into();
        assert_eq!(table.get("a"), Some(&FieldValue::I64(1)));
        assert_eq!(table.get("b"), Some(&FieldValue::from("x")));
        assert!(table.get_mut("c").is_none());
    }

    #[test]
    fn a_name_of_256_bytes_is_refused_in_nested_tables_too() {
        let long = "n".repeat(256);
        let flat = FieldTable::from([(long.as_str(), 1)]);
        let nested = FieldTable::from([("outer", vec![FieldValue::Table(flat.clone())])]);
        for table in [flat, nested] {
            assert_eq!(table.check().unwrap_err().kind(), ErrorKind::InvalidName);
        }
        assert!(FieldTable::from([("n".repeat(255), 1)]).check().is_ok());
    }

    #[test]
    fn tables_and_arrays_may_be_nested_64_deep_and_no_deeper() {
        let mut value = FieldValue::Void;
        for depth in 1..=65 {
            value = if depth % 2 == 0 {
                FieldValue::Array(vec![value])
            } else {
                FieldTable::from([("inner", value)]).into()
            };
            let table = FieldTable::from([("outer", value.clone())]);
            assert_eq!(table.check().is_ok(), depth <= 64, "{depth}");
        }
    }
}
