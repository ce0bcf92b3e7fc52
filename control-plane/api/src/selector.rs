//! Label and field selectors: parsing and matching.
//!
//! Guarantees: a selector that was parsed matches without allocating (labels) and without error.
//! Does not: select on fields that a kind does not offer; that is a parse error.

mod field;
mod lexer;

use std::fmt;

use serde_json::Value;

use crate::object;
use crate::validation::{label_value, qualified_name};
use lexer::{Lexer, Token};

pub use field::FieldSelector;

/// A text or object that is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseSelectorFailed(pub(crate) String);

/// A conjunction of requirements on labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// A missing `metav1.LabelSelector` selects nothing, an empty one everything.
    nothing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

impl Requirement {
    fn new(key: &str, operator: Operator) -> Result<Self, ParseSelectorFailed> {
        if let Some(why) = qualified_name(key).first() {
            return Err(ParseSelectorFailed(format!("key: Invalid value: {key:?}: {why}")));
        }
        if let Operator::In(values) | Operator::NotIn(values) = &operator {
            for (index, value) in values.iter().enumerate() {
                if let Some(why) = label_value(value).first() {
                    let message =
                        format!("values[{index}][{key}]: Invalid value: {value:?}: {why}");
                    return Err(ParseSelectorFailed(message));
                }
            }
        }
        Ok(Self { key: key.to_owned(), operator })
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let among = |values: &[String], value: &str| values.iter().any(|one| one == value);
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| among(values, value)),
            Operator::NotIn(values) => value.is_none_or(|value| !among(values, value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(bound) => number().is_some_and(|number| number > *bound),
            Operator::LessThan(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

impl LabelSelector {
    /// Parses the query parameter, such as `app=web,tier in (a,b),!legacy`. Empty selects all.
    pub fn parse(text: &str) -> Result<Self, ParseSelectorFailed> {
        let mut lexer = Lexer::new(text);
        let mut requirements = Vec::new();
        if lexer.peek() == &Token::End {
            return Ok(Self::default());
        }
        loop {
            requirements.push(requirement(&mut lexer)?);
            match lexer.next() {
                Token::End => break,
                Token::Comma => {}
                token => {
                    let message = format!("found '{token}', expected: ',' or 'end of string'");
                    return Err(unparsable(&message));
                }
            }
        }
        Ok(Self { requirements, nothing: false })
    }

    /// Reads a `metav1.LabelSelector` (`matchLabels`, `matchExpressions`). `Null` selects nothing.
    pub fn from_label_selector(selector: &Value) -> Result<Self, ParseSelectorFailed> {
        if selector.is_null() {
            return Ok(Self { requirements: Vec::new(), nothing: true });
        }
        let mut all = Self::from_map(&selector["matchLabels"]);
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let values = expression["values"].as_array().into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
            let operator = match expression["operator"].as_str().unwrap_or_default() {
                "In" => Operator::In(values),
                "NotIn" => Operator::NotIn(values),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    let message = format!("{other:?} is not a valid label selector operator");
                    return Err(ParseSelectorFailed(message));
                }
            };
            let key = expression["key"].as_str().unwrap_or_default();
            all.requirements.push(Requirement::new(key, operator)?);
        }
        Ok(all)
    }

    /// Reads a plain map of labels, as services and replication controllers have it. An empty or
    /// missing map makes a selector for which [`LabelSelector::is_empty`] holds.
    pub(crate) fn from_map(labels: &Value) -> Self {
        let map = labels.as_object().into_iter().flatten();
        let requirements = map.map(|(key, value)| {
            let value = value.as_str().unwrap_or_default().to_owned();
            Requirement { key: key.clone(), operator: Operator::In(vec![value]) }
        });
        Self { requirements: requirements.collect(), nothing: false }
    }

    /// Whether it selects everything, so that no object needs to be looked at.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether labels, given as a lookup, are selected.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|one| one.matches(label(&one.key)))
    }

    /// Whether the object's labels are selected.
    pub fn matches_object(&self, object: &Value) -> bool {
        let labels = object::labels(object);
        self.matches(|key| labels?.get(key)?.as_str())
    }
}

/// As the query parameter and `kubectl` write it.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Requirement { key, operator }) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match operator {
                Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Operator::In(values) => write!(f, "{key} in ({})", values.join(","))?,
                Operator::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
                Operator::Exists => f.write_str(key)?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::GreaterThan(bound) => write!(f, "{key}>{bound}")?,
                Operator::LessThan(bound) => write!(f, "{key}<{bound}")?,
            }
        }
        Ok(())
    }
}

