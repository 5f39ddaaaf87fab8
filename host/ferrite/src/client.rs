//! One appliance's HTTP API.

use std::io::Read;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use qemu::instance::Instance;
use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::Failure;

/// How long an answer may take; what takes longer is a job and answers at once.
const LIMIT: Duration = Duration::from_secs(30);

/// Speaks to one appliance.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    base: String,
    token: String,
}

impl Client {
    /// A client of the API at `base`, e.g. `http://127.0.0.1:8080`. Connects only when asked something.
    #[must_use]
    pub fn new(base: &str, token: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(LIMIT))
            .timeout_connect(Some(Duration::from_secs(5)))
            .proxy(None)
            .build();
        Self {
            agent: config.into(),
            base: base.trim_end_matches('/').to_owned(),
            token: token.to_owned(),
        }
    }

    /// The appliance that arguments or environment name, else the one that was started last from this checkout.
    ///
    /// # Errors
    /// [`Failure::Unreachable`] when there is none.
    pub fn find(api: Option<&str>, token: Option<&str>) -> Result<Self, Failure> {
        let unknown = |error: &dyn std::fmt::Display| {
            Failure::Unreachable(format!(
                "{error}; to reach another appliance set FERRITE_API and FERRITE_TOKEN, or use `ferrite context add`"
            ))
        };
        if let (Some(api), Some(token)) = (api, token) {
            return Ok(Self::new(&base(api)?, token));
        }
        if api.is_some() {
            return Err(Failure::Unreachable(
                "the address of the API is given (--api or FERRITE_API), its token is not (--token or FERRITE_TOKEN)"
                    .into(),
            ));
        }
        let instance = Instance::last().map_err(|error| unknown(&error))?;
        let endpoint = instance.endpoint().map_err(|error| unknown(&error))?;
        let own = instance.token().map_err(|error| unknown(&error))?;
        Ok(Self::new(&endpoint.api, token.unwrap_or(&own)))
    }

    /// Reads a resource.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        let request = self
            .agent
            .get(self.url(path))
            .header("Authorization", self.bearer());
        self.answer(request.call())
    }

    /// Reads what is text, not JSON.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn get_text(&self, path: &str) -> Result<String, Failure> {
        let request = self
            .agent
            .get(self.url(path))
            .header("Authorization", self.bearer());
        let (status, text) = self.text(request.call())?;
        match status {
            200..300 => Ok(text),
            _ => Err(refusal(status, text)),
        }
    }

    /// Creates something or starts an action.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let request = self
            .agent
            .post(self.url(path))
            .header("Authorization", self.bearer());
        self.answer(request.send_json(body))
    }

    /// Changes a resource.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn patch(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let request = self
            .agent
            .patch(self.url(path))
            .header("Authorization", self.bearer());
        self.answer(request.send_json(body))
    }

    /// Puts a resource in place of the one that may be there.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn put(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let request = self
            .agent
            .put(self.url(path))
            .header("Authorization", self.bearer());
        self.answer(request.send_json(body))
    }

    /// Deletes a resource.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn delete(&self, path: &str) -> Result<Value, Failure> {
        let request = self
            .agent
            .delete(self.url(path))
            .header("Authorization", self.bearer());
        self.answer(request.call())
    }

    /// The address of the API.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A text without the token, should that be in it.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        match self.token.as_str() {
            "" => text.to_owned(),
            token => text.replace(token, "(token)"),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    fn answer(&self, result: Result<Response<Body>, ureq::Error>) -> Result<Value, Failure> {
        let (status, text) = self.text(result)?;
        if !(200..300).contains(&status) {
            return Err(refusal(status, text));
        }
        match text.trim() {
            "" => Ok(Value::Null),
            text => serde_json::from_str(text).map_err(|_| strange(status, text)),
        }
    }

    /// Status and body of an answer.
    fn text(&self, result: Result<Response<Body>, ureq::Error>) -> Result<(u16, String), Failure> {
        let mut response = result.map_err(|error| {
            let hint = match speaks_nbd(&self.base) {
                true => "; NBD is spoken there, and the API has a port of its own, usually 8080",
                false => "",
            };
            let base = &self.base;
            Failure::Unreachable(format!("no appliance answers at {base}: {error}{hint}"))
        })?;
        let status = response.status().as_u16();
        let text = response
            .body_mut()
            .read_to_string()
            .map_err(|error| Failure::Unreachable(format!("{} went silent: {error}", self.base)))?;
        Ok((status, text))
    }
}

/// Why an appliance did not do it.
fn refusal(status: u16, text: String) -> Failure {
    match serde_json::from_str(&text) {
        Ok(value) => Failure::Refused {
            status,
            message: problem(&value).unwrap_or(text),
        },
        Err(_) if text.trim().is_empty() => Failure::Refused {
            status,
            message: "it says nothing more".into(),
        },
        Err(_) => strange(status, text.trim()),
    }
}

