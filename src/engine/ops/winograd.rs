//! Convolutions with a kernel of 3 × 3 in four ninths of the multiplications: Winograd's minimal
//! filtering F(2 × 2, 3 × 3) (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
//! 2016, section 4.1), with its adjoint for the gradients.
//!
//! The result is cut into tiles of 2 × 2 pixels, each of which sees 4 × 4 input pixels. Once kernels
//! and inputs are transformed, each of a tile's 16 elements is an element of a product of matrices,
//! `[outputs, inputs] · [inputs, tiles]`. Fewer terms are added up than in the plain form, so that
//! rounding is no worse.

#![allow(
    clippy::inline_always,
    reason = "a call within a loop would keep the loop from being vectorised"
)]

use std::ops::Range;

use candle_core::Result;
use rayon::prelude::*;

use super::buffer::Buffer;
use super::columns::{Extents, Part, Span};
use super::cpu;
use super::product::{self, Matrices};
use super::tiles::{ELEMENTS, Kernel, KernelAdjoint, Workbench, transform};
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
}

const LIMITS: Limits = Limits { values: 1 << 19, least_tiles: 128, kernels: 1 << 23 };
/// Tiles from which on the transformation of the kernels is paid for.
const TILES: usize = 24;
/// Channels from which on the products are worth their transformations.
const CHANNELS: usize = 16;
/// Kernels that are transformed side by side.
const KERNELS: usize = 256;

/// How a convolution's result is cut into tiles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Winograd {
    extents: Extents,
    /// Rows and columns of tiles of a plane.
    tiles: [usize; 2],
    limits: Limits,
}

impl Winograd {
    /// Where the convolution is of the right kind, and large enough to gain.
    pub(super) fn of(extents: Extents) -> Option<Self> {
        let winograd = Self::any_size(extents, LIMITS)?;
        let [down, across] = winograd.tiles;
        let pays = extents.batch * down * across >= TILES
            && extents.inputs.min(extents.outputs) >= CHANNELS;
        pays.then_some(winograd)
    }

    fn any_size(extents: Extents, limits: Limits) -> Option<Self> {
        let right = extents.kernel == [3, 3] && extents.stride == 1 && extents.padding == 1;
        let tiles = extents.size.map(|size| size.div_ceil(2));
        right.then_some(Self { extents, tiles, limits })
    }

    fn spans(self) -> impl Iterator<Item = Span> {
        let (total, across) = (self.extents.batch * self.tiles[0], self.tiles[1]);
        let row = ELEMENTS * self.extents.inputs.max(self.extents.outputs) * across;
        let most = (self.limits.values / row).max(self.limits.least_tiles.div_ceil(across));
        let most = total.div_ceil(total.div_ceil(most));
        (0..total).step_by(most).map(move |first| {
            let rows = most.min(total - first);
            Span { first, rows, length: rows * across }
        })
    }

