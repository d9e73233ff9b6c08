//! Lists, a page at a time.

use http::header::LINK;
use serde_json::{Map, Value};
use url::form_urlencoded::Serializer;

use crate::exchange::{Answer, Reply, Request};

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

/// Deliveries, newest first: their pages have no numbers, because there are always new ones.
pub(crate) fn by_cursor(request: &Request, items: Vec<Value>) -> Answer {
    let size = size(request);
    let from = request.query("cursor").and_then(|cursor| cursor.parse::<i64>().ok());
    let mut rest = items.into_iter().filter(|item| match from {
        Some(from) => item["id"].as_i64() <= Some(from),
        None => true,
    });
    let page: Vec<_> = rest.by_ref().take(size).collect();
    let link = rest.next().map(|next| {
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
