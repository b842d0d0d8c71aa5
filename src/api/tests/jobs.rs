//! Operations: submitted once, seen by their owner, watched, cancelled, listed.

use std::time::Duration;

use futures::StreamExt as _;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::world::{World, ada, bob, caller, erase_cat, fields, from, refusal, unpacked};
use crate::{
    auth::{Caller, Role},
    catalogue::BUILTIN,
    jobs::{Failure, FailureReason, JobSummary, StateName, Timestamp, Transition, Work},
    proto::{
        google::longrunning::{
            CancelOperationRequest, DeleteOperationRequest, ListOperationsRequest, Operation,
            WaitOperationRequest, operation::Result as Ending, operations_server::Operations,
        },
        keystep::v1::{
            ConceptKind, EvaluateErasureMetadata, EvaluateErasureRequest, GetModelRequest,
            JobState, ListModelsRequest, ModelKind, PublishResultRequest, Sampler,
            UnlearnConceptMetadata, UnlearnConceptRequest, UnlearnConceptResponse,
            WatchOperationRequest, WatchOperationResponse,
            unlearning_service_server::UnlearningService, watch_operation_response::Update,
        },
    },
    spec::SamplerKind,
};

const ID: &str = "6b1f6f0e-8a8d-4f0e-9b57-0c6c1d1f2a3b";

fn metadata(operation: &Operation) -> UnlearnConceptMetadata {
    unpacked(operation.metadata.as_ref())
}

fn response(operation: &Operation) -> UnlearnConceptResponse {
    match &operation.result {
        Some(Ending::Response(any)) => unpacked(Some(any)),
        other => panic!("{other:?}"),
    }
}

async fn cancel(world: &World, caller: &Caller, name: &str) -> Result<(), Status> {
    let request = CancelOperationRequest { name: name.to_owned() };
    world.operations.cancel_operation(from(caller, request)).await.map(|_| ())
}

async fn delete(world: &World, caller: &Caller, name: &str) -> Result<(), Status> {
    let request = DeleteOperationRequest { name: name.to_owned() };
    world.operations.delete_operation(from(caller, request)).await.map(|_| ())
}

