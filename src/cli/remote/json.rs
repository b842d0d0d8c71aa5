//! Answers as JSON, with the field names of the API.

use prost::Message;
use serde_json::{Value, json};
use tonic_types::RpcStatusExt;

use super::remote_error::RemoteError;
use crate::proto::{
    google::longrunning::{Operation, operation::Result as Ending},
    keystep::v1::{
        Estimate, EvaluateErasureMetadata, EvaluateErasureResponse, Figures, JobState,
        LogSnrWindow, Model, ModelKind, Plan, Progress, PublishedFile, ScoreSummary,
        ScoreTimestepsResponse, UnlearnConceptMetadata, UnlearnConceptResponse, Verdict,
    },
};

/// Decodes a packed message of the wanted type.
fn unpack<T: Message + Default>(
    any: Option<&prost_types::Any>,
    name: &str,
) -> Result<Option<T>, RemoteError> {
    let Some(any) = any.filter(|any| any.type_url.ends_with(&format!("keystep.v1.{name}"))) else {
        return Ok(None);
    };
    let read = T::decode(any.value.as_slice());
    read.map(Some).map_err(|error| RemoteError::Answer(format!("{name}: {error}")))
}

fn time(time: Option<&prost_types::Timestamp>) -> Value {
    time.map_or(Value::Null, |time| Value::from(time.to_string()))
}

fn progress(progress: Option<&Progress>) -> Value {
    progress.map_or(Value::Null, |progress| {
        json!({
            "phase": progress.phase().as_str_name(),
            "units_done": progress.units_done, "units_total": progress.units_total,
            "iterations_done": progress.iterations_done,
            "iterations_total": progress.iterations_total,
            "key_step": progress.key_step, "loss": progress.loss,
            "gradient_norm": progress.gradient_norm,
        })
    })
}

fn figures(figures: Option<&Figures>) -> Value {
    figures.map_or(
        Value::Null,
        |figures| json!({ "ua": figures.ua, "ira": figures.ira, "cra": figures.cra }),
    )
}

fn verdicts(verdicts: &[Verdict]) -> Value {
    let one = |verdict: &Verdict| {
        json!({
            "judge": verdict.judge, "concept": verdict.concept,
            "sampler": verdict.sampler().as_str_name(),
            "edited": figures(verdict.edited.as_ref()), "base": figures(verdict.base.as_ref()),
        })
    };
    verdicts.iter().map(one).collect()
}

fn files(files: &[PublishedFile]) -> Value {
    let one = |file: &PublishedFile| json!({ "uri": file.uri, "size_bytes": file.size_bytes, "sha256": file.sha256 });
    files.iter().map(one).collect()
}

fn window(window: Option<&LogSnrWindow>) -> Value {
    window.map_or(Value::Null, |window| json!({ "low": window.low, "high": window.high }))
}

fn plan(plan: Option<&Plan>) -> Value {
    plan.map_or(Value::Null, |plan| {
        let duration = plan.estimated_duration.as_ref();
        json!({
            "updates": plan.updates, "unet_evaluations": plan.unet_evaluations,
            "memory_bytes": plan.memory_bytes,
            "estimated_duration": duration.map(ToString::to_string),
            "trainable_parameters": plan.trainable_parameters,
            "trainable_tensors": plan.trainable_tensors, "assumptions": plan.assumptions,
        })
    })
}

/// The plan of a job, where it was asked for.
pub(super) fn plan_of(operation: &Operation) -> Result<Option<Plan>, RemoteError> {
    let response = response::<UnlearnConceptResponse>(operation, "UnlearnConceptResponse")?;
    Ok(response.and_then(|response| response.plan))
}

/// The response of a job, where it has one of the wanted type.
pub(super) fn response<T: Message + Default>(
    operation: &Operation,
    name: &str,
) -> Result<Option<T>, RemoteError> {
    match &operation.result {
        Some(Ending::Response(response)) => unpack(Some(response), name),
        _ => Ok(None),
    }
}

fn estimate(estimate: Option<&Estimate>) -> Value {
    estimate.map_or(
        Value::Null,
        |estimate| json!({ "mean": estimate.mean, "standard_error": estimate.standard_error }),
    )
}

/// The scores of all steps, and their summary.
pub(super) fn scores(steps: &[ScoreTimestepsResponse], summary: &ScoreSummary) -> Value {
    let one = |step: &ScoreTimestepsResponse| {
        json!({
            "step": step.step, "timestep": step.timestep, "score": step.score,
            "log_snr": step.log_snr,
            "guidance_energy": estimate(step.guidance_energy.as_ref()),
            "guidance_effect": estimate(step.guidance_effect.as_ref()),
            "concept_until": estimate(step.concept_until.as_ref()),
            "concept_from": estimate(step.concept_from.as_ref()),
            "gradient_share": estimate(step.gradient_share.as_ref()),
        })
    };
    let steps: Value = steps.iter().map(one).collect();
    json!({
        "steps": steps,
        "summary": {
            "window": window(summary.window.as_ref()), "first_step": summary.first_step,
            "last_step": summary.last_step, "rule": summary.rule,
            "score_digest": summary.score_digest, "unet_evaluations": summary.unet_evaluations,
            "scores_json": summary.scores_json,
        },
    })
}

