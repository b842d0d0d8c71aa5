//! Every operation against its reference, by the emulator: in f32 to the last digits, with finite
//! differences, frozen arguments and views, and in 16 bits to what those can hold.

use std::io::Write;

use candle_core::{DType, Device, Result, Tensor, Var};

use super::{
    super::{
        activation::geglu_reference,
        adam::{Adam, AdamSettings, Moments},
        attention::attention_reference,
        convolution::conv2d_reference,
        layer_norm::layer_norm_reference,
        linear::linear_reference,
        norm::group_norm_reference,
        parameters::{Activation, Convolution, GroupNorm},
        squares::sum_of_squares,
        testing::{Case, assert_close, values, view, weighting},
        upsample::{upsample_nearest, upsample_nearest_reference},
    },
    *,
};
use crate::engine::tape::TapeTensor;
use crate::engine::{ComputeSettings, DeviceChoice};

/// Digits that 16 bits hold, with some for sums.
const HALVES: [(DType, f32); 2] = [(DType::F16, 4e-3), (DType::BF16, 3e-2)];

/// Where tests run.
struct Place(Device);

impl Place {
    /// In host memory, by the emulator; none where that says that it is not there.
    fn emulated() -> Option<Self> {
        emulator::is_there().then_some(Self(Device::Cpu))
    }

    /// On a CUDA device; none, which is told past the harness, where none answers.
    fn on_a_device() -> Option<Self> {
        let settings = ComputeSettings { device: DeviceChoice::Cuda(0), ..Default::default() };
        match settings.open() {
            Ok(compute) => Some(Self(compute.device)),
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "skipped: {error}");
                None
            }
        }
    }

    fn values(&self, shape: &[usize], seed: u64) -> Tensor {
        values(shape, seed).to_device(&self.0).unwrap()
    }
}

/// Makes two tests of each function: by the emulator, and on a CUDA device.
macro_rules! everywhere {
    ($($name:ident,)+) => {
        mod emulated {
            $(#[test]
            fn $name() {
                if let Some(place) = super::Place::emulated() {
                    super::$name(&place);
                }
            })+
        }

        mod on_a_device {
            $(#[test]
            #[cfg_attr(not(feature = "cuda"), ignore = "needs a build with the feature cuda")]
            fn $name() {
                if let Some(place) = super::Place::on_a_device() {
                    super::$name(&place);
                }
            })+
        }
    };
}

everywhere! {
    activations,
    group_norms,
    layer_norms,
    linear_maps,
    a_trained_weight_stays_in_f32,
    maps_of_planes,
    convolutions,
    attention_of_any_size,
    scores_soften_in_16_bits,
    upsampling_and_shifts,
    sums_of_squares_are_read_at_once,
    adam_is_the_cpus,
}

/// The result and the arguments' gradients where all matrices and activations are `dtype`, each in
/// the type that it came in.
fn in_halves(
    arguments: &[Tensor],
    dtype: DType,
    operation: impl Fn(&[TapeTensor]) -> Result<TapeTensor>,
) -> Vec<Tensor> {
    let placed = arguments.iter().map(|argument| match argument.rank() {
        1 => argument.clone(),
        _ => argument.to_dtype(dtype).unwrap(),
    });
    let variables: Vec<Var> = placed.map(|tensor| Var::from_tensor(&tensor).unwrap()).collect();
    let traced: Vec<TapeTensor> = variables.iter().map(TapeTensor::variable).collect();
    let y = operation(&traced).unwrap();
    let result = y.tensor().clone();
    assert_eq!(result.dtype(), dtype);
    let weights = weighting(&result);
    let mut gradients = y.backward(weights).unwrap();
    let gradients = variables.iter().map(|variable| {
        let gradient = gradients.take(variable).unwrap();
        assert_eq!(gradient.dtype(), variable.dtype());
        gradient
    });
    std::iter::once(result).chain(gradients).collect()
}

/// Compares with the same in f32, which is tested by itself.
fn check_halves(arguments: &[Tensor], operation: impl Fn(&[TapeTensor]) -> Result<TapeTensor>) {
    for (dtype, tolerance) in HALVES {
        let rounded: Vec<Tensor> = arguments
            .iter()
            .map(|a| if a.rank() == 1 { a.clone() } else { to_f32(&a.to_dtype(dtype).unwrap()) })
            .collect();
        let expected = in_halves(&rounded, DType::F32, &operation);
        for (got, expected) in in_halves(arguments, dtype, &operation).iter().zip(&expected) {
            assert_close(&to_f32(got), expected, tolerance);
        }
    }
}

fn to_f32(tensor: &Tensor) -> Tensor {
    tensor.to_dtype(DType::F32).unwrap()
}

