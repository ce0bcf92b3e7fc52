//! What was seen, as text for people and as JSON for programs.

use std::fmt;

use serde::Serialize;

/// Everything a run saw.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub steps: Vec<Step>,
    pub figures: Vec<Figure>,
}

/// One step and what was observed in it.
#[derive(Debug, Serialize)]
pub struct Step {
    pub number: usize,
    pub title: &'static str,
    pub seconds: f64,
    pub facts: Vec<String>,
}

/// A measured value and the goal that it is held against.
#[derive(Debug, Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub value: f64,
    pub unit: &'static str,
    /// The value should not be above it.
    pub goal: f64,
    /// How it was measured.
    pub method: String,
}

impl Figure {
    /// Whether the goal is met.
    pub fn is_met(&self) -> bool {
        self.value <= self.goal
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}. {}  ({:.1} s)", self.number, self.title, self.seconds)?;
        for fact in &self.facts {
            writeln!(f, "     {fact}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_met() { "met" } else { "MISSED" };
        let value = format!("{:.3}", self.value);
        let value = value.trim_end_matches('0').trim_end_matches('.');
        write!(
            f,
            "{:<44} {value:>9} {:<3} goal {:>5} {:<3} {verdict:<6}  {}",
            self.name, self.unit, self.goal, self.unit, self.method
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        writeln!(f, "figures of this run")?;
        for figure in &self.figures {
            writeln!(f, "     {figure}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Figure;

    #[test]
    fn a_figure_says_whether_its_goal_is_met() {
        let figure =
            |value| Figure { name: "time", value, unit: "s", goal: 5.0, method: "once".to_owned() };
        assert!(figure(5.0).to_string().contains(" met"));
        assert!(figure(5.001).to_string().contains("5.001 s   goal     5 s   MISSED"));
    }
}
