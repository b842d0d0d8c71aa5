//! Products of matrices, by the `gemm` crate.
//!
//! Sums run in an order that follows from the sizes alone: the same bytes come from one thread and
//! from many.

#![allow(
    unsafe_code,
    reason = "`gemm` takes pointers; each matrix is held against its slice before they are made"
)]

use std::mem::MaybeUninit;

use candle_core::{Result, bail};
use gemm::Parallelism;
use rayon::prelude::*;

use super::buffer::Buffer;

/// A batch of matrices within some values.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Matrices<'a> {
    values: &'a [f32],
    /// From matrix to matrix, row to row and column to column.
    strides: [usize; 3],
}

/// The rows and columns of a product, and the length of the sums that it is made of.
pub(in crate::engine) type Sizes = (usize, usize, usize);

impl<'a> Matrices<'a> {
    /// The first matrix starts with the values; strides go from matrix to matrix, row to row and
    /// column to column.
    pub(in crate::engine) fn new(values: &'a [f32], strides: [usize; 3]) -> Self {
        Self { values, strides }
    }

    /// A matrix's place.
    fn at(&self, index: usize) -> StridedPointer {
        let [matrix, row, column] = self.strides;
        (self.values[index * matrix..].as_ptr(), [row.cast_signed(), column.cast_signed()])
    }

    /// Fails where `count` matrices of these sizes reach beyond the values.
    fn check(&self, count: usize, rows: usize, columns: usize) -> Result<()> {
        let extents = [count, rows, columns];
        let last = extents.iter().zip(self.strides).try_fold(0_usize, |last, (&extent, stride)| {
            last.checked_add(extent.saturating_sub(1).checked_mul(stride)?)
        });
        if last.is_none_or(|last| last >= self.values.len()) {
            bail!("matrices {extents:?} of strides {:?} exceed their values", self.strides);
        }
        Ok(())
    }
}

/// The products of `count` pairs of matrices, `[m, k] · [k, n]`, as `[count, m, n]`.
pub(in crate::engine) fn multiply(
    count: usize,
    sizes: Sizes,
    left: Matrices,
    right: Matrices,
) -> Result<Vec<f32>> {
    let (m, n, k) = sizes;
    let length = count * m * n;
    if length * k == 0 {
        return Ok(vec![0.0; length]);
    }
    let mut products = Vec::with_capacity(length);
    multiply_into(&mut products.spare_capacity_mut()[..length], sizes, left, right, false)?;
    // SAFETY: the products have been written throughout.
    unsafe { products.set_len(length) };
    Ok(products)
}

/// The same, into memory that is used again.
pub(in crate::engine) fn multiply_for_a_moment(
    count: usize,
    sizes: Sizes,
    left: Matrices,
    right: Matrices,
) -> Result<Buffer> {
    let (m, n, k) = sizes;
    let mut products = Buffer::new(count * m * n);
    if count * m * n * k == 0 {
        products.fill(0.0);
    } else {
        multiply_into(as_missing(&mut products), sizes, left, right, false)?;
    }
    Ok(products)
}

/// Adds the products of `count` pairs of matrices, `[m, k] · [k, n]`, to `sums`, `[count, m, n]`.
pub(in crate::engine) fn add_products(
    sums: &mut [f32],
    sizes: Sizes,
    left: Matrices,
    right: Matrices,
) -> Result<()> {
    if sums.is_empty() || sizes.2 == 0 {
        return Ok(());
    }
    multiply_into(as_missing(sums), sizes, left, right, true)
}

/// Writes the product of a pair of matrices to `target`, `[m, n]`, on this thread alone.
pub(in crate::engine) fn write_alone(
    target: &mut [f32],
    sizes: Sizes,
    left: Matrices,
    right: Matrices,
) -> Result<()> {
    Columns { length: sizes.1, rows: target, first: 0 }.multiply(sizes, left, right)
}

/// Adds it to what is there.
pub(in crate::engine) fn add_alone(
    sums: &mut [f32],
    sizes: Sizes,
    left: Matrices,
    right: Matrices,
) -> Result<()> {
    Columns { length: sizes.1, rows: sums, first: 0 }.add_alone(sizes, left, right)
}

/// Adds the products to sums that are held for a moment, which the first call makes.
pub(in crate::engine) fn add_for_a_moment(
    sums: &mut Option<Buffer>,
    count: usize,
    sizes: Sizes,
    left: Matrices,
    right: Matrices,
) -> Result<()> {
    if let Some(sums) = sums {
        return add_products(sums, sizes, left, right);
    }
    *sums = Some(multiply_for_a_moment(count, sizes, left, right)?);
    Ok(())
}

