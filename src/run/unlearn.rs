//! One erasure, from a model and a spec to the folder of its result.

use std::{collections::BTreeMap, io::Write};

use super::{
    DeviceEngine, RunError, RunPorts, Saving, Undertaking,
    judging::{judge, verdicts},
    ports::versions,
    saving::{PacedStore, SavePace},
};
use crate::{
    artifacts::{
        ErasedModel, StagedFolder, delta_metadata,
        digest::{digest_bytes, digest_named, list_digests},
    },
    engine::{CheckpointPolicy, RunContext},
    jobs::Evaluation,
    outcome::{
        Ancestor, EvaluationResults, FileDigest, FinishedResult, JudgeReport, TimestepScores,
        TrainingLog,
    },
    report::{Cost, Evidence, RunReport},
    spec::{JudgeSpec, ModelFiles, OutputFormat, SamplerKind, UnlearnSpec, find_word, same_words},
};

/// What is erased, and what is written of it.
#[derive(Debug, Clone, Copy)]
pub struct UnlearnRequest<'a> {
    /// Files of the base model.
    pub base: &'a dyn ModelFiles,
    /// How the base model is named in the result.
    pub base_model: &'a str,
    /// Digest of the base model's files.
    pub base_digest: &'a str,
    /// For a base model that was erased itself: it, and the models that it was erased from.
    pub ancestors: &'a [Ancestor],
    /// What to erase and how.
    pub spec: &'a UnlearnSpec,
    /// Names the work that the result is of; empty where nobody looks for it again.
    pub work_digest: &'a str,
    /// Scores that the spec's window was taken from, for the result's plots.
    pub cited: &'a [TimestepScores],
    /// What is written of the edited model.
    pub formats: &'a [OutputFormat],
    /// Whether the result is judged.
    pub evaluation: Evaluation,
    /// What the judged pictures are drawn with; the sampler that the model's folder names when
    /// absent.
    pub sampler: Option<SamplerKind>,
    /// As [`JudgeSpec::show`].
    pub show: Option<f64>,
    /// As [`JudgeSpec::distances`].
    pub distances: bool,
}

/// An erasure that is trained.
#[derive(Debug)]
pub struct Trained<W> {
    /// The edited weights.
    pub weights: W,
    /// Seconds that the training took; not shown where nothing is measured.
    pub seconds: f64,
}

/// An erasure whose result folder is written, and not committed yet.
#[derive(Debug)]
pub struct Erasure<W> {
    /// What was trained.
    pub trained: Trained<W>,
    /// What a manifest tells of it.
    pub result: FinishedResult,
    /// The report that lies in the folder.
    pub report: RunReport,
}

/// Why an erasure gave no result.
#[derive(Debug)]
pub struct Unfinished<W> {
    /// What went wrong.
    pub error: RunError,
    /// What was trained, where it went wrong after the training.
    pub trained: Option<Trained<W>>,
}

impl<W> From<RunError> for Unfinished<W> {
    fn from(error: RunError) -> Self {
        Self { error, trained: None }
    }
}

/// Trains, judges and writes the result folder. Blocking.
///
/// What would stop the result from being judged or written is found before the training. A run that
/// was killed or paused goes on from the state that it saved.
pub fn unlearn<E: DeviceEngine>(
    request: &UnlearnRequest<'_>,
    engine: &E,
    staged: &mut StagedFolder,
    saving: Saving<'_>,
    ports: &mut RunPorts<'_>,
) -> Result<Erasure<E::Erased>, Unfinished<E::Erased>> {
    let judging = prepare(request, engine, staged, ports)?;
    let trained = train(request, engine, saving, ports)?;
    finish(request, engine, trained, &judging, (staged, ports))
}

/// [`unlearn`] of what is trained already: judges it and writes the result folder.
pub fn write_trained<E: DeviceEngine>(
    request: &UnlearnRequest<'_>,
    engine: &E,
    trained: Trained<E::Erased>,
    staged: &mut StagedFolder,
    ports: &mut RunPorts<'_>,
) -> Result<Erasure<E::Erased>, Unfinished<E::Erased>> {
    match prepare(request, engine, staged, ports) {
        Ok(judging) => finish(request, engine, trained, &judging, (staged, ports)),
        Err(error) => Err(Unfinished { error, trained: Some(trained) }),
    }
}

