//! The transforms of [`super::winograd`], of all tiles of a plane at a time.
//!
//! An element of the tiles is a row of values, one a tile, so that a step of [`super::filtering`]
//! takes as many tiles at a time as a vector has lanes.

#![allow(
    clippy::inline_always,
    reason = "what is not inlined is compiled for the least of machines"
)]

use std::{array, ops::Range};

use pulp::{Arch, Simd, WithSimd};

use super::buffer::Buffer;
use super::filtering::{Step, Vector};

/// Rows of values, by a tile's rows and columns.
pub(super) type Rows<'a, const B: usize> = [[&'a mut [f32]; B]; B];

/// Takes a step with each place of some rows, which are equally long.
#[inline(always)]
fn apply<S: Simd, const A: usize, const B: usize>(
    simd: S,
    step: impl Step<A, B>,
    from: [&[f32]; A],
    to: [&mut [f32]; B],
) {
    let length = to[0].len();
    let whole = length / S::F32_LANES;
    // Slices of one length, which need not be held against an index each.
    let vectors: [&[S::f32s]; A] = array::from_fn(
        #[inline(always)]
        |index| &S::as_simd_f32s(&from[index][..length]).0[..whole],
    );
    let mut to = to.into_iter();
    let mut to: [_; B] = array::from_fn(
        #[inline(always)]
        |_| {
            let to = to.next().unwrap_or_default();
            let (to, rest) = S::as_mut_simd_f32s(&mut to[..length]);
            (&mut to[..whole], rest)
        },
    );
    for place in 0..whole {
        let results = step.apply(array::from_fn(
            #[inline(always)]
            |index| Vector(simd, vectors[index][place]),
        ));
        for ((to, _), result) in to.iter_mut().zip(results) {
            to[place] = result.1;
        }
    }
    let done = whole * S::F32_LANES;
    if done < length {
        let results = step.apply(array::from_fn(
            #[inline(always)]
            |index| Vector(simd, simd.partial_load_f32s(&from[index][done..length])),
        ));
        for ((_, rest), result) in to.iter_mut().zip(results) {
            simd.partial_store_f32s(rest, result.1);
        }
    }
}

/// [`transform`], for the vectors that the machine has.
struct Transform<'a, T, Source, const A: usize, const B: usize> {
    step: T,
    source: Source,
    scratch: &'a mut [f32],
    targets: Rows<'a, B>,
}

/// Takes a step along the columns of tiles, then along their rows; `source` tells the values of an
/// element, by row and column.
///
/// The scratch space must hold `A · B` of the targets' rows, which are equally long.
pub(super) fn transform<'s, const A: usize, const B: usize>(
    step: impl Step<A, B>,
    source: impl Fn(usize, usize) -> &'s [f32],
    scratch: &mut [f32],
    targets: Rows<B>,
) {
    Arch::new().dispatch(Transform::<_, _, A, B> { step, source, scratch, targets });
}

impl<'s, T, Source, const A: usize, const B: usize> WithSimd for Transform<'_, T, Source, A, B>
where
    T: Step<A, B>,
    Source: Fn(usize, usize) -> &'s [f32],
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { step, source, scratch, targets } = self;
        let length = targets[0][0].len();
        for (column, half) in scratch.chunks_exact_mut(B * length).take(A).enumerate() {
            let from = array::from_fn(
                #[inline(always)]
                |row| &source(row, column)[..length],
            );
            apply(simd, step, from, rows_of(half, length));
        }
        for (row, targets) in targets.into_iter().enumerate() {
            let from = array::from_fn(
                #[inline(always)]
                |column| &scratch[(column * B + row) * length..][..length],
            );
            apply(simd, step, from, targets);
        }
    }
}

/// The first rows of `length` values.
#[inline(always)]
fn rows_of<const N: usize>(values: &mut [f32], length: usize) -> [&mut [f32]; N] {
    let mut rows = values.chunks_exact_mut(length);
    array::from_fn(
        #[inline(always)]
        |_| rows.next().unwrap_or_default(),
    )
}

