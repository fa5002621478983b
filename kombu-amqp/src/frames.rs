//! Messages that lapin can't read.
//!
//! RabbitMQ takes any bytes for names and short texts, and headers within headers as deep as a frame has room. Lapin takes the former
//! for a broken line, and has no stack left at the latter: either would end whoever gets the message, again and again. So frames are
//! put right on their way to it. Nothing becomes longer or shorter: what isn't UTF-8 becomes question marks, and what lies too deep
//! becomes the bytes that it is made of.

use kombu_core::FieldValue;

/// Type, channel and length of a frame.
const HEADER: usize = 7;
/// The byte behind it.
const END: usize = 1;
const METHOD: u8 = 1;
const PROPERTIES: u8 = 2;

/// More than any frame takes that has names in it. A larger one is left to lapin.
const MOST: usize = 16 * 1024 * 1024;

/// How deep arrays and tables may lie in each other.
const MAX_DEPTH: usize = FieldValue::MAX_DEPTH;
/// What each of them takes: a type and a length.
const LEAST: usize = 5;

/// Where in a frame the next byte of a connection stands.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// So many bytes belong to a frame that goes on as it is.
    passing: usize,
}

impl Frames {
    /// Puts right what came next, up to a frame that isn't whole yet. Answers how many bytes can go on; the others have to come again,
    /// with those behind them.
    pub(crate) fn put_right(&mut self, bytes: &mut [u8]) -> usize {
        let all = bytes.len();
        let mut rest = Cursor(bytes);
        loop {
            let passing = self.passing.min(rest.0.len());
            rest.take(passing);
            self.passing -= passing;
            if rest.0.is_empty() {
                return all;
            }
            let Some((kind, length)) = frame(rest.0) else {
                return all - rest.0.len();
            };
            let whole = HEADER + length + END;
            if !matches!(kind, METHOD | PROPERTIES) || length > MOST {
                self.passing = whole;
                continue;
            }
            let left = rest.0.len();
            let Some(frame) = rest.take(whole) else {
                return all - left;
            };
            let payload = &mut frame[HEADER..HEADER + length];
            if payload.is_ascii() && length < MAX_DEPTH * LEAST {
                continue;
            }
            let mut payload = Cursor(payload);
            // What can't be understood is left to lapin.
            let _ = match kind {
                METHOD => payload.method(),
                _ => payload.properties(),
            };
        }
    }
}

/// The type of a frame, and how long it is.
fn frame(bytes: &[u8]) -> Option<(u8, usize)> {
    let length = u32::from_be_bytes(*bytes.get(3..)?.first_chunk()?);
    Some((*bytes.first()?, usize::try_from(length).ok()?))
}

/// What is left to be looked at.
struct Cursor<'a>(&'a mut [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a mut [u8]> {
        if count > self.0.len() {
            return None;
        }
        let (taken, rest) = std::mem::take(&mut self.0).split_at_mut(count);
        self.0 = rest;
        Some(taken)
    }

    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.first_chunk().copied()
    }

    fn short_text(&mut self) -> Option<()> {
        let [length] = self.number()?;
        write_as_text(self.take(length.into())?);
        Some(())
    }

    /// A field that begins with its length.
    fn long(&mut self) -> Option<Cursor<'a>> {
        let length = usize::try_from(u32::from_be_bytes(self.number()?)).ok()?;
        self.take(length).map(Cursor)
    }

    /// Those that tell what others have published, or why the broker closes something: it cuts a text where it gets too long.
    fn method(&mut self) -> Option<()> {
        match self.number()? {
            // connection.close, channel.close
            [0, 10, 0, 50] | [0, 20, 0, 40] => {
                self.number::<2>()?;
                self.short_text()
            }
            // basic.return
            [0, 60, 0, 50] => {
                self.number::<2>()?;
                self.short_text()?;
                self.exchange_and_key()
            }
            // basic.deliver
            [0, 60, 0, 60] => {
                self.short_text()?;
                self.number::<9>()?;
                self.exchange_and_key()
            }
            // basic.get-ok
            [0, 60, 0, 71] => {
                self.number::<9>()?;
                self.exchange_and_key()
            }
            _ => None,
        }
    }

    fn exchange_and_key(&mut self) -> Option<()> {
        self.short_text()?;
        self.short_text()
    }

    fn properties(&mut self) -> Option<()> {
        // Class, weight, size of the body.
        self.number::<12>()?;
        let flags = u16::from_be_bytes(self.number()?);
        for bit in (2..=15).rev().filter(|bit| flags >> bit & 1 == 1) {
            match bit {
                13 => self.long()?.table(0)?,
                // Delivery mode and priority.
                11 | 12 => drop(self.number::<1>()?),
                // The timestamp.
                6 => drop(self.number::<8>()?),
                _ => self.short_text()?,
            }
        }
        Some(())
    }

    fn table(&mut self, depth: usize) -> Option<()> {
        while !self.0.is_empty() {
            self.short_text()?;
            self.value(depth)?;
        }
        Some(())
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        while !self.0.is_empty() {
            self.value(depth)?;
        }
        Some(())
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        const BYTES: u8 = b'x';
        let [kind] = self.take(1)? else { return None };
        if depth >= MAX_DEPTH && matches!(kind, b'A' | b'F') {
            *kind = BYTES;
        }
        let length = match kind {
            b'A' => return self.long()?.array(depth + 1),
            b'F' => return self.long()?.table(depth + 1),
            b'S' | &mut BYTES => return self.long().map(drop),
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'u' | b'U' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'L' | b'l' | b'd' | b'T' => 8,
            _ => return None,
        };
        self.take(length).map(drop)
    }
}

