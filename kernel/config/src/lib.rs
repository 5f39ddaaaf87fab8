//! What the appliance is told at start: node name, addresses, token, log level.
//!
//! Three sources, the later ones win: a TOML file on the boot medium, TOML handed over by the hypervisor (fw_cfg
//! `opt/ferrite/config`), and the words of the kernel command line (`key=value`, keys as dotted TOML paths). All of them
//! end in [`Config::set`], the one place that knows the keys. An unknown key or a wrong value is an error that names it.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod address;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

pub use address::Cidr;

/// Everything that can be configured, with its defaults.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// `node.name`: how this node calls itself.
    pub node_name: String,
    /// `net.address`: static addresses, comma-separated; none means DHCP.
    pub addresses: Vec<Cidr>,
    /// `net.gateway`: default routes, at most one for IPv4 and one for IPv6.
    pub gateways: Vec<IpAddr>,
    /// `api.token`: the secret that opens the API. Without it the API refuses everything that needs one.
    pub token: Option<String>,
    /// `log.level`: the least important level that is printed.
    pub log_level: log::LevelFilter,
    /// `pool.demo`: whether the first boot on blank drives also makes a 1 GiB volume `demo`.
    pub demo: bool,
    /// `test.exit`: whether a panic or a shutdown ends the virtual machine through its debug-exit device.
    pub test_exit: bool,
    /// `test.fault`: a fault to provoke on purpose after start.
    pub test_fault: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: "ferrite".to_string(),
            addresses: Vec::new(),
            gateways: Vec::new(),
            token: None,
            log_level: log::LevelFilter::Info,
            demo: false,
            test_exit: false,
            test_fault: None,
        }
    }
}

/// The token stays out of it.
impl fmt::Debug for Config {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Config")
            .field("node_name", &self.node_name)
            .field("addresses", &self.addresses)
            .field("gateways", &self.gateways)
            .field("token", &self.token.as_ref().map(|_| "(set)"))
            .field("log_level", &self.log_level)
            .field("demo", &self.demo)
            .field("test_exit", &self.test_exit)
            .field("test_fault", &self.test_fault)
            .finish()
    }
}

/// What is wrong with a configuration, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// No such key.
    UnknownKey(String),
    /// The key is known, its value is not usable.
    BadValue {
        /// The dotted key.
        key: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A word of the command line without `=`.
    NotAnAssignment(String),
    /// Not TOML; the parser's own words, with line and column.
    NotToml(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey(key) => write!(out, "unknown configuration key `{key}`"),
            Self::BadValue { key, expected } => {
                write!(out, "configuration key `{key}` needs {expected}")
            }
            Self::NotAnAssignment(word) => write!(out, "`{word}` is not of the form key=value"),
            Self::NotToml(message) => write!(out, "the configuration is not TOML: {message}"),
        }
    }
}

impl core::error::Error for ConfigError {}

