//! The reports as files: what `report.json` holds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ReportError;
use crate::{
    outcome::{EvaluationResults, Figures, TrainingFigures, TrainingLog, Verdict, number},
    spec::{JudgeSpec, LogSnrWindow, StepIndex, UnlearnSpec},
};

/// The figures of the sharpest judge that spoke, at the top of a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Headline {
    /// Which judge these figures are by.
    pub judge: String,
    /// Of the edited model.
    #[serde(flatten)]
    pub edited: Figures,
    /// Of the base model. Its `ua` is how often the judge misses a concept that is there.
    #[serde(flatten, with = "BaseFigures")]
    pub base: Figures,
}

/// [`Figures`] under names that differ from the edited model's.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Figures")]
struct BaseFigures {
    #[serde(rename = "base_ua", deserialize_with = "number::deserialize")]
    ua: f64,
    #[serde(rename = "base_ira", deserialize_with = "number::deserialize")]
    ira: f64,
    #[serde(rename = "base_cra", deserialize_with = "number::deserialize")]
    cra: f64,
}

impl Headline {
    /// By the classifier `cnn` where there is one, else by the last verdict; the zero-shot judge is
    /// lenient on damaged pictures.
    pub fn of(verdicts: &[Verdict]) -> Option<Self> {
        let verdict =
            verdicts.iter().find(|verdict| verdict.judge == "cnn").or_else(|| verdicts.last())?;
        Some(Self { judge: verdict.judge.clone(), edited: verdict.edited, base: verdict.base })
    }
}

/// What one part of a run cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseCost {
    /// Single-sample U-Net evaluations.
    pub unet_evaluations: u64,
    /// Wall time; absent where the report shall not depend on the clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// What the parts of a run cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Measuring which steps matter.
    pub scoring: PhaseCost,
    /// Training.
    pub erasing: PhaseCost,
    /// Drawing and naming pictures of both models.
    pub judging: PhaseCost,
}

/// The seeds of a run's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seeds {
    /// First seed of the scored trajectories, where scores were measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub score: Option<u64>,
    /// Seed of the training.
    pub unlearn: u64,
    /// Where the seeds of the judged pictures start, where there was a judge.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub judge: Option<u64>,
}

/// A training log without its single updates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingSummary {
    /// Optimiser updates that the training made.
    pub updates: usize,
    /// What they measured.
    #[serde(flatten, serialize_with = "number::finite_or_null")]
    pub figures: TrainingFigures,
}

impl From<&TrainingLog> for TrainingSummary {
    fn from(log: &TrainingLog) -> Self {
        Self { updates: log.updates.len(), figures: log.into() }
    }
}

/// `report.json` of an erasure: what was asked, what came out, what it cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// The sharpest judge's figures; absent where nothing was judged.
    #[serde(flatten)]
    pub headline: Option<Headline>,
    /// What every judge said.
    pub judges: Vec<Verdict>,
    /// Single-sample U-Net evaluations that the erasure took: training, and the scoring that it
    /// read. Judging is not part of it.
    pub unet_evaluations: u64,
    /// Wall time of the whole run, judging included; absent where the report shall not depend on
    /// the clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// The most memory that the process held, where it is known.
    pub peak_rss_bytes: Option<u64>,
    /// Steps of the schedule that were trained at.
    pub key_steps: Vec<StepIndex>,
    /// The same in noise levels, where a window was measured or given.
    pub window: Option<LogSnrWindow>,
    /// What each part cost.
    pub cost: Cost,
    /// What the training measured.
    pub training: TrainingSummary,
    /// How the base model was named.
    pub model: String,
    /// What was asked, with every knob.
    pub spec: UnlearnSpec,
    /// The seeds of the parts.
    pub seeds: Seeds,
    /// Versions of what computed it.
    pub versions: BTreeMap<String, String>,
    /// SHA-256 of inputs and outputs, hexadecimal, by name.
    pub digests: BTreeMap<String, String>,
    /// Files of the base model that are no part of its pipeline, and so not of the result.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// What judging found beyond the verdicts.
    #[serde(default, skip_serializing_if = "EvaluationResults::is_empty")]
    pub evaluation: EvaluationResults,
}

impl RunReport {
    /// The file's bytes.
    pub fn to_json(&self) -> Result<Vec<u8>, ReportError> {
        to_json(self)
    }
}

