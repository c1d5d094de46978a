//! The messages of types: their fields by number, with embedded messages in their place.

use std::sync::OnceLock;

use crate::schema::{FieldInfo, TypeInfo, types};

/// What a number stands for.
pub(super) enum Entry {
    /// A field, and its place among its type's.
    Field(usize, &'static FieldInfo),
    /// A message of its own on the wire whose fields are the outer type's in JSON.
    Embedded(Message),
}

/// A type's entries, sorted by number.
pub(super) type Message = Vec<(u16, Entry)>;

/// The message of a type.
pub(super) fn of_type(info: &'static TypeInfo) -> &'static Message {
    static MESSAGES: OnceLock<Vec<Message>> = OnceLock::new();
    &MESSAGES.get_or_init(|| types().iter().map(build).collect())[info.id.index()]
}

fn build(info: &'static TypeInfo) -> Message {
    let mut message = Message::new();
    for (at, field) in info.fields.iter().enumerate().filter(|(_, field)| field.number != 0) {
        let path = field.embedded_in.iter().filter(|n| **n != 0);
        let inner = path.fold(&mut message, |message, number| embedded(message, *number));
        inner.push((field.number, Entry::Field(at, field)));
    }
    sort(&mut message);
    message
}

/// The embedded message with a number, created when it is not there yet.
fn embedded(message: &mut Message, number: u16) -> &mut Message {
    let known = message.iter().position(|(n, entry)| *n == number && matches!(entry, Entry::Embedded(_)));
    let at = known.unwrap_or_else(|| {
        message.push((number, Entry::Embedded(Message::new())));
        message.len() - 1
    });
    match &mut message[at].1 {
        Entry::Embedded(inner) => inner,
        Entry::Field(..) => unreachable!("found or made an embedded message just above"),
    }
}

fn sort(message: &mut Message) {
    message.sort_by_key(|(number, _)| *number);
    for (_, entry) in message {
        if let Entry::Embedded(inner) = entry {
            sort(inner);
        }
    }
}

/// Whether a list has a message of its own around it: the one named list type that is a field by itself. (As values of
/// maps all lists have one.)
pub(super) fn wrapped_list(info: &TypeInfo, field: &FieldInfo) -> bool {
    info.name == "meta.v1.APIResource" && field.name == "verbs"
}
