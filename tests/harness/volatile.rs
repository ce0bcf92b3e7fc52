//! What differs from run to run in what a client prints, replaced by its name.
//!
//! Guarantees: times, ages, uids, addresses, resource versions, generated names, node ports and
//! the names of nodes and of the namespace become words in capitals; runs of blanks inside a line
//! become two, because columns are as wide as what was in them; empty lines go.
//!
//! Does not: understand what it reads. A word of these shapes in a fixed text is replaced, too.

/// What a place in a shape matches: `0` a digit, `x` a digit of a hexadecimal number, `A` a
/// letter, `#` a letter of generated names; everything else itself.
const SHAPES: [(&str, &str); 19] = [
    ("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "DIGEST"),
    ("xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", "UID"),
    ("0000-00-00T00:00:00.000000Z", "TIME"),
    ("0000-00-00T00:00:00Z", "TIME"),
    ("0000-00-00 00:00:00 +0000 UTC", "TIME"),
    ("AAA, 00 AAA 0000 00:00:00 +0000", "TIME"),
    ("-hash=##########", "-hash=HASH"),
    ("-hash=#########", "-hash=HASH"),
    ("-hash=########", "-hash=HASH"),
    ("-hash=#######", "-hash=HASH"),
    ("-hash: ##########", "-hash: HASH"),
    ("-hash: #########", "-hash: HASH"),
    ("-hash: ########", "-hash: HASH"),
    ("-hash: #######", "-hash: HASH"),
    ("-##########", "-HASH"),
    ("-#########", "-HASH"),
    ("-########", "-HASH"),
    ("-#######", "-HASH"),
    ("-#####", "-RAND"),
];
/// The letters of generated names.
const GENERATED: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const NODE_PORTS: std::ops::RangeInclusive<u32> = 30000..=32767;

/// The text without what is volatile. `names` are words of this run and what stands for them.
pub fn normalized(text: &str, names: &[(&str, &str)]) -> Vec<String> {
    let mut text = text.to_owned();
    for (name, word) in names {
        text = text.replace(name, word);
    }
    text.lines().map(line).filter(|line| !line.is_empty()).collect()
}

fn line(line: &str) -> String {
    let line = blanks(line.trim_end());
    let line = if line.contains("resourceVersion") { versions(&line) } else { line };
    let keyed = line.split_whitespace().next().is_some_and(|word| word.ends_with(':'));
    let line = shapes(&line);
    if keyed { line } else { ages(&line) }
}

/// Blanks at the beginning stay, those between words are at most two.
fn blanks(line: &str) -> String {
    let line = line.replace('\t', "  ");
    let text = line.trim_start();
    let mut out = line[..line.len() - text.len()].to_owned();
    let mut run = 0;
    for letter in text.chars() {
        run = if letter == ' ' { run + 1 } else { 0 };
        if run <= 2 {
            out.push(letter);
        }
    }
    out
}

/// The digits after a resource version's name.
fn versions(line: &str) -> String {
    let Some(at) = line.find("resourceVersion") else { return line.to_owned() };
    let (head, tail) = line.split_at(at);
    let Some(start) = tail.find(|letter: char| letter.is_ascii_digit()) else {
        return line.to_owned();
    };
    let rest = tail[start..].trim_start_matches(|letter: char| letter.is_ascii_digit());
    format!("{head}{}RV{rest}", &tail[..start])
}

fn shapes(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(letter) = rest.chars().next() {
        let begins = !out.ends_with(|last: char| last.is_ascii_alphanumeric());
        let (length, word) = shape(rest, begins).unwrap_or((letter.len_utf8(), ""));
        out.push_str(if word.is_empty() { &rest[..length] } else { word });
        rest = &rest[length..];
    }
    out
}

/// The length of what is volatile at the beginning of a text, and its name. What does not begin
/// with a sign of its own has to begin a word.
fn shape(text: &str, begins: bool) -> Option<(usize, &'static str)> {
    for (shape, word) in SHAPES {
        if (begins || shape.starts_with('-')) && matches(text.as_bytes(), shape.as_bytes()) {
            return Some((shape.len(), word));
        }
    }
    if !begins {
        return None;
    }
    address(text).or_else(|| port(text))
}

fn matches(text: &[u8], shape: &[u8]) -> bool {
    let ends = text.get(shape.len()).is_none_or(|next| !next.is_ascii_alphanumeric());
    ends && text.len() >= shape.len()
        && text.iter().zip(shape).all(|(letter, place)| match place {
            b'0' => letter.is_ascii_digit(),
            b'x' => letter.is_ascii_hexdigit(),
            b'A' => letter.is_ascii_alphabetic(),
            b'#' => GENERATED.contains(letter),
            other => letter == other,
        })
}

/// Addresses of pods, services and nodes.
fn address(text: &str) -> Option<(usize, &'static str)> {
    let length = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
    let address = text[..length.unwrap_or(text.len())].trim_end_matches('.');
    let ours = address.starts_with("10.") || address.starts_with("172.30.");
    (ours && address.parse::<std::net::Ipv4Addr>().is_ok()).then_some((address.len(), "IP"))
}

fn port(text: &str) -> Option<(usize, &'static str)> {
    let length = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let number = text[..length].parse().ok()?;
    let ends = !text[length..].starts_with(|letter: char| letter.is_ascii_alphabetic());
    (ends && NODE_PORTS.contains(&number)).then_some((length, "PORT"))
}

/// Words that are ages, such as `5m3s` or `(12s`.
fn ages(line: &str) -> String {
    let words = line.split(' ').map(|word| {
        let inner = word.trim_matches(|letter| matches!(letter, '(' | ')' | ','));
        if is_age(inner) { word.replace(inner, "AGE") } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn is_age(word: &str) -> bool {
    let mut digits = 0;
    let mut units = 0;
    for letter in word.chars() {
        match letter {
            '0'..='9' => digits += 1,
            's' | 'm' | 'h' | 'd' | 'y' if digits > 0 => (digits, units) = (0, units + 1),
            _ => return false,
        }
    }
    digits == 0 && units > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_volatile_is_named() {
        for (text, expected) in [
            (
                "web-5d8f7c9b6d-x2k4z   1/1     Running   0          5m3s",
                "web-HASH-RAND  1/1  Running  0  AGE",
            ),
            ("uid: 0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f", "uid: UID"),
            ("  creationTimestamp: \"2026-11-28T04:06:30Z\"", "  creationTimestamp: \"TIME\""),
            ("Start Time:   Sat, 28 Nov 2026 04:06:30 +0000", "Start Time:  TIME"),
            ("  resourceVersion: \"1234\"", "  resourceVersion: \"RV\""),
            (
                "web  NodePort  10.9.0.12  <none>  80:31234/TCP  12s",
                "web  NodePort  IP  <none>  80:PORT/TCP  AGE",
            ),
            ("1.2.3.4 10.9.300.1 5.10.9.1", "1.2.3.4 10.9.300.1 5.10.9.1"),
            (
                "Normal  Pulled  3s (x2 over 5s)  kubelet",
                "Normal  Pulled  AGE (x2 over AGE)  kubelet",
            ),
            ("Grace:  30s", "Grace:  30s"),
            (
                "labels: app=web,pod-template-hash=5d8f7c9b6d",
                "labels: app=web,pod-template-hash=HASH",
            ),
            ("web-fronts set-based a-b 32768 300001", "web-fronts set-based a-b 32768 300001"),
            ("in space on node2", "in NS on node2"),
        ] {
            assert_eq!(normalized(text, &[("space", "NS")]), [expected], "{text}");
        }
    }
}
