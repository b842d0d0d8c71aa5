//! The queue of direct calls: bounded, with honest positions, forgotten as soon as their callers go.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, sync::mpsc};

use super::{
    DirectCall, DirectQueueFull, DirectStream, DirectUpdate, ModelProvider, OpenedModel,
    device::Command,
};
use crate::{
    engine::CancelFlag,
    jobs::{Failure, FailureReason},
};

/// Updates that may be late: positions, progress and previews. Beyond, the newest are dropped.
const ROOM_FOR_NEWS: usize = 32;
/// What a call is taken to last before any was seen.
const FIRST_GUESS: Duration = Duration::from_secs(5);

/// Takes calls that are bound to their caller. Clones share one queue.
#[derive(Debug, Clone)]
pub struct DirectCalls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    limit: usize,
    models: Arc<dyn ModelProvider>,
    runtime: Handle,
    /// Weak, so that the thread ends with its last handle.
    device: mpsc::WeakSender<Command>,
}

#[derive(Debug)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// The number of the next call.
    next: u64,
    /// Calls that the device works on.
    served: usize,
    /// What a call lasts, smoothed.
    usual: Duration,
    /// Whether the device is gone.
    is_closed: bool,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    call: DirectCall,
    /// Set once its files are within reach.
    model: Option<OpenedModel>,
    line: CallLine,
    span: tracing::Span,
    /// The position that the caller knows.
    told: Option<usize>,
}

/// A call whose turn it is.
#[derive(Debug)]
pub(super) struct ReadyCall {
    pub(super) call: DirectCall,
    pub(super) model: OpenedModel,
    pub(super) line: CallLine,
    pub(super) span: tracing::Span,
}

impl DirectCalls {
    pub(super) fn new(
        limit: usize,
        models: Arc<dyn ModelProvider>,
        runtime: Handle,
        device: mpsc::WeakSender<Command>,
    ) -> Self {
        let queue = Queue {
            waiting: VecDeque::new(),
            next: 0,
            served: 0,
            usual: FIRST_GUESS,
            is_closed: false,
        };
        Self(Arc::new(Shared { queue: Mutex::new(queue), limit, models, runtime, device }))
    }

    /// Queues a call. Its model is brought within reach while it waits; the stream ends with the
    /// last update, or with the failure that ended the call.
    pub fn submit(&self, call: DirectCall) -> Result<DirectStream, DirectQueueFull> {
        let mut queue = self.queue();
        queue.forget_cancelled();
        let waiting = queue.waiting.len();
        if waiting >= self.0.limit {
            let rounds = u32::try_from(waiting + queue.served).unwrap_or(u32::MAX);
            let retry_after = queue.usual.saturating_mul(rounds).max(Duration::from_secs(1));
            return Err(DirectQueueFull { waiting, limit: self.0.limit, retry_after });
        }
        let (mut line, stream) = CallLine::open(&call);
        if queue.is_closed {
            line.fail(device_is_gone());
            return Ok(stream);
        }
        let number = queue.next;
        queue.next += 1;
        let model = call.model().to_owned();
        let span = tracing::Span::current();
        queue.waiting.push_back(Waiting { number, call, model: None, line, span, told: None });
        queue.tell_positions();
        drop(queue);
        let this = self.clone();
        self.0.runtime.spawn(async move {
            let opened = this.0.models.open(&model).await;
            this.opened(number, opened);
        });
        Ok(stream)
    }

    /// Calls that wait.
    pub fn waiting(&self) -> usize {
        let mut queue = self.queue();
        queue.forget_cancelled();
        queue.waiting.len()
    }

    /// Notes that a call's model is there, or ends the call.
    fn opened(&self, number: u64, opened: Result<OpenedModel, Failure>) {
        let mut queue = self.queue();
        let found = queue.waiting.iter().position(|waiting| waiting.number == number);
        let Some(index) = found else { return };
        match opened {
            Ok(model) => {
                if let Some(waiting) = queue.waiting.get_mut(index) {
                    waiting.model = Some(model);
                }
            }
            Err(failure) => {
                if let Some(mut waiting) = queue.waiting.remove(index) {
                    waiting.line.fail(failure);
                }
                queue.tell_positions();
            }
        }
        drop(queue);
        // A full channel wakes the device as well.
        if let Some(device) = self.0.device.upgrade() {
            let _ = device.try_send(Command::Wake);
        }
    }

