//! How a result was made: SLSA's provenance predicate, version 1.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Facts, ResourceDescriptor, Signer, Task, home::home};
use crate::outcome::result_layout::{REPORT, REPORT_PAGE, TRAINING, is_scores};

/// The type of the predicate.
pub const BUILD: &str = "https://slsa.dev/provenance/v1";

/// The predicate. It claims no SLSA level: that is for those to say who know how the service is run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Build {
    build_definition: BuildDefinition,
    run_details: RunDetails,
}

/// What was asked, and what went in.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildDefinition {
    build_type: String,
    external_parameters: Map<String, Value>,
    internal_parameters: Value,
    resolved_dependencies: Vec<ResourceDescriptor>,
}

/// Who did it and when.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct RunDetails {
    builder: Builder,
    metadata: BuildMetadata,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    byproducts: Vec<ResourceDescriptor>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Builder {
    id: String,
    version: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildMetadata {
    #[serde(skip_serializing_if = "str::is_empty")]
    invocation_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_on: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_on: Option<String>,
}

impl Task {
    /// The URI of what its parameters mean, which `docs/provenance.md` says.
    pub fn build_type(self) -> String {
        home(match self {
            Self::Erasure => "docs/provenance.md#erasure-v1",
            Self::Judgement => "docs/provenance.md#judgement-v1",
        })
    }
}

impl Build {
    /// Of a result, by the deployment that the signer stands for.
    pub fn new(facts: &Facts<'_>, signer: &Signer) -> Self {
        let result = facts.result;
        let mut external_parameters = facts.parameters.clone();
        if let Some(test) = &facts.test {
            external_parameters.insert("policy_sha256".to_owned(), test.policy_sha256().into());
        }
        let version =
            BTreeMap::from([("keystep".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]);
        Self {
            build_definition: BuildDefinition {
                build_type: facts.task.build_type(),
                external_parameters,
                // Threads are none of them: no result depends on their number.
                internal_parameters: json!({
                    "window": result.window,
                    "key_steps": result.key_steps,
                    "updates": result.updates,
                    "unet_evaluations": result.unet_evaluations,
                    "seeds": result.seeds,
                    "device": result.device,
                    "left_out": result.left_out,
                }),
                resolved_dependencies: dependencies(facts),
            },
            run_details: RunDetails {
                builder: Builder { id: signer.builder_id().to_owned(), version },
                metadata: BuildMetadata {
                    invocation_id: facts.invocation.to_owned(),
                    started_on: facts.started_on.clone(),
                    finished_on: facts.finished_on.clone(),
                },
                byproducts: byproducts(facts),
            },
        }
    }
}

/// What went in: the base model first, which is the direct parent of an erasure, then scores and
/// suites. The ancestors before the parent stand with it as annotations: none of them was read.
fn dependencies(facts: &Facts<'_>) -> Vec<ResourceDescriptor> {
    let mut base = ResourceDescriptor::new(facts.base_model, facts.base_digest);
    let note = "sha256 names the model's files as the manifest's base_model.digest does";
    base.annotations.insert("role".to_owned(), "base model".into());
    base.annotations.insert("digest".to_owned(), note.into());
    if !facts.result.ancestors.is_empty() {
        let ancestors = serde_json::to_value(&facts.result.ancestors).unwrap_or_default();
        base.annotations.insert("ancestors".to_owned(), ancestors);
    }
    let mut found = vec![base];
    for (role, name, digest) in &facts.inputs {
        let mut input = ResourceDescriptor::new(name, digest);
        input.annotations.insert("role".to_owned(), (*role).into());
        found.push(input);
    }
    found
}

/// What came out beside the model: scores and reports.
fn byproducts(facts: &Facts<'_>) -> Vec<ResourceDescriptor> {
    let reports = [REPORT, REPORT_PAGE, TRAINING];
    let is_byproduct = |name: &str| reports.contains(&name) || is_scores(name);
    let files = facts.result.files.iter().filter(|file| is_byproduct(&file.name));
    files.map(|file| ResourceDescriptor::new(&file.name, &file.sha256)).collect()
}
