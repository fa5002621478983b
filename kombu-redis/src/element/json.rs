//! JSON as Python writes and reads it.
//!
//! Python's `json` writes `NaN` and `Infinity`, integers of any length and lone surrogates. A reader that takes nothing
//! but standard JSON would refuse a whole message for one such header.

use std::borrow::Cow;
use std::ops::Range;

/// How deep arrays and objects may be nested, the envelope included.
const MAX_DEPTH: usize = 128;

/// Why a text isn't what it should be; never quotes it.
pub(super) type Problem = &'static str;

/// How many bytes at the beginning a JSON string has as they are: no quote, no backslash, no control character.
#[inline]
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES * 0x80;
    // Zero bytes of `word` have their high bit set in the result; above the lowest of them, others may have it, too.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let quote = zeros(word ^ (ONES * u64::from(b'"')));
        let backslash = zeros(word ^ (ONES * u64::from(b'\\')));
        let found = (control | quote | backslash) & HIGH;
        if found != 0 {
            return at * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let is_special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    let in_rest = rest.iter().position(is_special).unwrap_or(rest.len());
    words.len() * 8 + in_rest
}

/// Writes a string without its quotes.
#[inline]
pub(super) fn escape(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    loop {
        let (before, from) = rest.split_at(plain(rest));
        out.extend_from_slice(before);
        let Some((&special, after)) = from.split_first() else {
            return;
        };
        let short = match special {
            b'"' | b'\\' => special,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            _ => 0,
        };
        if short != 0 {
            out.extend_from_slice(&[b'\\', short]);
        } else {
            let [high, low] = hex(special);
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
        }
        rest = after;
    }
}

/// Writes a string.
#[inline]
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escape(out, text);
    out.push(b'"');
}

/// Two digits, in lower case.
#[inline]
pub(super) fn hex(byte: u8) -> [u8; 2] {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    [
        DIGITS[usize::from(byte >> 4)],
        DIGITS[usize::from(byte & 15)],
    ]
}

/// What stands where a value is expected.
pub(super) enum Token<'a> {
    Null,
    Bool(bool),
    /// As it stands there.
    Number(&'a str),
    String(Text<'a>),
    /// Its `[` is read.
    Array,
    /// Its `{` is read.
    Object,
}

/// A string as it stands in the text.
#[derive(Clone)]
pub(super) struct Text<'a> {
    raw: &'a str,
    start: usize,
    escaped: bool,
}

impl<'a> Text<'a> {
    pub(super) fn value(&self) -> Cow<'a, str> {
        if self.escaped {
            Cow::Owned(unescape(self.raw))
        } else {
            Cow::Borrowed(self.raw)
        }
    }

    /// Where it stands, if it stands there without escapes.
    pub(super) fn place(&self) -> Option<Range<usize>> {
        (!self.escaped).then_some(self.start..self.start + self.raw.len())
    }
}

