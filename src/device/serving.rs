//! Direct calls on the device's thread of calls, and plans beside them.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{
    DeviceEngine, EngineSource, InteractiveCall, InteractiveUpdate, OpenedModel, ServingMark, Slot,
    Undertaking,
    engine_failure::{engine_failure, panic_failure, spec_failure},
    interactive_queue::{CallLine, ReadyCall},
    turn::Turn,
};
use crate::{
    engine::{Drawn, RunContext},
    jobs::Failure,
    outcome::Progress,
};

impl<S: EngineSource> Slot<S> {
    /// For the thread of jobs, between two units of its work: makes the plans that wait, and lets a
    /// call have the device for a slice. Says whether there was anything to do.
    pub fn give_way(&self) -> bool {
        let mut did = false;
        while let Some(ReadyCall { call, model, mut line, span }) = self.direct.take_plan() {
            span.in_scope(|| {
                let planned =
                    catch_unwind(AssertUnwindSafe(|| plan(self, call, &model, &mut line)));
                self.end(planned, |failure| line.fail(failure));
            });
            did = true;
        }
        if self.turn.is_call_open() || self.direct.has_ready() {
            did |= self.turn.give();
        }
        did
    }

    /// The thread of calls: serves one after another, each time that it has its turn.
    pub(super) fn serve_calls(&self) {
        // However this ends, nobody may wait for it.
        let _stops = StopsTurn(&self.turn);
        while self.turn.take() {
            if let Some(ReadyCall { call, model, mut line, span }) = self.direct.take() {
                self.turn.set_call_open(true);
                let begun = self.clock.monotonic();
                {
                    let _mark = self.serving_mark.as_ref().map(ServingMark::set);
                    let served = span.in_scope(|| {
                        catch_unwind(AssertUnwindSafe(|| serve(self, call, &model, &mut line)))
                    });
                    self.end(served, |failure| line.fail(failure));
                }
                self.release_call();
                self.direct.done(self.clock.monotonic().since(begun));
                self.turn.set_call_open(false);
            }
            self.turn.hand_back();
        }
    }

    /// Tells a caller of a failure, where there was one.
    fn end(&self, ended: std::thread::Result<Result<(), Failure>>, tell: impl FnOnce(Failure)) {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => tell(failure),
            Err(payload) => {
                self.note_panic(payload.as_ref());
                tell(panic_failure());
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
    line: &mut CallLine,
) -> Result<(), Failure> {
    let cancel = line.cancel.clone();
    let (turn, stopped) = (slot.turn.clone(), cancel.clone());
    // Jobs come to their turn between any two units of the call's work.
    let rest = move || {
        if !turn.rest() {
            stopped.cancel();
        }
    };
    cancel.rest_by(rest.clone());
    let line = RefCell::new(line);
    let mut report = |progress: Progress| {
        line.borrow_mut().tell(InteractiveUpdate::Progress(progress));
        rest();
    };
    let mut context = RunContext { report: &mut report, cancel, saving: None };
    match call {
        InteractiveCall::Generate { spec, preview_every, .. } => {
            let engine = slot.engine(model)?;
            let own_size = engine.own_size().map_err(|error| engine_failure(&error))?;
            let limits = slot.call_limits;
            limits.check_drawing(&spec, own_size).map_err(|error| spec_failure(&error))?;
            admit(slot, model, engine.as_ref(), Undertaking::Generate(&spec))?;
            let mut hand_over = |drawn| {
                let mut line = line.borrow_mut();
                match drawn {
                    Drawn::Preview { index, picture } => {
                        line.tell(InteractiveUpdate::Preview { index, picture });
                    }
                    Drawn::Picture { index, picture } => {
                        line.deliver(InteractiveUpdate::Picture { index, picture });
                    }
                }
            };
            engine
                .generate(&spec, preview_every, &mut hand_over, &mut context)
                .map_err(|error| engine_failure(&error))
        }
        InteractiveCall::Score { spec, .. } => {
            slot.call_limits.check_score(&spec).map_err(|error| spec_failure(&error))?;
            let engine = slot.engine(model)?;
            admit(slot, model, engine.as_ref(), Undertaking::Score(&spec))?;
            let scores = engine
                .score_timesteps(&spec, &mut context)
                .map_err(|error| engine_failure(&error))?;
            line.borrow_mut().deliver(InteractiveUpdate::Scores(Box::new(scores)));
            Ok(())
        }
        InteractiveCall::Plan { .. } => plan(slot, call, model, &mut line.borrow_mut()),
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
    slot.admit_call(model, memory)
}

/// Says what an erasure would take, from headers alone.
fn plan<S: EngineSource>(
    slot: &Slot<S>,
    call: InteractiveCall,
    model: &OpenedModel,
    line: &mut CallLine,
) -> Result<(), Failure> {
    if let InteractiveCall::Plan { spec, .. } = call {
        let plan = slot.plan(model, &spec)?;
        line.deliver(InteractiveUpdate::Plan(plan));
    }
    Ok(())
}
