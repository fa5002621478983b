//! Compressed bodies that mean harm are refused, fast, and before more is held than may be.
//!
//! How fast is measured in a release build only: `cargo test --release -p kombu-serializers --all-features --test bombs`.
#![cfg(any(feature = "zlib", feature = "bzip2", feature = "zstd"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cpu_time::ThreadTime;
use kombu_serializers::{Registry, SerializerErrorKind, Stage};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Memory is that of the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of one thread, so that what runs beside doesn't count. A debug build is slower by far.
const FAST: Duration = match cfg!(debug_assertions) {
    true => Duration::from_secs(5),
    false => Duration::from_millis(100),
};
const MIB: usize = 1024 * 1024;
const LITTLE: usize = 64 * MIB;
const DEFAULT_LIMIT: usize = 64 * MIB;
const BOMB: usize = 1024 * MIB;

/// What it comes to, how long that took, and how many bytes more than before were held meanwhile; without the 160 KB
/// that zstd allocates in C.
fn measured<T>(call: impl FnOnce() -> T) -> (T, Duration, usize) {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let start = ThreadTime::now();
    let outcome = call();
    let took = start.elapsed();
    let held = ALLOCATOR.peak_usage().saturating_sub(before);
    (outcome, took, held)
}

/// What may be held beside what comes out. A block of bzip2 takes 4 MB.
fn beside(stage: &Stage) -> usize {
    match stage.name() {
        "bzip2" => 5 * MIB,
        _ => MIB,
    }
}

fn stage(name: &str) -> Stage {
    Registry::default().stages().by_name(name).unwrap()
}

fn all() -> Vec<Stage> {
    let registry = Registry::default();
    let names = registry.stages().names();
    names.iter().map(|name| stage(name)).collect()
}

fn kind(stage: &Stage, body: &[u8], limit: usize) -> SerializerErrorKind {
    let (outcome, _, held) = measured(|| stage.decode(body, limit).map(|_| ()));
    assert!(held <= limit + beside(stage), "{held} bytes for {stage:?}");
    outcome.unwrap_err().kind()
}

#[track_caller]
fn assert_bomb_is_refused(stage: &Stage, bomb: &[u8]) {
    for limit in [0, 1_000, 4 * MIB, DEFAULT_LIMIT] {
        let (outcome, took, held) = measured(|| stage.decode(bomb, limit).map(|_| ()));
        println!(
            "{stage}, {} bytes, limit {limit}: {took:?}, {held} bytes held",
            bomb.len()
        );
        assert_eq!(
            outcome.unwrap_err().kind(),
            SerializerErrorKind::TooLarge,
            "{limit}"
        );
        assert!(held <= limit + beside(stage), "{held} bytes for {limit}");
        if limit < DEFAULT_LIMIT {
            assert!(took < FAST && held < LITTLE, "{took:?}, {held} bytes");
        } else {
            // So much takes its time to be made, but no more than so much.
            assert!(took < 5 * FAST, "{took:?}");
        }
    }
}

/// About so many zeros: one of them, and copies of 258 of what came before, 13 bits each.
#[cfg(feature = "zlib")]
fn zlib_bomb(size: usize) -> Vec<u8> {
    #[derive(Default)]
    struct Bits {
        bytes: Vec<u8>,
        next: u64,
        count: u32,
    }
    impl Bits {
        fn push(&mut self, bits: u64, count: u32) {
            self.next |= bits << self.count;
            self.count += count;
            while self.count >= 8 {
                self.bytes.push(self.next as u8);
                self.next >>= 8;
                self.count -= 8;
            }
        }
    }
    let copies = size / 258;
    let mut bits = Bits::default();
    bits.push(0x9c78, 16);
    bits.push(0b011, 3); // the last block, with the fixed codes
    let zero = 0b0011_0000u8.reverse_bits();
    bits.push(zero.into(), 8);
    let copy = 0b1100_0101u8.reverse_bits();
    for _ in 0..copies {
        bits.push(copy.into(), 8);
        bits.push(0, 5);
    }
    bits.push(0, 7); // the end
    bits.push(0, (8 - bits.count) % 8);
    let size = (1 + 258 * copies) as u64;
    let adler = ((size % 65_521) << 16 | 1) as u32;
    bits.bytes.extend(adler.to_be_bytes());
    bits.bytes
}

