//! Bounded reading of JSON. `[[],[]]` and `{"a":{}}` take twenty and a hundred times their text, so that what values take is
//! counted: memory follows from the bytes that were read.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Memory of the values of one text: of any, and for each of its bytes.
const HELD: usize = 32 << 20;
const PER_BYTE: usize = 5;
/// What an object takes with its first member, and what each further one takes beside its text while the map grows: for that
/// time it stands twice.
const OBJECT: usize = 660;
const MEMBER: usize = 240;
/// What an item of an array takes that has just grown.
const ITEM: usize = 3 * size_of::<Value>();
/// What an allocation takes for itself.
const ALLOCATION: usize = 16;

/// Reads a whole text in which no name comes twice: which of two values is meant would depend on the reader.
///
/// # Errors
/// No JSON, an object that has a name twice, or values that take much more memory than the text; without a word of the text.
pub fn read(bytes: &[u8]) -> Result<Value, &'static str> {
    whole(bytes, true).map_err(|_| "no JSON, or a name that comes twice")
}

/// Reads a whole text; of a name that comes twice the last value counts.
///
/// # Errors
/// No JSON, or values that take much more memory than the text; without a word of the text.
pub fn read_last(bytes: &[u8]) -> Result<Value, &'static str> {
    whole(bytes, false).map_err(|_| "no JSON")
}

fn whole(bytes: &[u8], once: bool) -> serde_json::Result<Value> {
    let left = Cell::new(HELD + PER_BYTE * bytes.len());
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Bounded { left: &left, once }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

#[derive(Clone, Copy)]
struct Bounded<'a> {
    /// Bytes that values may still take.
    left: &'a Cell<usize>,
    /// A name must not come twice.
    once: bool,
}

impl Bounded<'_> {
    fn take<E: Error>(self, bytes: usize) -> Result<(), E> {
        self.left.set(self.left.get().checked_sub(bytes).ok_or_else(|| E::custom("memory"))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.take(ALLOCATION + value.len())?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            // The first item makes place for four.
            let first = ALLOCATION + 4 * size_of::<Value>();
            self.take(if out.is_empty() { first } else { ITEM })?;
            out.push(item);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let member = if out.is_empty() { OBJECT } else { MEMBER };
            self.take(member + ALLOCATION + name.len())?;
            let value = members.next_value_seed(self)?;
            if out.insert(name, value).is_some() && self.once {
                return Err(A::Error::custom("name"));
            }
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_once() {
        assert!(read(br#"{"a":[1,-1,0.5,null,true,"x",{}]}"#).is_ok());
        for text in [r#"{"a":1,"a":1}"#, r#"[{"b":{"a":1,"\u0061":2}}]"#, "{}{}", "", "{"] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(read_last(br#"{"a":1,"a":2}"#), Ok(serde_json::json!({ "a": 2 })));
        assert!(read_last(b"{}{}").is_err());
    }

    #[test]
    fn se_07_values_take_no_more_than_their_text_allows() {
        let list = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
        assert!(read(list(r#"{"system":"urn:oid:2.999.1","value":"12345678901"}"#, 20_000).as_bytes()).is_ok());
        for item in ["[]", "{\"a\":{}}", "[[[[[[1]]]]]]", "0"] {
            assert!(read(list(item, 2_000_000).as_bytes()).is_err(), "{item}");
        }
    }
}
