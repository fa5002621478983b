use std::borrow::Cow;
use std::sync::Arc;

use rpds::HashTrieMapSync;

use super::group::Group;
use crate::driver::Destination;
use crate::field::{FieldTable, FieldValue};
use crate::name::Name;
use crate::virt::table::BindingRecord;

/// Headers bindings by what they ask for.
///
/// A binding that needs all of its conditions stands in the place of one of them, one that needs any of them in all
/// of their places. So a message looks only at the places of its own headers, and asks [`matches`] of whatever it
/// finds there.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions {
    by_name: HashTrieMapSync<Name, Wanted>,
    /// Bindings that need all of no conditions.
    always: Group,
}

/// The bindings that ask for one header.
#[derive(Clone, Debug, Default)]
struct Wanted {
    with_any_value: Group,
    with_value: HashTrieMapSync<FieldValue, Group>,
}

impl Conditions {
    pub(super) fn insert(&mut self, record: &Arc<BindingRecord>) {
        let mode = Mode::of(&record.arguments);
        if mode.needs_any {
            for (name, value) in mode.conditions(&record.arguments) {
                self.add(name, value, record);
            }
            return;
        }
        // The place with the fewest bindings is the one that the fewest messages look at in vain.
        let rarest = mode
            .conditions(&record.arguments)
            .min_by_key(|(name, value)| (self.count(name, value), value.is_void()));
        match rarest {
            Some((name, value)) => self.add(name, value, record),
            None => self.always.insert(record.clone()),
        }
    }

    fn count(&self, name: &Name, value: &FieldValue) -> usize {
        let group = self.by_name.get(name).and_then(|wanted| match value {
            FieldValue::Void => Some(&wanted.with_any_value),
            value => wanted.with_value.get(&*comparable(value)),
        });
        group.map_or(0, Group::len)
    }

    fn add(&mut self, name: &Name, value: &FieldValue, record: &Arc<BindingRecord>) {
        match self.by_name.get_mut(name) {
            Some(wanted) => wanted.add(value, record),
            None => {
                let mut wanted = Wanted::default();
                wanted.add(value, record);
                self.by_name.insert_mut(name.clone(), wanted);
            }
        }
    }

    pub(super) fn remove(&mut self, record: &BindingRecord) {
        self.always.remove(record);
        // One that needs all stands in one of these places, and isn't found in the others.
        for (name, value) in Mode::of(&record.arguments).conditions(&record.arguments) {
            if let Some(wanted) = self.by_name.get_mut(name) {
                wanted.remove(value, record);
                if wanted.is_unused() {
                    self.by_name.remove_mut(name);
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        self.always.is_empty() && self.by_name.is_empty()
    }

    pub(super) fn matching<'a>(&'a self, headers: &FieldTable, found: &mut Vec<&'a Destination>) {
        let mut ask = |group: &'a Group| {
            found.extend(
                group
                    .iter()
                    .filter(|record| matches(&record.arguments, headers))
                    .map(|record| &record.destination),
            );
        };
        ask(&self.always);
        for (name, value) in headers {
            if let Some(wanted) = self.by_name.get(name) {
                ask(&wanted.with_any_value);
                if let Some(group) = wanted.with_value.get(&*comparable(value)) {
                    ask(group);
                }
            }
        }
    }
}

impl Wanted {
    fn add(&mut self, value: &FieldValue, record: &Arc<BindingRecord>) {
        if value.is_void() {
            return self.with_any_value.insert(record.clone());
        }
        let value = comparable(value);
        match self.with_value.get_mut(&*value) {
            Some(group) => group.insert(record.clone()),
            None => self
                .with_value
                .insert_mut(value.into_owned(), Group::One(record.clone())),
        }
    }

    fn remove(&mut self, value: &FieldValue, record: &BindingRecord) {
        if value.is_void() {
            return self.with_any_value.remove(record);
        }
        let value = comparable(value);
        if let Some(group) = self.with_value.get_mut(&*value) {
            group.remove(record);
            if group.is_empty() {
                self.with_value.remove_mut(&*value);
            }
        }
    }

