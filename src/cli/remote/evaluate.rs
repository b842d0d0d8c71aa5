//! `keystep evaluate --server`.

use super::{submit::JobSubmission, wire};
use crate::{
    cli::{CliError, evaluate::EvaluateArguments},
    proto::keystep::v1::{
        EvaluateErasureRequest, unlearning_service_client::UnlearningServiceClient,
    },
};

/// Submits a judgement and follows it.
pub(in crate::cli) fn run(arguments: &EvaluateArguments) -> Result<(), CliError> {
    let only_local = arguments.model.only_local(&[
        #[cfg(feature = "server")]
        ("--out", arguments.out.is_some()),
        #[cfg(feature = "server")]
        ("--sheet", arguments.sheet.is_some()),
    ]);
    let server = arguments.place.server(&only_local)?;
    let request = request(arguments)?;
    let submission = JobSubmission {
        server,
        json: server.json,
        submit: &arguments.submit,
        request_id: &request.request_id,
        quiet: arguments.quiet.quiet,
    };
    submission.run(&request, async |channel, request| {
        UnlearningServiceClient::new(channel).evaluate_erasure(request).await
    })?;
    Ok(())
}

fn request(arguments: &EvaluateArguments) -> Result<EvaluateErasureRequest, CliError> {
    let submission = arguments.submit.submission();
    Ok(EvaluateErasureRequest {
        request_id: submission.request_id,
        base_model: arguments.base.clone(),
        edited_model: arguments.model.name()?.to_owned(),
        concept: arguments.concept.clone(),
        concept_kind: wire::kind(arguments.kind).into(),
        vocabulary: arguments.judging.vocabulary.given()?.map(wire::vocabulary),
        target_seeds: arguments.judging.target_seeds,
        retain_seeds: arguments.judging.retain_seeds,
        steps: arguments.judging.steps,
        guidance_scale: arguments.judging.guidance_scale,
        seed: Some(arguments.judging.seed),
        labels: submission.labels,
        deadline: submission.deadline,
        priority: submission.priority,
        force: submission.force,
        validate_only: submission.validate_only,
        destination: submission.destination,
        sampler: wire::sampler(arguments.judging.sampler.sampler).into(),
        show: arguments.show,
        distances: arguments.distances,
        suites: arguments.suites.suites()?.into_iter().map(wire::suite).collect(),
        probes: arguments.suites.probes().map(wire::probes),
        attacks: arguments.attacks.iter().map(wire::attack).collect(),
        judges: arguments.judging.judge.clone(),
    })
}