/// Takes groups of `M` values apart: a row of first values, one of second values, and so on.
#[inline(always)]
fn deinterleave<const M: usize>(groups: &[f32], rows: &mut [f32]) {
    let (groups, _) = groups.as_chunks::<M>();
    for (place, row) in rows.chunks_exact_mut(groups.len()).enumerate().take(M) {
        for (value, group) in row.iter_mut().zip(groups) {
            *value = group[place];
        }
    }
}

/// Puts groups of `M` values together.
#[inline(always)]
fn interleave<const M: usize>(rows: &[f32], groups: &mut [f32]) {
    let (groups, _) = groups.as_chunks_mut::<M>();
    let length = groups.len();
    let rows: [&[f32]; M] = array::from_fn(
        #[inline(always)]
        |place| &rows[place * length..][..length],
    );
    for (index, group) in groups.iter_mut().enumerate() {
        *group = array::from_fn(
            #[inline(always)]
            |place| rows[place][index],
        );
    }
}

/// Adds values to a row.
#[inline(always)]
fn add<S: Simd>(simd: S, row: &mut [f32], values: &[f32]) {
    let (row, row_rest) = S::as_mut_simd_f32s(row);
    let (values, values_rest) = S::as_simd_f32s(values);
    for (sum, value) in row.iter_mut().zip(values) {
        *sum = simd.add_f32s(*sum, *value);
    }
    for (sum, value) in row_rest.iter_mut().zip(values_rest) {
        *sum += value;
    }
}

/// Tiles of `M × M` pixels, of `E × E` elements of products, and the memory in which rows of them
/// are transformed.
#[derive(Debug)]
pub(super) struct Workbench<const M: usize, const E: usize> {
    /// Of a plane.
    size: [usize; 2],
    /// Columns of tiles.
    across: usize,
    /// A row of pixels beyond a plane.
    zeros: Vec<f32>,
    /// Rows of pixels, a step along columns later or before it, as long as whole tiles.
    lines: Buffer,
    /// Values by their column within a tile: before it, its own, after it.
    columns: Buffer,
    /// Elements after a step along columns.
    half: Buffer,
}

impl<const M: usize, const E: usize> Workbench<M, E> {
    /// Room for some rows of tiles.
    pub(super) fn new(size: [usize; 2], rows: usize) -> Self {
        let across = size[1].div_ceil(M);
        let length = rows * across;
        Self {
            size,
            across,
            zeros: vec![0.0; size[1]],
            lines: Buffer::new(E * M * length),
            columns: Buffer::new((M + 2) * length),
            half: Buffer::new(E * E * length),
        }
    }

    /// Transforms what `rows` of tiles see of a plane into rows of the targets, from `at` on.
    ///
    /// A step from more pixels than a tile has sees those around it too.
    pub(super) fn gather<const A: usize>(
        &mut self,
        step: impl Step<A, E>,
        plane: &[f32],
        rows: &Range<usize>,
        (targets, at): (&mut Rows<E>, usize),
    ) {
        let targets = (targets, at);
        Arch::new().dispatch(Gather::<_, A, M, E> { workbench: self, step, plane, rows, targets });
    }

    /// Transforms products, `source` by row and column, and adds them to the pixels of `rows` of
    /// tiles; a step to more pixels than a tile has, to those around it too.
    pub(super) fn scatter<'s, const B: usize>(
        &mut self,
        step: impl Step<E, B>,
        source: impl Fn(usize, usize) -> &'s [f32],
        rows: &Range<usize>,
        plane: &mut [f32],
    ) {
        Arch::new().dispatch(Scatter::<_, _, B, M, E> {
            workbench: self,
            step,
            source,
            rows,
            plane,
        });
    }
}

/// [`Workbench::gather`], for the vectors that the machine has.
struct Gather<'a, 't, T, const A: usize, const M: usize, const E: usize> {
    workbench: &'a mut Workbench<M, E>,
    step: T,
    plane: &'a [f32],
    rows: &'a Range<usize>,
    targets: (&'a mut Rows<'t, E>, usize),
}

