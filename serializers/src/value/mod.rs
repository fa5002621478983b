//! A value whose type is found out when it arrives.

mod de;
mod from;
mod ser;

/// A value of any shape, for bodies whose type isn't known beforehand.
///
/// It keeps what `serde_json::Value` would lose: bytes, keys that aren't strings, the order of
/// keys, and keys that are there twice.
///
/// Decoded integers are [`I64`](Self::I64) if they fit, and [`U64`](Self::U64) only if they don't.
/// Integers of the two are equal if they are the same number; a float never equals an integer. Maps
/// are equal if they have equal entries in the same order.
///
/// ```
/// # #[cfg(feature = "json")] {
/// use kombu_serializers::{Codec, Value};
///
/// let value: Value = Codec::JSON.decode(br#"{"name": "lolcat1.avi", "tags": ["cat"], "size": 1301013}"#)?;
/// assert_eq!(value.get("name").and_then(Value::as_str), Some("lolcat1.avi"));
/// assert_eq!(value.get("tags").and_then(Value::as_seq), Some(&["cat".into()][..]));
/// assert_eq!(value.get("size"), Some(&Value::I64(1_301_013)));
/// # }
/// # Ok::<(), kombu_serializers::SerializerError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub enum Value {
    /// Nothing: JSON's and YAML's `null`, MessagePack's `nil`.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// An integer.
    I64(i64),
    /// An integer, usually one above `i64::MAX`.
    U64(u64),
    /// A floating point number.
    F64(f64),
    /// Text.
    String(String),
    /// Bytes. JSON writes them as an array of numbers.
    Bytes(Vec<u8>),
    /// A sequence.
    Seq(Vec<Value>),
    /// A map, in the order of the body. JSON takes only strings, numbers and booleans as keys.
    Map(Vec<(Value, Value)>),
}

impl Value {
    /// The value at a key of a map; of several, the last one, as in Python.
    ///
    /// ```
    /// # use kombu_serializers::Value;
    /// let value = Value::from_iter([("a", 1), ("a", 2)]);
    /// assert_eq!(value.get("a"), Some(&Value::I64(2)));
    /// assert_eq!(value.get("b"), None);
    /// ```
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_map()?
            .iter()
            .rev()
            .find(|(known, _)| known.as_str() == Some(key))
            .map(|(_, value)| value)
    }

    /// Whether this is [`Null`](Self::Null).
    ///
    /// ```
    /// # use kombu_serializers::Value;
    /// assert!(Value::from(()).is_null());
    /// ```
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The boolean, if it is one.
    ///
    /// ```
    /// # use kombu_serializers::Value;
    /// assert_eq!(Value::from(true).as_bool(), Some(true));
    /// ```
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The integer, if it is one that fits.
    ///
    /// ```
    /// # use kombu_serializers::Value;
    /// assert_eq!(Value::U64(7).as_i64(), Some(7));
    /// assert_eq!(Value::U64(u64::MAX).as_i64(), None);
    /// assert_eq!(Value::F64(7.0).as_i64(), None);
    /// ```
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::I64(number) => Some(number),
            Self::U64(number) => number.try_into().ok(),
            _ => None,
        }
    }

    /// The integer, if it is one that fits.
    ///
    /// ```
    /// # use kombu_serializers::Value;
    /// assert_eq!(Value::I64(-7).as_u64(), None);
    /// ```
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::I64(number) => number.try_into().ok(),
            Self::U64(number) => Some(number),
            _ => None,
        }
    }

    /// The number, whatever its kind. Integers beyond 2⁵³ are rounded.
    ///
    /// ```
    /// # use kombu_serializers::Value;
    /// assert_eq!(Value::I64(-2).as_f64(), Some(-2.0));
    /// ```
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::I64(number) => Some(number as f64),
            Self::U64(number) => Some(number as f64),
            Self::F64(number) => Some(number),
            _ => None,
        }
    }

    /// The text, if it is text.
    ///
    /// ```
    /// # use kombu_serializers::Value;
    /// assert_eq!(Value::from("text").as_str(), Some("text"));
    /// ```
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The bytes, if it is bytes. Text isn't.
    ///
    /// ```
    /// # use kombu_serializers::Value;
    /// assert_eq!(Value::from(vec![7_u8]).as_bytes(), Some(&[7][..]));
    /// ```
    #[must_use]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The items, if it is a sequence.
    ///
    /// ```
    /// # use kombu_serializers::Value;
    /// assert_eq!(Value::from_iter([1, 2]).as_seq().map(<[_]>::len), Some(2));
    /// ```
    #[must_use]
    pub fn as_seq(&self) -> Option<&[Value]> {
        match self {
            Self::Seq(items) => Some(items),
            _ => None,
        }
    }

    /// The entries, if it is a map.
    ///
    /// ```
    /// # use kombu_serializers::Value;
    /// assert_eq!(Value::from_iter([("a", 1)]).as_map().map(<[_]>::len), Some(1));
    /// ```
    #[must_use]
    pub fn as_map(&self) -> Option<&[(Value, Value)]> {
        match self {
            Self::Map(entries) => Some(entries),
            _ => None,
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(one), Self::Bool(other)) => one == other,
            (Self::I64(one), Self::I64(other)) => one == other,
            (Self::U64(one), Self::U64(other)) => one == other,
            (Self::I64(signed), Self::U64(unsigned)) | (Self::U64(unsigned), Self::I64(signed)) => {
                u64::try_from(*signed) == Ok(*unsigned)
            }
            (Self::F64(one), Self::F64(other)) => one == other,
            (Self::String(one), Self::String(other)) => one == other,
            (Self::Bytes(one), Self::Bytes(other)) => one == other,
            (Self::Seq(one), Self::Seq(other)) => one == other,
            (Self::Map(one), Self::Map(other)) => one == other,
            _ => false,
        }
    }
}
