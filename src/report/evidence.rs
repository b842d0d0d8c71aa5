//! The files that show what an erasure did, beside the edited model itself.

use std::collections::BTreeMap;

use super::{
    Cost, Headline, ReportError, ReportPage, RunReport, Seeds, TrainingSummary, contact_sheet,
    run_report::to_json, score_plot, training_plot,
};
use crate::{
    outcome::{
        EvaluationResults, JudgeReport, TimestepScores, TrainingLog, Verdict,
        result_layout::{REPORT, REPORT_PAGE, TRAINING},
    },
    spec::{Method, UnlearnSpec},
};

/// What the evidence is made of.
#[derive(Debug, Clone)]
pub struct Evidence<'a> {
    /// How the base model was named.
    pub model: &'a str,
    /// What was asked.
    pub spec: &'a UnlearnSpec,
    /// What the training measured.
    pub log: &'a TrainingLog,
    /// Those of each concept, where they were measured or given.
    pub scores: &'a [TimestepScores],
    /// The judgement of each concept that was judged.
    pub judged: &'a [JudgeReport],
    /// What the parts took.
    pub cost: Cost,
    /// Wall time of the whole run; none where the files shall not depend on the clock.
    pub seconds: Option<f64>,
    /// The most memory that the process held, where it is known.
    pub peak_rss_bytes: Option<u64>,
    /// Versions of what computed it.
    pub versions: BTreeMap<String, String>,
    /// SHA-256 of inputs and outputs, hexadecimal, by name.
    pub digests: BTreeMap<String, String>,
    /// Files of the base model that are no part of its pipeline, and so not of the result.
    pub left_out: Vec<String>,
}

/// Files by name.
pub type NamedFiles = Vec<(String, Vec<u8>)>;

impl Evidence<'_> {
    /// The report, and scores, plots, sheets, log, report and page as files by name.
    pub fn files(self) -> Result<(RunReport, NamedFiles), ReportError> {
        let mut files = Vec::new();
        let mut plots = Vec::new();
        for (index, scores) in self.scores.iter().enumerate() {
            let name = numbered("scores", index, self.scores.len());
            files.push((format!("{name}.json"), to_json(scores)?));
            let plot = score_plot(scores)?;
            files.push((format!("{name}.png"), plot.clone()));
            plots.push(plot);
        }
        let mut sheets = Vec::new();
        for (index, judged) in self.judged.iter().enumerate() {
            let JudgeReport { spec, pictures, .. } = judged;
            let sheet = contact_sheet(pictures, &spec.vocabulary, &spec.concept)?;
            let name = numbered("before-after", index, self.judged.len());
            files.push((format!("{name}.png"), sheet.clone()));
            sheets.push(sheet);
        }
        files.push((TRAINING.to_owned(), to_json(self.log)?));
        let training = training_plot(self.log)?;
        let report = self.report();
        files.push((REPORT.to_owned(), report.to_json()?));
        let page = ReportPage {
            report: &report,
            log: self.log,
            scores: self.scores.first(),
            sheet_png: sheets.first().map(Vec::as_slice),
            score_plot_png: plots.first().map(Vec::as_slice),
            training_plot_png: Some(&training),
        };
        files.push((REPORT_PAGE.to_owned(), page.render()?.into_bytes()));
        Ok((report, files))
    }

    fn report(&self) -> RunReport {
        let judges: Vec<Verdict> =
            self.judged.iter().flat_map(|judged| judged.verdicts.clone()).collect();
        // The published methods read no scores; where `demo` measures them all the same, they are
        // for the eye and no cost of the erasure.
        let scoring = match self.spec.method {
            Method::Keystep(_) => self.cost.scoring.unet_evaluations,
            Method::Kscu(_) | Method::Esd(_) => 0,
        };
        RunReport {
            headline: Headline::of(&judges),
            judges,
            unet_evaluations: scoring + self.cost.erasing.unet_evaluations,
            seconds: self.seconds,
            peak_rss_bytes: self.peak_rss_bytes,
            key_steps: self.log.key_steps.clone(),
            window: self.log.window,
            cost: self.cost,
            training: TrainingSummary::from(self.log),
            model: self.model.to_owned(),
            spec: self.spec.clone(),
            seeds: Seeds {
                score: self.scores.first().map(|scores| scores.spec.seed),
                unlearn: self.spec.seed,
                judge: self.judged.first().map(|judged| judged.spec.seed),
            },
            versions: self.versions.clone(),
            digests: self.digests.clone(),
            left_out: self.left_out.clone(),
            evaluation: EvaluationResults::of(self.judged),
        }
    }
}

/// A file's name, with its number where there are several.
fn numbered(name: &str, index: usize, count: usize) -> String {
    match count {
        1 => name.to_owned(),
        _ => format!("{name}-{}", index + 1),
    }
}