fn activations(place: &Place) {
    for kind in [Activation::Silu, Activation::GeluErf, Activation::QuickGelu] {
        let reference = |t: &Tensor| kind.reference(t);
        for shape in [vec![1, 3], vec![3, 5, 70]] {
            let x = (place.values(&shape, 1) * 4.0).unwrap();
            Case::new([x.clone()]).check(|t| activation(&t[0], kind), |t| reference(&t[0]));
            check_halves(&[x], |t| activation(&t[0], kind));
        }
        let case = Case::new([place.values(&[4, 5], 1)]);
        case.check(
            |t| activation(&view(&t[0], Tensor::t)?, kind),
            |t| reference(&t[0].t()?.contiguous()?),
        );
    }
    for shape in [vec![1, 2], vec![3, 5, 26], vec![2, 33, 66]] {
        let x = (place.values(&shape, 1) * 2.0).unwrap();
        Case::new([x.clone()]).check(|t| geglu(&t[0]), |t| geglu_reference(&t[0]));
        check_halves(&[x], |t| geglu(&t[0]));
    }
    assert!(geglu(&TapeTensor::constant(&place.values(&[2, 3], 1))).is_err());
}

fn group_norms(place: &Place) {
    for silu in [false, true] {
        for (shape, groups) in
            [(vec![1, 6, 3, 5], 3), (vec![3, 20, 4, 4], 4), (vec![2, 33, 7], 1), (vec![2, 8], 2)]
        {
            let settings = GroupNorm { groups, eps: 1e-5, silu };
            let channels = [shape[1]];
            let arguments =
                [place.values(&shape, 1), place.values(&channels, 2), place.values(&channels, 3)];
            let fast = |t: &[TapeTensor]| group_norm(&t[0], &t[1], &t[2], settings);
            let reference = |t: &[Tensor]| group_norm_reference(&t[0], &t[1], &t[2], settings);
            Case::new(arguments.clone()).check(fast, reference);
            check_halves(&arguments, fast);
        }
    }
}

fn layer_norms(place: &Place) {
    for shape in [vec![1, 5], vec![3, 7, 19], vec![2, 100, 33]] {
        let channels = [shape[shape.len() - 1]];
        let arguments =
            [place.values(&shape, 1), place.values(&channels, 2), place.values(&channels, 3)];
        let fast = |t: &[TapeTensor]| layer_norm(&t[0], &t[1], &t[2], 1e-5);
        let reference = |t: &[Tensor]| layer_norm_reference(&t[0], &t[1], &t[2], 1e-5);
        Case::new(arguments.clone()).check(fast, reference);
        check_halves(&arguments, fast);
    }
}

fn linear_maps(place: &Place) {
    for (shape, inputs, outputs) in [(vec![1, 5], 5, 7), (vec![3, 50, 13], 13, 9)] {
        let matrices = [
            place.values(&shape, 1),
            place.values(&[outputs, inputs], 2),
            place.values(&[outputs], 3),
        ];
        let reference = |t: &[Tensor]| linear_reference(t, [t.len() > 2, false, false]);
        let fast = |t: &[TapeTensor]| linear(&t[0], &t[1], t.get(2));
        let [x, weight, _] = &matrices;
        Case::new([x.clone(), weight.clone()]).check(fast, reference);
        Case::new(matrices).check(fast, reference);
    }
}

fn a_trained_weight_stays_in_f32(place: &Place) {
    let [x, weight, bias] =
        [place.values(&[6, 5], 1), place.values(&[7, 5], 2), place.values(&[7], 3)];
    let half = x.to_dtype(DType::F16).unwrap();
    let weight = Var::from_tensor(&weight).unwrap();
    let traced =
        [TapeTensor::constant(&half), TapeTensor::variable(&weight), TapeTensor::constant(&bias)];
    let y = linear(&traced[0], &traced[1], Some(&traced[2])).unwrap();
    assert_eq!(y.tensor().dtype(), DType::F16);
    let arguments = [to_f32(&half), weight.as_detached_tensor(), bias.clone()];
    let expected = linear_reference(&arguments, [true, false, false]).unwrap();
    assert_close(&to_f32(y.tensor()), &expected, 4e-3);
    let gradient = place.values(&[6, 7], 4).to_dtype(DType::F16).unwrap();
    let got = y.backward(gradient.clone()).unwrap().take(&weight).unwrap();
    assert_eq!(got.dtype(), DType::F32);
    let expected = to_f32(&gradient).t().unwrap().matmul(&to_f32(&half)).unwrap();
    assert_close(&got, &expected, 4e-3);
}

