//! Declares sections of the settings: one declaration gives the struct, its defaults and its part of the
//! reference, so that the three always agree.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::Secret;

/// The prefix of variables in the environment; `KEYSTEP__JOBS__LEASE` sets `jobs.lease`.
pub(super) const PREFIX: &str = "KEYSTEP__";

/// The kind of a value, which decides how the text of a variable or flag is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Switch,
    Number,
    Address,
    Duration,
    Text,
    Path,
    Secret,
    List,
    Models,
    Folders,
}

impl Kind {
    /// What a value of the kind looks like, for messages and the reference.
    pub(super) fn expects(self) -> &'static str {
        match self {
            Self::Switch => "true or false",
            Self::Number => "a whole number",
            Self::Address => "an IP address and port such as 127.0.0.1:50051",
            Self::Duration => "a duration such as 90s, 5m or 30d",
            Self::Text => "a text",
            Self::Path => "a path",
            Self::Secret => "a secret, in the environment only",
            Self::List => "a list of texts",
            Self::Models => "tables with name, url and sha256",
            Self::Folders => "a table of folders by their names",
        }
    }
}

/// One key of the settings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    /// Its section; empty for keys above all sections.
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    pub(super) about: &'static [&'static str],
    pub(super) kind: Kind,
    /// An example in TOML, for a key without a default.
    pub(super) example: Option<&'static str>,
}

impl Key {
    /// `section.name`.
    pub(super) fn path(&self) -> String {
        if self.section.is_empty() {
            self.name.to_owned()
        } else {
            format!("{}.{}", self.section, self.name)
        }
    }

    /// Whether its value must not be shown.
    pub(super) fn is_secret(&self) -> bool {
        self.kind == Kind::Secret
    }

    /// The variable that sets it.
    pub(super) fn variable(&self) -> String {
        let path = self.path().to_uppercase().replace('.', "__");
        format!("{PREFIX}{path}")
    }

    /// What the key is for, as one paragraph.
    pub(super) fn text(&self) -> String {
        paragraph(self.about)
    }
}

/// One section of the settings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) about: &'static [&'static str],
    pub(super) keys: &'static [Key],
}

/// The lines of a doc comment as one paragraph.
pub(super) fn paragraph(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// A type that a key can have.
pub(super) trait Setting {
    const KIND: Kind;
}

macro_rules! kinds {
    ($($type:ty => $kind:ident,)+) => {
        $(impl Setting for $type { const KIND: Kind = Kind::$kind; })+
    };
}

kinds! {
    bool => Switch,
    u32 => Number,
    u64 => Number,
    usize => Number,
    SocketAddr => Address,
    Duration => Duration,
    String => Text,
    PathBuf => Path,
    Secret => Secret,
    Vec<String> => List,
}

impl<T: Setting> Setting for Option<T> {
    const KIND: Kind = T::KIND;
}

/// Declares a section; `example` shows a key that has no default.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident at $section:literal {
            $(
                $(#[doc = $line:literal])+
                $(#[serde($($serde:tt)+)])?
                pub $field:ident: $type:ty = $default:expr $(, example $example:literal)?;
            )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $(
                $(#[doc = $line])+
                $(#[serde($($serde)+)])?
                pub $field: $type,
            )+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $name {
            /// Its part of the reference.
            pub(super) const SECTION: $crate::config::section::Section =
                $crate::config::section::Section {
                    name: $section,
                    about: &[$($about),+],
                    keys: &[$($crate::config::section::Key {
                        section: $section,
                        name: stringify!($field),
                        about: &[$($line),+],
                        kind: <$type as $crate::config::section::Setting>::KIND,
                        example: section!(@example $($example)?),
                    },)+],
                };
        }
    };
    (@example) => { None };
    (@example $example:literal) => { Some($example) };
}
pub(super) use section;
