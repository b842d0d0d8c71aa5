//! `im2col` and its adjoint: the pixels that each result pixel of a convolution sees, as columns of
//! a matrix.
//!
//! The matrix has a row for each input channel and kernel element, and a column for each result
//! pixel of a [`Span`]: some whole rows of result pixels, that may run over several images.

use std::ops::Range;

use rayon::prelude::*;

use super::buffer::Buffer;
use super::cpu;

/// Values of a matrix of columns: few enough to stay in a cache, many enough for a fast product.
const LIMIT: usize = 1 << 20;

/// The sizes of a convolution; pairs are vertical, horizontal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Extents {
    /// Images.
    pub(in crate::engine) batch: usize,
    /// Input channels.
    pub(in crate::engine) inputs: usize,
    /// Result channels.
    pub(in crate::engine) outputs: usize,
    /// Of an input plane.
    pub(in crate::engine) size: [usize; 2],
    /// Of the kernel.
    pub(in crate::engine) kernel: [usize; 2],
    /// Of a result plane.
    pub(in crate::engine) result: [usize; 2],
    /// Input pixels from one result pixel to the next.
    pub(in crate::engine) stride: usize,
    /// Zeros around an input plane.
    pub(in crate::engine) padding: usize,
}

/// Some rows of result pixels, counted through all images.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Span {
    /// The first row.
    pub(in crate::engine) first: usize,
    /// Rows.
    pub(in crate::engine) rows: usize,
    /// Pixels.
    pub(in crate::engine) length: usize,
}

/// The part of a span within an image.
pub(in crate::engine) struct Part {
    pub(in crate::engine) image: usize,
    /// Rows of the result plane.
    pub(in crate::engine) rows: Range<usize>,
    /// Columns of the matrix before this part.
    pub(in crate::engine) start: usize,
}

impl Span {
    /// By image, where a plane has `height` rows of `width`.
    pub(in crate::engine) fn parts(
        self,
        [height, width]: [usize; 2],
    ) -> impl Iterator<Item = Part> + use<> {
        let end = self.first + self.rows;
        (self.first / height..end.div_ceil(height)).map(move |image| {
            let top = image * height;
            let rows = self.first.max(top)..end.min(top + height);
            let start = (rows.start - self.first) * width;
            Part { image, rows: rows.start - top..rows.end - top, start }
        })
    }
}

impl Extents {
    /// Rows of the matrix.
    pub(in crate::engine) fn depth(&self) -> usize {
        self.inputs * self.kernel[0] * self.kernel[1]
    }

    /// Pixels of a result plane.
    pub(in crate::engine) fn plane(&self) -> usize {
        self.result[0] * self.result[1]
    }

