//! `keystep unlearn --server`.

use super::{submit::JobSubmission, wire};
use crate::{
    cli::{CliError, unlearn::UnlearnArguments},
    proto::keystep::v1::{
        UnlearnConceptRequest, unlearn_concept_request::WindowSource,
        unlearning_service_client::UnlearningServiceClient,
    },
};

/// Submits an erasure and follows it.
pub(in crate::cli) fn run(arguments: &UnlearnArguments) -> Result<(), CliError> {
    let only_local = arguments.model.only_local(&[
        #[cfg(feature = "server")]
        ("--out", arguments.out.is_some()),
    ]);
    let server = arguments.place.server(&only_local)?;
    let request = request(arguments)?;
    let submission = JobSubmission {
        server,
        submit: &arguments.submit,
        request_id: &request.request_id,
        quiet: arguments.quiet.quiet,
    };
    submission.run(&request, async |channel, request| {
        UnlearningServiceClient::new(channel).unlearn_concept(request).await
    })?;
    Ok(())
}

fn request(arguments: &UnlearnArguments) -> Result<UnlearnConceptRequest, CliError> {
    let base_model = match &arguments.base_model {
        Some(name) => name.clone(),
        None if arguments.model.model.is_some() => arguments.model.name()?.to_owned(),
        None => {
            return Err(CliError::Usage("--base-model is missing; --server needs it".to_owned()));
        }
    };
    let concepts = arguments.concepts()?;
    let window = arguments.window.given(arguments.method.method, &concepts)?;
    let window_source = match (&arguments.window.score_digest, window) {
        (Some(digest), _) => Some(WindowSource::ScoreDigest(digest.clone())),
        (None, Some((window, _))) => Some(WindowSource::Window(wire::window(window))),
        (None, None) => None,
    };
    let (scope, scope_name_contains) =
        arguments.scope.as_ref().map(wire::scope).unwrap_or_default();
    let submission = arguments.submit.submission();
    let replacement = arguments.replace_with.as_ref();
    Ok(UnlearnConceptRequest {
        request_id: submission.request_id,
        base_model,
        concepts: arguments.concept.clone(),
        concept_kind: wire::kind(arguments.kind()?).into(),
        seed: Some(arguments.seed),
        validate_only: submission.validate_only,
        window_source,
        replacements: replacement
            .map(|text| arguments.concept.iter().map(|concept| (concept.clone(), text.clone())))
            .into_iter()
            .flatten()
            .collect(),
        preserve: arguments.preserve.clone(),
        scope: scope.into(),
        scope_name_contains,
        method: wire::method(arguments.method.method).into(),
        updates: arguments.method.updates.map(|updates| u32::try_from(updates).unwrap_or(u32::MAX)),
        learning_rate: arguments.method.learning_rate,
        vocabulary: arguments.vocabulary.given()?.map(wire::vocabulary),
        output_formats: arguments.output_format.iter().map(|format| (*format).into()).collect(),
        destination: submission.destination,
        labels: submission.labels,
        deadline: submission.deadline,
        priority: submission.priority,
        force: submission.force,
        evaluate: match (arguments.evaluate, arguments.no_evaluate) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        },
        evaluate_sampler: wire::sampler(arguments.sampler).into(),
        key_steps: None,
    })
}
