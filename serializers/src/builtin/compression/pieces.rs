//! Room for what comes out of a stream, so that never more is held than the limit and one piece.

use crate::error::BoxError;
use crate::stage::Beyond;

const SMALLEST: usize = 4 * 1024;
const LARGEST: usize = 512 * 1024;

/// What a decoder has done with what it was given.
pub(super) struct Step {
    /// How many bytes of the body it took.
    pub(super) read: usize,
    pub(super) ended: bool,
}

/// Has a decoder fill the spare capacity of one piece after the other, until the stream has ended, and puts them together.
///
/// That holds everything twice for a moment. Of what comes to more than half of the limit, only the size is found out
/// like this, and another decoder writes it to where it stays.
///
/// A body is one stream: what follows its end is refused, be it another one.
pub(super) fn collect<D>(
    body: &[u8],
    limit: usize,
    open: impl Fn() -> D,
) -> Result<Vec<u8>, BoxError>
where
    D: FnMut(&[u8], &mut Vec<u8>) -> Result<Step, BoxError>,
{
    let mut decode = open();
    let mut rest = body;
    // One byte more than is allowed shows that there is more.
    let mut room = limit.saturating_add(1);
    let most_pieces = (limit / 2).max(LARGEST);
    let mut size = body.len().saturating_mul(4).clamp(SMALLEST, LARGEST);
    let mut total = 0;
    let mut full: Vec<Vec<u8>> = Vec::new();
    let mut piece = Vec::with_capacity(size.min(room));
    loop {
        let before = piece.len();
        let Step { read, ended } = decode(rest, &mut piece)?;
        let written = piece.len() - before;
        rest = rest.get(read..).unwrap_or_default();
        total += written;
        room = room.saturating_sub(written);
        if room == 0 {
            return Err(Beyond.into());
        }
        if ended {
            break;
        }
        if piece.len() < piece.capacity() {
            if read == 0 && written == 0 {
                return Err("the stream is cut off".into());
            }
        } else if total > most_pieces {
            full = Vec::new();
            piece.clear();
        } else {
            size = (2 * size).min(LARGEST);
            let next = Vec::with_capacity(size.min(room));
            full.push(std::mem::replace(&mut piece, next));
        }
    }
    if !rest.is_empty() {
        return Err(format!("{} bytes follow the end of the stream", rest.len()).into());
    }
    if piece.len() == total {
        piece.shrink_to_fit();
        return Ok(piece);
    }
    if total <= most_pieces {
        full.push(piece);
        return Ok(full.concat());
    }
    drop((decode, full, piece));
    again(body, total, open())
}

/// Decodes a stream of which is known what it comes to.
fn again(
    body: &[u8],
    size: usize,
    mut decode: impl FnMut(&[u8], &mut Vec<u8>) -> Result<Step, BoxError>,
) -> Result<Vec<u8>, BoxError> {
    let mut rest = body;
    // A decoder may want room to find that there is nothing more.
    let mut out = Vec::with_capacity(size + 1);
    loop {
        let before = out.len();
        let Step { read, ended } = decode(rest, &mut out)?;
        rest = rest.get(read..).unwrap_or_default();
        if ended {
            return Ok(out);
        }
        if read == 0 && out.len() == before {
            return Err("the stream came to something else the second time".into());
        }
    }
}
