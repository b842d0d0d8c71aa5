//! What can be wrong with the settings.

use std::{fmt, path::PathBuf};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Origin {
    /// The default.
    #[default]
    Default,
    /// The configuration file.
    File(PathBuf),
    /// A variable of the environment.
    Environment(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One rule that the settings break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigViolation {
    /// The key, as `section.key`.
    pub key: String,
    /// The value as it was given, with secrets masked; empty where there is none.
    pub value: String,
    /// The origin of the value.
    pub origin: Origin,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for ConfigViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if !self.value.is_empty() {
            write!(f, " = {}", self.value)?;
        }
        write!(f, " ({}): {}; {}", self.origin, self.problem, self.remedy)
    }
}

/// Why there are no settings to start with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}, which {purpose}; name a file that this user may read", .path.display())]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// The setting that names the file.
        purpose: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is longer than any configuration.
    #[error("{} holds {bytes} bytes, a configuration at most {limit}; name another file", .path.display())]
    TooLong {
        /// Path of the file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The longest that is read.
        limit: u64,
    },
    /// The file is no TOML.
    #[error("{} is not TOML: {message}", .path.display())]
    Syntax {
        /// Path of the file.
        path: PathBuf,
        /// Where the file goes wrong, without its values.
        message: String,
    },
    /// Keys are unknown, or values are wrong or contradict each other.
    #[error("{}", lines(.violations))]
    Invalid {
        /// Every violation.
        violations: Vec<ConfigViolation>,
    },
    /// The settings cannot be written as TOML.
    #[error("the settings cannot be written as TOML")]
    Unprintable(#[from] toml::ser::Error),
}

impl ConfigError {
    /// The lines of the message, one for each problem.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Invalid { violations } => violations.iter().map(ToString::to_string).collect(),
            Self::Unreadable { source, .. } => vec![format!("{self}: {source}")],
            other => vec![other.to_string()],
        }
    }
}

fn lines(violations: &[ConfigViolation]) -> String {
    violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
