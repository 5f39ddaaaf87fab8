//! What happened: the log, how much goes into it, and who changed what.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use access::Entry;
use serde::Serialize;
use serde_json::{Map, Value, json};
use upkeep::calendar::rfc3339;
use world::Disk;

use super::Backend;
use super::edits::tag_of;
use super::forms::{LEVEL, LIMIT, MODULES, NEXT, PAGE_MAX, TAIL};
use super::node::{LogLevels, Node};
use super::problem::Problem;
use super::router::{Call, Handled, Response};

/// Log lines when nobody says how many.
const LOG_LINES: u64 = 100;

pub(super) async fn log<D>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let lines = call.query_number(&TAIL).unwrap_or(LOG_LINES);
    let lines = backend
        .node
        .log_tail(usize::try_from(lines).unwrap_or(usize::MAX));
    Ok(Response::json(200, &json!({"lines": lines})))
}

pub(super) fn tag<D>(backend: &Backend<D>, _: &Call) -> Option<String> {
    Some(tag_of(&shown(&*backend.node)))
}

fn shown(node: &dyn Node) -> Value {
    let levels = node.log_levels();
    let modules = levels.modules.iter();
    let modules: Map<String, Value> = modules
        .map(|(module, level)| (module.clone(), name(*level).into()))
        .collect();
    json!({"level": name(levels.level), "modules": modules})
}

fn name(level: log::LevelFilter) -> String {
    level.to_string().to_ascii_lowercase()
}

pub(super) async fn levels<D>(backend: Rc<Backend<D>>, _: Call) -> Handled {
    Ok(Response::json(200, &shown(&*backend.node)))
}

pub(super) async fn modules<D>(backend: Rc<Backend<D>>, _: Call) -> Handled {
    let modules = backend.node.log_modules();
    Ok(Response::json(200, &json!({"modules": modules})))
}

pub(super) async fn set_levels<D>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let read = |value: &Value| value.as_str().and_then(|level| level.parse().ok());
    let modules = call.body.get(MODULES.name).and_then(Value::as_object);
    let modules = modules.into_iter().flatten();
    let levels = LogLevels {
        level: (call.body.get(LEVEL.name).and_then(read)).unwrap_or(log::LevelFilter::Info),
        modules: modules
            .filter_map(|(module, level)| Some((module.clone(), read(level)?)))
            .collect(),
    };
    let known = backend.node.log_modules();
    let mut modules = levels.modules.iter();
    // Whoever mistypes a name would wait for lines that never come.
    if let Some((module, _)) = modules.find(|(module, _)| !known.contains(&module.as_str())) {
        let field = format!("{}.{module}", MODULES.name);
        let detail =
            format!("no such module: `{module}`; `/v1/log/modules` has those that log anything");
        return Err(Problem::of_field(404, &field, detail));
    }
    backend.node.set_log_levels(levels);
    Ok(Response::json(200, &shown(&*backend.node)))
}

#[derive(Serialize)]
struct EntryResource {
    id: u64,
    at: Option<String>,
    who: String,
    from: String,
    what: String,
    with: String,
    status: u16,
    error: Option<String>,
}

impl From<Entry> for EntryResource {
    fn from(entry: Entry) -> Self {
        Self {
            id: entry.id,
            at: (entry.at_nanos > 0).then(|| rfc3339(entry.at_nanos)),
            who: entry.who,
            from: entry.from,
            what: entry.what,
            with: entry.with,
            status: entry.status,
            error: (!entry.error.is_empty()).then_some(entry.error),
        }
    }
}

pub(super) async fn audit<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let before = call.query_text(&NEXT).and_then(|next| next.parse().ok());
    let limit = call.query_number(&LIMIT).unwrap_or(PAGE_MAX);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut entries = backend.audit.list(before, limit + 1);
    let are_more = entries.len() > limit;
    entries.truncate(limit);
    let next = entries.last().filter(|_| are_more).map(|entry| entry.id);
    let list: Vec<EntryResource> = entries.into_iter().map(Into::into).collect();
    let mut answer = json!({"entries": list});
    if let Some(next) = next {
        answer["next"] = next.to_string().into();
    }
    Ok(Response::json(200, &answer))
}
