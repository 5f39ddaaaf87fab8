//! From a request to its answer: who asks, whether they may, whether it is well-formed; then what is asked, once; and a
//! note of it.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use core::net::IpAddr;

use access::{Entry, Refusal, Who};
use serde_json::Map;
use wire::http::RequestHead;
use world::Disk;

use super::Server;
use super::edits::{Conditions, Turn, fingerprint};
use super::problem::Problem;
use super::read::{read_body, read_query};
use super::repeats::Repeat;
use super::router::{Call, Handled, Method, Response, Route, find};
use super::routes::routes;

/// The most bytes of a body that are noted.
const NOTED_BYTES: usize = 512;

/// A request whose head is fine.
pub(super) struct Accepted<D: 'static> {
    route: &'static Route<D>,
    call: Call,
    conditions: Conditions,
    key: Option<String>,
}

impl<D: Disk + 'static> Server<D> {
    /// Decides on the head alone.
    ///
    /// # Errors
    /// The answer.
    pub(super) fn accept(&self, head: &RequestHead, peer: IpAddr) -> Result<Accepted<D>, Problem> {
        let (route, captures) = find(routes::<D>(), &head.method, &head.path)?;
        let who = match route.needs {
            Some(_) => Some(self.recognise(head, peer)?),
            None => None,
        };
        let accepted = self.accept_known(route, captures, head, who.clone());
        if let (Err(problem), Some(who)) = (&accepted, &who) {
            self.note(route, who, head, peer, b"", Err(problem));
        }
        accepted
    }

    /// Decides on what somebody known asks.
    fn accept_known(
        &self,
        route: &'static Route<D>,
        captures: alloc::vec::Vec<String>,
        head: &RequestHead,
        who: Option<Who>,
    ) -> Result<Accepted<D>, Problem> {
        if let (Some(needed), Some(who)) = (route.needs, &who)
            && who.role < needed
        {
            let detail = format!(
                "this needs the role {needed}, and `{}` has {}",
                who.name, who.role
            );
            return Err(Problem::new(403, detail));
        }
        let call = Call {
            exec: self.exec.clone(),
            captures,
            query: read_query(route.query, &head.query)?,
            body: Map::new(),
            who,
            document: self.document.clone(),
        };
        let is_json = matches!(
            head.content_type.as_deref(),
            None | Some("application/json")
        );
        if !route.body.properties.is_empty() && head.content_length > 0 && !is_json {
            let detail = "bodies are sent as `Content-Type: application/json`";
            return Err(Problem::new(415, detail));
        }
        Ok(Accepted {
            route,
            call,
            conditions: match route.tag {
                Some(_) => {
                    Conditions::read(head.if_match.as_deref(), head.if_none_match.as_deref())?
                }
                None => Conditions::default(),
            },
            key: head.idempotency_key.clone().filter(|_| route.is_keyed),
        })
    }

    fn recognise(&self, head: &RequestHead, peer: IpAddr) -> Result<Who, Problem> {
        let credentials = head.authorization.as_deref();
        let (scheme, secret) = credentials
            .and_then(|value| value.split_once(' '))
            .ok_or_else(Problem::unauthorized)?;
        let secret = secret.trim();
        if !scheme.eq_ignore_ascii_case("bearer") || secret.is_empty() {
            return Err(Problem::unauthorized());
        }
        let admitted = self.backend.tokens.admit(peer, secret);
        admitted.map_err(|refusal| match refusal {
            Refusal::Wrong => Problem::unauthorized(),
            Refusal::TooMany(wait) => Problem::unheard(wait),
        })
    }

    /// Does what is asked, and notes it.
    pub(super) async fn perform(
        &self,
        accepted: Accepted<D>,
        head: &RequestHead,
        peer: IpAddr,
        body: &[u8],
    ) -> Response {
        let (route, who) = (accepted.route, accepted.call.who.clone());
        let mut result = self.once(accepted, head, body).await;
        if let Ok(response) = &mut result {
            debug_assert!(self.is_as_described(route, response), "{response:?}");
        }
        if let Some(who) = &who {
            self.note(route, who, head, peer, body, result.as_ref());
        }
        result.unwrap_or_else(Problem::into_response)
    }

    /// Does it, unless it is the repetition of what was done.
    async fn once(&self, mut accepted: Accepted<D>, head: &RequestHead, body: &[u8]) -> Handled {
        let (Some(key), Some(who)) = (accepted.key.take(), accepted.call.who.clone()) else {
            return self.handle(accepted, body).await;
        };
        let asked = fingerprint(&(&head.method, &head.path, &head.query, body));
        match self
            .repeats
            .begin(&who.name, &key, asked, self.exec.now())?
        {
            Repeat::Known(mut response) => {
                response
                    .headers
                    .push(("Idempotency-Replayed", "true".into()));
                Ok(response)
            }
            Repeat::New(pending) => {
                let response = self.handle(accepted, body).await?;
                pending.done(&response);
                Ok(response)
            }
        }
    }

    async fn handle(&self, accepted: Accepted<D>, body: &[u8]) -> Handled {
        let Accepted {
            route, mut call, ..
        } = accepted;
        if !route.body.properties.is_empty() {
            call.body = read_body(route.body, route.is_body_optional, body)?;
        }
        let Some(tag) = route.tag else {
            return (route.handler)(Rc::clone(&self.backend), call).await;
        };
        let _turn = self.turn(route, &call).await;
        // What would fail anyway fails by itself (RFC 9110, 13.2.1): only a PUT makes what is not there.
        let now = tag(&self.backend, &call);
        if now.is_some() || route.method == Method::Put {
            accepted.conditions.check(now.as_deref())?;
        }
        // What is a name now may be another's when it is done.
        let same = Call {
            captures: call.captures.clone(),
            ..self.empty_call()
        };
        let mut response = (route.handler)(Rc::clone(&self.backend), call).await?;
        if let (200, Some(tag)) = (response.status, tag(&self.backend, &same)) {
            response.headers.push(("ETag", tag));
        }
        Ok(response)
    }

    /// The turn to change what a call is about.
    async fn turn(&self, route: &Route<D>, call: &Call) -> Option<Turn> {
        if route.method == Method::Get {
            return None;
        }
        // What is below a volume is edited together with it.
        let kind = route.path.split('/').nth(2).unwrap_or_default();
        let first = call.captures.first().map_or("", String::as_str);
        Some(self.turns.enter(format!("{kind}/{first}")).await)
    }

    fn empty_call(&self) -> Call {
        Call {
            exec: self.exec.clone(),
            captures: alloc::vec::Vec::new(),
            query: Map::new(),
            body: Map::new(),
            who: None,
            document: self.document.clone(),
        }
    }

    /// Notes what somebody asked to be changed.
    fn note(
        &self,
        route: &Route<D>,
        who: &Who,
        head: &RequestHead,
        peer: IpAddr,
        body: &[u8],
        result: Result<&Response, &Problem>,
    ) {
        if route.method == Method::Get {
            return;
        }
        let has_secrets = route.body.has_secrets();
        let query = match head.query.as_str() {
            "" => String::new(),
            _ if has_secrets => "?(hidden)".into(),
            query => format!("?{query}"),
        };
        let with = match route.body.properties {
            [] => String::new(),
            _ if has_secrets => route.body.without_secrets(body),
            _ => without_passwords(&String::from_utf8_lossy(
                &body[..body.len().min(NOTED_BYTES)],
            )),
        };
        self.backend.audit.note(Entry {
            who: who.name.to_string(),
            from: peer.to_canonical().to_string(),
            what: format!("{} {}{query}", head.method, head.path),
            with,
            status: result.map_or_else(Problem::status, |response| response.status),
            error: result.map_or_else(|problem| problem.detail().into(), |_| String::new()),
            ..Entry::default()
        });
    }

    /// Whether an answer carries what the table says.
    fn is_as_described(&self, route: &Route<D>, response: &Response) -> bool {
        let (status, shape) = route.answer;
        if shape.properties.is_empty() {
            return response.status == status;
        }
        let mut body = match serde_json::from_slice(&response.body) {
            Ok(serde_json::Value::Object(body)) => body,
            _ => return false,
        };
        response.status == status && shape.check(&mut body, "").is_ok()
    }
}

/// A text whose URIs tell nobody who may use them: `scheme://user:password@host`, which nothing here takes, but people write.
fn without_passwords(text: &str) -> String {
    let mut parts = text.split("://");
    let mut out = String::from(parts.next().unwrap_or_default());
    for part in parts {
        out.push_str("://");
        let authority = part.find(['/', '"', ' ']).unwrap_or(part.len());
        match part[..authority].rfind('@') {
            Some(at) => {
                out.push_str("(hidden)");
                out.push_str(&part[at..]);
            }
            None => out.push_str(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_uris_are_not_noted() {
        for (text, noted) in [
            (
                r#"{"nbd":"nbd://me:secret@host/a@b"}"#,
                r#"{"nbd":"nbd://(hidden)@host/a@b"}"#,
            ),
            (
                r#"{"nbd":"nbd://10.0.0.5/a@b"}"#,
                r#"{"nbd":"nbd://10.0.0.5/a@b"}"#,
            ),
            ("a://b@c://d:e@f", "a://(hidden)@c://(hidden)@f"),
            ("no uri @ all", "no uri @ all"),
        ] {
            assert_eq!(without_passwords(text), noted);
        }
    }
}
