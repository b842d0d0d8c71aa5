//! Convolutions with 3 × 3 kernels by Winograd's minimal filtering F(2 × 2, 3 × 3) and F(4 × 4, 3 ×
//! 3), which take four ninths or a quarter of the multiplications (Lavin and Gray, "Fast Algorithms
//! for Convolutional Neural Networks", 2016, section 4.1), and their adjoints for the gradients.
//!
//! The result is cut into tiles of `M × M` pixels, each of which sees `E × E` input pixels, `E` being
//! `M + 2`. Once kernels and inputs are transformed, each of a tile's `E²` elements is an element of a
//! product of matrices, `[outputs, inputs] · [inputs, tiles]`.
//!
//! Small tiles round no worse than the plain form, large ones five times as coarsely: to 1.2e-6 of
//! the result in place of 2.6e-7, with 256 input channels.

use std::{array, ops::Range};

use candle_core::Result;
use rayon::prelude::*;

use super::buffer::Buffer;
use super::columns::{Extents, Span};
use super::cpu;
use super::filtering::{Input, InputAdjoint, Kernel, KernelAdjoint, Output, OutputAdjoint, Step};
use super::product::{self, Matrices};
use super::tiles::{Rows, Workbench, transform};
use super::weight::Weight;

/// What is held at a time.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Transformed values: few enough to stay in a cache.
    values: usize,
    /// Tiles, if there are so many, however many channels they have: with fewer, arranging the
    /// kernels for a product takes as long as the product.
    least_tiles: usize,
    /// Transformed elements of kernels.
    kernels: usize,
    /// Sums of these elements' gradients: few enough to stay in a cache.
    sums: usize,
}

const LIMITS: Limits =
    Limits { values: 1 << 19, least_tiles: 128, kernels: 1 << 23, sums: 1 << 20 };
/// Small tiles from which on the transformation of the kernels is paid for.
const TILES: usize = 24;
/// Channels from which on the products are worth their transformations.
const CHANNELS: usize = 16;
/// Large tiles from which on what they save is more than their transformations take.
const LARGE: usize = 16;
/// Kernels that are transformed side by side.
const KERNELS: usize = 256;

/// Pixels of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tiles {
    /// F(2 × 2, 3 × 3).
    Small,
    /// F(4 × 4, 3 × 3).
    Large,
}

/// A convolution by tiles.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Winograd {
    extents: Extents,
    tiles: Tiles,
    limits: Limits,
}

impl Winograd {
    /// Where the convolution is of the right kind, and large enough to gain.
    pub(in crate::engine) fn of(extents: Extents) -> Option<Self> {
        let tiles = |size: usize| {
            extents.batch * extents.size[0].div_ceil(size) * extents.size[1].div_ceil(size)
        };
        let right = extents.kernel == [3, 3] && extents.stride == 1 && extents.padding == 1;
        let pays = tiles(2) >= TILES && extents.inputs.min(extents.outputs) >= CHANNELS;
        if !right || !pays {
            return None;
        }
        // At least a quarter of the multiplications must be saved, however far the last tiles reach
        // beyond the plane.
        let large = tiles(4) >= LARGE && 6 * 6 * tiles(4) < 3 * 4 * tiles(2);
        let tiles = if large { Tiles::Large } else { Tiles::Small };
        Some(Self { extents, tiles, limits: LIMITS })
    }

    /// Numbers of the transformed kernels that are held at a time.
    pub(in crate::engine) fn kernels_held(self) -> u64 {
        let elements = match self.tiles {
            Tiles::Small => Tiled::<2, 4>::ELEMENTS,
            Tiles::Large => Tiled::<4, 6>::ELEMENTS,
        };
        let all = elements * self.extents.inputs * self.extents.outputs;
        all.min(self.limits.kernels) as u64
    }

