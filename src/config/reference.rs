//! Writes the settings as text: the reference page and the sample file, both from the declarations,
//! and the settings in effect with their origins.

use std::fmt::Write;

use toml::{Table, Value};

use super::{
    ConfigError, Loaded, Origin, Settings,
    section::{Key, Kind, paragraph},
};

/// Widest line of the sample's comments.
const WIDTH: usize = 98;

/// `docs/configuration.md`.
pub fn reference_page() -> String {
    let defaults = defaults();
    let mut page = String::from(
        "# Configuration\n\n\
         <!-- Made from the declarations in src/config/settings.rs; change them there, and run\n     \
         UPDATE_REFERENCE=1 cargo test --lib config:: to write this page again. -->\n\n\
         `keystep serve` reads its settings from four places, the later over the earlier: defaults, \
         the TOML file that `--config` names, variables of the environment, flags.\n\
         A variable is `KEYSTEP__SECTION__KEY`; lists are written with commas between, or as a TOML \
         array.\n\
         `deploy/keystep.toml` holds every key with its default, commented out.\n\n\
         `keystep serve --check` checks all of it, prints who may do what, and ends with 0, or with \
         64 and every violation.\n\
         `keystep serve --print-config` prints the settings that hold, secrets masked, and where \
         each came from.\n\n\
         Secrets never stand in the file: they come from the environment, or from a file of their \
         own.\n\n\
         `keystep token --principal NAME --role read --append FILE` makes a bearer token: it prints \
         the token, once, and appends its entry to the token file, which a server reads again when \
         it changes.\n\n",
    );
    let _ = writeln!(page, "## Models and judges\n");
    header(&mut page);
    for key in &Settings::ABOVE_SECTIONS {
        row(&mut page, key, &defaults);
    }
    for section in Settings::SECTIONS {
        let _ = writeln!(page, "\n## `[{}]`\n\n{}\n", section.name, paragraph(section.about));
        header(&mut page);
        for key in section.keys {
            row(&mut page, key, &defaults);
        }
    }
    page
}

fn header(page: &mut String) {
    page.push_str("| Key | Default | Variable | Meaning |\n| --- | --- | --- | --- |\n");
}

fn row(page: &mut String, key: &Key, defaults: &Table) {
    let shown = match default_of(key, defaults) {
        Some(default) => format!("`{default}`"),
        None => "not set".to_owned(),
    };
    let example = key.example.map(|example| format!(" Example: `{example}`.")).unwrap_or_default();
    let _ = writeln!(
        page,
        "| `{}` | {shown} | `{}` | {} Takes {}.{example} |",
        key.name,
        key.variable(),
        key.text(),
        key.kind.expects(),
    );
}

/// `deploy/keystep.toml`.
pub fn sample_file() -> String {
    let defaults = defaults();
    let mut file = String::from(
        "# Every setting of `keystep serve` with its default, or with an example where there is \
         none.\n\
         # Made from the declarations in src/config/settings.rs. `keystep serve --config FILE --check`\n\
         # tells whether a file is right.\n",
    );
    for key in &Settings::ABOVE_SECTIONS {
        entry(&mut file, key, &defaults);
    }
    for section in Settings::SECTIONS {
        file.push('\n');
        comment(&mut file, &paragraph(section.about));
        let _ = writeln!(file, "[{}]", section.name);
        for key in section.keys {
            entry(&mut file, key, &defaults);
        }
    }
    file
}

fn entry(file: &mut String, key: &Key, defaults: &Table) {
    file.push('\n');
    comment(file, &key.text());
    if key.kind == Kind::Secret {
        let _ = writeln!(file, "# Variable: {}", key.variable());
        return;
    }
    let default = default_of(key, defaults).map(ToString::to_string);
    // An empty list says nothing; its example does.
    let value = key.example.map(str::to_owned).or(default).unwrap_or_default();
    let _ = writeln!(file, "#{} = {value}", key.name);
}

fn comment(file: &mut String, text: &str) {
    let mut line = "#".to_owned();
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(file, "{line}");
            "#".clone_into(&mut line);
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(file, "{line}");
}

fn defaults() -> Table {
    // Defaults can always be written; a test reads them all back.
    Table::try_from(Settings::default()).unwrap_or_default()
}

fn default_of<'a>(key: &Key, defaults: &'a Table) -> Option<&'a Value> {
    let found = if key.section.is_empty() {
        defaults.get(key.name)
    } else {
        defaults.get(key.section)?.get(key.name)
    };
    let is_empty = |value: &Value| match value {
        Value::Array(list) => list.is_empty(),
        Value::Table(table) => table.is_empty(),
        _ => false,
    };
    found.filter(|value| !is_empty(value))
}

/// The settings as a TOML file that gives the same settings, with secrets masked and the origin of
/// each value behind it.
pub fn print(loaded: &Loaded) -> Result<String, ConfigError> {
    let table = Table::try_from(&loaded.settings)?;
    let mut text = String::new();
    for key in &Settings::ABOVE_SECTIONS {
        printed(&mut text, loaded, key, table.get(key.name));
    }
    for section in Settings::SECTIONS {
        let _ = writeln!(text, "\n[{}]", section.name);
        let values = table.get(section.name).and_then(Value::as_table);
        for key in section.keys {
            printed(&mut text, loaded, key, values.and_then(|values| values.get(key.name)));
        }
    }
    Ok(text)
}

fn printed(text: &mut String, loaded: &Loaded, key: &Key, value: Option<&Value>) {
    let origin = loaded.origins.get(&key.path()).unwrap_or(&Origin::Default);
    // Writing to a text cannot fail.
    let _ = match value {
        // Commented out: a masked secret must not pass for one when the text is used as a file.
        Some(value) if key.is_secret() => writeln!(text, "# {} = {value} # {origin}", key.name),
        Some(value) => writeln!(text, "{} = {value} # {origin}", key.name),
        None => writeln!(text, "# {} is not set # {origin}", key.name),
    };
}