/// Puts a question mark for each byte that isn't UTF-8.
fn write_as_text(mut bytes: &mut [u8]) {
    while let Err(problem) = std::str::from_utf8(bytes) {
        let rest = &mut bytes[problem.valid_up_to()..];
        let wrong = problem.error_len().unwrap_or(rest.len());
        rest[..wrong].fill(b'?');
        bytes = rest;
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::parsing::parse_field_table;
    use lapin::types::{AMQPValue, FieldTable};

    use super::*;

    fn short(text: &[u8]) -> Vec<u8> {
        [&[text.len() as u8], text].concat()
    }

    fn long(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
    }

    fn frame_of(kind: u8, payload: &[u8]) -> Vec<u8> {
        [&[kind, 0, 1], &long(payload)[..], &[0xCE]].concat()
    }

    fn delivered(key: &[u8]) -> Vec<u8> {
        let tag = [short(b"tag"), vec![0; 9]].concat();
        let payload = [&[0, 60, 0, 60], &tag[..], &short(b""), &short(key)].concat();
        frame_of(METHOD, &payload)
    }

    /// A header of a message, its headers between a content type and a cluster id.
    fn properties(text: &[u8], headers: &[u8]) -> Vec<u8> {
        let begin = [
            0,
            60,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            7,
            0b1010_0000,
            0b0000_0100,
        ];
        let payload = [&begin[..], &short(text), &long(headers), &short(text)].concat();
        frame_of(PROPERTIES, &payload)
    }

    fn put_right(mut bytes: Vec<u8>) -> Vec<u8> {
        assert_eq!(Frames::default().put_right(&mut bytes), bytes.len());
        bytes
    }

    fn nested(depth: usize) -> Vec<u8> {
        (0..depth).fold(b"V".to_vec(), |inner, level| match level % 2 {
            0 => [b"A", &long(&inner)[..]].concat(),
            _ => [b"F", &long(&[&short(b"in"), &inner[..]].concat())[..]].concat(),
        })
    }

    #[test]
    fn what_is_not_utf_8_is_question_marks() {
        let key = b"caf\xc3\xa9 \xff\xc3";
        let text = "café ??".as_bytes();
        assert_eq!(put_right(delivered(key)), delivered(text));
        let headers = |name: &[u8]| {
            [
                short(name),
                b"I\0\0\0\xff".to_vec(),
                short(name),
                b"V".to_vec(),
            ]
            .concat()
        };
        assert!(parse_field_table(&long(&headers(key))[..]).is_err());
        assert_eq!(
            put_right(properties(key, &headers(key))),
            properties(text, &headers(text))
        );
    }

    #[test]
    fn a_long_text_stays_as_it_is() {
        let headers = [short(b"name"), b"S".to_vec(), long(b"\xff\xfe")].concat();
        let frame = properties(b"text", &headers);
        assert_eq!(put_right(frame.clone()), frame);
    }

    #[test]
    fn what_lies_too_deep_can_be_read_as_bytes() {
        for depth in [MAX_DEPTH, MAX_DEPTH + 1, 20_000] {
            let headers = [short(b"deep"), nested(depth)].concat();
            let frame = put_right(properties(b"", &headers));
            let begin = HEADER + 14 + 1;
            let (_, table) = parse_field_table(&frame[begin..]).unwrap();
            let mut deepest = table.inner().get("deep").unwrap();
            let mut found = 0;
            loop {
                deepest = match deepest {
                    AMQPValue::FieldArray(array) => &array.as_slice()[0],
                    AMQPValue::FieldTable(table) => FieldTable::inner(table).get("in").unwrap(),
                    AMQPValue::ByteArray(bytes) => break assert!(!bytes.as_slice().is_empty()),
                    other => break assert_eq!(*other, AMQPValue::Void),
                };
                found += 1;
            }
            assert_eq!(found, depth.min(MAX_DEPTH));
        }
    }

    #[test]
    fn frames_may_come_in_pieces() {
        let body = frame_of(3, b"\xff\xff");
        let stream = [
            delivered(b"\xff"),
            properties(b"\xff", b""),
            body.clone(),
            delivered(b"\xfe"),
        ]
        .concat();
        let expected = [
            delivered(b"?"),
            properties(b"?", b""),
            body,
            delivered(b"?"),
        ]
        .concat();
        for size in 1..stream.len() {
            let mut frames = Frames::default();
            let (mut waiting, mut passed) = (Vec::new(), Vec::new());
            for piece in stream.chunks(size) {
                waiting.extend(piece);
                let count = frames.put_right(&mut waiting);
                passed.extend(waiting.drain(..count));
            }
            assert_eq!(passed, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn whatever_comes_nothing_is_kept_but_one_frame() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..10_000 {
            let payload: Vec<u8> = (0..rng.usize(..60)).map(|_| rng.u8(..)).collect();
            let class = [
                &[0, 60, 0, *b"\x32\x3c\x47".get(rng.usize(..3)).unwrap()],
                &payload[..],
            ];
            let frame = frame_of(rng.u8(1..=3), &class.concat());
            assert_eq!(put_right(frame.clone()).len(), frame.len());
        }
        let too_long = [PROPERTIES, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0];
        put_right(too_long.to_vec());
    }
}
