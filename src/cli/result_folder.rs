//! What an erasure leaves: the folder of `demo` and `unlearn`.

use std::collections::BTreeMap;

use super::{
    CliError,
    files::json_bytes,
    local::{LocalEngine, LocalModel},
    memory::peak_rss_bytes,
    staging::Staging,
};
use crate::{
    artifacts::{
        diffusers::write_checkpoint,
        digest::{digest_bytes, digest_file},
        open_model,
    },
    outcome::{JudgeReport, TimestepScores, TrainingLog, Verdict},
    report::{
        Cost, Headline, ReportError, ReportPage, RunReport, Seeds, TrainingSummary, contact_sheet,
        score_plot, training_plot,
    },
    spec::{Method, ModelFiles, UnlearnSpec},
};

/// The model's folder inside the result.
pub(super) const CHECKPOINT: &str = "checkpoint";
/// The edited tensors inside the result.
pub(super) const DELTA: &str = "delta.safetensors";

/// What a result must hold to be one.
pub(super) const EXPECTED: [&str; 5] = [
    "checkpoint/model_index.json",
    "checkpoint/unet/diffusion_pytorch_model.safetensors",
    DELTA,
    "report.json",
    "report.html",
];

/// Writes the edited model, whole and as a delta.
pub(super) fn write_model<E: LocalEngine>(
    base: &LocalModel<E>,
    erased: &E::Erased,
    spec: &UnlearnSpec,
    staging: &mut Staging,
) -> Result<(), CliError> {
    let files = base.files.as_ref();
    staging.fill(|folder| {
        folder.within(CHECKPOINT, |folder| {
            write_checkpoint(folder, files, |out| E::write_unet(erased, out))
        })
    })?;
    let spec = serde_json::to_string(spec).map_err(ReportError::Json)?;
    let metadata = BTreeMap::from([
        ("keystep.base".to_owned(), files.location().to_owned()),
        ("keystep.spec".to_owned(), spec),
        ("keystep.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ]);
    staging.fill(|folder| folder.write(DELTA, |out| E::write_delta(erased, &metadata, out)))
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
    pub(super) fn write(&self, staging: &mut Staging) -> Result<RunReport, CliError> {
        let mut plots = Vec::new();
        for (index, scores) in self.scores.iter().enumerate() {
            let name = match self.scores.len() {
                1 => "scores".to_owned(),
                _ => format!("scores-{}", index + 1),
            };
            let json = json_bytes(scores)?;
            staging.write(&format!("{name}.json"), &json)?;
            let plot = score_plot(scores)?;
            staging.write(&format!("{name}.png"), &plot)?;
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
            staging.write("before-after.png", sheet)?;
        }
        staging.write("training.json", &json_bytes(self.log)?)?;
        let training = training_plot(self.log)?;
        let report = self.report(staging)?;
        staging.write("report.json", &report.to_json()?)?;
        let page = ReportPage {
            report: &report,
            log: self.log,
            scores: self.scores.first(),
            sheet_png: sheet.as_deref(),
            score_plot_png: plots.first().map(Vec::as_slice),
            training_plot_png: Some(&training),
        };
        staging.write("report.html", page.render()?.as_bytes())?;
        Ok(report)
    }

    fn report(&self, staging: &Staging) -> Result<RunReport, CliError> {
        let judges: Vec<Verdict> =
            self.judged.map_or_else(Vec::new, |judged| judged.verdicts.clone());
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
            window: self.log.window,
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
            digests: self.digests(staging)?,
        })
    }

    fn digests(&self, staging: &Staging) -> Result<BTreeMap<String, String>, CliError> {
        let mut digests = BTreeMap::new();
        let spec = serde_json::to_vec(self.spec).map_err(ReportError::Json)?;
        digests.insert("spec".to_owned(), digest_bytes(&spec));
        let edited = open_model(&staging.path().join(CHECKPOINT).to_string_lossy())?;
        for (which, files) in [("base", self.base), ("edited", edited.as_ref())] {
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
