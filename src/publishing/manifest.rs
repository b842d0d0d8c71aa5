//! The record that makes a result a published one: what it is, and every file of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::{
    jobs::{Job, JobId, Timestamp, Work},
    outcome::{
        Ancestor, ConceptVerdict, DeviceKind, EvaluationResults, FinishedResult, PublishedFile,
        TrainingFigures, Verdict, number, result_layout::is_scores,
    },
    spec::{Concept, LogSnrWindow, OutputFormat, StepIndex},
    storage::StorageLocation,
    worker::RunTimes,
};

/// The manifest's name in a job's folder.
pub const MANIFEST: &str = "manifest.json";

/// What a result is and where its files stand. Written once, and never changed.
///
/// A number that is not finite (an accuracy over no pictures) is `null`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`Manifest::SCHEMA_VERSION`]; a reader refuses a later one.
    pub schema_version: u32,
    /// "unlearn" or "evaluate".
    pub kind: String,
    /// Whose result it is.
    pub job: JobId,
    /// SHA-256 of base model, spec and engine version: equal for equal work.
    pub work_digest: String,
    /// What was edited, or judged against.
    pub base_model: ManifestModel,
    /// The models that the base model was erased from, itself first; none where it was not erased.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<Ancestor>,
    /// What was judged; absent for an erasure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited_model: Option<String>,
    /// What was erased, or judged to be gone.
    #[serde(serialize_with = "with_replacements")]
    pub concepts: Vec<Concept>,
    /// The whole spec, as it ran.
    pub spec: Value,
    /// What was asked to be published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formats: Vec<OutputFormat>,
    /// Where each draw started: "score", "unlearn", "judge".
    pub seeds: BTreeMap<String, u64>,
    /// SHA-256 of the timestep scores that were computed or given, by file name; those that the
    /// request cited stand under "cited".
    pub scores: BTreeMap<String, String>,
    /// Steps that were trained at, ascending.
    pub key_steps: Vec<StepIndex>,
    /// The band that was trained in, where the method has one.
    pub window: Option<LogSnrWindow>,
    /// Optimiser updates that the training made.
    pub updates: usize,
    /// U-Net evaluations, scoring, checks and judging included.
    pub unet_evaluations: u64,
    /// What the training measured; absent for a judgement.
    #[serde(serialize_with = "number::finite_or_null")]
    pub training: Option<TrainingFigures>,
    /// What the judges say; empty where nothing was judged.
    #[serde(with = "flat_verdicts")]
    pub verdicts: Vec<ConceptVerdict>,
    /// Every file but this one.
    pub files: Vec<PublishedFile>,
    /// Files of the base model that are no part of its pipeline, and so not of the result.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// What judging found beyond the verdicts.
    #[serde(default, skip_serializing_if = "EvaluationResults::is_empty")]
    pub evaluation: EvaluationResults,
    /// Version of Keystep.
    pub engine_version: String,
    /// What computed it.
    pub device: DeviceKind,
    /// When the attempt that published it began, RFC 3339.
    pub started_at: String,
    /// When the result was whole, RFC 3339.
    pub created_at: String,
}

/// A model by name and content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestModel {
    /// Its name in the catalogue.
    pub name: String,
    /// SHA-256 of its files.
    pub digest: String,
}

/// Concepts as a manifest has them: one without a replacement says so.
fn with_replacements<S: Serializer>(
    concepts: &[Concept],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(concepts.iter().map(|Concept { text, kind, replacement }| {
        serde_json::json!({ "text": text, "kind": kind, "replacement": replacement })
    }))
}

/// Verdicts as a manifest has them: the concept beside the verdict's own fields.
mod flat_verdicts {
    use super::{ConceptVerdict, Deserialize, Deserializer, Serialize, Serializer, Verdict};

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Flat<C, V> {
        concept: C,
        #[serde(flatten)]
        verdict: V,
    }

    pub(super) fn serialize<S: Serializer>(
        verdicts: &[ConceptVerdict],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            verdicts.iter().map(|ConceptVerdict { concept, verdict }| Flat { concept, verdict }),
        )
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<ConceptVerdict>, D::Error> {
        let flat = Vec::<Flat<String, Verdict>>::deserialize(deserializer)?;
        Ok(flat
            .into_iter()
            .map(|Flat { concept, verdict }| ConceptVerdict { concept, verdict })
            .collect())
    }
}

