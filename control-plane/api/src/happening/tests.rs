//! What is told of what happens.

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn happening(name: &str, message: &str) -> Happening {
    Happening {
        component: "kubelet",
        host: Some("node1".to_owned()),
        about: ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some("default".to_owned()),
            name: Some(name.to_owned()),
            uid: Some(format!("uid-{name}")),
            ..ObjectReference::default()
        },
        warning: true,
        reason: "BackOff",
        message: message.to_owned(),
    }
}

#[test]
fn the_same_again_counts_up() {
    let mut correlator = Correlator::default();
    let what = happening("a", "no");
    let first = correlator.tell(&what, at(0)).unwrap();
    assert!(first.is_new);
    for count in 2..=25 {
        let again = correlator.tell(&what, at(count)).unwrap();
        assert_eq!((again.is_new, &again.name), (false, &first.name));
        let event = again.event(&what);
        assert_eq!(event.count, Some(i32::try_from(count).unwrap()));
        assert_eq!(event.first_timestamp, Some(Time(at(0))));
        assert_eq!(again.patch()["lastTimestamp"], json!(Time(at(count))));
    }
    let mut other = what;
    other.about.field_path = Some("spec.containers{c}".to_owned());
    assert!(correlator.tell(&other, at(600)).unwrap().is_new, "about another part");
}

#[test]
fn similar_things_share_an_event() {
    let mut correlator = Correlator::default();
    let mut tell = |number: usize, second| {
        let what = happening("a", &format!("number {number}"));
        let telling = correlator.tell(&what, at(second)).unwrap();
        (telling.is_new, telling.event(&what).message.unwrap(), telling.count)
    };
    for number in 1..=9 {
        assert_eq!(tell(number, 1), (true, format!("number {number}"), 1));
    }
    for (number, count) in [(10, 1), (11, 2), (12, 3)] {
        let message = format!("(combined from similar events): number {number}");
        assert_eq!(tell(number, 2), (count == 1, message, count));
    }
    // Ten minutes after the last one they are single again.
    assert_eq!(tell(13, 602).1, "(combined from similar events): number 13");
    assert_eq!(tell(14, 1203), (true, "number 14".to_owned(), 1));
}

#[test]
fn other_reasons_and_objects_are_not_similar() {
    let mut correlator = Correlator::default();
    for number in 0..9 {
        correlator.tell(&happening("a", &format!("number {number}")), at(0)).unwrap();
    }
    let mut reason = happening("a", "x");
    reason.reason = "Failed";
    let mut normal = happening("a", "y");
    normal.warning = false;
    for what in [reason, normal, happening("b", "z")] {
        let telling = correlator.tell(&what, at(0)).unwrap();
        assert_eq!(telling.event(&what).message, Some(what.message));
    }
    let what = happening("a", "the tenth");
    let telling = correlator.tell(&what, at(0)).unwrap();
    assert_eq!(telling.message, "(combined from similar events): the tenth");
}

#[test]
fn a_source_that_tells_too_much_of_an_object_is_not_heard() {
    let mut correlator = Correlator::default();
    let what = happening("a", "no");
    let mut heard = |what: &Happening, second| correlator.tell(what, at(second)).is_some();
    for number in 0..25 {
        assert!(heard(&what, 0), "{number}");
    }
    let mut other = what.clone();
    other.component = "controllers";
    for (case, what, second, expected) in [
        ("the share is used up", &what, 0, false),
        ("other reasons are of the same share", &happening("a", "x"), 1, false),
        ("another object", &happening("b", "no"), 1, true),
        ("another source", &other, 1, true),
        ("almost five minutes later", &what, 299, false),
        ("five minutes later", &what, 301, true),
        ("once", &what, 302, false),
    ] {
        assert_eq!(heard(what, second), expected, "{case}");
    }
    // What was not told is in the count.
    let telling = correlator.tell(&what, at(700)).unwrap();
    assert_eq!(telling.count, 30);
}
