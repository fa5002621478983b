//! Room for what comes out of a stream, in pieces, so that never more is held than the limit and one piece.

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

/// Has `step` fill the spare capacity of one piece after the other, until the stream has ended.
///
/// A body is one stream: what follows its end is refused, be it another one.
pub(super) fn collect(
    body: &[u8],
    limit: usize,
    mut step: impl FnMut(&[u8], &mut Vec<u8>) -> Result<Step, BoxError>,
) -> Result<Vec<u8>, BoxError> {
    let mut rest = body;
    // One byte more than is allowed shows that there is more.
    let mut room = limit.saturating_add(1);
    let mut size = body.len().saturating_mul(4).clamp(SMALLEST, LARGEST);
    let mut full: Vec<Vec<u8>> = Vec::new();
    let mut piece = Vec::with_capacity(size.min(room));
    loop {
        let before = piece.len();
        let Step { read, ended } = step(rest, &mut piece)?;
        let written = piece.len() - before;
        rest = rest.get(read..).unwrap_or_default();
        room = room.saturating_sub(written);
        if room == 0 {
            return Err(Beyond.into());
        }
        if ended {
            break;
        }
        if piece.len() == piece.capacity() {
            size = (2 * size).min(LARGEST);
            let next = Vec::with_capacity(size.min(room));
            full.push(std::mem::replace(&mut piece, next));
        } else if read == 0 && written == 0 {
            return Err("the stream is cut off".into());
        }
    }
    if !rest.is_empty() {
        return Err(format!("{} bytes follow the end of the stream", rest.len()).into());
    }
    if full.is_empty() {
        piece.shrink_to_fit();
        return Ok(piece);
    }
    full.push(piece);
    Ok(full.concat())
}
