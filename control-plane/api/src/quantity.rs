//! Kubernetes quantities: `2.5`, `100m`, `4Gi`, `1e3`.
//!
//! Guarantees: exact fixed-point arithmetic down to 10^-9, never a float; canonical output.
//! Does not: exceed 2^63-1 in magnitude; larger inputs are capped as Kubernetes caps them.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// Units of 10^-9 per whole unit.
const NANO: i128 = 1_000_000_000;
/// The largest magnitude: 2^63-1 whole units.
const MAX: i128 = i64::MAX as i128 * NANO;

/// Which family of suffixes a quantity was written with, and so is printed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `n u m "" k M G T P E`
    #[default]
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`
    BinarySi,
    /// `1e3`
    DecimalExponent,
}

/// An amount of a resource. Equality and order look at the amount only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// A text that is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)]
pub struct ParseQuantityFailed;

impl Quantity {
    /// Whole units, rounded up (away from zero).
    pub fn units(self) -> i64 {
        round_up(self.nanos, NANO)
    }

    /// Thousandths, rounded up (away from zero).
    pub fn millis(self) -> i64 {
        round_up(self.nanos, NANO / 1000)
    }

    /// Whether it is exactly zero.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// The next whole number of units, away from zero.
    pub(crate) fn rounded_up(self) -> Self {
        Self { nanos: i128::from(self.units()) * NANO, ..self }
    }

    /// Whether it has no fractional part.
    pub(crate) fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }
}

fn round_up(nanos: i128, unit: i128) -> i64 {
    let quotient = nanos / unit;
    let rounded = if nanos % unit == 0 { quotient } else { quotient + nanos.signum() };
    i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
}

/// The sum is capped; it keeps the left side's format unless that is zero.
impl std::ops::Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: (self.nanos + other.nanos).clamp(-MAX, MAX), format }
    }
}

/// The difference is capped; it keeps the left side's format unless that is zero.
impl std::ops::Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + Self { nanos: -other.nanos, format: other.format }
    }
}

impl From<usize> for Quantity {
    fn from(units: usize) -> Self {
        let units = i64::try_from(units).unwrap_or(i64::MAX);
        Self { nanos: i128::from(units) * NANO, format: Format::DecimalSi }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = ParseQuantityFailed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
        let (number, suffix) = digits.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(ParseQuantityFailed);
        }
        let (scale, format) = parse_suffix(suffix).ok_or(ParseQuantityFailed)?;
        let nanos = scale.apply(whole, fraction);
        let nanos = if text.starts_with('-') { -nanos } else { nanos };
        Ok(Self { nanos, format })
    }
}

/// What a suffix multiplies with.
#[derive(Clone, Copy)]
enum Scale {
    /// A power of ten.
    Ten(i32),
    /// A power of two.
    Two(u32),
}

fn parse_suffix(suffix: &str) -> Option<(Scale, Format)> {
    let decimal = |power| Some((Scale::Ten(power), Format::DecimalSi));
    let binary = |power| Some((Scale::Two(power), Format::BinarySi));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let power: i32 = exponent.parse().ok()?;
            Some((Scale::Ten(power), Format::DecimalExponent))
        }
    }
}

impl Scale {
    /// `whole.fraction` times the scale, in nanos, rounded up and capped.
    fn apply(self, whole: &str, fraction: &str) -> i128 {
        let digits = whole.trim_start_matches('0').len() + fraction.len();
        // Past this many digits the whole part alone decides: it is above the cap, or the
        // fraction is below what can be told apart.
        let fraction = &fraction[..fraction.len().min(18)];
        if digits == 0 {
            return 0;
        }
        let mut mantissa: i128 = 0;
        for byte in whole.bytes().chain(fraction.bytes()) {
            let next =
                mantissa.checked_mul(10).and_then(|m| m.checked_add(i128::from(byte - b'0')));
            match next {
                Some(next) => mantissa = next,
                None => return MAX,
            }
        }
        let places = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
        let (power, mantissa) = match self {
            Self::Ten(power) => (power, Some(mantissa)),
            Self::Two(power) => (0, mantissa.checked_mul(1 << power)),
        };
        let Some(mantissa) = mantissa else { return MAX };
        if mantissa == 0 {
            return 0;
        }
        scale_ten(mantissa, power.saturating_sub(places).saturating_add(9)).min(MAX)
    }
}

/// `mantissa * 10^power`, rounded up, capped.
fn scale_ten(mantissa: i128, power: i32) -> i128 {
    let factor = 10_i128.checked_pow(power.unsigned_abs());
    match (factor, power < 0) {
        (Some(factor), false) => mantissa.checked_mul(factor).unwrap_or(MAX),
        (None, false) => MAX,
        (Some(factor), true) => mantissa / factor + i128::from(mantissa % factor != 0),
        (None, true) => 1,
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos % NANO == 0;
        match self.format {
            Format::BinarySi if whole && self.nanos.abs() >= 1024 * NANO => {
                fmt_binary(f, self.nanos / NANO)
            }
            Format::DecimalExponent => fmt_decimal(f, self.nanos, true),
            _ => fmt_decimal(f, self.nanos, false),
        }
    }
}

fn fmt_binary(f: &mut fmt::Formatter<'_>, mut units: i128) -> fmt::Result {
    let mut power = 0;
    while power < 6 && units % 1024 == 0 {
        units /= 1024;
        power += 1;
    }
    write!(f, "{units}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power])
}

fn fmt_decimal(f: &mut fmt::Formatter<'_>, mut nanos: i128, exponent: bool) -> fmt::Result {
    let mut power = 0;
    while power < 9 && nanos % 1000 == 0 {
        nanos /= 1000;
        power += 1;
    }
    if exponent && power != 3 {
        let power = (i32::try_from(power).unwrap_or(0) - 3) * 3;
        return write!(f, "{nanos}e{power}");
    }
    let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][power];
    write!(f, "{nanos}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|_| panic!("{text}"))
    }

    #[test]
    fn canonical_form() {
        let table = [
            ("0", "0"),
            ("0Gi", "0"),
            ("-0.0", "0"),
            ("2.5", "2500m"),
            ("+1", "1"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("0.1m", "100u"),
            ("1e3", "1e3"),
            ("1500e0", "1500"),
            ("1E3", "1e3"),
            ("1E", "1E"),
            ("1e-3", "1e-3"),
            ("4Gi", "4Gi"),
            ("1.5Gi", "1536Mi"),
            ("4096Mi", "4Gi"),
            ("1000Ki", "1000Ki"),
            ("0.5Ki", "512"),
            ("1500Mi", "1500Mi"),
            ("1000k", "1M"),
            ("1234567", "1234567"),
            (".5", "500m"),
            ("5.", "5"),
            ("-1.5Gi", "-1536Mi"),
            ("0.0000000001", "1n"),
            ("12345678901234567890", "9223372036854775807"),
            ("16Ei", "9223372036854775807"),
        ];
        for (text, expected) in table {
            assert_eq!(quantity(text).to_string(), expected, "{text}");
            assert_eq!(quantity(expected), quantity(text), "{text}");
        }
    }

    #[test]
    fn malformed() {
        for text in
            ["", ".", "-", "Gi", "1.2.3", "1 Gi", "1gi", "1KI", "two", "1e", "1e1.5", "--1", "1mm"]
        {
            assert_eq!(text.parse::<Quantity>(), Err(ParseQuantityFailed), "{text}");
        }
    }

    #[test]
    fn rounding_goes_up() {
        let table =
            [("2.5", 3, 2500), ("100m", 1, 100), ("1m", 1, 1), ("1u", 1, 1), ("-1500m", -2, -1500)];
        for (text, units, millis) in table {
            assert_eq!(
                (quantity(text).units(), quantity(text).millis()),
                (units, millis),
                "{text}"
            );
        }
        assert_eq!(quantity("4Gi").units(), 4 << 30);
    }

    #[test]
    fn arithmetic_and_order() {
        assert_eq!((quantity("1Gi") + quantity("512Mi")).to_string(), "1536Mi");
        assert_eq!((quantity("4") - quantity("1500m")).to_string(), "2500m");
        assert_eq!((Quantity::default() + quantity("1Gi")).to_string(), "1Gi");
        assert!(quantity("400Gi") > quantity("16Gi"));
        assert!(quantity("1000m") == quantity("1"));
        assert!((quantity("1") - quantity("2")).is_negative());
        assert!(quantity("1024Ki").is_whole() && !quantity("1m").is_whole());
    }
}
