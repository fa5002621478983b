//! How content types and encodings compare.

/// What every codec is known by.
#[derive(Clone, Copy)]
pub(crate) struct Identity<'a> {
    pub(crate) name: &'a str,
    pub(crate) content_type: &'a str,
    pub(crate) content_encoding: &'a str,
}

/// The type itself, without the parameters behind `;`.
pub(crate) fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Whether two content types mean the same codec.
pub(crate) fn same_type(one: &str, other: &str) -> bool {
    essence(one).eq_ignore_ascii_case(essence(other))
}

/// Whether a body with this encoding can be read as UTF-8, or at least be tried.
///
/// `binary` is among them because it is what many clients write who never thought about it.
fn reads_as_utf8(encoding: &str) -> bool {
    ["", "utf-8", "utf8", "us-ascii", "ascii", "binary"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(encoding))
}

/// Whether a codec that writes `own` can take a body that is marked `given`.
///
/// A binary format has no use for a text encoding, so any is fine.
pub(crate) fn encoding_fits(own: &str, given: &str) -> bool {
    if own == given {
        return true;
    }
    let (own, given) = (own.trim(), given.trim());
    let is_text = reads_as_utf8(own) && !own.is_empty() && !own.eq_ignore_ascii_case("binary");
    !is_text || reads_as_utf8(given) || own.eq_ignore_ascii_case(given)
}

/// A text from a message, fit for an error: escaped, and never long.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_case_and_spaces_do_not_matter_in_a_content_type() {
        assert!(same_type(
            "application/json",
            "Application/JSON; charset=utf-8"
        ));
        assert!(same_type(" application/json ;q=1", "application/json"));
        assert!(!same_type("application/json", "application/jsonp"));
        assert!(!same_type("application/json", ""));
    }

    #[test]
    fn a_text_format_takes_utf8_by_any_of_its_names() {
        for given in [
            "", "utf-8", "UTF-8", "utf8", "us-ascii", "ASCII", "binary", " utf-8 ",
        ] {
            assert!(encoding_fits("utf-8", given), "{given}");
        }
        for given in ["latin-1", "utf-16", "gzip"] {
            assert!(!encoding_fits("utf-8", given), "{given}");
        }
    }

    #[test]
    fn a_binary_format_takes_any_encoding() {
        assert!(encoding_fits("binary", "latin-1"));
        assert!(encoding_fits("", "latin-1"));
        assert!(encoding_fits("x-own", "x-own"));
    }

    #[test]
    fn text_from_a_message_is_escaped_and_cut() {
        assert_eq!(quoted("a\nb"), r#""a\nb""#);
        let long = quoted(&"é".repeat(5_000));
        assert_eq!(long.chars().count(), 83);
    }
}
