//! Loads the settings from defaults, file, environment and flags, the later over the earlier, and
//! remembers where each value came from.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::Read,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::{Table, Value};

use super::{
    ConfigError, ConfigViolation, Origin, Settings,
    secret::masked,
    section::{Key, Kind, PREFIX},
    validate::validate,
};

/// The longest file that is read, so that a wrong one is not read whole.
const LONGEST_FILE: u64 = 1 << 20;

/// The sources of the settings.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The TOML file.
    pub file: Option<PathBuf>,
    /// Variables of the environment; those of other programs are ignored.
    pub environment: Vec<(OsString, OsString)>,
    /// Flags that set a key.
    pub flags: Vec<FlagValue>,
}

/// A flag that sets a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagValue {
    /// The flag, such as `--listen`.
    pub flag: &'static str,
    /// The key that it sets, as `section.key`.
    pub key: &'static str,
    /// Its value, as it was given.
    pub value: String,
}

/// Settings that break no rule, with their origins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Origins by `section.key`; keys that are missing have their default.
    pub origins: BTreeMap<String, Origin>,
}

/// Reads all sources and checks the result, and reports every violation at once. Touches no file but
/// the configuration itself.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut layers = Layers::default();
    if let Some(path) = &sources.file {
        let text = read(path)?;
        layers.file(path, parse(path, &text)?);
    }
    layers.environment(&sources.environment);
    for flag in &sources.flags {
        layers.flag(flag);
    }
    layers.finish()
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        purpose: "--config names".to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    // One byte more than may be tells the whole from the cut.
    file.take(LONGEST_FILE + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LONGEST_FILE {
        let bytes = std::fs::metadata(path).map_or(text.len() as u64, |metadata| metadata.len());
        return Err(ConfigError::TooLong { path: path.to_owned(), bytes, limit: LONGEST_FILE });
    }
    Ok(text)
}

pub(super) fn parse(path: &Path, text: &str) -> Result<Table, ConfigError> {
    text.parse::<Table>().map_err(|error| {
        // The parser's own display quotes the line, which may hold a secret.
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        ConfigError::Syntax {
            path: path.to_owned(),
            message: format!("line {line}: {}; correct the line", one_line(error.message())),
        }
    })
}

/// The values that were given so far; later ones replace earlier ones.
#[derive(Debug, Default)]
pub(super) struct Layers {
    values: BTreeMap<String, (Key, Value, Origin)>,
    violations: Vec<ConfigViolation>,
}

impl Layers {
    /// Adds the values of a file.
    pub(super) fn file(&mut self, path: &Path, table: Table) {
        let origin = Origin::File(path.to_owned());
        for (name, value) in table {
            if let Some(key) = Settings::ABOVE_SECTIONS.iter().find(|key| key.name == name) {
                self.give(*key, value, origin.clone());
                continue;
            }
            let Some(section) = Settings::SECTIONS.iter().find(|section| section.name == name)
            else {
                let names: Vec<_> = Settings::SECTIONS.iter().map(|section| section.name).collect();
                let remedy = format!("the sections are models, judges, {}", names.join(", "));
                self.refuse(&name, String::new(), &origin, "there is no such section", &remedy);
                continue;
            };
            let Value::Table(entries) = value else {
                let remedy = format!("write [{name}] and its keys below it");
                self.refuse(&name, String::new(), &origin, "this is a section", &remedy);
                continue;
            };
            for (entry, value) in entries {
                let path = format!("{name}.{entry}");
                match section.keys.iter().find(|key| key.name == entry) {
                    Some(key) if key.kind == Kind::Secret => self.refuse(
                        &path,
                        String::new(),
                        &origin,
                        "a secret must not stand in the configuration file",
                        &format!("give {path}_file, or {} in the environment", key.variable()),
                    ),
                    Some(key) => self.give(*key, value, origin.clone()),
                    None => {
                        let names: Vec<_> = section.keys.iter().map(|key| key.name).collect();
                        let remedy = format!("the keys of [{name}] are {}", names.join(", "));
                        self.refuse(&path, String::new(), &origin, "there is no such key", &remedy);
                    }
                }
            }
        }
    }

    /// Adds the values of our variables in the environment.
    pub(super) fn environment(&mut self, variables: &[(OsString, OsString)]) {
        for (variable, value) in variables {
            let Some(variable) = variable.to_str().filter(|name| name.starts_with(PREFIX)) else {
                continue;
            };
            let origin = Origin::Environment(variable.to_owned());
            let Some(key) = Settings::keys().find(|key| key.variable() == variable) else {
                let problem = "no key has this variable";
                let remedy = "write KEYSTEP__SECTION__KEY in capitals, or unset it";
                self.refuse(variable, String::new(), &origin, problem, remedy);
                continue;
            };
            let Some(text) = value.to_str() else {
                let remedy = format!("give {}", key.kind.expects());
                self.refuse(&key.path(), String::new(), &origin, "is not UTF-8", &remedy);
                continue;
            };
            match value_of_variable(key.kind, text) {
                Some(value) => self.give(key, value, origin),
                None => self.refuse_text(&key, text, &origin),
            }
        }
    }

