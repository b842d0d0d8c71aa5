//! The files that a verdict is written to.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;

use crate::{
    cli::{
        CliError,
        remote::{print, save},
    },
    gate::{GateVerdict, annotations, code_quality, junit, sarif, summary},
};

/// Names the file that a step's summary is appended to.
const SUMMARY_VARIABLE: &str = "GITHUB_STEP_SUMMARY";
/// Is "true" where annotations are understood.
const ACTIONS_VARIABLE: &str = "GITHUB_ACTIONS";

/// Where a verdict is written, beside the table on stdout.
#[derive(Debug, Clone, Default, Args)]
pub(in crate::cli) struct GateOutputs {
    /// Also write `JUnit` XML, for Jenkins, `GitLab` and others.
    #[arg(long, value_name = "FILE.xml")]
    junit: Option<PathBuf>,
    /// Also write SARIF 2.1.0, for code scanning.
    #[arg(long, value_name = "FILE.sarif")]
    sarif: Option<PathBuf>,
    /// Also write `GitLab`'s code quality report.
    #[arg(long, value_name = "FILE.json")]
    code_quality: Option<PathBuf>,
    /// Also append Markdown to a file [default: what the environment has as `GITHUB_STEP_SUMMARY`].
    #[arg(long, value_name = "FILE.md")]
    summary: Option<PathBuf>,
    /// Also write the verdict with all its figures, of which the others are made.
    #[arg(long, value_name = "FILE.json")]
    json: Option<PathBuf>,
    /// Replace files of an earlier run [default: they must not exist].
    #[arg(long)]
    overwrite: bool,
}

impl GateOutputs {
    fn files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let named = [
            ("--junit", &self.junit),
            ("--sarif", &self.sarif),
            ("--code-quality", &self.code_quality),
            ("--json", &self.json),
        ];
        named.into_iter().filter_map(|(flag, path)| Some((flag, path.as_deref()?)))
    }

    fn summary_file(&self) -> Option<PathBuf> {
        let of_environment = || std::env::var_os(SUMMARY_VARIABLE).filter(|path| !path.is_empty());
        self.summary.clone().or_else(|| of_environment().map(PathBuf::from))
    }

    /// Refuses files that exist or could not be written, before any work.
    pub(super) fn check(&self) -> Result<(), CliError> {
        let files: Vec<_> = self.files().collect();
        for (index, (flag, path)) in files.iter().enumerate() {
            let others = files.get(..index).unwrap_or_default();
            if let Some((other, _)) = others.iter().find(|(_, other)| other == path) {
                return Err(CliError::Usage(format!("{other} and {flag} name the same file")));
            }
            self.check_one(flag, path)?;
        }
        let Some(summary) = self.summary_file() else { return Ok(()) };
        if let Some((flag, _)) = files.iter().find(|(_, path)| *path == summary) {
            return Err(CliError::Usage(format!("{flag} and --summary name the same file")));
        }
        let checked = if fs::symlink_metadata(&summary).is_ok() {
            OpenOptions::new().append(true).open(&summary).map(|_| ())
        } else {
            probe(&summary)
        };
        checked.map_err(|error| unusable("--summary", &summary, &error))
    }

    fn check_one(&self, flag: &str, path: &Path) -> Result<(), CliError> {
        if let Ok(metadata) = fs::symlink_metadata(path) {
            let what = if metadata.is_dir() {
                "is a folder; name a file"
            } else if self.overwrite {
                ""
            } else {
                "exists; name another or give --overwrite"
            };
            if !what.is_empty() {
                return Err(CliError::Usage(format!("{flag} {}: {what}", path.display())));
            }
        }
        probe(path).map_err(|error| unusable(flag, path, &error))
    }

    /// Writes every file that was asked for, each whole or not at all; annotations go to stdout where
    /// `GitHub` reads them.
    pub(super) fn write(&self, verdict: &GateVerdict) -> Result<(), CliError> {
        if std::env::var(ACTIONS_VARIABLE).is_ok_and(|value| value == "true") {
            let lines = annotations(verdict);
            if !lines.is_empty() {
                print(lines.trim_end());
            }
        }
        for (flag, path) in self.files() {
            let bytes = match flag {
                "--junit" => Ok(junit(verdict).into_bytes()),
                "--sarif" => pretty(&sarif(verdict)),
                "--code-quality" => pretty(&code_quality(verdict)),
                _ => pretty(verdict),
            };
            save(path, &bytes.map_err(|source| failed(path, source))?, self.overwrite)?;
        }
        if let Some(path) = self.summary_file() {
            let opened = OpenOptions::new().create(true).append(true).open(&path);
            opened
                .and_then(|mut file| file.write_all(summary(verdict).as_bytes()))
                .map_err(|source| failed(&path, source))?;
        }
        Ok(())
    }
}

/// JSON for people, with a line end.
fn pretty(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Tries whether a file could be made beside this one; leaves nothing.
fn probe(path: &Path) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?;
    let mut trial = name.to_owned();
    trial.push(format!(".{}.partial", uuid::Uuid::new_v4()));
    let trial = path.with_file_name(trial);
    OpenOptions::new().write(true).create_new(true).open(&trial)?;
    fs::remove_file(&trial)
}

fn unusable(flag: &str, path: &Path, error: &io::Error) -> CliError {
    CliError::Usage(format!("{flag} {} cannot be written: {error}", path.display()))
}

fn failed(path: &Path, source: io::Error) -> CliError {
    CliError::Write { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_checked_before_any_work_and_nothing_is_left_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| Some(folder.path().join(name));
        let outputs = GateOutputs { junit: at("a.xml"), json: at("a.json"), ..Default::default() };
        outputs.check().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let refused = |outputs: &GateOutputs, part: &str| {
            let error = outputs.check().unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
            assert!(error.to_string().contains(part), "{error}");
        };
        refused(&GateOutputs { sarif: at("a.xml"), ..outputs.clone() }, "the same file");
        refused(&GateOutputs { summary: at("a.xml"), ..outputs.clone() }, "the same file");
        refused(&GateOutputs { sarif: at("none/a"), ..outputs.clone() }, "cannot be written");
        refused(&GateOutputs { summary: at("none/a"), ..outputs.clone() }, "cannot be written");
        refused(&GateOutputs { sarif: Some(folder.path().into()), ..outputs.clone() }, "folder");
        fs::write(folder.path().join("a.xml"), "old").unwrap();
        refused(&outputs, "--overwrite");
        GateOutputs { overwrite: true, ..outputs }.check().unwrap();
        assert_eq!(fs::read(folder.path().join("a.xml")).unwrap(), b"old");
    }
}
