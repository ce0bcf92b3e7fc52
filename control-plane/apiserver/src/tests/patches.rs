//! What patches say twice, or of fields that there are not.

use super::*;

const PATH: &str = "/apis/apps/v1/namespaces/default/deployments/d";

const MERGE: &str = r#"{ "spec": {
    "unknown1": "val1", "unknownDupe": "a", "unknownDupe": "b", "paused": true, "paused": false,
    "template": { "spec": { "containers": [{
        "name": "c", "image": "i", "unknownNested": "x",
        "imagePullPolicy": "Always", "imagePullPolicy": "Never"
    }] } }
} }"#;

const OPERATIONS: &str = r#"[
    { "op": "add", "path": "/spec/unknown1", "value": "val1", "foo": "bar" },
    { "op": "add", "path": "/spec/unknown2", "path": "/spec/unknown3", "value": { "a": 1, "a": 2 }},
    { "op": "add", "path": "/spec/template/spec/containers/0/unknownNested", "value": "val1" }
]"#;

async fn with_deployment() -> Server {
    let server = server().await;
    let path = PATH.trim_end_matches("/d");
    call("POST", path).json(&deployment(json!({}))).send(&server).await.expect(201);
    server
}

fn patch(kind: &str, query: &str, body: &str) -> Call {
    call("PATCH", &format!("{PATH}?{query}"))
        .header("content-type", &format!("application/{kind}+json"))
        .raw(body)
}

fn warnings(answer: &Answer) -> Vec<String> {
    let text = |value: &http::HeaderValue| {
        let text = value.to_str().unwrap();
        let text = text.strip_prefix("299 - \"").unwrap().strip_suffix('"').unwrap();
        text.replace("\\\"", "\"")
    };
    answer.headers.get_all("warning").iter().map(text).collect()
}

#[tokio::test]
async fn fields_that_are_not_there_or_twice_are_refused_told_or_ignored() {
    let server = with_deployment().await;
    let (nested, unknown) =
        (r#"unknown field "spec.template.spec.containers[0].unknownNested""#, "unknown field");
    let (one, dupe) =
        (format!(r#"{unknown} "spec.unknown1""#), format!(r#"{unknown} "spec.unknownDupe""#));
    let twice = [
        r#"duplicate field "spec.unknownDupe""#,
        r#"duplicate field "spec.paused""#,
        r#"duplicate field "spec.template.spec.containers[0].imagePullPolicy""#,
    ];
    let merged = [&twice[..], &[nested, &one, &dupe]].concat();
    let three = format!(r#"{unknown} "spec.unknown3""#);
    let operations = vec![
        r#"json patch unknown field "[0].foo""#,
        r#"json patch duplicate field "[1].path""#,
        r#"json patch duplicate field "[1].value.a""#,
        nested,
        &one,
        &three,
    ];
    let harmless = r#"{ "spec": { "paused": true, "paused": false } }"#;
    let table = [
        ("merge-patch", MERGE, merged.clone()),
        ("strategic-merge-patch", MERGE, merged),
        ("json-patch", OPERATIONS, operations),
        ("merge-patch", harmless, vec![twice[1]]),
        ("strategic-merge-patch", harmless, vec![twice[1]]),
        ("json-patch", "[]", vec![]),
    ];
    for (kind, body, mut expected) in table {
        let before = call("GET", PATH).send(&server).await.expect(200);
        let strict = patch(kind, "fieldValidation=Strict", body).send(&server).await;
        if expected.is_empty() {
            assert_eq!(strict.code, 200, "{kind}: {}", strict.body);
        } else {
            assert_eq!(strict.failure(), (422, "Invalid"), "{kind}");
            let message = strict.body["message"].as_str().unwrap();
            assert!(message.starts_with(" \"\" is invalid: patch: Invalid value: \""), "{message}");
            let (_, cause) = message.split_once(": strict decoding error: ").unwrap();
            assert_eq!(sorted(cause.split(", ")), sorted(expected.iter().copied()), "{kind}");
            assert_eq!(strict.body["details"]["causes"][0]["field"], "patch");
        }
        assert_eq!(call("GET", PATH).send(&server).await.expect(200), before, "{kind}");

        expected.sort_unstable();
        for query in ["fieldValidation=Warn&dryRun=All", "dryRun=All"] {
            let warned = patch(kind, query, body).send(&server).await;
            assert_eq!(warned.code, 200, "{}", warned.body);
            let warnings = warnings(&warned);
            assert_eq!(sorted(warnings.iter().map(String::as_str)), expected, "{kind} {query}");
        }
        let ignored = patch(kind, "fieldValidation=Ignore", body).send(&server).await;
        assert!(warnings(&ignored).is_empty(), "{kind}");
        let spec = &ignored.expect(200)["spec"];
        assert!(!spec.to_string().contains("unknown"), "{spec}");
    }
}

fn sorted<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut texts: Vec<&str> = texts.collect();
    texts.sort_unstable();
    texts
}

#[tokio::test]
async fn a_refusal_shows_the_patched_object_or_the_strategic_patch() {
    let server = with_deployment().await;
    let body = r#"{ "spec": { "colour": { "b": 1, "a": [true, null] } } }"#;
    let refused = patch("strategic-merge-patch", "fieldValidation=Strict", body);
    assert_eq!(
        refused.send(&server).await.body["message"],
        " \"\" is invalid: patch: Invalid value: \"map[spec:map[colour:map[a:[true <nil>] \
         b:1]]]\": strict decoding error: unknown field \"spec.colour\""
    );
    let refused = patch("merge-patch", "fieldValidation=Strict", body).send(&server).await;
    let cause = refused.body["details"]["causes"][0]["message"].as_str().unwrap();
    let shown = cause.strip_prefix("Invalid value: ").unwrap();
    let shown: Option<Result<String, _>> =
        serde_json::Deserializer::from_str(shown).into_iter().next();
    let object: Value = serde_json::from_str(&shown.unwrap().unwrap()).unwrap();
    assert_eq!(
        (&object["kind"], &object["spec"]["colour"]["b"]),
        (&json!("Deployment"), &json!(1))
    );

    // A field of the wrong type is refused whatever is asked for.
    for kind in ["merge-patch", "strategic-merge-patch"] {
        let body = r#"{ "spec": { "replicas": "many" } }"#;
        let refused = patch(kind, "fieldValidation=Ignore", body).send(&server).await;
        assert_eq!(refused.failure(), (422, "Invalid"), "{kind}");
        let message = refused.body["message"].as_str().unwrap();
        assert!(message.starts_with(" \"\" is invalid: patch: Invalid value: \""), "{message}");
        assert!(!message.contains("strict"), "{message}");
    }
    // Half a patch is none.
    let half = patch("merge-patch", "", "{ \"spec\": ").send(&server).await;
    assert_eq!(half.failure(), (400, "BadRequest"));
}