    fn is_unused(&self) -> bool {
        self.with_any_value.is_empty() && self.with_value.is_empty()
    }
}

/// How a binding's arguments are read.
#[derive(Clone, Copy)]
struct Mode {
    needs_any: bool,
    with_x: bool,
}

impl Mode {
    fn of(arguments: &FieldTable) -> Self {
        let mode = arguments
            .get("x-match")
            .and_then(FieldValue::as_str)
            .unwrap_or("all");
        Mode {
            needs_any: mode.starts_with("any"),
            with_x: mode.ends_with("-with-x"),
        }
    }

    fn conditions(self, arguments: &FieldTable) -> impl Iterator<Item = (&Name, &FieldValue)> {
        arguments.iter().filter(move |(name, _)| {
            name.as_str() != "x-match" && (self.with_x || !name.starts_with("x-"))
        })
    }
}

/// Whether a headers binding with these arguments matches a message with these headers.
///
/// As RabbitMQ does it: `x-match` is `all` unless it says otherwise; arguments whose names start with `x-`
/// don't count, except for `all-with-x` and `any-with-x`; a void argument asks only for the header's presence;
/// numbers are compared by value, whatever their types; any other type is another value.
pub(super) fn matches(arguments: &FieldTable, headers: &FieldTable) -> bool {
    let mode = Mode::of(arguments);
    let mut conditions = mode
        .conditions(arguments)
        .map(|(name, wanted)| match headers.get(name) {
            Some(found) => *wanted == FieldValue::Void || is_same(wanted, found),
            None => false,
        });
    if mode.needs_any {
        conditions.any(|met| met)
    } else {
        conditions.all(|met| met)
    }
}

fn is_same(wanted: &FieldValue, found: &FieldValue) -> bool {
    comparable(wanted) == comparable(found)
}

/// The value that all values that are the same as this one have in common: what they are found by.
fn comparable(value: &FieldValue) -> Cow<'_, FieldValue> {
    if let Some(integer) = value.as_i64() {
        return Cow::Owned(FieldValue::I64(integer));
    }
    // Beyond these, a float is no integer of AMQP's.
    const INTEGERS: std::ops::Range<f64> =
        -9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0;
    match value.as_f64() {
        Some(float) if float.fract() == 0.0 && INTEGERS.contains(&float) => {
            Cow::Owned(FieldValue::I64(float as i64))
        }
        Some(float) => Cow::Owned(FieldValue::F64(float)),
        None => Cow::Borrowed(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table<const N: usize>(entries: [(&str, FieldValue); N]) -> FieldTable {
        entries.into_iter().collect()
    }

    #[test]
    fn a_value_of_another_type_is_another_value_but_the_type_of_a_number_does_not_count() {
        let binding = table([("a", FieldValue::I64(1))]);
        assert!(matches(&binding, &table([("a", FieldValue::I64(1))])));
        assert!(matches(&binding, &table([("a", FieldValue::U8(1))])));
        assert!(matches(&binding, &table([("a", FieldValue::F64(1.0))])));
        assert!(!matches(&binding, &table([("a", FieldValue::F64(1.5))])));
        assert!(!matches(&binding, &table([("a", FieldValue::from("1"))])));
    }

    #[test]
    fn arguments_that_start_with_x_count_only_when_asked_for() {
        let plain = table([("x-tenant", 1i64.into()), ("a", 1i64.into())]);
        assert!(matches(&plain, &table([("a", 1i64.into())])));
        let with_x = table([
            ("x-match", "all-with-x".into()),
            ("x-tenant", 1i64.into()),
            ("a", 1i64.into()),
        ]);
        assert!(!matches(&with_x, &table([("a", 1i64.into())])));
    }

    #[test]
    fn any_without_conditions_matches_nothing_and_all_matches_everything() {
        assert!(!matches(&table([("x-match", "any".into())]), &table([])));
        assert!(matches(&table([("x-match", "all".into())]), &table([])));
    }
}
