//! The queue of direct calls: bounded, with honest positions, forgotten as soon as their callers go.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};

use super::{
    DirectQueueFull, InteractiveCall, InteractiveStream, InteractiveUpdate, ModelProvider,
    OpenedModel, Whose,
};
use crate::{
    engine::CancelFlag,
    jobs::{Failure, FailureReason, Principal},
};

/// Updates that may be late: positions, progress and previews. Beyond, the newest are dropped.
const ROOM_FOR_NEWS: usize = 32;
/// What a call is taken to last before any was seen.
const FIRST_GUESS: Duration = Duration::from_secs(5);

/// How many calls may wait; plans have as many places of their own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) total: usize,
    pub(super) of_principal: usize,
}

/// Takes calls that are bound to their caller. Clones share one queue.
#[derive(Debug, Clone)]
pub struct InteractiveCalls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    places: Places,
    models: Arc<dyn ModelProvider>,
    runtime: Handle,
    /// Changes whenever a call is ready.
    wakeups: watch::Sender<()>,
}

#[derive(Debug)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// The number of the next call.
    next: u64,
    /// When each principal that waits had its last turn, in turns.
    turns: BTreeMap<Principal, u64>,
    turn: u64,
    /// Calls that the device works on.
    served: usize,
    /// Whose call that is.
    serving: Option<Principal>,
    /// What a call lasts, smoothed.
    usual: Duration,
    /// Whether the device is gone.
    is_closed: bool,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    principal: Principal,
    call: InteractiveCall,
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
    pub(super) call: InteractiveCall,
    pub(super) model: OpenedModel,
    pub(super) line: CallLine,
    pub(super) span: tracing::Span,
}

impl InteractiveCalls {
    pub(super) fn new(places: Places, models: Arc<dyn ModelProvider>, runtime: Handle) -> Self {
        let queue = Queue {
            waiting: VecDeque::new(),
            next: 0,
            turns: BTreeMap::new(),
            turn: 0,
            served: 0,
            serving: None,
            usual: FIRST_GUESS,
            is_closed: false,
        };
        let wakeups = watch::Sender::default();
        Self(Arc::new(Shared { queue: Mutex::new(queue), places, models, runtime, wakeups }))
    }

    /// Queues a call. Its model is brought within reach while it waits; the stream ends with the
    /// last update, or with the failure that ended the call.
    pub fn submit(
        &self,
        principal: &Principal,
        call: InteractiveCall,
    ) -> Result<InteractiveStream, DirectQueueFull> {
        let mut queue = self.queue();
        queue.forget_cancelled();
        queue.check_room(self.0.places, principal, &call)?;
        let (mut line, stream) = CallLine::open(&call);
        if queue.is_closed {
            line.fail(device_is_gone());
            return Ok(stream);
        }
        let number = queue.next;
        queue.next += 1;
        let model = call.model().to_owned();
        let span = tracing::Span::current();
        let principal = principal.clone();
        let waiting = Waiting { number, principal, call, model: None, line, span, told: None };
        queue.waiting.push_back(waiting);
        queue.tell_positions();
        drop(queue);
        let this = self.clone();
        self.0.runtime.spawn(async move {
            let opened = this.0.models.open(&model).await;
            this.opened(number, opened);
        });
        Ok(stream)
    }

    /// Calls that wait for the device.
    pub fn waiting(&self) -> usize {
        let mut queue = self.queue();
        queue.forget_cancelled();
        queue.waiting.iter().filter(|waiting| !waiting.call.is_plan()).count()
    }

    /// Changes whenever a call is ready.
    pub(super) fn wakeups(&self) -> watch::Receiver<()> {
        self.0.wakeups.subscribe()
    }

    /// Whether there is a call whose turn it could be.
    pub(super) fn has_ready(&self) -> bool {
        let mut queue = self.queue();
        queue.forget_cancelled();
        queue.waiting.iter().any(|waiting| waiting.model.is_some() && !waiting.call.is_plan())
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
        self.0.wakeups.send_replace(());
    }

    /// A plan whose model is there: plans read headers alone, and wait for nobody.
    pub(super) fn take_plan(&self) -> Option<ReadyCall> {
        let mut queue = self.queue();
        queue.forget_cancelled();
        let is_ready = |waiting: &Waiting| waiting.model.is_some() && waiting.call.is_plan();
        let index = queue.waiting.iter().position(is_ready)?;
        queue.remove(index)
    }

    /// The call whose turn it is of those whose models are there; the device must say when it is done
    /// with it.
    pub(super) fn take(&self) -> Option<ReadyCall> {
        let mut queue = self.queue();
        queue.forget_cancelled();
        let order = queue.order();
        let is_ready = |index: &usize| {
            queue.waiting.get(*index).is_some_and(|waiting| waiting.model.is_some())
        };
        let index = order.into_iter().find(is_ready)?;
        let principal = queue.waiting.get(index)?.principal.clone();
        let ready = queue.remove(index)?;
        queue.served += 1;
        queue.turn += 1;
        let turn = queue.turn;
        queue.turns.insert(principal.clone(), turn);
        queue.serving = Some(principal);
        queue.forget_turns();
        queue.tell_positions();
        Some(ready)
    }

