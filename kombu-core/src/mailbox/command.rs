use serde::{Deserialize, Serialize};

/// A command as it is written.
#[derive(Serialize)]
pub(super) struct Written<'a, A: ?Sized> {
    pub(super) method: &'a str,
    pub(super) arguments: &'a A,
    pub(super) destination: Option<&'a [String]>,
    pub(super) pattern: Option<&'a str>,
    pub(super) matcher: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ticket: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reply_to: Option<ReplyTo>,
}

/// The same as it is read: whom it is for, and who wants to know what came of it.
#[derive(Deserialize)]
pub(super) struct Command {
    pub(super) method: String,
    #[serde(default)]
    destination: Option<Vec<String>>,
    #[serde(default)]
    pattern: Option<String>,
    #[serde(default)]
    matcher: Option<String>,
    #[serde(default)]
    pub(super) ticket: Option<String>,
    #[serde(default)]
    pub(super) reply_to: Option<ReplyTo>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ReplyTo {
    pub(super) exchange: String,
    pub(super) routing_key: String,
}

/// The only way of matching names that is understood.
pub(super) const GLOB: &str = "glob";

impl Command {
    /// Whether a node of this name is meant.
    pub(super) fn is_for(&self, node: &str) -> bool {
        if let Some(destination) = self.destination.as_ref().filter(|list| !list.is_empty()) {
            return destination.iter().any(|name| name == node);
        }
        match (self.pattern.as_deref(), self.matcher.as_deref()) {
            (Some(pattern), Some(GLOB)) if !pattern.is_empty() => matches(pattern, node),
            (Some(pattern), Some(matcher)) if !pattern.is_empty() && !matcher.is_empty() => {
                tracing::warn!(
                    matcher,
                    "a command by a matcher that isn't known is passed over"
                );
                false
            }
            _ => true,
        }
    }
}

/// Whether a text is what a pattern says, in which `*` is any text and `?` any letter.
fn matches(pattern: &str, text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    // Where in the text the pattern may have come to.
    let mut places = vec![false; text.len() + 1];
    places[0] = true;
    for letter in pattern.chars() {
        if letter == '*' {
            let first = places.iter().position(|place| *place);
            let first = first.unwrap_or(places.len());
            places[first..].fill(true);
            continue;
        }
        for at in (0..text.len()).rev() {
            places[at + 1] = places[at] && (letter == '?' || letter == text[at]);
        }
        places[0] = false;
    }
    places[text.len()]
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_and_question_marks_match() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("w*@eu", "w1@eu", true),
            ("w*@eu", "w1@us", false),
            ("w?", "w1", true),
            ("w?", "w12", false),
            ("*1*", "w1@eu", true),
            ("", "w", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
