//! The service accounts of pods.

use super::*;
use std::time::Instant;

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const NAMESPACES: &str = "/api/v1/namespaces";

fn pod_of(account: &str) -> Value {
    let mut pod = pod("p");
    pod["spec"]["serviceAccountName"] = json!(account);
    pod
}

#[tokio::test]
async fn a_pod_has_an_account_that_is_there() {
    let server = server().await;
    let begun = Instant::now();
    let refused = call("POST", PODS).json(&pod_of("nobody")).send(&server).await;
    assert_eq!(refused.failure(), (403, "Forbidden"));
    let message = "pods \"p\" is forbidden: error looking up service account default/nobody: \
                   serviceaccount \"nobody\" not found";
    assert_eq!(refused.body["message"], message);
    // Nobody makes this one, so that nobody waits for it.
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let account = json!({ "metadata": { "name": "a" }, "imagePullSecrets": [{ "name": "s" }] });
    call("POST", ACCOUNTS).json(&account).send(&server).await.expect(201);
    let made = call("POST", PODS).json(&pod_of("a")).send(&server).await.expect(201);
    assert_eq!(made["spec"]["imagePullSecrets"], json!([{ "name": "s" }]));
    assert!(made["spec"].get("volumes").is_none(), "{made}");
    let mut own = pod_of("a");
    own["metadata"]["name"] = json!("q");
    own["spec"]["imagePullSecrets"] = json!([{ "name": "mine" }]);
    let made = call("POST", PODS).json(&own).send(&server).await.expect(201);
    assert_eq!(made["spec"]["imagePullSecrets"], json!([{ "name": "mine" }]));
}

#[tokio::test]
async fn a_pod_waits_for_the_account_of_a_new_namespace() {
    let server = server().await;
    let namespace = json!({ "metadata": { "name": "new" } });
    call("POST", NAMESPACES).json(&namespace).send(&server).await.expect(201);
    let path = format!("{NAMESPACES}/new/pods");
    let account = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let account = json!({ "metadata": { "name": "default" } });
        let path = format!("{NAMESPACES}/new/serviceaccounts");
        call("POST", &path).json(&account).send(&server).await.expect(201);
    };
    let (made, ()) = tokio::join!(call("POST", &path).json(&pod("p")).send(&server), account);
    made.expect(201);
    // It does not wait for ever, and in a namespace that is not there not at all.
    let other = json!({ "metadata": { "name": "other" } });
    call("POST", NAMESPACES).json(&other).send(&server).await.expect(201);
    let path = format!("{NAMESPACES}/other/pods");
    let refused = call("POST", &path).json(&pod("p")).send(&server).await;
    assert_eq!(refused.failure(), (403, "Forbidden"));
    let message = refused.body["message"].as_str().unwrap();
    assert!(message.contains("serviceaccount \"default\" not found"), "{message}");
    let begun = Instant::now();
    let path = format!("{NAMESPACES}/nowhere/pods");
    let refused = call("POST", &path).json(&pod("p")).send(&server).await;
    assert_eq!(refused.failure(), (404, "NotFound"));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}
