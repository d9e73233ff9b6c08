//! How much may be asked for, and what costs nothing.

mod common;

use std::time::Duration;

use common::{Client, acme, assert_clean, jit};
use fake_github::{Fault, FaultRule, Limits};
use reqwest::Method;

const ORG: &str = "/orgs/acme/actions/runners";

#[tokio::test]
async fn every_reply_tells_of_the_quota_and_what_did_not_change_is_free() {
    let (github, client) = acme().await;
    let first = client.get(ORG).await;
    assert_eq!(first.header("x-ratelimit-limit"), "5000");
    assert_eq!(first.header("x-ratelimit-remaining"), "4999");
    assert_eq!(first.header("x-ratelimit-resource"), "core");
    let again = |tag: &str| client.request(Method::GET, ORG).header("if-none-match", tag);
    let same = Client::send(again(first.header("etag"))).await.unwrap();
    assert_eq!((same.status.as_u16(), same.body.len()), (304, 0));
    assert_eq!(same.header("x-ratelimit-remaining"), "4999");
    assert_eq!(same.header("etag"), first.header("etag"));
    client.post(&format!("{ORG}/generate-jitconfig"), jit("one")).await.expect(201);
    let changed = Client::send(again(first.header("etag"))).await.unwrap();
    assert_eq!((changed.status.as_u16(), changed.header("x-ratelimit-remaining")), (200, "4997"));
    let charged: Vec<_> = github.calls().iter().map(|call| call.charged).collect();
    assert_eq!(charged, [true, false, true, true]);
    assert_clean(&github);
}

#[tokio::test]
async fn a_quota_that_is_used_up_comes_back_after_its_hour() {
    let (github, client) = acme().await;
    github.set_limits(Limits { core: 2, ..Limits::GITHUB });
    client.get(ORG).await.expect(200);
    client.get(ORG).await.expect(200);
    let refused = client.get(ORG).await;
    assert!(refused.expect(403)["message"].as_str().unwrap().contains("API rate limit exceeded"));
    assert_eq!(refused.header("x-ratelimit-remaining"), "0");
    let reset: i64 = refused.header("x-ratelimit-reset").parse().unwrap();
    let wait = reset - github.clock().now().as_second();
    assert!((1..=3600).contains(&wait), "{wait} s");
    let overview = client.get("/rate_limit").await.expect(200);
    assert_eq!(overview["resources"]["core"]["remaining"], 0);
    github.advance(Duration::from_secs(wait.unsigned_abs() + 1));
    client.get(ORG).await.expect(200);
    assert_clean(&github);
}

#[tokio::test]
async fn one_may_mint_no_more_than_180_a_minute() {
    let (github, client) = acme().await;
    let path = format!("{ORG}/generate-jitconfig");
    for number in 0..180 {
        client.post(&path, jit(&format!("r{number}"))).await.expect(201);
    }
    let refused = client.post(&path, jit("more")).await;
    assert!(refused.expect(403)["message"].as_str().unwrap().contains("secondary rate limit"));
    assert_eq!(refused.header("retry-after"), "60");
    client.get(ORG).await.expect(200);
    github.advance(Duration::from_secs(60));
    client.post(&path, jit("more")).await.expect(201);
    assert_clean(&github);
}

#[tokio::test]
async fn no_more_than_so_many_requests_may_be_under_way() {
    let (github, client) = acme().await;
    github.set_limits(Limits { concurrent: 1, ..Limits::GITHUB });
    github.fault(FaultRule::once(Fault::Hang));
    let hanging = Client::send(client.request(Method::GET, ORG));
    let other = async {
        github.until(|github| github.calls().len() == 1).await;
        client.get(ORG).await.expect(403);
    };
    tokio::select! {
        _ = hanging => panic!("it was answered"),
        () = other => (),
    }
    assert_clean(&github);
}

#[tokio::test]
async fn limits_can_be_hit_on_order() {
    let (github, client) = acme().await;
    github.fault(FaultRule::once(Fault::SecondaryLimit { retry_after: Some(30) }));
    assert_eq!(client.get(ORG).await.header("retry-after"), "30");
    github.fault(FaultRule::once(Fault::SecondaryLimit { retry_after: None }));
    assert_eq!(client.get(ORG).await.header("retry-after"), "");
    client.get(ORG).await.expect(200);
    github.fault(FaultRule::once(Fault::PrimaryLimit { reset_after: 90 }));
    let refused = client.get(ORG).await;
    assert_eq!((refused.status.as_u16(), refused.header("x-ratelimit-remaining")), (403, "0"));
    client.get(ORG).await.expect(403);
    github.advance(Duration::from_secs(90));
    client.get(ORG).await.expect(200);
    assert_clean(&github);
}

#[tokio::test]
async fn a_server_without_limits_says_so() {
    let github = fake_github::FakeGitHub::builder().ghes().start().await.unwrap();
    let client = common::populate(&github);
    client.get("/rate_limit").await.expect(404);
    assert_eq!(client.get(ORG).await.header("x-ratelimit-limit"), "");
    assert_clean(&github);
}
