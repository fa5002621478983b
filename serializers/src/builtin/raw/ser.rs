//! Takes bytes and text out of a `Serialize`, and refuses everything that would need a format.

use std::fmt;

use serde::ser::{self, Impossible, Serialize, SerializeSeq, SerializeTuple, Serializer};

/// What a body may be made of.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Allows {
    BytesAndText,
    Text,
}

/// The whole body.
pub(super) struct Whole<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) allows: Allows,
}

/// Why a value is no body.
#[derive(Debug)]
pub(crate) enum Refused {
    NotBytesOrText(&'static str),
    NotText(&'static str),
    Custom(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBytesOrText(what) => {
                write!(
                    f,
                    "the raw serializer takes bytes or text, and this is {what}: use json, or publish_bytes"
                )
            }
            Self::NotText(what) => {
                write!(
                    f,
                    "the text serializer takes text, and this is {what}: use json, or raw for bytes"
                )
            }
            Self::Custom(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Refused {}

impl ser::Error for Refused {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Custom(message.to_string())
    }
}

impl<'a> Whole<'a> {
    fn refuse<T>(&self, what: &'static str) -> Result<T, Refused> {
        Err(match self.allows {
            Allows::BytesAndText => Refused::NotBytesOrText(what),
            Allows::Text => Refused::NotText(what),
        })
    }

    fn items(self, what: &'static str) -> Result<Items<'a>, Refused> {
        match self.allows {
            Allows::BytesAndText => Ok(Items { out: self.out }),
            Allows::Text => self.refuse(what),
        }
    }
}

macro_rules! refuse {
    ($($method:ident($($argument:ty),*) -> $answer:ty = $what:expr;)*) => {
        $(fn $method(self, $(_: $argument),*) -> Result<$answer, Refused> {
            self.refuse($what)
        })*
    };
}

macro_rules! refuse_scalars {
    ($what:expr) => {
        refuse! {
            serialize_bool(bool) -> Self::Ok = $what;
            serialize_i8(i8) -> Self::Ok = $what;
            serialize_i16(i16) -> Self::Ok = $what;
            serialize_i32(i32) -> Self::Ok = $what;
            serialize_i64(i64) -> Self::Ok = $what;
            serialize_i128(i128) -> Self::Ok = $what;
            serialize_u16(u16) -> Self::Ok = $what;
            serialize_u32(u32) -> Self::Ok = $what;
            serialize_u64(u64) -> Self::Ok = $what;
            serialize_u128(u128) -> Self::Ok = $what;
            serialize_f32(f32) -> Self::Ok = $what;
            serialize_f64(f64) -> Self::Ok = $what;
            serialize_char(char) -> Self::Ok = $what;
        }
    };
}

macro_rules! refuse_structures {
    ($nothing:expr, $structure:expr) => {
        refuse! {
            serialize_none() -> Self::Ok = $nothing;
            serialize_unit() -> Self::Ok = $nothing;
            serialize_unit_struct(&'static str) -> Self::Ok = $nothing;
            serialize_unit_variant(&'static str, u32, &'static str) -> Self::Ok = $structure;
            serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct = $structure;
            serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Self::SerializeTupleVariant = $structure;
            serialize_map(Option<usize>) -> Self::SerializeMap = $structure;
            serialize_struct(&'static str, usize) -> Self::SerializeStruct = $structure;
            serialize_struct_variant(&'static str, u32, &'static str, usize) -> Self::SerializeStructVariant = $structure;
        }

        fn serialize_newtype_variant<T: Serialize + ?Sized>(
            self,
            _name: &'static str,
            _index: u32,
            _variant: &'static str,
            _value: &T,
        ) -> Result<Self::Ok, Refused> {
            self.refuse($structure)
        }

        type SerializeTupleStruct = Impossible<(), Refused>;
        type SerializeTupleVariant = Impossible<(), Refused>;
        type SerializeMap = Impossible<(), Refused>;
        type SerializeStruct = Impossible<(), Refused>;
        type SerializeStructVariant = Impossible<(), Refused>;
    };
}

impl<'a> Serializer for Whole<'a> {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = Items<'a>;
    type SerializeTuple = Items<'a>;

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), Refused> {
        if self.allows == Allows::Text {
            return self.refuse("bytes");
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn serialize_str(self, text: &str) -> Result<(), Refused> {
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Items<'a>, Refused> {
        self.items("a sequence")
    }

    fn serialize_tuple(self, _len: usize) -> Result<Items<'a>, Refused> {
        self.items("a tuple")
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Refused> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        value.serialize(self)
    }

    fn serialize_u8(self, _: u8) -> Result<(), Refused> {
        self.refuse("a number, a boolean or a character")
    }

    refuse_scalars!("a number, a boolean or a character");
    refuse_structures!("nothing", "a structure");
}

/// A sequence, which is a body as long as it holds bytes only.
pub(super) struct Items<'a> {
    out: &'a mut Vec<u8>,
}

impl SerializeSeq for Items<'_> {
    type Ok = ();
    type Error = Refused;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        value.serialize(Item { out: self.out })
    }

    fn end(self) -> Result<(), Refused> {
        Ok(())
    }
}

impl SerializeTuple for Items<'_> {
    type Ok = ();
    type Error = Refused;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        value.serialize(Item { out: self.out })
    }

    fn end(self) -> Result<(), Refused> {
        Ok(())
    }
}

const SEQUENCE: &str = "a sequence of something else than bytes";

struct Item<'a> {
    out: &'a mut Vec<u8>,
}

impl Item<'_> {
    fn refuse<T>(&self, what: &'static str) -> Result<T, Refused> {
        Err(Refused::NotBytesOrText(what))
    }
}

impl Serializer for Item<'_> {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = Impossible<(), Refused>;
    type SerializeTuple = Impossible<(), Refused>;

    fn serialize_u8(self, byte: u8) -> Result<(), Refused> {
        self.out.push(byte);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _value: &T) -> Result<(), Refused> {
        self.refuse(SEQUENCE)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        value.serialize(self)
    }

    refuse! {
        serialize_bytes(&[u8]) -> () = SEQUENCE;
        serialize_str(&str) -> () = SEQUENCE;
        serialize_seq(Option<usize>) -> Self::SerializeSeq = SEQUENCE;
        serialize_tuple(usize) -> Self::SerializeTuple = SEQUENCE;
    }
    refuse_scalars!(SEQUENCE);
    refuse_structures!(SEQUENCE, SEQUENCE);
}