/// Everything that a watch sends.
async fn watched(
    world: &World,
    caller: &Caller,
    name: &str,
    after_sequence: u64,
) -> Result<Vec<Result<WatchOperationResponse, Status>>, Status> {
    let request = WatchOperationRequest { name: name.to_owned(), after_sequence };
    let stream = world.unlearning.watch_operation(from(caller, request)).await?.into_inner();
    Ok(stream.collect().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_one_operation() {
    let world = World::new();
    let request = UnlearnConceptRequest { request_id: ID.to_owned(), ..erase_cat() };
    let first = world.unlearn(&ada(), request.clone()).await.unwrap();
    assert!(!first.done);
    let metadata_of = metadata(&first);
    assert_eq!(metadata_of.state(), JobState::Queued);
    assert_eq!(
        (metadata_of.request_id.as_str(), metadata_of.concepts.as_slice()),
        (ID, &["cat".to_owned()][..])
    );
    // The server's pick stays, and is metadata_of.
    let again = world.unlearn(&ada(), request.clone()).await.unwrap();
    assert_eq!((&again.name, metadata(&again).seed), (&first.name, metadata_of.seed));

    let other = UnlearnConceptRequest { priority: 1, ..request.clone() };
    let refused = world.unlearn(&ada(), other).await;
    assert_eq!(refusal(refused), (Code::AlreadyExists, "REQUEST_ID_REUSED".to_owned()));
    let theirs = world.unlearn(&bob(), request.clone()).await.unwrap();
    assert_ne!(theirs.name, first.name);

    // Without an id each request is its own.
    let other = world.unlearn(&ada(), erase_cat()).await.unwrap();
    assert_ne!(other.name, first.name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_alike_after_its_deadline() {
    let world = World::new();
    let request = UnlearnConceptRequest {
        request_id: ID.to_owned(),
        deadline: Some(prost_types::Timestamp { seconds: 1_800_000_060, nanos: 0 }),
        ..erase_cat()
    };
    let first = world.unlearn(&ada(), request.clone()).await.unwrap();
    world.advance(Duration::from_mins(2));
    assert_eq!(world.unlearn(&ada(), request.clone()).await.unwrap().name, first.name);
    let late = UnlearnConceptRequest { request_id: String::new(), ..request };
    assert_eq!(fields(&world.unlearn(&ada(), late).await.unwrap_err()), ["deadline"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_work_is_done_once_unless_forced() {
    let world = World::new();
    let first = world.unlearn(&ada(), erase_cat()).await.unwrap();
    let job = world.claim().await;
    world.finish(&job).await;
    let again = world.unlearn(&ada(), erase_cat()).await.unwrap();
    assert_eq!((&again.name, again.done), (&first.name, true));
    let result = response(&again);
    assert_eq!(result.model, format!("checkpoints/{}", job.id));
    assert_eq!((result.updates, result.key_steps), (4, vec![2]));
    assert!(metadata(&again).expire_time.is_some());

    for other in [
        UnlearnConceptRequest { force: true, ..erase_cat() },
        UnlearnConceptRequest { seed: Some(0), ..erase_cat() },
        UnlearnConceptRequest { evaluate: Some(false), ..erase_cat() },
        UnlearnConceptRequest { concepts: vec!["dog".to_owned()], ..erase_cat() },
        UnlearnConceptRequest { destination: "s3://out/models/x".to_owned(), ..erase_cat() },
    ] {
        assert_ne!(world.unlearn(&ada(), other).await.unwrap().name, first.name);
    }
    assert_ne!(world.unlearn(&bob(), erase_cat()).await.unwrap().name, first.name);
}

#[tokio::test(flavor = "multi_thread")]
async fn writings_of_one_concept_are_the_same_work() {
    let world = World::new();
    let first = world.unlearn(&ada(), erase_cat()).await.unwrap();
    let job = world.claim().await;
    world.finish(&job).await;
    for text in ["Cat", " cat ", "CAT"] {
        let request = UnlearnConceptRequest { concepts: vec![text.to_owned()], ..erase_cat() };
        let again = world.unlearn(&ada(), request).await.unwrap();
        assert_eq!((&again.name, again.done), (&first.name, true));
    }
    let twice = UnlearnConceptRequest { concepts: vec!["cat".into(), "Cat".into()], ..erase_cat() };
    let status = world.unlearn(&ada(), twice).await.unwrap_err();
    assert_eq!(
        (status.code(), fields(&status)),
        (Code::InvalidArgument, vec!["concepts[1]".into()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_do_not_fit_the_model_are_refused_before_they_wait() {
    let world = World::new();
    let refused = async |request| {
        let status = world.unlearn(&ada(), request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        fields(&status)
    };
    // It fits by itself, and in no sentence.
    let long = UnlearnConceptRequest { concepts: vec!["cat ".repeat(28)], ..erase_cat() };
    assert_eq!(refused(long).await, ["concepts[0]"]);
    // Other texts, the same tokens.
    let concepts = ["star 12", "star 1 2"].map(str::to_owned).to_vec();
    assert_eq!(refused(UnlearnConceptRequest { concepts, ..erase_cat() }).await, ["concepts[1]"]);
    let list = ListOperationsRequest::default();
    let listed = world.operations.list_operations(from(&ada(), list)).await.unwrap();
    assert!(listed.into_inner().operations.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn validation_stores_nothing_and_tells_the_plan() {
    let world = World::new();
    let request = UnlearnConceptRequest { validate_only: true, ..erase_cat() };
    let planned = world.unlearn(&ada(), request).await.unwrap();
    assert_eq!((planned.name.as_str(), planned.done), ("", true));
    assert_eq!(response(&planned).plan.unwrap().updates, 4);
    let list = ListOperationsRequest::default();
    let listed = world.operations.list_operations(from(&ada(), list)).await.unwrap();
    assert!(listed.into_inner().operations.is_empty());
    let unknown = UnlearnConceptRequest {
        validate_only: true,
        base_model: "nothing".to_owned(),
        ..erase_cat()
    };
    let refused = world.unlearn(&ada(), unknown).await;
    assert_eq!(refusal(refused), (Code::NotFound, "MODEL_NOT_FOUND".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_principals_operations_are_not_there() {
    let world = World::new();
    let name = world.unlearn(&ada(), erase_cat()).await.unwrap().name;
    let not_found = || (Code::NotFound, "OPERATION_NOT_FOUND".to_owned());
    assert_eq!(refusal(world.get(&bob(), &name).await), not_found());
    assert_eq!(refusal(cancel(&world, &bob(), &name).await), not_found());
    assert_eq!(refusal(delete(&world, &bob(), &name).await), not_found());
    assert_eq!(refusal(watched(&world, &bob(), &name, 0).await), not_found());
    let wait = WaitOperationRequest { name: name.clone(), timeout: None };
    assert_eq!(refusal(world.operations.wait_operation(from(&bob(), wait)).await), not_found());
    let unknown = "operations/00000000-0000-0000-0000-000000000001";
    assert_eq!(refusal(world.get(&ada(), unknown).await), not_found());
    let malformed = world.get(&ada(), "operations/1").await.unwrap_err();
    assert_eq!(
        (malformed.code(), fields(&malformed)),
        (Code::InvalidArgument, vec!["name".into()])
    );

    let list = || ListOperationsRequest::default();
    let theirs = world.operations.list_operations(from(&bob(), list())).await.unwrap();
    assert!(theirs.into_inner().operations.is_empty());
    let admin = caller("root", &[Role::Admin]);
    assert_eq!(world.get(&admin, &name).await.unwrap().name, name);
    let all = world.operations.list_operations(from(&admin, list())).await.unwrap();
    assert_eq!(all.into_inner().operations.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_asked_for() {
    let world = World::new();
    let reader = caller("ada", &[Role::Read]);
    let refused = world.unlearn(&reader, erase_cat()).await;
    assert_eq!(refusal(refused), (Code::PermissionDenied, "ROLE_MISSING".to_owned()));
    let nobody = tonic::Request::new(erase_cat());
    let refused = world.unlearning.unlearn_concept(nobody).await;
    assert_eq!(refusal(refused), (Code::Unauthenticated, "CALLER_UNKNOWN".to_owned()));
    let submitter = caller("ada", &[Role::Submit]);
    let name = world.unlearn(&submitter, erase_cat()).await.unwrap().name;
    assert_eq!(refusal(world.get(&submitter, &name).await).0, Code::PermissionDenied);
    assert!(cancel(&world, &submitter, &name).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_follows_the_log_and_resumes_anywhere() {
    let world = World::new();
    let name = world.unlearn(&ada(), erase_cat()).await.unwrap().name;
    let request = WatchOperationRequest { name: name.clone(), after_sequence: 0 };
    let answer = world.unlearning.watch_operation(from(&ada(), request)).await.unwrap();
    let mut stream = answer.into_inner();
    let mut seen = Vec::new();
    let next = stream.next().await.unwrap().unwrap();
    seen.push(next);
    // What comes while the watch waits.
    let job = world.claim().await;
    seen.push(stream.next().await.unwrap().unwrap());
    world.finish(&job).await;
    while let Some(message) = stream.next().await {
        seen.push(message.unwrap());
    }
    let sequences: Vec<u64> = seen.iter().filter_map(sequence).collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5]);
    let Some(Update::Operation(last)) = &seen.last().unwrap().update else { panic!("{seen:?}") };
    assert!(last.done);

    for after in 0..=7 {
        let rest = watched(&world, &ada(), &name, after).await.unwrap();
        let rest: Vec<_> = rest.into_iter().map(Result::unwrap).collect();
        let expected: Vec<u64> = (after + 1..=5).collect();
        assert_eq!(rest.iter().filter_map(sequence).collect::<Vec<_>>(), expected);
        assert!(matches!(rest.last().unwrap().update, Some(Update::Operation(_))));
    }
}

fn sequence(message: &WatchOperationResponse) -> Option<u64> {
    match &message.update {
        Some(Update::Event(event)) => Some(event.sequence),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_operation_is_done_and_can_be_deleted() {
    let world = World::new();
    let name = world.unlearn(&ada(), erase_cat()).await.unwrap().name;
    let refused = delete(&world, &ada(), &name).await;
    assert_eq!(refusal(refused), (Code::FailedPrecondition, "OPERATION_NOT_DONE".to_owned()));
    for _ in 0..2 {
        cancel(&world, &ada(), &name).await.unwrap();
    }
    let cancelled = world.get(&ada(), &name).await.unwrap();
    let Some(Ending::Error(error)) = &cancelled.result else { panic!("{cancelled:?}") };
    assert_eq!(error.code, Code::Cancelled as i32);
    assert_eq!(error.details.len(), 1);
    delete(&world, &ada(), &name).await.unwrap();
    assert_eq!(refusal(world.get(&ada(), &name).await).0, Code::NotFound);

    // A job in work is asked.
    let name = world.unlearn(&ada(), erase_cat()).await.unwrap().name;
    world.claim().await;
    cancel(&world, &ada(), &name).await.unwrap();
    let asked = world.get(&ada(), &name).await.unwrap();
    assert!(!asked.done && metadata(&asked).cancel_requested);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_operation_says_why() {
    let world = World::new();
    let name = world.unlearn(&ada(), erase_cat()).await.unwrap().name;
    let job = world.claim().await;
    let failure = Failure::new(FailureReason::OutOfMemory, "too little memory")
        .with("needMebibytes", &9)
        .with("freeMebibytes", &1);
    let retry_at = Timestamp(0);
    world.record(&job, Transition::Failed { failure, retry_at }).await;
    let failed = world.get(&ada(), &name).await.unwrap();
    let Some(Ending::Error(error)) = failed.result else { panic!("{:?}", failed.result) };
    assert_eq!(error.code, Code::ResourceExhausted as i32);
    assert!(error.details[0].type_url.ends_with("google.rpc.ErrorInfo"));
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_have_limits() {
    let world = World::new();
    for _ in 0..5 {
        world.unlearn(&ada(), erase_cat()).await.unwrap();
    }
    let status = world.unlearn(&ada(), erase_cat()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "PRINCIPAL_QUEUE_FULL");
    assert_eq!(details.error_info().unwrap().metadata["limit"], "5");
    assert!(details.quota_failure().is_some() && details.retry_info().is_some());
    let narrow = Caller { queued_jobs: Some(1), ..bob() };
    world.unlearn(&narrow, erase_cat()).await.unwrap();
    assert_eq!(refusal(world.unlearn(&narrow, erase_cat()).await).0, Code::ResourceExhausted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_has_a_highest_priority() {
    let world = World::new();
    let mut asked = erase_cat();
    asked.priority = 1;
    let lowly = Caller { highest_priority: Some(0), ..bob() };
    let status = world.unlearn(&lowly, asked.clone()).await.unwrap_err();
    assert_eq!(
        (status.code(), fields(&status)),
        (Code::InvalidArgument, vec!["priority".to_owned()])
    );
    asked.priority = 0;
    world.unlearn(&lowly, asked.clone()).await.unwrap();
    asked.priority = 100;
    world.unlearn(&bob(), asked).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_hold_every_operation_once() {
    let world = World::new();
    let mut names = Vec::new();
    for _ in 0..5 {
        names.insert(0, world.unlearn(&ada(), erase_cat()).await.unwrap().name);
    }
    let mut request = ListOperationsRequest {
        name: "operations".to_owned(),
        filter: "state = QUEUED".to_owned(),
        page_size: 2,
        ..ListOperationsRequest::default()
    };
    let mut listed = Vec::new();
    loop {
        let answer = world.operations.list_operations(from(&ada(), request.clone())).await;
        let page = answer.unwrap().into_inner();
        assert!(page.operations.len() <= 2);
        listed.extend(page.operations);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(listed.iter().map(|one| one.name.clone()).collect::<Vec<_>>(), names);
    let positions: Vec<u32> = listed.iter().map(|one| metadata(one).queue_position).collect();
    assert_eq!(positions, [4, 3, 2, 1, 0]);

    let wrong = ListOperationsRequest {
        name: "jobs".to_owned(),
        filter: "colour = red".to_owned(),
        page_size: -1,
        page_token: "x".to_owned(),
        ..ListOperationsRequest::default()
    };
    let status = world.operations.list_operations(from(&ada(), wrong)).await.unwrap_err();
    assert_eq!(fields(&status), ["name", "page_size", "page_token", "filter"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_with_the_operation_or_with_its_time() {
    let world = World::new();
    let name = world.unlearn(&ada(), erase_cat()).await.unwrap().name;
    let wait = |timeout| {
        let request = WaitOperationRequest { name: name.clone(), timeout };
        world.operations.wait_operation(from(&ada(), request))
    };
    let short = Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 });
    assert!(!wait(short).await.unwrap().into_inner().done);
    let finish = async {
        let job = world.claim().await;
        world.finish(&job).await
    };
    let (waited, _): (_, JobSummary) = tokio::join!(wait(None), finish);
    assert!(waited.unwrap().into_inner().done);
    let negative = wait(Some(prost_types::Duration { seconds: -1, nanos: 0 })).await;
    assert_eq!(fields(&negative.unwrap_err()), ["timeout"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_server_refuses_calls_and_ends_streams() {
    let world = World::new();
    let name = world.unlearn(&ada(), erase_cat()).await.unwrap().name;
    let drain = async {
        tokio::task::yield_now().await;
        world.draining.cancel();
    };
    let ada = ada();
    let (watched, ()) = tokio::join!(watched(&world, &ada, &name, 1), drain);
    let mut watched = watched.unwrap();
    let last = watched.pop().unwrap().unwrap_err();
    assert_eq!(last.code(), Code::Unavailable);
    assert!(last.get_details_retry_info().is_some());
    let refused = world.unlearn(&ada, erase_cat()).await;
    assert_eq!(refusal(refused), (Code::Unavailable, "DRAINING".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_model_is_in_the_catalogue_and_can_be_judged() {
    let world = World::new();
    world.unlearn(&ada(), erase_cat()).await.unwrap();
    let job = world.claim().await;
    world.finish(&job).await;
    let list = ListModelsRequest { page_size: 1, page_token: String::new() };
    let first = world.unlearning.list_models(from(&ada(), list)).await.unwrap().into_inner();
    assert_eq!(first.models[0].name, BUILTIN);
    let list = ListModelsRequest { page_size: 1, page_token: first.next_page_token };
    let second = world.unlearning.list_models(from(&ada(), list)).await.unwrap().into_inner();
    let erased = &second.models[0];
    assert_eq!((erased.kind(), erased.base_model.as_str()), (ModelKind::Erased, BUILTIN));
    let get = || GetModelRequest { name: erased.name.clone() };
    assert!(world.unlearning.get_model(from(&ada(), get())).await.is_ok());
    let theirs = world.unlearning.get_model(from(&bob(), get())).await;
    assert_eq!(refusal(theirs), (Code::NotFound, "MODEL_NOT_FOUND".to_owned()));

    let judge = |edited: &str| EvaluateErasureRequest {
        base_model: BUILTIN.to_owned(),
        edited_model: edited.to_owned(),
        concept: "cat".to_owned(),
        concept_kind: ConceptKind::ObjectClass.into(),
        ..EvaluateErasureRequest::default()
    };
    let request = from(&ada(), judge(&erased.name));
    let operation = world.unlearning.evaluate_erasure(request).await.unwrap().into_inner();
    let metadata_of: EvaluateErasureMetadata = unpacked(operation.metadata.as_ref());
    assert_eq!(
        (metadata_of.edited_model, metadata_of.concept),
        (erased.name.clone(), "cat".to_owned())
    );
    let job = world.claim().await;
    let Work::Evaluate(work) = &job.work else { panic!("{:?}", job.work) };
    // 8 styles a row: 4 pictures of each make 32.
    assert_eq!((work.spec.target_seeds, work.spec.seed, work.spec.steps), (4, 500_000, 20));
    assert_eq!(work.spec.sampler, None);

    // Another sampler is other work; one that cannot take the steps waits for no device to be metadata_of so.
    let drawn = |sampler: Sampler, steps| EvaluateErasureRequest {
        sampler: sampler.into(),
        steps: Some(steps),
        ..judge(&erased.name)
    };
    let request = from(&ada(), drawn(Sampler::Lcm, 20));
    let other = world.unlearning.evaluate_erasure(request).await.unwrap().into_inner();
    assert_ne!(other.name, operation.name);
    let job = world.claim().await;
    let Work::Evaluate(work) = &job.work else { panic!("{:?}", job.work) };
    assert_eq!(work.spec.sampler, Some(SamplerKind::Lcm));
    let refused = world.unlearning.evaluate_erasure(from(&ada(), drawn(Sampler::Lcm, 60))).await;
    assert_eq!(fields(&refused.unwrap_err()), ["steps"]);

    // Judges are those that the configuration names, and other judges are other work.
    let asked = |judges: &[&str]| EvaluateErasureRequest {
        judges: judges.iter().map(|name| (*name).to_owned()).collect(),
        ..judge(&erased.name)
    };
    let by_vit = world.unlearning.evaluate_erasure(from(&ada(), asked(&["vit"]))).await;
    assert_ne!(by_vit.unwrap().into_inner().name, operation.name);
    let job = world.claim().await;
    let Work::Evaluate(work) = &job.work else { panic!("{:?}", job.work) };
    assert_eq!(work.judges, ["vit"]);
    let refused =
        world.unlearning.evaluate_erasure(from(&ada(), asked(&["vit", "q16", "vit"]))).await;
    assert_eq!(fields(&refused.unwrap_err()), ["judges[1]", "judges[2]"]);

    let refused = world.unlearning.evaluate_erasure(from(&ada(), judge(BUILTIN))).await;
    assert_eq!(fields(&refused.unwrap_err()), ["edited_model"]);
    let of_erased = UnlearnConceptRequest { base_model: erased.name.clone(), ..erase_cat() };
    assert_eq!(fields(&world.unlearn(&ada(), of_erased).await.unwrap_err()), ["base_model"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_kept_is_published_by_its_owner_alone() {
    let world = World::new();
    let name = world.unlearn(&ada(), erase_cat()).await.unwrap().name;
    let publish = async |caller: &Caller| {
        let request = PublishResultRequest { name: name.clone() };
        let answer = world.unlearning.publish_result(from(caller, request)).await;
        answer.map(tonic::Response::into_inner)
    };
    // Of a job that waits, nothing changes.
    assert_eq!(metadata(&publish(&ada()).await.unwrap()).state(), JobState::Queued);
    let job = world.claim().await;
    world.record(&job, Transition::Loaded).await;
    world.record(&job, Transition::EngineDone).await;
    let failure = Failure::new(FailureReason::StorageUnavailable, "the bucket is away");
    world.record(&job, Transition::Unpublished { failure }).await;
    let failed = world.get(&ada(), &name).await.unwrap();
    assert!(failed.done && metadata(&failed).result_expire_time.is_some());

    assert_eq!(refusal(publish(&bob()).await).0, Code::NotFound);
    let reader = caller("ada", &[Role::Read]);
    assert_eq!(refusal(publish(&reader).await).0, Code::PermissionDenied);
    for _ in 0..2 {
        let asked = publish(&ada()).await.unwrap();
        assert!(!asked.done);
        assert_eq!(metadata(&asked).state(), JobState::Publishing);
        assert_eq!(metadata(&asked).result_expire_time, None);
    }
    let claimed = world.claim().await;
    assert_eq!((claimed.id, claimed.attempt), (job.id, 1));
    let done = world.record(&claimed, Transition::CancelObserved).await;
    let refused = refusal(publish(&ada()).await);
    assert_eq!(refused, (Code::FailedPrecondition, "RESULT_NOT_KEPT".to_owned()));
    assert_eq!(done.state.name(), StateName::Cancelled);
    // Every event of both lives is there, and the watch ends.
    let messages = watched(&world, &ada(), &name, 0).await.unwrap();
    assert_eq!(messages.len() as u64, done.last_sequence.0 + 1);
}
