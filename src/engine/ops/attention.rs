//! Scaled dot-product attention.

#![allow(
    clippy::inline_always,
    reason = "a call within a loop would keep the loop from being vectorised"
)]

use std::{array, ops::Range};

use candle_core::{D, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::buffer::Buffer;
use super::cpu::{self, Values};
use super::cuda;
use super::exponential::{exp, largest, sum, sum_pairs};
use super::product::{self, Matrices};
use super::traced::Traced;

/// Multi-head attention of already projected queries, keys and values.
///
/// `mask`, of shape `[queries, keys]`, is added to the scores; no gradient flows to it.
///
/// # Shapes
/// `query: [batch, queries, heads · d]`, `key` and `value: [batch, keys, heads · d]`, result
/// `[batch, queries, heads · d]`. Scores are scaled by `d^-1/2`.
pub fn attention(
    query: &Traced,
    key: &Traced,
    value: &Traced,
    heads: usize,
    mask: Option<&Tensor>,
) -> Result<Traced> {
    let arguments = [query, key, value];
    let tensors = arguments.map(Traced::tensor);
    if cuda::is_fast(&tensors) {
        return cuda::attention(query, key, value, heads, mask);
    }
    let mask = mask.map(|mask| mask.detach().contiguous()).transpose()?;
    if !cpu::is_fast(&tensors) || mask.as_ref().is_some_and(|mask| !cpu::is_fast(&[mask])) {
        return Traced::by_candle(&arguments, move |t| {
            attention_reference(&t[0], &t[1], &t[2], heads, mask.as_ref())
        });
    }
    let extents = Extents::new(tensors.map(Tensor::shape), heads, mask.as_ref())?;
    let [query, key, value] = tensors.map(Tensor::contiguous);
    let operation = Attention { extents, query: query?, key: key?, value: value?, mask };
    let y = operation.forward()?;
    let followed = arguments.map(Traced::is_followed);
    Ok(Traced::result(y, &arguments, move |gradient| operation.backward(gradient, followed)))
}

pub(super) fn attention_reference(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: usize,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let (batch, queries, channels) = query.dims3()?;
    let split = |x: &Tensor| {
        let (batch, length, channels) = x.dims3()?;
        x.reshape((batch, length, heads, channels / heads))?.transpose(1, 2)?.contiguous()
    };
    let (query, key, value) = (split(query)?, split(key)?, split(value)?);
    let scale = ((channels / heads) as f64).powf(-0.5);
    let scores = (query.matmul(&key.t()?)? * scale)?;
    let scores = match mask {
        Some(mask) => scores.broadcast_add(&mask.detach())?,
        None => scores,
    };
    // Subtracting a constant of the row changes no gradient, so the maximum is detached.
    let scores = scores.broadcast_sub(&scores.detach().max_keepdim(D::Minus1)?)?.exp()?;
    let weights = scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)?;
    weights.matmul(&value)?.transpose(1, 2)?.reshape((batch, queries, channels))
}

/// Scores that are held at a time, over all threads; twice as many in the backward pass.
const HELD: usize = 1 << 23;
/// Scores that a task aims at.
const TASK: usize = 1 << 20;

/// See [`attention`].
#[derive(Debug)]
struct Attention {
    extents: Extents,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Option<Tensor>,
}

#[derive(Debug, Clone, Copy)]
struct Extents {
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    /// Channels of a head.
    depth: usize,
}

/// Some heads, and some queries, of an image.
#[derive(Debug, Clone)]
struct Task {
    image: usize,
    heads: Range<usize>,
    queries: Range<usize>,
}

/// What a task needs to see: an operand's values, laid out `[batch, length, heads · depth]`.
#[derive(Clone, Copy)]
struct Operands<'a> {
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
    mask: Option<&'a [f32]>,
}

/// Gradients of a task's queries, keys and values, `[heads, length, depth]`.
type Gradients = [Option<Vec<f32>>; 3];

