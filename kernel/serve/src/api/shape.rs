//! What a request can carry: its properties, described once, from which it is checked and documented.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

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
    /// Strings, at least one.
    Names,
    /// Strings, or none.
    Texts,
    /// One of these strings.
    Word(&'static [&'static str]),
    /// An object of these properties.
    Object(&'static [Property]),
}

impl Kind {
    /// For people: `must be …`.
    fn what(self) -> String {
        match self {
            Self::Text => "a string".into(),
            Self::Size => "a whole number of bytes".into(),
            Self::Flag => "`true` or `false`".into(),
            Self::Number(least, most) => format!("a number from {least} to {most}"),
            Self::Names => "a list of names, at least one".into(),
            Self::Texts => "a list of strings".into(),
            Self::Word(words) => format!("one of {}", words.join(", ")),
            Self::Object(shape) => {
                let names: Vec<&str> = shape.iter().map(|property| property.name).collect();
                format!("an object of {}", names.join(", "))
            }
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
            Self::Names => value
                .as_array()
                .is_some_and(|names| !names.is_empty() && names.iter().all(Value::is_string)),
            Self::Texts => value
                .as_array()
                .is_some_and(|texts| texts.iter().all(Value::is_string)),
            Self::Word(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Self::Object(_) => value.is_object(),
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
            (Self::Text | Self::Word(_), _) => Value::String(text),
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
            Self::Names => json!({"type": "array", "items": {"type": "string"}, "minItems": 1}),
            Self::Texts => json!({"type": "array", "items": {"type": "string"}}),
            Self::Word(words) => json!({"type": "string", "enum": words}),
            Self::Object(shape) => object_schema(shape),
        }
    }
}

/// The JSON schema of an object of these properties and no others.
pub(super) fn object_schema(shape: &[Property]) -> Value {
    let mut properties = Map::new();
    for property in shape {
        let mut schema = property.kind.schema();
        schema["description"] = property.about.into();
        properties.insert(String::from(property.name), schema);
    }
    let required = shape.iter().filter(|property| property.is_required);
    let required: Vec<&str> = required.map(|property| property.name).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// Reads a body that is an object of these properties. Where none is required there need be no body.
pub(super) fn read_body(
    shape: &[Property],
    is_optional: bool,
    body: &[u8],
) -> Result<Map<String, Value>, Problem> {
    if body.is_empty() {
        return match is_optional {
            true => Ok(Map::new()),
            false => Err(Problem::new(400, "a JSON object is needed as body")),
        };
    }
    let map = match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => map,
        Ok(_) => return Err(Problem::new(422, "the body must be a JSON object")),
        Err(error) => return Err(Problem::new(400, format!("the body is not JSON: {error}"))),
    };
    check(shape, &map, "")?;
    Ok(map)
}

/// Checks an object whose properties are called `prefix` and their name.
fn check(shape: &[Property], map: &Map<String, Value>, prefix: &str) -> Result<(), Problem> {
    let known = |name: &str| shape.iter().any(|property| property.name == name);
    if let Some(name) = map.keys().find(|name| !known(name)) {
        let name = format!("{prefix}{name}");
        let detail = format!("there is no property `{name}` here");
        return Err(Problem::of_field(422, &name, detail));
    }
    for property in shape {
        let name = format!("{prefix}{}", property.name);
        let detail = match (map.get(property.name), property.kind) {
            (None, _) if property.is_required => format!("`{name}` is missing"),
            (Some(value), kind) if !kind.admits(value) => {
                format!("`{name}` must be {}", kind.what())
            }
            (Some(Value::Object(inner)), Kind::Object(shape)) => {
                check(shape, inner, &format!("{name}."))?;
                continue;
            }
            _ => continue,
        };
        return Err(Problem::of_field(422, &name, detail));
    }
    Ok(())
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
