//! The order of strict messages: upstream's JSON decoder complains of each member when it meets it.

use std::collections::HashMap;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Sorts the messages by where in the JSON document their members stand. Messages of other members keep their place after them.
pub fn in_document_order(json: &[u8], messages: &mut [String]) {
    if messages.len() < 2 {
        return;
    }
    let mut members = HashMap::new();
    let mut document = serde_json::Deserializer::from_slice(json);
    let mut count = 0;
    let seed = Members { path: String::new(), count: &mut count, places: &mut members };
    if seed.deserialize(&mut document).is_err() {
        return;
    }
    let mut told: HashMap<String, usize> = HashMap::new();
    let mut place = |message: &String| {
        let (what, path) = message.split_once(" field \"")?;
        let places: &Vec<usize> = members.get(path.strip_suffix('"')?)?;
        if what != "duplicate" {
            return places.first().copied();
        }
        // The first place is the member's own.
        let nth = told.entry(path.to_owned()).or_insert(0);
        *nth += 1;
        places.get(*nth).copied()
    };
    let places: HashMap<String, usize> =
        messages.iter().map(|message| (message.clone(), place(message).unwrap_or(usize::MAX))).collect();
    messages.sort_by_key(|message| places[message]);
}

/// Notes where each member of an object stands, by its path.
struct Members<'a> {
    path: String,
    count: &'a mut usize,
    places: &'a mut HashMap<String, Vec<usize>>,
}

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let path = if self.path.is_empty() { key } else { format!("{}.{key}", self.path) };
            *self.count += 1;
            self.places.entry(path.clone()).or_default().push(*self.count);
            map.next_value_seed(Members { path, count: self.count, places: self.places })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut index = 0;
        loop {
            let path = format!("{}[{index}]", self.path);
            if list.next_element_seed(Members { path, count: self.count, places: self.places })?.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_follow_the_document() {
        let check = |json: &str, messages: &[&str], expected: &[&str]| {
            let mut messages: Vec<String> = messages.iter().map(|message| (*message).to_owned()).collect();
            in_document_order(json.as_bytes(), &mut messages);
            assert_eq!(messages, expected, "{json}");
        };
        check(
            r#"{"spec": {"x": 1, "replicas": 2, "replicas": 3}}"#,
            &["duplicate field \"spec.replicas\"", "unknown field \"spec.x\""],
            &["unknown field \"spec.x\"", "duplicate field \"spec.replicas\""],
        );
        check(
            r#"{"a": 1, "a": 2, "list": [{"b": null, "c": "x"}], "d": true}"#,
            &["unknown field \"d\"", "unknown field \"list[0].c\"", "duplicate field \"a\""],
            &["duplicate field \"a\"", "unknown field \"list[0].c\"", "unknown field \"d\""],
        );
        check("{", &["b", "a"], &["b", "a"]);
    }
}
