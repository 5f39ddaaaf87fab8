//! Why a command did not do what it should.

use std::fmt;

/// A failed command, for people and as an exit code.
#[derive(Debug)]
pub enum Failure {
    /// No appliance is known or it does not answer.
    Unreachable(String),
    /// The appliance answered with an error.
    Refused {
        /// HTTP status.
        status: u16,
        /// What the appliance says about it.
        message: String,
    },
    /// What the appliance answered makes no sense to this version of the tool.
    Strange(String),
    /// Something on this host failed.
    Here(String),
    /// `check` or `scrub` found damage; it has been printed.
    Damaged(u64),
}

impl Failure {
    /// The exit code that scripts see.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } | Self::Strange(_) | Self::Here(_) => 1,
            Self::Unreachable(_) => 3,
            Self::Damaged(_) => 4,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(text) | Self::Here(text) => out.write_str(text),
            Self::Refused {
                status: 401,
                message,
            } => write!(
                out,
                "{message} (is FERRITE_TOKEN, or --token, that of this appliance?)"
            ),
            Self::Refused { status, message } => {
                // The appliance speaks of its API; here the same is an option.
                let message = message.replace("?force=true", "--force");
                let message = message.replace("/v1/drives tells", "`ferrite drive list` tells");
                let message = message.replace("/v1/log tells", "`ferrite log` tells");
                write!(out, "{message} (HTTP {status})")
            }
            Self::Strange(text) => write!(out, "the appliance's answer is not understood: {text}"),
            Self::Damaged(1) => out.write_str("1 problem found"),
            Self::Damaged(count) => write!(out, "{count} problems found"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Here(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::Failure;

    #[test]
    fn what_the_api_calls_a_parameter_is_an_option_here() {
        let refused = Failure::Refused {
            status: 409,
            message: "a client is attached; add ?force=true to do it anyway".into(),
        };
        let expected = "a client is attached; add --force to do it anyway (HTTP 409)";
        assert_eq!(refused.to_string(), expected);
    }
}
