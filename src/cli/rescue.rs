//! Keeps what was trained where the result cannot be written, in a file from which `--resume`
//! writes it later.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{CliError, output::name_part};
use crate::{
    artifacts::digest::digest_written,
    engine::{EngineError, checkpoint::read_metadata},
    jobs::Evaluation,
    outcome::{ErasureRecord, TimestepScores},
    spec::{ReadSeek, SamplerKind},
};

/// The entry of the metadata that holds [`KeptErasure`] as JSON; the others are the delta's own.
const KEPT: &str = "keystep.kept";
/// Changes with every change of what is kept.
const FORMAT: u32 = 1;

/// All that a result is made of beside the base model and the edited tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct KeptErasure {
    format: u32,
    /// Digest of the U-Net that the tensors are edits of.
    pub(super) unet_digest: String,
    /// Of which variant it was read, where one was asked for.
    pub(super) variant: Option<String>,
    /// SHA-256 of the result's delta, which tells whether a bit has flipped since.
    delta_digest: String,
    /// What was asked and measured.
    pub(super) record: ErasureRecord,
    /// The scores that were given, where the run did not measure its own.
    pub(super) given: Option<TimestepScores>,
    /// Whether its result is judged; where possible when absent.
    #[serde(default)]
    pub(super) evaluation: Option<Evaluation>,
    /// What the judged pictures are drawn with, where that was asked for.
    #[serde(default)]
    pub(super) sampler: Option<SamplerKind>,
    /// How long it took.
    pub(super) spent: Spent,
}

/// Wall time of an erasure, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Spent {
    /// Of the engine's work.
    pub(super) erasing: f64,
    /// Of everything up to here.
    pub(super) whole: f64,
}

/// What a kept file says of its erasure.
#[derive(Debug)]
pub(super) struct Keeping<'a> {
    pub(super) unet_digest: String,
    pub(super) variant: Option<&'a str>,
    pub(super) record: ErasureRecord,
    pub(super) given: Option<&'a TimestepScores>,
    pub(super) evaluation: Evaluation,
    pub(super) sampler: Option<SamplerKind>,
    pub(super) spent: Spent,
    /// What the result's delta says of itself.
    pub(super) metadata: &'a BTreeMap<String, String>,
}

/// Writes a delta with this metadata.
pub(super) type WriteDelta<'a> =
    dyn Fn(&BTreeMap<String, String>, &mut dyn Write) -> io::Result<()> + 'a;

/// Writes the edited tensors where there is room, beside the result or among the system's temporary
/// files, and says where in the error; the work of hours is not lost with a full disk. `failed` is
/// why the result of this name was not written. An interruption keeps nothing: that is what was
/// asked for.
pub(super) fn keep(
    failed: CliError,
    out: &Path,
    keeping: Keeping<'_>,
    write_delta: &WriteDelta<'_>,
) -> CliError {
    if matches!(failed, CliError::Interrupted) {
        return failed;
    }
    let beside = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let kept = kept_metadata(keeping, write_delta).ok().and_then(|metadata| {
        [beside, std::env::temp_dir()].iter().find_map(|folder| {
            keep_in(folder, &name_part(&name), &|file| write_delta(&metadata, file)).ok()
        })
    });
    CliError::NotWritten { kept, source: Box::new(failed) }
}

fn kept_metadata(
    keeping: Keeping<'_>,
    write_delta: &WriteDelta<'_>,
) -> io::Result<BTreeMap<String, String>> {
    let kept = KeptErasure {
        format: FORMAT,
        unet_digest: keeping.unet_digest,
        variant: keeping.variant.map(str::to_owned),
        delta_digest: digest_written(|out| write_delta(keeping.metadata, out))?,
        record: keeping.record,
        given: keeping.given.cloned(),
        evaluation: Some(keeping.evaluation),
        sampler: keeping.sampler,
        spent: keeping.spent,
    };
    let mut metadata = keeping.metadata.clone();
    metadata.insert(KEPT.to_owned(), serde_json::to_string(&kept)?);
    Ok(metadata)
}