#[cfg(feature = "zlib")]
#[test]
fn a_zlib_bomb_is_refused() {
    let _alone = alone();
    assert_bomb_is_refused(&stage("zlib"), &zlib_bomb(BOMB));
    // Bombs of this sort are streams, and not just broken.
    let small = stage("zlib").decode(&zlib_bomb(MIB), MIB).unwrap();
    assert!(small.len() > MIB - 258);
    // The largest that is taken holds no more.
    let largest = zlib_bomb(DEFAULT_LIMIT);
    let taken = || stage("zlib").decode(&largest, DEFAULT_LIMIT).unwrap();
    let (_, _, held) = measured(taken);
    assert!(held <= DEFAULT_LIMIT + MIB, "{held}");
}

#[cfg(feature = "bzip2")]
#[test]
fn a_bzip2_bomb_is_refused() {
    let _alone = alone();
    assert_bomb_is_refused(&stage("bzip2"), include_bytes!("python/zeros.bz2"));
}

#[cfg(feature = "zstd")]
mod zstd {
    use super::*;

    /// The window of a frame, as its power of two.
    fn window(log: u8) -> u8 {
        (log - 10) << 3
    }

    /// Blocks of zeros, four bytes for 128 KiB each.
    fn zeros(size: usize) -> Vec<u8> {
        const BLOCK: usize = 128 * 1024;
        let blocks = size / BLOCK;
        let block = |last: bool| {
            let head = (BLOCK as u32) << 3 | 1 << 1 | u32::from(last);
            let [low, middle, high, _] = head.to_le_bytes();
            [low, middle, high, 0]
        };
        let mut body = block(false).repeat(blocks - 1);
        body.extend(block(true));
        body
    }

    fn frame(head: &[u8], blocks: &[u8]) -> Vec<u8> {
        [b"\x28\xb5\x2f\xfd", head, blocks].concat()
    }

    /// A frame that says how much it holds.
    fn sized(size: u64, log: u8, blocks: &[u8]) -> Vec<u8> {
        let head = [&[0b1100_0000, window(log)][..], &size.to_le_bytes()];
        frame(&head.concat(), blocks)
    }

    /// One that doesn't.
    fn unsized_(log: u8, blocks: &[u8]) -> Vec<u8> {
        frame(&[0, window(log)], blocks)
    }

    #[test]
    fn a_zstd_bomb_is_refused() {
        let _alone = alone();
        let blocks = zeros(BOMB);
        let stage = stage("zstd");
        for log in [17, 27] {
            assert_bomb_is_refused(&stage, &unsized_(log, &blocks));
            assert_bomb_is_refused(&stage, &sized(BOMB as u64, log, &blocks));
        }
        let small = stage.decode(&unsized_(17, &zeros(MIB)), MIB).unwrap();
        assert_eq!(small.len(), MIB);
    }

    #[test]
    fn a_frame_that_lies_about_its_size_is_refused() {
        let _alone = alone();
        let (stage, blocks) = (stage("zstd"), zeros(MIB));
        let truth = MIB as u64;
        assert!(stage.decode(&sized(truth, 17, &blocks), MIB).is_ok());
        for claim in [0, 1, truth - 1, truth + 1, 4 * truth] {
            let body = sized(claim, 17, &blocks);
            assert_eq!(kind(&stage, &body, 4 * MIB), SerializerErrorKind::Decode);
        }
        for claim in [4 * truth + 1, 1 << 40, u64::MAX / 2, u64::MAX - 2] {
            let body = sized(claim, 17, &blocks);
            assert_eq!(kind(&stage, &body, 4 * MIB), SerializerErrorKind::TooLarge);
        }
    }

    #[test]
    fn a_large_window_takes_no_memory() {
        let _alone = alone();
        let stage = stage("zstd");
        let (decoded, _, held) =
            measured(|| stage.decode(&unsized_(31, &zeros(MIB)), 4 * MIB).unwrap());
        assert_eq!(decoded.len(), MIB);
        assert!(held < 4 * MIB + beside(&stage), "{held}");
    }

    #[test]
    fn a_frame_that_does_not_say_its_size_holds_no_more_than_the_limit() {
        let _alone = alone();
        let stage = stage("zstd");
        for size in [MIB, 15 * MIB, 17 * MIB, 60 * MIB, DEFAULT_LIMIT] {
            let body = unsized_(17, &zeros(size));
            let (decoded, _, held) = measured(|| stage.decode(&body, DEFAULT_LIMIT).unwrap());
            assert!(decoded == vec![0; size]);
            assert!(held <= DEFAULT_LIMIT + beside(&stage), "{held} for {size}");
        }
    }