    /// Whether the matrix is the input itself.
    pub(in crate::engine) fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == 1 && self.padding == 0
    }

    /// Whether rows of the result line up with rows of the input, so that a kernel element sees a
    /// shifted plane.
    fn is_shift(&self) -> bool {
        self.stride == 1 && self.result[1] == self.size[1]
    }

    /// Splits the result so that each matrix keeps to the limit.
    pub(in crate::engine) fn spans(&self) -> impl Iterator<Item = Span> + use<> {
        let (total, width) = (self.batch * self.result[0], self.result[1]);
        let most = (LIMIT / (self.depth() * width)).max(1);
        // Of equal size, or the last product might be too small to be fast.
        let most = total.div_ceil(total.div_ceil(most));
        (0..total).step_by(most).map(move |first| {
            let rows = most.min(total - first);
            Span { first, rows, length: rows * width }
        })
    }

    /// Visits what the kernel element `at` sees from the given rows of a result plane, as runs of
    /// pixels: the first pixel within these rows, the first within the input plane, the count.
    /// Along a run the input advances by the stride.
    ///
    /// Where [`Self::is_shift`], one run covers all rows and takes pixels of [`Self::wrapped`]
    /// columns from neighbouring rows; these are to be cleared.
    fn runs(
        &self,
        at: [usize; 2],
        rows: &Range<usize>,
        mut visit: impl FnMut(usize, usize, usize),
    ) {
        let ([height, width], [_, result_width]) = (self.size, self.result);
        // The result coordinates whose input coordinate lies within the plane.
        let within = |at: usize, size: usize, limits: Range<usize>| {
            let first = self.padding.saturating_sub(at).div_ceil(self.stride);
            let end = (size + self.padding).saturating_sub(at).div_ceil(self.stride);
            first.max(limits.start)..end.min(limits.end)
        };
        let inner = within(at[0], height, rows.clone());
        let across = within(at[1], width, 0..result_width);
        if inner.is_empty() || across.is_empty() {
            return;
        }
        let row_of = |row: usize| row * self.stride + at[0] - self.padding;
        let column = across.start * self.stride + at[1] - self.padding;
        if self.is_shift() {
            let first = (inner.start - rows.start) * width + across.start;
            let count = (inner.len() - 1) * width + across.len();
            visit(first, row_of(inner.start) * width + column, count);
        } else {
            for row in inner {
                let first = (row - rows.start) * result_width + across.start;
                visit(first, row_of(row) * width + column, across.len());
            }
        }
    }

    /// The columns that a shifted plane takes from neighbouring rows.
    fn wrapped(&self, column: usize) -> Range<usize> {
        let width = self.result[1];
        if !self.is_shift() {
            0..0
        } else if column < self.padding {
            0..(self.padding - column).min(width)
        } else {
            width.saturating_sub(column - self.padding)..width
        }
    }

    /// Clears the columns of [`Self::wrapped`] in a row of the matrix.
    fn clear_wrapped(&self, row: &mut [f32], column: usize) {
        let wrapped = self.wrapped(column);
        if !wrapped.is_empty() {
            for pixels in row.chunks_exact_mut(self.result[1]) {
                pixels[wrapped.clone()].fill(0.0);
            }
        }
    }

    /// The kernel element of a row of the matrix.
    fn element(&self, row: usize) -> [usize; 2] {
        let [_, columns] = self.kernel;
        let element = row % (self.kernel[0] * columns);
        [element / columns, element % columns]
    }

    /// The matrix of a span.
    pub(in crate::engine) fn columns(&self, x: &[f32], span: Span) -> Buffer {
        let plane = self.size[0] * self.size[1];
        let elements = self.kernel[0] * self.kernel[1];
        let mut matrix = Buffer::new(self.depth() * span.length);
        matrix.fill(0.0);
        let rows_per_task = cpu::rows_per_task(span.length);
        matrix.par_chunks_mut(span.length * rows_per_task).enumerate().for_each(|(task, rows)| {
            for (index, row) in rows.chunks_exact_mut(span.length).enumerate() {
                let index = task * rows_per_task + index;
                let at = self.element(index);
                for part in span.parts(self.result) {
                    let x = &x[(part.image * self.inputs + index / elements) * plane..][..plane];
                    let row = &mut row[part.start..];
                    self.runs(at, &part.rows, |first, source, count| {
                        if self.stride == 1 {
                            row[first..first + count].copy_from_slice(&x[source..source + count]);
                        } else {
                            let x = x[source..].iter().step_by(self.stride);
                            row[first..first + count].iter_mut().zip(x).for_each(|(y, x)| *y = *x);
                        }
                    });
                }
                self.clear_wrapped(row, at[1]);
            }
        });
        matrix
    }

    /// Adds a matrix's values to the input pixels that they belong to.
    pub(in crate::engine) fn add_columns(&self, mut matrix: Buffer, dx: &mut [f32], span: Span) {
        let plane = self.size[0] * self.size[1];
        let elements = self.kernel[0] * self.kernel[1];
        if self.is_shift() {
            matrix
                .par_chunks_mut(span.length)
                .with_min_len(cpu::rows_per_task(span.length))
                .enumerate()
                .for_each(|(index, row)| self.clear_wrapped(row, self.element(index)[1]));
        }
        for part in span.parts(self.result) {
            let image = self.inputs * plane;
            dx[part.image * image..][..image]
                .par_chunks_mut(plane)
                .with_min_len(cpu::rows_per_task(plane * elements))
                .enumerate()
                .for_each(|(input, dx)| {
                    cpu::vectorised(
                        #[inline(always)]
                        || {
                            for index in input * elements..(input + 1) * elements {
                                let row =
                                    &matrix[index * span.length..][..span.length][part.start..];
                                self.runs(
                                    self.element(index),
                                    &part.rows,
                                    |first, target, count| {
                                        let row = &row[first..first + count];
                                        if self.stride == 1 {
                                            let dx = &mut dx[target..target + count];
                                            dx.iter_mut().zip(row).for_each(|(dx, g)| *dx += g);
                                        } else {
                                            let dx = dx[target..].iter_mut().step_by(self.stride);
                                            dx.zip(row).for_each(|(dx, g)| *dx += g);
                                        }
                                    },
                                );
                            }
                        },
                    );
                });
        }
    }

    /// Adds the product of a span, `[outputs, pixels]` of some outputs, to the planes of the result.
    pub(in crate::engine) fn scatter(
        &self,
        product: &[f32],
        outputs: &Range<usize>,
        y: &mut [f32],
        span: Span,
    ) {
        let (plane, width) = (self.plane(), self.result[1]);
        for part in span.parts(self.result) {
            let first = (part.image * self.outputs + outputs.start) * plane;
            y[first..][..outputs.len() * plane]
                .par_chunks_mut(plane)
                .with_min_len(cpu::rows_per_task(plane))
                .enumerate()
                .for_each(|(output, y)| {
                    let y = &mut y[part.rows.start * width..part.rows.end * width];
                    let values = &product[output * span.length + part.start..][..y.len()];
                    cpu::add(y, values);
                });
        }
    }

    /// The result pixels of a span as `[outputs, pixels]`, the reverse of [`Self::scatter`].
    pub(in crate::engine) fn gather(&self, y: &[f32], span: Span) -> Buffer {
        let (plane, width) = (self.plane(), self.result[1]);
        let mut matrix = Buffer::new(self.outputs * span.length);
        matrix
            .par_chunks_mut(span.length)
            .with_min_len(cpu::rows_per_task(span.length))
            .enumerate()
            .for_each(|(output, row)| {
                for part in span.parts(self.result) {
                    let y = &y[(part.image * self.outputs + output) * plane..][..plane];
                    let y = &y[part.rows.start * width..part.rows.end * width];
                    row[part.start..part.start + y.len()].copy_from_slice(y);
                }
            });
        matrix
    }
}
