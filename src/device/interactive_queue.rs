//! The queue of interactive calls: bounded, with positions that clients can see. A call leaves it
//! when its caller does. All slots take from one queue, those without a job first.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};

use super::{
    InteractiveCall, InteractiveQueueFull, InteractiveStream, InteractiveUpdate, ModelProvider,
    OpenedModel, QueueScope, health::SlotIndex,
};
use crate::{
    engine::CancelFlag,
    jobs::{Failure, FailureReason, Principal},
};

/// Updates that may be late: positions, progress and previews. Beyond, the newest are dropped.
const PLACES_FOR_NEWS: usize = 32;
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
    /// Changes whenever a call may have come to its turn.
    wakeups: watch::Sender<()>,
}

#[derive(Debug)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// The number of the next call.
    next_number: u64,
    /// When each principal that waits had its last turn, in turns.
    turns: BTreeMap<Principal, u64>,
    turn: u64,
    /// Slots whose threads run.
    slots: usize,
    /// Slots that have neither job nor call.
    idle: BTreeSet<SlotIndex>,
    /// Whose calls are being served.
    serving: BTreeMap<SlotIndex, Principal>,
    /// How long a call lasts, smoothed.
    usual_duration: Duration,
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
    updates: UpdateSender,
    span: tracing::Span,
    /// The position that the caller was sent last.
    position: Option<usize>,
}

/// A call whose turn it is.
#[derive(Debug)]
pub(super) struct ReadyCall {
    pub(super) call: InteractiveCall,
    pub(super) model: OpenedModel,
    pub(super) updates: UpdateSender,
    pub(super) span: tracing::Span,
}

impl InteractiveCalls {
    pub(super) fn new(
        slots: usize,
        places: Places,
        models: Arc<dyn ModelProvider>,
        runtime: Handle,
    ) -> Self {
        let queue = Queue {
            waiting: VecDeque::new(),
            next_number: 0,
            turns: BTreeMap::new(),
            turn: 0,
            slots,
            idle: BTreeSet::new(),
            serving: BTreeMap::new(),
            usual_duration: FIRST_GUESS,
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
    ) -> Result<InteractiveStream, InteractiveQueueFull> {
        let mut queue = self.queue();
        queue.forget_cancelled();
        queue.check_room(self.0.places, principal, &call)?;
        let (mut updates, stream) = UpdateSender::open(&call);
        if queue.is_closed {
            updates.fail(device_is_gone());
            return Ok(stream);
        }
        let number = queue.next_number;
        queue.next_number += 1;
        let model = call.model().to_owned();
        let span = tracing::Span::current();
        let principal = principal.clone();
        let waiting =
            Waiting { number, principal, call, model: None, updates, span, position: None };
        queue.waiting.push_back(waiting);
        queue.send_positions();
        drop(queue);
        let this = self.clone();
        self.0.runtime.spawn(async move {
            let opened = this.0.models.open(&model).await;
            this.note_opened(number, opened);
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

    /// What the tasks that open models run on.
    pub(super) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// Has every slot look for calls.
    pub(super) fn wake(&self) {
        self.0.wakeups.send_replace(());
    }

    /// Notes whether a slot has neither job nor call.
    pub(super) fn set_idle(&self, slot: SlotIndex, is_idle: bool) {
        let mut queue = self.queue();
        if is_idle {
            queue.idle.insert(slot);
        } else {
            queue.idle.remove(&slot);
        }
    }

    /// Whether there is a call for a slot.
    pub(super) fn is_due(&self, slot: SlotIndex) -> bool {
        let mut queue = self.queue();
        queue.forget_cancelled();
        queue.is_due(slot)
    }

    /// Notes that a call's model is there, or ends the call.
    fn note_opened(&self, number: u64, opened: Result<OpenedModel, Failure>) {
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
                    waiting.updates.fail(failure);
                }
                queue.send_positions();
            }
        }
        drop(queue);
        self.wake();
    }

    /// A plan whose model is there: plans read headers alone, and wait for no turn.
    pub(super) fn take_plan(&self) -> Option<ReadyCall> {
        let mut queue = self.queue();
        queue.forget_cancelled();
        let is_ready = |waiting: &Waiting| waiting.model.is_some() && waiting.call.is_plan();
        let index = queue.waiting.iter().position(is_ready)?;
        queue.remove(index)
    }

    /// The call whose turn it is of those whose models are there, where there is one for this slot;
    /// the slot must say when it is done with it.
    pub(super) fn take(&self, slot: SlotIndex) -> Option<ReadyCall> {
        let mut queue = self.queue();
        queue.forget_cancelled();
        if !queue.is_due(slot) {
            return None;
        }
        let order = queue.order();
        let is_ready = |index: &usize| {
            queue.waiting.get(*index).is_some_and(|waiting| waiting.model.is_some())
        };
        let index = order.into_iter().find(is_ready)?;
        let principal = queue.waiting.get(index)?.principal.clone();
        let ready = queue.remove(index)?;
        queue.idle.remove(&slot);
        queue.turn += 1;
        let turn = queue.turn;
        queue.turns.insert(principal.clone(), turn);
        queue.serving.insert(slot, principal);
        queue.forget_turns();
        queue.send_positions();
        Some(ready)
    }

    /// A slot is done with its call.
    pub(super) fn done(&self, slot: SlotIndex, lasted: Duration) {
        let mut queue = self.queue();
        queue.serving.remove(&slot);
        queue.forget_turns();
        queue.usual_duration = (queue.usual_duration * 3 + lasted) / 4;
        queue.send_positions();
    }

    /// A slot is gone; with the last one, every call ends.
    pub(super) fn slot_ends(&self, slot: SlotIndex) {
        let mut queue = self.queue();
        queue.idle.remove(&slot);
        queue.serving.remove(&slot);
        queue.slots = queue.slots.saturating_sub(1);
        if queue.slots == 0 {
            queue.is_closed = true;
            for mut waiting in queue.waiting.drain(..) {
                waiting.updates.fail(device_is_gone());
            }
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
    ) -> Result<(), InteractiveQueueFull> {
        let alike = || self.waiting.iter().filter(|other| other.call.is_plan() == call.is_plan());
        let of_principal = alike().filter(|other| other.principal == *principal).count();
        let (waiting, limit, scope) = if of_principal >= places.of_principal {
            (of_principal, places.of_principal, QueueScope::OneCaller)
        } else {
            (alike().count(), places.total, QueueScope::AllCallers)
        };
        if waiting < limit {
            return Ok(());
        }
        let rounds = (waiting + self.serving.len()).div_ceil(self.slots.max(1));
        let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
        let retry_after = self.usual_duration.saturating_mul(rounds).max(Duration::from_secs(1));
        Err(InteractiveQueueFull { waiting, scope, limit, retry_after })
    }

    /// Whether there is a call for a slot: any that is ready where the slot is idle, else one that is
    /// left once every idle slot has taken one.
    fn is_due(&self, slot: SlotIndex) -> bool {
        let is_ready = |waiting: &&Waiting| waiting.model.is_some() && !waiting.call.is_plan();
        let ready = self.waiting.iter().filter(is_ready).count();
        let for_others = if self.idle.contains(&slot) { 0 } else { self.idle.len() };
        ready > for_others
    }

    /// The calls, but for plans, in the order in which their turns come: principals take turns, the one
    /// that had none for longest first, each with its calls in the order in which they came.
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
        let Waiting { call, model, updates, span, .. } = self.waiting.remove(index)?;
        Some(ReadyCall { call, model: model?, updates, span })
    }

    /// Turns matter among those that wait or are served.
    fn forget_turns(&mut self) {
        let (waiting, serving) = (&self.waiting, &self.serving);
        self.turns.retain(|principal, _| {
            serving.values().any(|served| served == principal)
                || waiting.iter().any(|call| call.principal == *principal)
        });
    }

    fn forget_cancelled(&mut self) {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| !waiting.updates.cancel.is_cancelled());
        if self.waiting.len() != before {
            self.forget_turns();
            self.send_positions();
        }
    }

