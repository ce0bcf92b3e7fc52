//! The figures of a suite as a table, for people.

use std::fmt;

use crate::results::{Figure, for_people};

/// One a line, with its goal and whether the machine was too noisy.
pub struct Table<'a>(pub &'a [Figure]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|figure| figure.name.chars().count()).max().unwrap_or(0);
        for figure in self.0 {
            let name = &figure.name;
            let (median, unit) = for_people(figure.median, &figure.unit);
            let [min, max] =
                [figure.min, figure.max].map(|value| for_people(value, &figure.unit).0);
            let spread = match figure.samples.len() {
                1 => "once".to_owned(),
                _ => format!("[{min} .. {max}]"),
            };
            let said = match figure.judgement() {
                none if none.is_empty() && figure.noisy == Some(true) => "(noisy)".to_owned(),
                said => said,
            };
            let line = format!("{name:width$}  {median:>9} {unit:6}  {spread:22}  {said}");
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Better;

    #[test]
    fn a_line_has_the_figure_its_spread_and_what_became_of_its_goal() {
        let figure =
            |name: &str, samples: &[f64]| Figure::new(name, "ms", Better::Less, samples.to_vec());
        let figures = [
            figure("change", &[2.0, 2.1, 2.2, 2.3, 2.4]).goal(3.0),
            figure("a wide one", &[10.0, 150.0, 20.0, 30.0, 40.0]),
            figure("up", &[0.5]),
            Figure::new("bytes", "bytes a second", Better::More, vec![2.5e8]),
        ];
        let text = Table(&figures).to_string();
        let lines: Vec<&str> = text.lines().collect();
        let expected = [
            "change           2.20 ms      [2.00 .. 2.40]          goal at most 3: reached",
            "a wide one       30.0 ms      [10.0 .. 150]           (noisy)",
            "up              0.500 ms      once",
            "bytes            2.00 Gbit/s  once",
        ];
        assert_eq!(lines, expected);
    }
}
