//! The figures that a policy reads, from a judgement or a file.

use std::path::Path;

use serde::Deserialize;

use crate::{
    cli::{CliError, arguments::read_json},
    gate::{Circumstances, GateVerdict, JudgeCounts, Measured, Policy},
    outcome::{EvaluationResults, Measures, Verdict},
    spec::{Concept, same_words},
};

/// What was measured of one concept.
#[derive(Debug, Default)]
pub(in crate::cli) struct GateFigures {
    pub(in crate::cli) model: String,
    pub(in crate::cli) base: String,
    pub(in crate::cli) concept: String,
    /// Each judge, with what it counted where that is known.
    pub(in crate::cli) judges: Vec<(String, Option<Measures>)>,
    pub(in crate::cli) evaluation: EvaluationResults,
}

/// `report.json` of an evaluation or an erasure, as far as a policy reads it.
#[derive(Debug, Deserialize)]
struct ReportFile {
    judges: Vec<Verdict>,
    model: String,
    /// Of evaluations; an erasure's report names the base model as `model`.
    base: Option<String>,
    spec: SpecOfReport,
    #[serde(default)]
    evaluation: EvaluationResults,
}

#[derive(Debug, Deserialize)]
struct SpecOfReport {
    /// Of evaluations.
    concept: Option<Concept>,
    /// Of erasures.
    #[serde(default)]
    concepts: Vec<Concept>,
}

impl GateFigures {
    /// Reads a report. `concept` is what it should be about, where that was said.
    pub(in crate::cli) fn read(path: &Path, concept: Option<&str>) -> Result<Self, CliError> {
        let report: ReportFile =
            read_json(path, "a report.json of `keystep evaluate` or of an erasure")?;
        let wrong = |message: String| CliError::Usage(format!("{}: {message}", path.display()));
        let SpecOfReport { concept: judged, concepts } = report.spec;
        let of_report: Vec<Concept> = judged.into_iter().chain(concepts).collect();
        let [judged] = of_report.as_slice() else {
            return Err(wrong(format!(
                "it is of {} concepts, and its figures do not say which; judge each with `keystep \
                 evaluate`",
                of_report.len()
            )));
        };
        if let Some(concept) = concept
            && !same_words(concept, &judged.text)
        {
            return Err(wrong(format!("it is of \"{}\", not of \"{concept}\"", judged.text)));
        }
        let (model, base) = match report.base {
            Some(base) => (report.model, base),
            None => (path.display().to_string(), report.model),
        };
        Ok(Self {
            model,
            base,
            concept: judged.text.clone(),
            judges: report.judges.into_iter().map(|it| (it.judge, it.measures)).collect(),
            evaluation: report.evaluation,
        })
    }

    /// What a policy says of them.
    pub(super) fn decide(&self, policy: &Policy, at: Circumstances<'_>) -> GateVerdict {
        let judges: Vec<_> = self
            .judges
            .iter()
            .map(|(judge, measures)| JudgeCounts { judge, measures: measures.as_ref() })
            .collect();
        let measured = Measured {
            model: &self.model,
            base: &self.base,
            concept: &self.concept,
            judges: &judges,
            distances: &self.evaluation.distances,
            suites: &self.evaluation.suites,
            attacks: &self.evaluation.attacks,
        };
        policy.decide(&measured, at)
    }
}
