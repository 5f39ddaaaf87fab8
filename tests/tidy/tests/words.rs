//! Rules for documents, and for what no file may say.

use tidy::{Text, root, texts};

#[test]
fn links_in_documents_lead_somewhere() {
    let mut offences = Vec::new();
    for file in texts().into_iter().filter(|file| file.is(".md")) {
        let folder = root()
            .join(&file.path)
            .parent()
            .expect("a file's folder")
            .to_path_buf();
        for (number, target) in links(&file) {
            let outside = target.contains("://") || target.starts_with("mailto:");
            let path = target.split('#').next().unwrap_or_default();
            if !outside && !path.is_empty() && !folder.join(path).exists() {
                offences.push(format!("{}:{number}: {target}", file.path));
            }
        }
    }
    assert!(
        offences.is_empty(),
        "dead links:\n  {}",
        offences.join("\n  ")
    );
}

/// Targets of `[text](target)` outside code blocks, with their lines.
fn links(file: &Text) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (number, line) in file.numbered() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        // What stands between backquotes is code as well.
        let text: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for part in text.split("](").skip(1) {
            let target = part.split([')', ' ']).next().unwrap_or_default();
            found.push((number, target.to_owned()));
        }
    }
    found
}

#[test]
fn commands_in_documents_exist() {
    let all = texts();
    let xtask = all
        .iter()
        .find(|file| file.path == "host/xtask/src/main.rs")
        .expect("xtask");
    let known = subcommands(&xtask.text);
    assert!(known.contains(&"run".to_owned()), "{known:?}");
    let mut offences = Vec::new();
    for file in all
        .iter()
        .filter(|file| file.is(".md") || file.path == ".ci/run")
    {
        for (number, line) in file.numbered() {
            for rest in line.split("cargo xtask ").skip(1) {
                let word = rest
                    .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
                    .next()
                    .unwrap_or_default();
                if !word.is_empty() && !word.starts_with('-') && !known.contains(&word.to_owned()) {
                    offences.push(format!("{}:{number}: cargo xtask {word}", file.path));
                }
            }
        }
    }
    assert!(
        offences.is_empty(),
        "commands that do not exist:\n  {}",
        offences.join("\n  ")
    );
}

/// Variants of `enum Command`, as they are typed: `BringUp` is `bring-up`.
fn subcommands(source: &str) -> Vec<String> {
    let (_, rest) = source.split_once("enum Command {").expect("enum Command");
    let (body, _) = rest.split_once("\n}").expect("its end");
    let lines = body
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
    lines
        .map(|line| {
            let name = line.split(['(', ',', ' ']).next().unwrap_or_default();
            let mut typed = String::new();
            for letter in name.chars() {
                if letter.is_uppercase() && !typed.is_empty() {
                    typed.push('-');
                }
                typed.extend(letter.to_lowercase());
            }
            typed
        })
        .collect()
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let paths = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/t", "mp/"),
    ];
    let mut offences = Vec::new();
    for file in texts()
        .into_iter()
        .filter(|file| !file.path.starts_with("LICENSE"))
    {
        for (number, line) in file.numbered() {
            if paths.iter().any(|path| line.contains(path)) {
                offences.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    assert!(
        offences.is_empty(),
        "paths of one machine:\n  {}",
        offences.join("\n  ")
    );
}

#[test]
fn crates_come_from_the_public_registry() {
    let all = texts();
    let lock = all
        .iter()
        .find(|file| file.path == "Cargo.lock")
        .expect("Cargo.lock");
    let strange = lock
        .text
        .lines()
        .filter(|line| line.starts_with("source = "))
        .find(|line| *line != "source = \"registry+https://github.com/rust-lang/crates.io-index\"");
    assert_eq!(strange, None);
    for file in all.iter().filter(|file| file.path.starts_with(".cargo/")) {
        assert!(
            !file.text.contains("[source"),
            "{} redirects the registry",
            file.path
        );
    }
}