    #[test]
    fn what_no_frame_begins_like_is_refused() {
        let _alone = alone();
        let stage = stage("zstd");
        for body in [
            &b""[..],
            b"\x28\xb5\x2f\xfd",
            b"\x28\xb5\x2f",
            b"\x50\x2a\x4d\x18\x00\x00\x00\x00", // a frame to be skipped
            b"\x37\xa4\x30\xec",                 // a dictionary
        ] {
            assert_eq!(kind(&stage, body, MIB), SerializerErrorKind::Decode);
        }
        let with_dictionary = frame(&[1, window(17), 7], &zeros(MIB));
        assert_eq!(
            kind(&stage, &with_dictionary, MIB),
            SerializerErrorKind::Decode
        );
    }
}

#[test]
fn a_body_that_is_cut_off_anywhere_is_refused() {
    let _alone = alone();
    for stage in all() {
        let body = stage.encode(&b"all is well\n".repeat(20)).unwrap();
        for end in 0..body.len() {
            let cut = kind(&stage, &body[..end], MIB);
            assert_eq!(cut, SerializerErrorKind::Decode, "{stage:?} {end}");
        }
    }
}

#[test]
fn what_follows_the_end_of_a_stream_is_refused() {
    let _alone = alone();
    for stage in all() {
        for size in [0, 1, 100, 1_000_000] {
            let whole = stage.encode(&vec![b'x'; size]).unwrap();
            for behind in [&b"\0"[..], b"\n", b"kombu", &whole] {
                let body = [&whole, behind].concat();
                let longer = kind(&stage, &body, 4 * MIB);
                assert_eq!(longer, SerializerErrorKind::Decode, "{stage:?} {size}");
            }
        }
    }
}

#[test]
fn a_stream_within_a_stream_is_left_alone() {
    let _alone = alone();
    for stage in all() {
        let inner = stage.encode(b"kombu").unwrap();
        let outer = stage.encode(&inner).unwrap();
        assert_eq!(stage.decode(&outer, MIB).unwrap(), inner);
    }
}

#[test]
fn a_body_up_to_the_limit_is_taken() {
    let _alone = alone();
    for stage in all() {
        for size in [0, 1, 4_096, 100_000, 512 * 1024, 3 * MIB + 1] {
            let body = stage.encode(&vec![7; size]).unwrap();
            let ((), _, held) = measured(|| {
                let decoded = stage.decode(&body, size).unwrap();
                assert_eq!(decoded.len(), size);
                assert!(decoded.iter().all(|byte| *byte == 7));
            });
            assert!(held <= size + beside(&stage), "{held} for {size}");
            for limit in [size / 2, size.saturating_sub(1)] {
                if limit < size {
                    let refused = kind(&stage, &body, limit);
                    assert_eq!(refused, SerializerErrorKind::TooLarge, "{stage:?} {size}");
                }
            }
            let endless = stage.decode(&body, usize::MAX).unwrap();
            assert_eq!(endless.len(), size);
        }
    }
}

/// Zeros are the least that a sender has to send; noise takes its time.
#[test]
fn what_is_taken_holds_no_more_than_the_limit() {
    let _alone = alone();
    for stage in all() {
        let limit = 8 * MIB;
        for size in [3 * MIB, limit / 2, limit / 2 + 1, limit - 1, limit] {
            let body = stage.encode(&vec![0; size]).unwrap();
            let (decoded, took, held) = measured(|| stage.decode(&body, limit).unwrap());
            println!("{stage}, {size} bytes: {took:?}, {held} bytes held");
            assert!(decoded == vec![0; size]);
            assert!(held <= limit + beside(&stage), "{held} for {size}");
        }
        let mut state = 1_u64;
        let mut noise = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        let noise: Vec<u8> = (0..3 * MIB).map(|_| noise()).collect();
        let body = stage.encode(&noise).unwrap();
        for limit in [noise.len(), noise.len() + 1, 2 * noise.len(), usize::MAX] {
            let (decoded, _, held) = measured(|| stage.decode(&body, limit).unwrap());
            assert!(decoded == noise, "{stage}, {limit}");
            let limit = limit.min(2 * noise.len());
            assert!(held <= limit + beside(&stage), "{held} for {limit}");
        }
    }
}

#[test]
fn streams_of_other_formats_are_refused() {
    let _alone = alone();
    let bodies: Vec<_> = all()
        .iter()
        .map(|stage| stage.encode(b"kombu").unwrap())
        .collect();
    for (index, stage) in all().iter().enumerate() {
        for (other, body) in bodies.iter().enumerate() {
            assert_eq!(
                stage.decode(body, MIB).is_ok(),
                index == other,
                "{stage:?} {other}"
            );
        }
        // What is called gzip is zlib, as in Python.
        let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\xce\xcfM*\x05\0\x9e\x8e\x86\x9f\x05\0\0\0";
        assert_eq!(kind(stage, gzip, MIB), SerializerErrorKind::Decode);
    }
}
