use crate::field::{FieldTable, FieldValue};

/// Whether a headers binding with these arguments matches a message with these headers.
///
/// As RabbitMQ does it: `x-match` is `all` unless it says otherwise; arguments whose names start with `x-`
/// don't count, except for `all-with-x` and `any-with-x`; a void argument asks only for the header's presence;
/// integers of all widths are compared by value, and so are floats; any other type is another value.
pub(super) fn matches(arguments: &FieldTable, headers: &FieldTable) -> bool {
    let mode = arguments
        .get("x-match")
        .and_then(FieldValue::as_str)
        .unwrap_or("all");
    let with_x = mode.ends_with("-with-x");
    let mut conditions = arguments
        .iter()
        .filter(|(name, _)| name.as_str() != "x-match" && (with_x || !name.starts_with("x-")))
        .map(|(name, wanted)| match headers.get(name) {
            Some(found) => *wanted == FieldValue::Void || is_same(wanted, found),
            None => false,
        });
    if mode.starts_with("any") {
        conditions.any(|met| met)
    } else {
        conditions.all(|met| met)
    }
}

fn is_same(wanted: &FieldValue, found: &FieldValue) -> bool {
    match (wanted.as_i64(), found.as_i64()) {
        (Some(wanted), Some(found)) => wanted == found,
        (None, None) => match (float(wanted), float(found)) {
            (Some(wanted), Some(found)) => wanted == found,
            _ => wanted == found,
        },
        _ => false,
    }
}

fn float(value: &FieldValue) -> Option<f64> {
    match value {
        FieldValue::F32(value) => Some(f64::from(*value)),
        FieldValue::F64(value) => Some(*value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table<const N: usize>(entries: [(&str, FieldValue); N]) -> FieldTable {
        entries.into_iter().collect()
    }

    #[test]
    fn a_value_of_another_type_is_another_value_but_the_width_of_a_number_does_not_count() {
        let binding = table([("a", FieldValue::I64(1))]);
        assert!(matches(&binding, &table([("a", FieldValue::I64(1))])));
        assert!(matches(&binding, &table([("a", FieldValue::U8(1))])));
        assert!(!matches(&binding, &table([("a", FieldValue::F64(1.0))])));
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
