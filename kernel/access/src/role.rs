//! What somebody may do.

use core::fmt;

use serde::{Deserialize, Serialize};

/// What somebody may do; each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Looks at everything but tokens and the audit log.
    ReadOnly,
    /// Works with volumes, snapshots, schedules and jobs.
    Operator,
    /// Gives access to others, turns the appliance off, gives up what drives hold.
    Admin,
}

impl Role {
    /// All names, from the least powerful on.
    pub const NAMES: [&str; 3] = ["read-only", "operator", "admin"];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The role of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::ReadOnly, Self::Operator, Self::Admin];
        all.into_iter().find(|role| role.name() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_have_their_names_and_order() {
        for name in Role::NAMES {
            let role = Role::named(name).unwrap();
            assert_eq!(role.name(), name);
            let kept = serde_json::to_string(&role).unwrap();
            assert_eq!(kept, alloc::format!("\"{name}\""));
        }
        assert_eq!(Role::named("root"), None);
        assert!(Role::ReadOnly < Role::Operator && Role::Operator < Role::Admin);
    }
}