fn keep_in(
    folder: &Path,
    name: &str,
    write: &dyn Fn(&mut dyn Write) -> io::Result<()>,
) -> io::Result<PathBuf> {
    // Removed again, unless it is kept.
    let mut file = tempfile::Builder::new()
        .prefix(&format!("{name}-delta-"))
        .suffix(".safetensors")
        .tempfile_in(folder)?;
    write(&mut file)?;
    file.flush()?;
    file.as_file().sync_all()?;
    Ok(file.keep().map_err(|error| error.error)?.1)
}

/// A file that [`keep`] wrote.
#[derive(Debug)]
pub(super) struct KeptFile {
    path: PathBuf,
    pub(super) erasure: KeptErasure,
    /// What the result's delta says of itself.
    pub(super) metadata: BTreeMap<String, String>,
}

impl KeptFile {
    /// Reads all but the tensors.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is damaged, or is none that was kept.
    pub(super) fn open(path: &Path) -> Result<Self, CliError> {
        let refused = |message| CliError::NotKept { path: path.to_owned(), message };
        let (reader, length) = open(path)?;
        let mut metadata = read_metadata(&path.display().to_string(), reader, length)
            .map_err(|error| damaged(path, error))?;
        let Some(text) = metadata.remove(KEPT) else {
            return Err(refused(format!("its metadata have no entry {KEPT}")));
        };
        let format = serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|kept| kept.get("format")?.as_u64());
        if format != Some(u64::from(FORMAT)) {
            let format = format.map_or_else(|| "no format".to_owned(), |n| format!("format {n}"));
            return Err(refused(format!(
                "{KEPT} in its metadata is of {format}, this version of Keystep reads {FORMAT}"
            )));
        }
        let erasure: KeptErasure = serde_json::from_str(&text)
            .map_err(|error| refused(format!("{KEPT} in its metadata is damaged: {error}")))?;
        erasure
            .record
            .spec
            .validate()
            .map_err(|error| refused(format!("its spec breaks a rule: {error}")))?;
        Ok(Self { path: path.to_owned(), erasure, metadata })
    }

    /// The base model, as it was named.
    pub(super) fn base(&self) -> Result<&str, CliError> {
        self.entry("keystep.base")
    }

    /// Digest of the base model's files.
    pub(super) fn base_digest(&self) -> Result<&str, CliError> {
        self.entry("keystep.base_digest")
    }

    fn entry(&self, name: &str) -> Result<&str, CliError> {
        let text = self.metadata.get(name).map(String::as_str);
        text.ok_or_else(|| self.refused(format!("its metadata have no entry {name}")))
    }

    fn refused(&self, message: String) -> CliError {
        CliError::NotKept { path: self.path.clone(), message }
    }

    /// The tensors: hands the file to a reader of them, and compares what comes of it with
    /// what was kept.
    pub(super) fn restore<T>(
        &self,
        restore: impl FnOnce(&str, Box<dyn ReadSeek>, u64) -> Result<T, EngineError>,
        write_delta: impl FnOnce(&T, &mut dyn Write) -> io::Result<()>,
    ) -> Result<T, CliError> {
        let (reader, length) = open(&self.path)?;
        let restored = restore(&self.path.display().to_string(), reader, length)
            .map_err(|error| damaged(&self.path, error))?;
        let found = digest_written(|out| write_delta(&restored, out))
            .map_err(|source| CliError::File { path: self.path.clone(), source })?;
        if found == self.erasure.delta_digest {
            return Ok(restored);
        }
        let message = format!(
            "its tensors give a delta with the SHA-256 {found}, and {} was kept",
            self.erasure.delta_digest
        );
        let file = self.path.display().to_string();
        Err(damaged(&self.path, EngineError::DamagedWeights { file, message }))
    }
}

fn damaged(path: &Path, error: EngineError) -> CliError {
    CliError::DamagedKept { path: path.to_owned(), source: Box::new(error) }
}