impl Extents {
    fn new([query, key, value]: [&Shape; 3], heads: usize, mask: Option<&Tensor>) -> Result<Self> {
        let ((batch, queries, channels), (_, keys, _)) = (query.dims3()?, key.dims3()?);
        let fits = key.dims() == [batch, keys, channels]
            && value == key
            && heads > 0
            && channels % heads == 0
            && query.elem_count() * key.elem_count() > 0
            && mask.is_none_or(|mask| mask.dims() == [queries, keys]);
        if !fits {
            let mask = mask.map(Tensor::shape);
            bail!("attention: {query:?}, {key:?}, {value:?}, mask {mask:?}, {heads} heads: no fit");
        }
        Ok(Self { batch, heads, queries, keys, depth: channels / heads })
    }

    fn channels(self) -> usize {
        self.heads * self.depth
    }

    fn scale(self) -> f32 {
        1.0 / (self.depth as f32).sqrt()
    }

    /// Splits the work by shape alone, heads first: queries of a head share keys and values, whose
    /// gradients would have to be added up.
    fn tasks(self) -> Vec<Task> {
        let head = self.queries * self.keys;
        let heads = (TASK / head.max(1)).clamp(1, self.heads);
        // A head that is far too large is split.
        let queries = (4 * TASK / self.keys.max(1)).clamp(1, self.queries.max(1));
        let mut tasks = Vec::new();
        for image in 0..self.batch {
            for first in (0..self.heads).step_by(heads) {
                let heads = first..(first + heads).min(self.heads);
                for first in (0..self.queries).step_by(queries) {
                    let queries = first..(first + queries).min(self.queries);
                    tasks.push(Task { image, heads: heads.clone(), queries });
                }
            }
        }
        tasks
    }

    /// Tasks that may run at a time.
    fn tasks_at_a_time(self, tasks: &[Task]) -> usize {
        let most = tasks.first().map_or(1, |task| task.scores(self));
        (HELD / most.max(1)).max(1)
    }

    /// The offset of a position's head in an operand of `length` positions.
    fn start(self, task: &Task, position: usize, length: usize) -> usize {
        (task.image * length + position) * self.channels() + task.heads.start * self.depth
    }

    /// The strides from head to head, position to position and channel to channel.
    fn strides(self) -> [usize; 3] {
        [self.depth, self.channels(), 1]
    }

    fn transposed(self) -> [usize; 3] {
        [self.depth, 1, self.channels()]
    }

    /// Adds a task's `[heads, length, depth]` to an operand-like tensor of `total` positions.
    fn merge(
        self,
        part: &[f32],
        task: &Task,
        positions: &Range<usize>,
        total: usize,
        whole: &mut [f32],
    ) {
        let heads = part.chunks_exact(positions.len() * self.depth);
        for (head, part) in heads.enumerate() {
            let start = self.start(task, positions.start, total) + head * self.depth;
            let rows = whole[start..].chunks_mut(self.channels());
            for (row, part) in rows.zip(part.chunks_exact(self.depth)) {
                row[..self.depth].iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
            }
        }
    }
}

impl Task {
    fn scores(&self, extents: Extents) -> usize {
        self.heads.len() * self.queries.len() * extents.keys
    }

    /// The attention weights, `[heads, queries, keys]`.
    fn weights(&self, extents: Extents, operands: &Operands) -> Result<Buffer> {
        let Extents { queries, keys, depth, .. } = extents;
        let at = extents.start(self, self.queries.start, queries);
        let query = Matrices::new(&operands.query[at..], extents.strides());
        let at = extents.start(self, 0, keys);
        let key = Matrices::new(&operands.key[at..], extents.transposed());
        let sizes = (self.queries.len(), keys, depth);
        let mut scores = product::multiply_for_a_moment(self.heads.len(), sizes, query, key)?;
        let scale = extents.scale();
        // Each row's task is small, so rows are taken together.
        let rows_per_task = cpu::rows_per_task(keys);
        scores.par_chunks_mut(keys * rows_per_task).enumerate().for_each(|(index, rows)| {
            cpu::vectorised(
                #[inline(always)]
                || {
                    for (row, scores) in rows.chunks_exact_mut(keys).enumerate() {
                        if let Some(mask) = operands.mask {
                            let row = (index * rows_per_task + row) % self.queries.len();
                            let mask = &mask[(self.queries.start + row) * keys..][..keys];
                            for (score, mask) in scores.iter_mut().zip(mask) {
                                *score = score.mul_add(scale, *mask);
                            }
                            soften(scores, 1.0);
                        } else {
                            soften(scores, scale);
                        }
                    }
                },
            );
        });
        Ok(scores)
    }

