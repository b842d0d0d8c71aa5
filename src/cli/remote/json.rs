//! Formats answers as JSON, with the field names of the API.

use prost::Name;
use serde::Serialize;
use serde_json::{Value, json};
use tonic_types::RpcStatusExt;

use super::remote_error::RemoteError;
use crate::proto::{
    google::longrunning::{Operation, operation::Result as Ending},
    keystep::v1::{
        EvaluateErasureMetadata, EvaluateErasureResponse, JobState, ModelKind, Plan,
        UnlearnConceptMetadata, UnlearnConceptResponse,
    },
};

/// Decodes a packed message of the wanted type.
fn unpack<T: Name + Default>(any: Option<&prost_types::Any>) -> Result<Option<T>, RemoteError> {
    let Some(any) = any.filter(|any| any.type_url.ends_with(&T::full_name())) else {
        return Ok(None);
    };
    let read = T::decode(any.value.as_slice());
    read.map(Some).map_err(|error| RemoteError::Answer(format!("{}: {error}", T::NAME)))
}

/// The plan of a job, where it was asked for.
pub(super) fn plan_of(operation: &Operation) -> Result<Option<Plan>, RemoteError> {
    Ok(response::<UnlearnConceptResponse>(operation)?.and_then(|response| response.plan))
}

/// The response of a job, where it has one of the wanted type.
pub(super) fn response<T: Name + Default>(operation: &Operation) -> Result<Option<T>, RemoteError> {
    match &operation.result {
        Some(Ending::Response(response)) => unpack(Some(response)),
        _ => Ok(None),
    }
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

/// Metadata and the kind of job that they are of.
#[derive(Serialize)]
struct OfKind<T> {
    kind: &'static str,
    #[serde(flatten)]
    metadata: T,
}

fn metadata(any: Option<&prost_types::Any>) -> Result<Value, RemoteError> {
    if let Some(metadata) = unpack::<UnlearnConceptMetadata>(any)? {
        return Ok(json!(OfKind { kind: "unlearn", metadata }));
    }
    let metadata = unpack::<EvaluateErasureMetadata>(any)?;
    Ok(json!(metadata.map(|metadata| OfKind { kind: "evaluate", metadata })))
}

fn answer(any: Option<&prost_types::Any>) -> Result<Value, RemoteError> {
    if let Some(response) = unpack::<UnlearnConceptResponse>(any)? {
        return Ok(json!(response));
    }
    Ok(json!(unpack::<EvaluateErasureResponse>(any)?))
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
    use prost::Message;

    use super::*;
    use crate::proto::keystep::v1::{Figures, Progress, Sampler, Verdict, WorkPhase};

    #[test]
    fn an_operation_is_unpacked() {
        let data = UnlearnConceptMetadata {
            state: JobState::Running.into(),
            concepts: vec!["cat".to_owned()],
            create_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
            progress: Some(Progress { phase: WorkPhase::Train.into(), ..Progress::default() }),
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
        assert_eq!(document["metadata"]["kind"], "unlearn");
        assert_eq!(document["metadata"]["concepts"][0], "cat");
        assert_eq!(document["metadata"]["create_time"], "1970-01-01T00:00:01Z");
        assert_eq!(document["metadata"]["deadline"], Value::Null);
        assert_eq!(document["metadata"]["progress"]["phase"], "WORK_PHASE_TRAIN");
        let verdict = Verdict {
            edited: Some(Figures { ua: 0.5, ira: f64::NAN, cra: 1.0 }),
            sampler: Sampler::Lcm.into(),
            ..Verdict::default()
        };
        let response = EvaluateErasureResponse {
            verdicts: vec![verdict],
            ..EvaluateErasureResponse::default()
        };
        asked.result = Some(Ending::Response(prost_types::Any {
            type_url: EvaluateErasureResponse::type_url(),
            value: response.encode_to_vec(),
        }));
        let document = operation(&asked).unwrap();
        assert_eq!(
            document["response"],
            json!({
                "verdicts": [{
                    "judge": "",
                    "edited": { "ua": 0.5, "ira": null, "cra": 1.0 },
                    "base": null,
                    "concept": "",
                    "sampler": "SAMPLER_LCM",
                    "measures": null,
                }],
                "manifest_uri": "",
                "manifest_sha256": "",
                "unet_evaluations": 0,
                "files": [],
                "evaluation_json": "",
            })
        );
        asked.metadata.as_mut().unwrap().value = vec![0xff];
        assert!(matches!(operation(&asked), Err(RemoteError::Answer(_))));
    }
}
