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

/// A part of a pattern.
enum Part<'a> {
    /// `*`
    Any,
    /// `?`
    One,
    Letter(char),
    /// `[a-z]`, or with a `!` in front any letter but these.
    OneOf {
        letters: &'a str,
        not: bool,
    },
}

/// As Python's `fnmatch` reads a pattern: a bracket that nothing closes is a letter.
fn parts(mut pattern: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    while let Some(letter) = pattern.chars().next() {
        pattern = &pattern[letter.len_utf8()..];
        parts.push(match letter {
            '*' => Part::Any,
            '?' => Part::One,
            '[' => {
                let (not, class) = match pattern.strip_prefix('!') {
                    Some(class) => (true, class),
                    None => (false, pattern),
                };
                // One in front stands for itself.
                let closed = class
                    .char_indices()
                    .skip(1)
                    .find(|(_, letter)| *letter == ']');
                match closed {
                    None => Part::Letter('['),
                    Some((end, _)) => {
                        pattern = &class[end + 1..];
                        let letters = &class[..end];
                        Part::OneOf { letters, not }
                    }
                }
            }
            letter => Part::Letter(letter),
        });
    }
    parts
}

impl Part<'_> {
    fn takes(&self, letter: char) -> bool {
        match self {
            Part::Any | Part::One => true,
            Part::Letter(own) => *own == letter,
            Part::OneOf { letters, not } => is_one_of(letters, letter) != *not,
        }
    }
}

fn is_one_of(letters: &str, letter: char) -> bool {
    let letters: Vec<char> = letters.chars().collect();
    let mut rest = &letters[..];
    loop {
        rest = match rest {
            [first, '-', last, rest @ ..] if (*first..=*last).contains(&letter) => return true,
            [_, '-', _, rest @ ..] => rest,
            [own, ..] if *own == letter => return true,
            [_, rest @ ..] => rest,
            [] => return false,
        };
    }
}

/// Whether a text is what a pattern says.
fn matches(pattern: &str, text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    // Where in the text the pattern may have come to.
    let mut places = vec![false; text.len() + 1];
    places[0] = true;
    for part in parts(pattern) {
        if matches!(part, Part::Any) {
            let first = places.iter().position(|place| *place);
            let first = first.unwrap_or(places.len());
            places[first..].fill(true);
            continue;
        }
        for at in (0..text.len()).rev() {
            places[at + 1] = places[at] && part.takes(text[at]);
        }
        places[0] = false;
    }
    places[text.len()]
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_pythons_do() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("w*@eu", "w1@eu", true),
            ("w*@eu", "w1@us", false),
            ("w?", "w1", true),
            ("w?", "w12", false),
            ("*1*", "w1@eu", true),
            ("", "w", false),
            ("w[12]", "w2", true),
            ("w[12]", "w3", false),
            ("w[!12]", "w3", true),
            ("w[!12]", "w2", false),
            ("w[0-9]x", "w7x", true),
            ("w[a-c-]", "w-", true),
            ("w[a-c-]", "wd", false),
            ("w[]]", "w]", true),
            ("w[", "w[", true),
            ("w[1", "w1", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
