//! A job's result folder: written whole, with `complete.json` last, so that a worker that is lost
//! while it publishes finds it again. Equal work gives equal bytes: no time and no path is in it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::Path,
};

use serde::Serialize;

use super::{FinishedResult, ResultFile, TrainingFigures, device_job::DeviceJob};
use crate::{
    artifacts::{
        ErasedModel, StagedFolder, delta_metadata,
        digest::{digest_bytes, digest_reader},
    },
    device::{DeviceEngine, artifact_failure, disk_failure, engine_failure, report_failure},
    jobs::{ConceptVerdict, EvaluateWork, Failure, FailureReason, UnlearnWork},
    outcome::{
        DeviceKind, JudgeReport,
        result_layout::{CONTACT_SHEET, PIPELINE, REPORT},
    },
    report::{Cost, EvaluationReport, Evidence, Headline, PhaseCost, ReportError, contact_sheet},
};

/// The marker that is written last.
const COMPLETE: &str = "complete.json";

/// Finds what would stop an erasure's folder from being written, before there is an erasure: the
/// place takes files, the base's files that go along can be read, and the disk has room for all.
pub(super) fn check_before<E: DeviceEngine>(
    job: &DeviceJob,
    work: &UnlearnWork,
    engine: &E,
) -> Result<(), Failure> {
    let staged = begin(&job.result_folder)?;
    erased_model(job, work)
        .check_before(engine.edited_bytes(&work.spec), &staged)
        .map_err(|error| artifact_failure(&error))
}

fn erased_model<'a>(job: &'a DeviceJob, work: &'a UnlearnWork) -> ErasedModel<'a> {
    ErasedModel { base: job.base.files.as_ref(), formats: &work.formats, pipeline: PIPELINE }
}

/// An erasure that is done and not yet written.
pub(super) struct ErasedResult<'a, E: DeviceEngine> {
    pub(super) job: &'a DeviceJob,
    pub(super) work: &'a UnlearnWork,
    pub(super) erased: &'a E::Erased,
    pub(super) judged: &'a [JudgeReport],
    pub(super) device: DeviceKind,
}

/// Writes an erasure's folder.
pub(super) fn write_erased<E: DeviceEngine>(
    result: &ErasedResult<'_, E>,
) -> Result<FinishedResult, Failure> {
    let mut staged = begin(&result.job.result_folder)?;
    let stretches = E::erased_stretches(result.erased).map_err(|error| engine_failure(&error))?;
    // How the base is named on this machine is no part of the result.
    let work = result.work;
    let metadata = delta_metadata(&work.base_model, &work.base_digest, &work.spec);
    let left_out = erased_model(result.job, work)
        .write(result.erased, &metadata, &stretches, &mut staged)
        .map_err(|error| artifact_failure(&error))?;
    let evidence = evidence(result, &left_out, digests(staged.unfinished())?)?;
    for (name, bytes) in evidence {
        write(&mut staged, &name, &bytes)?;
    }
    let log = E::log(result.erased);
    let scoring: u64 = E::scores(result.erased).iter().map(|scores| scores.unet_evaluations).sum();
    let judging: u64 = result.judged.iter().map(|judged| judged.unet_evaluations).sum();
    let finished = FinishedResult {
        work_digest: result.job.work_digest.clone(),
        files: list(staged.unfinished())?,
        verdicts: result.judged.iter().flat_map(verdicts).collect(),
        key_steps: log.key_steps.clone(),
        window: log.window,
        updates: log.updates.len(),
        unet_evaluations: log.unet_evaluations + log.check_evaluations + scoring + judging,
        training: Some(log.into()),
        seeds: seeds(result),
        device: result.device,
        left_out,
    };
    complete(staged, finished)
}

/// Where each draw started that took place.
fn seeds<E: DeviceEngine>(result: &ErasedResult<'_, E>) -> BTreeMap<String, u64> {
    let score = E::scores(result.erased).first().map(|scores| scores.spec.seed);
    let judge = result.judged.first().map(|judged| judged.spec.seed);
    [("score", score), ("unlearn", Some(result.work.spec.seed)), ("judge", judge)]
        .into_iter()
        .filter_map(|(part, seed)| Some((part.to_owned(), seed?)))
        .collect()
}

/// A spec always has a form in JSON: it came out of one.
fn spec_json(work: &UnlearnWork) -> String {
    serde_json::to_string(&work.spec).unwrap_or_default()
}

