//! Field values and tables, to lapin's and back. Every type has its counterpart.

use bytes::Bytes;
use kombu_core::field::{FieldTable, FieldValue, Timestamp};
use kombu_core::{Error, Name, Result};
use lapin::types::{self, AMQPValue, DecimalValue, LongString, ShortString};

/// A name that is sent as a short string: at most 255 bytes, which core has checked.
pub(crate) fn short(name: &str) -> Result<ShortString> {
    ShortString::try_new(name).map_err(|problem| {
        Error::new(
            kombu_core::ErrorKind::InvalidName,
            format!(
                "`{}…` is longer than 255 bytes",
                name.chars().take(40).collect::<String>()
            ),
        )
        .with_source(problem)
    })
}

pub(crate) fn table_to(table: &FieldTable) -> Result<types::FieldTable> {
    let mut out = types::FieldTable::default();
    for (name, value) in table {
        out.insert(short(name)?, value_to(value)?);
    }
    Ok(out)
}

fn value_to(value: &FieldValue) -> Result<AMQPValue> {
    Ok(match value {
        FieldValue::Void => AMQPValue::Void,
        FieldValue::Bool(value) => AMQPValue::Boolean(*value),
        FieldValue::I8(value) => AMQPValue::ShortShortInt(*value),
        FieldValue::U8(value) => AMQPValue::ShortShortUInt(*value),
        FieldValue::I16(value) => AMQPValue::ShortInt(*value),
        FieldValue::U16(value) => AMQPValue::ShortUInt(*value),
        FieldValue::I32(value) => AMQPValue::LongInt(*value),
        FieldValue::U32(value) => AMQPValue::LongUInt(*value),
        FieldValue::I64(value) => AMQPValue::LongLongInt(*value),
        FieldValue::F32(value) if value.is_finite() => AMQPValue::Float(*value),
        FieldValue::F64(value) if value.is_finite() => AMQPValue::Double(*value),
        FieldValue::F32(_) | FieldValue::F64(_) => {
            return Err(Error::new(
                kombu_core::ErrorKind::Unsupported,
                "RabbitMQ can't read a number that is infinite or none, and closes the connection; send it as text",
            ));
        }
        FieldValue::Decimal { scale, value } => AMQPValue::DecimalValue(DecimalValue {
            scale: *scale,
            value: *value,
        }),
        FieldValue::Text(text) => AMQPValue::LongString(LongString::from(text.as_str())),
        FieldValue::Bytes(bytes) => AMQPValue::ByteArray(bytes[..].into()),
        FieldValue::Timestamp(time) => AMQPValue::Timestamp(seconds(*time)),
        FieldValue::Array(values) => {
            let values = values.iter().map(value_to).collect::<Result<Vec<_>>>()?;
            AMQPValue::FieldArray(values.into())
        }
        FieldValue::Table(table) => AMQPValue::FieldTable(table_to(table)?),
        other => {
            return Err(Error::new(
                kombu_core::ErrorKind::Unsupported,
                format!("AMQP has no field value of type {}", other.type_name()),
            ));
        }
    })
}

pub(crate) fn table_from(table: &types::FieldTable) -> FieldTable {
    let mut out = FieldTable::with_capacity(table.inner().len());
    for (name, value) in table.inner() {
        out.insert(Name::from(name.as_str()), value_from(value));
    }
    out
}

fn value_from(value: &AMQPValue) -> FieldValue {
    match value {
        AMQPValue::Void => FieldValue::Void,
        AMQPValue::Boolean(value) => FieldValue::Bool(*value),
        AMQPValue::ShortShortInt(value) => FieldValue::I8(*value),
        AMQPValue::ShortShortUInt(value) => FieldValue::U8(*value),
        AMQPValue::ShortInt(value) => FieldValue::I16(*value),
        AMQPValue::ShortUInt(value) => FieldValue::U16(*value),
        AMQPValue::LongInt(value) => FieldValue::I32(*value),
        AMQPValue::LongUInt(value) => FieldValue::U32(*value),
        AMQPValue::LongLongInt(value) => FieldValue::I64(*value),
        AMQPValue::Float(value) => FieldValue::F32(*value),
        AMQPValue::Double(value) => FieldValue::F64(*value),
        AMQPValue::DecimalValue(value) => FieldValue::Decimal {
            scale: value.scale,
            value: value.value,
        },
        AMQPValue::ShortString(text) => FieldValue::Text(Name::from(text.as_str())),
        // A long string need not be text.
        AMQPValue::LongString(text) => match std::str::from_utf8(text.as_bytes()) {
            Ok(text) => FieldValue::Text(Name::from(text)),
            Err(_) => FieldValue::Bytes(Bytes::copy_from_slice(text.as_bytes())),
        },
        AMQPValue::ByteArray(bytes) => FieldValue::Bytes(Bytes::copy_from_slice(bytes.as_slice())),
        AMQPValue::Timestamp(time) => FieldValue::Timestamp(timestamp(*time)),
        AMQPValue::FieldArray(values) => {
            FieldValue::Array(values.as_slice().iter().map(value_from).collect())
        }
        AMQPValue::FieldTable(table) => FieldValue::Table(table_from(table)),
    }
}

/// How many bytes it takes on the wire.
pub(crate) fn table_size(table: &types::FieldTable) -> usize {
    let fields = table.inner().iter();
    let fields = fields.map(|(name, value)| 1 + name.as_str().len() + value_size(value));
    4 + fields.sum::<usize>()
}

/// Its type included.
fn value_size(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::Void => 0,
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::LongLongInt(_) | AMQPValue::Double(_) | AMQPValue::Timestamp(_) => 8,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::ShortString(text) => 1 + text.as_str().len(),
        AMQPValue::LongString(text) => 4 + text.as_bytes().len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.as_slice().len(),
        AMQPValue::FieldArray(values) => {
            4 + values.as_slice().iter().map(value_size).sum::<usize>()
        }
        AMQPValue::FieldTable(table) => table_size(table),
    }
}

pub(crate) fn seconds(time: Timestamp) -> u64 {
    time.as_secs()
}

pub(crate) fn timestamp(seconds: u64) -> Timestamp {
    Timestamp::from_secs(seconds)
}
