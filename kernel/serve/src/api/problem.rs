//! Errors as `application/problem+json` (RFC 9457).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use access::TokenError;
use peer::{PeerError, PeersError};
use serde::Serialize;
use upkeep::{JobsError, PolicyError};
use volume::{OriginError, StoreError, VolumeError};
use wire::http::{HttpError, reason};

use super::node::FormatError;
use super::router::Response;

/// Why a request was not done.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    status: u16,
    detail: String,
    field: Option<String>,
    /// `Allow`, `WWW-Authenticate`, `Retry-After`.
    headers: Vec<(&'static str, String)>,
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
            headers: Vec::new(),
        }
    }

    pub fn of_field(status: u16, field: &str, detail: impl ToString) -> Self {
        Self {
            field: Some(field.to_string()),
            ..Self::new(status, detail)
        }
    }

    pub fn with_header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    /// The same in other words.
    pub fn with_detail(self, detail: String) -> Self {
        Self { detail, ..self }
    }

    pub fn unauthorized() -> Self {
        let detail = "this needs the header `Authorization: Bearer TOKEN` with the right token";
        Self::unauthorized_because(detail)
    }

    /// Not 429, so that clients which only know that they are not let in learn just that.
    pub fn unheard(wait: Duration) -> Self {
        let seconds = wait.as_secs() + 1;
        let detail = format!("too many wrong tokens came from there; try again in {seconds} s");
        Self::unauthorized_because(detail).with_header("Retry-After", seconds)
    }

    fn unauthorized_because(detail: impl ToString) -> Self {
        Self::new(401, detail).with_header("WWW-Authenticate", "Bearer realm=\"ferrite\"")
    }

    pub fn status(&self) -> u16 {
        self.status
    }

    pub fn detail(&self) -> &str {
        &self.detail
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
        response.headers.extend(self.headers);
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
            VolumeError::RolledBack
            | VolumeError::Offered
            | VolumeError::NotYet
            | VolumeError::Elsewhere
            | VolumeError::Needed => (409, None),
            VolumeError::BadNetwork => (422, Some("allow")),
            VolumeError::BadLimit => (422, None),
            VolumeError::NotAllowed => (403, None),
            VolumeError::NamedTwice | VolumeError::Store(StoreError::TooManyAtOnce) => {
                (422, Some("volumes"))
            }
            VolumeError::BadOrigin => (422, Some("origin")),
            // Nothing is there that could be adopted.
            VolumeError::Origin(
                OriginError::NoAddress
                | OriginError::NoExport
                | OriginError::NoPeer
                | OriginError::Unreachable,
            ) => (404, Some("origin")),
            // Whatever is wrong with it is wrong there.
            VolumeError::Origin(_) => (502, Some("origin")),
            VolumeError::NameTaken => (409, Some("name")),
            VolumeError::Attached(_) => (409, None),
            VolumeError::BadName => (422, Some("name")),
            VolumeError::BadSize => (422, Some("size")),
            VolumeError::Shrinks(_) => (409, Some("size")),
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
            JobsError::Over(_) | JobsError::Already(_) | JobsError::HandedOver => {
                Self::new(409, error)
            }
            JobsError::Store(error) => VolumeError::from(error).into(),
        }
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::BadName => Self::of_field(422, "name", error),
            TokenError::NameTaken => Self::of_field(409, "name", error),
            TokenError::NoToken => Self::new(404, error),
            TokenError::Configured | TokenError::LastAdmin | TokenError::TooMany => {
                Self::new(409, error)
            }
            TokenError::NoPool => Self::new(503, error),
            TokenError::Store(error) => VolumeError::from(error).into(),
        }
    }
}

impl From<PeersError> for Problem {
    fn from(error: PeersError) -> Self {
        match error {
            PeersError::BadToken => Self::of_field(422, "token", error),
            PeersError::Itself => Self::of_field(409, "address", error),
            PeersError::NoPeer => Self::new(404, error),
            PeersError::NameTaken
            | PeersError::KnownAlready
            | PeersError::TooMany
            | PeersError::TooManyTokens
            | PeersError::TakenThere
            | PeersError::FailedThere => Self::new(409, error),
            PeersError::Handshake(PeerError::Refused) => Self::of_field(409, "token", error),
            PeersError::Handshake(PeerError::Unreachable) => Self::of_field(404, "address", error),
            // Whatever is wrong with it is wrong there.
            PeersError::Handshake(_) => Self::of_field(502, "address", error),
            PeersError::Store(error) => VolumeError::from(error).into(),
        }
    }
}

impl From<FormatError> for Problem {
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::NoDrive => Self::new(404, error),
            FormatError::Serving => Self::new(409, error),
            FormatError::WrongSerial => Self::of_field(409, "confirm", error),
            FormatError::Failed => Self::new(503, error),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_that_cannot_be_looked_up_is_not_there() {
        let status = |error| Problem::from(VolumeError::Origin(error)).status();
        assert_eq!(status(OriginError::NoAddress), 404);
        assert_eq!(status(OriginError::Unreachable), 404);
        assert_eq!(status(OriginError::Protocol), 502);
    }
}
