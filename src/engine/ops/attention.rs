//! Scaled dot-product attention.

#![allow(
    clippy::inline_always,
    reason = "a call within a loop would keep the loop from being vectorised"
)]

use std::{array, ops::Range};

use candle_core::{D, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::cuda;
use crate::engine::kernels::buffer::Buffer;
use crate::engine::kernels::cpu::{self, Values};
use crate::engine::kernels::exponential::sum_pairs;
use crate::engine::kernels::fresh;
use crate::engine::kernels::product::{self, Columns, Matrices};
use crate::engine::kernels::softmax::Level;
use crate::engine::tape::TapeTensor;
use crate::engine::tape::dry_run::Footprint;

/// Multi-head attention of already projected queries, keys and values.
///
/// `mask`, of shape `[queries, keys]`, is added to the scores; no gradient flows to it.
///
/// # Shapes
/// `query: [batch, queries, heads · d]`, `key` and `value: [batch, keys, heads · d]`, result
/// `[batch, queries, heads · d]`. Scores are scaled by `d^-1/2`.
pub fn attention(
    query: &TapeTensor,
    key: &TapeTensor,
    value: &TapeTensor,
    heads: usize,
    mask: Option<&Tensor>,
) -> Result<TapeTensor> {
    let arguments = [query, key, value];
    let tensors = arguments.map(TapeTensor::tensor);
    let footprint = || {
        let extents = Extents::new(tensors.map(Tensor::shape), heads, mask)?;
        let followed = arguments.map(TapeTensor::is_followed);
        Ok(extents.footprint(followed))
    };
    if let Some(y) = TapeTensor::sized(&arguments, footprint)? {
        return Ok(y);
    }
    if cuda::is_fast(&tensors) {
        return cuda::attention(query, key, value, heads, mask);
    }
    let mask = mask.map(|mask| mask.detach().contiguous()).transpose()?;
    if !cpu::is_fast(&tensors) || mask.as_ref().is_some_and(|mask| !cpu::is_fast(&[mask])) {
        return TapeTensor::via_candle_autograd(&arguments, move |t| {
            attention_reference(&t[0], &t[1], &t[2], heads, mask.as_ref())
        });
    }
    let extents = Extents::new(tensors.map(Tensor::shape), heads, mask.as_ref())?;
    let [query, key, value] = tensors.map(Tensor::contiguous);
    let operation = Attention { extents, query: query?, key: key?, value: value?, mask };
    let (y, levels) = operation.forward()?;
    let followed = arguments.map(TapeTensor::is_followed);
    let kept = (!extents.is_whole()).then(|| y.clone());
    Ok(TapeTensor::result(y, &arguments, move |gradient| {
        operation.backward(gradient, (&levels, kept.as_ref()), followed)
    }))
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

/// Queries and keys of a block at most: its scores, twice as many in the backward pass, stay in a
/// second-level cache, and every operand that is arranged for a product serves for hundreds of sums.
const QUERIES: usize = 128;
const KEYS: usize = 512;

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

/// Some queries of a head of an image.
#[derive(Debug, Clone)]
struct Block {
    image: usize,
    head: usize,
    queries: Range<usize>,
}

/// What a block needs to see: the operands' values, laid out `[batch, length, heads · depth]`.
#[derive(Clone, Copy)]
struct Operands<'a> {
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
    mask: Option<&'a [f32]>,
}

/// What the backward pass sees beside: levels and, laid out as the queries are, the result and its
/// gradient.
#[derive(Clone, Copy)]
struct Seen<'a> {
    levels: &'a [Level],
    y: Option<&'a [f32]>,
    gradient: &'a [f32],
}

/// Gradients of a head's queries, keys and values, `[length, depth]`.
type Gradients = [Option<Buffer>; 3];