/// Finds what would stop the result before there is one; gives what is judged.
fn prepare<E: DeviceEngine>(
    request: &UnlearnRequest<'_>,
    engine: &E,
    staged: &StagedFolder,
    ports: &mut RunPorts<'_>,
) -> Result<Vec<JudgeSpec>, RunError> {
    let judging = judge_specs(request, engine)?;
    let bytes = engine.edited_bytes(request.spec);
    erased_model(request).check_before(bytes, staged)?;
    // The edited tensors lie beside the base's while both are judged, widened where they are stored
    // in half precision.
    let edited = bytes.delta.saturating_mul(2);
    let judged = judging.iter().map(|spec| (Undertaking::Judge(spec), edited));
    let erased = [(Undertaking::Unlearn(request.spec), 0)];
    ports.admit(engine, erased.into_iter().chain(judged))?;
    Ok(judging)
}

fn erased_model<'a>(request: &UnlearnRequest<'a>) -> ErasedModel<'a> {
    ErasedModel { base: request.base, formats: request.formats }
}

/// What is judged: every concept that the model's judge knows.
fn judge_specs<E: DeviceEngine>(
    request: &UnlearnRequest<'_>,
    engine: &E,
) -> Result<Vec<JudgeSpec>, RunError> {
    if request.evaluation == Evaluation::Skipped {
        return Ok(Vec::new());
    }
    let mut specs = Vec::new();
    for concept in &request.spec.concepts {
        let words = engine.vocabulary().canonical();
        let mut spec = JudgeSpec::new(concept.canonical(), words);
        spec.sampler = request.sampler;
        spec.distances = request.distances;
        if let Some(show) = request.show {
            spec = spec.showing(show);
        }
        if engine.can_judge() && spec.validate().is_ok() {
            engine.check_judges(&spec)?;
            match engine.judge_sampler(&spec) {
                Ok(_) => specs.push(spec),
                // Nobody asked for this sampler, nor for a judgement at any price.
                Err(error)
                    if request.evaluation == Evaluation::WherePossible
                        && spec.sampler.is_none()
                        && !spec.distances =>
                {
                    tracing::warn!(%error, "the result is not judged: the model's own sampler cannot draw it");
                }
                Err(error) => return Err(error.into()),
            }
        } else if request.evaluation == Evaluation::Required {
            return Err(RunError::NoJudge { base_model: request.base_model.to_owned() });
        }
    }
    Ok(specs)
}

fn train<E: DeviceEngine>(
    request: &UnlearnRequest<'_>,
    engine: &E,
    saving: Saving<'_>,
    ports: &mut RunPorts<'_>,
) -> Result<Trained<E::Erased>, RunError> {
    let began = ports.seconds();
    let pace = SavePace::new(saving.clock, saving.after);
    let mut store = PacedStore { store: saving.store, pace: &pace };
    let policy = CheckpointPolicy {
        store: &mut store,
        every: saving.every,
        due: &mut || pace.is_due(),
        pause: ports.pause.clone(),
        notice: &mut *ports.notice,
    };
    let mut context = RunContext {
        report: &mut *ports.progress,
        cancel: ports.cancel.clone(),
        saving: Some(policy),
    };
    let weights = engine.unlearn(request.spec, &mut context)?;
    Ok(Trained { weights, seconds: since(began, ports) })
}

/// Seconds since then, 0 where nothing is measured.
fn since(began: Option<f64>, ports: &RunPorts<'_>) -> f64 {
    ports.seconds().zip(began).map_or(0.0, |(now, began)| now - began)
}