fn open(path: &Path) -> Result<(Box<dyn ReadSeek>, u64), CliError> {
    let failed = |source| CliError::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    Ok((Box::new(io::BufReader::new(file)), metadata.len()))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::{
        outcome::TrainingLog,
        spec::{Concept, ConceptKind, MethodName, UnlearnSpec},
    };

    fn failed() -> CliError {
        CliError::Write { path: "out".into(), source: io::ErrorKind::StorageFull.into() }
    }

    fn kept(error: &CliError) -> Option<&Path> {
        match error {
            CliError::NotWritten { kept, .. } => kept.as_deref(),
            other => panic!("{other}"),
        }
    }

    fn record() -> ErasureRecord {
        let spec = UnlearnSpec::new(Concept::new("cat", ConceptKind::Object), MethodName::Keystep);
        ErasureRecord { spec, log: TrainingLog::default(), scores: Vec::new() }
    }

    fn keep_at(out: &Path, write_delta: &WriteDelta<'_>) -> CliError {
        let keeping = Keeping {
            unet_digest: "base".to_owned(),
            variant: None,
            record: record(),
            given: None,
            evaluation: Evaluation::WherePossible,
            sampler: None,
            spent: Spent { erasing: 2.0, whole: 3.0 },
            metadata: &BTreeMap::from([("keystep.base".to_owned(), "place".to_owned())]),
        };
        keep(failed(), out, keeping, write_delta)
    }

    /// A safetensors file without a tensor.
    fn bare(metadata: &BTreeMap<String, String>, out: &mut dyn Write) -> io::Result<()> {
        let header = serde_json::json!({ "__metadata__": metadata }).to_string();
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())
    }

    #[test]
    fn the_tensors_are_kept_beside_the_result_or_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("no cat");
        let error = keep_at(&out, &bare);
        let beside = kept(&error).unwrap();
        assert_eq!(beside.parent(), Some(folder.path()));
        assert!(error.to_string().contains(&format!("--resume {}", beside.display())), "{error}");
        let file = KeptFile::open(beside).unwrap();
        assert_eq!((file.erasure.record.clone(), file.base().unwrap()), (record(), "place"));
        assert!(!file.metadata.contains_key(KEPT));

        // The first place is full, as the result's was. Once is for the digest.
        let tries = Cell::new(0);
        let error = keep_at(&out, &|metadata, file| {
            tries.set(tries.get() + 1);
            if tries.get() == 2 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            bare(metadata, file)
        });
        let elsewhere = kept(&error).unwrap();
        KeptFile::open(elsewhere).unwrap();
        std::fs::remove_file(elsewhere).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

        let error = keep_at(&out, &|_, _| Err(io::ErrorKind::StorageFull.into()));
        assert!(kept(&error).is_none() && error.to_string().contains("lost"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_interruption_keeps_nothing() {
        let keeping = Keeping {
            unet_digest: String::new(),
            variant: None,
            record: record(),
            given: None,
            evaluation: Evaluation::WherePossible,
            sampler: None,
            spent: Spent { erasing: 0.0, whole: 0.0 },
            metadata: &BTreeMap::new(),
        };
        let error = keep(CliError::Interrupted, Path::new("out"), keeping, &|_, _| Ok(()));
        assert!(matches!(error, CliError::Interrupted));
    }

    #[test]
    fn other_files_are_refused_by_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let refused = |metadata: &[(&str, &str)]| {
            let metadata: BTreeMap<String, String> =
                metadata.iter().map(|(key, text)| ((*key).into(), (*text).into())).collect();
            bare(&metadata, &mut File::create(&path).unwrap()).unwrap();
            let error = KeptFile::open(&path).unwrap_err();
            assert!(matches!(error, CliError::NotKept { .. }), "{error}");
            error.to_string()
        };
        assert!(refused(&[("keystep.spec", "{}")]).contains("no entry keystep.kept"));
        assert!(refused(&[(KEPT, "{")]).contains("of no format"));
        assert!(refused(&[(KEPT, r#"{"format": 9}"#)]).contains("format 9"));
        assert!(refused(&[(KEPT, r#"{"format": 1}"#)]).contains("missing field"));

        let error = keep_at(&folder.path().join("out"), &bare);
        let mut bytes = std::fs::read(kept(&error).unwrap()).unwrap();
        bytes.pop();
        std::fs::write(&path, bytes).unwrap();
        let error = KeptFile::open(&path).unwrap_err();
        assert!(matches!(error, CliError::DamagedKept { .. }), "{error}");
        let error = KeptFile::open(folder.path()).unwrap_err();
        assert!(matches!(error, CliError::File { .. }), "{error}");
    }
}
