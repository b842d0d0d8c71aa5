//! Text for cross-attention: its states, or the keys and values that they were projected to once
//! for many predictions.

use std::slice;

use candle_core::{Device, Result, Tensor, bail};

use crate::engine::tape::TapeTensor;

/// What a transformer block attends to, `[prompts, tokens, channels]` each.
#[derive(Debug, Clone)]
pub struct KeyValue {
    pub(in crate::engine) key: Tensor,
    pub(in crate::engine) value: Tensor,
}

/// Some of the prompts that are held.
#[derive(Debug)]
pub enum Rows {
    /// They lie as they are read: nothing is copied.
    Consecutive {
        /// The first of them.
        first: usize,
        /// How many.
        count: usize,
    },
    /// Which prompt each is.
    Scattered(Tensor),
}

impl Rows {
    /// Of tensors on a device.
    pub(in crate::engine) fn new(rows: &[usize], device: &Device) -> Result<Self> {
        let first = rows.first().copied().unwrap_or(0);
        if rows.iter().enumerate().all(|(index, row)| *row == first + index) {
            return Ok(Self::Consecutive { first, count: rows.len() });
        }
        let index: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
        Ok(Self::Scattered(Tensor::from_vec(index, rows.len(), device)?))
    }

    /// These rows of a tensor, without gradients.
    pub(in crate::engine) fn of(&self, held: &Tensor) -> Result<TapeTensor> {
        let rows = match self {
            Self::Consecutive { first, count } => held.narrow(0, *first, *count)?,
            Self::Scattered(index) => held.index_select(index, 0)?,
        };
        Ok(TapeTensor::no_grad(&rows))
    }
}

/// How a forward pass gets the text of its prompts.
#[derive(Debug)]
pub enum Text<'a> {
    /// By its hidden states, `[batch, tokens, channels]`, which every block projects.
    States(TapeTensor),
    /// By the keys and values of the blocks that are still to run.
    Projected {
        /// In the order in which the blocks run.
        blocks: slice::Iter<'a, KeyValue>,
        /// A row a sample.
        rows: Rows,
    },
}

impl Text<'_> {
    /// What the next block attends to.
    pub(in crate::engine) fn context(&mut self) -> Result<Context<'_>> {
        match self {
            Self::States(states) => Ok(Context::States(states)),
            Self::Projected { blocks, rows } => match blocks.next() {
                Some(KeyValue { key, value }) => {
                    Ok(Context::Projected { key: rows.of(key)?, value: rows.of(value)? })
                }
                None => bail!("text was projected for a denoiser of fewer blocks"),
            },
        }
    }
}

/// What attention takes keys and values from.
#[derive(Debug)]
pub(in crate::engine) enum Context<'a> {
    /// `[batch, length, context]`.
    States(&'a TapeTensor),
    /// `[batch, length, channels]` each.
    Projected {
        /// By which queries find what they attend to.
        key: TapeTensor,
        /// What they then read.
        value: TapeTensor,
    },
}
