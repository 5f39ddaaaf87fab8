//! HTTP/1.1 (RFC 9110, RFC 9112): request heads in, response heads out.
//!
//! Only what a small API server needs, and strictly: bodies have a Content-Length, header lines are not folded, and
//! whatever two readers could understand in two ways is refused.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::fmt::Write;

/// The most bytes of a request head, the empty line included.
pub const HEAD_MAX: usize = 16 << 10;
/// The most header lines of a request.
pub const HEADERS_MAX: usize = 64;
/// The most bytes of a request target.
pub const TARGET_MAX: usize = 4096;

/// Why a head is refused; the connection is of no use afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// Not HTTP, or ambiguous. 400.
    Malformed,
    /// An HTTP/1.1 request without exactly one Host. 400.
    Host,
    /// A Content-Length that is no number, or several. 400.
    ContentLength,
    /// The target is too long. 414.
    TargetTooLong,
    /// Too many or too long header lines. 431.
    HeadTooLarge,
    /// A Transfer-Encoding. 501.
    TransferEncoding,
    /// An expectation other than `100-continue`. 417.
    Expectation,
    /// Another version than 1.0 and 1.1. 505.
    Version,
}

impl HttpError {
    /// The status code that tells the client.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed | Self::Host | Self::ContentLength => 400,
            Self::TargetTooLong => 414,
            Self::Expectation => 417,
            Self::HeadTooLarge => 431,
            Self::TransferEncoding => 501,
            Self::Version => 505,
        }
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Malformed => "not a well-formed HTTP request",
            Self::Host => "there must be exactly one Host header",
            Self::ContentLength => "Content-Length must be one decimal number",
            Self::TargetTooLong => "the request target is longer than 4096 bytes",
            Self::HeadTooLarge => "more than 64 header lines or 16 KiB of them",
            Self::TransferEncoding => "send bodies with a Content-Length",
            Self::Expectation => "the only expectation known is 100-continue",
            Self::Version => "only HTTP/1.0 and HTTP/1.1 are spoken here",
        })
    }
}

impl core::error::Error for HttpError {}

/// A request without its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestHead {
    /// As sent; methods are case-sensitive.
    pub method: String,
    /// The target's path, still percent-encoded, beginning with `/`; or `*`.
    pub path: String,
    /// What follows the `?`, still encoded; empty when there is none.
    pub query: String,
    /// Bytes of body that follow.
    pub content_length: u64,
    /// Media type without parameters, in lower case.
    pub content_type: Option<String>,
    /// The Authorization header.
    pub authorization: Option<String>,
    /// The If-Match header: tags, or `*`.
    pub if_match: Option<String>,
    /// The If-None-Match header.
    pub if_none_match: Option<String>,
    /// The Idempotency-Key header.
    pub idempotency_key: Option<String>,
    /// Whether the client keeps the connection for further requests.
    pub keeps_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

impl RequestHead {
    /// Reads a head from the beginning of `bytes`; with it, how many bytes it took. `None` while it is incomplete.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, HttpError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let len = match request.parse(&bytes[..bytes.len().min(HEAD_MAX)]) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => return Ok(None),
            Ok(httparse::Status::Partial) => return Err(too_large(request.path)),
            Err(httparse::Error::TooManyHeaders) => return Err(HttpError::HeadTooLarge),
            Err(httparse::Error::Version) => return Err(HttpError::Version),
            Err(_) => return Err(HttpError::Malformed),
        };
        let (Some(method), Some(target), Some(minor)) =
            (request.method, request.path, request.version)
        else {
            return Err(HttpError::Malformed);
        };
        if target.len() > TARGET_MAX {
            return Err(HttpError::TargetTooLong);
        }
        let (path, query) = split_target(target).ok_or(HttpError::Malformed)?;
        let mut head = Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            keeps_alive: minor == 1,
            ..Self::default()
        };
        head.read_headers(request.headers, minor)?;
        Ok(Some((head, len)))
    }

    fn read_headers(
        &mut self,
        headers: &[httparse::Header<'_>],
        minor: u8,
    ) -> Result<(), HttpError> {
        let (mut hosts, mut lengths) = (0, 0);
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            let value = || core::str::from_utf8(header.value).map_err(|_| HttpError::Malformed);
            if is("host") {
                hosts += 1;
            } else if is("content-length") {
                lengths += 1;
                self.content_length = decimal(value()?).ok_or(HttpError::ContentLength)?;
            } else if is("transfer-encoding") {
                return Err(HttpError::TransferEncoding);
            } else if is("content-type") {
                let media_type = value()?.split(';').next().unwrap_or_default();
                self.content_type = Some(media_type.trim().to_ascii_lowercase());
            } else if is("authorization") {
                if self.authorization.is_some() {
                    return Err(HttpError::Malformed);
                }
                self.authorization = Some(value()?.to_owned());
            } else if is("if-match") {
                add(&mut self.if_match, value()?);
            } else if is("if-none-match") {
                add(&mut self.if_none_match, value()?);
            } else if is("idempotency-key") {
                if self.idempotency_key.is_some() {
                    return Err(HttpError::Malformed);
                }
                self.idempotency_key = Some(value()?.trim().to_owned());
            } else if is("expect") {
                if !value()?.eq_ignore_ascii_case("100-continue") {
                    return Err(HttpError::Expectation);
                }
                self.expects_continue = minor == 1;
            } else if is("connection") {
                for option in value()?.split(',').map(str::trim) {
                    if option.eq_ignore_ascii_case("close") {
                        self.keeps_alive = false;
                    } else if minor == 0 && option.eq_ignore_ascii_case("keep-alive") {
                        self.keeps_alive = true;
                    }
                }
            }
        }
        if lengths > 1 {
            return Err(HttpError::ContentLength);
        }
        if hosts > 1 || (hosts == 0 && minor == 1) {
            return Err(HttpError::Host);
        }
        Ok(())
    }
}

