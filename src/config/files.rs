//! Checks the files that settings name before anything starts, and reports all that are missing or
//! unreadable at once.

use std::{fs::File, io::Read, path::Path};

use super::{ConfigError, ConfigViolation, Loaded, Secret, Settings};

/// No secret is longer; a wrong file is not read whole.
const LONGEST_SECRET: u64 = 64 << 10;

/// Looks at every file that the settings name; gives the settings with the secrets that stood in
/// files put in.
pub fn open_files(loaded: &Loaded) -> Result<Settings, ConfigError> {
    let mut settings = loaded.settings.clone();
    let mut violations = Vec::new();
    let mut refuse = |key: &str, path: &Path, problem: String, remedy: &str| {
        violations.push(ConfigViolation {
            key: key.to_owned(),
            value: format!("\"{}\"", path.display()),
            origin: loaded.origins.get(key).cloned().unwrap_or_default(),
            problem,
            remedy: remedy.to_owned(),
        });
    };
    let only_opened = [
        ("tls.certificate", &settings.tls.certificate),
        ("tls.key", &settings.tls.key),
        ("tls.client_ca", &settings.tls.client_ca),
        ("authentication.token_file", &settings.authentication.token_file),
        ("signing.key_file", &settings.signing.key_file),
    ];
    for (key, path) in only_opened {
        let Some(path) = path else { continue };
        if let Err(problem) = opened(path) {
            refuse(key, path, problem, "name a file that this user may read");
        }
    }
    if let Some(path) = &settings.storage.secret_access_key_file {
        match secret(path) {
            Ok(secret) => settings.storage.secret_access_key = Some(secret),
            Err(problem) => {
                let remedy = "name a file that holds the access key and nothing else";
                refuse("storage.secret_access_key_file", path, problem, remedy);
            }
        }
    }
    if violations.is_empty() { Ok(settings) } else { Err(ConfigError::Invalid { violations }) }
}

fn opened(path: &Path) -> Result<File, String> {
    let file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    // A folder can be opened, but not read.
    match file.metadata() {
        Ok(metadata) if metadata.is_dir() => Err("is a folder".to_owned()),
        _ => Ok(file),
    }
}

fn secret(path: &Path) -> Result<Secret, String> {
    let mut text = String::new();
    opened(path)?
        .take(LONGEST_SECRET + 1)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > LONGEST_SECRET {
        return Err(format!("is longer than {LONGEST_SECRET} bytes"));
    }
    let secret = Secret::new(&text);
    if secret.expose().is_empty() { Err("is empty".to_owned()) } else { Ok(secret) }
}