impl Config {
    /// Applies the assignments of a TOML document.
    ///
    /// # Errors
    /// See [`ConfigError`]; keys before the wrong one stay applied.
    pub fn apply_toml(&mut self, text: &str) -> Result<(), ConfigError> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            // The parser's full message quotes the offending line, which may be the token's.
            ConfigError::NotToml(error.message().to_string())
        })?;
        self.apply_table("", &table)
    }

    fn apply_table(&mut self, prefix: &str, table: &toml::Table) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = if prefix.is_empty() {
                name.clone()
            } else {
                [prefix, name].join(".")
            };
            match value {
                toml::Value::Table(inner) => self.apply_table(&key, inner)?,
                toml::Value::String(text) => self.set(&key, text)?,
                toml::Value::Array(items) => {
                    let texts: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
                    let texts = texts.ok_or(ConfigError::BadValue {
                        key: key.clone(),
                        expected: "a list of strings",
                    })?;
                    self.set(&key, &texts.join(","))?;
                }
                toml::Value::Boolean(value) => self.set(&key, &value.to_string())?,
                toml::Value::Integer(value) => self.set(&key, &value.to_string())?,
                toml::Value::Float(_) | toml::Value::Datetime(_) => {
                    let expected = "a string, a number or true/false";
                    return Err(ConfigError::BadValue { key, expected });
                }
            }
        }
        Ok(())
    }

    /// Applies the words of a kernel command line.
    ///
    /// # Errors
    /// See [`ConfigError`]; words before the wrong one stay applied.
    pub fn apply_command_line(&mut self, line: &str) -> Result<(), ConfigError> {
        for word in line.split_ascii_whitespace() {
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| ConfigError::NotAnAssignment(word.to_string()))?;
            self.set(key, value)?;
        }
        Ok(())
    }

    /// Sets one key from its text form.
    ///
    /// # Errors
    /// An unknown key, or a value that it cannot have.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        let bad = |expected| ConfigError::BadValue {
            key: key.to_string(),
            expected,
        };
        match key {
            "node.name" => {
                if !is_name(value) {
                    return Err(bad(
                        "1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit",
                    ));
                }
                self.node_name = value.to_string();
            }
            "net.address" => {
                self.addresses = parse_list(value).ok_or(bad(
                    "addresses such as 10.0.0.2/24 or fd00::2/64, comma-separated",
                ))?;
            }
            "net.gateway" => {
                self.gateways = parse_list(value)
                    .filter(|list: &Vec<IpAddr>| {
                        list.iter().filter(|address| address.is_ipv4()).count() <= 1
                            && list.iter().filter(|address| address.is_ipv6()).count() <= 1
                    })
                    .ok_or(bad(
                        "at most one IPv4 and one IPv6 address, comma-separated",
                    ))?;
            }
            "api.token" => {
                if !(1..=128).contains(&value.len()) || !value.bytes().all(|b| b.is_ascii_graphic())
                {
                    return Err(bad("1 to 128 visible ASCII characters"));
                }
                self.token = Some(value.to_string());
            }
            "log.level" => {
                self.log_level = value
                    .parse()
                    .map_err(|_| bad("off, error, warn, info, debug or trace"))?;
            }
            "pool.demo" => self.demo = parse_flag(value).ok_or(bad("true or false"))?,
            "test.exit" => self.test_exit = parse_flag(value).ok_or(bad("true or false"))?,
            "test.fault" => self.test_fault = Some(value.to_string()),
            _ => return Err(ConfigError::UnknownKey(key.to_string())),
        }
        Ok(())
    }
}

fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| allowed(b) || matches!(b, b'.' | b'_' | b'-'))
        && text.bytes().next().is_some_and(allowed)
}

/// `true` and `false`, and `1` and `0` as command lines are used to.
fn parse_flag(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

fn parse_list<T: core::str::FromStr>(text: &str) -> Option<Vec<T>> {
    text.split(',')
        .map(|item| item.trim().parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_wins_over_toml() {
        let mut config = Config::default();
        config
            .apply_toml(
                "[node]\nname = \"a\"\n[net]\naddress = [\"10.0.0.2/24\", \"fd00::2/64\"]\n[pool]\ndemo = true\n",
            )
            .unwrap();
        config
            .apply_command_line("node.name=b  net.gateway=10.0.0.1,fd00::1 log.level=debug")
            .unwrap();
        assert_eq!(config.node_name, "b");
        assert_eq!(config.addresses.len(), 2);
        assert_eq!(config.gateways.len(), 2);
        assert_eq!(config.log_level, log::LevelFilter::Debug);
        assert!(config.demo);
        config
            .apply_command_line("pool.demo=0 test.exit=1")
            .unwrap();
        assert!(!config.demo && config.test_exit);
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let error = |line: &str| {
            Config::default()
                .apply_command_line(line)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(error("node.nme=a"), "unknown configuration key `node.nme`");
        assert_eq!(error("quiet"), "`quiet` is not of the form key=value");
        for line in [
            "node.name=UPPER",
            "net.address=10.0.0.2",
            "net.address=10.0.0.2/33",
            "net.gateway=10.0.0.1,10.0.0.2",
            "api.token=",
            "log.level=loud",
            "pool.demo=yes",
        ] {
            let key = line.split('=').next().unwrap();
            assert!(
                error(line).starts_with(&alloc::format!("configuration key `{key}` needs")),
                "{line}"
            );
        }
        let error = Config::default()
            .apply_toml("pool.demo = [1]")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "configuration key `pool.demo` needs a list of strings"
        );
    }

    #[test]
    fn secrets_stay_out_of_messages() {
        let mut config = Config::default();
        config.set("api.token", "hunter2").unwrap();
        assert!(!alloc::format!("{config:?}").contains("hunter2"));
        let error = config.apply_toml("[api]\ntoken = \"hunter2\n").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