fn maps_of_planes(place: &Place) {
    for (batch, pixels, inputs, outputs) in [(1, 1, 3, 2), (3, 35, 5, 7)] {
        for weight in [vec![outputs, inputs], vec![outputs, inputs, 1, 1]] {
            let weights = [place.values(&weight, 2), place.values(&[outputs], 3)];
            let matrix = move |t: &Tensor| t.reshape((outputs, inputs));
            let [w, b] = weights.clone();
            Case::new([place.values(&[batch, inputs, pixels], 1), w, b]).check(
                |t| linear_from_planes(&t[0], &t[1], &t[2]),
                |t| {
                    let x = t[0].transpose(1, 2)?.contiguous()?;
                    linear_reference(&[x, matrix(&t[1])?, t[2].clone()], [true, false, false])
                },
            );
            let [w, b] = weights;
            Case::new([place.values(&[batch, pixels, inputs], 1), w, b]).check(
                |t| linear_to_planes(&t[0], &t[1], &t[2]),
                |t| {
                    let arguments = [t[0].clone(), matrix(&t[1])?, t[2].clone()];
                    linear_reference(&arguments, [true, false, false])?.transpose(1, 2)
                },
            );
        }
    }
}

fn convolutions(place: &Place) {
    for (kernel, padding, stride) in [(1, 0, 1), (3, 1, 1), (3, 0, 1), (1, 1, 1), (3, 1, 2)] {
        for (batch, size) in [(1, [5, 7]), (3, [8, 6])] {
            // The reference's backward pass pads both axes for the height's parity.
            let size = if stride == 2 { [8, 8] } else { size };
            let geometry = Convolution { stride, padding };
            let arguments = [
                place.values(&[batch, 5, size[0], size[1]], 1),
                place.values(&[7, 5, kernel, kernel], 2),
                place.values(&[7], 3),
            ];
            let fast = |t: &[TapeTensor]| conv2d(&t[0], &t[1], t.get(2), geometry);
            let reference =
                |t: &[Tensor]| conv2d_reference(t, [t.len() > 2, false, false], geometry);
            let [x, weight, _] = &arguments;
            Case::new([x.clone(), weight.clone()]).check(fast, reference);
            Case::new(arguments).check(fast, reference);
        }
    }
}

fn attention_of_any_size(place: &Place) {
    for (batch, queries, keys, heads, depth) in
        [(1, 4, 3, 1, 2), (2, 9, 5, 3, 4), (1, 6, 40, 2, 8), (2, 1, 1, 2, 3)]
    {
        let channels = heads * depth;
        let operands = [
            place.values(&[batch, queries, channels], 1),
            place.values(&[batch, keys, channels], 2),
            place.values(&[batch, keys, channels], 3),
        ];
        let mask = place.values(&[queries, keys], 4);
        for mask in [None, Some(&mask)] {
            // All at once, head by head, and a few queries at a time.
            for held in [1 << 20, queries * keys, 2 * keys] {
                let settings = attention::Settings { heads, mask: mask.cloned(), held };
                Case::new(operands.clone()).check(
                    |t| attention::attention_in_parts(&t[0], &t[1], &t[2], &settings),
                    |t| {
                        let mask = mask.map(|mask| mask.to_dtype(t[0].dtype())).transpose()?;
                        attention_reference(&t[0], &t[1], &t[2], heads, mask.as_ref())
                    },
                );
            }
        }
    }
    let narrow = TapeTensor::constant(&place.values(&[1, 2, 6], 1));
    let wide = TapeTensor::constant(&place.values(&[1, 2, 8], 1));
    assert!(attention(&narrow, &wide, &wide, 2, None).is_err());
    assert!(attention(&narrow, &narrow, &narrow, 4, None).is_err());
}

fn scores_soften_in_16_bits(place: &Place) {
    for (dtype, tolerance) in HALVES {
        let scores = (place.values(&[2, 3, 77], 1) * 6.0).unwrap();
        let weights = scores.to_dtype(dtype).unwrap();
        let inputs = vec![
            Argument::Nothing,
            Argument::Count(77),
            Argument::Number(0.5),
            Argument::Count(0),
            Argument::Count(0),
            Argument::Count(1),
        ];
        Launch::over_rows("softmax", &weights, (6, 77), inputs).unwrap().change(&weights).unwrap();
        let exponentials = (scores * 0.5).unwrap().exp().unwrap();
        let sums = exponentials.sum_keepdim(2).unwrap();
        let expected = exponentials.broadcast_div(&sums).unwrap();
        assert_close(&to_f32(&weights), &expected, tolerance);

        let gradient = place.values(&[2, 3, 77], 2).to_dtype(dtype).unwrap();
        let wide = (to_f32(&gradient), to_f32(&weights));
        let inputs = vec![Argument::Read(&weights), Argument::Count(77), Argument::Number(0.5)];
        let launch = Launch::over_rows("softmax_input", &gradient, (6, 77), inputs).unwrap();
        launch.change(&gradient).unwrap();
        let level = (&wide.0 * &wide.1).unwrap().sum_keepdim(2).unwrap();
        let centred = wide.0.broadcast_sub(&level).unwrap();
        let expected = ((centred * wide.1).unwrap() * 0.5).unwrap();
        assert_close(&to_f32(&gradient), &expected, tolerance);
    }
}

