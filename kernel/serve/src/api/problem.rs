//! Errors as `application/problem+json` (RFC 9457).

use alloc::string::{String, ToString};

use serde::Serialize;
use upkeep::{JobsError, PolicyError};
use volume::{StoreError, VolumeError};
use wire::http::{HttpError, reason};

use super::router::Response;

/// Why a request was not done.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    status: u16,
    detail: String,
    field: Option<String>,
    /// An `Allow` or `WWW-Authenticate` header.
    header: Option<(&'static str, String)>,
}

/// What the client sees of it.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    /// The property or query parameter that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

impl Problem {
    pub fn new(status: u16, detail: impl ToString) -> Self {
        Self {
            status,
            detail: detail.to_string(),
            field: None,
            header: None,
        }
    }

    pub fn of_field(status: u16, field: &str, detail: impl ToString) -> Self {
        Self {
            field: Some(field.to_string()),
            ..Self::new(status, detail)
        }
    }

    pub fn with_header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.header = Some((name, value.to_string()));
        self
    }

    pub fn unauthorized() -> Self {
        let detail = "this needs the header `Authorization: Bearer TOKEN` with the right token";
        Self::new(401, detail).with_header("WWW-Authenticate", "Bearer realm=\"ferrite\"")
    }

    pub fn into_response(self) -> Response {
        let document = Document {
            kind: "about:blank",
            title: reason(self.status),
            status: self.status,
            detail: &self.detail,
            field: self.field.as_deref(),
        };
        let mut response = Response::json(self.status, &document);
        response.content_type = Some("application/problem+json");
        response.headers.extend(self.header);
        response
    }
}

impl From<VolumeError> for Problem {
    fn from(error: VolumeError) -> Self {
        let (status, field) = match error {
            VolumeError::NoVolume
            | VolumeError::NoSnapshot
            | VolumeError::NoDefault
            | VolumeError::Deleted => (404, None),
            VolumeError::RolledBack => (409, None),
            VolumeError::BadNetwork => (422, Some("allow")),
            VolumeError::NotAllowed => (403, None),
            VolumeError::NamedTwice | VolumeError::Store(StoreError::TooManyAtOnce) => {
                (422, Some("volumes"))
            }
            VolumeError::NameTaken => (409, Some("name")),
            VolumeError::Attached(_) => {
                return Self::new(
                    409,
                    alloc::format!("{error}; add ?force=true to do it anyway"),
                );
            }
            VolumeError::BadName => (422, Some("name")),
            VolumeError::BadSize | VolumeError::Shrinks(_) => (422, Some("size")),
            VolumeError::Store(StoreError::NoSpace | StoreError::TooManyMaps) => (507, None),
            VolumeError::Store(StoreError::ReadOnly | StoreError::Closed) => (503, None),
            VolumeError::ReadOnly
            | VolumeError::OutOfRange
            | VolumeError::Unaligned
            | VolumeError::Store(_) => (500, None),
        };
        match field {
            Some(field) => Self::of_field(status, field, error),
            None => Self::new(status, error),
        }
    }
}

impl From<JobsError> for Problem {
    fn from(error: JobsError) -> Self {
        match error {
            JobsError::NoJob => Self::new(404, error),
            JobsError::Over(_) | JobsError::Already(_) => Self::new(409, error),
            JobsError::Store(error) => VolumeError::from(error).into(),
        }
    }
}

impl From<PolicyError> for Problem {
    fn from(error: PolicyError) -> Self {
        let field = match error {
            PolicyError::BadEvery => "every",
            PolicyError::KeepsNothing => "keep",
        };
        Self::of_field(422, field, error)
    }
}

impl From<HttpError> for Problem {
    fn from(error: HttpError) -> Self {
        Self::new(error.status(), error)
    }
}
