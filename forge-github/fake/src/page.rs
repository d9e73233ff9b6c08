//! Lists, a page at a time.

use http::header::LINK;
use serde_json::{Map, Value};
use url::form_urlencoded::Serializer;

use crate::{
    exchange::{Answer, Reply, Request},
    hook::Delivery,
};

const DEFAULT: usize = 30;
const MOST: usize = 100;

/// The page of `items` that a request asks for, as `{"total_count": …, KEY: […]}`.
pub(crate) fn counted(request: &Request, key: &str, items: Vec<Value>) -> Answer {
    let mut body = Map::new();
    body.insert("total_count".to_owned(), items.len().into());
    let (items, link) = cut(request, items);
    body.insert(key.to_owned(), items.into());
    linked(Reply::ok(body.into())?, link)
}

/// The page of `items` that a request asks for, as a bare list.
pub(crate) fn bare(request: &Request, items: Vec<Value>) -> Answer {
    let (items, link) = cut(request, items);
    linked(Reply::ok(items.into())?, link)
}

/// Whether a delivery is on the page that a request asks for, or on a later one.
pub(crate) fn from_cursor(request: &Request) -> impl Fn(&&Delivery) -> bool + use<> {
    let from = request.query("cursor").and_then(|cursor| cursor.parse::<i64>().ok());
    move |delivery| from.is_none_or(|from| delivery.id <= from)
}

/// Deliveries from the cursor on, newest first: their pages have no numbers, because there are always new ones.
pub(crate) fn by_cursor(request: &Request, mut items: impl Iterator<Item = Value>) -> Answer {
    let page: Vec<_> = items.by_ref().take(size(request)).collect();
    let link = items.next().map(|next| {
        let cursor = next["id"].to_string();
        format!("<{}>; rel=\"next\"", address(request, "cursor", &cursor))
    });
    linked(Reply::ok(page.into())?, link)
}

fn size(request: &Request) -> usize {
    let size = request.query("per_page").and_then(|text| text.parse().ok());
    size.filter(|size| *size > 0).unwrap_or(DEFAULT).min(MOST)
}

fn cut(request: &Request, items: Vec<Value>) -> (Vec<Value>, Option<String>) {
    let size = size(request);
    let page = request.query("page").and_then(|text| text.parse().ok()).unwrap_or(1_usize).max(1);
    let last = items.len().div_ceil(size).max(1);
    let mut links = Vec::new();
    let mut link = |page: usize, relation| {
        let address = address(request, "page", &page.to_string());
        links.push(format!("<{address}>; rel=\"{relation}\""));
    };
    if page > 1 {
        link((page - 1).min(last), "prev");
    }
    if page < last {
        link(page + 1, "next");
        link(last, "last");
    }
    if page > 1 {
        link(1, "first");
    }
    let items = items.into_iter().skip((page - 1).saturating_mul(size)).take(size).collect();
    (items, (!links.is_empty()).then(|| links.join(", ")))
}

/// The request's own address with one parameter changed.
fn address(request: &Request, name: &str, value: &str) -> String {
    let mut query = Serializer::new(String::new());
    for (key, value) in request.query.iter().filter(|(key, _)| key != name) {
        query.append_pair(key, value);
    }
    query.append_pair(name, value);
    format!("{}{}?{}", request.addresses.api, request.path, query.finish())
}

fn linked(reply: Reply, link: Option<String>) -> Answer {
    Ok(match link {
        Some(link) => reply.with(LINK, link),
        None => reply,
    })
}
