//! Bodies and queries, read and checked.

use alloc::format;
use alloc::string::String;

use serde_json::{Map, Value};
use wire::http::percent_decode;

use super::problem::Problem;
use super::shape::{Kind, Property, Shape};

/// Reads a body of this shape. Where it is optional there need be none.
pub(super) fn read_body(
    shape: &Shape,
    is_optional: bool,
    body: &[u8],
) -> Result<Map<String, Value>, Problem> {
    if body.is_empty() {
        return match is_optional {
            true => Ok(Map::new()),
            false => Err(Problem::new(400, "a JSON object is needed as body")),
        };
    }
    let mut map = match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => map,
        Ok(_) => return Err(Problem::new(422, "the body must be a JSON object")),
        Err(error) => return Err(Problem::new(400, format!("the body is not JSON: {error}"))),
    };
    shape.check(&mut map, "")?;
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

impl Kind {
    /// The value that `text` stands for in a query.
    fn read(self, text: String) -> Value {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match (self, text.as_str()) {
            (Self::Flag, "true") => Value::Bool(true),
            (Self::Flag, "false") => Value::Bool(false),
            (Self::Size | Self::Units(..) | Self::Number(..), digits) if is_number => {
                digits.parse::<u64>().map_or(Value::Null, Value::from)
            }
            (Self::Text | Self::Form(_) | Self::Secret(_) | Self::Word(_), _) => {
                Value::String(text)
            }
            _ => Value::Null,
        }
    }
}