/// The report of `evaluate`: a judgement of a model that was erased earlier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluationReport {
    /// The sharpest judge's figures.
    #[serde(flatten)]
    pub headline: Option<Headline>,
    /// What every judge said.
    pub judges: Vec<Verdict>,
    /// Single-sample U-Net evaluations spent on drawing.
    pub unet_evaluations: u64,
    /// Wall time; absent where the report shall not depend on the clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// The most memory that the process held, where it is known.
    pub peak_rss_bytes: Option<u64>,
    /// How the edited model was named.
    pub model: String,
    /// How the base model was named.
    pub base: String,
    /// What was asked.
    pub spec: JudgeSpec,
    /// Versions of what computed it.
    pub versions: BTreeMap<String, String>,
    /// What was found beyond the verdicts.
    #[serde(default, skip_serializing_if = "EvaluationResults::is_empty")]
    pub evaluation: EvaluationResults,
}

impl EvaluationReport {
    /// The file's bytes.
    pub fn to_json(&self) -> Result<Vec<u8>, ReportError> {
        to_json(self)
    }
}

/// JSON for people, with a line end.
pub fn to_json(value: &impl Serialize) -> Result<Vec<u8>, ReportError> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        report::training_plot::tests::sample_log,
        spec::{Concept, ConceptKind, Method, MethodName, SamplerKind, Vocabulary},
    };

    pub(crate) fn sample_report() -> RunReport {
        let verdict = |judge: &str, shift: f64| Verdict {
            judge: judge.to_owned(),
            sampler: SamplerKind::Ddim,
            edited: Figures { ua: 0.969 + shift, ira: 0.941, cra: 0.962 - shift },
            base: Figures { ua: 0.031, ira: 0.954, cra: 0.979 },
            measures: None,
        };
        let judges = vec![verdict("clip", 0.01), verdict("cnn", 0.0)];
        let (method, scope) = Method::preset(MethodName::Keystep, ConceptKind::Object, false);
        let log = sample_log(240);
        let names = |entries: &[(&str, &str)]| {
            entries.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        RunReport {
            headline: Headline::of(&judges),
            judges,
            unet_evaluations: 1_440 + log.unet_evaluations,
            seconds: Some(214.7),
            peak_rss_bytes: Some(1_288_490_188),
            key_steps: log.key_steps.clone(),
            window: Some(LogSnrWindow { low: -4.16, high: -0.52 }),
            cost: Cost {
                scoring: PhaseCost { unet_evaluations: 1_440, seconds: Some(31.2) },
                erasing: PhaseCost { unet_evaluations: log.unet_evaluations, seconds: Some(88.0) },
                judging: PhaseCost { unet_evaluations: 14_400, seconds: Some(95.5) },
            },
            training: TrainingSummary::from(&log),
            model: "builtin:emoji-canvas".to_owned(),
            spec: UnlearnSpec {
                concepts: vec![Concept::new("cat", ConceptKind::Object)],
                method,
                scope,
                preserve: Vec::new(),
                vocabulary: Vocabulary::default(),
                seed: 0,
            },
            seeds: Seeds { score: Some(0), unlearn: 0, judge: Some(500_000) },
            versions: names(&[("keystep", "0.1.0"), ("platform", "linux x86_64")]),
            digests: names(&[("base unet", &"0f".repeat(32)), ("edited unet", &"a7".repeat(32))]),
            left_out: Vec::new(),
            evaluation: EvaluationResults::default(),
        }
    }

    #[test]
    fn the_sharper_judge_makes_the_headline() {
        let report = sample_report();
        let headline = report.headline.clone().unwrap();
        assert_eq!(headline.judge, "cnn");
        assert_eq!(Headline::of(&report.judges[..1]).unwrap().judge, "clip");
        assert_eq!(Headline::of(&[]), None);
    }

    #[test]
    fn the_file_has_its_figures_at_the_top_and_reads_back() {
        let report = sample_report();
        let bytes = report.to_json().unwrap();
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        for field in ["ua", "ira", "cra", "base_ua", "base_ira", "base_cra", "seconds", "window"] {
            assert!(value.get(field).is_some(), "{field}");
        }
        assert_eq!(serde_json::from_slice::<RunReport>(&bytes).unwrap(), report);
        let unjudged = RunReport { headline: None, judges: Vec::new(), ..report };
        let value: serde_json::Value =
            serde_json::from_slice(&unjudged.to_json().unwrap()).unwrap();
        assert!(value.get("ua").is_none());
        assert_eq!(value["key_steps"], serde_json::json!([2, 3, 4, 5, 6, 7, 8, 9]));
    }
}