/// Some columns of rows of `length` values, from the `first` on.
#[derive(Debug)]
pub(in crate::engine) struct Columns<'a> {
    pub(in crate::engine) rows: &'a mut [f32],
    pub(in crate::engine) length: usize,
    pub(in crate::engine) first: usize,
}

impl Columns<'_> {
    /// Writes the product of a pair of matrices, `[m, k] · [k, n]`, to `n` columns of `m` rows, on
    /// this thread alone.
    pub(in crate::engine) fn multiply(
        self,
        sizes: Sizes,
        left: Matrices,
        right: Matrices,
    ) -> Result<()> {
        self.write(sizes, left, right, (false, Parallelism::None))
    }

    /// Adds the product to what is there, on this thread alone.
    pub(in crate::engine) fn add_alone(
        self,
        sizes: Sizes,
        left: Matrices,
        right: Matrices,
    ) -> Result<()> {
        self.write(sizes, left, right, (true, Parallelism::None))
    }

    /// Adds the product to what is there.
    pub(in crate::engine) fn add(
        self,
        sizes: Sizes,
        left: Matrices,
        right: Matrices,
    ) -> Result<()> {
        let parallelism = Parallelism::Rayon(rayon::current_num_threads());
        self.write(sizes, left, right, (true, parallelism))
    }

    fn write(
        self,
        sizes: Sizes,
        left: Matrices,
        right: Matrices,
        (adding, parallelism): (bool, Parallelism),
    ) -> Result<()> {
        let (m, n, k) = sizes;
        let Self { rows, length, first } = self;
        let fits =
            rows.len() == m * length && first.checked_add(n).is_some_and(|end| end <= length);
        if !fits || m * n * k == 0 {
            bail!("{n} columns from {first} on do not lie in {m} rows of {length}");
        }
        left.check(1, m, k)?;
        right.check(1, k, n)?;
        // SAFETY: the last row has `length` values, of which n lie from the first column on; both
        // sides have been checked.
        unsafe {
            let target = rows.as_mut_ptr().add(first);
            call(target, length, sizes, left.at(0), right.at(0), adding, parallelism);
        }
        Ok(())
    }
}

fn as_missing(values: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    // SAFETY: a value is as good as one that may be missing, and `multiply_into` takes none away.
    unsafe { &mut *(std::ptr::from_mut(values) as *mut [MaybeUninit<f32>]) }
}

/// Writes every value of `target`; reads it only where `adding`.
fn multiply_into(
    target: &mut [MaybeUninit<f32>],
    (m, n, k): Sizes,
    left: Matrices,
    right: Matrices,
    adding: bool,
) -> Result<()> {
    let count = target.len().checked_div(m * n).unwrap_or(0);
    if count * m * n != target.len() {
        bail!("{} values do not hold products of {m} by {n}", target.len());
    }
    left.check(count, m, k)?;
    right.check(count, k, n)?;
    let product = |index: usize, target: &mut [MaybeUninit<f32>], parallelism| {
        let target = target.as_mut_ptr().cast();
        let (left, right) = (left.at(index), right.at(index));
        // SAFETY: the target is of m times n values, and both sides lie within their values.
        unsafe { call(target, n, (m, n, k), left, right, adding, parallelism) };
    };
    let threads = rayon::current_num_threads();
    if count >= threads {
        let matrices = target.par_chunks_mut(m * n).enumerate();
        matrices.for_each(|(index, target)| product(index, target, Parallelism::None));
    } else {
        for (index, target) in target.chunks_exact_mut(m * n).enumerate() {
            product(index, target, Parallelism::Rayon(threads));
        }
    }
    Ok(())
}

/// Where a matrix starts, and its strides from row to row and from column to column.
type StridedPointer = (*const f32, [isize; 2]);

