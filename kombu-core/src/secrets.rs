/// The text with what URLs in it keep to themselves left out: passwords, and options, which may be passwords too.
///
/// A password may have spaces and quotes in it, so where a URL ends can't be told: up to the next URL, or the end of the line, all
/// that may belong to one is left out.
pub fn without_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once(MARK) {
        let (url, after) = behind.split_at(end(behind));
        rest = after;
        shown.push_str(before);
        shown.push_str(MARK);
        let place = match url.split_once(HIDDEN) {
            // Somebody has left it out already; what is behind isn't the URL's.
            Some((user, place)) if !user.contains(['@', ' ', ':']) => {
                shown.push_str(user);
                shown.push_str(HIDDEN);
                place
            }
            _ => match url.rsplit_once('@') {
                Some((user, place)) => {
                    // Without a colon it may be a token.
                    shown.push_str(user.split_once(':').map_or("", |(user, _)| user));
                    shown.push_str(HIDDEN);
                    place
                }
                None => url,
            },
        };
        let ends = |letter: char| letter.is_whitespace() || "'\"`".contains(letter);
        let (location, _) = place.split_at(place.find(ends).unwrap_or(place.len()));
        match location.split_once('?') {
            Some((location, options)) if !options.starts_with('…') => {
                shown.push_str(location);
                shown.push_str("?…");
            }
            _ => shown.push_str(place),
        }
    }
    shown.push_str(rest);
    shown
}

const MARK: &str = "://";
const HIDDEN: &str = ":**@";

/// Where what may belong to a URL ends: at the end of its line, or where a word begins that is another URL.
fn end(url: &str) -> usize {
    let line = url.find('\n').unwrap_or(url.len());
    let marks = url[..line].match_indices(MARK);
    let mut others = marks.filter_map(|(at, _)| {
        let before = &url[..at];
        let is_of_scheme = |letter: char| letter.is_ascii_alphanumeric() || "+-.".contains(letter);
        let word = before.trim_end_matches(is_of_scheme);
        let begins =
            word.ends_with(|letter: char| letter.is_whitespace() || "'\"`(".contains(letter));
        (begins && word.len() < before.len()).then_some(word.len())
    });
    others.next().unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_of_a_url_is_shown() {
        for (text, shown) in [
            ("no URL", "no URL"),
            ("amqp://host/", "amqp://host/"),
            (
                "at amqp://me:word@host:1/v: gone",
                "at amqp://me:**@host:1/v: gone",
            ),
            ("'nats://token@host' 'b'", "'nats://:**@host' 'b'"),
            ("amqp://me:p@ss@host", "amqp://me:**@host"),
            ("amqp://me:pa/ss@host", "amqp://me:**@host"),
            (
                "redis+sentinel://a,b/m?sentinel_password=word x\nmore",
                "redis+sentinel://a,b/m?…\nmore",
            ),
            ("a://u:p@h and b://u:q@i", "a://u:**@h and b://u:**@i"),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
    }

    #[test]
    fn a_password_with_spaces_or_quotes_is_not_shown() {
        for password in [
            "pass word",
            "pass \" word",
            "pass' word",
            "`pass` word",
            "pass\\\" word@",
            "word: pass",
            "word?pass",
            "pass://word",
            " word ",
            "word\tpass",
        ] {
            for (text, shown) in [
                (
                    format!("amqp://me:{password}@host/v"),
                    "amqp://me:**@host/v",
                ),
                (
                    format!("unexpected argument 'amqp://me:{password}@host' found"),
                    "unexpected argument 'amqp://me:**@host' found",
                ),
                (
                    format!("from redis://:{password}@one to nats://:{password}@two: gone"),
                    "from redis://:**@one to nats://:**@two: gone",
                ),
            ] {
                assert_eq!(without_secrets(&text), shown);
            }
            let option = format!("no \"nats://host?password={password}\" here");
            let hidden = without_secrets(&option);
            assert!(
                !hidden.contains("pass") && !hidden.contains("word"),
                "{hidden}"
            );
        }
    }

    #[test]
    fn what_is_left_out_already_takes_nothing_else_along() {
        for text in [
            "amqp://me:**@host/v is lost: ask me@work",
            "amqp://host/v?…: is it there? Ask me",
            "amqp://:**@host/?… and nats://:**@other: gone",
        ] {
            assert_eq!(without_secrets(text), text);
        }
    }
}
