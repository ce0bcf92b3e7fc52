//! The parameters that requests have in common, as their options' kinds are checked.

use super::{Errors, FieldError, Path};
use serde_json::{Value, json};

/// The longest name of a manager, in bytes.
const FIELD_MANAGER_BYTES: usize = 128;
/// The one value of `dryRun`.
const DRY_RUN: &str = "All";
/// The values of `fieldValidation`, in the order in which they are told.
const FIELD_VALIDATION: [&str; 4] = ["", "Ignore", "Strict", "Warn"];
/// The values of `propagationPolicy`, likewise; the last one is its absence.
const PROPAGATION: [&str; 4] = ["Foreground", "Background", "Orphan", "nil"];
const VERSION_MATCH: &str = "resourceVersionMatch";
const EXACT: &str = "Exact";
const NOT_OLDER_THAN: &str = "NotOlderThan";
const MATCH_WITH_CONTINUE: &str = "resourceVersionMatch is forbidden when continue is provided";

/// Checks the `fieldManager` of a write. Who applies a configuration has to name one.
pub fn field_manager(manager: &str, required: bool) -> Vec<FieldError> {
    let (mut errors, path) = (Errors::default(), Path::root("fieldManager"));
    if manager.is_empty() && required {
        errors.required(&path, "is required for apply patch");
    }
    if manager.len() > FIELD_MANAGER_BYTES {
        errors.too_long(&path, FIELD_MANAGER_BYTES);
    }
    for (position, letter) in manager.char_indices().filter(|(_, letter)| !is_printable(*letter)) {
        let code = u32::from(letter);
        let why = format!("invalid character U+{code:04X} (at position {position})");
        errors.invalid_text(&path, manager, &why);
    }
    errors.into_vec()
}

/// Refuses the `force` of a patch that is no apply.
pub fn force_without_apply() -> Vec<FieldError> {
    let mut errors = Errors::default();
    errors.forbidden(&Path::root("force"), "may not be specified for non-apply patch");
    errors.into_vec()
}

/// Checks the values of `dryRun`.
pub fn dry_run(modes: &[&str]) -> Vec<FieldError> {
    let mut errors = Errors::default();
    if modes.iter().any(|mode| *mode != DRY_RUN) {
        errors.unsupported(&Path::root("dryRun"), &json!(modes), &[DRY_RUN]);
    }
    errors.into_vec()
}

/// Checks the `fieldValidation` of a write.
pub fn field_validation(directive: &str) -> Vec<FieldError> {
    let mut errors = Errors::default();
    if !FIELD_VALIDATION.contains(&directive) {
        let path = Path::root("fieldValidation");
        errors.unsupported(&path, &Value::from(directive), &FIELD_VALIDATION);
    }
    errors.into_vec()
}

/// Checks what a delete says of the objects that the deleted one owns, and its `dryRun`.
pub fn delete_options(policy: Option<&str>, says_orphan: bool, modes: &[&str]) -> Vec<FieldError> {
    let (mut errors, path) = (Errors::default(), Path::root("propagationPolicy"));
    if let Some(policy) = policy {
        if says_orphan {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errors.invalid_text(&path, policy, why);
        }
        if !PROPAGATION[..3].contains(&policy) {
            errors.unsupported(&path, &Value::from(policy), &PROPAGATION);
        }
    }
    let mut errors = errors.into_vec();
    errors.extend(dry_run(modes));
    errors
}

/// Checks that an option that is `true` stands alone: `others` are options, and whether they are
/// set.
pub fn delete_alone(option: &str, others: &[(&str, bool)]) -> Vec<FieldError> {
    let (mut errors, path) = (Errors::default(), Path::root(option));
    for (other, _) in others.iter().filter(|(_, is_set)| *is_set) {
        errors.invalid(&path, &Value::from(true), &format!("cannot be set together with {other}"));
    }
    errors.into_vec()
}

