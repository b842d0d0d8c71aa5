//! Calls that are bound to their caller.

use std::time::Duration;

use futures::StreamExt as _;
use tonic::Code;
use tonic_types::StatusExt;

use super::world::{World, ada, bob, erase_cat, fields, from, refusal};
use crate::{
    catalogue::BUILTIN,
    device::DeviceSettings,
    jobs::Work,
    outcome::{Picture, TimestepScores},
    proto::keystep::v1::{
        ConceptKind, GenerateRequest, GenerateResponse, ScoreMeasure, ScoreSummary,
        ScoreTimestepsRequest, ScoreTimestepsResponse, UnlearnConceptRequest,
        generate_response::Update, score_timesteps_response, unlearn_concept_request::WindowSource,
        unlearning_service_server::UnlearningService,
    },
    report::{PictureNotes, encode_png},
    spec::{KeySteps, Method},
    worker::testing::FakeScript,
};

fn draw() -> GenerateRequest {
    GenerateRequest {
        model: BUILTIN.to_owned(),
        prompt: "a cat".to_owned(),
        steps: Some(4),
        ..GenerateRequest::default()
    }
}

fn score_cat() -> ScoreTimestepsRequest {
    ScoreTimestepsRequest {
        model: BUILTIN.to_owned(),
        concept: "cat".to_owned(),
        concept_kind: ConceptKind::ObjectClass.into(),
        ..ScoreTimestepsRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_come_with_their_seeds() {
    let world = World::new();
    let request =
        GenerateRequest { seeds: vec![7], count: Some(2), preview_every_steps: 2, ..draw() };
    let answer = world.unlearning.generate(from(&ada(), request)).await.unwrap();
    let messages: Vec<GenerateResponse> = answer.into_inner().map(Result::unwrap).collect().await;
    let pictures: Vec<_> = messages
        .iter()
        .filter_map(|message| match &message.update {
            Some(Update::ImagePng(png)) => Some((message.image_index, message.seed, png.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(
        pictures.iter().map(|(index, seed, _)| (*index, *seed)).collect::<Vec<_>>(),
        [(0, 7), (1, 8)]
    );
    for (_, _, png) in &pictures {
        let reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        assert_eq!(reader.info().width, 8);
        assert!(reader.info().utf8_text.iter().any(|chunk| chunk.keyword == "prompt"));
    }
    let has = |wanted: fn(&Update) -> bool| {
        messages.iter().filter_map(|message| message.update.as_ref()).any(wanted)
    };
    assert!(has(|update| matches!(update, Update::PreviewPng(_))));
    let is_last = |message: &GenerateResponse| {
        message.update == Some(Update::StepsDone(8)) && message.steps_total == 8
    };
    assert!(messages.iter().any(is_last), "{messages:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_can_be_cited_by_the_principal_that_measured_them() {
    let world = World::new();
    let answer = world.unlearning.score_timesteps(from(&ada(), score_cat())).await.unwrap();
    let messages: Vec<ScoreTimestepsResponse> =
        answer.into_inner().map(Result::unwrap).collect().await;
    let steps: Vec<u32> =
        messages.iter().filter(|one| one.update.is_none()).map(|one| one.step).collect();
    assert_eq!(steps, (0..20).collect::<Vec<_>>());
    let summary = match &messages.last().unwrap().update {
        Some(score_timesteps_response::Update::Summary(summary)) => summary.clone(),
        other => panic!("{other:?}"),
    };
    let ScoreSummary { score_digest, scores_json, .. } = summary;
    let scores: TimestepScores = serde_json::from_str(&scores_json).unwrap();
    assert!(!scores.spec.switch_curve && !scores.spec.gradient_share);

    let cite = |digest: &str| UnlearnConceptRequest {
        window_source: Some(WindowSource::ScoreDigest(digest.to_owned())),
        concepts: vec!["dog".to_owned(), "cat".to_owned()],
        ..erase_cat()
    };
    world.unlearn(&ada(), cite(&score_digest)).await.unwrap();
    let job = world.claim().await;
    let Work::Unlearn(work) = &job.work else { panic!("{:?}", job.work) };
    assert_eq!(work.score_digest.as_deref(), Some(score_digest.as_str()));
    let Method::Keystep(settings) = &work.spec.method else { panic!("{:?}", work.spec.method) };
    assert_eq!(settings.key_steps, KeySteps::Window(scores.window));

    for refused in [
        world.unlearn(&bob(), cite(&score_digest)).await,
        world.unlearn(&ada(), cite("unknown")).await,
        world
            .unlearn(
                &ada(),
                UnlearnConceptRequest { concepts: vec!["dog".to_owned()], ..cite(&score_digest) },
            )
            .await,
    ] {
        assert_eq!(fields(&refused.unwrap_err()), ["score_digest"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_device_queue_is_told_and_a_dropped_stream_makes_room() {
    let script = FakeScript::new(1, Duration::from_millis(20));
    let settings = DeviceSettings { interactive_calls: 1, ..DeviceSettings::default() };
    let world = World::with(script, settings);
    let long = || from(&ada(), GenerateRequest { steps: Some(1_000), ..draw() });
    let mut first = world.unlearning.generate(long()).await.unwrap().into_inner();
    // Once it draws, it waits no more.
    while !matches!(first.next().await.unwrap().unwrap().update, Some(Update::StepsDone(_))) {}
    let quick = from(&ada(), draw());
    let mut second = world.unlearning.generate(quick).await.unwrap().into_inner();
    let ahead = second.next().await.unwrap().unwrap();
    assert_eq!(ahead.update, Some(Update::QueuePosition(1)));
    let Err(status) = world.unlearning.generate(long()).await else { panic!("room for a third") };
    let details = status.get_error_details();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(details.error_info().unwrap().reason, "DEVICE_QUEUE_FULL");
    assert!(details.retry_info().is_some() && details.quota_failure().is_some());

    drop(first);
    let rest: Vec<_> = second.map(Result::unwrap).collect().await;
    assert!(matches!(rest.last().unwrap().update, Some(Update::ImagePng(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_violation_of_a_call_is_told() {
    let world = World::new();
    let wrong = GenerateRequest {
        model: String::new(),
        prompt: "x".repeat(201),
        steps: Some(0),
        guidance_scale: Some(f64::NAN),
        width: Some(1_024),
        height: Some(1_023),
        seeds: vec![1; 5],
        count: Some(2),
        sampler: 9,
        ..draw()
    };
    let Err(status) = world.unlearning.generate(from(&ada(), wrong)).await else {
        panic!("accepted")
    };
    assert_eq!(
        fields(&status),
        [
            "model", "prompt", "sampler", "count", "seeds", "width", "steps", "guidance_scale",
            "height"
        ]
    );
    let wrong = ScoreTimestepsRequest {
        concept: String::new(),
        concept_kind: 0,
        measures: vec![ScoreMeasure::Unspecified.into(), 77],
        trajectories: Some(1),
        scope_name_contains: "\0".to_owned(),
        ..score_cat()
    };
    let Err(status) = world.unlearning.score_timesteps(from(&ada(), wrong)).await else {
        panic!("accepted")
    };
    assert_eq!(
        fields(&status),
        [
            "concept_kind", "measures[0]", "measures[1]", "concept", "scope_name_contains",
            "trajectories"
        ]
    );
}

fn png(width: usize, height: usize) -> Vec<u8> {
    let picture = Picture { width, height, rgb: vec![128; width * height * 3] };
    encode_png(&picture, &PictureNotes::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_to_begin_with_is_read_before_the_call_waits() {
    let world = World::new();
    let from_picture = GenerateRequest { init_image: png(42, 35), strength: Some(0.5), ..draw() };
    let answer = world.unlearning.generate(from(&ada(), from_picture.clone())).await.unwrap();
    let messages: Vec<GenerateResponse> = answer.into_inner().map(Result::unwrap).collect().await;
    let Some(Update::ImagePng(drawn)) = &messages.last().unwrap().update else { panic!("none") };
    let reader = png::Decoder::new(std::io::Cursor::new(drawn)).read_info().unwrap();
    let texts = &reader.info().utf8_text;
    let strength = texts.iter().find(|chunk| chunk.keyword == "strength").unwrap();
    assert_eq!(strength.get_text().unwrap(), "0.5");

    for (wrong, field, parts) in [
        (
            GenerateRequest { strength: Some(1.5), ..from_picture.clone() },
            "strength",
            ["1.5", "0 to 1"],
        ),
        (
            GenerateRequest { strength: Some(0.2), ..from_picture.clone() },
            "strength",
            ["0.2 of 4 steps", "0.25"],
        ),
        (
            GenerateRequest { init_image: Vec::new(), ..from_picture.clone() },
            "strength",
            ["without", "init_image"],
        ),
        (
            GenerateRequest { width: Some(64), height: Some(64), ..from_picture.clone() },
            "width",
            ["beside init_image", "leave out"],
        ),
        (
            // More than this server allows of a picture, and less than Keystep does.
            GenerateRequest { init_image: png(1_024, 512), ..from_picture.clone() },
            "init_image",
            ["524288 in all", "262144"],
        ),
        (
            GenerateRequest { init_image: png(2_049, 8), ..from_picture.clone() },
            "init_image",
            ["2049", "8 to 2048"],
        ),
        (
            GenerateRequest { init_image: b"\xff\xd8\xff\xe0".to_vec(), ..from_picture.clone() },
            "init_image",
            ["a JPEG", "PNG"],
        ),
        (
            GenerateRequest { init_image: png(42, 35)[..60].to_vec(), ..from_picture },
            "init_image",
            ["cannot be read", "save it anew"],
        ),
    ] {
        let Err(status) = world.unlearning.generate(from(&ada(), wrong)).await else {
            panic!("{field} accepted")
        };
        assert_eq!(fields(&status), [field], "{status}");
        let bad = status.get_details_bad_request().unwrap();
        let description = &bad.field_violations[0].description;
        assert!(parts.iter().all(|part| description.contains(part)), "{description}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_that_are_not_there_are_told() {
    let world = World::new();
    let request = GenerateRequest { model: "checkpoints/x".to_owned(), ..draw() };
    let answer = world.unlearning.generate(from(&ada(), request)).await.map(|_| ());
    assert_eq!(refusal(answer), (Code::NotFound, "MODEL_NOT_FOUND".to_owned()));
    let request = ScoreTimestepsRequest { model: "sd14".to_owned(), ..score_cat() };
    let answer = world.unlearning.score_timesteps(from(&ada(), request)).await.map(|_| ());
    assert_eq!(refusal(answer), (Code::NotFound, "MODEL_NOT_FOUND".to_owned()));
    world.device.stop().await;
}
