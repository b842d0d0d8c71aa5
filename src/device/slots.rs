//! The device's slots, each with a thread for jobs and a thread for calls, of which only one
//! computes at a time. A slot's tensors are therefore never shared, a panic is caught in one place,
//! and a call can run between two units of a job's work, and stop for the job in turn.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

use futures::future::select_ok;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
};

use super::{
    DeviceHealth, DeviceSettings, EngineSource, InteractiveCalls, JobFlags, ModelProvider,
    OpenedModel, Slot,
    engine_failure::panic_failure,
    health::{HealthReport, SlotIndex, SlotsHealth},
    interactive_queue::{Places, device_is_gone},
    memory::DeviceMemory,
    turn::Turn,
};
use crate::jobs::{Failure, FailureReason};

/// A job's work on a slot; the worker implements it, since the device knows no jobs of the queue.
pub trait SlotWork: Send + 'static {
    /// What it comes to.
    type Output: Send + 'static;

    /// Does the work. Blocking, on the slot's thread of jobs.
    fn run<S: EngineSource>(&self, slot: &Slot<S>) -> Result<Self::Output, Failure>;
}

/// A message to a slot's thread of jobs.
enum Command<J: SlotWork> {
    /// Bring a model into memory.
    Load { model: OpenedModel, job: JobContext, reply: oneshot::Sender<Result<(), Failure>> },
    /// Do the engine's part of a job.
    Run { work: J, job: JobContext, reply: oneshot::Sender<Result<J::Output, Failure>> },
    /// Look at the interactive calls.
    Wake,
    /// End.
    Stop,
}

/// For whom a command is.
struct JobContext {
    flags: JobFlags,
    span: tracing::Span,
}

/// The way to the slots, for jobs whose work is a `J`. Clones share it.
#[derive(Debug)]
pub struct Device<J: SlotWork>(Arc<Shared<J>>);

#[derive(Debug)]
struct Shared<J: SlotWork> {
    slots: Vec<SlotHandle<J>>,
    slots_health: SlotsHealth,
    health: watch::Receiver<DeviceHealth>,
    calls: InteractiveCalls,
}

#[derive(Debug)]
struct SlotHandle<J: SlotWork> {
    index: SlotIndex,
    commands: mpsc::Sender<Command<J>>,
    turn: Turn,
    /// One permit: that of the job which has the slot.
    reservation: Arc<Semaphore>,
}

/// A slot that one job has to itself until this is dropped.
#[derive(Debug)]
pub struct JobSlot<J: SlotWork> {
    commands: mpsc::Sender<Command<J>>,
    _reservation: OwnedSemaphorePermit,
}

