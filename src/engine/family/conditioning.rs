//! `Conditioning`: encoded prompts, as a denoiser reads them beside its latents.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use candle_core::{Device, Result, Tensor, bail};

use crate::engine::{
    nn::{KeyValue, Rows, Text},
    tape::TapeTensor,
};

/// Encoded prompts: as tensors with a row a prompt, as inputs of a prediction ([`TapeTensor`]), or as
/// shapes. Which of the parts there are is for the model family to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conditioning<T = Tensor> {
    /// Hidden states of the text, `[prompts, tokens, channels]`.
    pub states: T,
    /// What the whole text says, `[prompts, channels]`: `pooled_prompt_embeds` of SDXL, FLUX and
    /// Stable Diffusion 3.
    pub pooled: Option<T>,
    /// Numbers beside the text, `[prompts, numbers]`: SDXL's `time_ids` (the size of the picture and
    /// how it is cropped), FLUX's guidance.
    pub extra: Option<T>,
}

impl<T> Conditioning<T> {
    /// Each part with its name.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, &T)> {
        let pooled = self.pooled.as_ref().map(|pooled| ("pooled", pooled));
        let extra = self.extra.as_ref().map(|extra| ("extra", extra));
        [("text", &self.states)].into_iter().chain(pooled).chain(extra)
    }

    /// The same parts of something else, or the first error.
    pub fn try_map<U, E>(
        &self,
        mut each: impl FnMut(&T) -> std::result::Result<U, E>,
    ) -> std::result::Result<Conditioning<U>, E> {
        Ok(Conditioning {
            states: each(&self.states)?,
            pooled: self.pooled.as_ref().map(&mut each).transpose()?,
            extra: self.extra.as_ref().map(&mut each).transpose()?,
        })
    }

    /// The same parts of something else.
    pub fn map<U>(&self, mut each: impl FnMut(&T) -> U) -> Conditioning<U> {
        match self.try_map(|part| Ok::<_, Infallible>(each(part))) {
            Ok(mapped) => mapped,
            Err(impossible) => match impossible {},
        }
    }
}

/// Text alone, as Stable Diffusion 1.x and 2.x read it.
impl From<Tensor> for Conditioning {
    fn from(states: Tensor) -> Self {
        Self { states, pooled: None, extra: None }
    }
}

impl From<&Tensor> for Conditioning {
    fn from(states: &Tensor) -> Self {
        states.clone().into()
    }
}

impl Conditioning {
    /// How many prompts, of which each part has a row.
    pub fn rows(&self) -> Result<usize> {
        self.states.dim(0)
    }

    /// A prompt without the axis of prompts.
    pub fn get(&self, row: usize) -> Result<Self> {
        self.try_map(|part| part.get(row))
    }

    /// These rows, each as often as it is named.
    pub fn select(&self, rows: &[u32]) -> Result<Self> {
        let rows = Tensor::new(rows, self.states.device())?;
        self.try_map(|part| part.index_select(&rows, 0))
    }

    /// The prompts of all, one after another; they must have the same parts.
    pub fn cat(all: &[&Self]) -> Result<Self> {
        Self::joined(all, |parts| Tensor::cat(parts, 0))
    }

    /// A row of each, as [`Conditioning::get`] gave it; they must have the same parts.
    pub fn stack(all: &[&Self]) -> Result<Self> {
        Self::joined(all, |parts| Tensor::stack(parts, 0))
    }

    fn joined(all: &[&Self], join: impl Fn(&[&Tensor]) -> Result<Tensor>) -> Result<Self> {
        let states: Vec<_> = all.iter().map(|one| &one.states).collect();
        let optional = |part: fn(&Self) -> Option<&Tensor>| {
            let parts: Vec<_> = all.iter().filter_map(|one| part(one)).collect();
            match parts.len() {
                0 => Ok(None),
                count if count == all.len() => join(&parts).map(Some),
                count => bail!("{count} of {} prompts have a pooled or an extra part", all.len()),
            }
        };
        Ok(Self {
            states: join(&states)?,
            pooled: optional(|one| one.pooled.as_ref())?,
            extra: optional(|one| one.extra.as_ref())?,
        })
    }

    /// Rows that differ from all before them, and which of those each row is.
    pub(super) fn distinct(&self) -> Result<(Self, Vec<usize>)> {
        let count = self.rows()?;
        let mut bits = vec![Vec::new(); count];
        for (_, part) in self.parts() {
            let values = part.flatten_all()?.to_vec1::<f32>()?;
            let length = (values.len() / count.max(1)).max(1);
            for (row, values) in bits.iter_mut().zip(values.chunks_exact(length)) {
                row.extend(values.iter().map(|value| value.to_bits()));
            }
        }
        let mut known = BTreeMap::new();
        let mut first = Vec::new();
        let mut rows = Vec::new();
        for (index, row) in bits.into_iter().enumerate() {
            rows.push(*known.entry(row).or_insert_with(|| {
                first.push(index as u32);
                first.len() - 1
            }));
        }
        Ok((self.select(&first)?, rows))
    }
}

