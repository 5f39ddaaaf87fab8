//! What changed from one snapshot to another, or to now.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use serde::Serialize;
use volume::{Change, Source, VolumeError, Volumes};
use world::Disk;

use super::Backend;
use super::forms::{FROM, LIMIT, NEXT, TO};
use super::problem::Problem;
use super::refusal::About;
use super::resources::catalog;
use super::router::{Call, Handled, Response};
use super::shape::Property;
use super::snapshots::wrong_token;

/// Ranges of one answer when nobody says how many.
const PAGE: u64 = 1000;

#[derive(Serialize)]
struct ChangesResource {
    ranges: Vec<RangeResource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Serialize)]
struct RangeResource {
    offset: u64,
    length: u64,
    kind: &'static str,
}

impl From<Change> for RangeResource {
    fn from(change: Change) -> Self {
        Self {
            offset: change.offset,
            length: change.len,
            kind: if change.is_zero { "zero" } else { "data" },
        }
    }
}

pub(super) async fn diff<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let volumes = catalog(&backend)?;
    let volume = &call.captures[0];
    let now = volumes.get(volume);
    let now = now.map_err(|error| About::volume(volume).refuse(volumes, error))?;
    let now = now.id.into();
    let from = match call.query_text(&FROM) {
        Some(name) => Some(side(volumes, volume, name, &FROM)?),
        None => None,
    };
    let to = match call.query_text(&TO) {
        Some(name) => side(volumes, volume, name, &TO)?,
        None => now,
    };
    let start = match call.query_text(&NEXT) {
        Some(token) => position(token, from, to)?,
        None => 0,
    };
    let limit = call.query_number(&LIMIT).unwrap_or(PAGE);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let changes = volumes.diff(from, to, start, limit).await?;
    let resource = ChangesResource {
        ranges: changes.ranges.into_iter().map(Into::into).collect(),
        next: changes.next.map(|next| token(from, to, next)),
    };
    Ok(Response::json(200, &resource))
}

/// One of the two that are compared.
fn side<D: Disk + 'static>(
    volumes: &Volumes<D>,
    volume: &str,
    name: &str,
    property: &Property,
) -> Result<Source, Problem> {
    let found = if name.contains('@') {
        volumes.resolve(name).map(|export| export.source)
    } else {
        volumes.snapshot(volume, name).map(|info| info.id.into())
    };
    found.map_err(|error| match error {
        VolumeError::NoVolume | VolumeError::NoSnapshot => {
            Problem::of_field(404, property.name, format!("{error}: `{name}`"))
        }
        error => error.into(),
    })
}

/// Where to go on, and with what: names may mean something else by then.
fn token(from: Option<Source>, to: Source, next: u64) -> String {
    format!("{}-{}-{next:x}", number(from), number(Some(to)))
}

fn position(text: &str, from: Option<Source>, to: Source) -> Result<u64, Problem> {
    let (sides, next) = text.rsplit_once('-').ok_or_else(wrong_token)?;
    let next = u64::from_str_radix(next, 16).map_err(|_| wrong_token())?;
    if sides != format!("{}-{}", number(from), number(Some(to))) {
        let detail = "`next` is of a diff between others than those that these names mean now";
        return Err(Problem::of_field(409, NEXT.name, detail));
    }
    Ok(next)
}

fn number(source: Option<Source>) -> String {
    match source {
        None => "0".into(),
        Some(Source::Volume(id)) => format!("v{}", id.0),
        Some(Source::Snapshot(id)) => format!("s{}", id.0),
    }
}
