//! What the appliance is told at start: node name, addresses, token, log level.
//!
//! Three sources, the later ones win: a TOML file on the boot medium, TOML handed over by the hypervisor (fw_cfg
//! `opt/ferrite/config`), and the words of the kernel command line (`key=value`, keys as dotted TOML paths). All of them
//! end in [`Config::set`]; the keys are one table, [`OPTIONS`]. An unknown key or a wrong value is an error that names it.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod address;
mod options;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

pub use address::Cidr;
pub use options::{ConfigOption, OPTIONS};

/// Everything that can be configured, with its defaults.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// `node.name`: how this node calls itself.
    pub node_name: String,
    /// `net.address`: static addresses, comma-separated; none means DHCP.
    pub addresses: Vec<Cidr>,
    /// `net.gateway`: default routes, at most one for IPv4 and one for IPv6.
    pub gateways: Vec<IpAddr>,
    /// `nbd.public_port`: the port at which clients reach NBD, where something forwards one to ours.
    pub nbd_public_port: Option<u16>,
    /// `peer.public_port`: the port at which other appliances reach this one, where something forwards one to ours.
    pub peer_public_port: Option<u16>,
    /// `origin.patience`: how many seconds clients wait for blocks whose origin does not answer.
    pub origin_patience_secs: u64,
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
            nbd_public_port: None,
            peer_public_port: None,
            origin_patience_secs: 30,
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
            .field("nbd_public_port", &self.nbd_public_port)
            .field("peer_public_port", &self.peer_public_port)
            .field("origin_patience_secs", &self.origin_patience_secs)
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
    /// The first of [`check_toml`](Self::check_toml); what is right is applied all the same.
    pub fn apply_toml(&mut self, text: &str) -> Result<(), ConfigError> {
        self.check_toml(text).into_iter().next().map_or(Ok(()), Err)
    }

    /// Applies the assignments of a TOML document that are right, and tells what is wrong with the others.
    pub fn check_toml(&mut self, text: &str) -> Vec<ConfigError> {
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            // The parser's full message quotes the offending line, which may be the token's.
            Err(error) => return Vec::from([ConfigError::NotToml(error.message().to_string())]),
        };
        let mut wrong = Vec::new();
        self.apply_table("", &table, &mut wrong);
        wrong
    }

    fn apply_table(&mut self, prefix: &str, table: &toml::Table, wrong: &mut Vec<ConfigError>) {
        for (name, value) in table {
            let key = if prefix.is_empty() {
                name.clone()
            } else {
                [prefix, name].join(".")
            };
            match value {
                toml::Value::Table(inner) => self.apply_table(&key, inner, wrong),
                value => wrong.extend(self.set_toml(key, value).err()),
            }
        }
    }

    fn set_toml(&mut self, key: String, value: &toml::Value) -> Result<(), ConfigError> {
        if ConfigOption::find(&key).is_none() {
            return Err(ConfigError::UnknownKey(key));
        }
        let expected = match value {
            toml::Value::String(text) => return self.set(&key, text),
            toml::Value::Boolean(value) => return self.set(&key, &value.to_string()),
            toml::Value::Integer(value) => return self.set(&key, &value.to_string()),
            toml::Value::Array(items) => {
                let texts: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
                match texts {
                    Some(texts) => return self.set(&key, &texts.join(",")),
                    None => "a list of strings",
                }
            }
            _ => "a string, a number or true/false",
        };
        Err(ConfigError::BadValue { key, expected })
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
        let option = ConfigOption::find(key);
        let option = option.ok_or_else(|| ConfigError::UnknownKey(key.to_string()))?;
        (option.set)(self, value).ok_or_else(|| ConfigError::BadValue {
            key: key.to_string(),
            expected: option.expected,
        })
    }
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
            .apply_command_line("pool.demo=0 test.exit=1 nbd.public_port=10810")
            .unwrap();
        assert_eq!(config.nbd_public_port, Some(10810));
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
            "nbd.public_port=0",
            "nbd.public_port=65536",
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
    fn all_that_is_wrong_is_told() {
        let mut config = Config::default();
        let text =
            "[node]\nname = \"b\"\nnme = 7\n[pool]\ndemo = \"maybe\"\n[colour.of]\nit = 1.5\n";
        let wrong = config.check_toml(text);
        let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        assert_eq!(
            wrong,
            [
                "unknown configuration key `colour.of.it`",
                "unknown configuration key `node.nme`",
                "configuration key `pool.demo` needs true or false",
            ]
        );
        assert_eq!(config.node_name, "b");
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
