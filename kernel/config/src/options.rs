//! The table of everything that can be configured: what sets it, shows it and documents it.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;
use core::net::IpAddr;

use crate::Config;

/// One key of the configuration.
pub struct ConfigOption {
    /// The dotted key.
    pub key: &'static str,
    /// What it is for: a sentence.
    pub about: &'static str,
    /// What its value can be, as in “needs …”.
    pub expected: &'static str,
    /// What holds without it, for people.
    pub default: &'static str,
    /// A value that it can have, as TOML.
    pub example: &'static str,
    /// Whether its value is shown to nobody.
    pub is_secret: bool,
    /// Whether only tests have a use for it.
    pub is_for_tests: bool,
    pub(crate) set: fn(&mut Config, &str) -> Option<()>,
    get: fn(&Config) -> Option<String>,
}

impl ConfigOption {
    /// The option of that key.
    #[must_use]
    pub fn find(key: &str) -> Option<&'static Self> {
        OPTIONS.iter().find(|option| option.key == key)
    }

    /// Its value as text, `(set)` for a secret; `None` where there is none.
    #[must_use]
    pub fn value(&self, config: &Config) -> Option<String> {
        let value = (self.get)(config)?;
        Some(match self.is_secret {
            true => "(set)".to_string(),
            false => value,
        })
    }
}

/// What an option is that is neither secret nor for tests.
const USUAL: ConfigOption = ConfigOption {
    key: "",
    about: "",
    expected: "",
    default: "",
    example: "",
    is_secret: false,
    is_for_tests: false,
    set: |_, _| None,
    get: |_| None,
};

/// All of them.
pub static OPTIONS: [ConfigOption; 11] = [
    ConfigOption {
        key: "node.name",
        about: "How this appliance calls itself.",
        expected: "1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit",
        default: "ferrite",
        example: "\"rack3-a\"",
        set: |config, text| is_name(text).then(|| config.node_name = text.to_string()),
        get: |config| Some(config.node_name.clone()),
        ..USUAL
    },
    ConfigOption {
        key: "net.address",
        about: "Its addresses, with the bits of their networks.",
        expected: "addresses such as 10.0.0.2/24 or fd00::2/64, comma-separated",
        default: "by DHCP, and by router advertisements",
        example: "[\"10.0.0.2/24\", \"fd00::2/64\"]",
        set: |config, text| parse_list(text).map(|list| config.addresses = list),
        get: |config| join(&config.addresses),
        ..USUAL
    },
    ConfigOption {
        key: "net.gateway",
        about: "Where what is not in its networks goes.",
        expected: "at most one IPv4 and one IPv6 address, comma-separated",
        default: "by DHCP, and by router advertisements",
        example: "[\"10.0.0.1\"]",
        set: |config, text| gateways(text).map(|list| config.gateways = list),
        get: |config| join(&config.gateways),
        ..USUAL
    },
    ConfigOption {
        key: "nbd.public_port",
        about: "The port at which clients reach NBD, where something forwards one to ours.",
        expected: "a port, 1 to 65535",
        default: "10809",
        example: "20809",
        set: |config, text| port(text).map(|port| config.nbd_public_port = Some(port)),
        get: |config| config.nbd_public_port.map(|port| port.to_string()),
        ..USUAL
    },
    ConfigOption {
        key: "peer.public_port",
        about: "The port at which other appliances reach this one, where something forwards one to ours.",
        expected: "a port, 1 to 65535",
        default: "10810",
        example: "20810",
        set: |config, text| port(text).map(|port| config.peer_public_port = Some(port)),
        get: |config| config.peer_public_port.map(|port| port.to_string()),
        ..USUAL
    },
    ConfigOption {
        key: "origin.patience",
        about: "How many seconds clients wait for blocks whose origin does not answer.",
        expected: "seconds, 1 to 600",
        default: "30",
        example: "60",
        set: |config, text| {
            let seconds = text
                .parse()
                .ok()
                .filter(|seconds| (1..=600).contains(seconds))?;
            config.origin_patience_secs = seconds;
            Some(())
        },
        get: |config| Some(config.origin_patience_secs.to_string()),
        ..USUAL
    },
    ConfigOption {
        key: "api.token",
        about: "A token of the API whose role is admin.",
        expected: "1 to 128 visible ASCII characters",
        default: "a first token is made and shown on the console, once",
        example: "\"as-many-letters-as-nobody-guesses\"",
        is_secret: true,
        set: |config, text| is_token(text).then(|| config.token = Some(text.to_string())),
        get: |config| config.token.clone(),
        ..USUAL
    },
    ConfigOption {
        key: "log.level",
        about: "The least important level that is logged.",
        expected: "off, error, warn, info, debug or trace",
        default: "info",
        example: "\"debug\"",
        set: |config, text| text.parse().ok().map(|level| config.log_level = level),
        get: |config| Some(config.log_level.to_string().to_ascii_lowercase()),
        ..USUAL
    },
    ConfigOption {
        key: "pool.demo",
        about: "Whether the first start on blank drives makes a volume `demo` of 1 GiB.",
        expected: "true or false",
        default: "false",
        example: "true",
        set: |config, text| parse_flag(text).map(|flag| config.demo = flag),
        get: |config| Some(config.demo.to_string()),
        ..USUAL
    },
    ConfigOption {
        key: "test.exit",
        about: "Whether a crash or a shutdown ends the virtual machine through its debug-exit device.",
        expected: "true or false",
        default: "false",
        example: "true",
        is_for_tests: true,
        set: |config, text| parse_flag(text).map(|flag| config.test_exit = flag),
        get: |config| Some(config.test_exit.to_string()),
        ..USUAL
    },
    ConfigOption {
        key: "test.fault",
        about: "A fault to provoke after the start; of the kernel command line only.",
        expected: "the name of a fault",
        default: "none",
        example: "\"panic\"",
        is_for_tests: true,
        set: |config, text| {
            config.test_fault = Some(text.to_string());
            Some(())
        },
        get: |config| config.test_fault.clone(),
        ..USUAL
    },
];

fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| allowed(b) || matches!(b, b'.' | b'_' | b'-'))
        && text.bytes().next().is_some_and(allowed)
}

fn is_token(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

fn gateways(text: &str) -> Option<Vec<IpAddr>> {
    let list: Vec<IpAddr> = parse_list(text)?;
    let v4 = list.iter().filter(|address| address.is_ipv4()).count();
    (v4 <= 1 && list.len() - v4 <= 1).then_some(list)
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

fn join<T: Display>(list: &[T]) -> Option<String> {
    let texts: Vec<String> = list.iter().map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| texts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_set_is_shown_and_examples_are_right() {
        for option in &OPTIONS {
            assert!(option.about.ends_with('.'), "{}", option.key);
            let (table, name) = option.key.split_once('.').unwrap();
            let toml = alloc::format!("[{table}]\n{name} = {}\n", option.example);
            let mut config = Config::default();
            config
                .apply_toml(&toml)
                .unwrap_or_else(|error| panic!("{toml}: {error}"));
            assert_ne!(config, Config::default(), "{} sets nothing", option.key);
            let shown = option.value(&config).expect("it has a value");
            if option.is_secret {
                assert_eq!(shown, "(set)");
            } else {
                let mut again = Config::default();
                again.set(option.key, &shown).unwrap();
                assert!(again == config, "{}", option.key);
            }
            assert_eq!(
                ConfigOption::find(option.key).map(|one| one.key),
                Some(option.key)
            );
        }
        assert!(ConfigOption::find("node.nme").is_none());
    }
}
