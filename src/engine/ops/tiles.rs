//! The transforms of [`super::winograd`], of all tiles of a plane at a time.
//!
//! An element of the tiles is a row of values, one a tile, so that every step is a loop over whole
//! vectors with one target: what the compiler vectorises.

#![allow(
    clippy::inline_always,
    reason = "a call within a loop would keep the loop from being vectorised"
)]

use std::{array, ops::Range};

use super::buffer::Buffer;

/// `target = function(a, b)`, value by value.
#[inline(always)]
fn zip2(target: &mut [f32], a: &[f32], b: &[f32], function: impl Fn(f32, f32) -> f32) {
    for ((target, &a), &b) in target.iter_mut().zip(a).zip(b) {
        *target = function(a, b);
    }
}

/// `target = function(a, b, c)`, value by value.
#[inline(always)]
fn zip3(target: &mut [f32], [a, b, c]: [&[f32]; 3], function: impl Fn([f32; 3]) -> f32) {
    for (((target, &a), &b), &c) in target.iter_mut().zip(a).zip(b).zip(c) {
        *target = function([a, b, c]);
    }
}

/// `target = function(a, b, c, d)`, value by value.
#[inline(always)]
fn zip4(target: &mut [f32], [a, b, c, d]: [&[f32]; 4], function: impl Fn([f32; 4]) -> f32) {
    for ((((target, &a), &b), &c), &d) in target.iter_mut().zip(a).zip(b).zip(c).zip(d) {
        *target = function([a, b, c, d]);
    }
}

/// A step of a transform, along columns or rows.
pub(super) trait Transform<const A: usize, const B: usize> {
    /// Writes all of `to`; all slices are equally long.
    fn apply(&self, from: [&[f32]; A], to: [&mut [f32]; B]);
}

/// Three elements of a kernel in a row.
pub(super) struct Kernel;
/// From the gradients of [`Kernel`]'s results to those of the elements.
pub(super) struct KernelAdjoint;
/// Four elements of a product to two result pixels.
pub(super) struct Output;
/// From the gradients of [`Output`]'s pixels to those of the elements.
pub(super) struct OutputAdjoint;

impl Transform<3, 4> for Kernel {
    #[inline(always)]
    fn apply(&self, [a, b, c]: [&[f32]; 3], [p, q, r, s]: [&mut [f32]; 4]) {
        p.copy_from_slice(a);
        zip3(q, [a, b, c], |[a, b, c]| 0.5 * (a + c + b));
        zip3(r, [a, b, c], |[a, b, c]| 0.5 * (a + c - b));
        s.copy_from_slice(c);
    }
}

impl Transform<4, 3> for KernelAdjoint {
    #[inline(always)]
    fn apply(&self, [a, b, c, d]: [&[f32]; 4], [p, q, r]: [&mut [f32]; 3]) {
        zip3(p, [a, b, c], |[a, b, c]| 0.5 * (b + c) + a);
        zip2(q, b, c, |b, c| 0.5 * (b - c));
        zip3(r, [b, c, d], |[b, c, d]| 0.5 * (b + c) + d);
    }
}

impl Transform<4, 2> for Output {
    #[inline(always)]
    fn apply(&self, [a, b, c, d]: [&[f32]; 4], [p, q]: [&mut [f32]; 2]) {
        zip3(p, [a, b, c], |[a, b, c]| a + b + c);
        zip3(q, [b, c, d], |[b, c, d]| b - c - d);
    }
}

impl Transform<2, 4> for OutputAdjoint {
    #[inline(always)]
    fn apply(&self, [a, b]: [&[f32]; 2], [p, q, r, s]: [&mut [f32]; 4]) {
        p.copy_from_slice(a);
        zip2(q, a, b, |a, b| a + b);
        zip2(r, a, b, |a, b| a - b);
        zip2(s, b, b, |b, _| -b);
    }
}

/// Transforms the columns of a tile, then its rows; `source` tells an element's values by row and
/// column, and the targets are in the order of rows.
///
/// The scratch space must hold `A · B` elements of `length` values.
#[inline(always)]
pub(super) fn transform<'s, 't, const A: usize, const B: usize>(
    step: &impl Transform<A, B>,
    source: impl Fn(usize, usize) -> &'s [f32],
    length: usize,
    scratch: &mut [f32],
    mut targets: impl Iterator<Item = &'t mut [f32]>,
) {
    for (column, half) in scratch.chunks_exact_mut(B * length).take(A).enumerate() {
        let from = array::from_fn(|row| &source(row, column)[..length]);
        let mut to = half.chunks_exact_mut(length);
        step.apply(from, array::from_fn(|_| to.next().unwrap_or_default()));
    }
    for row in 0..B {
        let from = array::from_fn(|column| &scratch[(column * B + row) * length..][..length]);
        let to = array::from_fn(|_| match targets.next() {
            Some(target) => &mut target[..length],
            None => Default::default(),
        });
        step.apply(from, to);
    }
}