    /// Adds the convolution of `x` to `y`.
    pub(in crate::engine) fn add(self, x: &[f32], weight: &Weight, y: &mut [f32]) -> Result<()> {
        match self.tiles {
            Tiles::Small => Tiled::<2, 4>::new(self).add(x, weight, y),
            Tiles::Large => Tiled::<4, 6>::new(self).add(x, weight, y),
        }
    }

    /// The gradient of the input where the weight is given, and that of the weight where the input
    /// is.
    pub(in crate::engine) fn backward(
        self,
        x: Option<&[f32]>,
        weight: Option<&Weight>,
        gradient: &[f32],
    ) -> Result<[Option<Vec<f32>>; 2]> {
        match self.tiles {
            Tiles::Small => Tiled::<2, 4>::new(self).backward(x, weight, gradient),
            Tiles::Large => Tiled::<4, 6>::new(self).backward(x, weight, gradient),
        }
    }
}

/// How a convolution's result is cut into tiles of `M × M` pixels.
#[derive(Debug, Clone, Copy)]
struct Tiled<const M: usize, const E: usize> {
    extents: Extents,
    /// Rows and columns of tiles of a plane.
    tiles: [usize; 2],
    limits: Limits,
}

impl<const M: usize, const E: usize> Tiled<M, E> {
    /// Elements of a tile, and of a transformed kernel.
    const ELEMENTS: usize = E * E;

    fn new(Winograd { extents, limits, .. }: Winograd) -> Self {
        Self { extents, tiles: extents.size.map(|size| size.div_ceil(M)), limits }
    }

    fn spans(self) -> impl Iterator<Item = Span> {
        let (total, across) = (self.extents.batch * self.tiles[0], self.tiles[1]);
        let row = Self::ELEMENTS * self.extents.inputs.max(self.extents.outputs) * across;
        let most = (self.limits.values / row).max(self.limits.least_tiles.div_ceil(across));
        let most = total.div_ceil(total.div_ceil(most));
        (0..total).step_by(most).map(move |first| {
            let rows = most.min(total - first);
            Span { first, rows, length: rows * across }
        })
    }
}

