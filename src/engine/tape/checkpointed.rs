//! Gradient checkpointing: a part of the graph is computed again when its gradient is wanted,
//! rather than kept in memory (Chen and others, "Training Deep Nets with Sublinear Memory Cost",
//! 2016).

use candle_core::Result;

use super::TapeTensor;

/// What `segment` makes of `inputs`, with nothing kept in between: its operations are done once more
/// in the backward pass, one segment at a time.
///
/// The gradients are those of the same operations without this, to the last bit. The segment must be
/// made of the operations of `ops`, give the same result each time, and reach followed tensors
/// through its inputs alone, but for variables, which it may hold. Where no variable has a part in
/// the result, it is a constant.
pub fn checkpointed(
    inputs: &[&TapeTensor],
    segment: impl Fn(&[TapeTensor]) -> Result<TapeTensor> + Send + 'static,
) -> Result<TapeTensor> {
    TapeTensor::of_segment(inputs, segment)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use candle_core::{Tensor, Var};

    use super::*;
    use crate::engine::{
        kernels::testing::{bytes, values},
        ops::{self, Addends, GroupNorm, group_norm},
        tape::Gradients,
    };

    fn linear(x: &TapeTensor, weight: &TapeTensor) -> Result<TapeTensor> {
        ops::linear(x, weight, Addends::default())
    }

    /// `residual + x · weightᵀ`.
    fn linear_onto(
        residual: &TapeTensor,
        x: &TapeTensor,
        weight: &TapeTensor,
    ) -> Result<TapeTensor> {
        let addends = Addends { residual: Some(residual), ..Addends::default() };
        ops::linear(x, weight, addends)
    }

    /// A small network with a skip, one weight used twice, and a frozen one.
    struct Network {
        variables: [Var; 3],
        runs: Arc<AtomicUsize>,
    }

    impl Network {
        fn new() -> Self {
            let variable = |shape: &[usize], seed| Var::from_tensor(&values(shape, seed)).unwrap();
            Self {
                variables: [variable(&[6, 6], 1), variable(&[6], 2), variable(&[6, 6], 3)],
                runs: Arc::default(),
            }
        }

        fn predict(&self, checkpointing: bool) -> TapeTensor {
            let [twice, norm, last] = &self.variables.each_ref().map(TapeTensor::variable);
            let x = TapeTensor::constant(&values(&[4, 6], 4));
            let x = linear(&x, twice).unwrap();
            let (frozen, zeros) = (
                TapeTensor::constant(&values(&[6, 6], 5)),
                TapeTensor::constant(&values(&[6], 6).zeros_like().unwrap()),
            );
            let (norm, weights, runs) =
                (norm.clone(), [twice.clone(), frozen], Arc::clone(&self.runs));
            let segment = move |inputs: &[TapeTensor]| {
                runs.fetch_add(1, Ordering::Relaxed);
                let settings = GroupNorm { groups: 2, eps: 1e-5, silu: true };
                let hidden = group_norm(&inputs[0], &norm, &zeros, settings)?;
                linear_onto(&inputs[1], &linear(&hidden, &weights[0])?, &weights[1])
            };
            let y = if checkpointing {
                checkpointed(&[&x, &x], segment).unwrap()
            } else {
                segment(&[x.clone(), x.clone()]).unwrap()
            };
            linear_onto(&x, &y, last).unwrap()
        }

        fn gradients(&self, checkpointing: bool) -> Gradients {
            let y = self.predict(checkpointing);
            let gradient = values(&[4, 6], 7);
            y.backward(gradient).unwrap()
        }
    }

    #[test]
    fn gradients_are_those_without_checkpoints_to_the_last_bit() {
        let network = Network::new();
        let (mut plain, mut checkpointed) = (network.gradients(false), network.gradients(true));
        assert_eq!(network.runs.load(Ordering::Relaxed), 3);
        for variable in &network.variables {
            let [plain, checkpointed] =
                [&mut plain, &mut checkpointed].map(|gradients| gradients.take(variable).unwrap());
            assert_eq!(bytes(&plain), bytes(&checkpointed));
        }
        assert!(checkpointed.is_empty());
    }

    #[test]
    fn segments_may_lie_within_segments() {
        let variable = Var::from_tensor(&values(&[5, 5], 1)).unwrap();
        let x = TapeTensor::constant(&values(&[3, 5], 2));
        let weight = TapeTensor::variable(&variable);
        let inner = {
            let weight = weight.clone();
            move |x: &[TapeTensor]| linear(&linear(&x[0], &weight)?, &weight)
        };
        let outer = {
            let inner = inner.clone();
            move |x: &[TapeTensor]| {
                checkpointed(&[&checkpointed(&[&x[0]], inner.clone())?], inner.clone())
            }
        };
        let gradient = |y: TapeTensor| {
            let mut gradients = y.backward(values(&[3, 5], 3)).unwrap();
            bytes(&gradients.take(&variable).unwrap())
        };
        let plain = inner(&[inner(std::slice::from_ref(&x)).unwrap()]).unwrap();
        assert_eq!(gradient(checkpointed(&[&x], outer).unwrap()), gradient(plain));
    }

    #[test]
    fn only_what_variables_have_a_part_in_is_followed() {
        let variable = Var::from_tensor(&values(&[5, 5], 1)).unwrap();
        let weight = TapeTensor::variable(&variable);
        let x = values(&[3, 5], 2);
        let (constant, forgotten) = (TapeTensor::constant(&x), TapeTensor::no_grad(&x));
        let frozen = |x: &[TapeTensor]| ops::reshape(&x[0], (5, 3));
        assert!(!checkpointed(&[&constant], frozen).unwrap().is_followed());
        let holding = move |x: &[TapeTensor]| linear(&x[0], &weight);
        let followed = checkpointed(&[&constant], holding.clone()).unwrap();
        assert!(followed.is_followed());
        assert!(checkpointed(&[&followed], frozen).unwrap().is_followed());
        let forgotten = checkpointed(&[&forgotten], holding).unwrap();
        assert!(!forgotten.is_followed());
        let gradients = forgotten.backward(values(&[3, 5], 3)).unwrap();
        assert!(gradients.is_empty());
    }

    #[test]
    fn a_segment_keeps_its_inputs_alone() {
        let x = Var::from_tensor(&values(&[3, 5], 1)).unwrap();
        let held = Arc::new(());
        let y = {
            let held = Arc::clone(&held);
            checkpointed(&[&TapeTensor::variable(&x)], move |inputs| {
                // Counts how often a graph holds it.
                let held = Arc::clone(&held);
                let y = (inputs[0].tensor() * 2.0)?;
                Ok(TapeTensor::result(y, &[&inputs[0]], move |gradient: &Tensor| {
                    drop(held);
                    Ok(vec![Some((gradient * 2.0)?)])
                }))
            })
            .unwrap()
        };
        // The segment's own and the test's.
        assert_eq!(Arc::strong_count(&held), 2);
        y.backward(values(&[3, 5], 2)).unwrap();
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