    fn forward(&self, extents: Extents, operands: &Operands) -> Result<Vec<f32>> {
        let weights = self.weights(extents, operands)?;
        let (rows, keys) = (self.queries.len(), extents.keys);
        let weights = Matrices::new(&weights, [rows * keys, keys, 1]);
        let at = extents.start(self, 0, keys);
        let value = Matrices::new(&operands.value[at..], extents.strides());
        product::multiply(self.heads.len(), (rows, extents.depth, keys), weights, value)
    }

    fn backward(
        &self,
        extents: Extents,
        operands: &Operands,
        gradient: &[f32],
        wanted: [bool; 3],
    ) -> Result<Gradients> {
        let Extents { queries, keys, depth, .. } = extents;
        let (count, rows) = (self.heads.len(), self.queries.len());
        let at_queries = extents.start(self, self.queries.start, queries);
        let at_keys = extents.start(self, 0, keys);
        let (upright, lying) = ([rows * keys, keys, 1], [rows * keys, 1, keys]);
        let gradient = Matrices::new(&gradient[at_queries..], extents.strides());
        let weights = self.weights(extents, operands)?;
        let dvalue = if wanted[2] {
            let weights = Matrices::new(&weights, lying);
            Some(product::multiply(count, (keys, depth, rows), weights, gradient)?)
        } else {
            None
        };
        if !wanted[0] && !wanted[1] {
            return Ok([None, None, dvalue]);
        }
        let value = Matrices::new(&operands.value[at_keys..], extents.transposed());
        let sizes = (rows, keys, depth);
        let mut dscores = product::multiply_for_a_moment(count, sizes, gradient, value)?;
        let scale = extents.scale();
        let length = keys * cpu::rows_per_task(keys);
        dscores.par_chunks_mut(length).zip(weights.par_chunks(length)).for_each(
            |(dscores, weights)| {
                cpu::vectorised(
                    #[inline(always)]
                    || {
                        let rows = dscores.chunks_exact_mut(keys).zip(weights.chunks_exact(keys));
                        for (dscores, weights) in rows {
                            let level = sum_pairs(dscores, weights, |g, p| g * p);
                            for (dscore, &weight) in dscores.iter_mut().zip(weights) {
                                *dscore = (*dscore - level) * weight * scale;
                            }
                        }
                    },
                );
            },
        );
        let dquery = if wanted[0] {
            let key = Matrices::new(&operands.key[at_keys..], extents.strides());
            let dscores = Matrices::new(&dscores, upright);
            Some(product::multiply(count, (rows, depth, keys), dscores, key)?)
        } else {
            None
        };
        let dkey = if wanted[1] {
            let query = Matrices::new(&operands.query[at_queries..], extents.strides());
            let dscores = Matrices::new(&dscores, lying);
            Some(product::multiply(count, (keys, depth, rows), dscores, query)?)
        } else {
            None
        };
        Ok([dquery, dkey, dvalue])
    }
}

/// The softmax of `scale · scores`, in place.
#[inline(always)]
fn soften(scores: &mut [f32], scale: f32) {
    let offset = scale * largest(scores);
    for score in scores.iter_mut() {
        *score = exp(score.mul_add(scale, -offset));
    }
    let rate = 1.0 / sum(scores, |score| score);
    for score in scores.iter_mut() {
        *score *= rate;
    }
}

impl Attention {
    /// Calls `work` with all values.
    fn with_operands<R>(&self, work: impl FnOnce(&Operands) -> Result<R>) -> Result<R> {
        let [query, key, value] = [&self.query, &self.key, &self.value].map(cpu::values);
        let mask = self.mask.as_ref().map(cpu::values);
        work(&Operands {
            query: query.get()?,
            key: key.get()?,
            value: value.get()?,
            mask: mask.as_ref().map(Values::get).transpose()?,
        })
    }

