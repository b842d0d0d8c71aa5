//! The settings as they are, each with the place that it came from.

use std::fmt::Write;

use toml::Table;

use super::{ConfigError, Loaded, Origin, Settings, section::Key};

/// The settings as a TOML file that gives them again, secrets masked, and behind each value where
/// it came from.
pub fn print(loaded: &Loaded) -> Result<String, ConfigError> {
    let table = Table::try_from(&loaded.settings)?;
    let mut text = String::new();
    line(&mut text, loaded, &Settings::MODELS, table.get(Settings::MODELS.name));
    for section in Settings::SECTIONS {
        let _ = writeln!(text, "\n[{}]", section.name);
        let values = table.get(section.name).and_then(toml::Value::as_table);
        for key in section.keys {
            line(&mut text, loaded, key, values.and_then(|values| values.get(key.name)));
        }
    }
    Ok(text)
}

fn line(text: &mut String, loaded: &Loaded, key: &Key, value: Option<&toml::Value>) {
    let origin = loaded.origins.get(&key.path()).unwrap_or(&Origin::Default);
    // Writing to a text cannot fail.
    let _ = match value {
        // A masked secret must not be taken for one when the text is used as a file.
        Some(value) if key.is_secret() => writeln!(text, "# {} = {value} # {origin}", key.name),
        Some(value) => writeln!(text, "{} = {value} # {origin}", key.name),
        None => writeln!(text, "# {} is not set # {origin}", key.name),
    };
}