/// A part of `length`, no larger than `most` and about as large as the others.
fn part(length: usize, most: usize) -> usize {
    length.div_ceil(length.div_ceil(most).max(1))
}

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

    fn footprint(self, followed: [bool; 3]) -> Footprint {
        let Self { batch, heads, queries, keys, .. } = self;
        let rows = batch * heads * queries;
        let scores = self.queries_at_a_time() * part(keys, KEYS);
        // Scores and their gradients, and the heads' gradients before they are joined.
        let lengths = [queries, keys, keys].into_iter().zip(followed);
        let positions: usize = lengths.filter(|(_, followed)| *followed).map(|(n, _)| n).sum();
        let gradients = batch * positions * self.channels();
        Footprint {
            multiplications: (2 * rows * keys * self.depth) as u64,
            buffer: scores as u64,
            keeps: vec![0, 1, 2],
            keeps_result: !self.is_whole(),
            statistics: (rows * size_of::<Level>() / size_of::<f32>()) as u64,
            backward_buffer: (2 * scores + gradients) as u64,
            ..Footprint::of((batch, queries, self.channels()))
        }
    }

    fn scale(self) -> f32 {
        1.0 / (self.depth as f32).sqrt()
    }

    /// Queries of a block, by shape alone.
    fn queries_at_a_time(self) -> usize {
        part(self.queries, QUERIES)
    }

    /// The keys, block by block.
    fn key_blocks(self) -> impl Iterator<Item = Range<usize>> {
        let most = part(self.keys, KEYS);
        (0..self.keys).step_by(most).map(move |first| first..(first + most).min(self.keys))
    }

    /// Whether all keys are in one block.
    fn is_whole(self) -> bool {
        self.keys <= KEYS
    }

    /// The values of a head of an image from a position on, in an operand of `length` positions.
    fn head<'a>(
        self,
        values: &'a [f32],
        length: usize,
        block: &Block,
        position: usize,
    ) -> &'a [f32] {
        let start = (block.image * length + position) * self.channels();
        &values[start + block.head * self.depth..]
    }

    /// The blocks that a head's queries are split into.
    fn blocks(self, image: usize, head: usize) -> impl Iterator<Item = Block> {
        let most = self.queries_at_a_time();
        (0..self.queries).step_by(most).map(move |first| {
            let queries = first..(first + most).min(self.queries);
            Block { image, head, queries }
        })
    }

    /// An operand's gradient, `[batch, length, heads · depth]`, from those of all heads.
    fn join(self, heads: &[Gradients], operand: usize, length: usize) -> Result<Vec<f32>> {
        let rows = cpu::rows_per_task(self.channels());
        let total = self.batch * length;
        fresh::written(total * self.channels(), rows * self.channels(), |task, whole| {
            for row in task * rows..((task + 1) * rows).min(total) {
                let (image, position) = (row / length, row % length);
                for head in &heads[image * self.heads..][..self.heads] {
                    if let Some(head) = &head[operand] {
                        let part = &head[position * self.depth..][..self.depth];
                        whole.extend(part.iter().copied());
                    }
                }
            }
        })
    }

    /// The matrix `[positions, depth]` of a head.
    fn row_major(self, values: &[f32]) -> Matrices<'_> {
        Matrices::new(values, [0, self.channels(), 1])
    }

    /// The matrix `[depth, positions]` of a head.
    fn transposed(self, values: &[f32]) -> Matrices<'_> {
        Matrices::new(values, [0, 1, self.channels()])
    }
}

impl Block {
    /// The scores of some keys, `[queries, keys]`, before they are scaled where there is no mask.
    fn scores(&self, extents: Extents, operands: &Operands, keys: &Range<usize>) -> Result<Buffer> {
        let query = extents.head(operands.query, extents.queries, self, self.queries.start);
        let key = extents.head(operands.key, extents.keys, self, keys.start);
        let sizes = (self.queries.len(), keys.len(), extents.depth);
        let (query, key) = (extents.row_major(query), extents.transposed(key));
        let mut scores = Buffer::new(sizes.0 * sizes.1);
        product::write_alone(&mut scores, sizes, query, key)?;
        if let Some(mask) = operands.mask {
            let scale = extents.scale();
            for (query, scores) in self.queries.clone().zip(scores.chunks_exact_mut(keys.len())) {
                let mask = &mask[query * extents.keys..][keys.clone()];
                for (score, mask) in scores.iter_mut().zip(mask) {
                    *score = *score * scale + *mask;
                }
            }
        }
        Ok(scores)
    }

    /// What scores are still to be multiplied by.
    fn rest_of_scale(extents: Extents, operands: &Operands) -> f32 {
        if operands.mask.is_some() { 1.0 } else { extents.scale() }
    }