fn evidence<E: DeviceEngine>(
    result: &ErasedResult<'_, E>,
    left_out: &[String],
    mut digests: BTreeMap<String, String>,
) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let work = result.work;
    digests.insert("base".to_owned(), work.base_digest.clone());
    digests.insert("spec".to_owned(), digest_bytes(spec_json(work).as_bytes()));
    let (log, measured) = (E::log(result.erased), E::scores(result.erased));
    let scores = if measured.is_empty() { result.job.cited.as_slice() } else { measured };
    let untimed = |unet_evaluations| PhaseCost { unet_evaluations, seconds: None };
    let evidence = Evidence {
        model: &work.base_model,
        spec: &work.spec,
        log,
        scores,
        judged: result.judged,
        cost: Cost {
            scoring: untimed(measured.iter().map(|scores| scores.unet_evaluations).sum()),
            erasing: untimed(log.unet_evaluations),
            judging: untimed(result.judged.iter().map(|judged| judged.unet_evaluations).sum()),
        },
        seconds: None,
        peak_rss_bytes: None,
        versions: versions(),
        digests,
        left_out: left_out.to_vec(),
    };
    Ok(evidence.files().map_err(|error| report_failure(&error))?.1)
}

/// Writes a judgement's folder.
pub(super) fn write_judged(
    job: &DeviceJob,
    work: &EvaluateWork,
    judged: &JudgeReport,
    device: DeviceKind,
) -> Result<FinishedResult, Failure> {
    let mut staged = begin(&job.result_folder)?;
    let report = EvaluationReport {
        headline: Headline::of(&judged.verdicts),
        judges: judged.verdicts.clone(),
        unet_evaluations: judged.unet_evaluations,
        seconds: None,
        peak_rss_bytes: None,
        model: work.edited_model.clone(),
        base: work.base_model.clone(),
        spec: judged.spec.clone(),
        versions: versions(),
    };
    let files = || -> Result<_, ReportError> {
        let (vocabulary, concept) = (&judged.spec.vocabulary, &judged.spec.concept);
        Ok((report.to_json()?, contact_sheet(&judged.pictures, vocabulary, concept)?))
    };
    let (json, sheet) = files().map_err(|error| report_failure(&error))?;
    write(&mut staged, REPORT, &json)?;
    write(&mut staged, CONTACT_SHEET, &sheet)?;
    let finished = FinishedResult {
        work_digest: job.work_digest.clone(),
        files: list(staged.unfinished())?,
        verdicts: verdicts(judged).collect(),
        key_steps: Vec::new(),
        window: None,
        updates: 0,
        unet_evaluations: judged.unet_evaluations,
        training: None::<TrainingFigures>,
        seeds: BTreeMap::from([("judge".to_owned(), judged.spec.seed)]),
        device,
        left_out: Vec::new(),
    };
    complete(staged, finished)
}

fn verdicts(judged: &JudgeReport) -> impl Iterator<Item = ConceptVerdict> + '_ {
    judged.verdicts.iter().map(|verdict| ConceptVerdict {
        concept: judged.spec.concept.text.clone(),
        verdict: verdict.clone(),
    })
}

fn versions() -> BTreeMap<String, String> {
    BTreeMap::from([("keystep".to_owned(), env!("CARGO_PKG_VERSION").to_owned())])
}

/// Begins the folder, in place of what an earlier attempt left.
fn begin(folder: &Path) -> Result<StagedFolder, Failure> {
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(|error| disk_failure("the job's folder", &error))?;
    }
    remove(folder).map_err(|error| disk_failure("the result folder", &error))?;
    StagedFolder::create(folder, &[COMPLETE]).map_err(|error| artifact_failure(&error))
}

fn write(staged: &mut StagedFolder, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    staged.write(name, |out| out.write_all(bytes)).map_err(|error| artifact_failure(&error))
}

fn complete(mut staged: StagedFolder, finished: FinishedResult) -> Result<FinishedResult, Failure> {
    write(&mut staged, COMPLETE, &json(&finished)?)?;
    staged.commit().map_err(|error| artifact_failure(&error))?;
    Ok(finished)
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    let written = serde_json::to_vec_pretty(value);
    written.map_err(|error| Failure::new(FailureReason::EngineFault, error.to_string()))
}

/// The result that an earlier attempt at the same work left whole, if there is one.
pub(super) fn find_finished(folder: &Path, work_digest: &str) -> Option<FinishedResult> {
    let marker = fs::read(folder.join(COMPLETE)).ok()?;
    let finished: FinishedResult = serde_json::from_slice(&marker).ok()?;
    let found = list(folder).ok()?;
    let same = finished.work_digest == work_digest && found == finished.files;
    same.then_some(finished)
}

/// Removes a folder, if it is there.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn digests(folder: &Path) -> Result<BTreeMap<String, String>, Failure> {
    Ok(list(folder)?.into_iter().map(|file| (file.name, file.sha256)).collect())
}

/// Every file but the marker, in order of their names.
fn list(folder: &Path) -> Result<Vec<ResultFile>, Failure> {
    let mut files = Vec::new();
    collect(folder, "", &mut files).map_err(|error| disk_failure("the result folder", &error))?;
    files.retain(|file| file.name != COMPLETE);
    files.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(files)
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<ResultFile>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{name}/"), files)?;
        } else {
            let mut file = File::open(entry.path())?;
            let size = file.metadata()?.len();
            files.push(ResultFile { name, size, sha256: digest_reader(&mut file)? });
        }
    }
    Ok(())
}
