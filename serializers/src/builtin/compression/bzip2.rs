use std::io::Write;

use bzip2::write::BzEncoder;
use bzip2::{Compression, Decompress, Status};

use super::pieces::{self, Step};
use crate::error::BoxError;
use crate::stage::ByteStage;

/// What a block holds, per level.
const BLOCK: usize = 100_000;

pub(super) struct Bzip2;

impl ByteStage for Bzip2 {
    fn encode(&self, body: &[u8]) -> Result<Vec<u8>, BoxError> {
        // Python's level is 9, whose blocks take 8 MB here and 4 MB at the receiver; a body that fits a
        // smaller one comes to the same.
        let level = (body.len() / BLOCK + 1).min(9) as u32;
        let mut encoder = BzEncoder::new(Vec::new(), Compression::new(level));
        encoder.write_all(body)?;
        Ok(encoder.finish()?)
    }

    fn decode(&self, body: &[u8], limit: usize) -> Result<Vec<u8>, BoxError> {
        pieces::collect(body, limit, || {
            let mut decoder = Decompress::new(false);
            move |rest: &[u8], out: &mut Vec<u8>| {
                let before = decoder.total_in();
                let status = decoder.decompress_vec(rest, out)?;
                if status == Status::MemNeeded {
                    return Err("there is no memory for its blocks".into());
                }
                Ok(Step {
                    read: (decoder.total_in() - before) as usize,
                    ended: status == Status::StreamEnd,
                })
            }
        })
    }
}
