//! Stands between a type and the deserializer of a registered codec, at every level of the value.
//!
//! Two things go wrong in formats that were not written for hostile bodies, and both are met here,
//! whatever the format: recursion without a limit ends the process, and error texts that each level
//! wraps once more can double per level. So levels are counted, and an error passes each level as
//! the text it began with.

use std::cell::{Cell, OnceCell};
use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use crate::error::beginning;
use crate::limits::{NESTING, ROOM};

/// What the levels of one value have in common.
#[derive(Default)]
pub(super) struct Watch {
    /// Sequences, maps and enums that are open.
    collections: Cell<usize>,
    /// Options and newtypes that are open. A format could open them for ever, but they also come
    /// with each level of an honest value, and so have a count of their own.
    wrappers: Cell<usize>,
    failure: OnceCell<String>,
}

impl Watch {
    pub(super) fn into_failure(self) -> Option<String> {
        self.failure.into_inner()
    }

    /// The same error in its first words.
    #[cold]
    pub(super) fn pass<E: Error>(&self, error: &E) -> E {
        E::custom(self.failure.get_or_init(|| beginning(error)))
    }

    #[inline]
    fn enter<'w, E: Error>(&'w self, count: &'w Cell<usize>) -> Result<Level<'w>, E> {
        if count.get() >= NESTING {
            return Err(self.pass(&E::custom(format_args!(
                "the body is nested more than {NESTING} levels deep"
            ))));
        }
        count.set(count.get() + 1);
        Ok(Level(count))
    }
}

struct Level<'w>(&'w Cell<usize>);

impl Drop for Level<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Whatever serde hands around while it takes a value out, with the watch beside it.
pub(super) struct Guarded<'w, T> {
    inner: T,
    watch: &'w Watch,
}

impl<'w, T> Guarded<'w, T> {
    pub(super) fn new(inner: T, watch: &'w Watch) -> Self {
        Self { inner, watch }
    }
}

macro_rules! forward {
    ($($method:ident($($name:ident: $argument:ty),*);)*) => {
        $(#[inline]
        fn $method<V: Visitor<'de>>(self, $($name: $argument,)* visitor: V) -> Result<V::Value, D::Error> {
            let watch = self.watch;
            self.inner.$method($($name,)* Guarded::new(visitor, watch)).map_err(|error| watch.pass(&error))
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Guarded<'_, D> {
    type Error = D::Error;

    forward! {
        deserialize_any();
        deserialize_bool();
        deserialize_i8();
        deserialize_i16();
        deserialize_i32();
        deserialize_i64();
        deserialize_i128();
        deserialize_u8();
        deserialize_u16();
        deserialize_u32();
        deserialize_u64();
        deserialize_u128();
        deserialize_f32();
        deserialize_f64();
        deserialize_char();
        deserialize_str();
        deserialize_string();
        deserialize_bytes();
        deserialize_byte_buf();
        deserialize_option();
        deserialize_unit();
        deserialize_unit_struct(name: &'static str);
        deserialize_newtype_struct(name: &'static str);
        deserialize_seq();
        deserialize_tuple(len: usize);
        deserialize_tuple_struct(name: &'static str, len: usize);
        deserialize_map();
        deserialize_struct(name: &'static str, fields: &'static [&'static str]);
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
        deserialize_identifier();
        deserialize_ignored_any();
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! visit_scalars {
    ($($method:ident($scalar:ty);)*) => {
        $(#[inline]
        fn $method<E: Error>(self, scalar: $scalar) -> Result<V::Value, E> {
            self.inner.$method(scalar)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Guarded<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    visit_scalars! {
        visit_bool(bool);
        visit_i8(i8);
        visit_i16(i16);
        visit_i32(i32);
        visit_i64(i64);
        visit_i128(i128);
        visit_u8(u8);
        visit_u16(u16);
        visit_u32(u32);
        visit_u64(u64);
        visit_u128(u128);
        visit_f32(f32);
        visit_f64(f64);
        visit_char(char);
        visit_str(&str);
        visit_borrowed_str(&'de str);
        visit_string(String);
        visit_bytes(&[u8]);
        visit_borrowed_bytes(&'de [u8]);
        visit_byte_buf(Vec<u8>);
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        let _level = self.watch.enter(&self.watch.wrappers)?;
        self.inner
            .visit_some(Guarded::new(deserializer, self.watch))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<V::Value, D::Error> {
        let _level = self.watch.enter(&self.watch.wrappers)?;
        self.inner
            .visit_newtype_struct(Guarded::new(deserializer, self.watch))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        let _level = self.watch.enter(&self.watch.collections)?;
        self.inner.visit_seq(Guarded::new(items, self.watch))
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        let _level = self.watch.enter(&self.watch.collections)?;
        self.inner.visit_map(Guarded::new(entries, self.watch))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, variants: A) -> Result<V::Value, A::Error> {
        let _level = self.watch.enter(&self.watch.collections)?;
        self.inner.visit_enum(Guarded::new(variants, self.watch))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Guarded<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.inner
            .deserialize(Guarded::new(deserializer, self.watch))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Guarded<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let watch = self.watch;
        self.inner
            .next_element_seed(Guarded::new(seed, watch))
            .map_err(|error| watch.pass(&error))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint().map(|items| items.min(ROOM))
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Guarded<'_, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let watch = self.watch;
        self.inner
            .next_key_seed(Guarded::new(seed, watch))
            .map_err(|error| watch.pass(&error))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let watch = self.watch;
        self.inner
            .next_value_seed(Guarded::new(seed, watch))
            .map_err(|error| watch.pass(&error))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint().map(|items| items.min(ROOM))
    }
}

impl<'de, 'w, A: EnumAccess<'de>> EnumAccess<'de> for Guarded<'w, A> {
    type Error = A::Error;
    type Variant = Guarded<'w, A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        let watch = self.watch;
        let (value, variant) = self
            .inner
            .variant_seed(Guarded::new(seed, watch))
            .map_err(|error| watch.pass(&error))?;
        Ok((value, Guarded::new(variant, watch)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Guarded<'_, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner
            .unit_variant()
            .map_err(|error| self.watch.pass(&error))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        let watch = self.watch;
        self.inner
            .newtype_variant_seed(Guarded::new(seed, watch))
            .map_err(|error| watch.pass(&error))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        let watch = self.watch;
        self.inner
            .tuple_variant(len, Guarded::new(visitor, watch))
            .map_err(|error| watch.pass(&error))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        let watch = self.watch;
        self.inner
            .struct_variant(fields, Guarded::new(visitor, watch))
            .map_err(|error| watch.pass(&error))
    }
}

#[cfg(test)]
mod tests;