/// What a problem document (RFC 9457) says: its detail, or else its title, which only names the status.
fn problem(value: &Value) -> Option<String> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    text("detail")
        .or_else(|| text("title"))
        .map(ToOwned::to_owned)
}

/// The base address that somebody gave.
fn base(given: &str) -> Result<String, Failure> {
    let wrong = |why: &str| {
        let detail = format!("`{given}` is not the address of an API: {why}");
        Err(Failure::Unreachable(detail))
    };
    match given.split_once("://") {
        None if given.is_empty() => wrong("it is empty; write for example http://127.0.0.1:8080"),
        None => Ok(format!("http://{given}")),
        Some(("http", _)) => Ok(given.into()),
        Some(("https", _)) => wrong("an appliance speaks plain HTTP; write http://"),
        Some(("nbd", _)) => {
            wrong("it is that of the NBD server; the API has a port of its own, usually 8080")
        }
        Some(_) => wrong("write for example http://127.0.0.1:8080"),
    }
}

/// Whether an NBD server greets whoever connects.
fn speaks_nbd(base: &str) -> bool {
    const PATIENCE: Duration = Duration::from_secs(1);
    let place = base.trim_start_matches("http://").split('/').next();
    let Some(address) = place.and_then(|place| place.to_socket_addrs().ok()?.next()) else {
        return false;
    };
    let mut greeting = [0; 8];
    let mut greet = || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read_exact(&mut greeting)
    };
    greet().is_ok() && &greeting == b"NBDMAGIC"
}

fn strange(status: u16, text: &str) -> Failure {
    let start: String = text.chars().take(80).collect();
    Failure::Strange(format!("HTTP {status}, not JSON: {start}"))
}

/// `name` as one segment of a path.
#[must_use]
pub fn segment(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io::Write;
    use std::net::TcpListener;

    /// Answers one request with `status` and `body` and returns what was asked.
    fn serve(status: &str, body: &str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}/", listener.local_addr().unwrap());
        let length = body.len();
        let response = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            // Bodies of these tests end with a brace, requests without one with an empty line.
            while !(request.ends_with(b"}")
                || request.ends_with(b"\r\n\r\n") && !request.starts_with(b"POST"))
            {
                let mut chunk = [0; 1024];
                let count = stream.read(&mut chunk).unwrap();
                assert_ne!(count, 0);
                request.extend_from_slice(&chunk[..count]);
            }
            stream.write_all(response.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        (base, thread)
    }

    #[test]
    fn sends_the_token_and_reads_json() {
        let (base, server) = serve("201 Created", r#"{"name":"a"}"#);
        let created = Client::new(&base, "secret")
            .post("/v1/volumes", &json!({"name": "a", "size": 4096}))
            .unwrap();
        assert_eq!(created["name"], "a");
        let request = server.join().unwrap();
        assert!(
            request.starts_with("POST /v1/volumes HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(
            request
                .to_lowercase()
                .contains("authorization: bearer secret\r\n"),
            "{request}"
        );
        let (_, body) = request.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body, json!({"name": "a", "size": 4096}));
    }

    #[test]
    fn shows_what_the_appliance_objects_to() {
        let body = r#"{"title":"Conflict","detail":"the name a is taken"}"#;
        let (base, server) = serve("409 Conflict", body);
        let failure = Client::new(&base, "t").delete("/v1/volumes/a").unwrap_err();
        assert_eq!(failure.to_string(), "the name a is taken (HTTP 409)");
        assert_eq!(failure.exit_code(), 1);
        server.join().unwrap();
    }

    #[test]
    fn nobody_there_is_exit_code_three() {
        let nobody = qemu::probe::free_port().unwrap();
        let failure = Client::new(&format!("http://{nobody}"), "t")
            .get("/v1/node")
            .unwrap_err();
        assert_eq!(failure.exit_code(), 3);
    }

    #[test]
    fn addresses_are_taken_as_people_write_them() {
        assert_eq!(base("box:8080").unwrap(), "http://box:8080");
        assert_eq!(base("http://box:8080/").unwrap(), "http://box:8080/");
        for (wrong, about) in [
            ("", "empty"),
            ("https://box:8080", "plain HTTP"),
            ("nbd://box:10809", "NBD server"),
            ("ftp://box", "for example"),
        ] {
            let why = base(wrong).unwrap_err().to_string();
            assert!(why.contains(about), "{why}");
        }
    }

    #[test]
    fn who_gives_the_nbd_port_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.unwrap().write_all(b"NBDMAGICIHAVEOPT\0\x03");
            }
        });
        let client = Client::new(&format!("http://{address}"), "t");
        let why = client.get("/v1/node").unwrap_err().to_string();
        assert!(why.ends_with("usually 8080"), "{why}");
    }

    #[test]
    fn names_stay_inside_their_segment() {
        assert_eq!(segment("db-1.x"), "db-1.x");
        assert_eq!(segment("../a b?"), "..%2Fa%20b%3F");
    }
}
