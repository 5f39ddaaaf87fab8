//! What a request can carry: its properties, described once, from which it is checked and documented.

use alloc::format;
use alloc::string::String;

use serde_json::{Map, Value, json};
use wire::http::percent_decode;

use super::problem::Problem;

/// A property of a body, or a query parameter.
pub(super) struct Property {
    pub name: &'static str,
    pub kind: Kind,
    pub is_required: bool,
    /// For people: what it means.
    pub about: &'static str,
}

/// What a value can be.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// A string.
    Text,
    /// A number of bytes.
    Size,
    /// `true` or `false`.
    Flag,
    /// A number within these bounds.
    Number(u64, u64),
}

impl Kind {
    /// For people: `must be …`.
    fn what(self) -> String {
        match self {
            Self::Text => "a string".into(),
            Self::Size => "a whole number of bytes".into(),
            Self::Flag => "`true` or `false`".into(),
            Self::Number(least, most) => format!("a number from {least} to {most}"),
        }
    }

    fn admits(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Size => value.is_u64(),
            Self::Flag => value.is_boolean(),
            Self::Number(least, most) => value
                .as_u64()
                .is_some_and(|number| (least..=most).contains(&number)),
        }
    }

    /// The value that `text` stands for in a query.
    fn read(self, text: String) -> Value {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match (self, text.as_str()) {
            (Self::Flag, "true") => Value::Bool(true),
            (Self::Flag, "false") => Value::Bool(false),
            (Self::Size | Self::Number(..), digits) if is_number => {
                digits.parse::<u64>().map_or(Value::Null, Value::from)
            }
            (Self::Text, _) => Value::String(text),
            _ => Value::Null,
        }
    }

    /// The JSON schema (2020-12) of such values.
    pub fn schema(self) -> Value {
        match self {
            Self::Text => json!({"type": "string"}),
            Self::Size => json!({"type": "integer", "format": "int64", "minimum": 0}),
            Self::Flag => json!({"type": "boolean"}),
            Self::Number(least, most) => {
                json!({"type": "integer", "minimum": least, "maximum": most})
            }
        }
    }
}

/// Reads a body that is an object of these properties.
pub(super) fn read_body(shape: &[Property], body: &[u8]) -> Result<Map<String, Value>, Problem> {
    if body.is_empty() {
        return Err(Problem::new(400, "a JSON object is needed as body"));
    }
    let map = match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => map,
        Ok(_) => return Err(Problem::new(422, "the body must be a JSON object")),
        Err(error) => return Err(Problem::new(400, format!("the body is not JSON: {error}"))),
    };
    let known = |name: &str| shape.iter().any(|property| property.name == name);
    if let Some(name) = map.keys().find(|name| !known(name)) {
        return Err(Problem::of_field(
            422,
            name,
            format!("there is no property `{name}` here"),
        ));
    }
    for property in shape {
        let name = property.name;
        let detail = match map.get(name) {
            None if property.is_required => format!("`{name}` is missing"),
            Some(value) if !property.kind.admits(value) => {
                format!("`{name}` must be {}", property.kind.what())
            }
            _ => continue,
        };
        return Err(Problem::of_field(422, name, detail));
    }
    Ok(map)
}

/// Reads a query of these parameters.
pub(super) fn read_query(shape: &[Property], query: &str) -> Result<Map<String, Value>, Problem> {
    let mut map = Map::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = percent_decode(name, true).zip(percent_decode(value, true));
        let (name, text) =
            decoded.ok_or_else(|| Problem::new(400, "the query is not well percent-encoded"))?;
        let wrong = |detail| Err(Problem::of_field(400, &name, detail));
        let Some(property) = shape.iter().find(|property| property.name == name) else {
            return wrong(format!("there is no query parameter `{name}` here"));
        };
        let value = property.kind.read(text);
        if !property.kind.admits(&value) {
            let what = property.kind.what();
            return wrong(format!("the query parameter `{name}` must be {what}"));
        }
        if map.insert(name.clone(), value).is_some() {
            return wrong(format!("the query parameter `{name}` is there twice"));
        }
    }
    Ok(map)
}