fn finish<E: DeviceEngine>(
    request: &UnlearnRequest<'_>,
    engine: &E,
    trained: Trained<E::Erased>,
    judging: &[JudgeSpec],
    (staged, ports): (&mut StagedFolder, &mut RunPorts<'_>),
) -> Result<Erasure<E::Erased>, Unfinished<E::Erased>> {
    let finished = judge_all(engine, (&trained.weights, request.spec), judging, ports)
        .and_then(|judged| write(request, engine, &trained, &judged, (staged, ports)));
    match finished {
        Ok((result, report)) => Ok(Erasure { trained, result, report }),
        Err(error) => Err(Unfinished { error, trained: Some(trained) }),
    }
}

/// Judgements, and the seconds that they took.
struct Judged {
    reports: Vec<JudgeReport>,
    seconds: f64,
}

fn judge_all<E: DeviceEngine>(
    engine: &E,
    (erased, erasing): (&E::Erased, &UnlearnSpec),
    judging: &[JudgeSpec],
    ports: &mut RunPorts<'_>,
) -> Result<Judged, RunError> {
    let mut judged = Judged { reports: Vec::new(), seconds: 0.0 };
    if !judging.is_empty() {
        let began = ports.seconds();
        let edited = engine.with_erased(erased)?;
        for spec in judging {
            let mut report = judge(engine, &edited, spec, ports)?;
            split_held(&mut report, erasing, E::log(erased));
            judged.reports.push(report);
        }
        judged.seconds = since(began, ports);
    }
    ports.check()?;
    Ok(judged)
}

/// Tells the words that the training held from those that it did not, where it says so.
fn split_held(report: &mut JudgeReport, erasing: &UnlearnSpec, log: &TrainingLog) {
    let Some(held) = &log.held else { return };
    let is_erased =
        |word: &str| erasing.concepts.iter().any(|concept| same_words(&concept.text, word));
    let measures = report.verdicts.iter_mut().filter_map(|verdict| verdict.measures.as_mut());
    for measures in measures {
        measures.split(report.spec.concept.kind, |word| {
            (!is_erased(word)).then(|| find_word(held, word).is_some())
        });
    }
}

fn write<E: DeviceEngine>(
    request: &UnlearnRequest<'_>,
    engine: &E,
    trained: &Trained<E::Erased>,
    judged: &Judged,
    (staged, ports): (&mut StagedFolder, &RunPorts<'_>),
) -> Result<(FinishedResult, RunReport), RunError> {
    let erased = &trained.weights;
    let stretches = E::erased_stretches(erased)?;
    let metadata = delta_metadata(request.base_model, request.base_digest, request.spec);
    let left_out = erased_model(request).write(erased, &metadata, &stretches, staged)?;
    let mut files = list_digests(staged.unfinished()).map_err(RunError::Unlisted)?;

    let (log, measured) = (E::log(erased), E::scores(erased));
    let scoring: u64 = measured.iter().map(|scores| scores.unet_evaluations).sum();
    let judging: u64 = judged.reports.iter().map(|judged| judged.unet_evaluations).sum();
    let evidence = Evidence {
        model: request.base_model,
        spec: request.spec,
        log,
        scores: if measured.is_empty() { request.cited } else { measured },
        judged: &judged.reports,
        cost: Cost {
            // What a run measures for its window is within the time of its training.
            scoring: ports.cost(scoring, 0.0),
            erasing: ports.cost(log.unet_evaluations, trained.seconds),
            judging: ports.cost(judging, judged.seconds),
        },
        seconds: ports.seconds(),
        peak_rss_bytes: ports.peak_rss_bytes(),
        versions: versions(ports.measurements),
        digests: digests(request, &files),
        left_out: left_out.clone(),
    };
    let (report, evidence) = evidence.files()?;
    for (name, bytes) in &evidence {
        staged.write(name, |out: &mut dyn Write| out.write_all(bytes))?;
        files.push(digest_named(name, bytes));
    }
    files.sort_by(|left, right| left.name.cmp(&right.name));
    let result = FinishedResult {
        work_digest: request.work_digest.to_owned(),
        files,
        verdicts: judged.reports.iter().flat_map(verdicts).collect(),
        key_steps: log.key_steps.clone(),
        window: log.window,
        updates: log.updates.len(),
        unet_evaluations: log.unet_evaluations + log.check_evaluations + scoring + judging,
        training: Some(log.into()),
        seeds: seeds(request, measured, &judged.reports),
        device: engine.device_kind(),
        left_out,
        evaluation: EvaluationResults::of(&judged.reports),
        ancestors: request.ancestors.to_vec(),
    };
    Ok((result, report))
}

/// SHA-256 of the base model, the spec and the edited model's files.
fn digests(request: &UnlearnRequest<'_>, files: &[FileDigest]) -> BTreeMap<String, String> {
    // A spec always has a form in JSON: it came out of one.
    let spec = serde_json::to_vec(request.spec).unwrap_or_default();
    let asked = [
        ("base".to_owned(), request.base_digest.to_owned()),
        ("spec".to_owned(), digest_bytes(&spec)),
    ];
    files.iter().map(|file| (file.name.clone(), file.sha256.clone())).chain(asked).collect()
}

/// Where each draw started that took place.
fn seeds(
    request: &UnlearnRequest<'_>,
    measured: &[TimestepScores],
    judged: &[JudgeReport],
) -> BTreeMap<String, u64> {
    let score = measured.first().map(|scores| scores.spec.seed);
    let judge = judged.first().map(|judged| judged.spec.seed);
    [("score", score), ("unlearn", Some(request.spec.seed)), ("judge", judge)]
        .into_iter()
        .filter_map(|(part, seed)| Some((part.to_owned(), seed?)))
        .collect()
}
