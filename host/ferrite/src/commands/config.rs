//! `ferrite config …`: what an appliance can be told at its start, looked at before it is told; and what was set later.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use config::{ConfigError, ConfigOption, OPTIONS};
use serde_json::{Value, json};

use super::settings;
use crate::Failure;
use crate::console::{Console, print};
use crate::describe::{items, text_of};
use crate::output::table;
use crate::suggest::nearest;

/// Look at what an appliance can be told at its start, and keep what was set later
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Verify a configuration file (TOML), as the appliance would
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print everything that can be configured
    Options {
        /// As a file to begin with, in which everything is commented out
        #[arg(long, conflicts_with = "json")]
        toml: bool,
    },
    /// Print what the appliance was told at its start, but for secrets
    Show,
    /// Print what was set on the appliance: limits, networks and schedules of volumes, names of tokens; no secrets, no data
    Export,
    /// Set again what `config export` printed; what is not in it stays as it is
    Import {
        /// What `config export` printed
        file: PathBuf,
        /// Make volumes that are not there, empty and of their size
        #[arg(long)]
        create: bool,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

impl Config {
    /// Does it.
    pub fn run(self, console: &Console) -> Result<(), Failure> {
        match self {
            Self::Check { file } => check(console, &file),
            Self::Export => settings::export(console),
            Self::Import {
                file,
                create,
                dry_run,
            } => settings::import(console, &file, create, dry_run),
            Self::Options { toml: true } => print(&template()),
            Self::Options { toml: false } => console.show(&options(), documented),
            Self::Show => {
                let told = console.client()?.get("/v1/node/configuration")?;
                console.show(&told, effective)
            }
        }
    }
}

fn check(console: &Console, file: &Path) -> Result<(), Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::Here(format!("{}: {error}", file.display())))?;
    let mut config = config::Config::default();
    let wrong = config.check_toml(&text);
    if !wrong.is_empty() {
        let wrong = wrong.iter().map(|error| explained(error, &text));
        let wrong = wrong.map(|error| format!("{}: {error}", file.display()));
        return Err(Failure::Here(wrong.collect::<Vec<_>>().join("\nferrite: ")));
    }
    let defaults = config::Config::default();
    let set = OPTIONS.iter().filter_map(|option| {
        let value = option.value(&config);
        (value != option.value(&defaults)).then(|| json!({"key": option.key, "value": value}))
    });
    let answer = json!({"file": file.display().to_string(), "options": set.collect::<Vec<_>>()});
    console.show(&answer, |answer| {
        format!("{}: fine\n{}", file.display(), values(answer))
    })
}

/// An error, with what was probably meant.
fn explained(error: &ConfigError, text: &str) -> String {
    let ConfigError::UnknownKey(key) = error else {
        return error.to_string();
    };
    let keys = || OPTIONS.iter().map(|option| option.key);
    // What stands before the first table, say, or in another one.
    let name = key.rsplit('.').next().unwrap_or(key);
    let elsewhere = || keys().find(|known| known.rsplit('.').next() == Some(name));
    let line = text.lines().position(|line| {
        let word = line.split('=').next().unwrap_or_default().trim();
        word == name || word == key
    });
    let place = line.map_or(String::new(), |line| format!(" in line {}", line + 1));
    match nearest(key, keys()).or_else(elsewhere) {
        Some(meant) => format!("{error}{place}; did you mean `{meant}`?"),
        None => format!("{error}{place}; `ferrite config options` lists all"),
    }
}

/// The table, as far as users have a use for it.
fn shown() -> impl Iterator<Item = &'static ConfigOption> {
    OPTIONS.iter().filter(|option| !option.is_for_tests)
}

fn options() -> Value {
    let all = shown().map(|option| {
        json!({"key": option.key, "about": option.about, "expected": option.expected,
            "default": option.default, "secret": option.is_secret})
    });
    json!({"options": all.collect::<Vec<_>>()})
}

fn documented(options: &Value) -> String {
    let mut text = String::new();
    for option in items(options, "options") {
        text += &format!(
            "{}\n    {}\n    value    {}\n    default  {}\n",
            text_of(option, "key"),
            text_of(option, "about"),
            text_of(option, "expected"),
            text_of(option, "default")
        );
    }
    text
}

/// A file in which everything is commented out.
fn template() -> String {
    let mut text = String::from("# The configuration of a Ferrite appliance.\n");
    let mut table = "";
    for option in shown() {
        let (first, name) = option.key.split_once('.').unwrap_or(("", option.key));
        if first != table {
            text += &format!("\n[{first}]\n");
            table = first;
        }
        text += &format!(
            "# {} Without it: {}.\n# {name} = {}\n",
            option.about, option.default, option.example
        );
    }
    text
}

fn effective(told: &Value) -> String {
    let rows = items(told, "options").iter().map(|option| {
        ["key", "value", "default"]
            .map(|key| text_of(option, key))
            .to_vec()
    });
    table(&["KEY", "VALUE", "DEFAULT"], &rows.collect::<Vec<_>>())
}

fn values(answer: &Value) -> String {
    let rows = items(answer, "options").iter();
    rows.map(|option| {
        format!(
            "{} = {}\n",
            text_of(option, "key"),
            text_of(option, "value")
        )
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_told_with_what_was_meant() {
        let told = |text: &str| {
            let wrong = config::Config::default().check_toml(text);
            wrong
                .iter()
                .map(|error| explained(error, text))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            told("[node]\nnme = \"a\"\n"),
            ["unknown configuration key `node.nme` in line 2; did you mean `node.name`?"]
        );
        assert_eq!(
            told("[network]\ngateway = [\"10.0.0.1\"]\n"),
            ["unknown configuration key `network.gateway` in line 2; did you mean `net.gateway`?"]
        );
        assert_eq!(
            told("colour = 1\n"),
            ["unknown configuration key `colour` in line 1; `ferrite config options` lists all"]
        );
        assert_eq!(told("pool.demo = true\n"), [""; 0]);
    }

    #[test]
    fn the_file_to_begin_with_is_right_with_all_of_it_in_use() {
        let template = template();
        let used = template.lines().map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.contains(" = ") => rest,
            _ => line,
        });
        let used: String = used.map(|line| format!("{line}\n")).collect();
        assert_eq!(config::Config::default().check_toml(&used), []);
        assert_eq!(config::Config::default().check_toml(&template), []);
        assert_eq!(used.matches(" = ").count(), shown().count());
        assert!(!documented(&options()).contains("test."));
    }

    /// Operators look there first.
    #[test]
    fn the_readme_has_the_table() {
        let readme = include_str!("../../../../README.md");
        for option in shown() {
            let row = format!("| `{}` | {} |", option.key, option.about);
            assert!(readme.contains(&row), "no row {row}");
        }
    }
}
