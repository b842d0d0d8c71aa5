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
    DeviceSettings, EngineSource, InteractiveCalls, ModelProvider, OpenedModel,
    device_command::Command,
    device_job::DeviceJob,
    device_state::DeviceState,
    engine_failure::panic_failure,
    interactive_queue::{Places, device_is_gone},
    job_run::run_job,
};
use crate::{jobs::Failure, run::FinishedResult};

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

/// The way to the device thread. Clones share it.
#[derive(Debug, Clone)]
pub struct Device {
    commands: mpsc::Sender<Command>,
    direct: InteractiveCalls,
    health: watch::Receiver<DeviceHealth>,
}

impl Device {
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
        let direct = InteractiveCalls::new(places, models, runtime, commands.downgrade());
        let (told, health) = watch::channel(DeviceHealth::Starting);
        let served = direct.clone();
        std::thread::Builder::new().name("keystep-device".to_owned()).spawn(move || {
            let device_state = Arc::new(DeviceState::new(source, &settings, served.clone()));
            DeviceThread {
                device_state: device_state.clone(),
                settings,
                received,
                told,
                faults: 0,
            }
            .run();
            served.close();
            device_state.close();
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

    pub(super) async fn load(&self, model: OpenedModel) -> Result<(), Failure> {
        let (reply, answer) = oneshot::channel();
        let span = tracing::info_span!("engine.load", model = %model.name);
        self.ask(Command::Load { model, span, reply }, answer).await
    }

    pub(super) async fn run(&self, job: Box<DeviceJob>) -> Result<FinishedResult, Failure> {
        let (reply, answer) = oneshot::channel();
        let span = tracing::Span::current();
        self.ask(Command::Run { job, span, reply }, answer).await
    }

    async fn ask<T>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.commands.send(command).await.map_err(|_| device_is_gone())?;
        answer.await.unwrap_or_else(|_| Err(device_is_gone()))
    }
}

struct DeviceThread<S: EngineSource> {
    device_state: Arc<DeviceState<S>>,
    settings: DeviceSettings,
    received: mpsc::Receiver<Command>,
    told: watch::Sender<DeviceHealth>,
    /// Bad faults in a row.
    faults: u32,
}

impl<S: EngineSource> DeviceThread<S> {
    fn run(mut self) {
        self.come_up(Duration::ZERO);
        let device_state = self.device_state.clone();
        let calls = std::thread::Builder::new().name("keystep-calls".to_owned());
        let served = calls.spawn(move || device_state.serve_calls());
        if let Err(error) = served {
            // Nothing can be answered without it.
            return tracing::error!(%error, "the thread of calls cannot be started");
        }
        loop {
            let served = self.device_state.give_way();
            let command = if served {
                match self.received.try_recv() {
                    Ok(command) => command,
                    Err(mpsc::error::TryRecvError::Empty) => Command::Wake,
                    Err(mpsc::error::TryRecvError::Disconnected) => return,
                }
            } else {
                match self.received.blocking_recv() {
                    Some(command) => command,
                    None => return,
                }
            };
            match command {
                Command::Wake => {}
                Command::Stop => {
                    self.device_state.finish_call();
                    return;
                }
                Command::Load { model, span, reply } => {
                    let loaded = span.in_scope(|| {
                        self.guarded(|device_state| device_state.engine(&model).map(|_| ()))
                    });
                    // A caller that is gone needs no answer.
                    let _ = reply.send(loaded);
                }
                Command::Run { job, span, reply } => {
                    let finished =
                        span.in_scope(|| self.guarded(|device_state| run_job(device_state, &job)));
                    // Its flags and channels go before the answer, so that who waits for either
                    // finds both.
                    drop(job);
                    let _ = reply.send(finished);
                }
            }
            if self.device_state.has_failed() {
                self.recover();
            }
        }
    }

    /// Lets a panic of the engine end one command and no more.
    fn guarded<T>(
        &mut self,
        work: impl FnOnce(&DeviceState<S>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let device_state = self.device_state.clone();
        match catch_unwind(AssertUnwindSafe(|| work(&device_state))) {
            Ok(result) => {
                if result.is_ok() {
                    self.faults = 0;
                }
                result
            }
            Err(payload) => {
                device_state.note_panic(payload.as_ref());
                Err(panic_failure())
            }
        }
    }

    fn recover(&mut self) {
        self.told.send_replace(DeviceHealth::Recovering);
        self.faults = self.faults.saturating_add(1);
        self.device_state.start_anew();
        let doubled = 2_u32.saturating_pow(self.faults - 1);
        self.come_up(self.settings.first_backoff.saturating_mul(doubled));
    }

    /// Waits, then looks whether the device works, until it does.
    fn come_up(&mut self, first: Duration) {
        let mut wait = first.min(self.settings.max_backoff);
        loop {
            // The thread has nothing else to do: without a device nothing can be answered.
            std::thread::sleep(wait);
            let device_state = &self.device_state;
            let reason = match catch_unwind(AssertUnwindSafe(|| device_state.check())) {
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