/// Copies a row of tiles, whose length is most often one of few.
#[inline(always)]
fn copy_row(target: &mut [f32], source: &[f32]) {
    match source.len() {
        2 => copy_fixed::<2>(target, source),
        4 => copy_fixed::<4>(target, source),
        8 => copy_fixed::<8>(target, source),
        16 => copy_fixed::<16>(target, source),
        length => target[..length].copy_from_slice(source),
    }
}

#[inline(always)]
fn copy_fixed<const N: usize>(target: &mut [f32], source: &[f32]) {
    target[..N].copy_from_slice(&source[..N]);
}

/// [`zip2`] of a row of tiles.
#[inline(always)]
fn zip_row(target: &mut [f32], a: &[f32], b: &[f32], function: impl Fn(f32, f32) -> f32 + Copy) {
    match a.len() {
        4 => zip_fixed::<4>(target, a, b, function),
        8 => zip_fixed::<8>(target, a, b, function),
        16 => zip_fixed::<16>(target, a, b, function),
        _ => zip2(target, a, b, function),
    }
}

#[inline(always)]
fn zip_fixed<const N: usize>(
    target: &mut [f32],
    a: &[f32],
    b: &[f32],
    function: impl Fn(f32, f32) -> f32,
) {
    let mut y = [0.0; N];
    zip2(&mut y, &a[..N], &b[..N], function);
    target[..N].copy_from_slice(&y);
}

/// Adds a row of tiles.
#[inline(always)]
fn add_row(target: &mut [f32], source: &[f32]) {
    match source.len() {
        4 => add_fixed::<4>(target, source),
        8 => add_fixed::<8>(target, source),
        16 => add_fixed::<16>(target, source),
        32 => add_fixed::<32>(target, source),
        _ => target.iter_mut().zip(source).for_each(|(sum, value)| *sum += value),
    }
}

#[inline(always)]
fn add_fixed<const N: usize>(target: &mut [f32], source: &[f32]) {
    let mut sum = [0.0; N];
    sum.copy_from_slice(&target[..N]);
    for (sum, value) in sum.iter_mut().zip(&source[..N]) {
        *sum += value;
    }
    target[..N].copy_from_slice(&sum);
}

/// Takes pairs apart.
#[inline(always)]
fn deinterleave(pairs: &[[f32; 2]], left: &mut [f32], right: &mut [f32]) {
    for ((pair, left), right) in pairs.iter().zip(left).zip(right) {
        *left = pair[0];
        *right = pair[1];
    }
}

/// Puts pairs together.
#[inline(always)]
fn interleave(left: &[f32], right: &[f32], pairs: &mut [[f32; 2]]) {
    for ((pair, left), right) in pairs.iter_mut().zip(left).zip(right) {
        *pair = [*left, *right];
    }
}

/// Adds pairs to a row of pixels, the last of which may stand alone.
#[inline(always)]
fn add_pairs(pixels: &mut [f32], left: &[f32], right: &[f32], sign: impl Fn(f32) -> f32) {
    let (pairs, last) = pixels.as_chunks_mut::<2>();
    for ((pair, left), right) in pairs.iter_mut().zip(left).zip(right) {
        *pair = [pair[0] + sign(*left), pair[1] + sign(*right)];
    }
    if let (Some(last), Some(left)) = (last.first_mut(), left.last()) {
        *last += sign(*left);
    }
}

/// The gradients of the left, or upper, pixels of tiles from those of what [`Workbench::inputs`]
/// makes of them: `before - right`, `left + right`, `right - left` and `left - next`. The tile before
/// lies `stride` values before.
#[inline(always)]
fn left_adjoint(target: &mut [f32], [_, q, r, s]: [&[f32]; 4], stride: usize) {
    zip3(&mut target[..stride], [q, r, s], |[q, r, s]| q - r + s);
    let sources = [&q[stride..], &r[stride..], &s[stride..], s];
    zip4(&mut target[stride..], sources, |[q, r, s, before]| q - r + s - before);
}

/// The same of the right, or lower, pixels; the next tile lies `stride` values on.
#[inline(always)]
fn right_adjoint(target: &mut [f32], [p, q, r, _]: [&[f32]; 4], stride: usize) {
    let last = target.len() - stride;
    zip4(&mut target[..last], [p, q, r, &p[stride..]], |[p, q, r, next]| q + r - p + next);
    zip3(&mut target[last..], [&p[last..], &q[last..], &r[last..]], |[p, q, r]| q + r - p);
}

