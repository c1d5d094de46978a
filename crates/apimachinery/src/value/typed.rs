//! Between [`Value`] and typed structs (k8s-openapi's) directly, without bytes in between.

use std::sync::Arc;

use serde::de::{DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::ser::{self, Impossible, SerializeMap, SerializeSeq, SerializeStruct, SerializeTuple};
use serde::{Deserializer, Serialize, Serializer, de, forward_to_deserialize_any};

use super::{Key, Map, Value};

/// Why a value does not fit a type, or a type cannot be a value.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct TypedError(String);

impl de::Error for TypedError {
    fn custom<T: std::fmt::Display>(message: T) -> TypedError {
        TypedError(message.to_string())
    }
}

impl ser::Error for TypedError {
    fn custom<T: std::fmt::Display>(message: T) -> TypedError {
        TypedError(message.to_string())
    }
}

impl Value {
    /// Converts to a typed struct.
    pub fn to_typed<T: DeserializeOwned>(&self) -> Result<T, TypedError> {
        T::deserialize(self)
    }

    /// Converts from a typed struct.
    pub fn from_typed<T: Serialize + ?Sized>(typed: &T) -> Result<Value, TypedError> {
        typed.serialize(ValueSerializer)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(b) => serializer.serialize_bool(*b),
            Value::Int(i) => serializer.serialize_i64(*i),
            Value::Float(f) => serializer.serialize_f64(*f),
            Value::String(s) => serializer.serialize_str(s),
            Value::Array(items) => serializer.collect_seq(items.iter()),
            Value::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (key, value) in members.iter() {
                    map.serialize_entry(key.as_str(), value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserializer<'de> for &'de Value {
    type Error = TypedError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypedError> {
        match self {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Int(i) => visitor.visit_i64(*i),
            Value::Float(f) => visitor.visit_f64(*f),
            Value::String(s) => visitor.visit_borrowed_str(s),
            Value::Array(items) => visitor.visit_seq(Elements(items.iter())),
            Value::Object(members) => visitor.visit_map(Members { rest: (&**members).into_iter(), value: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypedError> {
        match self {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, TypedError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TypedError> {
        match self {
            Value::String(s) => visitor.visit_enum((&**s).into_deserializer()),
            Value::Object(members) if members.len() == 1 => {
                let (tag, content) = members.iter().next().expect("has one member");
                visitor.visit_enum(Tagged { tag, content })
            }
            other => Err(de::Error::custom(format_args!("invalid type: {}, expected an enum", other.type_name()))),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypedError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier
    }
}

struct Elements<'de>(std::slice::Iter<'de, Value>);

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = TypedError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, TypedError> {
        self.0.next().map(|value| seed.deserialize(value)).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

struct Members<'de> {
    rest: <&'de Map as IntoIterator>::IntoIter,
    value: Option<&'de Value>,
}

impl<'de> MapAccess<'de> for Members<'de> {
    type Error = TypedError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, TypedError> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(de::value::BorrowedStrDeserializer::new(key.as_str())).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, TypedError> {
        let value = self.value.take().ok_or_else(|| de::Error::custom("value asked for before its key"))?;
        seed.deserialize(value)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

struct Tagged<'de> {
    tag: &'de Key,
    content: &'de Value,
}

impl<'de> EnumAccess<'de> for Tagged<'de> {
    type Error = TypedError;
    type Variant = &'de Value;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, &'de Value), TypedError> {
        let tag = seed.deserialize(de::value::BorrowedStrDeserializer::<TypedError>::new(self.tag.as_str()))?;
        Ok((tag, self.content))
    }
}

impl<'de> VariantAccess<'de> for &'de Value {
    type Error = TypedError;

    fn unit_variant(self) -> Result<(), TypedError> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, TypedError> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, TypedError> {
        self.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, TypedError> {
        self.deserialize_any(visitor)
    }
}

struct ValueSerializer;

macro_rules! serialize_number {
    ($($name:ident $t:ty),*) => { $(fn $name(self, v: $t) -> Result<Value, TypedError> { Ok(Value::from(v)) })* };
}

impl Serializer for ValueSerializer {
    type Ok = Value;
    type Error = TypedError;
    type SerializeSeq = SeqBuilder;
    type SerializeTuple = SeqBuilder;
    type SerializeTupleStruct = SeqBuilder;
    type SerializeTupleVariant = Impossible<Value, TypedError>;
    type SerializeMap = MapBuilder;
    type SerializeStruct = MapBuilder;
    type SerializeStructVariant = Impossible<Value, TypedError>;

    serialize_number!(serialize_bool bool, serialize_i8 i8, serialize_i16 i16, serialize_i32 i32, serialize_i64 i64, serialize_u8 u8,
        serialize_u16 u16, serialize_u32 u32, serialize_u64 u64, serialize_f64 f64, serialize_str &str);

    fn serialize_f32(self, v: f32) -> Result<Value, TypedError> {
        Ok(Value::Float(f64::from(v)))
    }

    fn serialize_char(self, v: char) -> Result<Value, TypedError> {
        Ok(Value::from(v.to_string()))
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<Value, TypedError> {
        Err(ser::Error::custom("raw bytes have no JSON form"))
    }

    fn serialize_none(self) -> Result<Value, TypedError> {
        Ok(Value::Null)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value, TypedError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Value, TypedError> {
        Ok(Value::Null)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Value, TypedError> {
        Ok(Value::Null)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<Value, TypedError> {
        Ok(Value::from(variant))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<Value, TypedError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Value, TypedError> {
        let mut map = Map::new();
        map.insert(Key::constant(variant), value.serialize(self)?);
        Ok(Value::from(map))
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<SeqBuilder, TypedError> {
        Ok(SeqBuilder(Vec::with_capacity(len.unwrap_or(0))))
    }

    fn serialize_tuple(self, len: usize) -> Result<SeqBuilder, TypedError> {
        self.serialize_seq(Some(len))
    }

    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<SeqBuilder, TypedError> {
        self.serialize_seq(Some(len))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, TypedError> {
        Err(ser::Error::custom(format_args!("tuple variant {variant} has no JSON form here")))
    }

    fn serialize_map(self, len: Option<usize>) -> Result<MapBuilder, TypedError> {
        Ok(MapBuilder { entries: Vec::with_capacity(len.unwrap_or(0)), key: None })
    }

    fn serialize_struct(self, _: &'static str, len: usize) -> Result<MapBuilder, TypedError> {
        self.serialize_map(Some(len))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, TypedError> {
        Err(ser::Error::custom(format_args!("struct variant {variant} has no JSON form here")))
    }
}

struct SeqBuilder(Vec<Value>);

impl SerializeSeq for SeqBuilder {
    type Ok = Value;
    type Error = TypedError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), TypedError> {
        self.0.push(value.serialize(ValueSerializer)?);
        Ok(())
    }

    fn end(self) -> Result<Value, TypedError> {
        Ok(Value::Array(Arc::new(self.0)))
    }
}

impl SerializeTuple for SeqBuilder {
    type Ok = Value;
    type Error = TypedError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), TypedError> {
        SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Result<Value, TypedError> {
        SerializeSeq::end(self)
    }
}

impl ser::SerializeTupleStruct for SeqBuilder {
    type Ok = Value;
    type Error = TypedError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), TypedError> {
        SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Result<Value, TypedError> {
        SerializeSeq::end(self)
    }
}

struct MapBuilder {
    entries: Vec<(Key, Value)>,
    key: Option<Key>,
}

impl SerializeMap for MapBuilder {
    type Ok = Value;
    type Error = TypedError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), TypedError> {
        self.key = Some(match key.serialize(ValueSerializer)? {
            Value::String(s) => Key::new(&s),
            other => Key::from(other.to_json()),
        });
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), TypedError> {
        let key = self.key.take().ok_or_else(|| <TypedError as ser::Error>::custom("value given before its key"))?;
        self.entries.push((key, value.serialize(ValueSerializer)?));
        Ok(())
    }

    fn end(self) -> Result<Value, TypedError> {
        Ok(Value::from(Map::from_unsorted(self.entries)))
    }
}

impl SerializeStruct for MapBuilder {
    type Ok = Value;
    type Error = TypedError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), TypedError> {
        self.entries.push((Key::constant(key), value.serialize(ValueSerializer)?));
        Ok(())
    }

    fn end(self) -> Result<Value, TypedError> {
        SerializeMap::end(self)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;
    use crate::value;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    #[serde(rename_all = "camelCase")]
    struct Sample {
        first_name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        port: Option<i32>,
        ratio: f64,
        map: BTreeMap<String, u8>,
        list: Vec<Kind>,
    }

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    enum Kind {
        Plain,
        Counted(i64),
    }

    #[test]
    fn typed_round_trip() {
        let value = value!({"firstName": "n", "port": 80, "ratio": 2, "map": {"a": 1}, "list": ["Plain", {"Counted": 3}]});
        let typed: Sample = value.to_typed().expect("fits");
        assert_eq!(typed.list, [Kind::Plain, Kind::Counted(3)]);
        let mut back = Value::from_typed(&typed).expect("has a JSON form");
        assert_eq!(back["ratio"], Value::Float(2.0));
        back.insert("ratio", 2);
        assert_eq!(back, value);
    }

    #[test]
    fn a_misfit_is_an_error() {
        let error = value!({"firstName": 1}).to_typed::<Sample>().expect_err("not a string");
        assert!(error.to_string().contains("expected a string"), "{error}");
    }
}
