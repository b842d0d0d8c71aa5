//! How jobs and calls share the device, with a scripted engine and a scripted clock.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use keystep::{
    device::{
        CallLimits, DeviceSettings, InteractiveCall, InteractiveStream, InteractiveUpdate,
        QueueScope,
    },
    jobs::{Clock, FailureReason, JobStore, MemoryStore, Principal, StateName, StoreSettings},
    outcome::Drawn,
    spec::{
        Concept, ConceptKind, EsdSettings, GenerateSpec, Method, Scope, ScoreSpec, UnlearnSpec,
        Vocabulary,
    },
    worker::{
        Device,
        testing::{FakeBytes, FakeScript, FakeSource, FakeUnit, FixedModels},
    },
};
use tokio::runtime::Handle;

use crate::worker::{Bench, MILLISECOND, generate, script, tester};

const MODEL: &str = "canvas";

fn drawing(pictures: u64, steps: usize) -> InteractiveCall {
    InteractiveCall::Generate {
        model: MODEL.to_owned(),
        spec: GenerateSpec::new(
            (0..pictures).map(|seed| (String::new(), seed)).collect(),
            steps,
            1.0,
        ),
        preview_every: None,
    }
}

fn erasure() -> UnlearnSpec {
    UnlearnSpec {
        concepts: vec![Concept::new("cat", ConceptKind::Object)],
        method: Method::Esd(EsdSettings::default()),
        scope: Scope::CrossAttention,
        preserve: Vec::new(),
        vocabulary: Vocabulary::default(),
        seed: 1,
    }
}

fn principal(name: &str) -> Principal {
    Principal(name.to_owned())
}

fn device(script: &Arc<FakeScript>, settings: DeviceSettings) -> Device {
    let clock = script.clock.clone().map_or(Clock::System, Clock::Manual);
    let models = Arc::new(FixedModels::with_base(MODEL, "digest"));
    let settings = DeviceSettings { clock, ..settings };
    Device::start(vec![FakeSource(script.clone())], settings, models, Handle::current()).unwrap()
}

async fn last(mut stream: InteractiveStream) -> Result<InteractiveUpdate, FailureReason> {
    let mut last = None;
    while let Some(update) = stream.next().await {
        last = Some(update);
    }
    last.unwrap().map_err(|failure| failure.reason)
}

async fn position(stream: &mut InteractiveStream) -> usize {
    match stream.next().await.unwrap().unwrap() {
        InteractiveUpdate::Position(ahead) => ahead,
        other => panic!("{other:?}"),
    }
}

/// A device whose only call is served, until it is dropped.
async fn busy(device: &Device, who: &str) -> InteractiveStream {
    let mut served = device.interactive_calls().submit(&principal(who), drawing(1, 1_000)).unwrap();
    while !matches!(served.next().await, Some(Ok(InteractiveUpdate::Progress(_)))) {}
    served
}

