//! Scaled dot-product attention: products by cuBLAS a part at a time, softmax by a kernel in place.
//!
//! Neither pass keeps weights: the gradient makes each part's again. So no more is ever held than
//! [`HELD`] scores, and as many gradients of them, however large the picture is.

use candle_core::{DType, Result, Tensor, bail};

use super::{
    Argument::{Count, Nothing, Number, Read},
    Launch, count,
};
use crate::engine::tape::TapeTensor;

/// Scores that are held at a time: 128 MiB in 16 bits.
const HELD: usize = 1 << 26;

/// See [`crate::engine::ops::attention`].
pub(in super::super) fn attention(
    query: &TapeTensor,
    key: &TapeTensor,
    value: &TapeTensor,
    heads: usize,
    mask: Option<&Tensor>,
) -> Result<TapeTensor> {
    attention_in_parts(query, key, value, &Settings { heads, mask: mask.cloned(), held: HELD })
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) heads: usize,
    /// `[queries, keys]`, f32.
    pub(super) mask: Option<Tensor>,
    /// Scores at a time; tests choose few.
    pub(super) held: usize,
}

pub(super) fn attention_in_parts(
    query: &TapeTensor,
    key: &TapeTensor,
    value: &TapeTensor,
    settings: &Settings,
) -> Result<TapeTensor> {
    let arguments = [query, key, value];
    let [q, k, v] = arguments.map(TapeTensor::tensor);
    let heads = settings.heads;
    let ((batch, queries, channels), (_, keys, _)) = (q.dims3()?, k.dims3()?);
    let fits = k.dims() == [batch, keys, channels]
        && v.dims() == k.dims()
        && heads > 0
        && channels.is_multiple_of(heads)
        && q.elem_count() * k.elem_count() > 0
        && settings.mask.as_ref().is_none_or(|mask| mask.dims() == [queries, keys]);
    if !fits {
        let (q, k, v) = (q.shape(), k.shape(), v.shape());
        bail!("attention: {q:?}, {k:?}, {v:?}, {heads} heads, {:?}: no fit", settings.mask);
    }
    let mask = settings.mask.as_ref().map(|mask| mask.to_dtype(DType::F32)?.contiguous());
    let operation = Attention {
        query: split(q, heads)?,
        key: split(k, heads)?,
        value: split(v, heads)?,
        mask: mask.transpose()?,
        held: settings.held,
    };
    let y = joined(&operation.forward()?, heads)?;
    let followed = arguments.map(TapeTensor::is_followed);
    Ok(TapeTensor::result(y, &arguments, move |gradient| {
        let gradients = operation.backward(&split(gradient, heads)?, followed)?;
        gradients.into_iter().map(|g| g.map(|g| joined(&g, heads)).transpose()).collect()
    }))
}

/// `[batch, length, heads · d]` to `[batch · heads, length, d]`.
fn split(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, length, channels) = x.dims3()?;
    x.reshape((batch, length, heads, channels / heads))?.transpose(1, 2)?.contiguous()?.reshape((
        batch * heads,
        length,
        channels / heads,
    ))
}

/// And back.
fn joined(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (all, length, depth) = x.dims3()?;
    x.reshape((all / heads, heads, length, depth))?.transpose(1, 2)?.contiguous()?.reshape((
        all / heads,
        length,
        heads * depth,
    ))
}

/// Operands as `[heads of all images, length, d]`.
#[derive(Debug)]
struct Attention {
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Option<Tensor>,
    held: usize,
}

/// Heads and queries whose scores are held together; each as its first and their number.
#[derive(Debug, Clone, Copy)]
struct Part {
    heads: (usize, usize),
    queries: (usize, usize),
}

impl Attention {
    /// Whole heads where one fits, else some of one head's queries; in order.
    fn parts(&self) -> Result<Vec<Part>> {
        let (heads, queries, _) = self.query.dims3()?;
        let keys = self.key.dim(1)?;
        let at_once = (self.held / (queries * keys)).clamp(1, heads);
        let long = (self.held / keys).clamp(1, queries);
        let mut parts = Vec::new();
        for head in (0..heads).step_by(at_once) {
            for first in (0..queries).step_by(long) {
                let heads = (head, at_once.min(heads - head));
                parts.push(Part { heads, queries: (first, long.min(queries - first)) });
            }
        }
        Ok(parts)
    }

