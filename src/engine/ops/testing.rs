//! How the operations' tests compare a fast form with its reference, and with finite differences.

use candle_core::{DType, Result, Tensor, Var};

pub(super) use crate::engine::kernels::testing::{assert_close, bytes, values};
use crate::engine::tape::TapeTensor;

/// The arguments of an operation.
pub(super) struct Case {
    arguments: Vec<Tensor>,
}

impl Case {
    pub(super) fn new<const N: usize>(arguments: [Tensor; N]) -> Self {
        Self { arguments: arguments.into() }
    }

    /// As [`Self::check_with`], without constants.
    pub(super) fn check(
        &self,
        fast: impl Fn(&[TapeTensor]) -> Result<TapeTensor> + Sync,
        reference: impl Fn(&[Tensor]) -> Result<Tensor>,
    ) {
        self.check_with(&[], fast, reference);
    }

    /// Compares results and gradients with the reference's, and gradients with finite differences
    /// in `f64`; and checks that only arguments that track get a gradient, that nothing is kept
    /// where none tracks, and that the same bytes come from one thread and from many.
    ///
    /// The `constants` follow the arguments and never track.
    pub(super) fn check_with(
        &self,
        constants: &[Tensor],
        fast: impl Fn(&[TapeTensor]) -> Result<TapeTensor> + Sync,
        reference: impl Fn(&[Tensor]) -> Result<Tensor>,
    ) {
        let all: Vec<bool> = vec![true; self.arguments.len()];
        let expected = self.via_candle_autograd(constants, &reference);
        let got = self.run(constants, &all, &fast);
        for (got, expected) in got.iter().zip(&expected) {
            let (got, expected) = (got.as_ref().unwrap(), expected.as_ref().unwrap());
            assert_close(got, expected, 1e-5);
        }
        self.check_differences(constants, &got, &reference);

        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let again = pool.install(|| self.run(constants, &all, &fast));
            for (again, got) in again.iter().zip(&got) {
                assert_eq!(bytes(again.as_ref().unwrap()), bytes(got.as_ref().unwrap()));
            }
        }

        for index in 0..all.len() {
            let mut tracks = vec![false; all.len()];
            tracks[index] = true;
            let alone = self.run(constants, &tracks, &fast);
            for (argument, gradient) in alone[1..].iter().enumerate() {
                assert_eq!(gradient.is_some(), argument == index, "gradient of a frozen argument");
            }
            let (alone, together) = (alone[index + 1].as_ref(), got[index + 1].as_ref());
            assert_eq!(bytes(alone.unwrap()), bytes(together.unwrap()));
        }
        let inputs: Vec<TapeTensor> =
            self.arguments.iter().chain(constants).map(TapeTensor::constant).collect();
        assert!(!fast(&inputs).unwrap().is_followed(), "a graph is kept though nothing tracks");
    }

    /// The result, then the arguments' gradients.
    fn run(
        &self,
        constants: &[Tensor],
        tracks: &[bool],
        operation: impl Fn(&[TapeTensor]) -> Result<TapeTensor>,
    ) -> Vec<Option<Tensor>> {
        let (mut inputs, mut variables) = (Vec::new(), Vec::new());
        for (argument, &tracks) in self.arguments.iter().zip(tracks) {
            let variable = Var::from_tensor(argument).unwrap();
            inputs.push(if tracks {
                TapeTensor::variable(&variable)
            } else {
                TapeTensor::constant(argument)
            });
            variables.push(variable);
        }
        inputs.extend(constants.iter().map(TapeTensor::constant));
        let y = operation(&inputs).unwrap();
        let result = y.tensor().clone();
        let mut gradients = y.backward(weighting(&result)).unwrap();
        let gradients = variables.iter().map(|variable| gradients.take(variable));
        std::iter::once(Some(result)).chain(gradients).collect()
    }

    /// The same by candle's own graph.
    fn via_candle_autograd(
        &self,
        constants: &[Tensor],
        operation: impl Fn(&[Tensor]) -> Result<Tensor>,
    ) -> Vec<Option<Tensor>> {
        let leaf = |argument| Var::from_tensor(argument).unwrap().as_tensor().clone();
        let leaves = self.arguments.iter().map(leaf);
        let inputs: Vec<Tensor> = leaves.chain(constants.iter().cloned()).collect();
        let y = operation(&inputs).unwrap();
        let loss = (&y * weighting(&y)).unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        let arguments = inputs[..self.arguments.len()].iter();
        let gradients = arguments.map(|input| gradients.get(input).cloned());
        std::iter::once(Some(y)).chain(gradients).collect()
    }

    /// Compares gradients along a direction with the reference's central difference in `f64`.
    fn check_differences(
        &self,
        constants: &[Tensor],
        got: &[Option<Tensor>],
        reference: impl Fn(&[Tensor]) -> Result<Tensor>,
    ) {
        let double = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let number = |t: Tensor| t.sum_all().unwrap().to_scalar::<f64>().unwrap();
        for (index, argument) in self.arguments.iter().enumerate() {
            let gradient = double(got[index + 1].as_ref().unwrap());
            for seed in 11..14 {
                let direction = values(argument.dims(), seed).to_device(argument.device());
                let direction = double(&direction.unwrap());
                let loss = |step: f64| {
                    let mut inputs: Vec<Tensor> =
                        self.arguments.iter().chain(constants).map(double).collect();
                    inputs[index] = (&inputs[index] + (&direction * step).unwrap()).unwrap();
                    let y = reference(&inputs).unwrap();
                    number((&y * weighting(&y)).unwrap())
                };
                let step = 1e-5;
                let difference = (loss(step) - loss(-step)) / (2.0 * step);
                let along = number((&gradient * &direction).unwrap());
                let size =
                    gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
                        * direction
                            .sqr()
                            .unwrap()
                            .sum_all()
                            .unwrap()
                            .to_scalar::<f64>()
                            .unwrap()
                            .sqrt();
                assert!(
                    (along - difference).abs() < 1e-6 + 2e-6 * size,
                    "argument {index}: {along} along a direction, {difference} by differences"
                );
            }
        }
    }
}

/// Another view of the same values.
pub(super) fn view(
    x: &TapeTensor,
    of: impl Fn(&Tensor) -> Result<Tensor> + Send + 'static,
) -> Result<TapeTensor> {
    TapeTensor::via_candle_autograd(&[x], move |t| of(&t[0]))
}

/// The loss's weights of an operation's result, so that its gradient is of no special form.
pub(super) fn weighting(y: &Tensor) -> Tensor {
    values(y.dims(), 99).to_dtype(y.dtype()).unwrap().to_device(y.device()).unwrap()
}
