//! The schedules of cron jobs: five fields, a macro such as `@hourly`, or `@every 1h30m`.
//!
//! Guarantees: takes what Kubernetes takes and refuses the rest in its words. Does not: know time
//! zones, or tell when the next time is.

const STAR: u64 = 1 << 63;

/// The values of each field: minutes, hours, days of the month, months, days of the week. A field
/// that was `*` has bit 63, too: a day then has to match the other field of days only.
pub(crate) type Times = [u64; 5];

struct Field {
    first: u64,
    last: u64,
    names: &'static [&'static str],
}

const MONTHS: &[&str] =
    &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const FIELDS: [Field; 5] = [
    Field { first: 0, last: 59, names: &[] },
    Field { first: 0, last: 23, names: &[] },
    Field { first: 1, last: 31, names: &[] },
    Field { first: 1, last: 12, names: MONTHS },
    Field { first: 0, last: 6, names: DAYS },
];

/// Parses a schedule; `None` is one that follows no calendar (`@every`). The error says what is
/// wrong with it.
pub(crate) fn parse(text: &str) -> Result<Option<Times>, String> {
    if text.is_empty() {
        return Err("empty spec string".to_owned());
    }
    let mut text = text;
    if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
        // Whether a zone may be here is another question.
        text = text.split_once(' ').map_or("", |(_, rest)| rest).trim();
    }
    if text.starts_with('@') {
        return descriptor(text);
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.len() != FIELDS.len() {
        let found = words.len();
        return Err(format!("expected exactly 5 fields, found {found}: [{}]", words.join(" ")));
    }
    let mut times = [0; 5];
    for ((time, field), word) in times.iter_mut().zip(&FIELDS).zip(words) {
        *time = field.parse(word)?;
    }
    Ok(Some(times))
}

fn descriptor(text: &str) -> Result<Option<Times>, String> {
    let fields = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => {
            let Some(duration) = text.strip_prefix("@every ") else {
                return Err(format!("unrecognized descriptor: {text}"));
            };
            return match is_duration(duration) {
                true => Ok(None),
                false => Err(format!(
                    "failed to parse duration {text}: time: invalid duration {duration:?}"
                )),
            };
        }
    };
    parse(fields)
}

/// Such as `1h30m` or `-1.5s`: numbers, each with a unit.
fn is_duration(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned == "0" {
        return true;
    }
    let mut rest = unsigned;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, after) = rest.split_at(number);
        let dots = digits.matches('.').count();
        if dots > 1 || digits.len() == dots {
            return false;
        }
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        if !matches!(unit, "ns" | "us" | "µs" | "μs" | "ms" | "s" | "m" | "h") {
            return false;
        }
        rest = next;
    }
    !unsigned.is_empty()
}

impl Field {
    /// A list of ranges.
    fn parse(&self, text: &str) -> Result<u64, String> {
        let mut bits = 0;
        for range in text.split(',').filter(|range| !range.is_empty()) {
            bits |= self.range(range)?;
        }
        Ok(bits)
    }

    /// `*`, `5`, `1-5`, each with a step (`/2`) or without.
    fn range(&self, text: &str) -> Result<u64, String> {
        let (range, step) = text.split_once('/').map_or((text, None), |(r, s)| (r, Some(s)));
        let mut bounds = range.split('-');
        let first = bounds.next().unwrap_or_default();
        let last = bounds.next();
        let star = matches!(first, "*" | "?");
        let (start, mut end) = match (star, last) {
            (true, _) => (self.first, self.last),
            (false, None) => {
                let value = self.value(first)?;
                (value, value)
            }
            (false, Some(last)) => (self.value(first)?, self.value(last)?),
        };
        if !star && bounds.next().is_some() {
            return Err(format!("too many hyphens: {text}"));
        }
        let width = match step {
            None => 1,
            Some(step) if step.contains('/') => return Err(format!("too many slashes: {text}")),
            Some(step) => {
                // From a value on, to the end.
                if last.is_none() {
                    end = self.last;
                }
                number(step)?
            }
        };
        let (low, high) = (self.first, self.last);
        if start < low {
            return Err(format!("beginning of range ({start}) below minimum ({low}): {text}"));
        }
        if end > high {
            return Err(format!("end of range ({end}) above maximum ({high}): {text}"));
        }
        if start > end {
            return Err(format!(
                "beginning of range ({start}) beyond end of range ({end}): {text}"
            ));
        }
        if width == 0 {
            return Err(format!("step of range should be a positive number: {text}"));
        }
        let every = star && width == 1;
        let values = (start..=end).filter(|value| (value - start).is_multiple_of(width));
        Ok(values.fold(if every { STAR } else { 0 }, |bits, value| bits | 1 << value))
    }

