use zstd_safe::zstd_sys::ZSTD_ErrorCode;
use zstd_safe::{CCtx, CParameter, DCtx};

use crate::error::BoxError;
use crate::stage::{Beyond, ByteStage};

/// What every frame begins with.
const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
/// Python's level.
const LEVEL: i32 = 3;
/// Where to begin if a frame doesn't say how much it holds.
const GUESS: usize = 64 * 1024;

pub(super) struct Zstd;

impl ByteStage for Zstd {
    fn encode(&self, body: &[u8]) -> Result<Vec<u8>, BoxError> {
        let mut context = CCtx::try_create().ok_or(NO_MEMORY)?;
        for parameter in [
            CParameter::CompressionLevel(LEVEL),
            // The other formats have one anyway.
            CParameter::ChecksumFlag(true),
        ] {
            context.set_parameter(parameter).map_err(named)?;
        }
        let mut out = Vec::with_capacity(zstd_safe::compress_bound(body.len()));
        context.compress2(&mut out, body).map_err(named)?;
        out.shrink_to_fit();
        Ok(out)
    }

    /// Whole frames go straight to where they stay: zstd's streaming would hold a window beside it, of a size
    /// that the sender chooses.
    fn decode(&self, body: &[u8], limit: usize) -> Result<Vec<u8>, BoxError> {
        if !body.starts_with(&MAGIC) {
            return Err("it doesn't begin as a zstd frame does".into());
        }
        let frame = zstd_safe::find_frame_compressed_size(body).map_err(named)?;
        if frame != body.len() {
            let behind = body.len().saturating_sub(frame);
            return Err(format!("{behind} bytes follow the end of the frame").into());
        }
        let mut claimed = zstd_safe::get_frame_content_size(body)
            .map_err(|_| "its header can't be read")?
            .map(|size| usize::try_from(size).unwrap_or(usize::MAX));
        if claimed.is_some_and(|size| size > limit) {
            return Err(Beyond.into());
        }
        let mut context = DCtx::try_create().ok_or(NO_MEMORY)?;
        let mut room = claimed.unwrap_or_else(|| limit.min(GUESS));
        loop {
            let mut out = Vec::new();
            out.try_reserve_exact(room)?;
            match context.decompress(&mut out, body) {
                Ok(size) if claimed.is_some() || room.saturating_add(size) <= limit => {
                    out.shrink_to_fit();
                    return Ok(out);
                }
                // To make the room smaller may take another one beside it, which would be more than the limit.
                Ok(size) => {
                    claimed = Some(size);
                    room = size;
                }
                Err(code) if claimed.is_none() && is_too_small(code) => {
                    if room >= limit {
                        return Err(Beyond.into());
                    }
                    // From the beginning, into four times as much: a third more work, and nothing is held twice.
                    room = room.saturating_mul(4).min(limit);
                }
                Err(code) => return Err(named(code)),
            }
        }
    }
}

const NO_MEMORY: &str = "there is no memory for zstd's context";

/// zstd's codes are the negative of its numbered errors.
fn is_too_small(code: usize) -> bool {
    code.wrapping_neg() == ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize
}

fn named(code: usize) -> BoxError {
    zstd_safe::get_error_name(code).into()
}
