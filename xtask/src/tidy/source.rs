//! Rust source, split into what is code, what is comment and what is string.
//!
//! Guarantees: each view has the length and the line breaks of the original, with everything else
//! replaced by spaces, so that positions can be compared across views.

/// The three views of one file.
pub(super) struct Source {
    /// Code alone: comments and the contents of strings and characters are blank.
    pub(super) code: String,
    /// Comments alone.
    pub(super) comments: String,
    /// Everything but comments.
    pub(super) program: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Text,
}

impl Source {
    /// Split `text`. Unterminated strings and comments extend to its end.
    pub(super) fn new(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let kinds = classify(&chars);
        let view = |keep: &dyn Fn(Kind) -> bool| {
            chars
                .iter()
                .zip(&kinds)
                .map(|(&c, &kind)| if c == '\n' || keep(kind) { c } else { ' ' })
                .collect::<String>()
        };
        Self {
            code: view(&|kind| kind == Kind::Code),
            comments: view(&|kind| kind == Kind::Comment),
            program: view(&|kind| kind != Kind::Comment),
        }
    }
}

fn classify(chars: &[char]) -> Vec<Kind> {
    let mut kinds = vec![Kind::Code; chars.len()];
    let mut at = 0;
    while at < chars.len() {
        let (kind, end) = token(chars, at);
        kinds[at..end].fill(kind);
        at = end;
    }
    kinds
}

/// The kind of what starts at `at`, and where it ends.
fn token(chars: &[char], at: usize) -> (Kind, usize) {
    let next = chars.get(at + 1).copied();
    match chars[at] {
        '/' if next == Some('/') => (Kind::Comment, find(chars, at, |c| c == '\n')),
        '/' if next == Some('*') => (Kind::Comment, block_comment_end(chars, at)),
        '"' => (Kind::Text, string_end(chars, at)),
        '\'' => character_end(chars, at).map_or((Kind::Code, at + 1), |end| (Kind::Text, end)),
        'r' if !continues_word(chars, at) => {
            raw_string_end(chars, at).map_or((Kind::Code, at + 1), |end| (Kind::Text, end))
        }
        _ => (Kind::Code, at + 1),
    }
}

/// Whether the character at `at` only goes on with an identifier, as the `r` of `for` does. A
/// prefix of one `b` or `c` is part of a raw string instead.
fn continues_word(chars: &[char], at: usize) -> bool {
    let is_word = |index: usize| chars[index].is_alphanumeric() || chars[index] == '_';
    match at {
        0 => false,
        1 => is_word(0) && !matches!(chars[0], 'b' | 'c'),
        _ => is_word(at - 1) && (is_word(at - 2) || !matches!(chars[at - 1], 'b' | 'c')),
    }
}

fn find(chars: &[char], from: usize, wanted: impl Fn(char) -> bool) -> usize {
    (from..chars.len()).find(|&i| wanted(chars[i])).unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], from: usize) -> usize {
    let mut depth = 0;
    let mut at = from;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// The end of a character literal, or nothing when the quote starts a lifetime.
fn character_end(chars: &[char], from: usize) -> Option<usize> {
    match chars.get(from + 1)? {
        '\\' => Some((find(chars, from + 3, |c| c == '\'') + 1).min(chars.len())),
        _ if chars.get(from + 2) == Some(&'\'') => Some(from + 3),
        _ => None,
    }
}

fn raw_string_end(chars: &[char], from: usize) -> Option<usize> {
    let quote = find(chars, from + 1, |c| c != '#');
    if chars.get(quote) != Some(&'"') {
        return None;
    }
    let hashes = quote - from - 1;
    let closes = |&at: &usize| {
        chars[at] == '"'
            && chars[at + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes
    };
    Some((quote + 1..chars.len()).find(closes).map_or(chars.len(), |at| at + 1 + hashes))
}
