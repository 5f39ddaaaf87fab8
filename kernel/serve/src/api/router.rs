//! From a method and a path to a handler.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::OnceCell;
use core::pin::Pin;

use access::{Role, Who};
use exec::Exec;
use serde::Serialize;
use serde_json::{Map, Value};
use wire::http::{RequestHead, percent_decode};

use super::Backend;
use super::problem::Problem;
use super::shape::{Property, Shape};
use crate::console;

/// What is done with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// What a handler gets; checked against the properties of its route.
pub(super) struct Call {
    /// Tells the time.
    pub exec: Exec,
    /// What stood in place of the `{…}` of the pattern, in order, decoded.
    pub captures: Vec<String>,
    /// Query parameters.
    pub query: Map<String, Value>,
    /// Properties of the body.
    pub body: Map<String, Value>,
    /// Who asks; nobody where no token is needed.
    pub who: Option<Who>,
    /// The description of the API, once somebody asked for it.
    pub document: Rc<OnceCell<Rc<Vec<u8>>>>,
}

impl Call {
    /// A string of the body, if it is there.
    pub fn text(&self, property: &Property) -> Option<&str> {
        self.body.get(property.name)?.as_str()
    }

    /// A number of the body, if it is there.
    pub fn number(&self, property: &Property) -> Option<u64> {
        self.body.get(property.name)?.as_u64()
    }

    /// A string of the query, if it is there.
    pub fn query_text(&self, property: &Property) -> Option<&str> {
        self.query.get(property.name)?.as_str()
    }

    /// A number of the query, if it is there.
    pub fn query_number(&self, property: &Property) -> Option<u64> {
        self.query.get(property.name)?.as_u64()
    }

    /// Whether a flag of the query is set.
    pub fn query_flag(&self, property: &Property) -> bool {
        let value = self.query.get(property.name);
        value.and_then(Value::as_bool).unwrap_or(false)
    }
}

/// What a handler gives.
#[derive(Clone, Debug)]
pub(super) struct Response {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub content_type: Option<&'static str>,
    pub body: Rc<Vec<u8>>,
}

/// The media type of measures.
pub(super) const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a handler ends in.
pub(super) type Handled = Result<Response, Problem>;

impl Response {
    /// No body.
    pub fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            content_type: None,
            body: Rc::default(),
        }
    }

    /// Something new, and where it is. Names need no percent-encoding.
    pub fn created(value: &impl Serialize, location: String) -> Self {
        let mut response = Self::json(201, value);
        response.headers.push(("Location", location));
        response
    }

    /// A JSON body.
    pub fn json(status: u16, value: &impl Serialize) -> Self {
        let mut body = serde_json::to_vec(value).expect("our own types become JSON");
        body.push(b'\n');
        Self::shared(status, Rc::new(body))
    }
}

impl Response {
    /// Measures, as text.
    pub fn text(text: String) -> Self {
        Self {
            body: Rc::new(text.into_bytes()),
            content_type: Some(METRICS_TYPE),
            ..Self::empty(200)
        }
    }

    /// A JSON body that others have, too.
    pub fn shared(status: u16, body: Rc<Vec<u8>>) -> Self {
        Self {
            body,
            content_type: Some("application/json"),
            ..Self::empty(status)
        }
    }
}

/// What a handler is: it may wait for the store.
pub(super) type Answer = Pin<Box<dyn Future<Output = Handled>>>;

/// The tag of what a call is about, as it is now; `None` when that is not there.
pub(super) type Tag<D> = fn(&Backend<D>, &Call) -> Option<String>;

/// One thing that can be called.
pub(super) struct Route<D> {
    pub method: Method,
    /// The path; a segment `{name}` stands for any one segment.
    pub path: &'static str,
    /// For people: what it does.
    pub about: &'static str,
    /// What one must be allowed; `None`: everybody may.
    pub needs: Option<Role>,
    /// Query parameters.
    pub query: &'static [Property],
    /// Properties of the body; without any a body is of no interest.
    pub body: &'static Shape,
    /// Whether there need be no body.
    pub is_body_optional: bool,
    /// Whether a repeated `Idempotency-Key` gets the first answer again.
    pub is_keyed: bool,
    /// For what several people may edit: what `ETag` and `If-Match` are about.
    pub tag: Option<Tag<D>>,
    /// The status of success, and what its answer carries.
    pub answer: (u16, &'static Shape),
    pub handler: fn(Rc<Backend<D>>, Call) -> Answer,
}

/// Finds the route for a request.
pub(super) fn find<'a, D>(
    routes: &'a [Route<D>],
    method: &str,
    path: &str,
) -> Result<(&'a Route<D>, Vec<String>), Problem> {
    // A HEAD is a GET whose body is not sent.
    let wanted = if method == "HEAD" { "GET" } else { method };
    let mut allowed: Vec<&str> = Vec::new();
    for route in routes {
        let Some(captures) = capture(route.path, path) else {
            continue;
        };
        if route.method.name() == wanted {
            return Ok((route, captures));
        }
        if route.method == Method::Get {
            allowed.push("HEAD");
        }
        allowed.push(route.method.name());
    }
    if allowed.is_empty() {
        return Err(Problem::new(404, "there is nothing at this path"));
    }
    let allowed = allowed.join(", ");
    let detail = format!("only {allowed} can be done here");
    Err(Problem::new(405, detail).with_header("Allow", allowed))
}

/// A file of the console, if that is what is asked for.
pub(super) fn console(head: &RequestHead) -> Option<Response> {
    let file = console::file(&head.path)?;
    if head.method != "GET" && head.method != "HEAD" {
        let problem = Problem::new(405, "only GET, HEAD can be done here");
        return Some(problem.with_header("Allow", "GET, HEAD").into_response());
    }
    let tag = file.tag();
    let known = head.if_none_match.as_deref().unwrap_or_default();
    let is_known = |one: &str| one.trim().trim_start_matches("W/") == tag;
    let mut response = match known.split(',').any(is_known) {
        true => Response::empty(304),
        false => Response {
            content_type: Some(file.content_type),
            body: Rc::new(file.bytes.to_vec()),
            ..Response::empty(200)
        },
    };
    let headers = console::HEADERS.iter();
    let headers = headers.map(|(name, value)| (*name, String::from(*value)));
    response.headers.extend(headers);
    response.headers.push(("ETag", tag));
    Some(response)
}

/// Matches `path` with `pattern`, segment by segment.
fn capture(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut captures = Vec::new();
    let mut segments = path.split('/');
    for expected in pattern.split('/') {
        let segment = segments.next()?;
        if expected.starts_with('{') {
            let value = percent_decode(segment, false)?;
            if value.is_empty() {
                return None;
            }
            captures.push(value);
        } else if percent_decode(segment, false)? != expected {
            return None;
        }
    }
    segments.next().is_none().then_some(captures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_capture_whole_segments() {
        let pattern = "/v1/volumes/{v}";
        let capture_one = |path| capture(pattern, path).map(|mut all| all.remove(0));
        assert_eq!(capture_one("/v1/volumes/a%2Fb").as_deref(), Some("a/b"));
        for path in [
            "/v1/volumes",
            "/v1/volumes/",
            "/v1/volumes/a/",
            "/v1/volumes/a/b",
            "/v1/volumes/%",
            "/v2/volumes/a",
            "*",
        ] {
            assert_eq!(capture_one(path), None, "{path}");
        }
        assert_eq!(capture("/healthz", "/%68ealthz"), Some(Vec::new()));
    }
}
