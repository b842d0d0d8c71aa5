//! What an erasure leaves: the folder of `demo` and `unlearn`.

use std::{collections::BTreeMap, path::Path};

use super::{
    CliError,
    files::{file_digest, sha256_hex},
    local::LocalEngine,
    memory::peak_rss_bytes,
};
use crate::{
    outcome::{JudgeReport, TimestepScores, TrainingLog, Verdict},
    report::{
        Cost, Headline, ReportError, ReportPage, RunReport, Seeds, TrainingSummary, contact_sheet,
        score_plot, training_plot,
    },
    spec::{FileError, KeySteps, Method, ModelFiles, UnlearnSpec},
};

/// The model's folder inside the result.
pub(super) const CHECKPOINT: &str = "checkpoint";
/// The edited tensors inside the result.
pub(super) const DELTA: &str = "delta.safetensors";

/// Writes the edited model, whole and as a delta.
pub(super) fn write_model<E: LocalEngine>(
    base: &E,
    erased: &E::Erased,
    spec: &UnlearnSpec,
    folder: &Path,
) -> Result<(), CliError> {
    base.write_checkpoint(erased, &folder.join(CHECKPOINT))?;
    let spec = serde_json::to_string(spec).map_err(ReportError::Json)?;
    let metadata = BTreeMap::from([
        ("keystep.base".to_owned(), base.files().location().to_owned()),
        ("keystep.spec".to_owned(), spec),
        ("keystep.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ]);
    base.write_delta(erased, &metadata, &folder.join(DELTA))
}

/// What the evidence is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evidence<'a> {
    pub(super) base: &'a dyn ModelFiles,
    pub(super) spec: &'a UnlearnSpec,
    pub(super) log: &'a TrainingLog,
    /// One a concept, where they were measured or given.
    pub(super) scores: &'a [TimestepScores],
    pub(super) judged: Option<&'a JudgeReport>,
    pub(super) cost: Cost,
    pub(super) seconds: f64,
}

impl Evidence<'_> {
    /// Writes scores, plots, sheet, log, report and page into the folder.
    pub(super) fn write(&self, folder: &Path) -> Result<RunReport, CliError> {
        let mut plots = Vec::new();
        for (index, scores) in self.scores.iter().enumerate() {
            let name = match self.scores.len() {
                1 => "scores".to_owned(),
                _ => format!("scores-{}", index + 1),
            };
            let json = json_bytes(scores)?;
            write(folder, &format!("{name}.json"), &json)?;
            let plot = score_plot(scores)?;
            write(folder, &format!("{name}.png"), &plot)?;
            plots.push(plot);
        }
        let sheet = self
            .judged
            .map(|judged| {
                let JudgeReport { spec, pictures, .. } = judged;
                contact_sheet(pictures, &spec.vocabulary, &spec.concept)
            })
            .transpose()?;
        if let Some(sheet) = &sheet {
            write(folder, "before-after.png", sheet)?;
        }
        write(folder, "training.json", &json_bytes(self.log)?)?;
        let training = training_plot(self.log)?;
        let report = self.report(folder)?;
        write(folder, "report.json", &report.to_json()?)?;
        let page = ReportPage {
            report: &report,
            log: self.log,
            scores: self.scores.first(),
            sheet_png: sheet.as_deref(),
            score_plot_png: plots.first().map(Vec::as_slice),
            training_plot_png: Some(&training),
        };
        write(folder, "report.html", page.render()?.as_bytes())?;
        Ok(report)
    }

    fn report(&self, folder: &Path) -> Result<RunReport, CliError> {
        let judges: Vec<Verdict> =
            self.judged.map_or_else(Vec::new, |judged| judged.verdicts.clone());
        let window = match &self.spec.method {
            Method::Keystep(settings) => match settings.key_steps {
                KeySteps::Window(window) => Some(window),
                KeySteps::Measured => self.scores.first().map(|scores| scores.window),
            },
            Method::Kscu(_) | Method::Esd(_) => None,
        };
        // The published methods read no scores; where `demo` measures them all the same, they are
        // for the eye and no cost of the erasure.
        let scoring = match self.spec.method {
            Method::Keystep(_) => self.cost.scoring.unet_evaluations,
            Method::Kscu(_) | Method::Esd(_) => 0,
        };
        Ok(RunReport {
            headline: Headline::of(&judges),
            judges,
            unet_evaluations: scoring + self.cost.erasing.unet_evaluations,
            seconds: self.seconds,
            peak_rss_bytes: peak_rss_bytes(),
            key_steps: self.log.key_steps.clone(),
            window,
            cost: self.cost,
            training: TrainingSummary::from(self.log),
            model: self.base.location().to_owned(),
            spec: self.spec.clone(),
            seeds: Seeds {
                score: self.scores.first().map(|scores| scores.spec.seed),
                unlearn: self.spec.seed,
                judge: self.judged.map(|judged| judged.spec.seed),
            },
            versions: versions(),
            digests: self.digests(folder)?,
        })
    }

    fn digests(&self, folder: &Path) -> Result<BTreeMap<String, String>, CliError> {
        let is_weights = |name: &str| name.starts_with("unet/") && name.ends_with(".safetensors");
        let mut digests = BTreeMap::new();
        let spec = serde_json::to_vec(self.spec).map_err(ReportError::Json)?;
        let digest = sha256_hex(spec.as_slice()).map_err(|source| CliError::File {
            action: "digest",
            path: "spec".into(),
            source,
        })?;
        digests.insert("spec".to_owned(), digest);
        for name in self.base.names().iter().filter(|name| is_weights(name)) {
            let unreadable = |source| {
                let location = self.base.location().to_owned();
                FileError::Unreadable { location, name: name.clone(), source }
            };
            let digest = self
                .base
                .open(name)
                .and_then(|(reader, _)| sha256_hex(reader).map_err(unreadable))
                .map_err(|error| CliError::Artifact(Box::new(error)))?;
            digests.insert(format!("base {name}"), digest);
        }
        let edited = folder.join(CHECKPOINT).join("unet");
        let entries = std::fs::read_dir(&edited).map_err(|source| CliError::File {
            action: "read",
            path: edited.clone(),
            source,
        })?;
        for entry in entries.flatten() {
            let name = format!("unet/{}", entry.file_name().to_string_lossy());
            if is_weights(&name) {
                digests.insert(format!("edited {name}"), file_digest(&entry.path())?);
            }
        }
        digests.insert(DELTA.to_owned(), file_digest(&folder.join(DELTA))?);
        Ok(digests)
    }
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
    lines.join("\n") + "\n"
}

/// Pretty JSON with a line end.
pub(super) fn json_bytes(value: &impl serde::Serialize) -> Result<Vec<u8>, CliError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(ReportError::Json)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Writes a file into an unfinished folder.
pub(super) fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), CliError> {
    let path = folder.join(name);
    std::fs::write(&path, bytes).map_err(|source| CliError::File { action: "write", path, source })
}
