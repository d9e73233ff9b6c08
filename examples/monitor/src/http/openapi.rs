//! The API's own description: the OpenAPI document, which needs no running service.

use std::{collections::HashMap, marker::PhantomData, sync::LazyLock};

use poem::{
    endpoint::BoxEndpoint,
    handler,
    http::{Method, header},
};
use poem_openapi::{
    OpenApi, OpenApiService,
    registry::{MetaApi, Registry},
};
use serde_json::{Value, json};

use super::{API, Apis};

mod precise;

const ABOUT: &str = "\
A pool of single-use CI runners in virtual machines.

Whoever changes something sends a token: `Authorization: Bearer TOKEN`. What a token allows is its role: `read` \
looks, `operate` also runs jobs and reserves, holds and retires workers, and `admin` does everything. Looking \
needs a token where the service is configured so; by default, where other hosts reach it.

Every refusal is `application/problem+json`, whose `detail` says what is wrong and the way out.";

/// The document as text, ending in a line break.
pub fn document() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let text = serde_json::to_string_pretty(value()).expect("a value is valid JSON");
        text + "\n"
    });
    &TEXT
}

/// The document.
pub fn value() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
        let text = service(Described::<Apis>(PhantomData)).spec();
        let mut document = serde_json::from_str(&text).expect("the document is JSON");
        say_what_reading_needs(&mut document);
        say_what_deliveries_need(&mut document);
        precise::make_precise(&mut document);
        document["components"]["schemas"]["NewJob"]["example"] =
            json!({ "title": "greet", "labels": ["linux"], "argv": ["echo", "hello"] });
        document
    });
    &DOCUMENT
}

/// `apis` as a service.
pub fn service<T: OpenApi>(apis: T) -> OpenApiService<T, ()> {
    OpenApiService::new(apis, "monitor", env!("CARGO_PKG_VERSION")).description(ABOUT).server(API)
}

/// The document, for clients.
#[handler]
pub fn fetch() -> poem::Response {
    poem::Response::builder()
        .content_type("application/json")
        .header(header::CACHE_CONTROL, "no-cache")
        .body(document())
}

/// Routes that change something say what they need. The others need a token or none, as the operator likes.
fn say_what_reading_needs(document: &mut Value) {
    document["components"]["securitySchemes"]["Read"] = json!({
        "type": "http",
        "scheme": "bearer",
        "description": "A token of any role: `Authorization: Bearer TOKEN`. \
                        Not needed where the service lets everybody look.",
    });
    let paths = document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut());
    for operations in paths {
        if let Some(get) = operations.get_mut("get")
            && get.get("security").is_none()
        {
            get["security"] = json!([{}, { "Read": [] }]);
        }
    }
}

/// What forges deliver proves itself.
fn say_what_deliveries_need(document: &mut Value) {
    document["components"]["securitySchemes"]["Signature"] = json!({
        "type": "apiKey",
        "in": "header",
        "name": "X-Hub-Signature-256",
        "description": "The body's HMAC-SHA256 with the webhook's secret: `sha256=` and 64 hexadecimal digits.",
    });
    document["paths"]["/forges/{forge}/webhook"]["post"]["security"] = json!([{ "Signature": [] }]);
}

/// Routes without what they work on: enough to describe them.
struct Described<T>(PhantomData<T>);

impl<T: OpenApi> OpenApi for Described<T> {
    fn meta() -> Vec<MetaApi> {
        T::meta()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn add_routes(self, _: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {}
}
