//! The compression that comes with the crate, one file each, and the table of all of it.

#[cfg(feature = "bzip2")]
mod bzip2;
#[cfg(any(feature = "bzip2", feature = "zlib"))]
mod pieces;
#[cfg(feature = "zlib")]
mod zlib;
#[cfg(feature = "zstd")]
mod zstd;

use crate::stage::Stage;

#[allow(dead_code, reason = "without features there is none")]
struct Known {
    name: &'static str,
    content_type: &'static str,
    alias: &'static str,
    feature: &'static str,
    enabled: bool,
}

/// The names and types that Python kombu has for them.
const ZLIB: Known = Known {
    name: "zlib",
    content_type: "application/x-gzip",
    alias: "gzip",
    feature: "zlib",
    enabled: cfg!(feature = "zlib"),
};
const BZIP2: Known = Known {
    name: "bzip2",
    content_type: "application/x-bz2",
    alias: "bzip",
    feature: "bzip2",
    enabled: cfg!(feature = "bzip2"),
};
const ZSTD: Known = Known {
    name: "zstd",
    content_type: "application/zstd",
    alias: "zstandard",
    feature: "zstd",
    enabled: cfg!(feature = "zstd"),
};

impl Known {
    #[allow(dead_code, reason = "without features there is none")]
    fn stage(&self, bytes: impl crate::ByteStage) -> Stage {
        Stage::known(self.name, self.content_type, self.alias, bytes)
    }
}

/// The stages that are compiled in.
pub(crate) fn built_in() -> Vec<Stage> {
    vec![
        #[cfg(feature = "zlib")]
        ZLIB.stage(zlib::Zlib),
        #[cfg(feature = "bzip2")]
        BZIP2.stage(bzip2::Bzip2),
        #[cfg(feature = "zstd")]
        ZSTD.stage(zstd::Zstd),
    ]
}

/// The feature that brings what is meant by this name, alias or content type, if it isn't enabled.
pub(crate) fn missing_feature(wanted: &str) -> Option<&'static str> {
    [ZLIB, BZIP2, ZSTD]
        .into_iter()
        .filter(|known| !known.enabled)
        .find(|known| {
            [known.name, known.content_type, known.alias]
                .iter()
                .any(|own| own.eq_ignore_ascii_case(wanted.trim()))
        })
        .map(|known| known.feature)
}
