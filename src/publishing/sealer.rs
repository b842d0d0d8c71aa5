//! Signs results of jobs, and puts the model card among what is signed.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    manifest::rfc3339,
    model_card::{MODEL_CARD, ModelCard},
};
use crate::{
    artifacts::digest::digest_named,
    jobs::{Failure, FailureReason, Work},
    outcome::FinishedResult,
    provenance::{Facts, SealedFile, Signer, Task, seal},
    worker::{ResultSealer, SealRequest},
};

/// Signs results that are published into object storage.
#[derive(Debug)]
pub struct ObjectSealer {
    signer: Signer,
    /// Licences of base models, as Hugging Face names them.
    licenses: BTreeMap<String, String>,
}

impl ObjectSealer {
    /// Signs as this signer; the licences are those of the publisher's settings.
    pub fn new(signer: Signer, licenses: BTreeMap<String, String>) -> Self {
        Self { signer, licenses }
    }
}

impl ResultSealer for ObjectSealer {
    fn seal(&self, request: &SealRequest<'_>) -> Result<Vec<SealedFile>, Failure> {
        let SealRequest { job, work, accepted_at, .. } = *request;
        let license = match work {
            Work::Unlearn(work) => self.licenses.get(&work.base_model).map(String::as_str),
            Work::Evaluate(_) => None,
        };
        let mut result = request.result.clone();
        let mut sealed = Vec::new();
        if !result.files.iter().any(|file| file.name == MODEL_CARD) {
            let bytes = ModelCard { work, result: &result, license }.render().into_bytes();
            result.files.push(digest_named(MODEL_CARD, &bytes));
            result.files.sort_by(|left, right| left.name.cmp(&right.name));
            sealed.push(SealedFile { name: MODEL_CARD, bytes });
        }
        let invocation = job.to_string();
        let facts = facts(work, &result).map(|facts| Facts {
            license,
            invocation: &invocation,
            started_on: Some(rfc3339(accepted_at)),
            ..facts
        });
        let facts = facts.map_err(|error| unsigned(&error))?;
        sealed.extend(seal(&facts, &self.signer).map_err(|error| unsigned(&error))?);
        Ok(sealed)
    }
}

/// What the work alone says. No time of an attempt: see [`SealRequest`].
fn facts<'a>(work: &'a Work, result: &'a FinishedResult) -> serde_json::Result<Facts<'a>> {
    let (task, parameters, base_digest, scores) = match work {
        Work::Unlearn(work) => {
            (Task::Erasure, members(work)?, &work.base_digest, work.score_digest.as_ref())
        }
        Work::Evaluate(work) => (Task::Judgement, members(work)?, &work.base_digest, None),
    };
    let cited = scores.map(|digest| ("scores", "cited".to_owned(), digest.clone()));
    Ok(Facts {
        task,
        parameters,
        base_model: work.base_model(),
        base_digest,
        license: None,
        inputs: cited.into_iter().collect(),
        result,
        test: None,
        invocation: "",
        started_on: None,
        finished_on: None,
    })
}

/// What the caller set, member by member; what was resolved of it stands among the dependencies.
fn members(work: &impl Serialize) -> serde_json::Result<Map<String, Value>> {
    let members = serde_json::to_value(work)?;
    let members = members.as_object().cloned().unwrap_or_default();
    Ok(members.into_iter().filter(|(name, _)| name != "base_digest").collect())
}

fn unsigned(error: &impl std::fmt::Display) -> Failure {
    Failure::new(FailureReason::EngineFault, format!("the result cannot be signed: {error}"))
}