impl<T: Step<A, E>, const A: usize, const M: usize, const E: usize> WithSimd
    for Gather<'_, '_, T, A, M, E>
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { workbench, step, plane, rows, targets: (targets, at) } = self;
        let Workbench { size: [height, width], across, ref zeros, .. } = *workbench;
        // Pixels seen on each side of a tile.
        let around = (A - M) / 2;
        let (padded, length) = (M * across, rows.len() * across);
        for (index, row) in rows.clone().enumerate() {
            let from = array::from_fn(
                #[inline(always)]
                |line| match (M * row + line).checked_sub(around) {
                    Some(row) if row < height => &plane[row * width..][..width],
                    _ => &zeros[..],
                },
            );
            let mut lines = workbench.lines.chunks_exact_mut(M * length);
            let to = array::from_fn(
                #[inline(always)]
                |_| {
                    let line = &mut lines.next().unwrap_or_default()[index * padded..][..padded];
                    let (pixels, beyond) = line.split_at_mut(width);
                    if !beyond.is_empty() {
                        beyond.fill(0.0);
                    }
                    pixels
                },
            );
            apply(simd, step, from, to);
        }
        let lines = workbench.lines.chunks_exact(M * length);
        for (line, targets) in lines.zip(targets.iter_mut()) {
            let (before, own) = workbench.columns.split_at_mut(length);
            let (own, after) = own.split_at_mut(M * length);
            deinterleave::<M>(line, own);
            if around == 1 {
                before[1..].copy_from_slice(&own[(M - 1) * length..][..length - 1]);
                after[..length - 1].copy_from_slice(&own[1..length]);
                // At the ends of a row there are no pixels of another row.
                for start in (0..length).step_by(across) {
                    (before[start], after[start + across - 1]) = (0.0, 0.0);
                }
            }
            let columns = &workbench.columns;
            let from = array::from_fn(
                #[inline(always)]
                |column| &columns[(1 - around + column) * length..][..length],
            );
            let mut targets = targets.iter_mut();
            let to = array::from_fn(
                #[inline(always)]
                |_| match targets.next() {
                    Some(target) => &mut target[at..at + length],
                    None => Default::default(),
                },
            );
            apply(simd, step, from, to);
        }
    }
}

/// [`Workbench::scatter`], for the vectors that the machine has.
struct Scatter<'a, T, Source, const B: usize, const M: usize, const E: usize> {
    workbench: &'a mut Workbench<M, E>,
    step: T,
    source: Source,
    rows: &'a Range<usize>,
    plane: &'a mut [f32],
}

impl<'s, T, Source, const B: usize, const M: usize, const E: usize> WithSimd
    for Scatter<'_, T, Source, B, M, E>
where
    T: Step<E, B>,
    Source: Fn(usize, usize) -> &'s [f32],
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { workbench, step, source, rows, plane } = self;
        let Workbench { size: [height, width], across, lines, columns, half, .. } = workbench;
        let (height, width, across) = (*height, *width, *across);
        // Pixels told of on each side of a tile.
        let around = (B - M) / 2;
        let (padded, length) = (M * across, rows.len() * across);
        for (column, half) in half.chunks_exact_mut(B * length).take(E).enumerate() {
            let from = array::from_fn(
                #[inline(always)]
                |row| &source(row, column)[..length],
            );
            apply(simd, step, from, rows_of(half, length));
        }
        for line in 0..B {
            let from = array::from_fn(
                #[inline(always)]
                |column| &half[(column * B + line) * length..][..length],
            );
            apply(simd, step, from, rows_of(&mut columns[(1 - around) * length..], length));
            let (before, own) = columns.split_at_mut(length);
            let (own, after) = own.split_at_mut(M * length);
            if around == 1 {
                // At the ends of a row there are no neighbours.
                for start in (0..length).step_by(across) {
                    (before[start], after[start + across - 1]) = (0.0, 0.0);
                }
                add(simd, &mut own[(M - 1) * length..][..length - 1], &before[1..]);
                add(simd, &mut own[1..length], &after[..length - 1]);
            }
            let pixels = &mut lines[..M * length];
            interleave::<M>(own, pixels);
            for (row, pixels) in rows.clone().zip(pixels.chunks_exact(padded)) {
                if let Some(row) = (M * row + line).checked_sub(around)
                    && row < height
                {
                    add(simd, &mut plane[row * width..][..width], &pixels[..width]);
                }
            }
        }
    }
}
