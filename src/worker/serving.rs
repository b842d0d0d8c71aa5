//! One direct call on the device thread.

use std::cell::RefCell;

use super::{
    DeviceEngine, DirectCall, DirectUpdate, EngineSource, OpenedModel, desk::Desk,
    direct_queue::CallLine, failure::engine_failure,
};
use crate::{
    engine::{Drawn, RunContext},
    jobs::Failure,
    outcome::Progress,
};

/// Does what a caller asks and sends it back piece by piece.
pub(super) fn serve<S: EngineSource>(
    desk: &Desk<S>,
    call: DirectCall,
    model: &OpenedModel,
    line: &mut CallLine,
) -> Result<(), Failure> {
    let cancel = line.cancel.clone();
    let line = RefCell::new(line);
    let mut report = |progress: Progress| {
        line.borrow_mut().tell(DirectUpdate::Progress(progress));
    };
    let mut context = RunContext { report: &mut report, cancel, saving: None };
    match call {
        DirectCall::Generate { spec, preview_every, .. } => {
            let engine = desk.engine(model)?;
            let mut hand_over = |drawn| {
                let mut line = line.borrow_mut();
                match drawn {
                    Drawn::Preview { index, picture } => {
                        line.tell(DirectUpdate::Preview { index, picture });
                    }
                    Drawn::Picture { index, picture } => {
                        line.deliver(DirectUpdate::Picture { index, picture });
                    }
                }
            };
            engine
                .generate(&spec, preview_every, &mut hand_over, &mut context)
                .map_err(|error| engine_failure(&error))
        }
        DirectCall::Score { spec, .. } => {
            let engine = desk.engine(model)?;
            let scores = engine
                .score_timesteps(&spec, &mut context)
                .map_err(|error| engine_failure(&error))?;
            line.borrow_mut().deliver(DirectUpdate::Scores(Box::new(scores)));
            Ok(())
        }
        DirectCall::Plan { spec, .. } => {
            let plan = desk.plan(model, &spec)?;
            line.borrow_mut().deliver(DirectUpdate::Plan(plan));
            Ok(())
        }
    }
}
