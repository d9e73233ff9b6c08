//! Who may do what, and what they are told.

mod common;

use std::time::Duration;

use common::{Client, acme, assert_clean, jit, permissions};
use fake_github::{App, FakeGitHub, Level};
use reqwest::Method;
use rsa::{
    RsaPrivateKey,
    pkcs1::DecodeRsaPrivateKey,
    pkcs1v15::SigningKey,
    signature::{SignatureEncoding, Signer},
};
use serde_json::{Value, json};

const ORG: &str = "/orgs/acme/actions/runners";

/// What an App proves itself with, from `from` to `until` in seconds from now.
fn proof(github: &FakeGitHub, app: &App, issuer: Value, from: i64, until: i64) -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
    let now = github.clock().now().as_second();
    let claims = json!({ "iat": now + from, "exp": now + until, "iss": issuer });
    let header = json!({ "alg": "RS256", "typ": "JWT" });
    let signed =
        format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
    let key = RsaPrivateKey::from_pkcs1_pem(&app.private_key).unwrap();
    let signature = SigningKey::<sha2::Sha256>::new(key).sign(signed.as_bytes());
    format!("{signed}.{}", BASE64.encode(signature.to_vec()))
}

fn as_app(github: &FakeGitHub, app: &App) -> Client {
    let proof = proof(github, app, json!(app.client_id), -60, 540);
    Client::new(github.api_url(), Some(&proof))
}

async fn token(github: &FakeGitHub, app: &App, installation: i64) -> (Client, Value) {
    let path = format!("/app/installations/{installation}/access_tokens");
    let made = as_app(github, app).post(&path, json!({})).await.expect(201);
    (Client::new(github.api_url(), made["token"].as_str()), made)
}

#[tokio::test]
async fn an_app_finds_its_installation_and_gets_a_token_for_an_hour() {
    let (github, _) = acme().await;
    let app =
        github.app("manager", permissions(&[("organization_self_hosted_runners", Level::Write)]));
    let installation = github.install(&app, "acme").unwrap();
    let proven = as_app(&github, &app);
    assert_eq!(proven.get("/app").await.expect(200)["slug"], "manager");
    for path in ["/orgs/acme/installation", "/repos/acme/widgets/installation"] {
        assert_eq!(proven.get(path).await.expect(200)["id"], installation);
    }
    assert_eq!(proven.get("/app/installations").await.expect(200)[0]["id"], installation);
    let (client, made) = token(&github, &app, installation).await;
    assert_eq!(made["permissions"], json!({ "organization_self_hosted_runners": "write" }));
    client.post(&format!("{ORG}/generate-jitconfig"), jit("one")).await.expect(201);
    let repositories = client.get("/installation/repositories").await.expect(200);
    assert_eq!(repositories["repositories"][0]["full_name"], "acme/widgets");
    github.advance(Duration::from_secs(3600));
    assert_eq!(client.get(ORG).await.expect(401)["message"], "Bad credentials");
    let (client, _) = token(&github, &app, installation).await;
    github.uninstall(installation);
    client.get(ORG).await.expect(401);
    proven.get("/app").await.expect(401);
    assert_clean(&github);
}

#[tokio::test]
async fn a_proof_must_be_signed_and_of_now() {
    let (github, _) = acme().await;
    let app = github.app("manager", permissions(&[]));
    let ask = async |proof: String| Client::new(github.api_url(), Some(&proof)).get("/app").await;
    let good = proof(&github, &app, json!(app.id), -60, 600);
    ask(good.clone()).await.expect(200);
    let message = async |proof: String| ask(proof).await.expect(401)["message"].to_string();
    assert!(
        message(proof(&github, &app, json!(app.id), -60, 700))
            .await
            .contains("too far in the future")
    );
    assert!(message(proof(&github, &app, json!(app.id), -700, -1)).await.contains("'exp'"));
    assert!(message(proof(&github, &app, json!(app.id), 300, 540)).await.contains("'iat'"));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let mut signature = signature.to_owned().into_bytes();
    signature[20] = if signature[20] == b'A' { b'B' } else { b'A' };
    let forged = format!("{signed}.{}", String::from_utf8(signature).unwrap());
    assert!(message(forged).await.contains("could not be decoded"));
    ask(proof(&github, &app, json!("Iv1.nobody"), -60, 600)).await.expect(404);
    assert_clean(&github);
}

