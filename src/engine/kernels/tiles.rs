//! The transforms of [`super::winograd`], of all tiles of a plane at a time.
//!
//! An element of the tiles is a row of values, one for each tile, so that a step of [`super::filtering`]
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
pub(in crate::engine) type Rows<'a, const B: usize> = [[&'a mut [f32]; B]; B];

/// Takes a step with each place of some rows, which are equally long.
///
/// Loops over arrays in the place of `array::from_fn`, here and below: what that calls is not always
/// inlined, and vectors then go by memory.
#[inline(always)]
fn apply<S: Simd, const A: usize, const B: usize>(
    simd: S,
    step: impl Step<A, B>,
    from: [&[f32]; A],
    to: [&mut [f32]; B],
) {
    let length = to[0].len();
    let whole = length / S::F32_LANES;
    let zero = Vector(simd, simd.splat_f32s(0.0));
    // Slices of one length, which need not be held against an index each.
    let (mut heads, mut tails) = ([&[][..]; A], [&[][..]; A]);
    for (row, (head, tail)) in from.into_iter().zip(heads.iter_mut().zip(&mut tails)) {
        let (vectors, rest) = S::as_simd_f32s(&row[..length]);
        (*head, *tail) = (&vectors[..whole], rest);
    }
    let (mut targets, mut rests) = (none::<_, B>(), none::<_, B>());
    for (row, (target, rest)) in to.into_iter().zip(targets.iter_mut().zip(&mut rests)) {
        let (vectors, tail) = S::as_mut_simd_f32s(&mut row[..length]);
        (*target, *rest) = (&mut vectors[..whole], tail);
    }
    for place in 0..whole {
        let mut values = [zero; A];
        for (value, head) in values.iter_mut().zip(&heads) {
            value.1 = head[place];
        }
        let results = step.apply(values);
        for (target, result) in targets.iter_mut().zip(&results) {
            target[place] = result.1;
        }
    }
    if whole * S::F32_LANES < length {
        let mut values = [zero; A];
        for (value, tail) in values.iter_mut().zip(tails) {
            value.1 = simd.partial_load_f32s(tail);
        }
        for (rest, result) in rests.into_iter().zip(step.apply(values)) {
            simd.partial_store_f32s(rest, result.1);
        }
    }
}

/// Places for slices.
#[inline(always)]
fn none<'a, T, const N: usize>() -> [&'a mut [T]; N] {
    array::from_fn(|_| Default::default())
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
pub(in crate::engine) fn transform<'s, const A: usize, const B: usize>(
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
            let mut from = [&[][..]; A];
            for (row, from) in from.iter_mut().enumerate() {
                *from = &source(row, column)[..length];
            }
            apply(simd, step, from, rows_of(half, length));
        }
        for (row, targets) in targets.into_iter().enumerate() {
            let mut from = [&[][..]; A];
            for (column, from) in from.iter_mut().enumerate() {
                *from = &scratch[(column * B + row) * length..][..length];
            }
            apply(simd, step, from, targets);
        }
    }
}

/// The first rows of `length` values.
#[inline(always)]
fn rows_of<const N: usize>(values: &mut [f32], length: usize) -> [&mut [f32]; N] {
    let mut rows = none();
    for (row, values) in rows.iter_mut().zip(values.chunks_exact_mut(length)) {
        *row = values;
    }
    rows
}

/// Takes groups of `M` values apart: a row of first values, one of second values, and so on.
#[inline(always)]
fn deinterleave<const M: usize>(groups: &[f32], rows: &mut [f32]) {
    if M == 4 {
        let (groups, _) = groups.as_chunks::<4>();
        let [a, b, c, d] = rows_of(rows, groups.len());
        deinterleave_4(groups, a, b, c, d);
    } else {
        let (groups, _) = groups.as_chunks::<M>();
        for (place, row) in rows.chunks_exact_mut(groups.len()).enumerate().take(M) {
            for (value, group) in row.iter_mut().zip(groups) {
                *value = group[place];
            }
        }
    }
}

