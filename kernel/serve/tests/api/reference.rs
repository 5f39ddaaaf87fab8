//! `docs/api.md`: the document at `/openapi.json` for people. `cargo xtask docs` writes it.

use std::path::Path;

use serde_json::{Map, Value};

use super::Rig;

/// Set by `cargo xtask docs`: writes the file instead of looking whether it is up to date.
const WRITE: &str = "FERRITE_WRITE_DOCS";

/// The order in which the methods of a path are told.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

const HEAD: &str = "\
# API reference

Made of the appliance's own `/openapi.json` by `cargo xtask docs`; edits here are lost. How to get a token is in
[security](security.md), how the API behaves beyond single calls (pages, `Idempotency-Key`, `ETag`, limits) in
[what of HTTP is spoken](../kernel/serve/README.md#what-of-http-is-spoken).

```
$ curl -H \"Authorization: Bearer $FERRITE_TOKEN\" $FERRITE_API/v1/node
```

";

const ERRORS: &str = "\
Every call that needs a role answers 401 without a usable token and 403 if its role is too small. A call with `If-Match` answers 412 when
the resource was changed meanwhile. All errors are a [Problem](#problem).

";

#[test]
fn the_reference_is_up_to_date() {
    let document = Rig::new().call("GET", "/openapi.json", None).json();
    let text = reference(&document);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api.md");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &text).unwrap();
        return;
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let differing = there.lines().zip(text.lines()).find(|(a, b)| a != b);
    assert!(
        there == text,
        "docs/api.md is out of date, `cargo xtask docs` writes it anew; the first difference: {differing:?}"
    );
}

/// The whole page.
fn reference(document: &Value) -> String {
    let mut page = String::from(HEAD);
    page += &format!("{}\n\n{ERRORS}", text(&document["info"], "description"));
    let paths = document["paths"].as_object().unwrap();
    page += "| call | role | what it does |\n| --- | --- | --- |\n";
    for (method, path, operation) in calls(paths) {
        let name = format!("{method} {path}");
        let about = text(operation, "summary");
        page += &row(&[
            format!("[`{name}`](#{})", anchor(&name)),
            text(operation, "x-role"),
            about,
        ]);
    }
    for (method, path, operation) in calls(paths) {
        page += &call(&format!("{method} {path}"), operation);
    }
    page += "\n## Resources\n";
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        page += &format!("\n### {name}\n\n{}", properties(schema, "property"));
    }
    page
}

/// All calls: paths in their order, methods in ours.
fn calls(paths: &Map<String, Value>) -> Vec<(String, &str, &Value)> {
    let mut calls = Vec::new();
    for (path, operations) in paths {
        for method in METHODS {
            if let Some(operation) = operations.get(method) {
                calls.push((method.to_uppercase(), path.as_str(), operation));
            }
        }
        let count = operations.as_object().unwrap().len();
        let told = METHODS.iter().filter(|name| operations[**name].is_object());
        assert_eq!(told.count(), count, "a method of {path} is not in METHODS");
    }
    calls
}

/// One call.
fn call(name: &str, operation: &Value) -> String {
    let mut part = format!("\n### {name}\n\n");
    let [about, description] = ["summary", "description"].map(|key| text(operation, key));
    part += &format!("{}\n", format!("{about} {description}").trim_end());
    let parameters = operation["parameters"].as_array().unwrap();
    if !parameters.is_empty() {
        part += "\n| parameter | in | what it can be | meaning |\n| --- | --- | --- | --- |\n";
    }
    for parameter in parameters {
        let required = parameter["required"] == true;
        part += &row(&[
            named(&text(parameter, "name"), required),
            text(parameter, "in"),
            kind(&parameter["schema"]),
            text(parameter, "description"),
        ]);
    }
    if let Some(body) = operation.get("requestBody") {
        let schema = &body["content"]["application/json"]["schema"];
        part += &format!("\n{}", properties(schema, "in the body"));
        part += &rule(schema);
    }
    let responses = operation["responses"].as_object().unwrap();
    for (status, response) in responses.iter().filter(|(_, one)| one["$ref"].is_null()) {
        part += &answer(status, response);
    }
    part
}

/// What is answered when it went well.
fn answer(status: &str, response: &Value) -> String {
    let content = response["content"].as_object();
    let Some((media, content)) = content.and_then(|content| content.iter().next()) else {
        return format!("\nAnswer {status}, without a body.\n");
    };
    let schema = &content["schema"];
    match media.as_str() {
        "application/json" if schema.get("properties").is_some() => {
            format!(
                "\nAnswer {status}:\n\n{}",
                properties(schema, "in the answer")
            )
        }
        "application/json" => format!("\nAnswer {status}: {}.\n", kind(schema)),
        media => format!("\nAnswer {status}: `{media}`.\n"),
    }
}

/// A table of an object's properties, those of objects within it included.
fn properties(schema: &Value, heading: &str) -> String {
    let mut rows = String::new();
    collect(schema, "", &mut rows);
    format!("| {heading} | what it can be | meaning |\n| --- | --- | --- |\n{rows}")
}

fn collect(schema: &Value, prefix: &str, rows: &mut String) {
    let Some(all) = schema["properties"].as_object() else {
        return;
    };
    let required = schema["required"].as_array();
    for (name, inner) in all {
        let is_required = required.is_some_and(|list| list.contains(&name.as_str().into()));
        let full = format!("{prefix}{name}");
        let about = text(inner, "description");
        *rows += &row(&[named(&full, is_required), kind(inner), about]);
        collect(inner, &format!("{full}."), rows);
        collect(&inner["items"], &format!("{full}[]."), rows);
    }
}

/// What must hold beyond single properties.
fn rule(schema: &Value) -> String {
    let Some(choices) = schema["oneOf"].as_array() else {
        return String::new();
    };
    let names = choices
        .iter()
        .map(|choice| format!("`{}`", choice["required"][0].as_str().unwrap()));
    format!(
        "\nExactly one of {}.\n",
        names.collect::<Vec<_>>().join(", ")
    )
}

/// What a schema admits, for people.
fn kind(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(choices) = schema["anyOf"]
        .as_array()
        .filter(|_| schema["type"] != "object")
    {
        let choices: Vec<_> = choices.iter().map(kind).collect();
        return choices.join(" or ");
    }
    if let Some(words) = schema["enum"].as_array() {
        let words = words
            .iter()
            .map(|word| format!("`{}`", word.as_str().unwrap()));
        return words.collect::<Vec<_>>().join(", ");
    }
    match schema["type"].as_str() {
        Some("string") => match (&schema["format"], &schema["pattern"]) {
            (Value::String(_), _) => "time".into(),
            (_, Value::String(pattern)) => format!("string `{pattern}`"),
            _ => "string".into(),
        },
        Some("integer") if schema["format"] == "int64" => format!("bytes{}", bounds(schema)),
        Some("integer") => format!("number{}", bounds(schema)),
        Some("array") => format!("list of {}", kind(&schema["items"])),
        Some("object") if schema["additionalProperties"].is_object() => {
            format!("object of {}", kind(&schema["additionalProperties"]))
        }
        Some("number") => "number from 0 to 1".into(),
        Some("boolean") => "`true`, `false`".into(),
        Some(other) => other.into(),
        None => "anything".into(),
    }
}

/// Bounds of a number that say more than that it is one.
fn bounds(schema: &Value) -> String {
    let is_open = |most: u64| most >= (1 << 53) - 1;
    let least = schema["minimum"].as_u64().unwrap_or(0);
    let most = schema["maximum"].as_u64().filter(|most| !is_open(*most));
    let unit = schema["multipleOf"].as_u64();
    let unit = unit.map_or(String::new(), |unit| format!(", a multiple of {unit}"));
    match most {
        Some(most) => format!(" from {least} to {most}{unit}"),
        None if least > 0 => format!(" from {least}{unit}"),
        None => unit,
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().into()
}

fn named(name: &str, is_required: bool) -> String {
    let mark = if is_required { "" } else { " (optional)" };
    format!("`{name}`{mark}")
}

fn row(cells: &[String]) -> String {
    let cells = cells.iter().map(|cell| cell.replace('|', "\\|"));
    format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
}

/// How a heading is linked to: letters, digits and hyphens of it.
fn anchor(heading: &str) -> String {
    let heading = heading.to_lowercase();
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
