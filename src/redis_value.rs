//! What replies of Redis are made of.

use bytes::Bytes;

/// A reply of Redis.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Int(i64),
    /// A bulk, simple, verbatim or big-number string, or a double as the server writes it: parsed and written again it
    /// might read otherwise.
    Text(Bytes),
    Bool(bool),
    Array(Vec<Value>),
    Map(Vec<(Value, Value)>),
    /// An error within an aggregate; as a whole reply it is an `Err`.
    Error(String),
}

impl Value {
    /// The text of a string reply, if it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The items of an array reply.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }
}
