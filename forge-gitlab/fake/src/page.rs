//! Lists, a page at a time, as GitLab pages them by number.

use http::header::LINK;
use serde_json::Value;
use url::form_urlencoded::Serializer;

use crate::exchange::{Answer, Refusal, Reply, Request};

const DEFAULT: usize = 20;
const MOST: usize = 100;

/// The page of `items` that a request asks for.
pub(crate) fn page(request: &Request, items: Vec<Value>) -> Answer {
    let positive = |name: &str| match request.integer(name)? {
        None => Ok(None),
        Some(number) => match usize::try_from(number) {
            Ok(number) if number > 0 => Ok(Some(number)),
            _ => Err(Refusal::parameter(format!("{name} does not have a valid value"))),
        },
    };
    let size = positive("per_page")?.unwrap_or(DEFAULT).min(MOST);
    let number = positive("page")?.unwrap_or(1);
    let total = items.len();
    let last = total.div_ceil(size).max(1);
    let next = (number < last).then(|| number + 1);
    let previous = (number > 1).then(|| (number - 1).min(last));

    let relations = [("prev", previous), ("next", next), ("first", Some(1)), ("last", Some(last))];
    let links = relations.into_iter().filter_map(|(relation, page)| {
        Some(format!("<{}>; rel=\"{relation}\"", address(request, page?, size)))
    });
    let links: Vec<_> = links.collect();
    let text = |page: Option<usize>| page.map(|page| page.to_string()).unwrap_or_default();

    let items: Vec<_> =
        items.into_iter().skip((number - 1).saturating_mul(size)).take(size).collect();
    Ok(Reply::json(200, items.into())
        .with(LINK, links.join(", "))
        .with("x-page", number)
        .with("x-per-page", size)
        .with("x-next-page", text(next))
        .with("x-prev-page", text(previous))
        .with("x-total", total)
        .with("x-total-pages", last))
}

/// The request's own address with another page.
fn address(request: &Request, page: usize, size: usize) -> String {
    let mut query = Serializer::new(String::new());
    for (name, value) in &request.query {
        if !matches!(name.as_str(), "page" | "per_page" | "private_token") {
            query.append_pair(name, value);
        }
    }
    query.append_pair("page", &page.to_string()).append_pair("per_page", &size.to_string());
    format!("{}{}?{}", request.base, request.path, query.finish())
}