impl<J: SlotWork> Clone for Device<J> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<J: SlotWork> Device<J> {
    /// Starts the slots' threads. Each source stands for a memory of its own; the slots are dealt to
    /// the sources in turn, so that those of one source share what it loaded.
    pub fn start<S: EngineSource>(
        sources: Vec<S>,
        settings: DeviceSettings,
        models: Arc<dyn ModelProvider>,
        runtime: Handle,
    ) -> io::Result<Self> {
        if sources.is_empty() {
            let message = "a device needs at least one source of engines";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let settings = Arc::new(settings);
        let slots = settings.slots.max(1);
        let places = Places {
            total: settings.interactive_calls,
            of_principal: settings.interactive_calls_of_principal,
        };
        let calls = InteractiveCalls::new(slots, places, models, runtime);
        let (reports, slots_health, health) = HealthReport::of_slots(slots);
        let memories: Vec<_> = sources
            .into_iter()
            .map(|source| Arc::new(DeviceMemory::new(source, settings.loaded_models)))
            .collect();
        let mut handles = Vec::new();
        for (report, memory) in reports.into_iter().zip(memories.iter().cycle()) {
            let slot = Slot::new(report.slot(), memory.clone(), &settings, calls.clone());
            handles.push(start_slot(slot, report, settings.clone())?);
        }
        Ok(Self(Arc::new(Shared { slots: handles, slots_health, health, calls })))
    }

    /// Where calls that are bound to their caller are submitted.
    pub fn interactive_calls(&self) -> InteractiveCalls {
        self.0.calls.clone()
    }

    /// Whether the device takes work, now and as it changes.
    pub fn health(&self) -> watch::Receiver<DeviceHealth> {
        self.0.health.clone()
    }

    /// Waits for a slot that is ready and has no job; one that serves no call comes first. `None`
    /// once the device is gone.
    pub async fn free_slot(&self) -> Option<JobSlot<J>> {
        let mut slots: Vec<_> = self.0.slots.iter().collect();
        slots.sort_by_key(|slot| slot.turn.is_call_open());
        let reserved = slots.into_iter().map(|slot| {
            let health = self.0.slots_health.clone();
            Box::pin(async move { slot.reserve(health).await.ok_or(()) })
        });
        let (slot, _) = select_ok(reserved).await.ok()?;
        Some(slot)
    }

    /// Ends the threads once what they work on is done. What was not begun is not answered.
    pub async fn stop(&self) {
        for slot in &self.0.slots {
            // Without a receiver it has ended already.
            let _ = slot.commands.send(Command::Stop).await;
        }
    }
}

impl<J: SlotWork> SlotHandle<J> {
    /// Waits until the slot has no job and is ready; `None` once it is gone.
    async fn reserve(&self, health: SlotsHealth) -> Option<JobSlot<J>> {
        let reservation = self.reservation.clone().acquire_owned().await.ok()?;
        // A slot whose last job failed badly recovers first.
        let is_ready = health.ready(self.index).await;
        let commands = self.commands.clone();
        is_ready.then_some(JobSlot { commands, _reservation: reservation })
    }
}

impl<J: SlotWork> JobSlot<J> {
    /// Brings a model into memory; waits for room where it takes some, unless the job is to stop.
    pub async fn load(&self, model: OpenedModel, flags: JobFlags) -> Result<(), Failure> {
        let (reply, answer) = oneshot::channel();
        let span = tracing::info_span!("engine.load", model = %model.name);
        let job = JobContext { flags, span };
        self.ask(Command::Load { model, job, reply }, answer).await
    }

    /// Does the job's work.
    pub async fn run(&self, work: J, flags: JobFlags) -> Result<J::Output, Failure> {
        let (reply, answer) = oneshot::channel();
        let job = JobContext { flags, span: tracing::Span::current() };
        self.ask(Command::Run { work, job, reply }, answer).await
    }

    async fn ask<T>(
        &self,
        command: Command<J>,
        answer: oneshot::Receiver<Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.commands.send(command).await.map_err(|_| device_is_gone())?;
        answer.await.unwrap_or_else(|_| Err(device_is_gone()))
    }
}

/// Starts both threads of a slot.
fn start_slot<S: EngineSource, J: SlotWork>(
    slot: Slot<S>,
    health: HealthReport,
    settings: Arc<DeviceSettings>,
) -> io::Result<SlotHandle<J>> {
    let (index, turn) = (slot.index, slot.turn.clone());
    let slot = Arc::new(slot);
    // Ends the thread of calls, also where the thread of jobs cannot be started.
    let ends = EndsSlot(slot.clone());
    let thread = |name: &str| thread::Builder::new().name(format!("keystep-{name}-{}", index.0));
    thread("calls").spawn(move || slot.serve_calls())?;
    // A slot's commands come one at a time, beside one whose sender gave up waiting.
    let (commands, received) = mpsc::channel(4);
    thread("jobs").spawn(move || {
        let wakeups = ends.0.calls.wakeups();
        let slot = ends.0.clone();
        JobThread { slot, health, settings, received, wakeups, faults: 0 }.run();
        drop(ends);
    })?;
    Ok(SlotHandle { index, commands, turn, reservation: Arc::new(Semaphore::new(1)) })
}

/// Ends a slot with its thread of jobs.
struct EndsSlot<S: EngineSource>(Arc<Slot<S>>);

impl<S: EngineSource> Drop for EndsSlot<S> {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct JobThread<S: EngineSource, J: SlotWork> {
    slot: Arc<Slot<S>>,
    health: HealthReport,
    settings: Arc<DeviceSettings>,
    received: mpsc::Receiver<Command<J>>,
    wakeups: watch::Receiver<()>,
    /// Bad faults in a row.
    faults: u32,
}

impl<S: EngineSource, J: SlotWork> JobThread<S, J> {
    fn run(mut self) {
        self.come_up(Duration::ZERO);
        while let Some(command) = self.next_command() {
            match command {
                Command::Wake => {}
                Command::Stop => {
                    self.slot.finish_call();
                    return;
                }
                Command::Load { model, job, reply } => {
                    let loaded = self.guarded(job, |slot| slot.engine(&model).map(drop));
                    // A caller that is gone needs no answer.
                    let _ = reply.send(loaded);
                }
                Command::Run { work, job, reply } => {
                    let finished = self.guarded(job, |slot| work.run(slot));
                    // Its flags and channels go before the answer, so that who waits for either
                    // finds both.
                    drop(work);
                    let _ = reply.send(finished);
                }
            }
            if self.slot.has_failed() {
                self.recover();
            }
        }
    }