    /// The first call whose model is there; the device must say when it is done with it.
    pub(super) fn take(&self) -> Option<ReadyCall> {
        let mut queue = self.queue();
        queue.forget_cancelled();
        let index = queue.waiting.iter().position(|waiting| waiting.model.is_some())?;
        let Waiting { call, model, line, span, .. } = queue.waiting.remove(index)?;
        let model = model?;
        queue.served += 1;
        queue.tell_positions();
        Some(ReadyCall { call, model, line, span })
    }

    /// The device is done with a call.
    pub(super) fn done(&self, lasted: Duration) {
        let mut queue = self.queue();
        queue.served = queue.served.saturating_sub(1);
        queue.usual = (queue.usual * 3 + lasted) / 4;
        queue.tell_positions();
    }

    /// The device is gone: ends every call.
    pub(super) fn close(&self) {
        let mut queue = self.queue();
        queue.is_closed = true;
        for mut waiting in queue.waiting.drain(..) {
            waiting.line.fail(device_is_gone());
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing within can panic halfway through a change that matters.
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn forget_cancelled(&mut self) {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| !waiting.line.cancel.is_cancelled());
        if self.waiting.len() != before {
            self.tell_positions();
        }
    }

    /// Tells each caller how many are ahead, where that changed.
    fn tell_positions(&mut self) {
        for (index, waiting) in self.waiting.iter_mut().enumerate() {
            let ahead = index + self.served;
            if waiting.told != Some(ahead) && waiting.line.tell(DirectUpdate::Position(ahead)) {
                waiting.told = Some(ahead);
            }
        }
    }
}

/// What who waits for the device is told when it is stopped.
pub(super) fn device_is_gone() -> Failure {
    Failure::new(FailureReason::Draining, "the device was stopped; try again later")
}

impl DirectCall {
    /// The model's name in the catalogue.
    pub fn model(&self) -> &str {
        match self {
            Self::Generate { model, .. } | Self::Score { model, .. } => model,
            Self::Plan { base_model, .. } => base_model,
        }
    }

    /// Updates that must not be lost.
    fn results(&self) -> usize {
        match self {
            Self::Generate { spec, .. } => spec.pictures.len(),
            Self::Score { .. } | Self::Plan { .. } => 1,
        }
    }
}

/// The way back to a caller. Never blocks: there is room for every result, and what may be late is
/// dropped where a caller reads slowly.
#[derive(Debug)]
pub(super) struct CallLine {
    updates: mpsc::Sender<Result<DirectUpdate, Failure>>,
    pub(super) cancel: CancelFlag,
    /// Room that is kept for results, and for a failure at the end.
    kept: usize,
}

impl CallLine {
    fn open(call: &DirectCall) -> (Self, DirectStream) {
        let kept = call.results() + 1;
        let (sender, updates) = mpsc::channel(kept + ROOM_FOR_NEWS);
        let cancel = CancelFlag::default();
        let stream = DirectStream { updates, cancel: cancel.clone() };
        (Self { updates: sender, cancel, kept }, stream)
    }

    /// Sends what may be late or lost; says whether there was room.
    pub(super) fn tell(&mut self, update: DirectUpdate) -> bool {
        self.updates.capacity() > self.kept && self.updates.try_send(Ok(update)).is_ok()
    }

    /// Sends a result.
    pub(super) fn deliver(&mut self, update: DirectUpdate) {
        self.kept = self.kept.saturating_sub(1);
        if self.updates.try_send(Ok(update)).is_err() {
            // The caller is gone.
            self.cancel.cancel();
        }
    }

    /// Ends the call in a failure.
    pub(super) fn fail(&mut self, failure: Failure) {
        let _ = self.updates.try_send(Err(failure));
    }
}
