//! How deep a body is nested and how much it claims to hold, found out without recursion.

use crate::limits::NESTING;

/// A quick look that errs on the side of yes: a body is at most as deep as it has bytes that could
/// open a sequence or a map. Nearly every real message ends here, the small ones at the first test,
/// which is the cheaper one.
#[inline]
pub(super) fn may_be_too_deep(body: &[u8]) -> bool {
    has_many(body, |byte| byte >= 0x80) && has_many(body, opens)
}

#[inline]
fn opens(byte: u8) -> bool {
    byte & 0xe0 == 0x80 || byte & 0xfc == 0xdc
}

/// Pieces of a fixed size whose count fits a byte: the compiler makes vector instructions of that.
const PIECE: usize = 32;

#[inline]
fn has_many(body: &[u8], is_one: impl Fn(u8) -> bool) -> bool {
    let Some(last) = body.last_chunk::<PIECE>().filter(|_| body.len() > NESTING) else {
        return false;
    };
    // The last piece overlaps the one before, which costs less than a remainder.
    let pieces = body.as_chunks::<PIECE>().0.iter().chain([last]);
    let counts = pieces.map(|piece| piece.iter().map(|byte| u8::from(is_one(*byte))).sum::<u8>());
    counts.map(usize::from).sum::<usize>() > NESTING
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    TooDeep,
    /// More items are to come than there are bytes.
    ClaimsTooMuch,
}

/// Walks over the first value. A body that is cut off or makes no sense has no fault: decoding it
/// will tell.
#[cold]
pub(super) fn fault(body: &[u8]) -> Option<Fault> {
    let mut open: Vec<u64> = Vec::with_capacity(NESTING + 1);
    let mut input = Input(body);
    // Items to come, over all levels.
    let mut claimed: u64 = 1;
    loop {
        let items = input.skip_one()?;
        claimed += items;
        match items {
            0 => {}
            _ if open.len() >= NESTING => return Some(Fault::TooDeep),
            // The collection itself is one that has come.
            _ if claimed - 1 > input.0.len() as u64 => return Some(Fault::ClaimsTooMuch),
            items => {
                open.push(items);
                claimed -= 1;
                continue;
            }
        }
        claimed -= 1;
        // An item has ended, and with it every collection of which it was the last.
        loop {
            let left = open.last_mut()?;
            *left -= 1;
            if *left > 0 {
                break;
            }
            open.pop();
        }
    }
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    /// Steps over a scalar, or over the head of a collection: then the answer is the number of its
    /// items, where a map has two per entry.
    fn skip_one(&mut self) -> Option<u64> {
        let marker = self.number(1)?;
        let payload = match marker {
            0x80..=0x8f => return Some((marker & 0x0f) * 2),
            0x90..=0x9f => return Some(marker & 0x0f),
            0xdc => return self.number(2),
            0xdd => return self.number(4),
            0xde => return Some(self.number(2)? * 2),
            0xdf => return Some(self.number(4)? * 2),
            0xa0..=0xbf => marker & 0x1f,
            0xc4 | 0xd9 => self.number(1)?,
            0xc5 | 0xda => self.number(2)?,
            0xc6 | 0xdb => self.number(4)?,
            0xc7 => self.number(1)? + 1,
            0xc8 => self.number(2)? + 1,
            0xc9 => self.number(4)? + 1,
            0xcc | 0xd0 => 1,
            0xcd | 0xd1 => 2,
            0xca | 0xce | 0xd2 => 4,
            0xcb | 0xcf | 0xd3 => 8,
            0xd4..=0xd8 => (1 << (marker - 0xd4)) + 1,
            _ => 0,
        };
        self.0 = self.0.get(usize::try_from(payload).ok()?..)?;
        Some(0)
    }

    fn number(&mut self, width: usize) -> Option<u64> {
        let (digits, rest) = self.0.split_at_checked(width)?;
        self.0 = rest;
        Some(
            digits
                .iter()
                .fold(0, |number, byte| number << 8 | u64::from(*byte)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(marker: &[u8], depth: usize) -> Vec<u8> {
        let mut body = marker.repeat(depth);
        body.push(0xc0);
        body
    }

    #[test]
    fn every_byte_that_opens_a_collection_is_counted() {
        for byte in 0..=u8::MAX {
            assert_eq!(
                opens(byte),
                matches!(byte, 0x80..=0x9f | 0xdc..=0xdf),
                "{byte:x}"
            );
        }
        assert!(may_be_too_deep(&[0x91; NESTING + 1]));
        assert!(!may_be_too_deep(&[0x91; NESTING]));
    }

    #[test]
    fn the_limit_is_met_to_the_level() {
        for marker in [
            &b"\x91"[..],
            b"\xdc\x00\x01",
            b"\xdd\x00\x00\x00\x01",
            b"\x81\x00",
            b"\x92\xc4\x02\x91\x91",
        ] {
            assert_eq!(fault(&nested(marker, NESTING)), None, "{marker:x?}");
            let deeper = fault(&nested(marker, NESTING + 1));
            assert_eq!(deeper, Some(Fault::TooDeep), "{marker:x?}");
            assert!(may_be_too_deep(&nested(marker, NESTING + 1)), "{marker:x?}");
        }
    }

    #[test]
    fn many_collections_side_by_side_are_not_deep() {
        let mut body = vec![0xdc, 0x03, 0xe8];
        body.extend(b"\x92\x90\x81\x01\x80".repeat(1_000));
        assert!(may_be_too_deep(&body));
        assert_eq!(fault(&body), None);
    }

    #[test]
    fn claims_are_met_to_the_item() {
        for body in [
            &b"\xdc\x00\x02\xc0\xc0"[..],
            b"\xde\x00\x01\xc0\xc0",
            b"\xdd\x00\x00\x00\x02\xdc\x00\x01\xc0\xc0",
            b"\x92\xdc\x00\x01\xc0\xdc\x00\x01\xc0",
        ] {
            assert_eq!(fault(body), None, "{body:x?}");
            let cut = fault(&body[..body.len() - 1]);
            assert_eq!(cut, Some(Fault::ClaimsTooMuch), "{body:x?}");
        }
        assert_eq!(fault(b"\xdd\xff\xff\xff\xff"), Some(Fault::ClaimsTooMuch));
    }

    #[test]
    fn payloads_are_stepped_over_by_their_length() {
        let kinds: [&[u8]; 16] = [
            b"\xa2\x91\x91",
            b"\xd9\x02\x91\x91",
            b"\xda\x00\x01\x91",
            b"\xdb\x00\x00\x00\x01\x91",
            b"\xc5\x00\x01\x91",
            b"\xc6\x00\x00\x00\x01\x91",
            b"\xc7\x01\x91\x91",
            b"\xc8\x00\x01\x91\x91",
            b"\xc9\x00\x00\x00\x01\x91\x91",
            b"\xcc\x91",
            b"\xd1\x91\x91",
            b"\xca\x91\x91\x91\x91",
            b"\xcf\x91\x91\x91\x91\x91\x91\x91\x91",
            b"\xd4\x91\x91",
            b"\xd5\x91\x91\x91",
            b"\xd8\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91",
        ];
        for kind in kinds {
            let mut input = Input(kind);
            assert_eq!(input.skip_one(), Some(0), "{kind:x?}");
            assert!(input.0.is_empty(), "{kind:x?}");
        }
    }

    #[test]
    fn a_body_that_is_cut_off_is_left_to_the_decoder() {
        for body in [&b""[..], b"\xc6\xff\xff\xff\xff", b"\xdf\x00"] {
            assert_eq!(fault(body), None, "{body:x?}");
        }
    }
}
