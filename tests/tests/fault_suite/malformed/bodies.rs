//! Bodies that nobody can decode, or that say something else than they are.

use std::sync::LazyLock;

use fastrand::Rng;
use kombu::serializers::Registry;

/// What of it can be said in properties, which may be wrong as well.
#[derive(Default)]
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) content_type: Option<Vec<u8>>,
    pub(super) content_encoding: Option<Vec<u8>>,
    pub(super) compression: Option<Vec<u8>>,
}

/// The most that a receiver takes.
pub(super) const MOST: usize = 1 << 20;

/// More than that, of nothing.
static BOMB: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let registry = Registry::default();
    let zlib = registry.stages().by_name("zlib").unwrap();
    zlib.encode(&vec![b' '; 8 * MOST]).unwrap().to_vec()
});

const YAML_BOMB: &str = "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n\
    c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n\
    e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
    g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n";

pub(super) fn any(rng: &mut Rng, token: &str) -> Body {
    let of = |kind: &str, bytes: Vec<u8>| Body {
        bytes,
        content_type: Some(kind.into()),
        content_encoding: Some("utf-8".into()),
        compression: None,
    };
    let json = |text: String| of("application/json", text.into_bytes());
    let with_token = |bytes: &[u8]| [bytes, token.as_bytes()].concat();
    match rng.u8(..22) {
        0 => json(format!(r#"{{"{token}": [1, 2"#)),
        1 => json(String::new()),
        2 => of("application/json", with_token(b"\"\xff\xfe")),
        3 => of("application/json", {
            let noise: Vec<u8> = (0..rng.usize(..300)).map(|_| rng.u8(..)).collect();
            with_token(&noise)
        }),
        4 => Body {
            compression: Some("application/x-gzip".into()),
            ..of("application/json", with_token(&BOMB))
        },
        5 => json(format!("{}{token}", "[".repeat(rng.usize(1..60_000)))),
        6 => of(
            "application/x-yaml",
            format!("{YAML_BOMB}h: {token}").into_bytes(),
        ),
        7 => of("application/x-msgpack", with_token(b"\xdd\xff\xff\xff\xff")),
        8 => of("application/x-msgpack", with_token(b"\xdb\xff\xff\xff\xff")),
        9 => of("application/x-msgpack", with_token(&[0x91; 5_000])),
        // It can be read after all.
        10 => json(format!(r#""{token}""#)),
        11 => json(format!(r#"{{"good": "{token}"}}"#)),
        12 => json(format!(r#"{{"good": -1, "good": 1e999, "{token}": 1}}"#)),
        13 => of("application/x-nonsense", with_token(b"{}")),
        14 => of(&"x".repeat(255), with_token(b"{}")),
        15 => of("application/x-python-serialize", with_token(b"\x80\x04.")),
        16 => Body {
            content_type: Some(b"application/\xff\xfe".to_vec()),
            ..json(format!(r#""{token}""#))
        },
        17 => Body {
            content_encoding: Some(
                rng.choice([&b"\xc3"[..], b"utf-16", b"", b"klingon"])
                    .unwrap()
                    .to_vec(),
            ),
            ..json(format!(r#""{token}""#))
        },
        18 => Body {
            compression: Some(
                rng.choice([&b"none"[..], b"application/x-nonsense", b"\xff"])
                    .unwrap()
                    .to_vec(),
            ),
            ..json(format!(r#""{token}""#))
        },
        19 => Body {
            compression: Some(
                rng.choice([&b"application/x-gzip"[..], b"application/x-bz2", b"zstd"])
                    .unwrap()
                    .to_vec(),
            ),
            ..of("application/json", with_token(b"\x78\x9c\xff\xff"))
        },
        20 => Body {
            bytes: with_token(b""),
            ..Body::default()
        },
        _ => json(format!(
            r#"[[], {{"envelope": 99, "version": -1, "{token}": null}}]"#
        )),
    }
}

/// The begin of something, for who looks for what went wrong.
pub(super) fn shown(bytes: &[u8]) -> String {
    const SHOWN: usize = 400;
    let some = &bytes[..bytes.len().min(SHOWN)];
    format!("{} bytes \"{}\"", bytes.len(), some.escape_ascii())
}
