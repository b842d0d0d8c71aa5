//! Convolutions: columns by a kernel around products by cuBLAS.
//!
//! The input's gradient is the columns' gradient, gathered back by the adjoint of what made them, so
//! that candle's `conv_transpose2d`, a thread a value without any product, is never called.

use candle_core::{DType, Result, Shape, Tensor, bail};

use super::{
    super::parameters::Convolution,
    Argument::{self, Read},
    Launch, cast, count,
    linear::{over_batch, repeated},
    sums::{add_vector, column_sums, plane_sums},
};
use crate::engine::tape::TapeTensor;

/// Most values of columns at a time; one image's are made however many they are.
const HELD: usize = 1 << 27;

/// See [`crate::engine::ops::conv2d`].
pub(in super::super) fn conv2d(
    x: &TapeTensor,
    weight: &TapeTensor,
    bias: Option<&TapeTensor>,
    geometry: Convolution,
) -> Result<TapeTensor> {
    let weight = cast(weight, x.tensor().dtype())?;
    let bias = bias.map(|bias| cast(bias, DType::F32)).transpose()?;
    let arguments: Vec<&TapeTensor> = [x, &weight].into_iter().chain(bias.as_ref()).collect();
    let sizes = Sizes::new(x.tensor().shape(), weight.tensor().shape(), geometry)?;
    let (x, weight) = (x.tensor().contiguous()?, weight.tensor().contiguous()?);
    let y = sizes.forward(&x, &weight)?;
    if let Some(bias) = &bias {
        if bias.tensor().dims() != [sizes.outputs] {
            bail!("conv2d: a bias of {:?} for {} outputs", bias.tensor().shape(), sizes.outputs);
        }
        add_vector(&y, bias.tensor(), sizes.pixels())?;
    }
    let followed: Vec<bool> = arguments.iter().map(|argument| argument.is_followed()).collect();
    // A frozen weight's layer does not keep its input.
    let x = followed[1].then_some(x);
    Ok(TapeTensor::result(y, &arguments, move |gradient| {
        let input = followed[0].then(|| sizes.input_gradient(&weight, gradient));
        let of_weight = x.map(|x| sizes.weight_gradient(&x, gradient)?.reshape(weight.shape()));
        let mut gradients = vec![input.transpose()?, of_weight.transpose()?];
        if let Some(followed) = followed.get(2) {
            let sums = followed.then(|| {
                column_sums(&plane_sums(gradient, sizes.batch * sizes.outputs)?, sizes.outputs)
            });
            gradients.push(sums.transpose()?);
        }
        Ok(gradients)
    }))
}

/// The sizes of a convolution with a square kernel.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    batch: usize,
    inputs: usize,
    outputs: usize,
    /// Height and width.
    image: [usize; 2],
    result: [usize; 2],
    kernel: usize,
    geometry: Convolution,
}

impl Sizes {
    fn new(x: &Shape, weight: &Shape, geometry: Convolution) -> Result<Self> {
        let (batch, inputs, height, width) = x.dims4()?;
        let (outputs, of, kernel, across) = weight.dims4()?;
        let Convolution { stride, padding } = geometry;
        let fits = of == inputs
            && kernel == across
            && kernel > 0
            && stride > 0
            && height.min(width) + 2 * padding >= kernel;
        if !fits {
            bail!("conv2d: x {x:?}, weight {weight:?}, {geometry:?} do not fit");
        }
        let result = [height, width].map(|length| (length + 2 * padding - kernel) / stride + 1);
        Ok(Self { batch, inputs, outputs, image: [height, width], result, kernel, geometry })
    }

    fn pixels(self) -> usize {
        self.result[0] * self.result[1]
    }

    /// Rows of an image's columns.
    fn rows(self) -> usize {
        self.inputs * self.kernel * self.kernel
    }

    /// Whether an image is its own columns.
    fn is_pointwise(self) -> bool {
        self.kernel == 1 && self.geometry == Convolution { stride: 1, padding: 0 }
    }

    /// Ranges of images whose columns are made together.
    fn parts(self) -> impl Iterator<Item = (usize, usize)> {
        let most = if self.is_pointwise() {
            self.batch
        } else {
            (HELD / (self.rows() * self.pixels()).max(1)).clamp(1, self.batch.max(1))
        };
        (0..self.batch).step_by(most.max(1)).map(move |start| (start, most.min(self.batch - start)))
    }

    /// The counts that the kernels of columns take after the values'.
    fn counts(self) -> Result<Vec<Argument<'static>>> {
        let Convolution { stride, padding } = self.geometry;
        let [height, width] = self.image;
        let [out_height, out_width] = self.result;
        let counts = [height, width, out_height, out_width, self.kernel, stride, padding];
        counts.into_iter().map(count).collect()
    }

    /// `[images, rows, pixels]` of some images.
    fn columns(self, x: &Tensor) -> Result<Tensor> {
        let images = x.dim(0)?;
        if self.is_pointwise() {
            return x.reshape((images, self.inputs, self.pixels()));
        }
        let values = images * self.rows() * self.pixels();
        let mut arguments = vec![Read(x), count(values)?];
        arguments.extend(self.counts()?);
        let shape = (images, self.rows(), self.pixels());
        Launch::over_values("columns", x, values, arguments)?.write(shape)
    }

    fn forward(self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let matrix = weight.reshape((self.outputs, self.rows()))?;
        let parts = self.parts().map(|(start, images)| {
            let columns = self.columns(&x.narrow(0, start, images)?)?;
            repeated(&matrix, images)?.matmul(&columns)
        });
        let y = joined(&parts.collect::<Result<Vec<_>>>()?)?;
        y.reshape((self.batch, self.outputs, self.result[0], self.result[1]))
    }

    fn input_gradient(self, weight: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        let matrix = weight.reshape((self.outputs, self.rows()))?.t()?;
        let [height, width] = self.image;
        let gradient = gradient.reshape((self.batch, self.outputs, self.pixels()))?;
        let parts = self.parts().map(|(start, images)| {
            let gradient = gradient.narrow(0, start, images)?;
            let columns = repeated(&matrix, images)?.matmul(&gradient)?;
            if self.is_pointwise() {
                return columns.reshape((images, self.inputs, height, width));
            }
            let values = images * self.inputs * height * width;
            let mut arguments = vec![Read(&columns), count(values)?];
            arguments.extend(self.counts()?);
            let shape = (images, self.inputs, height, width);
            Launch::over_values("columns_input", &columns, values, arguments)?.write(shape)
        });
        joined(&parts.collect::<Result<Vec<_>>>()?)
    }

    /// `[outputs, rows]`.
    fn weight_gradient(self, x: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        let gradient = gradient.reshape((self.batch, self.outputs, self.pixels()))?;
        let parts = self.parts().map(|(start, images)| {
            let columns = self.columns(&x.narrow(0, start, images)?)?;
            gradient.narrow(0, start, images)?.matmul(&columns.transpose(1, 2)?)
        });
        over_batch(&joined(&parts.collect::<Result<Vec<_>>>()?)?)
    }
}

/// Parts along the first axis as one.
fn joined(parts: &[Tensor]) -> Result<Tensor> {
    match parts {
        [only] => Ok(only.clone()),
        _ => Tensor::cat(parts, 0),
    }
}