    /// Adds the convolution of `x` to `y`.
    pub(super) fn add(self, x: &[f32], weight: &Weight, y: &mut [f32]) -> Result<()> {
        let inputs = self.extents.inputs;
        let kernels = Kernels::new(self, weight)?;
        for span in self.spans() {
            let length = span.length;
            let seen = self.transformed_inputs(x, span);
            let seen = Matrices::new(&seen, [inputs * length, length, 1]);
            kernels.for_each_part(|outputs, kernels| {
                let count = outputs.len();
                let kernels = Matrices::new(kernels, [count * inputs, inputs, 1]);
                let sizes = (count, length, inputs);
                let products = product::multiply_for_a_moment(ELEMENTS, sizes, kernels, seen)?;
                self.add_outputs(&products, &outputs, y, span);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The gradient of the input where the weight is given, and that of the weight where the input
    /// is.
    pub(super) fn backward(
        self,
        x: Option<&[f32]>,
        weight: Option<&Weight>,
        gradient: &[f32],
    ) -> Result<[Option<Vec<f32>>; 2]> {
        let Extents { batch, inputs, outputs, .. } = self.extents;
        let kernels = weight.map(|weight| Kernels::new(self, weight)).transpose()?;
        let mut dx = weight.map(|_| vec![0.0; batch * inputs * self.extents.plane()]);
        let mut dkernels = x.map(|_| vec![0.0; ELEMENTS * inputs * outputs]);
        for span in self.spans() {
            let length = span.length;
            let transformed = self.transformed_gradients(gradient, span);
            let strides = [outputs * length, length, 1];
            let gradients = Matrices::new(&transformed, strides);
            if let (Some(dx), Some(kernels)) = (&mut dx, &kernels) {
                let mut products = None;
                kernels.for_each_part(|outputs, kernels| {
                    let count = outputs.len();
                    let kernels = Matrices::new(kernels, [count * inputs, 1, inputs]);
                    let gradients = &transformed[outputs.start * length..];
                    let gradients = Matrices::new(gradients, strides);
                    let sizes = (inputs, length, count);
                    let count = ELEMENTS;
                    product::add_for_a_moment(&mut products, count, sizes, kernels, gradients)
                })?;
                if let Some(products) = products {
                    self.add_inputs(&products, dx, span);
                }
            }
            if let (Some(dkernels), Some(x)) = (&mut dkernels, x) {
                let seen = self.transformed_inputs(x, span);
                let seen = Matrices::new(&seen, [inputs * length, 1, length]);
                let sizes = (outputs, inputs, length);
                product::add_products(dkernels, sizes, gradients, seen)?;
            }
        }
        Ok([dx, dkernels.map(|dkernels| kernel_gradients(&dkernels))])
    }
}

/// Splits 16 matrices into parts of `length` values, the parts of one place together.
fn parts_of(matrices: &mut [f32], length: usize) -> Vec<[&mut [f32]; ELEMENTS]> {
    let each = matrices.len() / ELEMENTS;
    let mut parts: Vec<_> =
        matrices.chunks_exact_mut(each.max(1)).map(|m| m.chunks_mut(length)).collect();
    (0..each.div_ceil(length))
        .map(|_| {
            let mut place: [&mut [f32]; ELEMENTS] = Default::default();
            for (part, parts) in place.iter_mut().zip(&mut parts) {
                *part = parts.next().unwrap_or_default();
            }
            place
        })
        .collect()
}

impl Winograd {
    /// What the tiles of a span see, transformed: `[16, inputs, tiles]`.
    fn transformed_inputs(self, x: &[f32], span: Span) -> Buffer {
        let inputs = self.extents.inputs;
        self.of_planes(inputs, span, |workbench, channel, part, targets| {
            let plane = self.plane_of(x, inputs * part.image + channel);
            workbench.inputs(plane, &part.rows, targets, part.start);
        })
    }

    /// The gradients of a span's result pixels, transformed: `[16, outputs, tiles]`.
    fn transformed_gradients(self, gradient: &[f32], span: Span) -> Buffer {
        let outputs = self.extents.outputs;
        self.of_planes(outputs, span, |workbench, channel, part, targets| {
            let plane = self.plane_of(gradient, outputs * part.image + channel);
            workbench.gradients(plane, &part.rows, targets, part.start);
        })
    }

    /// 16 matrices of `channels` rows, of which `work` writes a row's part within an image.
    fn of_planes(
        self,
        channels: usize,
        span: Span,
        work: impl Fn(&mut Workbench, usize, &Part, &mut [&mut [f32]; ELEMENTS]) + Sync,
    ) -> Buffer {
        let mut matrices = Buffer::new(ELEMENTS * channels * span.length);
        let parts = parts_of(&mut matrices, span.length);
        let tasks = parts.into_par_iter().enumerate();
        tasks.with_min_len(cpu::rows_per_task(ELEMENTS * span.length)).for_each_init(
            || self.workbench(span),
            |workbench, (channel, mut targets)| {
                for part in span.parts(self.tiles) {
                    cpu::vectorised(
                        #[inline(always)]
                        || work(workbench, channel, &part, &mut targets),
                    );
                }
            },
        );
        matrices
    }

    /// Adds what a span's products, `[16, outputs, tiles]`, make of result pixels.
    fn add_outputs(self, products: &[f32], outputs: &Range<usize>, y: &mut [f32], span: Span) {
        let channels = self.extents.outputs;
        self.for_planes(y, (channels, outputs), span, |workbench, channel, part, plane| {
            let start = channel * span.length + part.start;
            let source = |row: usize, column: usize| {
                &products[(row * 4 + column) * outputs.len() * span.length + start..]
            };
            workbench.add_outputs(source, &part.rows, plane);
        });
    }

    /// Adds what a span's products, `[16, inputs, tiles]`, tell of the input's gradient.
    fn add_inputs(self, products: &[f32], dx: &mut [f32], span: Span) {
        let inputs = self.extents.inputs;
        self.for_planes(dx, (inputs, &(0..inputs)), span, |workbench, channel, part, plane| {
            let start = channel * span.length + part.start;
            let source = |row: usize, column: usize| {
                &products[(row * 4 + column) * inputs * span.length + start..]
            };
            workbench.add_inputs(source, &part.rows, plane);
        });
    }

    /// Lets `work` change some channels' planes of `[batch, channels, height, width]` that a span
    /// lies in; it gets the channel's place among those.
    fn for_planes(
        self,
        planes: &mut [f32],
        (channels, some): (usize, &Range<usize>),
        span: Span,
        work: impl Fn(&mut Workbench, usize, &Part, &mut [f32]) + Sync,
    ) {
        let plane = self.extents.plane();
        for part in span.parts(self.tiles) {
            let image = channels * plane;
            let planes = &mut planes[part.image * image..][..image];
            let planes = &mut planes[some.start * plane..some.end * plane];
            let planes = planes.par_chunks_mut(plane).enumerate();
            planes.with_min_len(cpu::rows_per_task(4 * plane)).for_each_init(
                || self.workbench(span),
                |workbench, (channel, plane)| {
                    cpu::vectorised(
                        #[inline(always)]
                        || work(workbench, channel, &part, plane),
                    );
                },
            );
        }
    }

    fn workbench(self, span: Span) -> Workbench {
        Workbench::new(self.extents.size, span.rows.min(self.tiles[0]))
    }

    /// A channel's plane.
    fn plane_of(self, values: &[f32], index: usize) -> &[f32] {
        let plane = self.extents.plane();
        &values[index * plane..][..plane]
    }
}

/// A convolution's kernels, transformed: all at once where they are few, else some outputs' at a time.
struct Kernels<'a> {
    winograd: Winograd,
    weight: &'a Weight,
    all: Option<Buffer>,
}

impl<'a> Kernels<'a> {
    fn new(winograd: Winograd, weight: &'a Weight) -> Result<Self> {
        let Extents { inputs, outputs, .. } = winograd.extents;
        let few = ELEMENTS * inputs * outputs <= winograd.limits.kernels;
        let all = few.then(|| weight.with_all(|weight| Ok(transformed_kernels(weight))));
        Ok(Self { winograd, weight, all: all.transpose()? })
    }

    /// Calls `work` with some outputs and their kernels, `[16, outputs, inputs]`.
    fn for_each_part(
        &self,
        mut work: impl FnMut(Range<usize>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let Extents { inputs, outputs, .. } = self.winograd.extents;
        if let Some(all) = &self.all {
            return work(0..outputs, all);
        }
        let most = self.winograd.limits.kernels / (ELEMENTS * inputs);
        self.weight
            .for_each_part(Some(most), |part, weight| work(part, &transformed_kernels(weight)))
    }
}

/// `[outputs, inputs, 3, 3]` to `[16, outputs, inputs]`.
fn transformed_kernels(weight: &[f32]) -> Buffer {
    let mut kernels = Buffer::new(ELEMENTS * (weight.len() / 9));
    let parts = parts_of(&mut kernels, KERNELS);
    weight.par_chunks(9 * KERNELS).zip(parts).for_each(|(weight, mut targets)| {
        let count = weight.len() / 9;
        let (mut elements, mut half) = (Buffer::new(9 * count), Buffer::new(12 * count));
        for (kernel, weight) in weight.chunks_exact(9).enumerate() {
            let places = elements[kernel..].iter_mut().step_by(count);
            places.zip(weight).for_each(|(place, weight)| *place = *weight);
        }
        cpu::vectorised(
            #[inline(always)]
            || {
                let source = |row: usize, column: usize| &elements[(row * 3 + column) * count..];
                let targets = targets.iter_mut().map(|target| &mut **target);
                transform(&Kernel, source, count, &mut half, targets);
            },
        );
    });
    kernels
}

/// The gradient of `[outputs, inputs, 3, 3]` from that of the transformed kernels.
fn kernel_gradients(dkernels: &[f32]) -> Vec<f32> {
    let all = dkernels.len() / ELEMENTS;
    let mut dweight = vec![0.0; 9 * all];
    dweight.par_chunks_mut(9 * KERNELS).enumerate().for_each(|(index, dweight)| {
        let (first, count) = (index * KERNELS, dweight.len() / 9);
        let (mut elements, mut half) = (Buffer::new(9 * count), Buffer::new(12 * count));
        cpu::vectorised(
            #[inline(always)]
            || {
                let source =
                    |row: usize, column: usize| &dkernels[(row * 4 + column) * all + first..];
                let targets = elements.chunks_exact_mut(count);
                transform(&KernelAdjoint, source, count, &mut half, targets);
            },
        );
        for (kernel, dweight) in dweight.chunks_exact_mut(9).enumerate() {
            let places = elements[kernel..].iter().step_by(count);
            dweight.iter_mut().zip(places).for_each(|(dweight, place)| *dweight = *place);
        }
    });
    dweight
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use proptest::prelude::*;

    use super::*;

    /// Whole numbers: all transforms of them are exact, so that results are equal or wrong.
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

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn results_and_gradients_are_those_of_the_plain_sums(
            batch in 1..4_usize, inputs in 1..6_usize, outputs in 1..6_usize,
            size in [1..40_usize, 1..40_usize], seed in 0..13_usize,
            least_tiles in 1..100_usize, kernels in 1..400_usize,
        ) {
            let extents = Extents {
                batch, inputs, outputs, size, kernel: [3, 3], result: size, stride: 1, padding: 1,
            };
            let plane = size[0] * size[1];
            let x = numbers(batch * inputs * plane, seed);
            let weight = numbers(outputs * inputs * 9, seed + 1);
            let bias = numbers(outputs, seed + 2);
            let gradient = numbers(batch * outputs * plane, seed + 3);
            let mut y: Vec<f32> =
                (0..gradient.len()).map(|index| bias[index / plane % outputs]).collect();
            let mut sum = y.clone();
            let (mut dx, mut dweight) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
            naive(extents, &x, &weight, |[place, seen, element]| {
                y[place] += x[seen] * weight[element];
                dx[seen] += gradient[place] * weight[element];
                dweight[element] += gradient[place] * x[seen];
            });
            let limits = Limits { values: 1, least_tiles, kernels };
            let kernel = Tensor::from_slice(&weight, (outputs, inputs, 3, 3), &Device::Cpu).unwrap();
            let kernel = Weight::new(&kernel).unwrap();
            let winograd = Winograd::any_size(extents, limits).unwrap();
            winograd.add(&x, &kernel, &mut sum).unwrap();
            prop_assert_eq!(sum, y);
            let [got_dx, got_dweight] =
                winograd.backward(Some(&x), Some(&kernel), &gradient).unwrap();
            prop_assert_eq!(got_dx.unwrap(), dx);
            prop_assert_eq!(got_dweight.unwrap(), dweight);
            let alone = winograd.backward(None, None, &gradient).unwrap();
            prop_assert_eq!(alone, [None, None]);
        }
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
