//! Lists that decide over machines: whole, or an error.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    budget::Priority,
    client::Client,
    error::{Answer, ApiError},
    wire::read,
};

/// How many items a page may have: GitHub's most.
const PER_PAGE: usize = 100;
/// How many pages are read at most: 100,000 items, ten times what an organisation may have of runners.
const MOST_PAGES: usize = 1000;
/// How often a list that changes while it is read is begun again.
const ATTEMPTS: usize = 3;

/// What lists are made of.
pub(crate) trait Item: DeserializeOwned + Send {
    /// The name of the list within its document.
    const LIST: &'static str;
    /// GitHub's number of it.
    fn number(&self) -> u64;
}

/// A page of a list.
struct Page<T> {
    total: usize,
    items: Vec<T>,
}

impl<T: Item> Page<T> {
    fn read(body: &Bytes) -> Answer<Self> {
        #[derive(Deserialize)]
        struct Total {
            total_count: usize,
        }
        let what = format!("the list of {}", T::LIST);
        let Total { total_count: total } = read(body, &what)?;
        let mut document: serde_json::Map<String, serde_json::Value> = read(body, &what)?;
        let items = document
            .remove(T::LIST)
            .ok_or_else(|| ApiError::nonsense(format!("{what} is not in GitHub's answer")))?;
        let items = serde_path_to_error::deserialize(items).map_err(|error| {
            ApiError::nonsense(format!("{what} is not what GitHub describes ({error})"))
        })?;
        Ok(Self { total, items })
    }

    fn numbers(&self) -> Vec<u64> {
        self.items.iter().map(Item::number).collect()
    }
}

/// A list as it was read, or why it has to be read again.
enum Reading<T> {
    Whole(Vec<T>),
    Moved(String),
}

/// Reads a list as it was at one moment. `path` may hold a query.
///
/// A list of one page is as GitHub sent it. One of several may change between two pages, and then lack what
/// moved to a page that was read already; so the earlier pages are asked for again, and must still hold the
/// same items.
///
/// # Errors
/// When a page fails, is not what it should be, or the list ends short of its `total_count`; and when it kept
/// changing.
pub(crate) async fn whole<T: Item>(
    client: &Client,
    path: &str,
    priority: Priority,
) -> Answer<Vec<T>> {
    let mut why = String::new();
    for _ in 0..ATTEMPTS {
        match read_whole(client, path, priority).await? {
            Reading::Whole(items) => return Ok(items),
            Reading::Moved(reason) => {
                // One of the pages may be wrong and go on to be told as unchanged.
                client.forget(&address(path));
                why = reason;
            }
        }
    }
    Err(ApiError::nonsense(format!("the list of {} is not whole: {why}", T::LIST)))
}

async fn read_whole<T: Item>(
    client: &Client,
    path: &str,
    priority: Priority,
) -> Answer<Reading<T>> {
    let mut pages: Vec<Page<T>> = Vec::new();
    loop {
        let (page, has_next) = page(client, path, pages.len() + 1, priority).await?;
        pages.push(page);
        if !has_next {
            break;
        }
        if pages.len() == MOST_PAGES {
            let what = format!("the list of {} has no end", T::LIST);
            return Err(ApiError::nonsense(what));
        }
    }
    let total = pages[0].total;
    if pages.iter().any(|page| page.total != total) {
        return Ok(Reading::Moved("its length changed from page to page".to_owned()));
    }
    let (mut numbers, mut count) = (BTreeSet::new(), 0);
    for number in pages.iter().flat_map(Page::numbers) {
        count += 1;
        if !numbers.insert(number) {
            return Ok(Reading::Moved(format!("{number} is in it twice")));
        }
    }
    if count != total {
        return Ok(Reading::Moved(format!("it has {count} of {total}")));
    }
    for index in 0..pages.len() - 1 {
        let (again, _) = page(client, path, index + 1, priority).await?;
        if again.numbers() != pages[index].numbers() {
            return Ok(Reading::Moved("something moved from page to page".to_owned()));
        }
        // What it says of each is newer.
        pages[index] = again;
    }
    Ok(Reading::Whole(pages.into_iter().flat_map(|page| page.items).collect()))
}

/// Reads a list of which a late item is seen next time: what moves while it is read may be missed, and no
/// more than `most` pages are read.
///
/// # Errors
/// When a page fails or is not what it should be.
pub(crate) async fn most<T: Item>(
    client: &Client,
    path: &str,
    priority: Priority,
    most: usize,
) -> Answer<Vec<T>> {
    let (mut all, mut numbers) = (Vec::new(), BTreeSet::new());
    for number in 1..=most {
        let (page, has_next) = page::<T>(client, path, number, priority).await?;
        if page.items.is_empty() && all.len() < page.total && number == 1 {
            let what = format!("the list of {} lacks all of its {}", T::LIST, page.total);
            return Err(ApiError::nonsense(what));
        }
        all.extend(page.items.into_iter().filter(|item| numbers.insert(item.number())));
        if !has_next {
            break;
        }
    }
    Ok(all)
}

async fn page<T: Item>(
    client: &Client,
    path: &str,
    number: usize,
    priority: Priority,
) -> Answer<(Page<T>, bool)> {
    let path = format!("{}{number}", address(path));
    let answer = client.page(&path, priority).await?;
    let page = Page::read(&answer.body).inspect_err(|_| client.forget(&path))?;
    Ok((page, answer.has_next))
}

/// The address of a list's pages, but for the number.
fn address(path: &str) -> String {
    let joint = if path.contains('?') { '&' } else { '?' };
    format!("{path}{joint}per_page={PER_PAGE}&page=")
}
