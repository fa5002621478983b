use std::io::Write;

use flate2::write::ZlibEncoder;
use flate2::{Compression, Decompress, FlushDecompress, Status};

use super::pieces::{self, Step};
use crate::error::BoxError;
use crate::stage::ByteStage;

/// A zlib stream, although its content type says gzip: Python kombu has it so.
pub(super) struct Zlib;

impl ByteStage for Zlib {
    fn encode(&self, body: &[u8]) -> Result<Vec<u8>, BoxError> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(body)?;
        Ok(encoder.finish()?)
    }

    fn decode(&self, body: &[u8], limit: usize) -> Result<Vec<u8>, BoxError> {
        pieces::collect(body, limit, || {
            let mut inflate = Decompress::new(true);
            move |rest: &[u8], out: &mut Vec<u8>| {
                let before = inflate.total_in();
                let status = inflate.decompress_vec(rest, out, FlushDecompress::None)?;
                Ok(Step {
                    read: (inflate.total_in() - before) as usize,
                    ended: status == Status::StreamEnd,
                })
            }
        })
    }
}