    /// Waits for a command; calls have the slot meanwhile. `None` once nothing can come any more.
    fn next_command(&mut self) -> Option<Command<J>> {
        let (slot, received, wakeups) = (&self.slot, &mut self.received, &mut self.wakeups);
        slot.calls.set_idle(slot.index, !slot.turn.is_call_open());
        // Before the look, so that no call that comes after it is missed.
        wakeups.borrow_and_update();
        let command = if slot.give_way() {
            match received.try_recv() {
                Ok(command) => Some(command),
                Err(mpsc::error::TryRecvError::Empty) => Some(Command::Wake),
                Err(mpsc::error::TryRecvError::Disconnected) => None,
            }
        } else {
            slot.calls.runtime().block_on(async {
                tokio::select! {
                    biased;
                    command = received.recv() => command,
                    Ok(()) = wakeups.changed() => Some(Command::Wake),
                }
            })
        };
        if !matches!(command, Some(Command::Wake)) {
            slot.calls.set_idle(slot.index, false);
        }
        command
    }

    /// Does a job's command; lets a panic of the engine end it and no more.
    fn guarded<T>(
        &mut self,
        JobContext { flags, span }: JobContext,
        work: impl FnOnce(&Slot<S>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let slot = self.slot.clone();
        let _span = span.enter();
        let guarded = || {
            let _job = slot.begin_job(flags);
            work(&slot)
        };
        let result = match catch_unwind(AssertUnwindSafe(guarded)) {
            Ok(result) => {
                match &result {
                    Ok(_) => self.faults = 0,
                    Err(failure) => slot.note_failure(failure),
                }
                result
            }
            Err(payload) => {
                slot.note_panic(payload.as_ref());
                Err(panic_failure())
            }
        };
        if slot.has_failed() {
            // Before the answer: after it, the next job looks for a slot.
            self.health.set(DeviceHealth::Recovering);
        }
        result
    }

    fn recover(&mut self) {
        self.slot.calls.set_idle(self.slot.index, false);
        self.health.set(DeviceHealth::Recovering);
        self.faults = self.faults.saturating_add(1);
        self.slot.start_anew();
        let doubled = 2_u32.saturating_pow(self.faults - 1);
        self.come_up(self.settings.first_backoff.saturating_mul(doubled));
    }

    /// Waits, then looks whether the device works, until it does or the slot is to end.
    fn come_up(&mut self, first: Duration) {
        let mut wait = first.min(self.settings.max_backoff);
        loop {
            // The thread has nothing else to do: without a device nothing can be answered.
            thread::sleep(wait);
            let slot = &self.slot;
            let reason = match catch_unwind(AssertUnwindSafe(|| slot.memory.check())) {
                Ok(Ok(())) => break,
                Ok(Err(failure)) => failure.message,
                Err(_) => "a panic".to_owned(),
            };
            self.refuse_commands(&reason);
            if self.received.is_closed() {
                return;
            }
            wait = (wait * 2).clamp(self.settings.first_backoff, self.settings.max_backoff);
            tracing::warn!(reason, slot = self.slot.index.0, again_in = ?wait, "the device does not work");
        }
        self.health.set(DeviceHealth::Ready);
    }

    /// Fails the job that had the slot before its device failed, which may do better on another one.
    fn refuse_commands(&mut self, reason: &str) {
        let message = format!("the device does not work: {reason}");
        let failure = Failure::new(FailureReason::DeviceFault, message);
        while let Ok(command) = self.received.try_recv() {
            // A caller that is gone needs no answer.
            match command {
                Command::Wake => {}
                Command::Stop => self.received.close(),
                Command::Load { reply, .. } => drop(reply.send(Err(failure.clone()))),
                Command::Run { work, reply, .. } => {
                    drop(work);
                    drop(reply.send(Err(failure.clone())));
                }
            }
        }
    }
}