/// A header that is a list may come in several lines.
fn add(list: &mut Option<String>, value: &str) {
    match list {
        Some(list) => {
            list.push(',');
            list.push_str(value);
        }
        None => *list = Some(value.to_owned()),
    }
}

/// A head that fills [`HEAD_MAX`] has too long a target, or too much of everything else.
fn too_large(target: Option<&str>) -> HttpError {
    match target {
        Some(target) if target.len() <= TARGET_MAX => HttpError::HeadTooLarge,
        _ => HttpError::TargetTooLong,
    }
}

/// Path and query of a target in origin form, absolute form, or `*`.
fn split_target(target: &str) -> Option<(&str, &str)> {
    let target = match target.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => {
            rest.find('/').map_or("/", |at| &rest[at..])
        }
        _ => target,
    };
    let target = target.split('#').next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    (path.starts_with('/') || path == "*").then_some((path, query))
}

fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Decodes `%XX` (and `+` as a space where `plus_is_space`); `None` when that is malformed or no UTF-8.
#[must_use]
pub fn percent_decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match byte {
            b'%' => {
                let ([high, low], tail) = rest.split_first_chunk()?;
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                out.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
                rest = tail;
            }
            b'+' if plus_is_space => out.push(b' '),
            _ => out.push(*byte),
        }
    }
    String::from_utf8(out).ok()
}

/// Encodes the head of a response with `content_length` bytes of body. Header values must not contain line ends; such
/// values are left out.
#[must_use]
pub fn encode_response_head(
    status: u16,
    headers: &[(&str, &str)],
    content_length: Option<usize>,
    keeps_alive: bool,
) -> Vec<u8> {
    let mut out = String::with_capacity(256);
    // Writing to a String does not fail.
    let _ = write!(out, "HTTP/1.1 {status} {}\r\n", reason(status));
    for (name, value) in headers {
        if !value.contains(['\r', '\n', '\0']) {
            let _ = write!(out, "{name}: {value}\r\n");
        }
    }
    if let Some(len) = content_length {
        let _ = write!(out, "Content-Length: {len}\r\n");
    }
    if !keeps_alive {
        out.push_str("Connection: close\r\n");
    }
    out.push_str("\r\n");
    out.into_bytes()
}

