//! The messages, as the schema text tells them.
//!
//! A line of the text is one of
//!
//! * `# ...`, a comment;
//! * `[section apiVersion]`, the start of a group's version;
//! * a message: its name, then `field=number:type` of each field. The type is `string` (the
//!   default), `int`, `bool`, `bytes`, `time`, `microtime`, `quantity`, `intstr`, `json` (a message
//!   whose field 1 has JSON), `texts` (a message whose field 1 repeats a text), or a message, with
//!   its section before a dot when that is another one. `[]` before the type makes a list and `{}`
//!   a map by texts. A field `.` has its own fields in the object around it.
//!
//! After the number stands what tells an absent field from an empty one. `*` is one that has no
//! value unless it is written: a pointer in Go. Without it the field is always written, empty or
//! not; `!` says that JSON has it always, too, while the others are left out there when empty.
//!
//! Guarantees: the text is a part of the program, and a test reads all of it; messages that hold
//! themselves do not occur.

use std::collections::HashMap;
use std::sync::OnceLock;

const TEXT: &str = include_str!("schema.txt");
/// The section whose kinds go with every version of every group.
pub(super) const META: &str = "meta.k8s.io/v1";
/// Kinds that clients send, and get, under the version of what they are about.
const EVERYWHERE: [&str; 2] = ["DeleteOptions", "Status"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Int,
    Bool,
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrText,
    Json,
    Texts,
    /// Its place in the schema.
    Message(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Many {
    One,
    List,
    Map,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// There or not, whatever its value.
    Pointer,
    /// Always on the wire; in JSON only when it is not empty.
    Value,
    /// Always on the wire and in JSON.
    Always,
}

pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) number: u32,
    pub(super) kind: Kind,
    pub(super) many: Many,
    pub(super) presence: Presence,
}

impl Field {
    /// Whether its fields stand in the object around it.
    pub(super) fn is_inline(&self) -> bool {
        self.name == "."
    }
}

/// The fields of a message, in the order of their numbers.
pub(super) struct Message {
    pub(super) fields: Vec<Field>,
}

impl Message {
    pub(super) fn field(&self, number: u32) -> Option<&Field> {
        let place = self.fields.binary_search_by_key(&number, |field| field.number).ok()?;
        self.fields.get(place)
    }
}

#[derive(Default)]
pub(super) struct Schema {
    messages: Vec<Message>,
    /// By API version and name.
    places: HashMap<(&'static str, &'static str), usize>,
}

impl Schema {
    /// The one of the program.
    pub(super) fn get() -> &'static Self {
        static PARSED: OnceLock<Schema> = OnceLock::new();
        // The text does not change, so that a test which reads it has read it for all.
        PARSED.get_or_init(|| Self::parse(TEXT).unwrap_or_default())
    }

    /// The message of a kind.
    pub(super) fn find(&self, api_version: &str, kind: &str) -> Option<&Message> {
        let own = self.places.get(&(api_version, kind));
        let everywhere = || self.places.get(&(META, kind)).filter(|_| EVERYWHERE.contains(&kind));
        self.messages.get(*own.or_else(everywhere)?)
    }

    pub(super) fn message(&self, place: usize) -> &Message {
        &self.messages[place]
    }

    /// The API version and the name of every message.
    #[cfg(test)]
    pub(super) fn names(&self) -> Vec<(&'static str, &'static str)> {
        let mut names: Vec<_> = self.places.keys().copied().collect();
        names.sort_unstable();
        names
    }

    /// The schema of a text, or the word of it that cannot be read.
    fn parse(text: &'static str) -> Result<Self, &'static str> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut sections: HashMap<&str, &str> = HashMap::new();
        let mut section = "";
        // The messages are numbered first: they name those that come later, too.
        let mut named = Vec::new();
        let mut places = HashMap::new();
        for line in lines {
            if let Some(head) = line.strip_prefix('[').and_then(|head| head.strip_suffix(']')) {
                let (alias, version) = head.split_once(' ').ok_or(line)?;
                sections.insert(alias, version);
                section = version;
                continue;
            }
            let (name, fields) = line.split_once(' ').unwrap_or((line, ""));
            if places.insert((section, name), named.len()).is_some() {
                return Err(line);
            }
            named.push((section, fields));
        }
        let names = Names { sections: &sections, places: &places };
        let messages = named.iter().map(|&(section, fields)| {
            let words = fields.split_whitespace();
            let fields = words.map(|word| field(word, section, &names).ok_or(word));
            let fields: Vec<Field> = fields.collect::<Result<_, _>>()?;
            let ascend = fields.windows(2).all(|two| two[0].number < two[1].number);
            ascend.then_some(Message { fields }).ok_or(section)
        });
        let messages = messages.collect::<Result<_, _>>()?;
        Ok(Self { messages, places })
    }
}