    /// Adds the value of a flag.
    pub(super) fn flag(&mut self, flag: &FlagValue) {
        let origin = Origin::Flag(flag.flag);
        let Some(key) = Settings::keys().find(|key| key.path() == flag.key) else {
            self.refuse(flag.key, String::new(), &origin, "no key has this flag", "report it");
            return;
        };
        let value = match key.kind {
            // A comma may be part of a URL: a flag gives one element, and may be given again.
            Kind::List => {
                let earlier = self.values.get(flag.key).filter(|(_, _, from)| *from == origin);
                let earlier = earlier.and_then(|(_, value, _)| value.as_array());
                let mut list = earlier.cloned().unwrap_or_default();
                list.push(Value::String(flag.value.clone()));
                Some(Value::Array(list))
            }
            kind => value_of_variable(kind, &flag.value),
        };
        match value {
            Some(value) => self.give(key, value, origin),
            None => self.refuse_text(&key, &flag.value, &origin),
        }
    }

    fn give(&mut self, key: Key, value: Value, origin: Origin) {
        self.values.insert(key.path(), (key, value, origin));
    }

    fn refuse_text(&mut self, key: &Key, text: &str, origin: &Origin) {
        let remedy = format!("give {}", key.kind.expects());
        self.refuse(
            &key.path(),
            format!("{:?}", masked(text)),
            origin,
            "is of another kind",
            &remedy,
        );
    }

    fn refuse(&mut self, key: &str, value: String, origin: &Origin, problem: &str, remedy: &str) {
        self.violations.push(ConfigViolation {
            key: key.to_owned(),
            value,
            origin: origin.clone(),
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
        });
    }

    /// The settings, or every violation.
    pub(super) fn finish(mut self) -> Result<Loaded, ConfigError> {
        let mut whole = Table::new();
        let mut origins = BTreeMap::new();
        for (path, (key, value, origin)) in std::mem::take(&mut self.values) {
            // Alone, so that each wrong value is found, and not the first.
            let mut alone = Table::new();
            insert(&mut alone, &key, value.clone());
            if let Err(error) = Settings::deserialize(alone) {
                let shown = if key.kind == Kind::Secret { "***".into() } else { shortened(&value) };
                let remedy = format!("give {}", key.kind.expects());
                let problem = masked(&one_line(error.message()));
                self.refuse(&path, shown, &origin, &problem, &remedy);
                continue;
            }
            insert(&mut whole, &key, value);
            origins.insert(path, origin);
        }
        let settings = match Settings::deserialize(whole) {
            Ok(settings) => settings,
            Err(error) => {
                let problem = one_line(error.message());
                self.refuse("settings", String::new(), &Origin::Default, &problem, "report it");
                return Err(ConfigError::Invalid { violations: self.violations });
            }
        };
        for mut violation in validate(&settings) {
            // Of a value that is wrong in itself, the default was checked.
            if self.violations.iter().all(|known| known.key != violation.key) {
                // An element has the origin of its list.
                let key = violation.key.split('[').next().unwrap_or_default();
                violation.origin = origins.get(key).cloned().unwrap_or_default();
                self.violations.push(violation);
            }
        }
        if self.violations.is_empty() {
            Ok(Loaded { settings, origins })
        } else {
            Err(ConfigError::Invalid { violations: self.violations })
        }
    }
}

fn insert(table: &mut Table, key: &Key, value: Value) {
    if key.section.is_empty() {
        table.insert(key.name.to_owned(), value);
        return;
    }
    let section = table.entry(key.section).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(section) = section {
        section.insert(key.name.to_owned(), value);
    }
}

/// The text of a variable as a value of the key's kind; `None` where it cannot be one.
fn value_of_variable(kind: Kind, text: &str) -> Option<Value> {
    match kind {
        Kind::Switch => text.trim().parse().ok().map(Value::Boolean),
        Kind::Number => text.trim().replace('_', "").parse().ok().map(Value::Integer),
        Kind::List if text.trim_start().starts_with('[') => inline(text),
        Kind::List => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Some(Value::Array(parts.map(|part| Value::String(part.to_owned())).collect()))
        }
        Kind::Models | Kind::Folders => inline(text),
        Kind::Secret => Some(Value::String(text.trim().to_owned())),
        Kind::Address | Kind::Duration | Kind::Text | Kind::Path => {
            Some(Value::String(text.to_owned()))
        }
    }
}

/// A TOML value without a key.
fn inline(text: &str) -> Option<Value> {
    // A line end would let the text add keys of its own.
    let text = one_line(text);
    let mut table: Table = format!("value = {text}").parse().ok()?;
    table.remove("value")
}

fn shortened(value: &Value) -> String {
    const MOST: usize = 80;
    let text = masked(&one_line(&value.to_string()));
    if text.chars().count() <= MOST {
        return text;
    }
    text.chars().take(MOST).chain(['…']).collect()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