    fn forward(&self) -> Result<Tensor> {
        let extents = self.extents;
        let mut y = vec![0.0; self.query.elem_count()];
        self.with_operands(|operands| {
            let tasks = extents.tasks();
            for tasks in tasks.chunks(extents.tasks_at_a_time(&tasks)) {
                let parts: Result<Vec<_>> =
                    tasks.par_iter().map(|task| task.forward(extents, operands)).collect();
                for (task, part) in tasks.iter().zip(parts?) {
                    extents.merge(&part, task, &task.queries, extents.queries, &mut y);
                }
            }
            Ok(())
        })?;
        cpu::tensor(y, self.query.shape())
    }

    fn backward(&self, gradient: &Tensor, followed: [bool; 3]) -> Result<Vec<Option<Tensor>>> {
        let extents = self.extents;
        let gradient = cpu::values(gradient);
        let gradient = gradient.get()?;
        let tensors = [&self.query, &self.key, &self.value];
        let mut gradients: [Option<Vec<f32>>; 3] =
            array::from_fn(|index| followed[index].then(|| vec![0.0; tensors[index].elem_count()]));
        self.with_operands(|operands| {
            let tasks = extents.tasks();
            for tasks in tasks.chunks(extents.tasks_at_a_time(&tasks)) {
                let parts: Result<Vec<_>> = tasks
                    .par_iter()
                    .map(|task| task.backward(extents, operands, gradient, followed))
                    .collect();
                for (task, parts) in tasks.iter().zip(parts?) {
                    for (index, part) in parts.into_iter().enumerate() {
                        if let (Some(whole), Some(part)) = (&mut gradients[index], part) {
                            let keys = 0..extents.keys;
                            let positions = if index == 0 { &task.queries } else { &keys };
                            let total = tensors[index].dim(1)?;
                            extents.merge(&part, task, positions, total, whole);
                        }
                    }
                }
            }
            Ok(())
        })?;
        let gradients = gradients.into_iter().zip(tensors);
        gradients
            .map(|(values, like)| {
                values.map(|values| cpu::tensor(values, like.shape())).transpose()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, values, view};
    use super::*;

    fn check(batch: usize, queries: usize, keys: usize, heads: usize, depth: usize, mask: bool) {
        let channels = heads * depth;
        let mask = mask.then(|| values(&[queries, keys], 4));
        let case = Case::new([
            values(&[batch, queries, channels], 1),
            values(&[batch, keys, channels], 2),
            values(&[batch, keys, channels], 3),
        ]);
        case.check_with(
            mask.as_slice(),
            |t| attention(&t[0], &t[1], &t[2], heads, t.get(3).map(Traced::tensor)),
            |t| attention_reference(&t[0], &t[1], &t[2], heads, t.get(3)),
        );
    }

    #[test]
    fn attention_agrees_with_its_reference() {
        for mask in [false, true] {
            check(1, 5, 5, 1, 3, mask);
            check(3, 9, 7, 2, 5, mask);
            check(2, 17, 33, 3, 8, mask);
        }
    }

    #[test]
    fn attention_in_several_tasks_agrees_with_its_reference() {
        check(1, 4_200, 1_024, 1, 4, false);
    }

    #[test]
    fn attention_of_views() {
        let case = Case::new([values(&[2, 6, 5], 1), values(&[2, 6, 7], 2), values(&[2, 6, 7], 3)]);
        case.check(
            |t| {
                let views: Result<Vec<_>> = t.iter().map(|t| view(t, Tensor::t)).collect();
                views.and_then(|t| attention(&t[0], &t[1], &t[2], 2, None))
            },
            |t| {
                let views: Result<Vec<_>> = t.iter().map(Tensor::t).collect();
                views.and_then(|t| attention_reference(&t[0], &t[1], &t[2], 2, None))
            },
        );
    }

    #[test]
    fn a_causal_mask_of_infinities_hides_later_keys() {
        let (lowest, x) = (f32::NEG_INFINITY, values(&[1, 3, 4], 1));
        let mask = [0., lowest, lowest, 0., 0., lowest, 0., 0., 0.];
        let mask = Tensor::new(&mask, x.device()).unwrap().reshape((3, 3)).unwrap();
        let traced = Traced::constant(&x);
        let y = attention(&traced, &traced, &traced, 2, Some(&mask)).unwrap().into_tensor();
        let first = |t: &Tensor| {
            t.narrow(1, 0, 1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(first(&y), first(&x));
    }
}
