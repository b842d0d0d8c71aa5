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
use super::fresh;
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

/// Scores of a head that a task holds at a time, and twice as many in the backward pass: few enough to
/// stay in a cache, many enough that arranging all keys for a block of queries pays.
const HELD: usize = 1 << 19;

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

/// Gradients of a head's queries, keys and values, `[length, depth]`.
type Gradients = [Option<Buffer>; 3];

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

    /// Queries of a block, by shape alone.
    fn queries_at_a_time(self) -> usize {
        let most = (HELD / self.keys).clamp(1, self.queries);
        self.queries.div_ceil(self.queries.div_ceil(most))
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
    fn upright(self, values: &[f32]) -> Matrices<'_> {
        Matrices::new(values, [0, self.channels(), 1])
    }

    /// The matrix `[depth, positions]` of a head.
    fn lying(self, values: &[f32]) -> Matrices<'_> {
        Matrices::new(values, [0, 1, self.channels()])
    }
}

impl Block {
    /// The attention weights, `[queries, keys]`.
    fn weights(&self, extents: Extents, operands: &Operands) -> Result<Buffer> {
        let Extents { queries, keys, depth, .. } = extents;
        let query = extents.head(operands.query, queries, self, self.queries.start);
        let key = extents.head(operands.key, keys, self, 0);
        let sizes = (self.queries.len(), keys, depth);
        let (query, key) = (extents.upright(query), extents.lying(key));
        let mut scores = product::multiply_for_a_moment(1, sizes, query, key)?;
        let scale = extents.scale();
        cpu::vectorised(
            #[inline(always)]
            || {
                for (row, scores) in scores.chunks_exact_mut(keys).enumerate() {
                    if let Some(mask) = operands.mask {
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
        Ok(scores)
    }

    /// Writes the head's columns of the block's rows of the result.
    fn forward(&self, extents: Extents, operands: &Operands, y: &mut [f32]) -> Result<()> {
        let weights = self.weights(extents, operands)?;
        let (rows, keys) = (self.queries.len(), extents.keys);
        let weights = Matrices::new(&weights, [0, keys, 1]);
        let value = extents.upright(extents.head(operands.value, keys, self, 0));
        let columns = product::Columns {
            rows: y,
            length: extents.channels(),
            first: self.head * extents.depth,
        };
        columns.multiply((rows, extents.depth, keys), weights, value)
    }

    /// Adds what the block's rows of the result's gradient tell to the gradients that are there.
    fn add_gradients(
        &self,
        extents: Extents,
        operands: &Operands,
        gradient: &[f32],
        [dquery, dkey, dvalue]: &mut Gradients,
    ) -> Result<()> {
        let Extents { queries, keys, depth, .. } = extents;
        let rows = self.queries.len();
        let gradient = extents.head(gradient, queries, self, self.queries.start);
        let gradient = extents.upright(gradient);
        let weights = self.weights(extents, operands)?;
        if let Some(dvalue) = dvalue {
            let weights = Matrices::new(&weights, [0, 1, keys]);
            product::add_products(dvalue, (keys, depth, rows), weights, gradient)?;
        }
        if dquery.is_none() && dkey.is_none() {
            return Ok(());
        }
        let value = extents.lying(extents.head(operands.value, keys, self, 0));
        let sizes = (rows, keys, depth);
        let mut dscores = product::multiply_for_a_moment(1, sizes, gradient, value)?;
        let scale = extents.scale();
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
        if let Some(dquery) = dquery {
            let key = extents.upright(extents.head(operands.key, keys, self, 0));
            let part = &mut dquery[self.queries.start * depth..self.queries.end * depth];
            let dscores = Matrices::new(&dscores, [0, keys, 1]);
            product::add_products(part, (rows, depth, keys), dscores, key)?;
        }
        if let Some(dkey) = dkey {
            let query = extents.head(operands.query, queries, self, self.queries.start);
            let dscores = Matrices::new(&dscores, [0, 1, keys]);
            product::add_products(dkey, (keys, depth, rows), dscores, extents.upright(query))?;
        }
        Ok(())
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
        let image = extents.queries * extents.channels();
        let rows = extents.queries_at_a_time();
        let mut y = vec![0.0; self.query.elem_count()];
        self.with_operands(|operands| {
            let images = y.par_chunks_mut(image).enumerate();
            let blocks = images.flat_map(|(image, y)| {
                let blocks = y.par_chunks_mut(rows * extents.channels()).enumerate();
                blocks.map(move |(block, y)| (image, block * rows, y))
            });
            blocks
                .map(|(image, first, y)| {
                    let queries = first..first + y.len() / extents.channels();
                    (0..extents.heads).try_for_each(|head| {
                        let block = Block { image, head, queries: queries.clone() };
                        block.forward(extents, operands, y)
                    })
                })
                .collect::<Result<()>>()
        })?;
        cpu::tensor(y, self.query.shape())
    }

    fn backward(&self, gradient: &Tensor, followed: [bool; 3]) -> Result<Vec<Option<Tensor>>> {
        let extents = self.extents;
        let gradient = cpu::values(gradient);
        let gradient = gradient.get()?;
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
                    block.add_gradients(extents, operands, gradient, &mut gradients)?;
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
    fn attention_in_several_blocks_agrees_with_its_reference() {
        const { assert!(4_096 * 300 > 2 * HELD) };
        check(1, 300, 4_096, 2, 4, false);
        check(1, 300, 4_096, 1, 4, true);
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