    /// Writes the head's columns of the block's rows of the result, and its levels of theirs.
    fn forward(
        &self,
        extents: Extents,
        operands: &Operands,
        y: &mut [f32],
        levels: &mut [Level],
    ) -> Result<()> {
        let (channels, depth) = (extents.channels(), extents.depth);
        let scale = Self::rest_of_scale(extents, operands);
        for keys in extents.key_blocks() {
            let mut weights = self.scores(extents, operands, &keys)?;
            let rows = y.chunks_exact_mut(channels);
            let rows = rows.map(|row| &mut row[self.head * depth..][..depth]);
            let levels = levels.iter_mut().skip(self.head).step_by(extents.heads);
            let weighed = weights.chunks_exact_mut(keys.len());
            cpu::vectorised(
                #[inline(always)]
                || {
                    for ((row, level), weights) in rows.zip(levels).zip(weighed) {
                        let rate = level.weigh(weights, scale);
                        if keys.start > 0 {
                            for value in row {
                                *value *= rate;
                            }
                        }
                    }
                },
            );
            let sizes = (self.queries.len(), depth, keys.len());
            let weights = Matrices::new(&weights, [0, keys.len(), 1]);
            let value =
                extents.row_major(extents.head(operands.value, extents.keys, self, keys.start));
            let columns = Columns { rows: &mut *y, length: channels, first: self.head * depth };
            if keys.start > 0 {
                columns.add_alone(sizes, weights, value)?;
            } else {
                columns.multiply(sizes, weights, value)?;
            }
        }
        let levels = levels.iter().skip(self.head).step_by(extents.heads);
        for (row, level) in y.chunks_exact_mut(channels).zip(levels) {
            let rate = level.rate();
            for value in &mut row[self.head * depth..][..depth] {
                *value *= rate;
            }
        }
        Ok(())
    }

    /// How much of each row's gradient lies along its result: what the softmax takes off the
    /// gradients of the row's weights.
    fn shares(&self, extents: Extents, y: &[f32], gradient: &[f32]) -> Vec<f32> {
        let (channels, depth) = (extents.channels(), extents.depth);
        let parts = [y, gradient].map(|values| {
            let values = extents.head(values, extents.queries, self, self.queries.start);
            values.chunks(channels).map(|row| &row[..depth])
        });
        let [y, gradient] = parts;
        let mut shares = Vec::with_capacity(self.queries.len());
        cpu::vectorised(
            #[inline(always)]
            || {
                let pairs = y.zip(gradient).take(self.queries.len());
                shares.extend(pairs.map(|(y, gradient)| sum_pairs(y, gradient, |y, g| y * g)));
            },
        );
        shares
    }

    /// Adds what the block's rows of the result's gradient tell to the gradients that are there.
    fn add_gradients(
        &self,
        extents: Extents,
        operands: &Operands,
        seen: Seen,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let shares = seen.y.map(|y| self.shares(extents, y, seen.gradient));
        for keys in extents.key_blocks() {
            self.add_gradients_of(&keys, extents, operands, seen, shares.as_deref(), gradients)?;
        }
        Ok(())
    }