fn upsampling_and_shifts(place: &Place) {
    for shape in [[1, 3, 5, 7], [3, 5, 1, 2]] {
        let x = place.values(&shape, 1);
        let [height, width] = [2 * shape[2], 2 * shape[3]];
        for size in [[height, width], [height - 1, width], [height, width - 1]] {
            Case::new([x.clone()]).check(
                |t| upsample_nearest(&t[0], size),
                |t| upsample_nearest_reference(&t[0], size),
            );
            check_halves(std::slice::from_ref(&x), |t| upsample_nearest(&t[0], size));
        }
        let shift = place.values(&shape[..2], 2);
        Case::new([x.clone(), shift.clone()]).check(
            |t| add_to_channels(&t[0], &t[1]),
            |t| t[0].broadcast_add(&t[1].reshape((shape[0], shape[1], 1, 1))?),
        );
        check_halves(&[x, shift], |t| add_to_channels(&t[0], &t[1]));
    }
}

fn sums_of_squares_are_read_at_once(place: &Place) {
    let tensors = [place.values(&[3, 5], 1), place.values(&[40_000], 2)];
    let got = squares(&tensors.iter().collect::<Vec<_>>()).unwrap();
    for (got, tensor) in got.iter().zip(&tensors) {
        let expected = sum_of_squares(tensor).unwrap();
        assert!((got / expected - 1.0).abs() < 1e-5, "{got}, expected {expected}");
    }
    assert!(squares(&[]).unwrap().is_empty());
}

fn adam_is_the_cpus(place: &Place) {
    let shape = [3, 100];
    let variable = |seed| Var::from_tensor(&place.values(&shape, seed)).unwrap();
    let (ours, theirs) = (variable(1), variable(1));
    let variables = std::collections::BTreeMap::from([("p".to_owned(), theirs.clone())]);
    let settings = AdamSettings::default();
    let mut reference = Adam::new(&variables, settings).unwrap();
    let zeros = || Tensor::zeros(&shape, DType::F32, ours.device()).unwrap();
    let (mean, square) = (zeros(), zeros());
    for step in 1..=3 {
        let gradient = place.values(&shape, 10 + step);
        let gradients = std::collections::BTreeMap::from([("p".to_owned(), gradient.clone())]);
        reference.step(&variables, &gradients, |_| 1e-2).unwrap();
        let AdamSettings { mean_decay, square_decay } = settings;
        let correction = |decay: f64| 1.0 - decay.powf(step as f64);
        let numbers = AdamStep {
            mean_decay,
            square_decay,
            rate: 1e-2 / correction(mean_decay),
            root: correction(square_decay).sqrt(),
            eps: 1e-8,
        };
        adam(&ours, &gradient, [&mean, &square], numbers).unwrap();
    }
    let Moments { mean: their_mean, square: their_square } = &reference.moments()["p"];
    for (got, expected) in
        [(ours.as_tensor(), theirs.as_tensor()), (&mean, their_mean), (&square, their_square)]
    {
        assert_close(got, expected, 1e-6);
    }
}

#[test]
fn a_launch_that_does_not_fit_its_kernel_is_seen() {
    let Some(place) = Place::emulated() else { return };
    let x = place.values(&[4], 1);
    let launch = |kernel, inputs| {
        let launch = Launch::over_values(kernel, &x, 4, inputs).unwrap();
        launch.write(4).unwrap_err().to_string()
    };
    let read = || Argument::Read(&x);
    assert!(launch("nothing", vec![]).contains("no kernel of this name"));
    assert!(launch("activation", vec![read()]).contains("arguments"));
    // More values than there are.
    let beyond = vec![read(), Argument::Count(5), Argument::Count(0)];
    assert!(launch("activation", beyond).contains("beyond a buffer"));
    let double = x.to_dtype(DType::F64).unwrap();
    assert!(Launch::over_values("activation", &double, 4, vec![]).unwrap().function().is_err());
    assert!(count(1 << 31).is_err());
}
