//! Files in and out: whole or not at all.

use std::{
    fs::File,
    io::{BufReader, Read, Write},
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::CliError;

/// Refuses an output folder that exists, before any work is done.
pub(super) fn refuse_existing(out: &Path) -> Result<(), CliError> {
    // The link itself counts, wherever it leads.
    if out.symlink_metadata().is_ok() {
        return Err(CliError::Usage(format!(
            "{} exists; name another --out or remove it",
            out.display()
        )));
    }
    Ok(())
}

/// The folder that a path lies in.
pub(super) fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Refuses an output file that could not be written after the work.
pub(super) fn check_writable(out: &Path) -> Result<(), CliError> {
    if out.is_dir() {
        return Err(CliError::Usage(format!("{} is a folder; name a file", out.display())));
    }
    temporary(out).map(drop)
}

/// Writes a file beside its place and moves it there, so that no half of it is ever seen. A file
/// that was there is replaced.
pub(super) fn write_whole(out: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let failed = |source| CliError::File { action: "write", path: out.to_owned(), source };
    let mut file = temporary(out)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(out).map_err(|error| failed(error.error))?;
    Ok(())
}

fn temporary(out: &Path) -> Result<tempfile::NamedTempFile, CliError> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".keystep-");
    // The default is for secrets: readable by nobody else.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(parent_of(out)).map_err(|source| CliError::File {
        action: "write",
        path: out.to_owned(),
        source,
    })
}

/// Reads a JSON file that the user named.
pub(super) fn read_json<T: DeserializeOwned>(
    path: &Path,
    expected: &'static str,
) -> Result<T, CliError> {
    let bytes = std::fs::read(path).map_err(|source| CliError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&bytes).map_err(|source| CliError::Json {
        path: path.to_owned(),
        expected,
        source,
    })
}

/// SHA-256 of all that a reader gives, hexadecimal.
pub(super) fn sha256_hex(reader: impl Read) -> std::io::Result<String> {
    let mut reader = BufReader::with_capacity(1 << 20, reader);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
    }
    Ok(hasher.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
        text
    }))
}

/// SHA-256 of a file.
pub(super) fn file_digest(path: &Path) -> Result<String, CliError> {
    File::open(path).and_then(sha256_hex).map_err(|source| CliError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

/// A concept as a part of a file name: lower-case letters and digits of any script, and hyphens.
pub(super) fn name_part(text: &str) -> String {
    let mut part = String::new();
    for letter in text.chars().flat_map(char::to_lowercase).take(60) {
        if letter.is_alphanumeric() {
            part.push(letter);
        } else if !part.is_empty() && !part.ends_with('-') {
            part.push('-');
        }
    }
    let part = part.trim_end_matches('-');
    if part.is_empty() { "concept".to_owned() } else { part.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_hexadecimal() {
        assert_eq!(
            sha256_hex(&b"abc"[..]).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn names_are_safe() {
        let parts = ["cat", "Van Gogh", "../../etc", "  ", "Ängel №5!"].map(name_part);
        assert_eq!(parts, ["cat", "van-gogh", "etc", "concept", "ängel-5"]);
    }

    #[test]
    fn a_file_is_replaced_whole_and_a_folder_refused() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("x.json");
        write_whole(&out, b"1").unwrap();
        write_whole(&out, b"22").unwrap();
        assert_eq!(std::fs::read(&out).unwrap(), b"22");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(matches!(check_writable(folder.path()), Err(CliError::Usage(_))));
        let missing = folder.path().join("no/such/x.json");
        assert!(matches!(check_writable(&missing), Err(CliError::File { .. })));
        assert!(matches!(refuse_existing(&out), Err(CliError::Usage(_))));
    }
}