/// Writes a product to rows of `length` values.
///
/// # Safety
/// All of both matrices must be readable, and `n` values of each of the `m` rows writable, and also
/// readable where `adding`.
unsafe fn call(
    target: *mut f32,
    length: usize,
    (m, n, k): Sizes,
    (left, [left_row, left_column]): StridedPointer,
    (right, [right_row, right_column]): StridedPointer,
    adding: bool,
    parallelism: Parallelism,
) {
    // SAFETY: the caller's.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            target,
            1,
            length.cast_signed(),
            adding,
            left,
            left_column,
            left_row,
            right,
            right_column,
            right_row,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small whole numbers, whose sums are exact in any order.
    fn numbers(length: usize) -> Vec<f32> {
        (0..length).map(|index| (index * 7 % 11) as f32 - 5.0).collect()
    }

    fn naive(count: usize, (m, n, k): Sizes, left: Matrices, right: Matrices) -> Vec<f32> {
        let at = |side: &Matrices, place: [usize; 3]| {
            side.values
                [place.iter().zip(side.strides).map(|(at, stride)| at * stride).sum::<usize>()]
        };
        let mut products = Vec::new();
        for matrix in 0..count {
            for row in 0..m {
                for column in 0..n {
                    let terms = (0..k)
                        .map(|i| at(&left, [matrix, row, i]) * at(&right, [matrix, i, column]));
                    products.push(terms.sum());
                }
            }
        }
        products
    }

    #[test]
    fn products_of_any_layout_are_the_naive_ones() {
        let values = numbers(5_000);
        for (count, (m, n, k)) in
            [(1, (1, 1, 1)), (1, (7, 5, 3)), (3, (17, 33, 9)), (16, (5, 12, 19)), (2, (40, 3, 50))]
        {
            for (left, right) in [([m * k, k, 1], [k * n, n, 1]), ([m * k, 1, m], [k * n, 1, k])] {
                let left = Matrices::new(&values[3..], left);
                let right = Matrices::new(&values[11..], right);
                let expected = naive(count, (m, n, k), left, right);
                assert_eq!(multiply(count, (m, n, k), left, right).unwrap(), expected);
                let moment = multiply_for_a_moment(count, (m, n, k), left, right).unwrap();
                assert_eq!(moment[..], expected);
                let mut sums = vec![2.0; expected.len()];
                add_products(&mut sums, (m, n, k), left, right).unwrap();
                let expected: Vec<f32> = expected.iter().map(|product| product + 2.0).collect();
                assert_eq!(sums, expected);
            }
        }
    }

    #[test]
    fn columns_are_written_and_those_beside_them_left() {
        let values = numbers(200);
        let (left, right) = (Matrices::new(&values, [0, 5, 1]), Matrices::new(&values, [0, 1, 7]));
        let sizes = (3, 4, 5);
        let mut rows = vec![1.0; 3 * 9];
        let columns = Columns { rows: &mut rows, length: 9, first: 2 };
        columns.multiply(sizes, left, right).unwrap();
        let expected = naive(1, sizes, left, right);
        for (row, expected) in rows.chunks_exact(9).zip(expected.chunks_exact(4)) {
            assert_eq!([&row[..2], &row[6..]].concat(), [1.0; 5]);
            assert_eq!(row[2..6], *expected);
        }
        Columns { rows: &mut rows, length: 9, first: 0 }.add(sizes, left, right).unwrap();
        for (row, expected) in rows.chunks_exact(9).zip(expected.chunks_exact(4)) {
            assert_eq!(row[..2], [1.0 + expected[0], 1.0 + expected[1]]);
            assert_eq!(row[2..4], [expected[0] + expected[2], expected[1] + expected[3]]);
        }
        for (length, first) in [(9, 6), (9, usize::MAX), (8, 0)] {
            let columns = Columns { rows: &mut rows, length, first };
            assert!(columns.multiply(sizes, left, right).is_err());
        }
    }

    #[test]
    fn nothing_is_read_beyond_the_values() {
        let values = numbers(12);
        let fits = Matrices::new(&values, [0, 4, 1]);
        assert!(multiply(1, (3, 3, 4), fits, Matrices::new(&values, [0, 3, 1])).is_ok());
        for strides in [[0, 5, 1], [0, 4, 2], [1, 4, 1], [0, usize::MAX, 1]] {
            let far = Matrices::new(&values, strides);
            assert!(multiply(2, (3, 3, 4), far, fits).is_err(), "{strides:?}");
        }
        assert!(add_products(&mut [0.0; 7], (3, 2, 1), fits, fits).is_err());
        assert!(add_products(&mut [0.0; 7], (0, 2, 1), fits, fits).is_err());
    }

    #[test]
    fn a_product_of_nothing_is_zero() {
        let none = Matrices::new(&[], [0, 0, 0]);
        assert_eq!(multiply(2, (2, 3, 0), none, none).unwrap(), vec![0.0; 12]);
        assert!(multiply(0, (2, 3, 4), none, none).unwrap().is_empty());
        assert_eq!(multiply_for_a_moment(2, (2, 3, 0), none, none).unwrap()[..], [0.0; 12]);
    }
}