/// Which state a list or a watch asks for, as its parameters say.
#[derive(Clone, Copy, Debug, Default)]
pub struct AskedState<'a> {
    pub resource_version: &'a str,
    pub version_match: &'a str,
    /// The `continue` parameter.
    pub next: &'a str,
    /// Whether `sendInitialEvents` is there, whatever it says.
    pub says_initial_events: bool,
}

/// Checks the state that a list asks for.
pub fn list_options(asked: &AskedState<'_>) -> Vec<FieldError> {
    let (mut errors, path) = (Errors::default(), Path::root(VERSION_MATCH));
    if !asked.version_match.is_empty() {
        if asked.resource_version.is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.forbidden(&path, why);
        }
        if !asked.next.is_empty() {
            errors.forbidden(&path, MATCH_WITH_CONTINUE);
        }
        if ![EXACT, NOT_OLDER_THAN].contains(&asked.version_match) {
            let value = Value::from(asked.version_match);
            errors.unsupported(&path, &value, &[EXACT, NOT_OLDER_THAN, ""]);
        }
        if (asked.version_match, asked.resource_version) == (EXACT, "0") {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.forbidden(&path, why);
        }
    }
    if asked.says_initial_events {
        let path = Path::root("sendInitialEvents");
        errors.forbidden(&path, "sendInitialEvents is forbidden for list");
    }
    errors.into_vec()
}

/// Checks the state that a watch asks for.
pub fn watch_options(asked: &AskedState<'_>) -> Vec<FieldError> {
    let (mut errors, path) = (Errors::default(), Path::root(VERSION_MATCH));
    if asked.says_initial_events && asked.version_match != NOT_OLDER_THAN {
        let why =
            format!("sendInitialEvents requires setting resourceVersionMatch to {NOT_OLDER_THAN}");
        errors.forbidden(&path, &why);
    }
    if !asked.version_match.is_empty() {
        if !asked.says_initial_events {
            let why =
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.forbidden(&path, why);
        }
        if asked.version_match != NOT_OLDER_THAN {
            errors.unsupported(&path, &Value::from(asked.version_match), &[NOT_OLDER_THAN]);
        }
        if !asked.next.is_empty() {
            errors.forbidden(&path, MATCH_WITH_CONTINUE);
        }
    }
    errors.into_vec()
}

/// The name of a manager that does not give one: the program that its user agent begins with.
pub fn manager_of_user_agent(user_agent: &str) -> String {
    let mut manager = String::new();
    let program = user_agent.split('/').next().unwrap_or_default();
    for letter in program.chars().filter(|letter| is_printable(*letter)) {
        if manager.len() + letter.len_utf8() > FIELD_MANAGER_BYTES {
            break;
        }
        manager.push(letter);
    }
    manager
}