    fn add_gradients_of(
        &self,
        keys: &Range<usize>,
        extents: Extents,
        operands: &Operands,
        seen: Seen,
        shares: Option<&[f32]>,
        [dquery, dkey, dvalue]: &mut Gradients,
    ) -> Result<()> {
        let depth = extents.depth;
        let (rows, count) = (self.queries.len(), keys.len());
        let of_keys = keys.start * depth..keys.end * depth;
        let gradient = extents.head(seen.gradient, extents.queries, self, self.queries.start);
        let gradient = extents.row_major(gradient);
        let mut weights = self.scores(extents, operands, keys)?;
        let scale = Self::rest_of_scale(extents, operands);
        let first = extents.queries * self.image + self.queries.start;
        let levels = seen.levels[first * extents.heads + self.head..].iter().step_by(extents.heads);
        cpu::vectorised(
            #[inline(always)]
            || {
                for (weights, level) in weights.chunks_exact_mut(count).zip(levels) {
                    level.weigh_again(weights, scale);
                }
            },
        );
        if let Some(dvalue) = dvalue {
            let weights = Matrices::new(&weights, [0, 1, count]);
            product::add_alone(
                &mut dvalue[of_keys.clone()],
                (count, depth, rows),
                weights,
                gradient,
            )?;
        }
        if dquery.is_none() && dkey.is_none() {
            return Ok(());
        }
        let value =
            extents.transposed(extents.head(operands.value, extents.keys, self, keys.start));
        let mut dscores = Buffer::new(rows * count);
        product::write_alone(&mut dscores, (rows, count, depth), gradient, value)?;
        let scale = extents.scale();
        cpu::vectorised(
            #[inline(always)]
            || {
                let rows = dscores.chunks_exact_mut(count).zip(weights.chunks_exact(count));
                for (row, (dscores, weights)) in rows.enumerate() {
                    let share = match shares {
                        Some(shares) => shares[row],
                        None => sum_pairs(dscores, weights, |g, p| g * p),
                    };
                    for (dscore, &weight) in dscores.iter_mut().zip(weights) {
                        *dscore = (*dscore - share) * weight * scale;
                    }
                }
            },
        );
        if let Some(dquery) = dquery {
            let key = extents.row_major(extents.head(operands.key, extents.keys, self, keys.start));
            let part = &mut dquery[self.queries.start * depth..self.queries.end * depth];
            let dscores = Matrices::new(&dscores, [0, count, 1]);
            product::add_alone(part, (rows, depth, count), dscores, key)?;
        }
        if let Some(dkey) = dkey {
            let query = extents.head(operands.query, extents.queries, self, self.queries.start);
            let dscores = Matrices::new(&dscores, [0, 1, count]);
            let query = extents.row_major(query);
            product::add_alone(&mut dkey[of_keys], (count, depth, rows), dscores, query)?;
        }
        Ok(())
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

    /// The result, and the levels of all queries, `[batch, queries, heads]`.
    fn forward(&self) -> Result<(Tensor, Vec<Level>)> {
        let extents = self.extents;
        let Extents { batch, heads, queries, .. } = extents;
        let most = extents.queries_at_a_time();
        let mut y = vec![0.0; self.query.elem_count()];
        let mut levels = vec![Level::NONE; batch * queries * heads];
        self.with_operands(|operands| {
            let images = y.par_chunks_mut(queries * extents.channels());
            let images = images.zip(levels.par_chunks_mut(queries * heads)).enumerate();
            let blocks = images.flat_map(|(image, (y, levels))| {
                let blocks = y.par_chunks_mut(most * extents.channels());
                let blocks = blocks.zip(levels.par_chunks_mut(most * heads)).enumerate();
                blocks.map(move |(block, parts)| (image, block * most, parts))
            });
            blocks
                .map(|(image, first, (y, levels))| {
                    let queries = first..first + y.len() / extents.channels();
                    (0..heads).try_for_each(|head| {
                        let block = Block { image, head, queries: queries.clone() };
                        block.forward(extents, operands, y, levels)
                    })
                })
                .collect::<Result<()>>()
        })?;
        Ok((cpu::tensor(y, self.query.shape())?, levels))
    }

    /// `y` is the result, where the keys are not in one block.
    fn backward(
        &self,
        gradient: &Tensor,
        (levels, y): (&[Level], Option<&Tensor>),
        followed: [bool; 3],
    ) -> Result<Vec<Option<Tensor>>> {
        let extents = self.extents;
        let (gradient, y) = (cpu::values(gradient), y.map(cpu::values));
        let y = y.as_ref().map(Values::get).transpose()?;
        let seen = Seen { levels, y, gradient: gradient.get()? };
        let lengths = [extents.queries, extents.keys, extents.keys];
        let heads: Result<Vec<Gradients>> = self.with_operands(|operands| {
            let heads = (0..extents.batch * extents.heads).into_par_iter();
            let heads = heads.map(|index| {
                let (image, head) = (index / extents.heads, index % extents.heads);
                let mut gradients = array::from_fn(|operand| {
                    followed[operand].then(|| {
                        let mut sums = Buffer::new(lengths[operand] * extents.depth);
                        sums.fill(0.0);
                        sums
                    })
                });
                for block in extents.blocks(image, head) {
                    block.add_gradients(extents, operands, seen, &mut gradients)?;
                }
                Ok(gradients)
            });
            heads.collect()
        });
        let heads = heads?;
        let shapes = [&self.query, &self.key, &self.value].map(Tensor::shape);
        let gradients = (0..3).map(|operand| {
            let joined =
                || cpu::tensor(extents.join(&heads, operand, lengths[operand])?, shapes[operand]);
            followed[operand].then(joined).transpose()
        });
        gradients.collect()
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
            |t| attention(&t[0], &t[1], &t[2], heads, t.get(3).map(TapeTensor::tensor)),
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
    fn attention_in_several_blocks_agrees_with_its_reference() {
        const { assert!(300 > QUERIES && 1_100 > 2 * KEYS) };
        check(1, 300, 1_100, 2, 4, false);
        check(2, 300, 1_100, 1, 4, true);
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
        let traced = TapeTensor::constant(&x);
        let y = attention(&traced, &traced, &traced, 2, Some(&mask)).unwrap().into_tensor();
        let first = |t: &Tensor| {
            t.narrow(1, 0, 1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(first(&y), first(&x));
    }
}