/// Rows that are arguments of their own are known to lie apart, so that the loop is vectorised.
#[inline(always)]
fn deinterleave_4(groups: &[[f32; 4]], a: &mut [f32], b: &mut [f32], c: &mut [f32], d: &mut [f32]) {
    let rows = a.iter_mut().zip(b).zip(c).zip(d);
    for (group, (((a, b), c), d)) in groups.iter().zip(rows) {
        [*a, *b, *c, *d] = *group;
    }
}

/// Puts groups of `M` values together.
#[inline(always)]
fn interleave<const M: usize>(rows: &[f32], groups: &mut [f32]) {
    let (groups, _) = groups.as_chunks_mut::<M>();
    let length = groups.len();
    let mut sources = [&[][..]; M];
    for (source, row) in sources.iter_mut().zip(rows.chunks_exact(length)) {
        *source = row;
    }
    for (index, group) in groups.iter_mut().enumerate() {
        for (value, source) in group.iter_mut().zip(&sources) {
            *value = source[index];
        }
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
pub(in crate::engine) struct Workbench<const M: usize, const E: usize> {
    /// Of a plane.
    size: [usize; 2],
    /// Columns of tiles.
    across: usize,
    /// Tiles.
    length: usize,
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
    pub(in crate::engine) fn new(size: [usize; 2], rows: usize) -> Self {
        let across = size[1].div_ceil(M);
        let length = rows * across;
        Self {
            size,
            across,
            length,
            zeros: vec![0.0; size[1]],
            lines: Buffer::new(E * M * length),
            columns: Buffer::new((M + 2) * length),
            half: Buffer::new(E * E * length),
        }
    }

    /// Transforms what rows of tiles see of some planes, one after the other, into the targets.
    ///
    /// A step from more pixels than a tile has sees those around it too.
    pub(in crate::engine) fn gather<'p, const A: usize>(
        &mut self,
        step: impl Step<A, E>,
        planes: impl Iterator<Item = (&'p [f32], Range<usize>)>,
        targets: &mut Rows<E>,
    ) {
        Arch::new().dispatch(Gather::<_, _, A, M, E> { workbench: self, step, planes, targets });
    }

    /// Transforms products, `source` by row and column, and adds them to the pixels of rows of
    /// tiles of some planes, one after the other; a step to more pixels than a tile has, to those
    /// around it too.
    pub(in crate::engine) fn scatter<'s, 'p, const B: usize>(
        &mut self,
        step: impl Step<E, B>,
        source: impl Fn(usize, usize) -> &'s [f32],
        planes: impl Iterator<Item = (&'p mut [f32], Range<usize>)>,
    ) {
        Arch::new().dispatch(Scatter::<_, _, _, B, M, E> { workbench: self, step, source, planes });
    }
}

/// [`Workbench::gather`], for the vectors that the machine has.
struct Gather<'a, 't, T, Planes, const A: usize, const M: usize, const E: usize> {
    workbench: &'a mut Workbench<M, E>,
    step: T,
    planes: Planes,
    targets: &'a mut Rows<'t, E>,
}

impl<'p, T, Planes, const A: usize, const M: usize, const E: usize> WithSimd
    for Gather<'_, '_, T, Planes, A, M, E>
where
    T: Step<A, E>,
    Planes: Iterator<Item = (&'p [f32], Range<usize>)>,
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { workbench, step, planes, targets } = self;
        let Workbench { size: [height, width], across, length, zeros, lines, columns, .. } =
            workbench;
        let (height, width, across, length) = (*height, *width, *across, *length);
        // Pixels seen on each side of a tile.
        let around = (A - M) / 2;
        let padded = M * across;
        let zeros = &zeros[..width];
        let mut lines: [&mut [f32]; E] = rows_of(lines, M * length);
        let mut first = 0;
        for (plane, rows) in planes {
            for row in rows {
                let mut from = [zeros; A];
                for (line, from) in from.iter_mut().enumerate() {
                    if let Some(row) = (M * row + line).checked_sub(around)
                        && row < height
                    {
                        *from = &plane[row * width..][..width];
                    }
                }
                let mut to = none();
                for (to, line) in to.iter_mut().zip(&mut lines) {
                    let (pixels, beyond) = line[first..first + padded].split_at_mut(width);
                    beyond.fill(0.0);
                    *to = pixels;
                }
                apply(simd, step, from, to);
                first += padded;
            }
        }
        for (line, targets) in lines.into_iter().zip(targets) {
            let (before, own) = columns.split_at_mut(length);
            let (own, after) = own.split_at_mut(M * length);
            let after = &mut after[..length];
            deinterleave::<M>(line, own);
            if around == 1 {
                before[1..].copy_from_slice(&own[(M - 1) * length..][..length - 1]);
                after[..length - 1].copy_from_slice(&own[1..length]);
                // At the ends of a row there are no pixels of another row.
                for start in (0..length).step_by(across) {
                    (before[start], after[start + across - 1]) = (0.0, 0.0);
                }
            }
            let seen = columns[(1 - around) * length..].chunks_exact(length);
            let mut from = [&[][..]; A];
            for (from, column) in from.iter_mut().zip(seen) {
                *from = column;
            }
            let mut to = none();
            for (to, target) in to.iter_mut().zip(targets) {
                *to = &mut target[..length];
            }
            apply(simd, step, from, to);
        }
    }
}

/// [`Workbench::scatter`], for the vectors that the machine has.
struct Scatter<'a, T, Source, Planes, const B: usize, const M: usize, const E: usize> {
    workbench: &'a mut Workbench<M, E>,
    step: T,
    source: Source,
    planes: Planes,
}

impl<'s, 'p, T, Source, Planes, const B: usize, const M: usize, const E: usize> WithSimd
    for Scatter<'_, T, Source, Planes, B, M, E>
where
    T: Step<E, B>,
    Source: Fn(usize, usize) -> &'s [f32],
    Planes: Iterator<Item = (&'p mut [f32], Range<usize>)>,
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { workbench, step, source, planes } = self;
        let Workbench { size: [height, width], across, length, lines, columns, half, .. } =
            workbench;
        let (height, width, across, length) = (*height, *width, *across, *length);
        // Input pixels beyond each side of a tile.
        let around = (B - M) / 2;
        let padded = M * across;
        for (column, half) in half.chunks_exact_mut(B * length).take(E).enumerate() {
            let mut from = [&[][..]; E];
            for (row, from) in from.iter_mut().enumerate() {
                *from = &source(row, column)[..length];
            }
            apply(simd, step, from, rows_of(half, length));
        }
        let lines: [&mut [f32]; B] = rows_of(lines, M * length);
        let mut sums = [&[][..]; B];
        for (line, (pixels, sums)) in lines.into_iter().zip(&mut sums).enumerate() {
            let mut from = [&[][..]; E];
            for (column, from) in from.iter_mut().enumerate() {
                *from = &half[(column * B + line) * length..][..length];
            }
            apply(simd, step, from, rows_of(&mut columns[(1 - around) * length..], length));
            let (before, own) = columns.split_at_mut(length);
            let (own, after) = own.split_at_mut(M * length);
            let after = &mut after[..length];
            if around == 1 {
                // At the ends of a row there are no neighbours.
                for start in (0..length).step_by(across) {
                    (before[start], after[start + across - 1]) = (0.0, 0.0);
                }
                add(simd, &mut own[(M - 1) * length..][..length - 1], &before[1..]);
                add(simd, &mut own[1..length], &after[..length - 1]);
            }
            interleave::<M>(own, pixels);
            *sums = pixels;
        }
        let mut first = 0;
        for (plane, rows) in planes {
            for row in rows {
                for (line, sums) in sums.iter().enumerate() {
                    if let Some(row) = (M * row + line).checked_sub(around)
                        && row < height
                    {
                        let row = &mut plane[row * width..][..width];
                        add(simd, row, &sums[first..first + width]);
                    }
                }
                first += padded;
            }
        }
    }
}