/// A whole operation.
pub(super) fn operation(operation: &Operation) -> Result<Value, RemoteError> {
    let (error, response) = match &operation.result {
        Some(Ending::Error(error)) => (failure(error), None),
        Some(Ending::Response(response)) => (Value::Null, Some(response)),
        None => (Value::Null, None),
    };
    Ok(json!({
        "name": operation.name,
        "done": operation.done,
        "metadata": metadata(operation.metadata.as_ref())?,
        "error": error,
        "response": answer(response)?,
    }))
}

fn failure(error: &tonic_types::pb::Status) -> Value {
    let mut document = json!({ "code": error.code, "message": error.message });
    if let Some(info) = error.get_details_error_info() {
        document["reason"] = Value::from(info.reason);
        document["metadata"] = info.metadata.into_iter().collect();
    }
    document
}

fn metadata(any: Option<&prost_types::Any>) -> Result<Value, RemoteError> {
    if let Some(data) = unpack::<UnlearnConceptMetadata>(any, "UnlearnConceptMetadata")? {
        return Ok(json!({
            "kind": "unlearn", "state": data.state().as_str_name(),
            "queue_position": data.queue_position, "attempt": data.attempt,
            "progress": progress(data.progress.as_ref()),
            "create_time": time(data.create_time.as_ref()),
            "update_time": time(data.update_time.as_ref()),
            "expire_time": time(data.expire_time.as_ref()),
            "result_expire_time": time(data.result_expire_time.as_ref()),
            "deadline": time(data.deadline.as_ref()),
            "cancel_requested": data.cancel_requested, "last_sequence": data.last_sequence,
            "base_model": data.base_model, "concepts": data.concepts, "labels": data.labels,
            "request_id": data.request_id, "priority": data.priority, "seed": data.seed,
        }));
    }
    if let Some(data) = unpack::<EvaluateErasureMetadata>(any, "EvaluateErasureMetadata")? {
        return Ok(json!({
            "kind": "evaluate", "state": data.state().as_str_name(),
            "queue_position": data.queue_position, "attempt": data.attempt,
            "progress": progress(data.progress.as_ref()),
            "create_time": time(data.create_time.as_ref()),
            "update_time": time(data.update_time.as_ref()),
            "expire_time": time(data.expire_time.as_ref()),
            "result_expire_time": time(data.result_expire_time.as_ref()),
            "deadline": time(data.deadline.as_ref()),
            "cancel_requested": data.cancel_requested, "last_sequence": data.last_sequence,
            "base_model": data.base_model, "edited_model": data.edited_model,
            "concept": data.concept, "labels": data.labels, "request_id": data.request_id,
            "priority": data.priority,
        }));
    }
    Ok(Value::Null)
}

fn answer(any: Option<&prost_types::Any>) -> Result<Value, RemoteError> {
    if let Some(data) = unpack::<UnlearnConceptResponse>(any, "UnlearnConceptResponse")? {
        return Ok(json!({
            "model": data.model, "manifest_uri": data.manifest_uri,
            "manifest_sha256": data.manifest_sha256, "verdicts": verdicts(&data.verdicts),
            "key_steps": data.key_steps, "window": window(data.window.as_ref()),
            "updates": data.updates, "unet_evaluations": data.unet_evaluations,
            "files": files(&data.files), "plan": plan(data.plan.as_ref()),
        }));
    }
    if let Some(data) = unpack::<EvaluateErasureResponse>(any, "EvaluateErasureResponse")? {
        return Ok(json!({
            "verdicts": verdicts(&data.verdicts), "manifest_uri": data.manifest_uri,
            "manifest_sha256": data.manifest_sha256,
            "unet_evaluations": data.unet_evaluations, "files": files(&data.files),
        }));
    }
    Ok(Value::Null)
}

/// A model of the catalogue.
pub(super) fn model(model: &Model) -> Value {
    let words = model.vocabulary.as_ref().map_or(Value::Null, |words| {
        json!({ "anything": words.anything, "objects": words.objects, "styles": words.styles })
    });
    json!({
        "name": model.name, "kind": model.kind().as_str_name(), "digest": model.digest,
        "vocabulary": words, "base_model": model.base_model, "concepts": model.concepts,
        "manifest_uri": model.manifest_uri, "create_time": time(model.create_time.as_ref()),
        "verdicts": verdicts(&model.verdicts),
    })
}

/// A state as people read it.
pub(super) fn state_name(state: JobState) -> String {
    state.as_str_name().trim_start_matches("JOB_STATE_").to_lowercase()
}

/// A kind of model as people read it.
pub(super) fn model_kind_name(kind: ModelKind) -> String {
    kind.as_str_name().trim_start_matches("MODEL_KIND_").to_lowercase()
}

/// JSON with indents.
pub(super) fn pretty(value: &Value) -> String {
    format!("{value:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_unpacked() {
        let data = UnlearnConceptMetadata {
            state: JobState::Running.into(),
            concepts: vec!["cat".to_owned()],
            ..UnlearnConceptMetadata::default()
        };
        let any = prost_types::Any {
            type_url: "type.googleapis.com/keystep.v1.UnlearnConceptMetadata".to_owned(),
            value: data.encode_to_vec(),
        };
        let mut asked = Operation {
            name: "operations/1".to_owned(),
            metadata: Some(any),
            ..Operation::default()
        };
        let document = operation(&asked).unwrap();
        assert_eq!(document["metadata"]["state"], "JOB_STATE_RUNNING");
        assert_eq!(document["metadata"]["concepts"][0], "cat");
        asked.metadata.as_mut().unwrap().value = vec![0xff];
        assert!(matches!(operation(&asked), Err(RemoteError::Answer(_))));
    }
}