/// Letters, marks, numbers, punctuation, symbols, and the plain space.
fn is_printable(letter: char) -> bool {
    let invisible = matches!(letter,
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..='\u{fffb}' | '\u{fffe}'
        | '\u{ffff}' | '\u{e0000}'..='\u{10ffff}');
    letter == ' ' || !(letter.is_control() || letter.is_whitespace() || invisible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managers_have_a_length_and_can_be_printed() {
        let long = "x".repeat(129);
        let table = [
            ("kubectl", true, vec![]),
            ("", false, vec![]),
            ("", true, vec!["fieldManager: Required value: is required for apply patch"]),
            (&long, false, vec!["fieldManager: Too long: may not be more than 128 bytes"]),
            (
                "a\nb",
                true,
                vec![
                    "fieldManager: Invalid value: \"a\\nb\": invalid character U+000A \
                     (at position 1)",
                ],
            ),
        ];
        for (manager, required, expected) in table {
            let errors: Vec<String> =
                field_manager(manager, required).iter().map(ToString::to_string).collect();
            assert_eq!(errors, expected, "{manager}");
        }
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn dry_runs_directives_and_policies_have_few_values() {
        let none: [&str; 0] = [];
        assert_eq!(texts(&dry_run(&["All", "All"])), none);
        let mode = "dryRun: Unsupported value: [\"All\",\"Some\"]: supported values: \"All\"";
        assert_eq!(texts(&dry_run(&["All", "Some"])), [mode]);
        for directive in FIELD_VALIDATION {
            assert_eq!(texts(&field_validation(directive)), none);
        }
        let strict = "fieldValidation: Unsupported value: \"strict\": supported values: \"\", \
                      \"Ignore\", \"Strict\", \"Warn\"";
        assert_eq!(texts(&field_validation("strict")), [strict]);
        let both = "propagationPolicy: Invalid value: \"Orphan\": orphanDependents and \
                    deletionPropagation cannot be both set";
        let unknown = "propagationPolicy: Unsupported value: \"\": supported values: \
                       \"Foreground\", \"Background\", \"Orphan\", \"nil\"";
        let table = [
            (None, true, vec![]),
            (Some("Background"), false, vec![]),
            (Some("Orphan"), true, vec![both]),
            (Some(""), false, vec![unknown]),
        ];
        for (policy, says_orphan, expected) in table {
            assert_eq!(texts(&delete_options(policy, says_orphan, &["All"])), expected);
        }
        assert_eq!(texts(&delete_options(None, false, &["All", "Some"])), [mode]);
    }

    #[test]
    fn lists_and_watches_ask_for_a_state_that_there_is() {
        let unless = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless \
                      resourceVersion is provided";
        let with_continue = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden \
                             when continue is provided";
        let exact = "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden \
                     for resourceVersion \"0\"";
        let unknown = "resourceVersionMatch: Unsupported value: \"x\": supported values: \
                       \"Exact\", \"NotOlderThan\", \"\"";
        let initial = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list";
        let requires = "resourceVersionMatch: Forbidden: sendInitialEvents requires setting \
                        resourceVersionMatch to NotOlderThan";
        let alone = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch \
                     unless sendInitialEvents is provided";
        let one = |value: &str| {
            format!(
                "resourceVersionMatch: Unsupported value: \"{value}\": supported values: \
                 \"NotOlderThan\""
            )
        };
        let (one_exact, one_x) = (one("Exact"), one("x"));
        // (resourceVersion, match, continue, sendInitialEvents), of a list, of a watch
        let table = [
            (("", "", "", false), vec![], vec![]),
            (("0", "", "t", false), vec![], vec![]),
            (("5", "Exact", "", false), vec![], vec![alone, &one_exact]),
            (("0", "Exact", "", false), vec![exact], vec![alone, &one_exact]),
            (("", "Exact", "", false), vec![unless], vec![alone, &one_exact]),
            (("", "NotOlderThan", "", false), vec![unless], vec![alone]),
            (("", "NotOlderThan", "", true), vec![unless, initial], vec![]),
            (("5", "NotOlderThan", "t", true), vec![with_continue, initial], vec![with_continue]),
            (("5", "x", "", true), vec![unknown, initial], vec![requires, &one_x]),
            (("", "", "", true), vec![initial], vec![requires]),
        ];
        for ((resource_version, version_match, next, says_initial_events), list, watch) in table {
            let asked = AskedState { resource_version, version_match, next, says_initial_events };
            assert_eq!(texts(&list_options(&asked)), list, "list {asked:?}");
            assert_eq!(texts(&watch_options(&asked)), watch, "watch {asked:?}");
        }
    }

    #[test]
    fn a_user_agent_names_a_manager() {
        let table = [
            ("kubectl/v1.36.0 (linux/amd64) kubernetes/abc", "kubectl".to_owned()),
            ("curl", "curl".to_owned()),
            ("", String::new()),
            ("/x", String::new()),
            ("a\tb c/1", "ab c".to_owned()),
            (&"\u{e9}".repeat(100), "\u{e9}".repeat(64)),
        ];
        for (user_agent, expected) in table {
            assert_eq!(manager_of_user_agent(user_agent), expected);
        }
    }
}
