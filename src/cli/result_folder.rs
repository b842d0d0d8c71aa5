//! What an erasure leaves: the folder of `unlearn --local`, and what the demo shares with it.

use std::collections::BTreeMap;

use super::{
    CliError,
    local::{LocalEngine, LocalModel},
    output::Staging,
    process::peak_rss_bytes,
};
use crate::{
    artifacts::{
        ErasedModel,
        digest::{digest_bytes, digest_file},
        model_digest::{model_digest, read_model_files},
        open_model,
    },
    outcome::{
        Verdict,
        result_layout::{CHECKPOINT, DELTA, REPORT, REPORT_PAGE},
    },
    report::{Evidence, ReportError, RunReport},
    spec::{ModelFiles, OutputFormat, UnlearnSpec},
};

/// What a result must hold to be one.
pub(super) const EXPECTED: [&str; 5] = [
    "checkpoint/model_index.json",
    "checkpoint/unet/diffusion_pytorch_model.safetensors",
    DELTA,
    REPORT,
    REPORT_PAGE,
];

/// What is written of the edited model.
const FORMATS: [OutputFormat; 2] = [OutputFormat::Pipeline, OutputFormat::Delta];

/// Finds what would stop [`write_model`], before there is anything to write: every file of the base
/// that goes along can be read, and the disk has room for all.
pub(super) fn check_before<E: LocalEngine>(
    base: &LocalModel<E>,
    spec: &UnlearnSpec,
    staging: &Staging,
) -> Result<(), CliError> {
    let bytes = base.engine.edited_bytes(spec);
    staging.look(|folder| erased_model(base).check_before(bytes, folder))
}

fn erased_model<E>(base: &LocalModel<E>) -> ErasedModel<'_> {
    ErasedModel { base: base.files.as_ref(), formats: &FORMATS, pipeline: CHECKPOINT }
}

/// Writes the edited model, whole and as a delta; gives the base's files that were left out.
///
/// `metadata` is what the delta says of itself. Fails where another file of the result holds weights
/// as they were before.
pub(super) fn write_model<E: LocalEngine>(
    base: &LocalModel<E>,
    erased: &E::Erased,
    metadata: &BTreeMap<String, String>,
    staging: &mut Staging,
) -> Result<Vec<String>, CliError> {
    let stretches = E::erased_stretches(erased)?;
    staging.fill(|folder| erased_model(base).write(erased, metadata, &stretches, folder))
}

/// The digest by which results name a base model.
pub(super) fn base_digest(base: &dyn ModelFiles) -> Result<String, CliError> {
    Ok(model_digest(&read_model_files(base)?))
}

/// Writes scores, plots, sheet, log, report and page into the folder; the digests are added here.
pub(super) fn write_evidence(
    base: &dyn ModelFiles,
    mut evidence: Evidence<'_>,
    staging: &mut Staging,
) -> Result<RunReport, CliError> {
    evidence.peak_rss_bytes = peak_rss_bytes();
    evidence.versions = versions();
    evidence.digests = digests(base, evidence.spec, staging)?;
    let (report, files) = evidence.files()?;
    for (name, bytes) in files {
        staging.write(&name, &bytes)?;
    }
    Ok(report)
}

fn digests(
    base: &dyn ModelFiles,
    spec: &UnlearnSpec,
    staging: &Staging,
) -> Result<BTreeMap<String, String>, CliError> {
    let mut digests = BTreeMap::new();
    let spec = serde_json::to_vec(spec).map_err(ReportError::Json)?;
    digests.insert("spec".to_owned(), digest_bytes(&spec));
    let edited = open_model(&staging.path().join(CHECKPOINT).to_string_lossy())?;
    for (which, files) in [("base", base), ("edited", edited.as_ref())] {
        let weights = files
            .names()
            .iter()
            .filter(|name| name.starts_with("unet/") && name.ends_with(".safetensors"));
        for name in weights {
            digests.insert(format!("{which} {name}"), digest_file(files, name)?);
        }
    }
    let path = staging.path().join(DELTA);
    let delta = std::fs::read(&path).map_err(|source| CliError::File { path, source })?;
    digests.insert(DELTA.to_owned(), digest_bytes(&delta));
    Ok(digests)
}

/// What computed a result.
pub(super) fn versions() -> BTreeMap<String, String> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    BTreeMap::from([
        ("keystep".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        (
            "platform".to_owned(),
            format!("{} {}, {threads} threads", std::env::consts::OS, std::env::consts::ARCH),
        ),
    ])
}

/// Verdicts as a table for the terminal.
pub(super) fn verdict_table(verdicts: &[Verdict]) -> String {
    let widest = verdicts.iter().map(|verdict| verdict.judge.chars().count()).max().unwrap_or(0);
    let width = widest.max("judge".len());
    let mut lines = vec![format!("{:<width$}     UA   base    IRA   base    CRA   base", "judge")];
    lines.extend(verdicts.iter().map(|verdict| {
        let (edited, base) = (verdict.edited, verdict.base);
        format!(
            "{:<width$}  {:.3}  {:.3}  {:.3}  {:.3}  {:.3}  {:.3}",
            verdict.judge, edited.ua, base.ua, edited.ira, base.ira, edited.cra, base.cra
        )
    }));
    if let Some(verdict) = verdicts.first() {
        lines.push(format!("drawn with {}", verdict.sampler.name()));
    }
    lines.join("\n") + "\n"
}