    /// The device is done with a call.
    pub(super) fn done(&self, lasted: Duration) {
        let mut queue = self.queue();
        queue.served = queue.served.saturating_sub(1);
        queue.serving = None;
        queue.forget_turns();
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
    fn check_room(
        &self,
        places: Places,
        principal: &Principal,
        call: &InteractiveCall,
    ) -> Result<(), DirectQueueFull> {
        let alike = || self.waiting.iter().filter(|other| other.call.is_plan() == call.is_plan());
        let of_principal = alike().filter(|other| other.principal == *principal).count();
        let (waiting, limit, whose) = if of_principal >= places.of_principal {
            (of_principal, places.of_principal, Whose::Caller)
        } else {
            (alike().count(), places.total, Whose::Everybody)
        };
        if waiting < limit {
            return Ok(());
        }
        let rounds = u32::try_from(waiting + self.served).unwrap_or(u32::MAX);
        let retry_after = self.usual.saturating_mul(rounds).max(Duration::from_secs(1));
        Err(DirectQueueFull { waiting, whose, limit, retry_after })
    }

    /// The calls, but for plans, in the order in which their turns come: principals take turns, first
    /// who had none for longest, each with its calls in the order in which they came.
    fn order(&self) -> Vec<usize> {
        let mut of_principals: BTreeMap<&Principal, VecDeque<usize>> = BTreeMap::new();
        for (index, waiting) in self.waiting.iter().enumerate() {
            if !waiting.call.is_plan() {
                of_principals.entry(&waiting.principal).or_default().push_back(index);
            }
        }
        let first = |principal: &Principal, calls: &VecDeque<usize>| {
            (self.turns.get(principal).copied().unwrap_or(0), calls.front().copied())
        };
        let mut rounds: Vec<_> = of_principals.into_iter().collect();
        rounds.sort_by_key(|(principal, calls)| first(principal, calls));
        let mut rounds: VecDeque<_> = rounds.into_iter().map(|(_, calls)| calls).collect();
        let mut order = Vec::new();
        while let Some(mut calls) = rounds.pop_front() {
            order.extend(calls.pop_front());
            if !calls.is_empty() {
                rounds.push_back(calls);
            }
        }
        order
    }

    fn remove(&mut self, index: usize) -> Option<ReadyCall> {
        let Waiting { call, model, line, span, .. } = self.waiting.remove(index)?;
        Some(ReadyCall { call, model: model?, line, span })
    }

    /// Turns matter among those that wait or are served.
    fn forget_turns(&mut self) {
        let (waiting, serving) = (&self.waiting, self.serving.as_ref());
        self.turns.retain(|principal, _| {
            serving == Some(principal) || waiting.iter().any(|call| call.principal == *principal)
        });
    }

    fn forget_cancelled(&mut self) {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| !waiting.line.cancel.is_cancelled());
        if self.waiting.len() != before {
            self.forget_turns();
            self.tell_positions();
        }
    }

    /// Tells each caller how many are ahead, where that changed.
    fn tell_positions(&mut self) {
        for (place, index) in self.order().into_iter().enumerate() {
            let ahead = place + self.served;
            let Some(waiting) = self.waiting.get_mut(index) else { continue };
            if waiting.told != Some(ahead) && waiting.line.tell(InteractiveUpdate::Position(ahead))
            {
                waiting.told = Some(ahead);
            }
        }
    }
}

/// What who waits for the device is told when it is stopped.
pub(super) fn device_is_gone() -> Failure {
    Failure::new(FailureReason::Draining, "the device was stopped; try again later")
}

impl InteractiveCall {
    /// The model's name in the catalogue.
    pub fn model(&self) -> &str {
        match self {
            Self::Generate { model, .. } | Self::Score { model, .. } => model,
            Self::Plan { base_model, .. } => base_model,
        }
    }

    /// Plans read headers alone: they take no place in the queue and no turn on the device.
    pub(super) fn is_plan(&self) -> bool {
        matches!(self, Self::Plan { .. })
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
    updates: mpsc::Sender<Result<InteractiveUpdate, Failure>>,
    pub(super) cancel: CancelFlag,
    /// Room that is kept for results, and for a failure at the end.
    kept: usize,
}

impl CallLine {
    fn open(call: &InteractiveCall) -> (Self, InteractiveStream) {
        let kept = call.results() + 1;
        let (sender, updates) = mpsc::channel(kept + ROOM_FOR_NEWS);
        let cancel = CancelFlag::default();
        let stream = InteractiveStream { updates, cancel: cancel.clone() };
        (Self { updates: sender, cancel, kept }, stream)
    }

    /// Sends what may be late or lost; says whether there was room.
    pub(super) fn tell(&mut self, update: InteractiveUpdate) -> bool {
        self.updates.capacity() > self.kept && self.updates.try_send(Ok(update)).is_ok()
    }

    /// Sends a result.
    pub(super) fn deliver(&mut self, update: InteractiveUpdate) {
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
