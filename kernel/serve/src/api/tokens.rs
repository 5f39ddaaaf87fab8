//! Tokens.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use access::{Role, TokenError, TokenInfo};
use serde::Serialize;
use serde_json::json;
use upkeep::calendar::rfc3339;
use world::Disk;

use super::Backend;
use super::forms::{NAME, ROLE};
use super::problem::Problem;
use super::router::{Call, Handled, Response};

#[derive(Serialize)]
struct TokenResource {
    name: String,
    role: &'static str,
    created_at: Option<String>,
    last_seen_at: Option<String>,
    configured: bool,
    /// The secret, once.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl From<TokenInfo> for TokenResource {
    fn from(info: TokenInfo) -> Self {
        let time = |nanos: u64| (nanos > 0).then(|| rfc3339(nanos));
        Self {
            name: info.name,
            role: info.role.name(),
            created_at: time(info.created_at_nanos),
            last_seen_at: time(info.seen_at_nanos),
            configured: info.is_configured,
            token: None,
        }
    }
}

/// Who asks, and what they may do.
pub(super) async fn whoami<D: Disk + 'static>(_: Rc<Backend<D>>, call: Call) -> Handled {
    let who = call.who.ok_or_else(Problem::unauthorized)?;
    let answer = json!({"name": &*who.name, "role": who.role.name()});
    Ok(Response::json(200, &answer))
}

pub(super) async fn list<D: Disk + 'static>(backend: Rc<Backend<D>>, _: Call) -> Handled {
    let list = backend.tokens.list().into_iter();
    let list: Vec<TokenResource> = list.map(Into::into).collect();
    Ok(Response::json(200, &json!({"tokens": list})))
}

pub(super) async fn get<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let name = &call.captures[0];
    let info = backend
        .tokens
        .get(name)
        .map_err(|error| refuse(name, error))?;
    Ok(Response::json(200, &TokenResource::from(info)))
}

pub(super) async fn create<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let name = call.text(&NAME).unwrap_or_default();
    // The route's body admits only roles that there are.
    let role = call
        .text(&ROLE)
        .and_then(Role::named)
        .unwrap_or(Role::ReadOnly);
    let made = backend.tokens.create(name, role).await;
    let (info, secret) = made.map_err(|error| refuse(name, error))?;
    let resource = TokenResource {
        token: Some(secret.text().into()),
        ..info.into()
    };
    let location = format!("/v1/tokens/{}", resource.name);
    Ok(Response::created(&resource, location))
}

pub(super) async fn revoke<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let name = &call.captures[0];
    let revoked = backend.tokens.revoke(name).await;
    revoked.map_err(|error| refuse(name, error))?;
    Ok(Response::empty(204))
}

/// A refusal that says of what.
fn refuse(name: &str, error: TokenError) -> Problem {
    let problem = Problem::from(error);
    match error {
        TokenError::NameTaken => {
            problem.with_detail(format!("{error}: there is a token `{name}` already"))
        }
        TokenError::NoToken => problem.with_detail(format!("{error}: `{name}`")),
        _ => problem,
    }
}
