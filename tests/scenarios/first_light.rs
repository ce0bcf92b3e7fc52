//! The founding scenario, as the demo plays it, with every observation checked.

use anyhow::Result;
use bowline_tests::Wishes;
use bowline_tests::first_light::{Audience, Stage, Step};

/// What is measured, each time: a figure that is lost is noticed.
const FIGURES: [&str; 7] = [
    "cluster up, all nodes Ready",
    "apply to 3 pods Ready, warm image",
    "request latency, VIP / pod, fresh connections",
    "request latency, VIP / pod, kept connections",
    "endpoint change to the last node's maps",
    "memory of the server",
    "memory of the largest agent",
];

/// Prints, so that a failed run shows how far it came.
struct Log;

impl Audience for Log {
    fn begin(&mut self, title: &str) {
        println!("-- {title}");
    }

    fn end(&mut self, step: &Step) {
        print!("{step}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn from_run_x_to_a_lost_node() -> Result<()> {
    let mut stage = Stage::new(&Wishes::default()).await?;
    let report = stage.play(&mut Log).await?;
    assert_eq!(report.steps.len(), 7);
    let names: Vec<_> = report.figures.iter().map(|figure| figure.name).collect();
    assert_eq!(names, FIGURES);
    for figure in report.figures {
        println!("{figure}");
        assert!(figure.value > 0.0, "{} was not measured", figure.name);
    }
    Ok(())
}