    fn scale(&self) -> Result<f32> {
        Ok((self.query.dim(2)? as f32).sqrt().recip())
    }

    /// A part of a tensor of queries.
    fn of_queries(x: &Tensor, part: Part) -> Result<Tensor> {
        let (head, heads) = part.heads;
        let (first, queries) = part.queries;
        x.narrow(0, head, heads)?.narrow(1, first, queries)?.contiguous()
    }

    /// A part of a tensor of keys.
    fn of_keys(x: &Tensor, part: Part) -> Result<Tensor> {
        x.narrow(0, part.heads.0, part.heads.1)
    }

    /// The attention weights of a part, `[heads, queries, keys]`.
    fn weights(&self, part: Part) -> Result<Tensor> {
        let query = Self::of_queries(&self.query, part)?;
        let scores = query.matmul(&Self::of_keys(&self.key, part)?.transpose(1, 2)?)?;
        let (heads, queries, keys) = scores.dims3()?;
        let arguments = vec![
            self.mask.as_ref().map_or(Nothing, Read),
            count(keys)?,
            Number(self.scale()?),
            Count(u32::from(self.mask.is_some())),
            count(part.queries.0)?,
            count(queries)?,
        ];
        Launch::over_rows("softmax", &scores, (heads * queries, keys), arguments)?
            .change(&scores)?;
        Ok(scores)
    }

    fn forward(&self) -> Result<Tensor> {
        let mut outputs = Rows::default();
        for part in self.parts()? {
            let y = self.weights(part)?.matmul(&Self::of_keys(&self.value, part)?)?;
            outputs.add(part, y)?;
        }
        outputs.whole()
    }

    fn backward(self, gradient: &Tensor, followed: [bool; 3]) -> Result<[Option<Tensor>; 3]> {
        let [mut of_query, mut of_key, mut of_value] =
            [Rows::default(), Rows::default(), Rows::default()];
        for part in self.parts()? {
            let weights = self.weights(part)?;
            let gradient = Self::of_queries(gradient, part)?;
            if followed[2] {
                of_value.add_up(part, weights.transpose(1, 2)?.matmul(&gradient)?)?;
            }
            if !followed[0] && !followed[1] {
                continue;
            }
            let value = Self::of_keys(&self.value, part)?;
            let scores = gradient.matmul(&value.transpose(1, 2)?)?;
            let (heads, queries, keys) = scores.dims3()?;
            let arguments = vec![Read(&weights), count(keys)?, Number(self.scale()?)];
            let rows = (heads * queries, keys);
            Launch::over_rows("softmax_input", &scores, rows, arguments)?.change(&scores)?;
            drop(weights);
            if followed[0] {
                of_query.add(part, scores.matmul(&Self::of_keys(&self.key, part)?)?)?;
            }
            if followed[1] {
                let query = Self::of_queries(&self.query, part)?;
                of_key.add_up(part, scores.transpose(1, 2)?.matmul(&query)?)?;
            }
        }
        let whole = |rows: Rows, followed: bool| followed.then(|| rows.whole()).transpose();
        Ok([
            whole(of_query, followed[0])?,
            whole(of_key, followed[1])?,
            whole(of_value, followed[2])?,
        ])
    }
}

/// What parts give, put together: heads along the first axis, queries of one head along the second.
#[derive(Debug, Default)]
struct Rows {
    heads: Vec<Tensor>,
    queries: Vec<Tensor>,
}

impl Rows {
    /// A part of what has a row a query.
    fn add(&mut self, part: Part, y: Tensor) -> Result<()> {
        if part.queries.0 == 0 {
            self.close()?;
        }
        self.queries.push(y);
        Ok(())
    }

    /// A part of what has a row a key, which all queries add to.
    fn add_up(&mut self, part: Part, y: Tensor) -> Result<()> {
        if part.queries.0 == 0 {
            self.close()?;
        }
        match self.queries.pop() {
            Some(sum) => self.queries.push((sum + y)?),
            None => self.queries.push(y),
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        match self.queries.as_slice() {
            [] => {}
            [only] => self.heads.push(only.clone()),
            queries => self.heads.push(Tensor::cat(queries, 1)?),
        }
        self.queries.clear();
        Ok(())
    }

    fn whole(mut self) -> Result<Tensor> {
        self.close()?;
        match self.heads.as_slice() {
            [only] => Ok(only.clone()),
            heads => Tensor::cat(heads, 0),
        }
    }
}