    fn value(&self, text: &str) -> Result<u64, String> {
        let lower = text.to_lowercase();
        match (self.first..).zip(self.names).find(|(_, name)| **name == lower) {
            Some((value, _)) => Ok(value),
            None => number(text),
        }
    }
}

fn number(text: &str) -> Result<u64, String> {
    match text.parse::<i64>() {
        Ok(number) => u64::try_from(number)
            .map_err(|_| format!("negative number ({number}) not allowed: {text}")),
        Err(_) => Err(format!(
            "failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(values: impl IntoIterator<Item = u64>) -> u64 {
        values.into_iter().fold(0, |bits, value| bits | 1 << value)
    }

    #[test]
    fn fields_name_their_values() {
        let (minutes, hours) = (bits(0..60) | STAR, bits(0..24) | STAR);
        let (days, months, week) = (bits(1..32) | STAR, bits(1..13) | STAR, bits(0..7) | STAR);
        let table = [
            ("* * * * *", [minutes, hours, days, months, week]),
            ("? * ? * ?", [minutes, hours, days, months, week]),
            (
                "*/20 1-3 1,15 2-8/3 5",
                [bits([0, 20, 40]), bits([1, 2, 3]), bits([1, 15]), bits([2, 5, 8]), bits([5])],
            ),
            (
                "50/4 0 31 DEC mon-Fri",
                [bits([50, 54, 58]), bits([0]), bits([31]), bits([12]), bits(1..6)],
            ),
            ("1,,2 */1 * * sun,sat", [bits([1, 2]), hours, days, months, bits([0, 6])]),
            ("@hourly", [bits([0]), hours, days, months, week]),
            ("@daily", [bits([0]), bits([0]), days, months, week]),
            ("@midnight", [bits([0]), bits([0]), days, months, week]),
            ("@weekly", [bits([0]), bits([0]), days, months, bits([0])]),
            ("@monthly", [bits([0]), bits([0]), bits([1]), months, week]),
            ("@yearly", [bits([0]), bits([0]), bits([1]), bits([1]), week]),
            ("@annually", [bits([0]), bits([0]), bits([1]), bits([1]), week]),
            ("TZ=Asia/Tokyo  @hourly", [bits([0]), hours, days, months, week]),
            ("CRON_TZ=UTC 0 * * * *", [bits([0]), hours, days, months, week]),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text), Ok(Some(expected)), "{text}");
        }
    }

    #[test]
    fn intervals_follow_no_calendar() {
        for text in ["@every 1h30m", "@every 0", "@every -1.5s", "@every 100ms", "@every .5h"] {
            assert_eq!(parse(text), Ok(None), "{text}");
        }
        for duration in ["", "1", "1x", "h", ".h", "1.2.3s", "1h ", "-", "1h30"] {
            let text = format!("@every {duration}");
            let error = parse(&text).unwrap_err();
            assert!(error.starts_with(&format!("failed to parse duration {text}: ")), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let table = [
            ("", "empty spec string"),
            (" ", "expected exactly 5 fields, found 0: []"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("0 * * * * *", "expected exactly 5 fields, found 6: [0 * * * * *]"),
            ("TZ=UTC", "expected exactly 5 fields, found 0: []"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* 24 * * *", "end of range (24) above maximum (23): 24"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("* * * 13 *", "end of range (13) above maximum (12): 13"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid"),
            ("* * * * funday", "failed to parse int from funday: strconv.Atoi"),
            ("*/-5 * * * *", "negative number (-5) not allowed: -5"),
            ("@often", "unrecognized descriptor: @often"),
            ("@every1h", "unrecognized descriptor: @every1h"),
        ];
        for (text, expected) in table {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
