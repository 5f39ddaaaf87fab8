//! The table of routes as an OpenAPI 3.1 document.

use alloc::vec::Vec;

use serde_json::{Map, Value, json};

use super::router::Route;
use super::shape::object_schema;

/// Describes `routes`, as version `version` of the API.
pub(super) fn document<D>(routes: &[Route<D>], version: &str) -> Value {
    let mut paths = Map::new();
    for route in routes {
        let operations = paths.entry(route.path).or_insert_with(|| json!({}));
        operations[route.method.name().to_ascii_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Ferrite", "version": version},
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Problem": problem()},
        },
    })
}

fn operation<D>(route: &Route<D>) -> Value {
    let in_path = path_parameters(route.path).map(
        |name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}),
    );
    let in_query = route.query.iter().map(|property| {
        json!({
            "name": property.name,
            "in": "query",
            "required": property.is_required,
            "description": property.about,
            "schema": property.kind.schema(),
        })
    });
    let parameters: Vec<Value> = in_path.chain(in_query).collect();
    let security = if route.needs_token {
        json!([{"token": []}])
    } else {
        json!([])
    };
    let problem = json!({"schema": {"$ref": "#/components/schemas/Problem"}});
    let mut operation = json!({
        "summary": route.about,
        "parameters": parameters,
        "security": security,
        "responses": {
            "2XX": {"description": "Done, or started."},
            "default": {
                "description": "Why it was not done.",
                "content": {"application/problem+json": problem},
            },
        },
    });
    if !route.body.is_empty() {
        operation["requestBody"] = json!({
            "required": !route.is_body_optional,
            "content": {"application/json": {"schema": object_schema(route.body)}},
        });
    }
    operation
}

fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
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