fn slow() -> Arc<FakeScript> {
    FakeScript::new(1, Duration::from_millis(5))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn principals_take_turns_and_one_cannot_fill_the_queue() {
    let settings = DeviceSettings {
        interactive_calls: 4,
        interactive_calls_of_principal: 2,
        ..DeviceSettings::default()
    };
    let device = device(&slow(), settings);
    let served = busy(&device, "ann").await;
    let calls = device.interactive_calls();
    let submit = |who: &str| calls.submit(&principal(who), drawing(1, 1));
    let (mut first, mut second) = (submit("ann").unwrap(), submit("ann").unwrap());
    assert_eq!((position(&mut first).await, position(&mut second).await), (1, 2));
    let full = submit("ann").unwrap_err();
    assert_eq!((full.waiting, full.limit, full.scope), (2, 2, QueueScope::OneCaller));
    assert!(full.to_string().contains("2 calls of this caller wait"), "{full}");
    // Ben had no turn yet: his call comes before both, his second one between them.
    let (mut third, mut fourth) = (submit("ben").unwrap(), submit("ben").unwrap());
    assert_eq!((position(&mut third).await, position(&mut fourth).await), (1, 3));
    assert_eq!((position(&mut first).await, position(&mut second).await), (2, 3));
    assert_eq!(position(&mut second).await, 4);
    let full = submit("cleo").unwrap_err();
    assert_eq!((full.waiting, full.limit, full.scope), (4, 4, QueueScope::AllCallers));
    drop(served);
    for stream in [first, second, third, fourth] {
        assert!(matches!(
            last(stream).await.unwrap(),
            InteractiveUpdate::Drawn(Drawn::Picture { .. })
        ));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_take_no_place_and_wait_for_no_turn() {
    let script = Arc::new(FakeScript {
        delay: Duration::from_millis(1),
        clock: Some(Arc::default()),
        ..FakeScript::default()
    });
    let settings = DeviceSettings { interactive_calls: 1, ..DeviceSettings::default() };
    let device = device(&script, settings);
    let served = busy(&device, "ann").await;
    let calls = device.interactive_calls();
    let _waits = calls.submit(&principal("ann"), drawing(1, 1)).unwrap();
    assert!(calls.submit(&principal("ben"), drawing(1, 1)).is_err());
    assert_eq!(calls.waiting(), 1);
    let plan = InteractiveCall::Plan { base_model: MODEL.to_owned(), spec: Box::new(erasure()) };
    let planned = calls.submit(&principal("ben"), plan).unwrap();
    assert!(matches!(last(planned).await.unwrap(), InteractiveUpdate::Plan(_)));
    drop(served);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_asks_for_too_much_of_its_model_is_refused() {
    // The fake's own pictures have 64 pixels.
    let call_limits = CallLimits { pixel_steps: 64 * 6, ..CallLimits::default() };
    let device = device(&slow(), DeviceSettings { call_limits, ..DeviceSettings::default() });
    let submit = |call| device.interactive_calls().submit(&principal("ann"), call).unwrap();
    assert!(matches!(
        last(submit(drawing(2, 3))).await,
        Ok(InteractiveUpdate::Drawn(Drawn::Picture { .. }))
    ));
    assert_eq!(last(submit(drawing(7, 1))).await.unwrap_err(), FailureReason::InvalidSpec);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_measurement_that_asks_for_too_much_is_refused() {
    let device = device(&slow(), DeviceSettings::default());
    let concept = Concept::new("cat", ConceptKind::Object);
    let spec = ScoreSpec {
        steps: 1_000,
        trajectories: 1_024,
        ..ScoreSpec::new(concept, Vocabulary::default())
    };
    let call = InteractiveCall::Score { model: MODEL.to_owned(), spec: Box::new(spec) };
    let scored = device.interactive_calls().submit(&principal("ann"), call).unwrap();
    assert_eq!(last(scored).await.unwrap_err(), FailureReason::InvalidSpec);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_does_not_fit_is_refused_with_both_figures() {
    let bytes = FakeBytes { model: 40 << 20, job: 0, call: 61 << 20, limit: Some(100 << 20) };
    let script = Arc::new(FakeScript { bytes, ..FakeScript::default() });
    let device = device(&script, DeviceSettings::default());
    let mut stream = device.interactive_calls().submit(&principal("ann"), drawing(1, 1)).unwrap();
    let failure = loop {
        match stream.next().await.unwrap() {
            Ok(_) => {}
            Err(failure) => break failure,
        }
    };
    assert_eq!(failure.reason, FailureReason::OutOfMemory);
    assert!(
        failure.message.contains("101 MiB") && failure.message.contains("100 MiB"),
        "{failure}"
    );
    assert!(failure.message.contains("ask for less"), "{failure}");
    assert_eq!(failure.metadata["need"], (101_u64 << 20).to_string());
    assert_eq!(failure.metadata["limit"], (100_u64 << 20).to_string());
    // A little less fits.
    let bytes = FakeBytes { call: 60 << 20, ..bytes };
    let script = Arc::new(FakeScript { bytes, ..FakeScript::default() });
    let device = self::device(&script, DeviceSettings::default());
    let stream = device.interactive_calls().submit(&principal("ann"), drawing(1, 1)).unwrap();
    assert!(matches!(last(stream).await.unwrap(), InteractiveUpdate::Drawn(Drawn::Picture { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_gives_way_to_the_job_after_each_slice() {
    // Every unit of work takes a second on the scripted clock; a slice is two.
    let script = Arc::new(FakeScript {
        updates: 5_000,
        delay: MILLISECOND,
        clock: Some(Arc::default()),
        ..FakeScript::default()
    });
    let bench = Bench::start(&script);
    let id = bench.insert(1).await;
    bench.wait_state(id, StateName::Running).await;
    let mut stream = bench.device.interactive_calls().submit(&tester(), generate(3)).unwrap();
    let mut pictures = 0;
    while let Some(update) = stream.next().await {
        pictures +=
            usize::from(matches!(update.unwrap(), InteractiveUpdate::Drawn(Drawn::Picture { .. })));
    }
    assert_eq!(pictures, 3);
    bench.drain().await;
    let units = script.units.lock().unwrap().clone();
    let first = units.iter().position(|unit| *unit == FakeUnit::Step).unwrap();
    let last = units.iter().rposition(|unit| *unit == FakeUnit::Step).unwrap();
    let (update, step) = (FakeUnit::Update, FakeUnit::Step);
    let slice = [step, step, update];
    let expected: Vec<_> = slice.into_iter().cycle().take(last + 1 - first).collect();
    assert_eq!(units[first..=last], expected);
    assert_eq!(units[first..=last].iter().filter(|unit| **unit == step).count(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_of_the_job_is_seen_within_a_step_of_the_call_beside_it() {
    let script = script(100_000, MILLISECOND);
    // Stands still, so that no slice is ever over.
    let clock = Clock::Manual(Arc::default());
    let place = Arc::new(tempfile::tempdir().unwrap());
    let store = Arc::new(MemoryStore::new(StoreSettings::default()));
    let bench = Bench::start_on(FakeSource(script.clone()), Duration::ZERO, (place, store), clock);
    let id = bench.insert(1).await;
    bench.wait_state(id, StateName::Running).await;
    let mut call = generate(1);
    if let InteractiveCall::Generate { spec, .. } = &mut call {
        spec.steps = 1_000;
        spec.pictures = vec![(String::new(), 0); 100];
    }
    let mut stream = bench.device.interactive_calls().submit(&tester(), call).unwrap();
    while !matches!(stream.next().await, Some(Ok(InteractiveUpdate::Progress(_)))) {}
    bench.store.request_cancel(id).await.unwrap();
    assert_eq!(bench.finish(id).await.state.name(), StateName::Cancelled);
    // The call goes on: it is far from its end.
    assert!(matches!(stream.next().await, Some(Ok(_))));
    drop(stream);
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_job_and_the_call_beside_it_share_the_memory() {
    // Either fits beside the model, both do not.
    let bytes = FakeBytes { model: 20, job: 50, call: 50, limit: Some(100) };
    let script =
        Arc::new(FakeScript { updates: 2_000, delay: MILLISECOND, bytes, ..FakeScript::default() });
    let bench = Bench::start(&script);
    let id = bench.insert(1).await;
    bench.wait_state(id, StateName::Running).await;
    while script.updates_made.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(MILLISECOND).await;
    }
    let draw = async || {
        let mut stream = bench.device.interactive_calls().submit(&tester(), generate(1)).unwrap();
        let mut last = None;
        while let Some(update) = stream.next().await {
            last = Some(update);
        }
        last.unwrap()
    };
    let failure = draw().await.unwrap_err();
    assert_eq!(failure.reason, FailureReason::OutOfMemory);
    assert!(failure.message.contains("beside the job under way"), "{failure}");
    assert_eq!(failure.metadata["heldByJob"], "70");
    // The job is none the worse for it, and once it has ended there is room.
    assert_eq!(bench.job(id).await.state.name(), StateName::Running);
    bench.store.request_cancel(id).await.unwrap();
    bench.finish(id).await;
    assert!(matches!(draw().await.unwrap(), InteractiveUpdate::Drawn(Drawn::Picture { .. })));
    // A job that comes while a call is served begins when that has ended.
    let mut call = generate(1);
    if let InteractiveCall::Generate { spec, .. } = &mut call {
        spec.steps = 200;
    }
    let mut stream = bench.device.interactive_calls().submit(&tester(), call).unwrap();
    while !matches!(stream.next().await, Some(Ok(InteractiveUpdate::Progress(_)))) {}
    let made = script.updates_made.load(Ordering::SeqCst);
    let id = bench.insert(2).await;
    let mut pictures = 0;
    while let Some(update) = stream.next().await {
        if let InteractiveUpdate::Drawn(Drawn::Picture { .. }) = update.unwrap() {
            pictures += 1;
        }
    }
    assert_eq!(pictures, 1);
    bench.wait_state(id, StateName::Running).await;
    while script.updates_made.load(Ordering::SeqCst) == made {
        tokio::time::sleep(MILLISECOND).await;
    }
    bench.drain().await;
}
