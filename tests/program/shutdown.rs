//! Signals to end the program, with the real engine and real calls: in whatever phase a job is, it is
//! finished or given back, goes on after a restart, and ends with the bytes of a run that was not
//! disturbed.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]
#![allow(unreachable_pub, reason = "a test has no public interface")]

mod program;

use std::{collections::BTreeMap, fs, time::Duration};

use keystep::proto::{
    google::longrunning::{ListOperationsRequest, WaitOperationRequest},
    keystep::v1::{GenerateRequest, JobState, ListModelsRequest, generate_response},
};
use program::{Followed, Home, Served, assert_same, assert_sent_elsewhere, metadata, soon};
use tonic::{Code, Request};
use tonic_health::pb::health_check_response::ServingStatus;

/// Updates of a job that is to be met while it trains.
const LONG_JOB: u32 = 40;
const SHORT_JOB: u32 = 3;
/// Gives the job under way back at once.
const NO_GRACE: [(&str, &str); 1] = [("KEYSTEP__SHUTDOWN__GRACE", "0s")];
const MOMENT: Duration = Duration::from_millis(5);

async fn terminated(served: Served) {
    served.signal("-TERM");
    assert_eq!(served.ended().await.code(), Some(0));
}

/// What undisturbed jobs come to, by their numbers of updates; the seed is 5.
async fn undisturbed(updates: &[u32]) -> Vec<BTreeMap<String, Vec<u8>>> {
    let home = Home::new();
    let served = home.serve(&[]).await;
    let mut results = Vec::new();
    for updates in updates {
        let mut job = Followed::new(&served.submit(*updates, 5).await);
        job.resume(&served).await;
        results.push(Home::files(&job.rest().await.unwrap()));
    }
    terminated(served).await;
    results
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_in_any_state_costs_nothing_and_changes_no_byte() {
    let expected = undisturbed(&[LONG_JOB, SHORT_JOB]).await;
    let home = Home::new();

    // While it waits, is prepared and trains: given back each time.
    let served = home.serve(&NO_GRACE).await;
    let mut long = Followed::new(&served.submit(LONG_JOB, 5).await);
    let mut short = Followed::new(&served.submit(SHORT_JOB, 5).await);
    long.resume(&served).await;
    short.resume(&served).await;
    long.until_state(JobState::Preparing).await;
    served.signal("-TERM");
    long.cut().await;
    short.cut().await;
    assert_eq!(served.ended().await.code(), Some(0));
    assert_eq!(home.manifests(), [""; 0]);

    let mut trained = 0;
    for part in 1..=2 {
        let served = home.serve(&NO_GRACE).await;
        long.resume(&served).await;
        trained = trained.max(LONG_JOB / 4 * part);
        long.until_updates(trained).await;
        served.signal("-TERM");
        long.cut().await;
        assert_eq!(served.ended().await.code(), Some(0));
        assert_eq!(home.manifests(), [""; 0], "it was done before it could be drained");
    }

    // While it is published: what is left then is short, and is finished.
    let served = home.serve(&NO_GRACE).await;
    long.resume(&served).await;
    long.until_state(JobState::Publishing).await;
    served.signal("-TERM");
    assert_eq!(served.ended().await.code(), Some(0));
    assert_eq!(home.manifests(), [long.name.clone()]);

    let served = home.serve(&NO_GRACE).await;
    long.resume(&served).await;
    let done = long.rest().await.unwrap();
    assert_eq!(metadata(&done).attempt, 1, "a drain is no attempt: {:?}", long.states());
    assert_same(&Home::files(&done), &expected[0], "the long job");
    let states = long.states();
    let count = |wanted| states.iter().filter(|state| **state == wanted).count();
    assert_eq!((count(JobState::Publishing), count(JobState::Succeeded)), (1, 1), "{states:?}");
    // Submitted, and given back three times.
    assert_eq!(count(JobState::Queued), 4, "{states:?}");

    short.resume(&served).await;
    let done = short.rest().await.unwrap();
    assert_eq!(metadata(&done).attempt, 1, "it only waited: {:?}", short.states());
    assert_same(&Home::files(&done), &expected[1], "the short job");
    let listed = served.operations().list_operations(ListOperationsRequest::default()).await;
    assert_eq!(listed.unwrap().into_inner().operations.len(), 2, "none is lost, none doubled");
    assert_eq!(home.manifests().len(), 2);
    terminated(served).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once_and_the_job_survives() {
    let expected = undisturbed(&[LONG_JOB]).await;
    let home = Home::new();
    // Without the second signal it would wait for the job.
    let served = home.serve(&[("KEYSTEP__SHUTDOWN__GRACE", "1h")]).await;
    let mut job = Followed::new(&served.submit(LONG_JOB, 5).await);
    job.resume(&served).await;
    job.until_updates(LONG_JOB / 3).await;
    served.signal("-TERM");
    job.cut().await;
    served.signal("-TERM");
    assert_eq!(served.ended().await.code(), Some(130));
    assert_eq!(home.manifests(), [""; 0], "it was done before the second signal");

    let served = home.serve(&[]).await;
    job.resume(&served).await;
    let done = job.rest().await.unwrap();
    assert_same(&Home::files(&done), &expected[0], "after two signals");
    assert_eq!(home.manifests(), [job.name.clone()]);
    terminated(served).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_under_a_call_costs_the_job_beside_it_nothing() {
    const ATTEMPTS: [(&str, &str); 1] = [("KEYSTEP__JOBS__MAX_ATTEMPTS", "2")];
    let expected = undisturbed(&[LONG_JOB]).await;
    let home = Home::new();
    let mut served = home.serve(&ATTEMPTS).await;
    let mut job = Followed::new(&served.submit(LONG_JOB, 5).await);
    for kill in 1..=4 {
        job.resume(&served).await;
        let running = |state: &JobState| *state == JobState::Running;
        while job.states().iter().filter(|state| running(state)).count() < kill {
            job.until_more().await;
        }
        let drawing = GenerateRequest {
            model: "emoji-canvas".to_owned(),
            prompt: "a cat".to_owned(),
            steps: Some(1_000),
            count: Some(8),
            ..GenerateRequest::default()
        };
        let mut drawn = served.unlearning().generate(drawing).await.unwrap().into_inner();
        while !home.path("data/serving").exists() {
            soon(drawn.message()).await.unwrap().unwrap();
        }
        served.signal("-KILL");
        assert_eq!(served.ended().await.code(), None);
        served = home.serve(&ATTEMPTS).await;
    }
    job.resume(&served).await;
    let done = job.rest().await.unwrap();
    assert_eq!(metadata(&done).attempt, 1, "the call may have been what killed it");
    assert_same(&Home::files(&done), &expected[0], "after four kills");
    terminated(served).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_goes_first_then_calls_then_streams() {
    let home = Home::new();
    let settings = [NO_GRACE[0], ("KEYSTEP__SHUTDOWN__DRAIN_DELAY", "3s")];
    let served = home.serve(&settings).await;
    assert_eq!(served.health().await, ServingStatus::Serving);
    let mut job = Followed::new(&served.submit(LONG_JOB * 100, 5).await);
    job.resume(&served).await;
    job.until_state(JobState::Running).await;
    let drawing = GenerateRequest {
        model: "emoji-canvas".to_owned(),
        prompt: "a cat".to_owned(),
        steps: Some(1_000),
        count: Some(8),
        ..GenerateRequest::default()
    };
    let drawing = served.unlearning().generate(drawing).await.unwrap();
    let mut drawing = drawing.into_inner();
    while !matches!(
        soon(drawing.message()).await.unwrap().unwrap().update,
        Some(generate_response::Update::StepsDone(_))
    ) {}
    let wait = WaitOperationRequest { name: job.name.clone(), timeout: None };
    let mut operations = served.operations();
    let waiting = tokio::spawn(async move { operations.wait_operation(wait).await });

    served.signal("-TERM");
    // Load balancers notice, while calls are still answered.
    soon(async {
        while served.health().await == ServingStatus::Serving {
            tokio::time::sleep(MOMENT).await;
        }
    })
    .await;
    assert_eq!(served.health().await, ServingStatus::NotServing);
    let seen = served.get(&job.name).await.unwrap();
    assert!(!seen.done);
    let queued = served.submit(SHORT_JOB, 6).await;

    // Then open calls are sent elsewhere.
    job.cut().await;
    let drawn = loop {
        match soon(drawing.message()).await {
            Ok(message) => assert!(message.is_some(), "the drawing was done before"),
            Err(status) => break status,
        }
    };
    assert_sent_elsewhere(&drawn);
    assert_sent_elsewhere(&soon(waiting).await.unwrap().unwrap_err());
    let refused = served.get(&job.name).await.unwrap_err();
    // The client itself cancels a request that the end of its connection overtakes.
    assert!([Code::Unavailable, Code::Cancelled].contains(&refused.code()), "{refused:?}");
    assert_eq!(served.ended().await.code(), Some(0));

    // What was taken during the delay is kept.
    let served = home.serve(&NO_GRACE).await;
    assert!(!served.get(&queued.name).await.unwrap().done);
    job.resume(&served).await;
    job.until_state(JobState::Running).await;
    terminated(served).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hang_up_reads_the_tokens_again() {
    let home = Home::new();
    let entry = |token: &str| {
        let sha256 = keystep::artifacts::digest::digest_bytes(token.as_bytes());
        format!("[[token]]\nsha256 = \"{sha256}\"\nprincipal = \"ada\"\nroles = [\"read\"]\n\n")
    };
    let file = home.path("tokens.toml");
    fs::write(&file, entry("first")).unwrap();
    let path = file.to_str().unwrap();
    let served = home.serve(&[("KEYSTEP__AUTHENTICATION__TOKEN_FILE", path)]).await;
    let call = |token: &str| {
        let mut request = Request::new(ListModelsRequest::default());
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        let mut client = served.unlearning();
        async move { client.list_models(request).await.map_err(|status| status.code()) }
    };
    assert!(call("first").await.is_ok());
    assert_eq!(call("second").await.unwrap_err(), Code::Unauthenticated);
    fs::write(&file, entry("second")).unwrap();
    served.signal("-HUP");
    soon(async {
        while call("first").await.is_ok() {
            tokio::time::sleep(MOMENT).await;
        }
    })
    .await;
    assert!(call("second").await.is_ok());
    // The file is also read again at intervals, so the log must show the hang-up.
    let log = home.log();
    assert!(log.contains("tokens and certificates are read again"), "{log}");
    terminated(served).await;
}
