//! `$(NAME)` in commands, arguments and environment values.
//!
//! A reference to a name that is not known stays as it was written, and `$$` is a literal `$`, as
//! the API documents both.

use std::collections::BTreeMap;

pub(crate) fn expand(text: &str, values: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after_dollar) = after.strip_prefix('$') {
            out.push('$');
            rest = after_dollar;
            continue;
        }
        let name = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        match name {
            Some((name, tail)) => {
                match values.get(name) {
                    Some(value) => out.push_str(value),
                    None => {
                        out.push_str("$(");
                        out.push_str(name);
                        out.push(')');
                    }
                }
                rest = tail;
            }
            None => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let values = BTreeMap::from([
            ("NAME".to_owned(), "web".to_owned()),
            ("EMPTY".to_owned(), String::new()),
        ]);
        for (text, expected) in [
            ("plain", "plain"),
            ("$(NAME)", "web"),
            ("a-$(NAME)-$(NAME)", "a-web-web"),
            ("[$(EMPTY)]", "[]"),
            ("$(OTHER)", "$(OTHER)"),
            ("$$(NAME)", "$(NAME)"),
            ("$$$(NAME)", "$web"),
            ("$(NAME", "$(NAME"),
            ("$NAME", "$NAME"),
            ("100$", "100$"),
            ("$(a$(NAME)", "$(a$(NAME)"),
        ] {
            assert_eq!(expand(text, &values), expected, "{text}");
        }
    }
}
