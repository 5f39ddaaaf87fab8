//! Whoever watches an appliance with our examples sees measures that it has.

use std::collections::BTreeSet;

use tidy::{Text, texts};

/// Where measures are defined.
const DEFINED: &str = "kernel/serve/src/api/";

/// What Prometheus appends to the name of a histogram.
const OF_HISTOGRAMS: [&str; 3] = ["_bucket", "_sum", "_count"];

#[test]
fn examples_for_prometheus_and_grafana_name_measures_that_exist() {
    let all = texts();
    let sources = all.iter().filter(|file| file.path.starts_with(DEFINED));
    let defined: BTreeSet<String> = sources.flat_map(|file| names(file, "\"")).collect();
    assert!(defined.contains("ferrite_pool_writable"), "{defined:?}");
    let examples: Vec<&Text> = all
        .iter()
        .filter(|file| {
            let folders = ["docs/examples/prometheus/", "docs/examples/grafana/"];
            folders.iter().any(|folder| file.path.starts_with(folder))
        })
        .collect();
    let mut offences = Vec::new();
    let mut count = 0;
    for file in examples {
        for name in names(file, "") {
            count += 1;
            let base = OF_HISTOGRAMS
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .unwrap_or(&name);
            if !defined.contains(&name) && !defined.contains(base) {
                offences.push(format!("{}: {name}", file.path));
            }
        }
    }
    assert!(count > 20, "the examples were not found");
    assert!(
        offences.is_empty(),
        "measures that /metrics does not have:\n  {}",
        offences.join("\n  ")
    );
}

/// Words that begin as our measures do, after `before`.
fn names(file: &Text, before: &str) -> BTreeSet<String> {
    let prefix = "ferrite_";
    let start = format!("{before}{prefix}");
    let rests = file.text.split(start.as_str()).skip(1);
    let names = rests.map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
        format!("{prefix}{}", &rest[..end.unwrap_or(rest.len())])
    });
    names.collect()
}
