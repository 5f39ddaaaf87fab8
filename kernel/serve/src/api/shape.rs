//! What requests and answers can carry: their properties, described once, from which they are checked and documented.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde_json::{Map, Value, json};

use super::problem::Problem;

/// A property of a body or an answer, or a query parameter.
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
    /// A string of this form.
    Form(&'static Form),
    /// A string of this form that only the appliance may know: it is not noted.
    Secret(&'static Form),
    /// A number of bytes.
    Size,
    /// A number of bytes: a multiple of the first, within the others.
    Units(u64, u64, u64),
    /// `true` or `false`.
    Flag,
    /// A number within these bounds.
    Number(u64, u64),
    /// A number from 0 to 1.
    Fraction,
    /// A moment (RFC 3339).
    Time,
    /// Elements, at least and at most so many.
    List(&'static Kind, usize, usize),
    /// The same, each different from the others.
    Set(&'static Kind, usize, usize),
    /// One of these strings.
    Word(&'static [&'static str]),
    /// An object of these properties.
    Object(&'static Shape),
    /// An object with names of the user's, and such values.
    Map(&'static Form, &'static Kind, usize),
    /// Such a value, or `null`.
    OrNull(&'static Kind),
    /// Any JSON.
    Anything,
}

/// A form of strings.
pub(super) struct Form {
    /// As a regular expression (ECMA-262).
    pub pattern: &'static str,
    /// The same as code.
    pub is: fn(&str) -> bool,
    /// For people: `must be …`.
    pub what: &'static str,
}

/// An object's properties.
pub(super) struct Shape {
    /// The name of the schema, for what is a resource.
    pub name: &'static str,
    pub properties: &'static [Property],
    /// What holds beyond the properties' own rules.
    pub rule: Rule,
}

/// What a shape's properties must be together.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    Free,
    /// Exactly one of these is there; the first may also be beside the last.
    OneOfOrFirstAndLast(&'static [&'static str]),
    /// Those of exactly one of these sets are there.
    OneOf(&'static [&'static [&'static str]]),
    /// At least one is a number above 0.
    SomePositive,
}

impl Kind {
    /// For people: `must be …`.
    pub fn what(self) -> String {
        match self {
            Self::Text => "a string".into(),
            Self::Form(form) | Self::Secret(form) => form.what.into(),
            Self::Size => "a whole number of bytes".into(),
            Self::Units(unit, least, most) => format!(
                "a whole number of bytes: a multiple of {unit}, at least {least} and at most {most}"
            ),
            Self::Flag => "`true` or `false`".into(),
            Self::Number(least, most) => format!("a number from {least} to {most}"),
            Self::Fraction => "a number from 0 to 1".into(),
            Self::Time => "a moment as RFC 3339 writes it".into(),
            Self::Set(of, least, most) => {
                format!("{}, none of them twice", Self::List(of, least, most).what())
            }
            Self::List(of, least, most) => {
                let number = match most {
                    usize::MAX => format!("at least {least}"),
                    _ => format!("at least {least} and at most {most}"),
                };
                format!("a list of {number} values, each {}", of.what())
            }
            Self::Word(words) => format!("one of {}", words.join(", ")),
            Self::Object(shape) => {
                let names = shape.properties.iter().map(|property| property.name);
                format!("an object of {}", names.collect::<Vec<_>>().join(", "))
            }
            Self::Map(names, of, most) => format!(
                "an object of at most {most} properties, whose names are {}, and each {}",
                names.what,
                of.what()
            ),
            Self::OrNull(kind) => format!("{}, or null", kind.what()),
            Self::Anything => "anything".into(),
        }
    }

    /// Whether this is such a value, but for what is in objects.
    pub fn admits(self, value: &Value) -> bool {
        let is_within = |least: u64, most: u64| {
            whole(value).is_some_and(|number| (least..=most).contains(&number))
        };
        match self {
            Self::Text | Self::Time => value.is_string(),
            Self::Form(form) | Self::Secret(form) => value.as_str().is_some_and(form.is),
            Self::Size => is_within(0, SIZE_MAX),
            Self::Units(unit, least, most) => {
                is_within(least, most) && whole(value).is_some_and(|size| size % unit == 0)
            }
            Self::Flag => value.is_boolean(),
            Self::Number(least, most) => is_within(least, most),
            Self::Fraction => (value.as_f64()).is_some_and(|number| (0.0..=1.0).contains(&number)),
            Self::List(of, least, most) => value.as_array().is_some_and(|list| {
                (least..=most).contains(&list.len()) && list.iter().all(|one| of.admits(one))
            }),
            Self::Set(of, least, most) => {
                Self::List(of, least, most).admits(value)
                    && value.as_array().is_some_and(|list| {
                        let mut others = (1..).zip(list);
                        others.all(|(next, one)| !list[next..].contains(one))
                    })
            }
            Self::Word(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Self::Object(_) => value.is_object(),
            Self::Map(names, of, most) => value.as_object().is_some_and(|map| {
                let mut names = map.keys().map(|name| (names.is)(name));
                map.len() <= most && names.all(|is| is) && map.values().all(|one| of.admits(one))
            }),
            Self::OrNull(kind) => value.is_null() || kind.admits(value),
            Self::Anything => true,
        }
    }

    /// The JSON schema (2020-12) of such values.
    pub fn schema(self) -> Value {
        match self {
            Self::Text => json!({"type": "string"}),
            Self::Form(form) => json!({"type": "string", "pattern": form.pattern}),
            Self::Secret(form) => {
                json!({"type": "string", "pattern": form.pattern, "writeOnly": true})
            }
            Self::Size => {
                json!({"type": "integer", "format": "int64", "minimum": 0, "maximum": SIZE_MAX})
            }
            Self::Units(unit, least, most) => json!({
                "type": "integer", "format": "int64", "minimum": least, "maximum": most, "multipleOf": unit,
            }),
            Self::Flag => json!({"type": "boolean"}),
            Self::Number(least, most) => {
                json!({"type": "integer", "minimum": least, "maximum": most})
            }
            Self::Fraction => json!({"type": "number", "minimum": 0, "maximum": 1}),
            Self::Time => json!({"type": "string", "format": "date-time"}),
            Self::List(of, least, most) => {
                let mut schema = json!({"type": "array", "items": of.schema()});
                if least > 0 {
                    schema["minItems"] = least.into();
                }
                if most < usize::MAX {
                    schema["maxItems"] = most.into();
                }
                schema
            }
            Self::Set(of, least, most) => {
                let mut schema = Self::List(of, least, most).schema();
                schema["uniqueItems"] = true.into();
                schema
            }
            Self::Word(words) => json!({"type": "string", "enum": words}),
            Self::Object(shape) if !shape.name.is_empty() => reference(shape.name),
            Self::Object(shape) => shape.schema(true),
            Self::Map(names, of, most) => json!({
                "type": "object",
                "propertyNames": {"pattern": names.pattern},
                "additionalProperties": of.schema(),
                "maxProperties": most,
            }),
            Self::OrNull(kind) => json!({"anyOf": [kind.schema(), {"type": "null"}]}),
            Self::Anything => json!({}),
        }
    }

    /// Shapes that this refers to by name.
    fn named(self, found: &mut Vec<&'static Shape>) {
        match self {
            Self::Object(shape) => shape.named(found),
            Self::List(of, ..) | Self::Set(of, ..) | Self::OrNull(of) | Self::Map(_, of, _) => {
                of.named(found)
            }
            _ => {}
        }
    }
}

/// The largest number of bytes: all of them are exact in every JSON reader.
const SIZE_MAX: u64 = (1 << 53) - 1;

/// A whole number, also one that is written `4096.0`: that is the same one in JSON.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let float = value.as_f64()?;
        let number = float as u64;
        (number <= SIZE_MAX && number as f64 == float).then_some(number)
    })
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

impl Shape {
    /// The JSON schema of such objects; a closed one admits no other properties.
    pub fn schema(&self, is_closed: bool) -> Value {
        let mut properties = Map::new();
        for property in self.properties {
            let mut schema = property.kind.schema();
            schema["description"] = property.about.into();
            properties.insert(String::from(property.name), schema);
        }
        let required = self
            .properties
            .iter()
            .filter(|property| property.is_required);
        let required: Vec<&str> = required.map(|property| property.name).collect();
        let mut schema = json!({"type": "object", "properties": properties});
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        if is_closed {
            schema["additionalProperties"] = false.into();
        }
        match self.rule {
            Rule::Free => {}
            Rule::OneOfOrFirstAndLast(names) => {
                let each = names.iter().map(|name| json!({"required": [name]}));
                schema["oneOf"] = each.collect();
                if let [_, .., last] = names {
                    schema["oneOf"][0]["not"] = json!({"required": [last]});
                }
            }
            Rule::OneOf(sets) => {
                let each = sets.iter().map(|set| {
                    let others = self.properties.iter().map(|property| property.name);
                    let others = others.filter(|name| !set.contains(name));
                    let others: Vec<_> = others.map(|name| json!({"required": [name]})).collect();
                    json!({"required": set, "not": {"anyOf": others}})
                });
                schema["oneOf"] = each.collect();
            }
            Rule::SomePositive => {
                let each = self.properties.iter().map(|property| property.name);
                let each = each
                    .map(|name| json!({"required": [name], "properties": {name: {"minimum": 1}}}));
                schema["anyOf"] = each.collect();
            }
        }
        schema
    }

    /// This and all that it refers to by name.
    pub fn named(&'static self, found: &mut Vec<&'static Shape>) {
        if !self.name.is_empty() && !self.properties.is_empty() {
            if found.iter().any(|shape| shape.name == self.name) {
                return;
            }
            found.push(self);
        }
        for property in self.properties {
            property.kind.named(found);
        }
    }

    /// A reference to it, or the schema itself.
    pub fn refer(&'static self) -> Value {
        Kind::Object(self).schema()
    }

    /// Whether a property is secret.
    pub fn has_secrets(&self) -> bool {
        let mut kinds = self.properties.iter().map(|property| property.kind);
        kinds.any(|kind| matches!(kind, Kind::Secret(_)))
    }

    /// What can be told of a body: what is as it should be, but for secrets. What is elsewhere than it belongs may be one.
    pub fn without_secrets(&self, body: &[u8]) -> String {
        let mut map: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
        map.retain(|name, value| {
            let property = self
                .properties
                .iter()
                .find(|property| property.name == *name);
            let is_told = property.is_some_and(|property| property.kind.admits(value));
            if property.is_some_and(|property| matches!(property.kind, Kind::Secret(_))) {
                *value = "(hidden)".into();
            }
            is_told
        });
        match map.is_empty() {
            true => String::new(),
            false => Value::Object(map).to_string(),
        }
    }

    /// Checks an object whose properties are called `prefix` and their name.
    ///
    /// # Errors
    /// The first property that is wrong.
    pub fn check(&self, map: &mut Map<String, Value>, prefix: &str) -> Result<(), Problem> {
        let known = |name: &str| self.properties.iter().any(|property| property.name == name);
        if let Some(name) = map.keys().find(|name| !known(name)) {
            let name = format!("{prefix}{name}");
            let detail = format!("there is no property `{name}` here");
            return Err(Problem::of_field(422, &name, detail));
        }
        for property in self.properties {
            let name = format!("{prefix}{}", property.name);
            let wrong = |detail| Err(Problem::of_field(422, &name, detail));
            match map.get_mut(property.name) {
                None if property.is_required => return wrong(format!("`{name}` is missing")),
                None => {}
                Some(value) if !property.kind.admits(value) => {
                    return wrong(format!("`{name}` must be {}", property.kind.what()));
                }
                Some(value) => property.kind.check_inside(value, &name)?,
            }
        }
        self.check_rule(map, prefix)
    }

    fn check_rule(&self, map: &Map<String, Value>, prefix: &str) -> Result<(), Problem> {
        let names = match self.rule {
            Rule::Free => return Ok(()),
            Rule::OneOf(sets) => return check_sets(sets, map, prefix),
            Rule::SomePositive => {
                if map
                    .values()
                    .any(|value| whole(value).is_some_and(|number| number > 0))
                {
                    return Ok(());
                }
                let detail = format!("`{prefix}…`: at least one must be above 0");
                return Err(Problem::of_field(422, prefix.trim_end_matches('.'), detail));
            }
            Rule::OneOfOrFirstAndLast(names) => names,
        };
        let is_there = |name: &&&str| map.contains_key(**name);
        let joins = names.last().is_some_and(|last| is_there(&last));
        let there = names.iter().skip(usize::from(joins)).filter(is_there);
        let detail = match there.count() {
            1 => return Ok(()),
            0 => format!(
                "`{prefix}{}` is missing",
                names.join("` is missing, or else `")
            ),
            _ => format!(
                "only one of `{}` can be there, or `{}` beside `{}`",
                names.join("`, `"),
                names[0],
                names[names.len() - 1]
            ),
        };
        Err(Problem::of_field(422, names[0], detail))
    }
}

/// Checks that the names of an object are those of one set.
fn check_sets(sets: &[&[&str]], map: &Map<String, Value>, prefix: &str) -> Result<(), Problem> {
    let is_it =
        |set: &&[&str]| map.len() == set.len() && set.iter().all(|name| map.contains_key(*name));
    if sets.iter().any(is_it) {
        return Ok(());
    }
    let sets = sets.iter().map(|set| set.join("` and `"));
    let detail = format!(
        "`{prefix}…`: there must be `{}`",
        sets.collect::<Vec<_>>().join("`, or else `")
    );
    Err(Problem::of_field(422, prefix.trim_end_matches('.'), detail))
}

impl Kind {
    /// Checks what is in a value that is admitted, and writes whole numbers as such.
    fn check_inside(self, value: &mut Value, name: &str) -> Result<(), Problem> {
        match (self, &mut *value) {
            (Self::Object(shape), Value::Object(inner)) => shape.check(inner, &format!("{name}.")),
            (Self::List(of, ..), Value::Array(list)) => list
                .iter_mut()
                .try_for_each(|one| of.check_inside(one, name)),
            (Self::OrNull(kind), inner) if !inner.is_null() => kind.check_inside(inner, name),
            (Self::Size | Self::Units(..) | Self::Number(..), Value::Number(_)) => {
                if let Some(number) = whole(value) {
                    *value = number.into();
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