/// What a type can name.
struct Names<'a> {
    sections: &'a HashMap<&'static str, &'static str>,
    places: &'a HashMap<(&'static str, &'static str), usize>,
}

fn field(word: &'static str, section: &'static str, names: &Names<'_>) -> Option<Field> {
    let (name, rest) = word.split_once('=')?;
    let (number, kind) = rest.split_once(':').unwrap_or((rest, "string"));
    let (number, presence) = match (number.strip_suffix('*'), number.strip_suffix('!')) {
        (Some(number), _) => (number, Presence::Pointer),
        (_, Some(number)) => (number, Presence::Always),
        _ => (number, Presence::Value),
    };
    let (kind, many) = match (kind.strip_prefix("[]"), kind.strip_prefix("{}")) {
        (Some(kind), _) => (kind, Many::List),
        (_, Some(kind)) => (kind, Many::Map),
        _ => (kind, Many::One),
    };
    let kind = match kind {
        "string" => Kind::Text,
        "int" => Kind::Int,
        "bool" => Kind::Bool,
        "bytes" => Kind::Bytes,
        "time" => Kind::Time,
        "microtime" => Kind::MicroTime,
        "quantity" => Kind::Quantity,
        "intstr" => Kind::IntOrText,
        "json" => Kind::Json,
        "texts" => Kind::Texts,
        message => {
            let (section, message) = match message.split_once('.') {
                Some((alias, message)) => (*names.sections.get(alias)?, message),
                None => (section, message),
            };
            Kind::Message(*names.places.get(&(section, message))?)
        }
    };
    let number = number.parse().ok().filter(|number| *number > 0)?;
    Some(Field { name, number, kind, many, presence })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_the_text_is_read() {
        let schema = Schema::parse(TEXT).unwrap();
        assert!(schema.messages.len() > 350, "{}", schema.messages.len());
        let fields: usize = schema.messages.iter().map(|message| message.fields.len()).sum();
        let words = TEXT
            .lines()
            .filter(|line| !line.starts_with(['#', '[']))
            .flat_map(|line| line.split_whitespace().skip(1));
        assert_eq!(fields, words.count());
    }

    #[test]
    fn no_message_holds_itself() {
        fn depth(schema: &Schema, place: usize, above: usize) -> usize {
            assert!(above < 20, "message {place}");
            let inner = schema.message(place).fields.iter().map(|field| match field.kind {
                Kind::Message(inner) => depth(schema, inner, above + 1),
                _ => 0,
            });
            1 + inner.max().unwrap_or_default()
        }
        let schema = Schema::get();
        let deepest = (0..schema.messages.len()).map(|place| depth(schema, place, 0)).max();
        assert!(deepest > Some(5));
    }

    #[test]
    fn every_kind_of_the_table_has_its_message() {
        for resource in bowline_api::resource::RESOURCES {
            let (version, kind) = (resource.api_version(), resource.kind);
            assert!(Schema::get().find(&version, kind).is_some(), "{version} {kind}");
        }
        let schema = Schema::get();
        for version in ["v1", "apps/v1", "policy/v1", "example.com/v1"] {
            assert!(schema.find(version, "DeleteOptions").is_some(), "{version}");
        }
        // One name, two messages.
        let core = schema.find("v1", "Event").unwrap();
        let events = schema.find("events.k8s.io/v1", "Event").unwrap();
        assert_eq!(
            (core.field(3).unwrap().name, events.field(3).unwrap().name),
            ("reason", "series")
        );
        assert!(schema.find("example.com/v1", "Event").is_none());
        assert!(schema.find("apps/v1", "ObjectMeta").is_none());
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        for (text, word) in [
            ("[a a/v1]\nKind name", "name"),
            ("[a a/v1]\nKind name=0", "name=0"),
            ("[a a/v1]\nKind name=x", "name=x"),
            ("[a a/v1]\nKind name=1:Absent", "name=1:Absent"),
            ("[a a/v1]\nKind name=1:b.Kind", "name=1:b.Kind"),
            ("[a a/v1]\nKind b=2 a=1", "a/v1"),
            ("[a a/v1]\nKind a=1\nKind a=1", "Kind a=1"),
            ("[a]", "[a]"),
        ] {
            assert_eq!(Schema::parse(text).err(), Some(word), "{text}");
        }
    }
}