impl<const M: usize, const E: usize> Tiled<M, E>
where
    Kernel: Step<3, E>,
    KernelAdjoint: Step<E, 3>,
    Input: Step<E, E>,
    InputAdjoint: Step<E, E>,
    Output: Step<E, M>,
    OutputAdjoint: Step<M, E>,
{
    fn add(self, x: &[f32], weight: &Weight, y: &mut [f32]) -> Result<()> {
        let inputs = self.extents.inputs;
        let kernels = Kernels::<E>::new(self.extents, self.limits.kernels, weight)?;
        for span in self.spans() {
            let length = span.length;
            let seen = self.gathered(Input, x, inputs, 0..inputs, span);
            let seen = Matrices::new(&seen, [inputs * length, length, 1]);
            kernels.for_each_part(|outputs, kernels| {
                let count = outputs.len();
                let kernels = Matrices::new(kernels, [count * inputs, inputs, 1]);
                let sizes = (count, length, inputs);
                let products =
                    product::multiply_for_a_moment(Self::ELEMENTS, sizes, kernels, seen)?;
                self.scatter(Output, &products, y, (self.extents.outputs, &outputs), span);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn backward(
        self,
        x: Option<&[f32]>,
        weight: Option<&Weight>,
        gradient: &[f32],
    ) -> Result<[Option<Vec<f32>>; 2]> {
        let Extents { batch, inputs, outputs, .. } = self.extents;
        let spans: Vec<Span> = self.spans().collect();
        // The transformed gradient, where all of it is held at a time.
        let mut whole = None;
        let mut dx = None;
        if let Some(weight) = weight {
            let kernels = Kernels::<E>::new(self.extents, self.limits.kernels, weight)?;
            let mut sums = vec![0.0; batch * inputs * self.extents.plane()];
            for &span in &spans {
                let length = span.length;
                let transformed = self.gathered(OutputAdjoint, gradient, outputs, 0..outputs, span);
                let mut products = None;
                kernels.for_each_part(|part, kernels| {
                    let count = part.len();
                    let kernels = Matrices::new(kernels, [count * inputs, 1, inputs]);
                    let gradients = &transformed[part.start * length..];
                    let gradients = Matrices::new(gradients, [outputs * length, length, 1]);
                    let sizes = (inputs, length, count);
                    let count = Self::ELEMENTS;
                    product::add_for_a_moment(&mut products, count, sizes, kernels, gradients)
                })?;
                if let Some(products) = products {
                    self.scatter(InputAdjoint, &products, &mut sums, (inputs, &(0..inputs)), span);
                }
                whole = (spans.len() == 1).then_some(transformed);
            }
            dx = Some(sums);
        }
        let dweight = x.map(|x| self.weight_gradient(x, gradient, &spans, whole));
        Ok([dx, dweight.transpose()?])
    }

    /// By parts of the outputs, since the sums are many more values than the kernels have, and each
    /// is touched once a span.
    fn weight_gradient(
        self,
        x: &[f32],
        gradient: &[f32],
        spans: &[Span],
        whole: Option<Buffer>,
    ) -> Result<Vec<f32>> {
        let Extents { inputs, outputs, .. } = self.extents;
        let gathered = |outputs_of: Range<usize>, span| {
            self.gathered(OutputAdjoint, gradient, outputs, outputs_of, span)
        };
        let seen = |span| self.gathered(Input, x, inputs, 0..inputs, span);
        let held = match spans {
            [span] => Some((whole.unwrap_or_else(|| gathered(0..outputs, *span)), seen(*span))),
            _ => None,
        };
        // What several spans see is transformed anew for each part.
        let limit = if held.is_some() { self.limits.sums } else { self.limits.kernels };
        let most = (limit / (Self::ELEMENTS * inputs)).clamp(1, outputs);
        let most = outputs.div_ceil(outputs.div_ceil(most));
        let mut dweight = vec![0.0; 9 * inputs * outputs];
        for (index, dweight) in dweight.chunks_mut(9 * inputs * most).enumerate() {
            let part = index * most..((index + 1) * most).min(outputs);
            let mut sums = None;
            for &span in spans {
                let length = span.length;
                let sizes = (part.len(), inputs, length);
                let mut add = |gradients: &[f32], channels: usize, seen: &[f32]| {
                    let gradients = Matrices::new(gradients, [channels * length, length, 1]);
                    let seen = Matrices::new(seen, [inputs * length, 1, length]);
                    product::add_for_a_moment(&mut sums, Self::ELEMENTS, sizes, gradients, seen)
                };
                match &held {
                    Some((gradients, seen)) => {
                        add(&gradients[part.start * length..], outputs, seen)?;
                    }
                    None => add(&gathered(part.clone(), span), part.len(), &seen(span))?,
                }
            }
            if let Some(sums) = sums {
                kernel_gradients::<E>(&sums, dweight);
            }
        }
        Ok(dweight)
    }
}

/// Splits `E²` matrices into parts of `length` values, the parts of one place together.
fn parts_of<const E: usize>(matrices: &mut [f32], length: usize) -> Vec<Rows<'_, E>> {
    let each = matrices.len() / (E * E);
    let mut parts: Vec<_> =
        matrices.chunks_exact_mut(each.max(1)).map(|m| m.chunks_mut(length)).collect();
    (0..each.div_ceil(length))
        .map(|_| {
            let mut parts = parts.iter_mut().map(|parts| parts.next().unwrap_or_default());
            array::from_fn(|_| array::from_fn(|_| parts.next().unwrap_or_default()))
        })
        .collect()
}

impl<const M: usize, const E: usize> Tiled<M, E> {
    /// A step from the planes of some of all channels to a span's rows of tiles: `[E², some, tiles]`.
    fn gathered<const A: usize>(
        self,
        step: impl Step<A, E>,
        planes: &[f32],
        channels: usize,
        some: Range<usize>,
        span: Span,
    ) -> Buffer {
        let plane = self.extents.plane();
        let mut matrices = Buffer::new(Self::ELEMENTS * some.len() * span.length);
        let parts = parts_of(&mut matrices, span.length);
        let tasks = parts.into_par_iter().enumerate();
        tasks.with_min_len(cpu::rows_per_task(Self::ELEMENTS * span.length)).for_each_init(
            || self.workbench(span),
            |workbench, (channel, mut targets)| {
                let planes = span.parts(self.tiles).map(|part| {
                    let index = channels * part.image + some.start + channel;
                    (&planes[index * plane..][..plane], part.rows)
                });
                workbench.gather(step, planes, &mut targets);
            },
        );
        matrices
    }

    /// Adds a step from a span's products, `[E², some, tiles]`, to the planes of some of all
    /// channels, `[batch, channels, height, width]`.
    fn scatter<const B: usize>(
        self,
        step: impl Step<E, B>,
        products: &[f32],
        planes: &mut [f32],
        (channels, some): (usize, &Range<usize>),
        span: Span,
    ) {
        let plane = self.extents.plane();
        let mut planes_of_channels: Vec<_> = some.clone().map(|_| Vec::new()).collect();
        let mut images = planes.chunks_exact_mut(channels * plane).enumerate();
        for part in span.parts(self.tiles) {
            let image = images.find(|(image, _)| *image == part.image);
            let planes = image.map(|(_, image)| &mut image[some.start * plane..some.end * plane]);
            let planes = planes.unwrap_or_default().chunks_exact_mut(plane);
            for (plane, of_channel) in planes.zip(&mut planes_of_channels) {
                of_channel.push((plane, part.rows.clone()));
            }
        }
        let tasks = planes_of_channels.into_par_iter().enumerate();
        tasks.with_min_len(cpu::rows_per_task(Self::ELEMENTS * span.length)).for_each_init(
            || self.workbench(span),
            |workbench, (channel, planes)| {
                let start = channel * span.length;
                let source = |row: usize, column: usize| {
                    &products[(row * E + column) * some.len() * span.length + start..]
                };
                workbench.scatter(step, source, planes.into_iter());
            },
        );
    }

    fn workbench(self, span: Span) -> Workbench<M, E> {
        Workbench::new(self.extents.size, span.rows)
    }
}

/// A convolution's kernels, transformed: all at once where they are few, else some outputs' at a time.
struct Kernels<'a, const E: usize> {
    inputs: usize,
    outputs: usize,
    /// The most elements that are held.
    limit: usize,
    weight: &'a Weight,
    all: Option<Buffer>,
}

impl<'a, const E: usize> Kernels<'a, E>
where
    Kernel: Step<3, E>,
{
    fn new(extents: Extents, limit: usize, weight: &'a Weight) -> Result<Self> {
        let Extents { inputs, outputs, .. } = extents;
        let few = E * E * inputs * outputs <= limit;
        let all = few.then(|| weight.with_all(|weight| Ok(transformed_kernels::<E>(weight))));
        Ok(Self { inputs, outputs, limit, weight, all: all.transpose()? })
    }

    /// Calls `work` with some outputs and their kernels, `[E², outputs, inputs]`.
    fn for_each_part(
        &self,
        mut work: impl FnMut(Range<usize>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        if let Some(all) = &self.all {
            return work(0..self.outputs, all);
        }
        let most = self.limit / (E * E * self.inputs);
        self.weight
            .for_each_part(Some(most), |part, weight| work(part, &transformed_kernels::<E>(weight)))
    }
}

/// `[outputs, inputs, 3, 3]` to `[E², outputs, inputs]`.
fn transformed_kernels<const E: usize>(weight: &[f32]) -> Buffer
where
    Kernel: Step<3, E>,
{
    let mut kernels = Buffer::new(E * E * (weight.len() / 9));
    let parts = parts_of::<E>(&mut kernels, KERNELS);
    weight.par_chunks(9 * KERNELS).zip(parts).for_each(|(weight, targets)| {
        let count = weight.len() / 9;
        let (mut elements, mut half) = (Buffer::new(9 * count), Buffer::new(3 * E * count));
        for (kernel, weight) in weight.chunks_exact(9).enumerate() {
            let places = elements[kernel..].iter_mut().step_by(count);
            places.zip(weight).for_each(|(place, weight)| *place = *weight);
        }
        let source = |row: usize, column: usize| &elements[(row * 3 + column) * count..];
        transform(Kernel, source, &mut half, targets);
    });
    kernels
}

/// The gradient of some of `[outputs, inputs, 3, 3]` from that of the transformed kernels.
fn kernel_gradients<const E: usize>(dkernels: &[f32], dweight: &mut [f32])
where
    KernelAdjoint: Step<E, 3>,
{
    let all = dkernels.len() / (E * E);
    dweight.par_chunks_mut(9 * KERNELS).enumerate().for_each(|(index, dweight)| {
        let (first, count) = (index * KERNELS, dweight.len() / 9);
        let (mut elements, mut half) = (Buffer::new(9 * count), Buffer::new(3 * E * count));
        let source = |row: usize, column: usize| &dkernels[(row * E + column) * all + first..];
        let mut targets = elements.chunks_exact_mut(count);
        let targets = array::from_fn(|_| array::from_fn(|_| targets.next().unwrap_or_default()));
        transform(KernelAdjoint, source, &mut half, targets);
        for (kernel, dweight) in dweight.chunks_exact_mut(9).enumerate() {
            let places = elements[kernel..].iter().step_by(count);
            dweight.iter_mut().zip(places).for_each(|(dweight, place)| *dweight = *place);
        }
    });
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use proptest::prelude::*;

    use super::*;

    fn numbers(length: usize, seed: usize) -> Vec<f32> {
        (0..length).map(|index| ((index + seed) * 7 % 13) as f32 - 6.0).collect()
    }

    fn naive(extents: Extents, x: &[f32], weight: &[f32], mut visit: impl FnMut([usize; 3])) {
        let Extents { batch, inputs, outputs, size: [height, width], .. } = extents;
        assert_eq!(
            (x.len(), weight.len()),
            (batch * inputs * height * width, outputs * inputs * 9)
        );
        for place in 0..batch * outputs * height * width {
            let (plane, row, column) =
                (place / (height * width), place / width % height, place % width);
            let (image, output) = (plane / outputs, plane % outputs);
            for element in 0..inputs * 9 {
                let (input, i, j) = (element / 9, element / 3 % 3, element % 3);
                let (row, column) = (row + i, column + j);
                if (1..=height).contains(&row) && (1..=width).contains(&column) {
                    let seen = (image * inputs + input) * height * width;
                    let seen = seen + (row - 1) * width + column - 1;
                    visit([place, seen, output * inputs * 9 + element]);
                }
            }
        }
    }

    /// A convolution of whole numbers, and the plain sums of its results and gradients.
    #[derive(Debug)]
    struct Plain {
        extents: Extents,
        x: Vec<f32>,
        weight: Vec<f32>,
        bias: Vec<f32>,
        gradient: Vec<f32>,
        y: Vec<f32>,
        dx: Vec<f32>,
        dweight: Vec<f32>,
    }

    impl Plain {
        fn new(batch: usize, [inputs, outputs]: [usize; 2], size: [usize; 2], seed: usize) -> Self {
            let extents = Extents {
                batch,
                inputs,
                outputs,
                size,
                kernel: [3, 3],
                result: size,
                stride: 1,
                padding: 1,
            };
            let plane = size[0] * size[1];
            let x = numbers(batch * inputs * plane, seed);
            let weight = numbers(outputs * inputs * 9, seed + 1);
            let bias = numbers(outputs, seed + 2);
            let gradient = numbers(batch * outputs * plane, seed + 3);
            let bias: Vec<f32> =
                (0..gradient.len()).map(|index| bias[index / plane % outputs]).collect();
            let (mut y, mut dx) = (bias.clone(), vec![0.0; x.len()]);
            let mut dweight = vec![0.0; weight.len()];
            naive(extents, &x, &weight, |[place, seen, element]| {
                y[place] += x[seen] * weight[element];
                dx[seen] += gradient[place] * weight[element];
                dweight[element] += gradient[place] * x[seen];
            });
            Self { extents, x, weight, bias, gradient, y, dx, dweight }
        }

        /// What tiles make of it: the results and both gradients.
        fn by(&self, tiles: Tiles, limits: Limits) -> [Vec<f32>; 3] {
            let Extents { inputs, outputs, .. } = self.extents;
            let shape = (outputs, inputs, 3, 3);
            let kernel = Tensor::from_slice(&self.weight, shape, &Device::Cpu).unwrap();
            let kernel = Weight::new(&kernel).unwrap();
            let winograd = Winograd { extents: self.extents, tiles, limits };
            let mut y = self.bias.clone();
            winograd.add(&self.x, &kernel, &mut y).unwrap();
            assert_eq!(winograd.backward(None, None, &self.gradient).unwrap(), [None, None]);
            let gradients = winograd.backward(Some(&self.x), Some(&kernel), &self.gradient);
            let [dx, dweight] = gradients.unwrap();
            [y, dx.unwrap(), dweight.unwrap()]
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn results_and_gradients_are_those_of_the_plain_sums(
            batch in 1..4_usize, channels in [1..6_usize, 1..6_usize],
            size in [1..40_usize, 1..40_usize], seed in 0..13_usize,
            least_tiles in 1..100_usize, kernels in 1..900_usize,
        ) {
            let plain = Plain::new(batch, channels, size, seed);
            let limits = Limits { values: 1, least_tiles, kernels, sums: kernels };
            let expected = [&plain.y, &plain.dx, &plain.dweight];
            // Small tiles' transforms of whole numbers are exact, so that results are equal or wrong.
            for (got, expected) in plain.by(Tiles::Small, limits).iter().zip(expected) {
                prop_assert_eq!(got, expected);
            }
            for (got, expected) in plain.by(Tiles::Large, limits).iter().zip(expected) {
                let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
                for (got, expected) in got.iter().zip(expected) {
                    prop_assert!((got - expected).abs() <= 1e-5 * largest, "{} {}", got, expected);
                }
            }
        }
    }

    #[test]
    fn tiles_are_as_large_as_pays() {
        let of = |batch: usize, size: [usize; 2]| {
            Winograd::of(Extents {
                batch,
                inputs: 64,
                outputs: 64,
                size,
                kernel: [3, 3],
                result: size,
                stride: 1,
                padding: 1,
            })
            .map(|winograd| winograd.tiles)
        };
        assert_eq!(of(1, [32, 32]), Some(Tiles::Large));
        assert_eq!(of(1, [16, 16]), Some(Tiles::Large));
        assert_eq!(of(1, [8, 16]), Some(Tiles::Small));
        // Large tiles would reach far beyond the plane.
        assert_eq!(of(1, [5, 400]), Some(Tiles::Small));
        assert_eq!(of(1, [4, 4]), None);
    }

    #[test]
    fn other_convolutions_are_left_alone() {
        let right = Extents {
            batch: 4,
            inputs: 64,
            outputs: 64,
            size: [16, 16],
            kernel: [3, 3],
            result: [16, 16],
            stride: 1,
            padding: 1,
        };
        assert!(Winograd::of(right).is_some());
        assert!(Winograd::of(Extents { stride: 2, ..right }).is_none());
        assert!(Winograd::of(Extents { padding: 0, ..right }).is_none());
        assert!(Winograd::of(Extents { kernel: [1, 1], ..right }).is_none());
        assert!(Winograd::of(Extents { inputs: 4, ..right }).is_none());
        assert!(Winograd::of(Extents { batch: 1, size: [4, 4], ..right }).is_none());
    }
}
