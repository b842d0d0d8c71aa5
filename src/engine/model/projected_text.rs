//! Prompts as cross-attention reads them: projected once, for all predictions under them.

use std::{collections::BTreeMap, slice, sync::Arc};

use candle_core::{Result, Tensor, bail};

use crate::engine::tape::TapeTensor;

/// The keys and values of a batch of prompts in every cross-attention of a U-Net, by the weights that
/// it had when [`super::Unet::project_text`] made them.
///
/// Prompts that are alike are held once. Clones and selections share what is held.
#[derive(Debug, Clone)]
pub struct ProjectedText {
    /// Those of each transformer block, in the order in which the blocks run.
    blocks: Arc<[KeyValue]>,
    /// Which of the held prompts each row of the batch is.
    rows: Vec<usize>,
}

/// What a transformer block attends to, `[prompts, tokens, channels]` each.
#[derive(Debug, Clone)]
pub(super) struct KeyValue {
    pub(super) key: Tensor,
    pub(super) value: Tensor,
}

impl ProjectedText {
    pub(super) fn new(blocks: Vec<KeyValue>, rows: Vec<usize>) -> Self {
        Self { blocks: blocks.into(), rows }
    }

    /// A batch of these rows, each as often as it is named; fails where one is not there.
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        let there = rows.iter().map(|row| self.rows.get(*row).copied());
        match there.collect() {
            Some(rows) => Ok(Self { blocks: Arc::clone(&self.blocks), rows }),
            None => bail!("rows {rows:?} of a batch of {} prompts", self.rows.len()),
        }
    }

    /// `count` rows from `start` on; fails where there are fewer.
    pub fn narrow(&self, start: usize, count: usize) -> Result<Self> {
        let end = start.saturating_add(count);
        match self.rows.get(start..end) {
            Some(rows) => Ok(Self { blocks: Arc::clone(&self.blocks), rows: rows.to_vec() }),
            None => bail!("rows {start} to {end} of a batch of {} prompts", self.rows.len()),
        }
    }

    /// For one forward pass.
    pub(super) fn text(&self) -> Result<Text<'_>> {
        let rows = match self.blocks.first() {
            Some(first) => Rows::new(&self.rows, &first.key)?,
            None => bail!("text was projected for no block"),
        };
        Ok(Text::Projected { blocks: self.blocks.iter(), rows })
    }
}

/// Some of the held prompts.
#[derive(Debug)]
pub(super) enum Rows {
    /// They lie as they are read: nothing is copied.
    Consecutive {
        first: usize,
        count: usize,
    },
    Scattered(Tensor),
}

impl Rows {
    /// Of tensors that lie where `like` does.
    fn new(rows: &[usize], like: &Tensor) -> Result<Self> {
        let first = rows.first().copied().unwrap_or(0);
        if rows.iter().enumerate().all(|(index, row)| *row == first + index) {
            return Ok(Self::Consecutive { first, count: rows.len() });
        }
        let index: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
        Ok(Self::Scattered(Tensor::from_vec(index, rows.len(), like.device())?))
    }

    fn of(&self, held: &Tensor) -> Result<TapeTensor> {
        let rows = match self {
            Self::Consecutive { first, count } => held.narrow(0, *first, *count)?,
            Self::Scattered(index) => held.index_select(index, 0)?,
        };
        Ok(TapeTensor::no_grad(&rows))
    }
}

/// How a forward pass is told its prompts.
#[derive(Debug)]
pub(super) enum Text<'a> {
    /// By their hidden states, `[batch, tokens, cross_attention_dim]`, which every block projects.
    States(&'a TapeTensor),
    /// By the keys and values of the blocks that are still to run.
    Projected { blocks: slice::Iter<'a, KeyValue>, rows: Rows },
}

impl Text<'_> {
    /// What the next block attends to.
    pub(super) fn context(&mut self) -> Result<Context<'_>> {
        match self {
            Self::States(states) => Ok(Context::States(states)),
            Self::Projected { blocks, rows } => match blocks.next() {
                Some(KeyValue { key, value }) => {
                    Ok(Context::Projected { key: rows.of(key)?, value: rows.of(value)? })
                }
                None => bail!("text was projected for a U-Net of fewer blocks"),
            },
        }
    }
}

