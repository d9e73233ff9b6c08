//! The service of runner scale sets, which GitHub does not describe.

use http::Method;

use crate::{
    api::Raw,
    exchange::{Refusal, Reply},
    state::{Shared, State},
};

pub(crate) fn is_for(_path: &str, _ghes: bool) -> bool {
    false
}

pub(crate) fn operation(_method: &Method, _path: &str) -> String {
    String::new()
}

pub(crate) async fn answer(_shared: &Shared, _raw: Raw) -> Reply {
    Refusal::not_found().into_reply()
}

impl State {
    pub(crate) fn tell_scale_sets(&mut self, _job: i64) {}
}
