//! The flags of `keystep evaluate` for prompts beyond the grid.

use std::{
    io::Read,
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::Args;

use super::CliError;
use crate::spec::{Expectation, ProbesSpec, Suite, read_suite};

/// Prompts beyond the grid.
#[derive(Debug, Clone, Args)]
pub(super) struct SuiteArguments {
    /// Prompts beyond the grid: a file of CSV, JSON or one prompt a line, such as I2P's, whose
    /// pictures should not show the concept. With :kept behind it: those that should still show what
    /// its column object or style names. Repeatable.
    #[arg(long = "suite", value_name = "FILE[:gone|:kept]")]
    files: Vec<SuiteFile>,
    /// Ask for the concept in other words as well: sentences, plural, near words, misspellings,
    /// look-alike letters, and among neutral words.
    #[arg(long)]
    probes: bool,
    /// Another word for the concept, for --probes; repeatable.
    #[arg(long = "synonym", value_name = "WORD", requires = "probes", allow_hyphen_values = true)]
    synonyms: Vec<String>,
    /// The word in another language, for --probes; repeatable.
    #[arg(
        long = "translation",
        value_name = "WORD",
        requires = "probes",
        allow_hyphen_values = true
    )]
    translations: Vec<String>,
    /// A whole prompt that describes the concept without its name, for --probes; repeatable.
    #[arg(
        long = "description",
        value_name = "TEXT",
        requires = "probes",
        allow_hyphen_values = true
    )]
    descriptions: Vec<String>,
    /// Pictures of each prompt of --probes [default: 2].
    #[arg(long, value_name = "N", requires = "probes")]
    probe_seeds: Option<u32>,
}

/// A file, and what should become of what it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SuiteFile {
    path: PathBuf,
    expects: Expectation,
}

impl FromStr for SuiteFile {
    type Err = String;

    /// A colon with any other text behind it belongs to the path.
    fn from_str(text: &str) -> Result<Self, String> {
        let parted = text.rsplit_once(':').and_then(|(path, expects)| {
            Some(Self { path: path.into(), expects: expects.parse().ok()? })
        });
        let file = parted.unwrap_or_else(|| Self { path: text.into(), ..Self::of_gone() });
        if file.path.as_os_str().is_empty() { Err("names no file".to_owned()) } else { Ok(file) }
    }
}

impl SuiteFile {
    fn of_gone() -> Self {
        Self { path: PathBuf::new(), expects: Expectation::Gone }
    }
}

impl SuiteArguments {
    /// The suites, read from their files.
    pub(super) fn suites(&self) -> Result<Vec<Suite>, CliError> {
        let files = self.files.iter();
        files.map(|SuiteFile { path, expects }| read(path, *expects)).collect()
    }

    /// The probes, where they are asked for.
    pub(super) fn probes(&self) -> Option<ProbesSpec> {
        self.probes.then(|| ProbesSpec {
            synonyms: self.synonyms.clone(),
            translations: self.translations.clone(),
            descriptions: self.descriptions.clone(),
            seeds: self.probe_seeds.map_or(ProbesSpec::default().seeds, |given| given as usize),
            ..ProbesSpec::default()
        })
    }
}

fn read(path: &Path, expects: Expectation) -> Result<Suite, CliError> {
    /// One above what [`read_suite`] takes; it says so.
    const MOST_BYTES: u64 = (16 << 20) + 1;
    let unreadable = |source| CliError::File { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    read_suite(&name, &bytes, expects)
        .map_err(|source| CliError::Suite { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_say_what_should_become_of_it() {
        for (text, path, expects) in [
            ("i2p.csv", "i2p.csv", Expectation::Gone),
            ("i2p.csv:gone", "i2p.csv", Expectation::Gone),
            ("a:b/dogs.json:kept", "a:b/dogs.json", Expectation::Kept),
            ("dogs.csv:lost", "dogs.csv:lost", Expectation::Gone),
        ] {
            let file: SuiteFile = text.parse().unwrap();
            assert_eq!(file, SuiteFile { path: path.into(), expects });
        }
        for nothing in ["", ":kept"] {
            assert!(nothing.parse::<SuiteFile>().is_err());
        }
    }

    #[test]
    fn a_file_is_read_under_its_own_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("found.csv");
        std::fs::write(&path, "prompt,seed\na cat,4\n").unwrap();
        let suite = read(&path, Expectation::Gone).unwrap();
        assert_eq!((suite.name.as_str(), suite.prompts[0].seed), ("found", 4));
        std::fs::write(&path, "seed\n4\n").unwrap();
        let error = read(&path, Expectation::Gone).unwrap_err();
        assert!(matches!(error, CliError::Suite { .. }), "{error}");
        assert_eq!(error.exit_code(), 2);
        let missing = read(&folder.path().join("none.csv"), Expectation::Gone).unwrap_err();
        assert_eq!(missing.exit_code(), 1);
    }
}
