//! What may follow a document.

use crate::BoxError;

/// Refuses text behind the first end-of-document line other than comments: the parser stops reading
/// there.
pub(super) fn check(text: &str) -> Result<(), BoxError> {
    let Some(end) = end_of_document(text) else {
        return Ok(());
    };
    let is_empty = text[end..].split(['\n', '\r']).all(|line| {
        let line = line.trim_start_matches([' ', '\t']);
        line.is_empty() || line.starts_with('#') || line.trim_end() == "..."
    });
    if is_empty {
        Ok(())
    } else {
        Err("there is text behind the end of the document".into())
    }
}

/// Where the text behind the first line `...` begins.
fn end_of_document(text: &str) -> Option<usize> {
    text.match_indices("...")
        .map(|(start, marker)| (start, start + marker.len()))
        .find_map(|(start, end)| {
            let starts_a_line = start == 0 || text[..start].ends_with(['\n', '\r']);
            let is_a_word = text[end..]
                .chars()
                .next()
                .is_none_or(|next| " \t\r\n".contains(next));
            (starts_a_line && is_a_word).then_some(end)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_comments_may_follow_the_end_of_the_document() {
        for fine in [
            "a",
            "a\n...\n",
            "a\n...",
            "a\n... # c\n\n  # d\n",
            "...a\n",
            "a: ...\nb: ....",
            "a\r\n...\r\n",
            "a\n...\n...\n",
        ] {
            assert!(check(fine).is_ok(), "{fine:?}");
        }
        for more in ["a\n...\nb", "a\n... b", "...\n@", "a\r...\rb"] {
            assert!(check(more).is_err(), "{more:?}");
        }
    }
}