fn unparsable(message: &str) -> ParseSelectorFailed {
    ParseSelectorFailed(format!("unable to parse requirement: {message}"))
}

fn requirement(lexer: &mut Lexer<'_>) -> Result<Requirement, ParseSelectorFailed> {
    let negated = lexer.peek() == &Token::Not;
    if negated {
        lexer.next();
    }
    let key = match lexer.next() {
        Token::Word(key) => key,
        token => return Err(unparsable(&format!("found '{token}', expected: identifier"))),
    };
    if negated {
        return Requirement::new(key, Operator::DoesNotExist);
    }
    let operator = match lexer.peek() {
        Token::End | Token::Comma => return Requirement::new(key, Operator::Exists),
        Token::Equals | Token::DoubleEquals => {
            lexer.next();
            Operator::In(vec![value(lexer)?.to_owned()])
        }
        Token::NotEquals => {
            lexer.next();
            Operator::NotIn(vec![value(lexer)?.to_owned()])
        }
        Token::Word("in") => {
            lexer.next();
            Operator::In(values(lexer)?)
        }
        Token::Word("notin") => {
            lexer.next();
            Operator::NotIn(values(lexer)?)
        }
        Token::Greater => {
            lexer.next();
            Operator::GreaterThan(integer(lexer)?)
        }
        Token::Less => {
            lexer.next();
            Operator::LessThan(integer(lexer)?)
        }
        token => {
            let expected = "in, notin, =, ==, !=, gt, lt";
            return Err(unparsable(&format!("found '{token}', expected: {expected}")));
        }
    };
    Requirement::new(key, operator)
}

/// One value; it may be empty.
fn value<'a>(lexer: &mut Lexer<'a>) -> Result<&'a str, ParseSelectorFailed> {
    match *lexer.peek() {
        Token::End | Token::Comma => Ok(""),
        Token::Word(word) => {
            lexer.next();
            Ok(word)
        }
        token => Err(unparsable(&format!("found '{token}', expected: identifier"))),
    }
}

fn integer(lexer: &mut Lexer<'_>) -> Result<i64, ParseSelectorFailed> {
    let text = value(lexer)?;
    text.parse().map_err(|_| {
        let message = format!("{text:?}: for 'Gt', 'Lt' operators, the value must be an integer");
        ParseSelectorFailed(message)
    })
}

/// `(a, b, c)`; each may be empty.
fn values(lexer: &mut Lexer<'_>) -> Result<Vec<String>, ParseSelectorFailed> {
    match lexer.next() {
        Token::Open => {}
        token => return Err(unparsable(&format!("found '{token}' expected: '('"))),
    }
    let mut values = Vec::new();
    loop {
        match lexer.next() {
            Token::Word(word) => {
                values.push(word.to_owned());
                match lexer.next() {
                    Token::Comma => {
                        if lexer.peek() == &Token::Close {
                            values.push(String::new());
                        }
                    }
                    Token::Close => return Ok(values),
                    token => {
                        let message = format!("found '{token}', expected: ',' or ')'");
                        return Err(unparsable(&message));
                    }
                }
            }
            Token::Comma => values.push(String::new()),
            Token::Close => {
                if values.is_empty() {
                    values.push(String::new());
                }
                return Ok(values);
            }
            token => {
                let message = format!("found '{token}', expected: ',', ')' or identifier");
                return Err(unparsable(&message));
            }
        }
    }
}

#[cfg(test)]
mod tests;
