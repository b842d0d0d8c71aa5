//! Typed settings: defaults, file, environment, flags.
//!
//! [`load`] reads the sources and checks the result without touching any file but the configuration
//! itself; [`open_files`] then looks at the files that the settings name. Both report all violations at
//! once, with the origin of each value.

mod error;
mod files;
mod load;
mod reference;
mod secret;
mod section;
mod settings;
mod validate;

#[cfg(test)]
mod tests;

pub use error::{ConfigError, ConfigViolation, Origin};
pub use files::open_files;
pub use load::{FlagValue, Loaded, Sources, load};
pub use reference::{print, reference_page, sample_file};
pub use secret::Secret;
pub use settings::{
    AuthenticationSettings, CacheSettings, CertificateRole, DeviceSettings, JobSettings,
    LimitSettings, LogFormat, LogSettings, MetricsSettings, ModelSettings, ServerSettings,
    Settings, ShutdownSettings, SigningSettings, StorageSettings, TlsSettings,
};