/// What one forward pass reads of its prompts, a row a sample.
#[derive(Debug)]
pub struct Prompts<'a> {
    /// Its text.
    pub text: Text<'a>,
    /// As in [`Conditioning`].
    pub pooled: Option<TapeTensor>,
    /// As in [`Conditioning`].
    pub extra: Option<TapeTensor>,
}

impl From<Conditioning<TapeTensor>> for Prompts<'_> {
    fn from(Conditioning { states, pooled, extra }: Conditioning<TapeTensor>) -> Self {
        Self { text: Text::States(states), pooled, extra }
    }
}

/// A batch of prompts prepared for any number of predictions without gradients, by the weights that a
/// denoiser had when [`super::Denoiser::project`] made it: where it has cross-attention, the keys and
/// values of every block, else the states as they are.
///
/// Prompts that are alike are held once. Clones and selections share what is held.
#[derive(Debug, Clone)]
pub struct ProjectedConditioning {
    held: Arc<SharedPrompts>,
    /// Which of the held prompts each row of the batch is.
    rows: Vec<usize>,
}

#[derive(Debug)]
struct SharedPrompts {
    text: HeldText,
    pooled: Option<Tensor>,
    extra: Option<Tensor>,
    device: Device,
}

#[derive(Debug)]
enum HeldText {
    States(Tensor),
    /// Of each transformer block, in the order in which the blocks run.
    Projected(Vec<KeyValue>),
}

impl ProjectedConditioning {
    /// Of prompts that all differ; `blocks` are none for a denoiser that projects no text. Each row of
    /// the batch is one of `rows`.
    pub(super) fn new(
        prompts: Conditioning,
        blocks: Option<Vec<KeyValue>>,
        rows: Vec<usize>,
    ) -> Self {
        let Conditioning { states, pooled, extra } = prompts;
        let device = states.device().clone();
        let text = blocks.map_or(HeldText::States(states), HeldText::Projected);
        Self { held: Arc::new(SharedPrompts { text, pooled, extra, device }), rows }
    }

