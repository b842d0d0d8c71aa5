//! One direct call on the device's thread of calls, and plans beside them.

use std::cell::RefCell;

use super::{
    DeviceEngine, EngineSource, InteractiveCall, InteractiveUpdate, OpenedModel, Undertaking,
    device_state::DeviceState,
    engine_failure::{engine_failure, spec_failure},
    interactive_queue::CallLine,
};
use crate::{
    engine::{Drawn, RunContext},
    jobs::Failure,
    outcome::Progress,
};

/// Does what a caller asks and sends it back piece by piece.
pub(super) fn serve<S: EngineSource>(
    device_state: &DeviceState<S>,
    call: InteractiveCall,
    model: &OpenedModel,
    line: &mut CallLine,
) -> Result<(), Failure> {
    let cancel = line.cancel.clone();
    let (turn, stopped) = (device_state.turn.clone(), cancel.clone());
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
            let engine = device_state.engine(model)?;
            let own_size = engine.own_size().map_err(|error| engine_failure(&error))?;
            let limits = device_state.call_limits;
            limits.check_drawing(&spec, own_size).map_err(|error| spec_failure(&error))?;
            admit(device_state, model, engine.as_ref(), Undertaking::Generate(&spec))?;
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
            device_state.call_limits.check_score(&spec).map_err(|error| spec_failure(&error))?;
            let engine = device_state.engine(model)?;
            admit(device_state, model, engine.as_ref(), Undertaking::Score(&spec))?;
            let scores = engine
                .score_timesteps(&spec, &mut context)
                .map_err(|error| engine_failure(&error))?;
            line.borrow_mut().deliver(InteractiveUpdate::Scores(Box::new(scores)));
            Ok(())
        }
        InteractiveCall::Plan { .. } => plan(device_state, call, model, &mut line.borrow_mut()),
    }
}

/// Before any work: what does not fit beside all else ends the call, and not the process.
fn admit<S: EngineSource>(
    device_state: &DeviceState<S>,
    model: &OpenedModel,
    engine: &S::Engine,
    work: Undertaking<'_>,
) -> Result<(), Failure> {
    let memory = engine.memory(work).map_err(|error| engine_failure(&error))?;
    device_state.admit_call(model, memory)
}

/// Says what an erasure would take, from headers alone.
pub(super) fn plan<S: EngineSource>(
    device_state: &DeviceState<S>,
    call: InteractiveCall,
    model: &OpenedModel,
    line: &mut CallLine,
) -> Result<(), Failure> {
    if let InteractiveCall::Plan { spec, .. } = call {
        let plan = device_state.plan(model, &spec)?;
        line.deliver(InteractiveUpdate::Plan(plan));
    }
    Ok(())
}