/// The memory in which rows of a plane are taken apart, transformed and put together again.
#[derive(Debug)]
pub(super) struct Workbench {
    /// Of a plane.
    size: [usize; 2],
    /// Columns of tiles.
    across: usize,
    /// The left and the right pixels of pairs, row by row.
    sides: [Buffer; 2],
    /// Elements half transformed.
    half: Buffer,
    /// Pixels by the parity of their row and column.
    quarters: Buffer,
}

/// Elements of a tile of 4 × 4.
pub(super) const ELEMENTS: usize = 16;

impl Workbench {
    /// Room for some rows of tiles.
    pub(super) fn new(size: [usize; 2], rows: usize) -> Self {
        let across = size[1].div_ceil(2);
        Self {
            size,
            across,
            sides: [(); 2].map(|()| Buffer::new((2 * rows + 2) * across)),
            half: Buffer::new(2 * 4 * rows * across),
            quarters: Buffer::new(4 * rows * across),
        }
    }

    /// The rows of a plane, of `count` from `first` on that are counted with the row of zeros above,
    /// by their place among these.
    fn rows_within(&self, first: usize, count: usize) -> Range<usize> {
        let within = first.max(1)..(first + count).min(self.size[0] + 1);
        within.start - first..within.end.max(within.start) - first
    }

    /// Takes rows of a plane apart into [`Self::sides`]; rows beyond it are zeros.
    #[inline(always)]
    fn take_apart(&mut self, plane: &[f32], first: usize, count: usize) {
        let (width, across) = (self.size[1], self.across);
        let within = self.rows_within(first, count);
        let [left, right] = &mut self.sides;
        for side in [&mut *left, &mut *right] {
            side[..within.start * across].fill(0.0);
            side[within.end * across..count * across].fill(0.0);
        }
        let start = (first + within.start - 1) * width;
        let pixels = &plane[start..start + within.len() * width];
        let (left, right) =
            (&mut left[within.start * across..], &mut right[within.start * across..]);
        if width % 2 == 0 {
            deinterleave(pixels.as_chunks().0, left, right);
        } else {
            let rows = left.chunks_exact_mut(across).zip(right.chunks_exact_mut(across));
            for (pixels, (left, right)) in pixels.chunks_exact(width).zip(rows) {
                let (pairs, last) = pixels.as_chunks();
                deinterleave(pairs, left, right);
                (left[across - 1], right[across - 1]) = (last[0], 0.0);
            }
        }
    }

    /// Transforms what `rows` of tiles see of a plane into the 16 `targets`, from `at` on.
    #[inline(always)]
    pub(super) fn inputs(
        &mut self,
        plane: &[f32],
        rows: &Range<usize>,
        targets: &mut [&mut [f32]; ELEMENTS],
        at: usize,
    ) {
        let (across, length) = (self.across, rows.len() * self.across);
        self.take_apart(plane, 2 * rows.start, 2 * rows.len() + 2);
        let (half, _) = self.half.split_at_mut(2 * 4 * length);
        for (pixels, half) in self.sides.iter().zip(half.chunks_exact_mut(4 * length)) {
            for row in 0..rows.len() {
                let [a, b, c, d] =
                    array::from_fn(|line| &pixels[(2 * row + line) * across..][..across]);
                let mut to = half.chunks_exact_mut(length).map(|to| &mut to[row * across..]);
                let [p, q, r, s] = array::from_fn(|_| to.next().unwrap_or_default());
                zip_row(p, a, c, |a, c| a - c);
                zip_row(q, b, c, |b, c| b + c);
                zip_row(r, b, c, |b, c| c - b);
                zip_row(s, b, d, |b, d| b - d);
            }
        }
        // A tile sees the right pixel of the tile before, its own two, and the left one of the next.
        let (left, right) = half.split_at(4 * length);
        let sides = left.chunks_exact(length).zip(right.chunks_exact(length));
        for ((left, right), targets) in sides.zip(targets.chunks_exact_mut(4)) {
            let mut to = targets.iter_mut().map(|target| &mut target[at..at + length]);
            let [p, q, r, s] = array::from_fn(|_| to.next().unwrap_or_default());
            zip2(&mut p[1..], right, &right[1..], |before, right| before - right);
            zip2(q, left, right, |left, right| left + right);
            zip2(r, left, right, |left, right| right - left);
            zip2(&mut s[..length - 1], left, &left[1..], |left, next| left - next);
            // At the ends of a row there are zeros in the place of another row's pixels.
            for row in (0..length).step_by(across) {
                p[row] = -right[row];
                s[row + across - 1] = left[row + across - 1];
            }
        }
    }