/// Why a manifest is not to be relied on.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is no manifest.
    #[error("it is no manifest: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// It was written by a later version.
    #[error("its schema_version is {found}, and {known} is the latest that is known here")]
    LaterVersion {
        /// Its version.
        found: u64,
        /// The version that this build reads.
        known: u32,
    },
    /// It belongs to something else.
    #[error("its {what} is {found}, and not {expected}")]
    OfSomethingElse {
        /// Which field.
        what: &'static str,
        /// What was found instead.
        found: String,
        /// What should.
        expected: String,
    },
    /// A file is not where the manifest's own files are.
    #[error("its file {name:?} is not inside the manifest's folder")]
    Outside {
        /// Name of the file.
        name: String,
    },
}

/// What a manifest is made of.
#[derive(Debug)]
pub(super) struct Findings<'a> {
    pub(super) job: &'a Job,
    pub(super) result: &'a FinishedResult,
    pub(super) times: RunTimes,
    pub(super) files: Vec<PublishedFile>,
}

impl Manifest {
    /// The version that is written, and the latest that is read.
    pub const SCHEMA_VERSION: u32 = 1;

    pub(super) fn new(findings: Findings<'_>) -> Result<Self, ManifestError> {
        let Findings { job, result, times, files } = findings;
        let (base_digest, concepts, spec) = match &job.work {
            Work::Unlearn(work) => {
                (&work.base_digest, work.spec.concepts.clone(), serde_json::to_value(&work.spec)?)
            }
            Work::Evaluate(work) => {
                let concepts = vec![work.spec.concept.clone()];
                (&work.base_digest, concepts, serde_json::to_value(&work.spec)?)
            }
        };
        let (edited_model, formats, cited) = match &job.work {
            Work::Unlearn(work) => (None, work.formats.clone(), work.score_digest.clone()),
            Work::Evaluate(work) => (Some(work.edited_model.clone()), Vec::new(), None),
        };
        let computed = result.files.iter().filter(|file| is_scores(&file.name));
        let mut scores: BTreeMap<_, _> =
            computed.map(|file| (file.name.clone(), file.sha256.clone())).collect();
        scores.extend(cited.map(|digest| ("cited".to_owned(), digest)));
        Ok(Self {
            schema_version: Self::SCHEMA_VERSION,
            kind: job.work.kind().to_owned(),
            job: job.id,
            work_digest: job.work_digest.clone(),
            base_model: ManifestModel {
                name: job.work.base_model().to_owned(),
                digest: base_digest.clone(),
            },
            ancestors: result.ancestors.clone(),
            edited_model,
            concepts,
            spec,
            formats,
            seeds: result.seeds.clone(),
            scores,
            key_steps: result.key_steps.clone(),
            window: result.window,
            updates: result.updates,
            unet_evaluations: result.unet_evaluations,
            training: result.training.clone(),
            verdicts: result.verdicts.clone(),
            files,
            left_out: result.left_out.clone(),
            evaluation: result.evaluation.clone(),
            engine_version: env!("CARGO_PKG_VERSION").to_owned(),
            device: result.device,
            started_at: rfc3339(times.claimed_at),
            created_at: rfc3339(times.finished_at),
        })
    }

    /// As it is written.
    pub fn to_json(&self) -> Result<Vec<u8>, ManifestError> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads a manifest, strictly: what is not known is refused.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Version {
            schema_version: u64,
        }
        // First, so that a later manifest is called that and not a damaged one.
        let Version { schema_version } = serde_json::from_slice(bytes)?;
        if schema_version > u64::from(Self::SCHEMA_VERSION) {
            let (found, known) = (schema_version, Self::SCHEMA_VERSION);
            return Err(ManifestError::LaterVersion { found, known });
        }
        Ok(serde_json::from_slice(bytes)?)
    }

    /// Whether it is this job's, with every file inside `folder`: the folder that it stands in.
    pub fn check(&self, job: &Job, folder: &StorageLocation) -> Result<(), ManifestError> {
        let same = |what, found: &dyn ToString, expected: &dyn ToString| {
            let (found, expected) = (found.to_string(), expected.to_string());
            if found == expected {
                return Ok(());
            }
            Err(ManifestError::OfSomethingElse { what, found, expected })
        };
        same("schema_version", &self.schema_version, &Self::SCHEMA_VERSION)?;
        same("job", &self.job, &job.id)?;
        same("kind", &self.kind, &job.work.kind())?;
        same("work_digest", &self.work_digest, &job.work_digest)?;
        self.check_files(folder)
    }

    /// Whether every file stands inside `folder`, under the name that it says.
    pub fn check_files(&self, folder: &StorageLocation) -> Result<(), ManifestError> {
        for file in &self.files {
            let place = folder.child(&file.name);
            if !place.is_ok_and(|place| place.url.as_str() == file.uri) {
                return Err(ManifestError::Outside { name: file.name.clone() });
            }
        }
        Ok(())
    }
}

