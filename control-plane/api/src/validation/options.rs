//! The parameters that writes have in common.

use super::{Errors, FieldError, Path};

/// The longest name of a manager, in bytes.
const FIELD_MANAGER_BYTES: usize = 128;

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
