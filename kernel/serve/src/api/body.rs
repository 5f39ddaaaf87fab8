//! Request bodies, property by property, so that every complaint names the one it is about.

use alloc::format;
use alloc::string::String;

use serde_json::{Map, Value};

use super::problem::Problem;

/// The properties of a JSON object that nobody has asked for yet.
pub(super) struct Fields {
    map: Map<String, Value>,
}

/// What a property can be.
pub(super) trait Field: Sized {
    /// For people: `must be …`.
    const WHAT: &str;

    fn from_json(value: Value) -> Option<Self>;
}

impl Field for String {
    const WHAT: &str = "a string";

    fn from_json(value: Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }
}

impl Field for u64 {
    const WHAT: &str = "a whole number, not negative";

    fn from_json(value: Value) -> Option<Self> {
        value.as_u64()
    }
}

impl Fields {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        if body.is_empty() {
            return Err(Problem::new(400, "a JSON object is needed as body"));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self { map }),
            Ok(_) => Err(Problem::new(422, "the body must be a JSON object")),
            Err(error) => Err(Problem::new(400, format!("the body is not JSON: {error}"))),
        }
    }

    /// A property that may be absent.
    pub fn optional<T: Field>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        let Some(value) = self.map.remove(name) else {
            return Ok(None);
        };
        match T::from_json(value) {
            Some(value) => Ok(Some(value)),
            None => Err(Problem::of_field(
                422,
                name,
                format!("`{name}` must be {}", T::WHAT),
            )),
        }
    }

    /// A property that must be there.
    pub fn required<T: Field>(&mut self, name: &str) -> Result<T, Problem> {
        let missing = || Problem::of_field(422, name, format!("`{name}` is missing"));
        self.optional(name)?.ok_or_else(missing)
    }

    /// Refuses what nobody asked for.
    pub fn finish(self) -> Result<(), Problem> {
        match self.map.into_iter().next() {
            Some((name, _)) => {
                let detail = format!("there is no property `{name}` here");
                Err(Problem::of_field(422, &name, detail))
            }
            None => Ok(()),
        }
    }
}
