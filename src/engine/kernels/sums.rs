//! Sums of tensors of equal shape.

#![allow(
    clippy::inline_always,
    reason = "a call within a loop would keep the loop from being vectorised"
)]

use candle_core::{Result, Tensor, bail};

use super::cpu::{self, Values};
use super::fresh;

/// `a + b` of one shape.
pub(in crate::engine) fn plus(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !cpu::is_fast(&[a, b]) || a.shape() != b.shape() {
        return a + b;
    }
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    let sum = cpu::map_pairs(
        cpu::values(&a).get()?,
        cpu::values(&b).get()?,
        #[inline(always)]
        |a, b| a + b,
    )?;
    cpu::tensor(sum, a.shape())
}

/// The sum of gradients of one shape, in their order.
///
/// Fails where there is none.
pub fn total(parts: &[Tensor]) -> Result<Tensor> {
    let Some((first, rest)) = parts.split_first() else {
        bail!("the sum of no gradients has no shape");
    };
    let tensors: Vec<&Tensor> = parts.iter().collect();
    if rest.is_empty() || !cpu::is_fast(&tensors) {
        return rest.iter().try_fold(first.clone(), |sum, part| sum + part);
    }
    if rest.iter().any(|part| part.shape() != first.shape()) {
        bail!("the sum of gradients of several shapes, of which the first is {:?}", first.shape());
    }
    let parts = parts.iter().map(Tensor::contiguous).collect::<Result<Vec<_>>>()?;
    let parts: Vec<_> = parts.iter().map(cpu::values).collect();
    let parts = parts.iter().map(Values::get).collect::<Result<Vec<_>>>()?;
    let sum = fresh::written(first.elem_count(), cpu::CHUNK, |task, sum| {
        let start = task * cpu::CHUNK;
        let sum = sum.next(parts[0][start..].iter().copied());
        for part in &parts[1..] {
            cpu::add(sum, &part[start..]);
        }
    })?;
    cpu::tensor(sum, first.shape())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{bytes, values};
    use super::*;

    #[test]
    fn totals_are_candles() {
        let parts = [1, 2, 3].map(|seed| values(&[5, 7], seed));
        let sum = total(&parts).unwrap();
        let right = ((&parts[0] + &parts[1]).unwrap() + &parts[2]).unwrap();
        assert_eq!(bytes(&sum), bytes(&right));
        assert!(total(&[]).is_err());
        assert!(total(&[values(&[5, 7], 1), values(&[7, 5], 1)]).is_err());
        assert_eq!(bytes(&total(&parts[..1]).unwrap()), bytes(&parts[0]));
    }
}
