//! The tokens of a label selector.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Word(&'a str),
    Equals,
    DoubleEquals,
    NotEquals,
    Not,
    Greater,
    Less,
    Comma,
    Open,
    Close,
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Word(word) => word,
            Self::Equals => "=",
            Self::DoubleEquals => "==",
            Self::NotEquals => "!=",
            Self::Not => "!",
            Self::Greater => ">",
            Self::Less => "<",
            Self::Comma => ",",
            Self::Open => "(",
            Self::Close => ")",
            Self::End => "",
        })
    }
}

/// Reads one token ahead.
pub(super) struct Lexer<'a> {
    rest: &'a str,
    ahead: Token<'a>,
}

const SIGNS: &[(&str, Token<'static>)] = &[
    ("==", Token::DoubleEquals),
    ("!=", Token::NotEquals),
    ("=", Token::Equals),
    ("!", Token::Not),
    (">", Token::Greater),
    ("<", Token::Less),
    (",", Token::Comma),
    ("(", Token::Open),
    (")", Token::Close),
];

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let mut lexer = Self { rest: text, ahead: Token::End };
        lexer.ahead = lexer.scan();
        lexer
    }

    pub(super) fn peek(&self) -> &Token<'a> {
        &self.ahead
    }

    pub(super) fn next(&mut self) -> Token<'a> {
        let ahead = self.scan();
        std::mem::replace(&mut self.ahead, ahead)
    }

    fn scan(&mut self) -> Token<'a> {
        let text = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if text.is_empty() {
            self.rest = text;
            return Token::End;
        }
        for (sign, token) in SIGNS {
            if let Some(rest) = text.strip_prefix(sign) {
                self.rest = rest;
                return *token;
            }
        }
        let ends = |c: char| c.is_ascii_whitespace() || "=!><,()".contains(c);
        let (word, rest) = text.split_at(text.find(ends).unwrap_or(text.len()));
        self.rest = rest;
        Token::Word(word)
    }
}
