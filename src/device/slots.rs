//! The device's two threads, of which only one computes at a time: so no tensor is touched from two
//! sides, a panic is caught in one place, and a call can be served in the midst of a job and left off
//! in its own.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
};

use super::{
    DeviceSettings, EngineSource, InteractiveCalls, ModelProvider, OpenedModel, Slot,
    engine_failure::panic_failure,
    interactive_queue::{Places, device_is_gone},
};
use crate::jobs::Failure;

/// Whether the device takes work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceHealth {
    /// It was not yet seen to work.
    Starting,
    /// It works or waits for work.
    Ready,
    /// The engine failed badly; its state was dropped and is built anew.
    Recovering,
}

/// A job's work on a slot, as the room above defines it.
pub trait SlotWork: Send + 'static {
    /// What it comes to.
    type Output: Send + 'static;

    /// Does the work. Blocking, on the slot's thread of jobs.
    fn run<S: EngineSource>(&self, slot: &Slot<S>) -> Result<Self::Output, Failure>;
}

/// A message to the thread of jobs.
enum Command<J: SlotWork> {
    /// Bring a model onto the device.
    Load { model: OpenedModel, span: tracing::Span, reply: oneshot::Sender<Result<(), Failure>> },
    /// Do the engine's part of a job.
    Run { work: J, span: tracing::Span, reply: oneshot::Sender<Result<J::Output, Failure>> },
    /// Look at the interactive calls.
    Wake,
    /// End.
    Stop,
}

/// The way to the device's threads, for jobs whose work is a `J`. Clones share it.
#[derive(Debug)]
pub struct Device<J: SlotWork> {
    commands: mpsc::Sender<Command<J>>,
    direct: InteractiveCalls,
    health: watch::Receiver<DeviceHealth>,
}

impl<J: SlotWork> Clone for Device<J> {
    fn clone(&self) -> Self {
        Self {
            commands: self.commands.clone(),
            direct: self.direct.clone(),
            health: self.health.clone(),
        }
    }
}

impl<J: SlotWork> Device<J> {
    /// Starts the thread.
    pub fn start<S: EngineSource>(
        source: S,
        settings: DeviceSettings,
        models: Arc<dyn ModelProvider>,
        runtime: Handle,
    ) -> io::Result<Self> {
        // Jobs come one at a time; a few more places let a wake-up in beside them.
        let (commands, received) = mpsc::channel(4);
        let places = Places {
            total: settings.interactive_calls,
            of_principal: settings.direct_calls_of_principal,
        };
        let direct = InteractiveCalls::new(places, models, runtime.clone());
        let (told, health) = watch::channel(DeviceHealth::Starting);
        let served = direct.clone();
        std::thread::Builder::new().name("keystep-device".to_owned()).spawn(move || {
            let slot = Arc::new(Slot::new(source, &settings, served.clone()));
            let wakeups = served.wakeups();
            DeviceThread {
                slot: slot.clone(),
                settings,
                runtime,
                received,
                wakeups,
                told,
                faults: 0,
            }
            .run();
            served.close();
            slot.close();
        })?;
        Ok(Self { commands, direct, health })
    }

    /// Where calls that are bound to their caller are submitted.
    pub fn interactive_calls(&self) -> InteractiveCalls {
        self.direct.clone()
    }

    /// Whether the device takes work, now and as it changes.
    pub fn health(&self) -> watch::Receiver<DeviceHealth> {
        self.health.clone()
    }

    /// Ends the thread once what it works on is done. What was not begun is not answered.
    pub async fn stop(&self) {
        // Without a receiver it has ended already.
        let _ = self.commands.send(Command::Stop).await;
    }

    /// Brings a model onto the device.
    pub async fn load(&self, model: OpenedModel) -> Result<(), Failure> {
        let (reply, answer) = oneshot::channel();
        let span = tracing::info_span!("engine.load", model = %model.name);
        self.ask(Command::Load { model, span, reply }, answer).await
    }

