//! JSON as Python writes and reads it.
//!
//! Python's `json` writes `NaN` and `Infinity`, integers of any length and lone surrogates. A reader that takes nothing
//! but standard JSON would refuse a whole message for one such header.

use std::borrow::Cow;

use bytes::Bytes;

/// How deep arrays and objects may be nested, the envelope included.
const MAX_DEPTH: usize = 128;

/// Why a text isn't what it should be; never quotes it.
pub(super) type Problem = &'static str;

/// The first byte of a word that a JSON string can't have as it is: a quote, a backslash, a control character.
#[inline]
fn special(word: [u8; 8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES * 0x80;
    // A zero byte gets its high bit set; above the lowest of them, others may get it, too.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    let word = u64::from_le_bytes(word);
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    let quote = zeros(word ^ (ONES * u64::from(b'"')));
    let backslash = zeros(word ^ (ONES * u64::from(b'\\')));
    let found = (control | quote | backslash) & HIGH;
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// How many bytes at the beginning a JSON string has as they are.
#[inline]
fn plain(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        if let Some(found) = special(*word) {
            return at * 8 + found;
        }
    }
    let in_rest = rest.iter().position(|byte| is_special(*byte));
    words.len() * 8 + in_rest.unwrap_or(rest.len())
}

/// Copies the bytes at the beginning that a JSON string has as they are, and says how many those are. Eight at a time,
/// because there are few of them between the quotes of a body in JSON.
#[inline]
fn copy_plain(out: &mut Vec<u8>, bytes: &[u8]) -> usize {
    let start = out.len();
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        out.extend_from_slice(word);
        if let Some(found) = special(*word) {
            out.truncate(out.len() - 8 + found);
            return out.len() - start;
        }
    }
    for &byte in rest {
        if is_special(byte) {
            break;
        }
        out.push(byte);
    }
    out.len() - start
}

/// Writes a string without its quotes.
#[inline]
pub(super) fn escape(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    loop {
        let from = &rest[copy_plain(out, rest)..];
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
pub(super) struct Text<'a> {
    raw: &'a str,
    start: usize,
    escaped: bool,
}

impl<'a> Text<'a> {
    #[inline]
    pub(super) fn value(&self) -> Cow<'a, str> {
        if self.escaped {
            // Pieces of text and whole characters are a text.
            Cow::Owned(String::from_utf8(unescape(self.raw)).unwrap_or_default())
        } else {
            Cow::Borrowed(self.raw)
        }
    }

    /// The bytes that it stands for, of a text that was read from `source`; they are shared with it if there are no escapes.
    pub(super) fn bytes(&self, source: &Bytes) -> Bytes {
        if self.escaped {
            Bytes::from(unescape(self.raw))
        } else {
            source.slice(self.start..self.start + self.raw.len())
        }
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
    pub(super) fn name(&mut self, is_first: bool) -> Result<Option<Cow<'a, str>>, Problem> {
        // Python's separators, which nearly everybody's are.
        if !is_first && self.rest().starts_with(b", \"") {
            self.at += 2;
        } else if !self.another(is_first, b'}')? {
            return Ok(None);
        } else if self.next_visible() != Some(b'"') {
            return Err("a name isn't a string");
        }
        let name = self.text_behind_quote()?;
        if self.rest().starts_with(b": ") {
            self.at += 2;
        } else if self.next_visible() == Some(b':') {
            self.at += 1;
        } else {
            return Err("no colon behind a name");
        }
        Ok(Some(name.value()))
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

    #[inline]
    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    #[inline]
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
        if !self.rest().starts_with(word.as_bytes()) {
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
                            let digits = digits.unwrap_or(b" ");
                            self.at += digits.len();
                            digits.iter().all(u8::is_ascii_hexdigit)
                        }
                        byte => matches!(
                            byte,
                            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')
                        ),
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
            let is_named = self.rest().starts_with(word.as_bytes());
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
        let count = self
            .rest()
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        self.at += count;
        count
    }
}

/// What a string stands for; the reader has looked at its escapes.
fn unescape(raw: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    loop {
        let from = &rest[copy_plain(&mut out, rest)..];
        let [b'\\', escape, after @ ..] = from else {
            return out;
        };
        rest = after;
        out.push(match escape {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 0x08,
            b'f' => 0x0c,
            b'u' => {
                let unit = code_unit(from);
                let low = code_unit(from.get(6..).unwrap_or_default());
                let (code, length) = match (unit, low) {
                    (Some(high @ 0xd800..0xdc00), Some(low @ 0xdc00..0xe000)) => {
                        (0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00), 12)
                    }
                    (unit, _) => (unit.unwrap_or(0), 6),
                };
                // Rust's text can't hold half of a pair.
                let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                let mut utf8 = [0; 4];
                out.extend_from_slice(character.encode_utf8(&mut utf8).as_bytes());
                rest = from.get(length..).unwrap_or_default();
                continue;
            }
            quoted => *quoted,
        });
    }
}

/// The code unit of a `\u0000` at the beginning.
fn code_unit(bytes: &[u8]) -> Option<u32> {
    let [b'\\', b'u', digits @ ..] = bytes else {
        return None;
    };
    let digits = str::from_utf8(digits.get(..4)?).ok()?;
    u32::from_str_radix(digits, 16).ok()
}
