//! What this program is.

use std::fmt;

/// What this program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildInfo {
    /// Its version.
    pub version: &'static str,
    /// `release` or `debug`.
    pub profile: &'static str,
    /// What it was built for, such as `linux/x86_64`.
    pub os: &'static str,
    /// The processor's family.
    pub architecture: &'static str,
}

impl BuildInfo {
    /// Of the running program.
    pub const CURRENT: Self = Self {
        version: env!("CARGO_PKG_VERSION"),
        profile: if cfg!(debug_assertions) { "debug" } else { "release" },
        os: std::env::consts::OS,
        architecture: std::env::consts::ARCH,
    };
}

impl fmt::Display for BuildInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, profile, os, architecture } = self;
        write!(f, "keystep {version} ({profile}, {os}/{architecture})")
    }
}