    /// Adds to a plane what the gradients of its transformed inputs, `source`, tell of it.
    #[inline(always)]
    pub(super) fn add_inputs<'s>(
        &mut self,
        source: impl Fn(usize, usize) -> &'s [f32],
        rows: &Range<usize>,
        plane: &mut [f32],
    ) {
        let (across, length) = (self.across, rows.len() * self.across);
        let (half, _) = self.half.split_at_mut(2 * 4 * length);
        let (left, right) = half.split_at_mut(4 * length);
        let sides = left.chunks_exact_mut(length).zip(right.chunks_exact_mut(length));
        for (row, (left, right)) in sides.enumerate() {
            let elements = array::from_fn(|column| &source(row, column)[..length]);
            left_adjoint(left, elements, 1);
            right_adjoint(right, elements, 1);
            // At the ends of a row there are no neighbours.
            let [p, q, r, s] = elements;
            for start in (0..length).step_by(across) {
                let end = start + across - 1;
                left[start] = q[start] - r[start] + s[start];
                right[end] = q[end] + r[end] - p[end];
            }
        }
        for (side, half) in half.chunks_exact(4 * length).enumerate() {
            let elements = array::from_fn(|row| &half[row * length..][..length]);
            let (upper, lower) = self.quarters.split_at_mut(2 * length);
            left_adjoint(&mut upper[side * length..][..length], elements, across);
            right_adjoint(&mut lower[side * length..][..length], elements, across);
        }
        let ([height, width], start, end) = (self.size, 2 * rows.start, 2 * rows.end);
        // What the rows of tiles above and below share with these.
        let (left, right) = half.split_at(4 * length);
        if start > 0 {
            let pixels = &mut plane[(start - 1) * width..][..width];
            add_pairs(pixels, &left[..across], &right[..across], |shared| shared);
        }
        if end < height {
            let pixels = &mut plane[end * width..][..width];
            let last = 4 * length - across;
            add_pairs(pixels, &left[last..], &right[last..], |shared| -shared);
        }
        self.add_quarters(rows, plane);
    }

    /// Adds the pixels in [`Self::quarters`] to a plane.
    #[inline(always)]
    fn add_quarters(&mut self, rows: &Range<usize>, plane: &mut [f32]) {
        let ([height, width], across) = (self.size, self.across);
        let length = rows.len() * across;
        let pairs = &mut self.half[..2 * length];
        for (line, sides) in self.quarters.chunks_exact(2 * length).take(2).enumerate() {
            let (left, right) = sides.split_at(length);
            interleave(left, right, pairs.as_chunks_mut().0);
            let lines = (2 * rows.start + line..height).step_by(2);
            for (row, pixels) in lines.zip(pairs.chunks_exact(2 * across)) {
                add_row(&mut plane[row * width..], &pixels[..width]);
            }
        }
    }

    /// Transforms the gradients of the pixels of `rows` of tiles into the 16 `targets`, from `at` on.
    #[inline(always)]
    pub(super) fn gradients(
        &mut self,
        plane: &[f32],
        rows: &Range<usize>,
        targets: &mut [&mut [f32]; ELEMENTS],
        at: usize,
    ) {
        let (across, length) = (self.across, rows.len() * self.across);
        self.take_apart(plane, 2 * rows.start + 1, 2 * rows.len());
        for (side, pixels) in self.sides.iter().enumerate() {
            for (row, pixels) in pixels.chunks_exact(across).take(2 * rows.len()).enumerate() {
                let start = (row % 2 * 2 + side) * length + row / 2 * across;
                copy_row(&mut self.quarters[start..], pixels);
            }
        }
        let quarters = &self.quarters;
        transform(
            &OutputAdjoint,
            |row, column| &quarters[(row * 2 + column) * length..],
            length,
            &mut self.half,
            targets.iter_mut().map(|target| &mut target[at..]),
        );
    }

    /// Transforms products, `source`, and adds them to the pixels of `rows` of tiles.
    #[inline(always)]
    pub(super) fn add_outputs<'s>(
        &mut self,
        source: impl Fn(usize, usize) -> &'s [f32],
        rows: &Range<usize>,
        plane: &mut [f32],
    ) {
        let length = rows.len() * self.across;
        let targets = self.quarters.chunks_exact_mut(length);
        transform(&Output, source, length, &mut self.half, targets);
        self.add_quarters(rows, plane);
    }
}