    /// Does a job's work.
    pub async fn run(&self, work: J) -> Result<J::Output, Failure> {
        let (reply, answer) = oneshot::channel();
        let span = tracing::Span::current();
        self.ask(Command::Run { work, span, reply }, answer).await
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

struct DeviceThread<S: EngineSource, J: SlotWork> {
    slot: Arc<Slot<S>>,
    settings: DeviceSettings,
    runtime: Handle,
    received: mpsc::Receiver<Command<J>>,
    wakeups: watch::Receiver<()>,
    told: watch::Sender<DeviceHealth>,
    /// Bad faults in a row.
    faults: u32,
}

impl<S: EngineSource, J: SlotWork> DeviceThread<S, J> {
    fn run(mut self) {
        self.come_up(Duration::ZERO);
        let slot = self.slot.clone();
        let calls = std::thread::Builder::new().name("keystep-calls".to_owned());
        let served = calls.spawn(move || slot.serve_calls());
        if let Err(error) = served {
            // Nothing can be answered without it.
            return tracing::error!(%error, "the thread of calls cannot be started");
        }
        loop {
            let served = self.slot.give_way();
            let command = if served {
                match self.received.try_recv() {
                    Ok(command) => command,
                    Err(mpsc::error::TryRecvError::Empty) => Command::Wake,
                    Err(mpsc::error::TryRecvError::Disconnected) => return,
                }
            } else {
                match self.next_command() {
                    Some(command) => command,
                    None => return,
                }
            };
            match command {
                Command::Wake => {}
                Command::Stop => {
                    self.slot.finish_call();
                    return;
                }
                Command::Load { model, span, reply } => {
                    let loaded =
                        span.in_scope(|| self.guarded(|slot| slot.engine(&model).map(|_| ())));
                    // A caller that is gone needs no answer.
                    let _ = reply.send(loaded);
                }
                Command::Run { work, span, reply } => {
                    let finished = span.in_scope(|| self.guarded(|slot| work.run(slot)));
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

    /// Waits for a command, or for a call that is ready.
    fn next_command(&mut self) -> Option<Command<J>> {
        let (received, wakeups) = (&mut self.received, &mut self.wakeups);
        self.runtime.block_on(async {
            tokio::select! {
                command = received.recv() => command,
                Ok(()) = wakeups.changed() => Some(Command::Wake),
            }
        })
    }

    /// Lets a panic of the engine end one command and no more.
    fn guarded<T>(
        &mut self,
        work: impl FnOnce(&Slot<S>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let slot = self.slot.clone();
        match catch_unwind(AssertUnwindSafe(|| work(&slot))) {
            Ok(result) => {
                if result.is_ok() {
                    self.faults = 0;
                }
                result
            }
            Err(payload) => {
                slot.note_panic(payload.as_ref());
                Err(panic_failure())
            }
        }
    }

    fn recover(&mut self) {
        self.told.send_replace(DeviceHealth::Recovering);
        self.faults = self.faults.saturating_add(1);
        self.slot.start_anew();
        let doubled = 2_u32.saturating_pow(self.faults - 1);
        self.come_up(self.settings.first_backoff.saturating_mul(doubled));
    }

    /// Waits, then looks whether the device works, until it does.
    fn come_up(&mut self, first: Duration) {
        let mut wait = first.min(self.settings.max_backoff);
        loop {
            // The thread has nothing else to do: without a device nothing can be answered.
            std::thread::sleep(wait);
            let slot = &self.slot;
            let reason = match catch_unwind(AssertUnwindSafe(|| slot.check())) {
                Ok(Ok(())) => break,
                Ok(Err(failure)) => failure.message,
                Err(_) => "a panic".to_owned(),
            };
            if self.received.is_closed() {
                return;
            }
            wait = (wait * 2).clamp(self.settings.first_backoff, self.settings.max_backoff);
            tracing::warn!(reason, again_in = ?wait, "the device does not work");
        }
        self.told.send_replace(DeviceHealth::Ready);
    }
}
