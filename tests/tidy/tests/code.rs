//! Rules for source files.

use std::collections::BTreeSet;

use tidy::{Text, texts};

/// Rooms that may use `unsafe`: the door to the machine, and what only its processor can do.
const UNSAFE_ROOMS: [&str; 3] = ["boot/src/", "drivers/hal/", "kernel/cpu/"];

/// The hard question for a file's length, in lines.
const LINES_MAX: usize = 600;
/// Files that have a reason to be longer.
const LONGER: [(&str, &str); 0] = [];

/// Words of unfinished work, put together so that this file does not contain them.
const UNFINISHED: [&str; 5] = [
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
];

/// Names that say nothing.
const EMPTY_NAMES: [&str; 6] = ["utils", "util", "common", "helpers", "helper", "manager"];

fn sources() -> Vec<Text> {
    texts().into_iter().filter(|file| file.is(".rs")).collect()
}

fn assert_none(rule: &str, mut offences: Vec<String>) {
    offences.sort();
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn unsafe_lives_in_three_rooms() {
    let roots = ["src/lib.rs", "src/main.rs"];
    let mut offences = Vec::new();
    for file in sources() {
        if UNSAFE_ROOMS.iter().any(|room| file.path.starts_with(room)) {
            continue;
        }
        if roots.iter().any(|root| file.is(root)) && !file.text.contains("#![forbid(unsafe_code)]")
        {
            offences.push(format!("{} lacks #![forbid(unsafe_code)]", file.path));
        }
        // Tests, examples and build scripts are crates of their own; macros of `boot` may bring it in.
        for (number, line) in file.numbered() {
            let code = line.split("//").next().unwrap_or_default();
            let words = [
                concat!("unsafe", " {"),
                concat!("unsafe", " fn"),
                concat!("unsafe", " impl"),
            ];
            if words.iter().any(|word| code.contains(word)) {
                offences.push(format!("{}:{number}", file.path));
            }
        }
    }
    assert_none(
        "unsafe code outside boot, drivers/hal and kernel/cpu",
        offences,
    );
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let silent = sources()
        .into_iter()
        .filter(|file| !file.text.starts_with("//! "));
    assert_none(
        "files that do not open with a module doc",
        silent.map(|file| file.path).collect(),
    );
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let mut offences = Vec::new();
    for file in sources() {
        let lines = file.text.lines().count();
        let reason = LONGER.iter().find(|(path, _)| *path == file.path);
        match reason {
            None if lines > LINES_MAX => offences.push(format!("{}: {lines} lines", file.path)),
            Some(_) if lines <= LINES_MAX => {
                offences.push(format!(
                    "{}: is short again, take it off the list",
                    file.path
                ));
            }
            _ => {}
        }
    }
    assert_none(
        "files longer than 600 lines (split them, or give a reason in LONGER)",
        offences,
    );
}

#[test]
fn nothing_is_left_for_later() {
    let mut offences = Vec::new();
    for file in texts()
        .into_iter()
        .filter(|file| file.is(".rs") || file.is(".s") || file.is(".toml"))
    {
        for (number, line) in file.numbered() {
            if UNFINISHED.iter().any(|word| line.contains(word)) {
                offences.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    assert_none("unfinished work", offences);
}

#[test]
fn lints_are_expected_with_a_reason_never_allowed() {
    let mut offences = Vec::new();
    for file in sources() {
        for (number, line) in file.numbered() {
            let line = line.trim_start();
            if line.starts_with(concat!("#[al", "low("))
                || line.starts_with(concat!("#![al", "low("))
            {
                offences.push(format!("{}:{number}", file.path));
            }
        }
    }
    assert_none("`allow` where `expect(…, reason = …)` belongs", offences);
}

#[test]
fn names_say_something() {
    let offences = sources().into_iter().map(|file| file.path).filter(|path| {
        let name = path
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .trim_end_matches(".rs");
        let folders = path.split('/').any(|part| EMPTY_NAMES.contains(&part));
        folders || EMPTY_NAMES.contains(&name)
    });
    assert_none("files named after nothing", offences.collect());
}

/// A level can be set for each module that logs, by the parts of its path; nothing else is taken for a module.
#[test]
fn the_list_of_modules_that_log_is_right() {
    let list = "kernel/appliance/src/log_modules.rs";
    let macros = ["error!(", "warn!(", "info!(", "debug!(", "trace!("];
    let mut logging = BTreeSet::new();
    let mut listed = BTreeSet::new();
    for file in sources() {
        if file.path == list {
            listed.extend(file.text.split('"').skip(1).step_by(2).map(str::to_owned));
        }
        let is_in_image = ["kernel/", "drivers/", "boot/"].map(|room| file.path.starts_with(room));
        let Some((room, path)) = file.path.split_once("/src/") else {
            continue;
        };
        let code = file.text.split("#[cfg(test)]").next().unwrap_or_default();
        let logs = code.contains("log::") && macros.iter().any(|name| code.contains(name));
        if !is_in_image.contains(&true) || !logs {
            continue;
        }
        let room = room.rsplit('/').next().unwrap_or_default();
        // The binary is called as what it is.
        let room = if room == "appliance" { "ferrite" } else { room };
        let parts = path.trim_end_matches(".rs").split('/');
        let parts = parts.filter(|part| !matches!(*part, "mod" | "lib" | "main" | "tests"));
        logging.extend([room].into_iter().chain(parts).map(str::to_owned));
    }
    let offences = logging.symmetric_difference(&listed).cloned().collect();
    assert_none(
        &format!("modules that log, but for {list}, or the other way round"),
        offences,
    );
}