    /// Sends each caller how many calls must end before its own begins, where that changed.
    fn send_positions(&mut self) {
        for (place, index) in self.order().into_iter().enumerate() {
            let ahead = (place + self.serving.len() + 1).saturating_sub(self.slots);
            let Some(waiting) = self.waiting.get_mut(index) else { continue };
            let update = InteractiveUpdate::Position(ahead);
            if waiting.position != Some(ahead) && waiting.updates.send_if_room(update) {
                waiting.position = Some(ahead);
            }
        }
    }
}

/// Why a call or a job ends that waits for a device that is stopped.
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

/// Sends a caller what comes of its call. Never blocks: there is room for every result, and what may
/// be late is dropped where a caller reads slowly.
#[derive(Debug)]
pub(super) struct UpdateSender {
    sender: mpsc::Sender<Result<InteractiveUpdate, Failure>>,
    pub(super) cancel: CancelFlag,
    /// Places that are reserved for results, and for a failure at the end.
    reserved: usize,
}

impl UpdateSender {
    fn open(call: &InteractiveCall) -> (Self, InteractiveStream) {
        let reserved = call.results() + 1;
        let (sender, updates) = mpsc::channel(reserved + PLACES_FOR_NEWS);
        let cancel = CancelFlag::default();
        let stream = InteractiveStream { updates, cancel: cancel.clone() };
        (Self { sender, cancel, reserved }, stream)
    }

    /// Sends what may be late or lost; says whether there was room.
    pub(super) fn send_if_room(&mut self, update: InteractiveUpdate) -> bool {
        self.sender.capacity() > self.reserved && self.sender.try_send(Ok(update)).is_ok()
    }

    /// Sends a result.
    pub(super) fn send(&mut self, update: InteractiveUpdate) {
        self.reserved = self.reserved.saturating_sub(1);
        if self.sender.try_send(Ok(update)).is_err() {
            // The caller is gone.
            self.cancel.cancel();
        }
    }

    /// Ends the call in a failure.
    pub(super) fn fail(&mut self, failure: Failure) {
        // A caller that is gone needs no failure.
        let _ = self.sender.try_send(Err(failure));
    }
}
