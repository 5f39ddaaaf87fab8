//! `ferrite status`

use serde_json::Value;

use super::job;
use crate::Failure;
use crate::console::Console;
use crate::describe::describe;

/// Shows how the appliance is, and to people what it does besides serving.
pub fn run(console: &Console) -> Result<(), Failure> {
    let client = console.client()?;
    let node = client.get("/v1/node")?;
    console.show(&node, |node| {
        // Without a pool there are no jobs, and all else is still worth telling.
        let jobs = client.get("/v1/jobs").unwrap_or_default();
        text(node) + &job::under_way(&jobs)
    })
}

/// The node's properties; a crash of the run before stands apart, as the firmware wrote it.
fn text(node: &Value) -> String {
    let mut others = node.clone();
    let crash = others.get_mut("crash").map(Value::take);
    let mut text = describe(&others);
    if let Some(report) = crash.as_ref().and_then(Value::as_str) {
        text += "\nthe last run ended in a crash:\n";
        for line in report.lines() {
            text += &format!("  {line}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_crash_stands_apart() {
        let calm = json!({"name": "a", "crash": null});
        assert_eq!(text(&calm), "name  a\n");
        let node = json!({"name": "a", "crash": "panicked at x.rs:1\n  0: y"});
        assert_eq!(
            text(&node),
            "name  a\n\nthe last run ended in a crash:\n  panicked at x.rs:1\n    0: y\n"
        );
    }
}
