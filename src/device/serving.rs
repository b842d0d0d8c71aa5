//! Interactive calls on a slot's thread of calls, and plans beside them.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{
    EngineSource, InteractiveCall, InteractiveUpdate, OpenedModel, ServingMark, Slot,
    account::{Occupant, Refusal},
    engine_failure::{engine_failure, panic_failure, spec_failure},
    interactive_queue::{ReadyCall, UpdateSender},
    turn::Turn,
};
use crate::{
    engine::RunContext,
    jobs::Failure,
    outcome::{Drawn, Progress},
    run::{DeviceEngine, Undertaking},
};

impl<S: EngineSource> Slot<S> {
    /// For the thread of jobs, between two units of its work: makes the plans that wait, and lets a
    /// call have the device for a slice. Says whether there was anything to do.
    pub fn give_way(&self) -> bool {
        let mut did = self.make_plans();
        let may_begin = || self.memory.takes_calls() && self.calls.is_due(self.index);
        if self.turn.is_call_open() || may_begin() {
            did |= self.turn.give();
        }
        did
    }

    /// Makes the plans that wait, unless another slot loads a model: that slot makes them afterwards.
    /// Says whether there was any.
    fn make_plans(&self) -> bool {
        let mut did = false;
        while let Some(mut source) = self.memory.free_source()
            && let Some(ReadyCall { call, model, mut updates, span }) = self.calls.take_plan()
        {
            span.in_scope(|| {
                let planned = catch_unwind(AssertUnwindSafe(|| {
                    if let InteractiveCall::Plan { spec, .. } = call {
                        let plan = self.memory.plan(&mut source, &model, &spec)?;
                        updates.send(InteractiveUpdate::Plan(plan));
                    }
                    Ok(())
                }));
                self.end(planned, |failure| updates.fail(failure));
            });
            did = true;
        }
        did
    }

    /// The thread of calls: serves one after another, each time that it has its turn.
    pub(super) fn serve_calls(&self) {
        // However this ends, no thread may wait for it.
        let _stops = StopsTurn(&self.turn);
        while self.turn.take() {
            if self.memory.takes_calls()
                && let Some(ReadyCall { call, model, mut updates, span }) =
                    self.calls.take(self.index)
            {
                self.turn.set_call_open(true);
                let begun = self.clock.monotonic();
                {
                    let _mark = self.serving_mark.as_ref().map(ServingMark::set);
                    let served = span.in_scope(|| {
                        catch_unwind(AssertUnwindSafe(|| serve(self, call, &model, &mut updates)))
                    });
                    self.end(served, |failure| updates.fail(failure));
                }
                self.memory.release(Occupant::Call(self.index));
                self.calls.done(self.index, self.clock.monotonic().since(begun));
                self.turn.set_call_open(false);
            }
            self.turn.hand_back();
        }
    }

    /// Ends a call in its failure, where there was one.
    fn end(&self, ended: std::thread::Result<Result<(), Failure>>, fail: impl FnOnce(Failure)) {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => {
                self.note_failure(&failure);
                fail(failure);
            }
            Err(payload) => {
                self.note_panic(payload.as_ref());
                fail(panic_failure());
            }
        }
    }
}

struct StopsTurn<'a>(&'a Turn);

impl Drop for StopsTurn<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Does what a caller asks and sends it back piece by piece.
fn serve<S: EngineSource>(
    slot: &Slot<S>,
    call: InteractiveCall,
    model: &OpenedModel,
    updates: &mut UpdateSender,
) -> Result<(), Failure> {
    let cancel = updates.cancel.clone();
    let (turn, stopped) = (slot.turn.clone(), cancel.clone());
    // Jobs come to their turn between any two units of the call's work.
    let rest = move || {
        if !turn.rest() {
            stopped.cancel();
        }
    };
    cancel.rest_by(rest.clone());
    let updates = RefCell::new(updates);
    let mut report = |progress: Progress| {
        updates.borrow_mut().send_if_room(InteractiveUpdate::Progress(progress));
        rest();
    };
    let mut context = RunContext { report: &mut report, cancel, saving: None };
    match call {
        InteractiveCall::Generate { spec, preview_every, .. } => {
            let engine = engine(slot, model)?;
            let own_size = engine.own_size().map_err(|error| engine_failure(&error))?;
            let limits = slot.call_limits;
            limits.check_drawing(&spec, own_size).map_err(|error| spec_failure(&error))?;
            admit(slot, model, engine.as_ref(), Undertaking::Generate(&spec))?;
            let mut hand_over = |drawn| {
                let mut updates = updates.borrow_mut();
                match drawn {
                    Drawn::Preview { .. } => {
                        updates.send_if_room(InteractiveUpdate::Drawn(drawn));
                    }
                    Drawn::Picture { .. } => updates.send(InteractiveUpdate::Drawn(drawn)),
                }
            };
            engine
                .generate(&spec, preview_every, &mut hand_over, &mut context)
                .map_err(|error| engine_failure(&error))
        }
        InteractiveCall::Score { spec, .. } => {
            slot.call_limits.check_score(&spec).map_err(|error| spec_failure(&error))?;
            let engine = engine(slot, model)?;
            admit(slot, model, engine.as_ref(), Undertaking::Score(&spec))?;
            let scores = engine
                .score_timesteps(&spec, &mut context)
                .map_err(|error| engine_failure(&error))?;
            updates.borrow_mut().send(InteractiveUpdate::Scores(Box::new(scores)));
            Ok(())
        }
        // Plans take no turn.
        InteractiveCall::Plan { .. } => Ok(()),
    }
}

/// Before any work: what does not fit beside all else ends the call, and not the process.
fn admit<S: EngineSource>(
    slot: &Slot<S>,
    model: &OpenedModel,
    engine: &S::Engine,
    work: Undertaking<'_>,
) -> Result<(), Failure> {
    let memory = engine.memory(work).map_err(|error| engine_failure(&error))?;
    let admitted = slot.memory.admit(Occupant::Call(slot.index), [model], memory);
    admitted.map_err(Refusal::into_failure)
}

/// The model, or why it cannot be had now: a call does not wait for memory.
fn engine<S: EngineSource>(slot: &Slot<S>, model: &OpenedModel) -> Result<Arc<S::Engine>, Failure> {
    slot.memory.engine(Occupant::Call(slot.index), model).map_err(Refusal::into_failure)
}