    /// A batch of these rows, each as often as it is named; fails where one is not there.
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        let there = rows.iter().map(|row| self.rows.get(*row).copied());
        match there.collect() {
            Some(rows) => Ok(Self { held: Arc::clone(&self.held), rows }),
            None => bail!("rows {rows:?} of a batch of {} prompts", self.rows.len()),
        }
    }

    /// `count` rows from `start` on; fails where there are fewer.
    pub fn narrow(&self, start: usize, count: usize) -> Result<Self> {
        let end = start.saturating_add(count);
        match self.rows.get(start..end) {
            Some(rows) => Ok(Self { held: Arc::clone(&self.held), rows: rows.to_vec() }),
            None => bail!("rows {start} to {end} of a batch of {} prompts", self.rows.len()),
        }
    }

    /// For one forward pass.
    pub(super) fn prompts(&self) -> Result<Prompts<'_>> {
        let SharedPrompts { text, pooled, extra, device } = &*self.held;
        let rows = Rows::new(&self.rows, device)?;
        let optional = |held: &Option<Tensor>| held.as_ref().map(|held| rows.of(held)).transpose();
        let (pooled, extra) = (optional(pooled)?, optional(extra)?);
        let text = match text {
            HeldText::States(states) => Text::States(rows.of(states)?),
            HeldText::Projected(blocks) => Text::Projected { blocks: blocks.iter(), rows },
        };
        Ok(Prompts { text, pooled, extra })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(rows: &[[f32; 2]]) -> Tensor {
        Tensor::from_slice(rows.as_flattened(), (rows.len(), 2), &Device::Cpu).unwrap()
    }

    /// Three prompts of one token.
    fn prompts() -> Conditioning {
        let states = tensor(&[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).unsqueeze(1).unwrap();
        let pooled = states.squeeze(1).unwrap() * 100.0;
        Conditioning { states, pooled: Some(pooled.unwrap()), extra: None }
    }

    /// The same for a denoiser of one block.
    fn projected() -> ProjectedConditioning {
        let key = prompts().states;
        let value = (&key * 10.0).unwrap();
        let blocks = vec![KeyValue { key, value }];
        ProjectedConditioning::new(prompts(), Some(blocks), vec![0, 1, 2, 1])
    }

    fn rows(tensor: &TapeTensor) -> Vec<Vec<f32>> {
        assert!(!tensor.is_followed());
        let width = tensor.tensor().dims().last().copied().unwrap();
        tensor.tensor().reshape(((), width)).unwrap().to_vec2().unwrap()
    }

    fn times(rows: &[Vec<f32>], factor: f32) -> Vec<Vec<f32>> {
        rows.iter().map(|row| row.iter().map(|value| value * factor).collect()).collect()
    }

    fn keys(projected: &ProjectedConditioning) -> Vec<[f32; 2]> {
        let mut prompts = projected.prompts().unwrap();
        let Text::Projected { blocks, rows: which } = &mut prompts.text else {
            panic!("it was projected");
        };
        let KeyValue { key, value } = blocks.next().unwrap();
        let (keys, values) = (rows(&which.of(key).unwrap()), rows(&which.of(value).unwrap()));
        assert_eq!(values, times(&keys, 10.0));
        assert_eq!(rows(prompts.pooled.as_ref().unwrap()), times(&keys, 100.0));
        assert!(prompts.extra.is_none());
        // There is no second block.
        assert!(prompts.text.context().is_err());
        keys.into_iter().map(|key| key.try_into().unwrap()).collect()
    }

    #[test]
    fn rows_are_read_in_the_order_in_which_they_are_selected() {
        let (one, two, three) = ([1.0, 2.0], [3.0, 4.0], [5.0, 6.0]);
        let projected = projected();
        assert_eq!(keys(&projected), [one, two, three, two]);
        assert_eq!(keys(&projected.narrow(1, 2).unwrap()), [two, three]);
        assert_eq!(keys(&projected.narrow(1, 3).unwrap()), [two, three, two]);
        let selected = projected.select(&[3, 3, 0]).unwrap();
        assert_eq!(keys(&selected), [two, two, one]);
        assert_eq!(keys(&selected.narrow(1, 2).unwrap()), [two, one]);
        assert_eq!(keys(&selected.select(&[2]).unwrap()), [one]);
    }

    #[test]
    fn states_are_held_where_no_text_is_projected() {
        let held = ProjectedConditioning::new(prompts(), None, vec![0, 1, 2, 1]);
        let held = held.select(&[3, 0]).unwrap();
        let prompts = held.prompts().unwrap();
        let Text::States(states) = prompts.text else { panic!("nothing was projected") };
        assert_eq!(rows(&states), [[3.0, 4.0], [1.0, 2.0]]);
        assert_eq!(rows(&prompts.pooled.unwrap()), [[300.0, 400.0], [100.0, 200.0]]);
    }

    #[test]
    fn rows_that_are_not_there_are_refused() {
        let projected = projected();
        assert!(projected.select(&[0, 4]).is_err());
        assert!(projected.narrow(2, 3).is_err());
        assert!(projected.narrow(usize::MAX, 2).is_err());
    }

    #[test]
    fn rows_that_are_alike_are_found() {
        let batch = tensor(&[[0.0, 1.0], [2.0, 3.0], [0.0, 1.0], [-0.0, 1.0], [2.0, 3.0]]);
        // A zero below zero has other bits, and may have another product.
        let (distinct, rows) = Conditioning::from(&batch).distinct().unwrap();
        assert_eq!(
            distinct.states.to_vec2::<f32>().unwrap(),
            [[0.0, 1.0], [2.0, 3.0], [-0.0, 1.0]]
        );
        assert_eq!(rows, [0, 1, 0, 2, 1]);
        let alike = batch.narrow(0, 1, 1).unwrap().broadcast_as((3, 2)).unwrap();
        let alike = Conditioning::from(alike.contiguous().unwrap());
        assert_eq!(alike.distinct().unwrap().1, [0; 3]);
        // Texts that are alike, of pictures that differ.
        let extra = tensor(&[[1.0, 1.0], [1.0, 2.0], [1.0, 1.0]]);
        let sized = Conditioning { extra: Some(extra), ..alike };
        assert_eq!(sized.distinct().unwrap().1, [0, 1, 0]);
    }

    #[test]
    fn prompts_of_other_parts_do_not_go_together() {
        let (text, pooled) = (Conditioning::from(prompts().states), prompts());
        let both = Conditioning::cat(&[&pooled, &pooled]).unwrap();
        assert_eq!(both.rows().unwrap(), 6);
        assert_eq!(both.get(4).unwrap().pooled.unwrap().to_vec1::<f32>().unwrap(), [300.0, 400.0]);
        let refused = Conditioning::cat(&[&pooled, &text]).unwrap_err().to_string();
        assert!(refused.contains("1 of 2 prompts"), "{refused}");
    }
}
