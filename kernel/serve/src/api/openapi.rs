//! The table of routes as an OpenAPI 3.1 document.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde_json::{Map, Value, json};

use super::forms::CAPTURES;
use super::router::{Method, Route};
use super::shape::{Property, Shape};

/// Describes `routes`, as version `version` of the API.
pub(super) fn document<D>(routes: &[Route<D>], version: &str) -> Value {
    let mut paths = Map::new();
    let mut shapes = Vec::new();
    for route in routes {
        let operations = paths.entry(route.path).or_insert_with(|| json!({}));
        operations[route.method.name().to_ascii_lowercase()] = operation(route);
        route.answer.1.named(&mut shapes);
    }
    let schemas = shapes.iter();
    let schemas = schemas.map(|shape| (String::from(shape.name), shape.schema(false)));
    let mut schemas: Map<String, Value> = schemas.collect();
    schemas.insert("Problem".into(), problem());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Ferrite",
            "version": version,
            "description": ABOUT,
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas,
            "responses": responses(),
        },
    })
}

const ABOUT: &str = "JSON over HTTP. Sizes are bytes, times RFC 3339, durations `*_ms`. Errors are \
`application/problem+json` (RFC 9457): `detail` says what is wrong, `field` where.";

fn operation<D>(route: &Route<D>) -> Value {
    let in_path = path_parameters(route.path).map(|property| parameter(property, "path"));
    let in_query = route
        .query
        .iter()
        .map(|property| parameter(property, "query"));
    let mut parameters: Vec<Value> = in_path.chain(in_query).collect();
    if route.is_keyed {
        let about = "A repeated request with the same key is not done again, and gets the first answer, for an hour.";
        parameters.push(header("Idempotency-Key", about, "^[!-~]{1,128}$"));
    }
    let security = match route.needs {
        Some(_) => json!([{"token": []}]),
        None => json!([]),
    };
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.about,
        "parameters": parameters,
        "security": security,
        "responses": answers(route),
    });
    if let Some(role) = route.needs {
        let condition = match route.tag.is_some() && route.method != Method::Get {
            true => {
                " With `If-Match: ETAG` only if it is still what it was with that `ETag`; otherwise 412."
            }
            false => "",
        };
        operation["description"] = format!("Needs the role `{role}`.{condition}").into();
        operation["x-role"] = role.name().into();
    }
    if !route.body.properties.is_empty() {
        let schema = route.body.schema(true);
        operation["requestBody"] = json!({
            "required": !route.is_body_optional,
            "content": {"application/json": {"schema": schema}},
        });
    }
    operation
}

/// Tags are as this appliance makes them, or any.
const TAG: &str = "^(\\*|\"[0-9a-f]{16}\")$";

fn header(name: &str, about: &str, pattern: &str) -> Value {
    let schema = json!({"type": "string", "pattern": pattern});
    json!({"name": name, "in": "header", "required": false, "description": about, "schema": schema})
}

fn parameter(property: &Property, place: &str) -> Value {
    json!({
        "name": property.name,
        "in": place,
        "required": property.is_required,
        "description": property.about,
        "schema": property.kind.schema(),
    })
}

/// Method and path as one word, like `patch_volumes_volume`.
fn operation_id<D>(route: &Route<D>) -> String {
    let mut id = route.method.name().to_ascii_lowercase();
    for segment in route
        .path
        .split('/')
        .filter(|segment| !matches!(*segment, "" | "v1"))
    {
        id.push('_');
        let letters = segment.chars().filter(|letter| !"{}".contains(*letter));
        id.extend(letters.map(|letter| if letter == '.' { '_' } else { letter }));
    }
    id
}

/// What can be answered: what the route says, or a problem.
fn answers<D>(route: &Route<D>) -> Value {
    let (status, shape) = route.answer;
    let mut answer = json!({"description": "Done."});
    if status == 202 {
        answer["description"] = "Started.".into();
    }
    if status != 204 {
        answer["content"] = match (shape.properties, shape.name) {
            ([], kind) if !kind.is_empty() => json!({kind: {"schema": {"type": "string"}}}),
            _ => json!({"application/json": {"schema": answer_schema(shape)}}),
        };
    }
    let mut headers = Map::new();
    if status == 200 && route.tag.is_some() {
        let schema = json!({"type": "string", "pattern": TAG});
        headers.insert(
            "ETag".into(),
            json!({"description": "For `If-Match`.", "schema": schema}),
        );
    }
    if !headers.is_empty() {
        answer["headers"] = headers.into();
    }
    let mut answers = Map::new();
    answers.insert(format!("{status}"), answer);
    let mut problem = |name: &str, key: &str| {
        let reference = json!({"$ref": format!("#/components/responses/{key}")});
        answers.insert(name.into(), reference);
    };
    if route.needs.is_some() {
        problem("401", "Unauthorized");
        problem("403", "Forbidden");
    }
    if route.tag.is_some() && route.method != Method::Get {
        problem("412", "Changed");
    }
    problem("default", "Problem");
    answers.into()
}

fn answer_schema(shape: &'static Shape) -> Value {
    match shape.properties {
        [] => json!({"type": "object"}),
        _ if shape.name.is_empty() => shape.schema(false),
        _ => shape.refer(),
    }
}

fn responses() -> Value {
    let answer = |about: &str| {
        let schema = json!({"schema": {"$ref": "#/components/schemas/Problem"}});
        json!({"description": about, "content": {"application/problem+json": schema}})
    };
    json!({
        "Unauthorized": answer("No token, or a wrong one."),
        "Forbidden": answer("The token does not allow this."),
        "Changed": answer("It is not what `If-Match` says any more."),
        "Problem": answer("Why it was not done."),
    })
}

fn path_parameters(path: &str) -> impl Iterator<Item = &'static Property> {
    let names = path
        .split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    names.filter_map(|name| CAPTURES.iter().find(|property| property.name == name))
}

fn problem() -> Value {
    json!({
        "type": "object",
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "field": {"type": "string", "description": "The property or parameter that is wrong."},
        },
        "required": ["type", "title", "status", "detail"],
    })
}
