//! What the suites have in common: a screen that shows how far they are, and the table of figures.

use std::fmt;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::results::{Figure, for_people};

/// One moving line on a terminal; elsewhere a line for each part that is over.
pub(crate) struct Screen(ProgressBar);

impl Screen {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}  {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// What is measured from now on.
    pub(crate) fn begin(&self, what: impl Into<String>) {
        let what = what.into();
        if self.0.is_hidden() {
            eprintln!("{what}");
        } else {
            self.0.set_message(what);
            self.0.reset_elapsed();
        }
    }

    /// Takes the moving line away.
    pub(crate) fn end(&self) {
        self.0.finish_and_clear();
    }
}

/// The figures, for people: one a line, with its goal and whether the machine was too noisy.
pub(crate) struct Table<'a>(pub(crate) &'a [Figure]);

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

/// The sample that so large a part of all is not above.
pub(crate) fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let place = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Better;

    #[test]
    fn quantiles_are_samples() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|part| quantile(&samples, part)), [100.0, 198.0, 200.0]);
        assert_eq!(quantile(&[7.0], 0.99), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

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