#[tokio::test]
async fn what_a_token_does_not_reach_is_not_there_and_what_it_may_not_is_forbidden() {
    let (github, _) = acme().await;
    github.organisation("other");
    github.repository("acme", "gadgets");
    let may = permissions(&[
        ("organization_self_hosted_runners", Level::Read),
        ("administration", Level::Write),
    ]);
    let app = github.app("manager", may);
    let installation = github.install_selected(&app, "acme", &["widgets"]).unwrap();
    let (client, made) = token(&github, &app, installation).await;
    assert_eq!(made["repository_selection"], "selected");
    client.get(ORG).await.expect(200);
    let refused = client.post(&format!("{ORG}/generate-jitconfig"), jit("one")).await;
    assert_eq!(refused.expect(403)["message"], "Resource not accessible by integration");
    assert_eq!(
        refused.header("x-accepted-github-permissions"),
        "organization_self_hosted_runners=write"
    );
    client.get("/orgs/other/actions/runners").await.expect(404);
    client.get("/repos/acme/widgets/actions/runners").await.expect(200);
    client.get("/repos/acme/gadgets/actions/runners").await.expect(404);
    client.get("/enterprises/big/actions/runners").await.expect(403);
    assert!(github.runners().is_empty());
    assert_clean(&github);
}

#[tokio::test]
async fn an_enterprise_is_for_classic_tokens_that_manage_its_runners() {
    let (github, _) = acme().await;
    let path = "/enterprises/big/actions/runners";
    let ask = async |token: &str| Client::new(github.api_url(), Some(token)).get(path).await;
    let write = permissions(&[("organization_self_hosted_runners", Level::Write)]);
    ask(&github.fine_grained_token("acme", write)).await.expect(403);
    ask(&github.classic_token("mona", &["repo", "admin:org"])).await.expect(403);
    let token = github.classic_token("mona", &["manage_runners:enterprise"]);
    let answer = ask(&token).await;
    assert_eq!(answer.expect(200)["total_count"], 0);
    github.revoke(&token);
    ask(&token).await.expect(401);
    let nobody = Client::new(github.api_url(), None);
    assert_eq!(nobody.get(path).await.expect(401)["message"], "Requires authentication");
    assert_clean(&github);
}

#[tokio::test]
async fn manners_are_asked_for() {
    let (github, client) = acme().await;
    let bare = reqwest::Client::new().get(format!("{}/meta", github.api_url()));
    assert_eq!(Client::send(bare).await.unwrap().status, 403);
    assert_eq!(github.take_violations().len(), 1);
    let old = client.request(Method::GET, "/meta").header("x-github-api-version", "2021-01-01");
    assert_eq!(Client::send(old).await.unwrap().status, 400);
    let answer = client.get("/meta").await;
    assert!(answer.header("x-github-request-id").contains(':'));
    client.get("/orgs/acme/actions/unheard-of").await.expect(404);
    client.get(&format!("{ORG}?colour=red")).await.expect(200);
    client.post(&format!("{ORG}/generate-jitconfig"), json!({ "name": 7 })).await.expect(422);
    let broken = client.request(Method::POST, &format!("{ORG}/generate-jitconfig")).body("{");
    assert_eq!(Client::send(broken).await.unwrap().status, 400);
    let violations = github.take_violations();
    assert!(violations.iter().all(|violation| !violation.ours), "{violations:?}");
    assert!(violations.len() >= 5, "{violations:?}");
}