/// A time for people and machines, such as `2026-03-01T12:00:00.000001Z`.
pub fn rfc3339(Timestamp(micros): Timestamp) -> String {
    const MICROS: i64 = 1_000_000;
    let nanos = i32::try_from(micros.rem_euclid(MICROS) * 1_000).unwrap_or_default();
    prost_types::Timestamp { seconds: micros.div_euclid(MICROS), nanos }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_the_calendar_has_them() {
        let shown = |seconds: i64| rfc3339(Timestamp(seconds * 1_000_000 + 7));
        // As `date -u -d @N` has them.
        assert_eq!(shown(0), "1970-01-01T00:00:00.000007Z");
        assert_eq!(shown(951_782_400), "2000-02-29T00:00:00.000007Z");
        assert_eq!(shown(1_772_323_199), "2026-02-28T23:59:59.000007Z");
        assert_eq!(shown(-1), "1969-12-31T23:59:59.000007Z");
    }

    #[test]
    fn a_later_manifest_is_named_so() {
        let later = br#"{"schema_version": 2, "dream": true}"#;
        let error = Manifest::from_json(later).unwrap_err();
        assert!(matches!(error, ManifestError::LaterVersion { found: 2, known: 1 }), "{error}");
        assert!(Manifest::from_json(b"{}").is_err());
        assert!(Manifest::from_json(b"[").is_err());
    }

    /// As every version has written it, `NaN` and infinity as null.
    const WRITTEN: &str = r#"{
  "schema_version": 1,
  "kind": "unlearn",
  "job": "00000000-0000-0000-0000-000000000001",
  "work_digest": "work",
  "base_model": {
    "name": "emoji-canvas",
    "digest": "base"
  },
  "concepts": [
    {
      "text": "cat",
      "kind": "object",
      "replacement": null
    }
  ],
  "spec": {},
  "formats": [
    "delta"
  ],
  "seeds": {
    "unlearn": 7
  },
  "scores": {},
  "key_steps": [
    2,
    9
  ],
  "window": {
    "low": -3.0,
    "high": 1.0
  },
  "updates": 40,
  "unet_evaluations": 1234,
  "training": {
    "stopped_early": true,
    "first_loss": 0.5,
    "last_loss": null,
    "erase_measure": 0.1,
    "damage_measure": null,
    "weight_change": 0.01,
    "learning_rate": 0.001
  },
  "verdicts": [
    {
      "concept": "cat",
      "judge": "cnn",
      "sampler": "euler",
      "edited": {
        "ua": 0.97,
        "ira": 0.95,
        "cra": null
      },
      "base": {
        "ua": 0.02,
        "ira": 0.95,
        "cra": null
      }
    }
  ],
  "files": [
    {
      "name": "0f/delta.safetensors",
      "uri": "s3://out/1/0f/delta.safetensors",
      "size": 12345,
      "sha256": "a7"
    }
  ],
  "engine_version": "0.1.0",
  "device": "cuda",
  "started_at": "1970-01-01T00:00:00Z",
  "created_at": "1970-01-01T00:00:01Z"
}
"#;

    #[test]
    fn a_manifest_is_written_as_it_was_read() {
        let manifest = Manifest::from_json(WRITTEN.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(manifest.to_json().unwrap()).unwrap(), WRITTEN);
        // What the engine measured may be infinite, and is null all the same.
        let training = manifest.training.map(|training| TrainingFigures {
            last_loss: Some(f64::INFINITY),
            damage_measure: f64::NEG_INFINITY,
            ..training
        });
        let manifest = Manifest { training, ..manifest };
        assert_eq!(String::from_utf8(manifest.to_json().unwrap()).unwrap(), WRITTEN);
    }

    #[test]
    fn nothing_unknown_is_read_over() {
        let known = ["\"schema_version\"", "\"text\"", "\"low\"", "\"stopped_early\""];
        for known in known.into_iter().chain(["\"judge\"", "\"ua\"", "\"uri\"", "\"digest\""]) {
            let odd = WRITTEN.replacen(known, &format!("\"odd\": 1, {known}"), 1);
            let error = Manifest::from_json(odd.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("unknown field `odd`"), "{known}: {error}");
        }
    }
}
