//! Several slots side by side, with a scripted engine that blocks and panics where a test says so:
//! every order that is claimed here is enforced, and none is slept for.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::{
    collections::BTreeSet,
    sync::{Arc, Barrier, Condvar, Mutex, atomic::Ordering},
    time::Duration,
};

use keystep::{
    device::{
        Device, DeviceHealth, DeviceSettings, EngineSource, InteractiveUpdate, JobFlags, Slot,
        SlotWork,
    },
    engine::{CancelFlag, PauseFlag},
    jobs::{Failure, FailureReason, JobId, JobState, JobStore, StateName},
    outcome::Drawn,
    worker::testing::{
        BeforeUpdate, FakeBytes, FakeScript, FakeSource, Fault, FaultKind, FixedModels,
    },
};
use tokio::runtime::Handle;

use crate::worker::{Bench, device_settings, generate, tester};

/// Updates of every job here.
const UPDATES: usize = 4;

/// Blocks the jobs of some seeds, each at its second update, until they are let through.
#[derive(Debug, Default)]
struct Gate {
    shut: Mutex<BTreeSet<u64>>,
    opened: Condvar,
    /// Seed and number of each update, in the order in which they began.
    begun: Mutex<Vec<(u64, usize)>>,
}

impl Gate {
    fn shut_for(seeds: impl IntoIterator<Item = u64>) -> Arc<Self> {
        Arc::new(Self { shut: Mutex::new(seeds.into_iter().collect()), ..Self::default() })
    }

    /// What a scripted engine does before an update.
    fn pass(&self, seed: u64, update: usize) {
        self.begun.lock().unwrap().push((seed, update));
        if update == 1 {
            let shut = self.shut.lock().unwrap();
            drop(self.opened.wait_while(shut, |shut| shut.contains(&seed)).unwrap());
        }
    }

    fn open(&self, seed: u64) {
        self.shut.lock().unwrap().remove(&seed);
        self.opened.notify_all();
    }

    fn begun(&self) -> Vec<(u64, usize)> {
        self.begun.lock().unwrap().clone()
    }

