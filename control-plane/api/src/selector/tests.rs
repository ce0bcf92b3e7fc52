use serde_json::json;

use super::*;
use crate::resource::find;

fn labelled(labels: Value) -> Value {
    json!({"metadata": {"labels": labels}})
}

#[test]
fn label_selectors_match() {
    let web = json!({"app": "web", "tier": "front", "rank": "7"});
    let table = [
        ("", true),
        ("app=web", true),
        ("app==web", true),
        ("app = web , tier=front", true),
        ("app=db", false),
        ("app!=db", true),
        ("missing!=db", true),
        ("app", true),
        ("!app", false),
        ("!missing", true),
        ("app in (web, db)", true),
        ("app in(db)", false),
        ("app notin (db,cache),tier", true),
        ("missing notin (a)", true),
        ("missing in (a)", false),
        ("missing=", false),
        ("rank>5", true),
        ("rank<5", false),
        ("app>5", false),
        ("example.com/in=x", false),
        ("in=x", false),
    ];
    for (text, expected) in table {
        let selector = LabelSelector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(selector.matches_object(&labelled(web.clone())), expected, "{text}");
        let again = LabelSelector::parse(&selector.to_string()).unwrap();
        assert_eq!(again, selector, "{text}");
    }
    assert!(LabelSelector::parse("a=").unwrap().matches_object(&labelled(json!({"a": ""}))));
}

#[test]
fn malformed_label_selectors_are_refused() {
    let table = [
        ("=web", "unable to parse requirement: found '=', expected: identifier"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a=b=c", "unable to parse requirement: found '=', expected: ',' or 'end of string'"),
        ("a>x", "\"x\": for 'Gt', 'Lt' operators, the value must be an integer"),
        ("a,", "unable to parse requirement: found '', expected: identifier"),
    ];
    for (text, expected) in table {
        let error = LabelSelector::parse(text).unwrap_err();
        assert_eq!(error.to_string(), expected, "{text}");
    }
    for text in ["-a=b", "a=b_", "a/b/c", "a in (b,c_)"] {
        let error = LabelSelector::parse(text).unwrap_err().to_string();
        assert!(error.contains("Invalid value"), "{text}: {error}");
    }
}

#[test]
fn structured_selectors() {
    let object = labelled(json!({"app": "web"}));
    let parse = |value: Value| LabelSelector::from_label_selector(&value);
    assert!(!parse(json!(null)).unwrap().matches_object(&object));
    assert!(!parse(json!(null)).unwrap().is_empty());
    assert!(parse(json!({})).unwrap().matches_object(&object));
    assert!(parse(json!({})).unwrap().is_empty());
    let both = parse(json!({
        "matchLabels": {"app": "web"},
        "matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]},
                             {"key": "old", "operator": "DoesNotExist"}],
    }));
    assert!(both.unwrap().matches_object(&object));
    assert!(parse(json!({"matchExpressions": [{"key": "a", "operator": "Near"}]})).is_err());
    assert!(LabelSelector::from_map(&json!({"app": "web"})).matches_object(&object));
    assert!(!LabelSelector::from_map(&json!({"app": "db"})).matches_object(&object));
}

#[test]
fn field_selectors() {
    let pods = find("", "v1", "pods").unwrap();
    let pod = json!({"metadata": {"name": "a", "namespace": "d"},
        "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
    let table = [
        ("", true),
        ("spec.nodeName=n1", true),
        ("spec.nodeName==n1,status.phase!=Failed", true),
        ("spec.nodeName!=n1", false),
        ("spec.nodeName=", false),
        ("spec.hostNetwork=false", true),
        ("metadata.name=a,metadata.namespace=d", true),
        ("metadata.name=b", false),
        ("status.podIP=", true),
        ("spec.host=n1", true),
        ("spec.host=n2", false),
        ("status.podIPs=", true),
        ("status.podIPs=10.0.0.1", false),
        ("metadata.name!=x\\,y", true),
    ];
    for (text, expected) in table {
        let selector = FieldSelector::parse(pods, text).unwrap();
        assert_eq!(selector.matches(&pod), expected, "{text}");
    }
    let selector = FieldSelector::parse(pods, "metadata.name=a,status.phase!=x").unwrap();
    assert_eq!(selector.required("metadata.name"), Some("a"));
    assert_eq!(selector.required("status.phase"), None);
}

#[test]
fn malformed_field_selectors_are_refused() {
    let pods = find("", "v1", "pods").unwrap();
    let nodes = find("", "v1", "nodes").unwrap();
    let maps = find("", "v1", "configmaps").unwrap();
    let table = [
        (
            maps,
            "data.a=1",
            r#""data.a" is not a known field selector: only "metadata.name", "metadata.namespace""#,
        ),
        (pods, "spec.image=x", "field label not supported: spec.image"),
        (nodes, "metadata.namespace=x", "field label not supported: metadata.namespace"),
        (pods, "abc", "invalid selector: 'abc'; can't understand 'abc'"),
        (
            pods,
            "metadata.name=a=b",
            "invalid selector: 'metadata.name=a=b'; can't understand 'metadata.name=a=b'",
        ),
    ];
    for (resource, text, expected) in table {
        let error = FieldSelector::parse(resource, text).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}
