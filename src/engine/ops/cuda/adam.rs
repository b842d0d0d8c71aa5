//! The optimiser's step: one kernel a variable, nothing in between is held.

use candle_core::{Result, Tensor};

use super::{
    Argument::{Change, Number, Read},
    Launch, count,
};

/// The numbers of a step.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct AdamStep {
    pub(in super::super) mean_decay: f64,
    pub(in super::super) square_decay: f64,
    /// The learning rate over the mean's correction.
    pub(in super::super) rate: f64,
    /// The root of the squares' correction.
    pub(in super::super) root: f64,
    pub(in super::super) eps: f64,
}

/// Changes a variable and its moments in place; all are contiguous f32 of one shape.
pub(in super::super) fn adam(
    variable: &Tensor,
    gradient: &Tensor,
    [mean, square]: [&Tensor; 2],
    step: AdamStep,
) -> Result<()> {
    let values = variable.elem_count();
    let arguments = vec![
        Read(gradient),
        Change(mean),
        Change(square),
        count(values)?,
        Number((1.0 - step.mean_decay) as f32),
        Number(step.square_decay as f32),
        Number((1.0 - step.square_decay) as f32),
        Number(step.rate as f32),
        Number(step.root as f32),
        Number(step.eps as f32),
    ];
    Launch::over_values("adam", variable, values, arguments)?.change(variable)
}