/// The interim response that asks for the body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The name of a status code (RFC 9110, section 15), empty for one that is not used here.
#[must_use]
pub const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::vec;

    fn decode(text: &str) -> Result<Option<(RequestHead, usize)>, HttpError> {
        RequestHead::decode(text.as_bytes())
    }

    fn head(text: &str) -> RequestHead {
        decode(text).unwrap().unwrap().0
    }

    #[test]
    fn a_request_is_understood() {
        let text = "POST /v1/volumes?a=b%20c HTTP/1.1\r\nhost: x\r\nContent-Length: 12\r\n\
                    content-type: Application/JSON; charset=utf-8\r\nAuthorization: Bearer t\r\n\
                    Expect: 100-Continue\r\n\r\n{";
        let (head, len) = decode(text).unwrap().unwrap();
        assert_eq!(len, text.len() - 1);
        assert_eq!(
            (head.method.as_str(), head.path.as_str()),
            ("POST", "/v1/volumes")
        );
        assert_eq!(head.query, "a=b%20c");
        assert_eq!(head.content_length, 12);
        assert_eq!(head.content_type.as_deref(), Some("application/json"));
        assert_eq!(head.authorization.as_deref(), Some("Bearer t"));
        assert!(head.keeps_alive && head.expects_continue);
        for cut in 0..len {
            assert_eq!(decode(&text[..cut]), Ok(None), "{cut}");
        }
    }

    #[test]
    fn connections_are_kept_as_the_versions_say() {
        assert!(!head("GET / HTTP/1.1\r\nhost: x\r\nconnection: a, Close\r\n\r\n").keeps_alive);
        assert!(!head("GET / HTTP/1.0\r\n\r\n").keeps_alive);
        assert!(head("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").keeps_alive);
    }

    #[test]
    fn targets_have_three_forms() {
        let path = |target: &str| head(&format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n")).path;
        assert_eq!(path("/a/b?c#d"), "/a/b");
        assert_eq!(path("http://x:1/a?b"), "/a");
        assert_eq!(path("http://x"), "/");
        assert_eq!(path("*"), "*");
    }

    #[test]
    fn what_is_ambiguous_or_too_large_is_refused() {
        let many = "x: y\r\n".repeat(65);
        let long = "a".repeat(5000);
        let huge = "a".repeat(HEAD_MAX);
        for (text, error) in [
            ("GET  / HTTP/1.1\r\nhost: x\r\n\r\n", HttpError::Malformed),
            ("GET a HTTP/1.1\r\nhost: x\r\n\r\n", HttpError::Malformed),
            ("GET / HTTP/1.1\r\nhost : x\r\n\r\n", HttpError::Malformed),
            ("GET / HTTP/1.1\r\n\r\n", HttpError::Host),
            (
                "GET / HTTP/1.1\r\nhost: x\r\nhost: x\r\n\r\n",
                HttpError::Host,
            ),
            (
                "GET / HTTP/1.1\r\nhost: x\r\ncontent-length: +1\r\n\r\n",
                HttpError::ContentLength,
            ),
            (
                "GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1, 1\r\n\r\n",
                HttpError::ContentLength,
            ),
            (
                "GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n",
                HttpError::ContentLength,
            ),
            (
                "GET / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
                HttpError::TransferEncoding,
            ),
            (
                "GET / HTTP/1.1\r\nhost: x\r\nexpect: y\r\n\r\n",
                HttpError::Expectation,
            ),
            ("GET / HTTP/2.0\r\nhost: x\r\n\r\n", HttpError::Version),
            (
                &format!("GET / HTTP/1.1\r\n{many}\r\n"),
                HttpError::HeadTooLarge,
            ),
            (
                &format!("GET /{long} HTTP/1.1\r\n\r\n"),
                HttpError::TargetTooLong,
            ),
            (&format!("GET /{huge}"), HttpError::TargetTooLong),
            (
                &format!("GET / HTTP/1.1\r\nx: {huge}"),
                HttpError::HeadTooLarge,
            ),
        ] {
            assert_eq!(decode(text), Err(error), "{:.60}", text);
        }
    }

    #[test]
    fn percent_decoding() {
        assert_eq!(percent_decode("a%2Fb+c", false).as_deref(), Some("a/b+c"));
        assert_eq!(percent_decode("a+%c3%a4", true).as_deref(), Some("a ä"));
        for bad in ["%", "%4", "%zz", "%+1", "%ff"] {
            assert_eq!(percent_decode(bad, false), None, "{bad}");
        }
    }

    #[test]
    fn response_heads() {
        let bytes = encode_response_head(
            404,
            &[("Content-Type", "text/plain"), ("X-Bad", "a\r\nb")],
            Some(3),
            false,
        );
        assert_eq!(
            core::str::from_utf8(&bytes).unwrap(),
            "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\
             Connection: close\r\n\r\n"
        );
    }

    #[test]
    fn no_input_panics() {
        let seed = b"PATCH /v1/volumes/a%20?x=y HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\
                     Connection: keep-alive, close\r\nExpect: 100-continue\r\n\r\n12345";
        let mut random = 0x1234_5678_9abc_def1_u64;
        let mut next = move |bound: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random as usize % bound.max(1)
        };
        let mut bytes = vec![];
        for round in 0..200_000 {
            if round % 8 == 0 {
                bytes.clear();
                bytes.extend_from_slice(seed);
            }
            let at = next(bytes.len());
            match next(4) {
                0 if !bytes.is_empty() => bytes[at] = next(256) as u8,
                1 if !bytes.is_empty() => bytes[at] ^= 1 << next(8),
                2 => bytes.insert(at, b"\r\n :%/?"[next(7)]),
                _ => drop(bytes.drain(at..(at + next(4)).min(bytes.len()))),
            }
            if let Ok(Some((head, len))) = RequestHead::decode(&bytes) {
                assert!(len <= bytes.len());
                let _ = percent_decode(&head.path, round % 2 == 0);
            }
        }
    }
}
