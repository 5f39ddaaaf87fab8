//! Lists that come in pages.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde_json::{Map, Value};

use super::forms::{LIMIT, NEXT, PAGE_MAX};
use super::router::Call;

/// The part of `all`, whose numbers only grow, that a call asks for; and where to go on, if there are more.
pub(super) fn page<T>(call: &Call, all: Vec<(u64, T)>) -> (Vec<T>, Option<String>) {
    let after = call.query_text(&NEXT).and_then(|next| next.parse().ok());
    let (limit, _) = bounds(call);
    let mut rest = all
        .into_iter()
        .skip_while(|(number, _)| after.is_some_and(|after| *number <= after))
        .peekable();
    let (mut list, mut last) = (Vec::new(), None);
    while list.len() < limit
        && let Some((number, one)) = rest.next()
    {
        list.push(one);
        last = Some(number);
    }
    let next = rest.peek().and(last);
    (list, next.map(|number| number.to_string()))
}

/// How many a call asks for, and one more, which tells whether there are more.
pub(super) fn bounds(call: &Call) -> (usize, usize) {
    let limit = call.query_number(&LIMIT).unwrap_or(PAGE_MAX);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    (limit, limit.saturating_add(1))
}

/// A page's answer.
pub(super) fn listed(key: &str, list: Value, next: Option<String>) -> Value {
    let mut answer = Map::new();
    answer.insert(key.into(), list);
    if let Some(next) = next {
        answer.insert("next".into(), next.into());
    }
    answer.into()
}
