//! What can go wrong does, on order and on the wire.

mod common;

use std::time::Duration;

use common::{Client, acme, assert_clean, jit};
use fake_github::{Fault, FaultRule, JobRequest};
use reqwest::Method;
use serde_json::json;

const ORG: &str = "/orgs/acme/actions/runners";
const MINT: &str = "/orgs/acme/actions/runners/generate-jitconfig";

#[tokio::test]
async fn a_status_comes_with_or_without_retry_after_and_has_no_effect() {
    let (github, client) = acme().await;
    let status = |status, retry_after| Fault::Status { status, retry_after, message: None };
    for (code, retry_after) in [
        (401, None),
        (403, None),
        (404, None),
        (429, Some(7)),
        (500, None),
        (502, None),
        (503, Some(3)),
    ] {
        github.fault(
            FaultRule::once(status(code, retry_after))
                .operation("actions/generate-runner-jitconfig-for-org"),
        );
        let answer = client.post(MINT, jit("one")).await;
        let body = answer.expect(code);
        assert!(body["message"].is_string(), "{body}");
        assert_eq!(answer.header("retry-after").parse().ok(), retry_after);
    }
    assert!(github.runners().is_empty());
    client.post(MINT, jit("one")).await.expect(201);
    assert_clean(&github);
}

#[tokio::test]
async fn a_lost_reply_had_its_effect_and_a_reset_had_none() {
    let (github, client) = acme().await;
    for fault in [Fault::Reset, Fault::LostReply] {
        github.fault(FaultRule::once(fault).method("POST"));
        let sent = Client::send(client.request(Method::POST, MINT).json(&jit("one"))).await;
        let error = sent.err().unwrap();
        assert!(error.is_request(), "{error:?}");
    }
    assert_eq!(github.runners().len(), 1);
    client.post(MINT, jit("one")).await.expect(409);
    let statuses: Vec<_> = github.calls().iter().map(|call| call.status).collect();
    assert_eq!(statuses, [None, None, Some(409)]);
    assert_clean(&github);
}

#[tokio::test]
async fn a_body_can_be_cut_garbled_slow_or_a_page_for_people() {
    let (github, client) = acme().await;
    client.post(MINT, jit("one")).await.expect(201);

    github.fault(FaultRule::once(Fault::Truncated));
    let cut = Client::send(client.request(Method::GET, ORG)).await.err().unwrap();
    assert!(cut.is_body() || cut.is_decode(), "{cut:?}");

    github.fault(FaultRule::once(Fault::Garbage));
    let garbled = client.get(ORG).await;
    assert_eq!(garbled.status, 200);
    assert!(serde_json::from_slice::<serde_json::Value>(&garbled.body).is_err());

    github.fault(FaultRule::once(Fault::Slow { piece: 16, pause_ms: 1 }));
    assert_eq!(client.get(ORG).await.expect(200)["total_count"], 1);

    for status in [200, 503] {
        github.fault(FaultRule::once(Fault::Html { status }));
        let page = client.get(ORG).await;
        assert_eq!(page.status.as_u16(), status);
        assert!(page.header("content-type").starts_with("text/html"));
        assert!(page.text().starts_with("<!DOCTYPE html>"));
    }
    assert_clean(&github);
}

#[tokio::test]
async fn one_page_can_fail_and_a_list_can_be_short() {
    let (github, client) = acme().await;
    for number in 0..6 {
        client.post(MINT, jit(&format!("r{number}"))).await.expect(201);
    }
    let status = Fault::Status { status: 502, retry_after: None, message: None };
    github.fault(FaultRule::once(status).path("*/actions/runners?*&page=2*"));
    client.get(&format!("{ORG}?per_page=2&page=1")).await.expect(200);
    client.get(&format!("{ORG}?per_page=2&page=2")).await.expect(502);
    client.get(&format!("{ORG}?per_page=2&page=2")).await.expect(200);

    github.fault(FaultRule::once(Fault::ShortList));
    let short = client.get(&format!("{ORG}?per_page=4")).await;
    let body = short.expect(200);
    assert_eq!((&body["total_count"], body["runners"].as_array().unwrap().len()), (&json!(6), 2));
    assert_eq!(short.header("link"), "");
    assert_clean(&github);
}

#[tokio::test]
async fn a_request_that_hangs_is_held_until_its_client_leaves() {
    let (github, client) = acme().await;
    github.fault(FaultRule::once(Fault::Hang));
    let hanging = Client::send(client.request(Method::GET, ORG));
    tokio::select! {
        answer = hanging => panic!("it was answered: {}", answer.is_ok()),
        () = github.until(|github| github.calls().len() == 1) => (),
    }
    client.get(ORG).await.expect(200);
    assert_clean(&github);
}

#[tokio::test]
async fn a_token_can_end_in_the_middle() {
    let (github, client) = acme().await;
    client.get(ORG).await.expect(200);
    github.fault(FaultRule::once(Fault::ExpiredToken).skip(1));
    client.get(ORG).await.expect(200);
    assert_eq!(client.get(ORG).await.expect(401)["message"], "Bad credentials");
    client.get(ORG).await.expect(401);
    assert_clean(&github);
}

#[tokio::test]
async fn github_can_be_down_and_up_again() {
    let (github, client) = acme().await;
    github.fault(FaultRule::always(Fault::Reset));
    for path in [ORG, "/rate_limit", "/actions/runner-registration"] {
        assert!(Client::send(client.request(Method::GET, path)).await.is_err(), "{path}");
    }
    github.clear_faults();
    client.get(ORG).await.expect(200);
    assert_clean(&github);
}

#[tokio::test]
async fn a_job_goes_on_while_github_is_down_for_its_manager() {
    let (github, client) = acme().await;
    let made = client.post(MINT, jit("one")).await.expect(201);
    let session = github.connect(made["encoded_jit_config"].as_str().unwrap()).unwrap();
    let job = github.enqueue(JobRequest::new("acme/widgets", ["linux"])).unwrap().id;
    let down = Fault::Status { status: 503, retry_after: None, message: None };
    github.fault(FaultRule::always(down));
    assert_eq!(github.next_job(&session, Duration::from_secs(60)).await.unwrap().unwrap().id, job);
    client.get(ORG).await.expect(503);
    github.finish(&session, fake_github::Conclusion::Success).unwrap();
    assert_clean(&github);
}
