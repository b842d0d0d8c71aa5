//! The version and build of this program.

use std::fmt;

/// The version and build of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildInfo {
    /// Its version.
    pub version: &'static str,
    /// `release` or `debug`.
    pub profile: &'static str,
    /// The operating system that it was built for, such as `linux`.
    pub os: &'static str,
    /// The processor's family.
    pub architecture: &'static str,
}

impl BuildInfo {
    /// The running program's.
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