/// What attention takes keys and values from.
#[derive(Debug)]
pub(super) enum Context<'a> {
    /// `[batch, length, context]`.
    States(&'a TapeTensor),
    /// `[batch, length, channels]` each.
    Projected { key: TapeTensor, value: TapeTensor },
}

/// Rows of a batch that differ from all before them, and which of those each row is.
pub(super) fn distinct_rows(batch: &Tensor) -> Result<(Vec<u32>, Vec<usize>)> {
    let values = batch.flatten_all()?.to_vec1::<f32>()?;
    let bits: Vec<u32> = values.into_iter().map(f32::to_bits).collect();
    let length = bits.len() / batch.dim(0)?.max(1);
    let mut known = BTreeMap::new();
    let mut first = Vec::new();
    let mut rows = Vec::new();
    for (index, row) in bits.chunks_exact(length.max(1)).enumerate() {
        rows.push(*known.entry(row).or_insert_with(|| {
            first.push(index as u32);
            first.len() - 1
        }));
    }
    Ok((first, rows))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn tensor(rows: &[[f32; 2]]) -> Tensor {
        Tensor::from_slice(rows.as_flattened(), (rows.len(), 2), &Device::Cpu).unwrap()
    }

    /// Three prompts of one token, for one block.
    fn projected() -> ProjectedText {
        let key = tensor(&[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
        let key = key.unsqueeze(1).unwrap();
        let value = (&key * 10.0).unwrap();
        ProjectedText::new(vec![KeyValue { key, value }], vec![0, 1, 2, 1])
    }

    fn keys(text: &ProjectedText) -> Vec<[f32; 2]> {
        let mut text = text.text().unwrap();
        let Context::Projected { key, value } = text.context().unwrap() else {
            panic!("it was projected");
        };
        assert!(!key.is_followed() && !value.is_followed());
        let values = |t: &TapeTensor| t.tensor().squeeze(1).unwrap().to_vec2::<f32>().unwrap();
        let (keys, values) = (values(&key), values(&value));
        let tenfold = keys.iter().map(|row| row.iter().map(|key| key * 10.0).collect());
        assert_eq!(values, tenfold.collect::<Vec<Vec<f32>>>());
        // There is no second block.
        assert!(text.context().is_err());
        keys.into_iter().map(|key| key.try_into().unwrap()).collect()
    }

    #[test]
    fn rows_are_read_in_the_order_in_which_they_are_selected() {
        let (one, two, three) = ([1.0, 2.0], [3.0, 4.0], [5.0, 6.0]);
        let text = projected();
        assert_eq!(keys(&text), [one, two, three, two]);
        assert_eq!(keys(&text.narrow(1, 2).unwrap()), [two, three]);
        assert_eq!(keys(&text.narrow(1, 3).unwrap()), [two, three, two]);
        let selected = text.select(&[3, 3, 0]).unwrap();
        assert_eq!(keys(&selected), [two, two, one]);
        assert_eq!(keys(&selected.narrow(1, 2).unwrap()), [two, one]);
        assert_eq!(keys(&selected.select(&[2]).unwrap()), [one]);
    }

    #[test]
    fn rows_that_are_not_there_are_refused() {
        let text = projected();
        assert!(text.select(&[0, 4]).is_err());
        assert!(text.narrow(2, 3).is_err());
        assert!(text.narrow(usize::MAX, 2).is_err());
    }

    #[test]
    fn rows_that_are_alike_are_found() {
        let batch = tensor(&[[0.0, 1.0], [2.0, 3.0], [0.0, 1.0], [-0.0, 1.0], [2.0, 3.0]]);
        // A zero below zero has other bits, and may have another product.
        assert_eq!(distinct_rows(&batch).unwrap(), (vec![0, 1, 3], vec![0, 1, 0, 2, 1]));
        let alike = batch.narrow(0, 1, 1).unwrap().broadcast_as((3, 2)).unwrap();
        assert_eq!(distinct_rows(&alike).unwrap(), (vec![0], vec![0; 3]));
    }
}