    /// Waits until a job stands before its second update.
    async fn reached_by(&self, seed: u64) {
        while !self.begun().contains(&(seed, 1)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn script(self: &Arc<Self>, bytes: FakeBytes) -> Arc<FakeScript> {
        let gate = self.clone();
        let before_update = BeforeUpdate(Box::new(move |seed, update| gate.pass(seed, update)));
        Arc::new(FakeScript { updates: UPDATES, bytes, before_update, ..FakeScript::default() })
    }
}

async fn state(bench: &Bench, id: JobId) -> StateName {
    bench.job(id).await.state.name()
}

/// Waits until the worker has looked after a job twice: it knows by then what was asked of it before.
async fn looked_after(bench: &Bench, id: JobId) {
    for _ in 0..2 {
        let until = bench.job(id).await.lease.unwrap().until;
        bench.wait(id, |job| job.lease.as_ref().is_some_and(|lease| lease.until > until)).await;
    }
}

async fn draws(bench: &Bench) -> bool {
    let mut stream = bench.device.interactive_calls().submit(&tester(), generate(1)).unwrap();
    let mut pictures = 0;
    while let Some(update) = stream.next().await {
        pictures +=
            usize::from(matches!(update.unwrap(), InteractiveUpdate::Drawn(Drawn::Picture { .. })));
    }
    pictures == 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_slots_run_two_jobs_side_by_side_on_one_copy_of_the_model() {
    // Opens only once both jobs stand before it.
    let barrier = Barrier::new(2);
    let before_update = BeforeUpdate(Box::new(move |_, update| {
        if update == 1 {
            barrier.wait();
        }
    }));
    let script = FakeScript { updates: UPDATES, before_update, ..FakeScript::default() };
    let script = Arc::new(script);
    let bench = Bench::start_slots(&script, 2);
    for id in [bench.insert(1).await, bench.insert(2).await] {
        let job = bench.finish(id).await;
        assert_eq!((job.state.name(), job.attempt), (StateName::Succeeded, 1));
    }
    assert_eq!(script.loads.load(Ordering::SeqCst), 1);
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_slot_the_second_job_waits() {
    let gate = Gate::shut_for([1]);
    let bench = Bench::start(&gate.script(FakeBytes::default()));
    let (first, second) = (bench.insert(1).await, bench.insert(2).await);
    gate.reached_by(1).await;
    assert_eq!(state(&bench, second).await, StateName::Queued);
    gate.open(1);
    bench.finish(first).await;
    bench.finish(second).await;
    let seeds: Vec<_> = gate.begun().into_iter().map(|(seed, _)| seed).collect();
    assert_eq!(seeds, [1, 1, 1, 1, 2, 2, 2, 2]);
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_goes_to_the_slot_that_is_free() {
    let gate = Gate::shut_for([1]);
    let bench = Bench::start_slots(&gate.script(FakeBytes::default()), 2);
    let id = bench.insert(1).await;
    gate.reached_by(1).await;
    // The job's slot cannot give way: it blocks in its update.
    for _ in 0..20 {
        assert!(draws(&bench).await);
    }
    assert_eq!(state(&bench, id).await, StateName::Running);
    gate.open(1);
    assert_eq!(bench.finish(id).await.state.name(), StateName::Succeeded);
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_every_slot_has_a_job_a_call_is_served_between_its_updates() {
    let gate = Gate::shut_for([1]);
    let bench = Bench::start_slots(&gate.script(FakeBytes::default()), 2);
    let first = bench.insert(1).await;
    gate.reached_by(1).await;
    // The other slot gives way until its job has ended, and is free afterwards.
    let second = bench.insert(2).await;
    assert!(draws(&bench).await);
    bench.finish(second).await;
    gate.open(1);
    bench.finish(first).await;
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_one_slot_leaves_the_job_in_the_other_alone() {
    let gate = Gate::shut_for([1]);
    let panics = Mutex::new(1);
    let passed = gate.clone();
    let before_update = BeforeUpdate(Box::new(move |seed, update| {
        if seed == 2 && update == 2 && std::mem::take(&mut *panics.lock().unwrap()) == 1 {
            std::panic::panic_any("a scripted panic");
        }
        passed.pass(seed, update);
    }));
    let script = FakeScript { updates: UPDATES, before_update, ..FakeScript::default() };
    let bench = Bench::start_slots(&Arc::new(script), 2);
    let first = bench.insert(1).await;
    gate.reached_by(1).await;
    let second = bench.insert(2).await;
    let job = bench.finish(second).await;
    assert_eq!((job.state.name(), job.attempt), (StateName::Succeeded, 2));
    // All of this while the first job's update lasts.
    assert_eq!(state(&bench, first).await, StateName::Running);
    assert_eq!(*bench.device.health().borrow(), DeviceHealth::Ready);
    gate.open(1);
    let job = bench.finish(first).await;
    assert_eq!((job.state.name(), job.attempt, job.fence.0), (StateName::Succeeded, 1, 1));
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_device_is_ready_while_one_slot_recovers() {
    let panics = Mutex::new(1);
    let before_update = BeforeUpdate(Box::new(move |_, _| {
        if std::mem::take(&mut *panics.lock().unwrap()) == 1 {
            std::panic::panic_any("a scripted panic");
        }
    }));
    let script = FakeScript { updates: UPDATES, before_update, ..FakeScript::default() };
    // The slot of the panic does not come back during this test.
    let backoff = Duration::from_hours(1);
    let settings = DeviceSettings {
        slots: 2,
        first_backoff: backoff,
        max_backoff: backoff,
        ..device_settings()
    };
    let bench = Bench::start_settings(&Arc::new(script), settings);
    let id = bench.insert(1).await;
    let job = bench.finish(id).await;
    assert_eq!((job.state.name(), job.attempt), (StateName::Succeeded, 2));
    assert!(draws(&bench).await);
    assert_eq!(*bench.device.health().borrow(), DeviceHealth::Ready);
    bench.signals.stop_claiming.cancel();
    bench.worker.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_fails_takes_no_further_job_before_it_was_looked_at() {
    let (broken, sound) =
        (FakeScript::new(UPDATES, Duration::ZERO), FakeScript::new(UPDATES, Duration::ZERO));
    broken.set_fault(Fault { at: 1, kind: FaultKind::Device, times: usize::MAX });
    // The slot of the fault does not come back during this test.
    let backoff = Duration::from_hours(1);
    let settings = DeviceSettings {
        slots: 2,
        first_backoff: backoff,
        max_backoff: backoff,
        ..device_settings()
    };
    let bench = Bench::start_devices(&[&broken, &sound], settings);
    // Each may be tried twice: a device that stayed in use would fail one of them for good.
    for seed in 1..=4 {
        let id = bench.insert(seed).await;
        assert_eq!(bench.finish(id).await.state.name(), StateName::Succeeded);
    }
    assert_eq!(broken.updates_made.load(Ordering::SeqCst), 1, "one job came to it");
    bench.signals.stop_claiming.cancel();
    bench.worker.stopped().await;
}

/// A job's work whose device fails.
struct FailingWork;

impl SlotWork for FailingWork {
    type Output = ();

    fn run<S: EngineSource>(&self, _: &Slot<S>) -> Result<(), Failure> {
        Err(Failure::new(FailureReason::DeviceFault, "a scripted fault"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_device_stays_broken_is_answered_and_the_slot_can_be_stopped() {
    let script = FakeScript::new(UPDATES, Duration::ZERO);
    let models = Arc::new(FixedModels::with_base("canvas", "digest"));
    let sources = vec![FakeSource(script.clone())];
    let device =
        Device::<FailingWork>::start(sources, device_settings(), models, Handle::current());
    let device = device.unwrap();
    let slot = device.free_slot().await.unwrap();
    script.device_is_broken.store(true, Ordering::SeqCst);
    for said in ["a scripted fault", "the device does not work"] {
        let flags = JobFlags { cancel: CancelFlag::default(), pause: PauseFlag::default() };
        let failure = slot.run(FailingWork, flags).await.unwrap_err();
        assert_eq!(failure.reason, FailureReason::DeviceFault);
        assert!(failure.message.contains(said), "{failure}");
        assert_eq!(*device.health().borrow(), DeviceHealth::Recovering, "before the answer");
    }
    device.stop().await;
    let mut health = device.health();
    while health.changed().await.is_ok() {}
}

/// Two jobs share a model of 20 bytes; either fits beside it, both do not.
const TIGHT: FakeBytes = FakeBytes { model: 20, job: 50, call: 30, limit: Some(100) };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_does_not_fit_beside_another_waits_for_it() {
    let gate = Gate::shut_for([1]);
    let bench = Bench::start_slots(&gate.script(TIGHT), 2);
    let first = bench.insert(1).await;
    gate.reached_by(1).await;
    // It is claimed, and heeds a cancel while it waits.
    let cancelled = bench.insert(2).await;
    bench.wait_state(cancelled, StateName::Running).await;
    bench.store.request_cancel(cancelled).await.unwrap();
    assert_eq!(bench.finish(cancelled).await.state.name(), StateName::Cancelled);
    // Its lease is extended while it waits.
    let second = bench.insert(3).await;
    bench.wait_state(second, StateName::Running).await;
    looked_after(&bench, second).await;
    // A call that fits is served meanwhile.
    assert!(draws(&bench).await);
    assert_eq!(state(&bench, second).await, StateName::Running);
    gate.open(1);
    for id in [first, second] {
        let job = bench.finish(id).await;
        assert_eq!((job.state.name(), job.attempt), (StateName::Succeeded, 1), "{:?}", job.state);
    }
    let seeds: Vec<_> = gate.begun().into_iter().map(|(seed, _)| seed).collect();
    assert_eq!(seeds, [1, 1, 1, 1, 3, 3, 3, 3], "no two of them at a time");
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_gives_back_both_jobs_and_one_that_waits_for_memory() {
    let gate = Gate::shut_for([1]);
    let bench = Bench::start_slots(&gate.script(TIGHT), 2);
    let first = bench.insert(1).await;
    gate.reached_by(1).await;
    let second = bench.insert(2).await;
    bench.wait_state(second, StateName::Running).await;
    bench.signals.stop_claiming.cancel();
    bench.signals.pause_jobs.cancel();
    bench.wait_state(second, StateName::Queued).await;
    assert_eq!(state(&bench, first).await, StateName::Running, "it is within an update");
    looked_after(&bench, first).await;
    gate.open(1);
    bench.drain().await;
    for id in [first, second] {
        let job = bench.job(id).await;
        assert_eq!((job.state.name(), job.attempt), (StateName::Queued, 0));
    }
    assert!(bench.folder(first).join("state").join("training.safetensors").is_file());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_pauses_the_jobs_of_all_slots() {
    let gate = Gate::shut_for([1, 2]);
    let bench = Bench::start_slots(&gate.script(FakeBytes::default()), 2);
    let ids = [bench.insert(1).await, bench.insert(2).await];
    gate.reached_by(1).await;
    gate.reached_by(2).await;
    bench.signals.stop_claiming.cancel();
    bench.signals.pause_jobs.cancel();
    for (id, seed) in ids.into_iter().zip([1, 2]) {
        looked_after(&bench, id).await;
        gate.open(seed);
    }
    bench.drain().await;
    for id in ids {
        let job = bench.job(id).await;
        assert_eq!((job.state.name(), job.attempt), (StateName::Queued, 0));
        assert!(bench.folder(id).join("state").join("training.safetensors").is_file());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_of_one_job_leaves_the_other() {
    let gate = Gate::shut_for([1, 2]);
    let bench = Bench::start_slots(&gate.script(FakeBytes::default()), 2);
    let (first, second) = (bench.insert(1).await, bench.insert(2).await);
    gate.reached_by(1).await;
    gate.reached_by(2).await;
    bench.store.request_cancel(first).await.unwrap();
    looked_after(&bench, first).await;
    gate.open(1);
    assert_eq!(bench.finish(first).await.state.name(), StateName::Cancelled);
    assert_eq!(state(&bench, second).await, StateName::Running);
    gate.open(2);
    let job = bench.finish(second).await;
    assert!(matches!(job.state, JobState::Succeeded(_)), "{:?}", job.state);
    assert_eq!((job.attempt, job.fence.0), (1, 1));
    bench.drain().await;
}