/// Reads a text once, from front to back.
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Reader {
            text,
            at: 0,
            depth: 0,
        }
    }

    /// The next value, of an array or an object only its beginning.
    #[inline]
    pub(super) fn token(&mut self) -> Result<Token<'a>, Problem> {
        let first = self.next_visible().ok_or("it ends too early")?;
        Ok(match first {
            b'"' => Token::String(self.text_behind_quote()?),
            b'{' => {
                self.enter()?;
                Token::Object
            }
            b'[' => {
                self.enter()?;
                Token::Array
            }
            b'n' => self.word("null", Token::Null)?,
            b't' => self.word("true", Token::Bool(true))?,
            b'f' => self.word("false", Token::Bool(false))?,
            _ => Token::Number(self.number()?),
        })
    }

    /// The name of the next entry of an object, up to its colon; `None` at the end of the object.
    #[inline]
    pub(super) fn name(&mut self, is_first: bool) -> Result<Option<Text<'a>>, Problem> {
        if !self.another(is_first, b'}')? {
            return Ok(None);
        }
        if self.next_visible() != Some(b'"') {
            return Err("a name isn't a string");
        }
        let name = self.text_behind_quote()?;
        if self.next_visible() != Some(b':') {
            return Err("no colon behind a name");
        }
        self.at += 1;
        Ok(Some(name))
    }

    /// Whether an array goes on.
    pub(super) fn element(&mut self, is_first: bool) -> Result<bool, Problem> {
        self.another(is_first, b']')
    }

    /// Reads over the next value.
    pub(super) fn skip(&mut self) -> Result<(), Problem> {
        let token = self.token()?;
        self.skip_rest(&token)
    }

    /// Reads over what is left of a value.
    pub(super) fn skip_rest(&mut self, token: &Token<'a>) -> Result<(), Problem> {
        let mut is_first = true;
        match token {
            Token::Object => {
                while self.name(is_first)?.is_some() {
                    self.skip()?;
                    is_first = false;
                }
            }
            Token::Array => {
                while self.element(is_first)? {
                    self.skip()?;
                    is_first = false;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Fails if anything follows.
    pub(super) fn end(&mut self) -> Result<(), Problem> {
        match self.next_visible() {
            None => Ok(()),
            Some(_) => Err("something follows its end"),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    fn next_visible(&mut self) -> Option<u8> {
        loop {
            match self.peek()? {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                visible => return Some(visible),
            }
        }
    }

    fn enter(&mut self) -> Result<(), Problem> {
        self.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("it is nested too deeply");
        }
        Ok(())
    }

    #[inline]
    fn another(&mut self, is_first: bool, close: u8) -> Result<bool, Problem> {
        match self.next_visible() {
            Some(byte) if byte == close => {
                self.at += 1;
                self.depth -= 1;
                Ok(false)
            }
            Some(_) if is_first => Ok(true),
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            _ => Err("an array or an object doesn't end"),
        }
    }

    fn word(&mut self, word: &str, token: Token<'a>) -> Result<Token<'a>, Problem> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err("a value is none");
        }
        self.at += word.len();
        Ok(token)
    }

    #[inline]
    fn text_behind_quote(&mut self) -> Result<Text<'a>, Problem> {
        self.at += 1;
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        loop {
            self.at += plain(&bytes[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    let raw = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(Text {
                        raw,
                        start,
                        escaped,
                    });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.at += 1;
                    let is_known = match self.peek() {
                        Some(b'u') => {
                            let digits = bytes.get(self.at + 1..self.at + 5);
                            let digits = digits.unwrap_or(&[b' ']);
                            self.at += digits.len();
                            digits.iter().all(u8::is_ascii_hexdigit)
                        }
                        Some(byte) => b"\"\\/bfnrt".contains(&byte),
                        None => false,
                    };
                    if !is_known {
                        return Err("a string has an unknown escape");
                    }
                    self.at += 1;
                }
                Some(_) => return Err("a string has a control character"),
                None => return Err("a string doesn't end"),
            }
        }
    }

    fn number(&mut self) -> Result<&'a str, Problem> {
        let start = self.at;
        let negative = self.take(b'-');
        for word in ["NaN", "Infinity"] {
            let is_named = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
            if is_named && !(negative && word == "NaN") {
                self.at += word.len();
                return Ok(&self.text[start..self.at]);
            }
        }
        let digits = self.digits();
        let leading_zero = digits > 1 && self.text.as_bytes()[self.at - digits] == b'0';
        let mut is_number = digits > 0 && !leading_zero;
        if self.take(b'.') {
            is_number &= self.digits() > 0;
        }
        if self.take(b'e') || self.take(b'E') {
            let _sign = self.take(b'+') || self.take(b'-');
            is_number &= self.digits() > 0;
        }
        if !is_number {
            return Err("a value is none");
        }
        Ok(&self.text[start..self.at])
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn digits(&mut self) -> usize {
        let rest = &self.text.as_bytes()[self.at..];
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }
}

/// The text that a string stands for; the reader has looked at its escapes.
fn unescape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    loop {
        let (before, from) = rest.split_at(plain(rest.as_bytes()));
        out.push_str(before);
        let Some(&escape) = from.as_bytes().get(1) else {
            return out;
        };
        let mut length = 2;
        out.push(match escape {
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'u' => {
                let unit = code_unit(from).unwrap_or(0);
                let low = from.get(6..).and_then(code_unit);
                length = 6;
                match (unit, low) {
                    (0xd800..0xdc00, Some(low @ 0xdc00..0xe000)) => {
                        length = 12;
                        let code = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                        char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
                    }
                    // Rust's text can't hold half of a pair.
                    _ => char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER),
                }
            }
            quoted => char::from(quoted),
        });
        rest = &from[length..];
    }
}

/// The code unit of a `\u0000` at the beginning.
fn code_unit(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    u32::from_str_radix(digits, 16).ok()
}
