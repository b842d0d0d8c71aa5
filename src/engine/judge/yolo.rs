//! `YOLOv8`, a detector (arXiv 2304.00501, section 4.16): convolutions, three scales, and a head that
//! says for each place which box begins there and what it holds. By hand, since candle-transformers
//! has none; widths and repeats are read off the tensors' shapes.

use candle_core::{D, Device, Tensor};

use super::tensors::{Taking, refuse_surplus};
use crate::engine::{EngineError, nn::Weights};

/// Bins in which a box's sides are told.
const BINS: usize = 16;
/// Pixels between places on each scale.
const STRIDES: [usize; 3] = [8, 16, 32];
/// More blocks of a stage than any published size has.
const MAX_BLOCKS: usize = 64;
/// Of the batch norm, where it is not folded into the convolution yet.
const EPS: f64 = 1e-3;

/// A convolution with bias and SiLU; its batch norm is folded in.
#[derive(Debug)]
struct Conv {
    weight: Tensor,
    bias: Tensor,
    stride: usize,
    activated: bool,
}

/// Two convolutions around blocks whose results are all kept (`C2f`).
#[derive(Debug)]
struct Stage {
    first: Conv,
    blocks: Vec<[Conv; 2]>,
    residual: bool,
    last: Conv,
}

/// Maxima over ever larger windows, beside each other (`SPPF`).
#[derive(Debug)]
struct Pooling {
    first: Conv,
    last: Conv,
}

/// What one scale says: three convolutions to boxes, three to classes.
#[derive(Debug)]
struct Scale {
    boxes: [Conv; 3],
    classes: [Conv; 3],
}

/// The whole detector.
#[derive(Debug)]
pub(super) struct Yolo {
    stem: [Conv; 2],
    down: [Conv; 3],
    stages: [Stage; 4],
    pooling: Pooling,
    /// Up to the middle and the finest scale, and down again.
    merged: [Stage; 4],
    between: [Conv; 2],
    scales: [Scale; 3],
    /// What each bin stands for.
    bins: Tensor,
    classes: usize,
    widest: usize,
}

/// Weights below a place, and the channels that come in there.
struct Place<'a> {
    w: Weights<'a>,
    inputs: usize,
}

impl Conv {
    /// A convolution of `kernel` pixels a side, as many outputs as the file has.
    fn new(
        Place { w, inputs }: &Place<'_>,
        [kernel, stride]: [usize; 2],
    ) -> Result<Self, EngineError> {
        let outputs = rows(w, "conv.weight");
        let weight = w.take("conv.weight", &[outputs, *inputs, kernel, kernel])?;
        if !w.has("bn.weight") {
            let bias = w.take("conv.bias", &[outputs])?;
            return Ok(Self { weight, bias, stride, activated: true });
        }
        let norm = |name: &str| w.take(&format!("bn.{name}"), &[outputs]);
        let scale = (norm("weight")? / (norm("running_var")? + EPS)?.sqrt()?)?;
        let bias = (norm("bias")? - (norm("running_mean")? * &scale)?)?;
        let weight = weight.broadcast_mul(&scale.reshape(((), 1, 1, 1))?)?;
        Ok(Self { weight, bias, stride, activated: true })
    }

    /// The last of a head: a point, without activation.
    fn plain(Place { w, inputs }: &Place<'_>, outputs: usize) -> Result<Self, EngineError> {
        let weight = w.take("weight", &[outputs, *inputs, 1, 1])?;
        Ok(Self { weight, bias: w.take("bias", &[outputs])?, stride: 1, activated: false })
    }

    fn outputs(&self) -> usize {
        self.weight.dims().first().copied().unwrap_or(1)
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let kernel = self.weight.dim(2)?;
        let y = x.conv2d(&self.weight, kernel / 2, self.stride, 1, 1)?;
        let y = y.broadcast_add(&self.bias.reshape((1, (), 1, 1))?)?;
        if self.activated { candle_nn::ops::silu(&y) } else { Ok(y) }
    }
}

impl Stage {
    fn new(place: &Place<'_>, residual: bool) -> Result<Self, EngineError> {
        let w = &place.w;
        let first = Conv::new(&place.at("cv1"), [1, 1])?;
        let half = first.outputs() / 2;
        let mut blocks = Vec::new();
        while blocks.len() < MAX_BLOCKS && w.has(&format!("m.{}.cv1.conv.weight", blocks.len())) {
            let at = w.at("m").at(blocks.len());
            let one = Conv::new(&Place { w: at.at("cv1"), inputs: half }, [3, 1])?;
            let other = Conv::new(&Place { w: at.at("cv2"), inputs: one.outputs() }, [3, 1])?;
            same_width(&at, other.outputs(), half)?;
            blocks.push([one, other]);
        }
        let inputs = half * (2 + blocks.len());
        let last = Conv::new(&Place { w: w.at("cv2"), inputs }, [1, 1])?;
        Ok(Self { first, blocks, residual, last })
    }

    fn outputs(&self) -> usize {
        self.last.outputs()
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut parts = self.first.forward(x)?.chunk(2, 1)?;
        for [one, other] in &self.blocks {
            let Some(before) = parts.last() else { break };
            let after = other.forward(&one.forward(before)?)?;
            parts.push(if self.residual { (before + after)? } else { after });
        }
        self.last.forward(&Tensor::cat(&parts, 1)?)
    }
}

impl Pooling {
    fn new(place: &Place<'_>) -> Result<Self, EngineError> {
        let first = Conv::new(&place.at("cv1"), [1, 1])?;
        let inputs = 4 * first.outputs();
        let last = Conv::new(&Place { w: place.w.at("cv2"), inputs }, [1, 1])?;
        Ok(Self { first, last })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let pool = |x: &Tensor| {
            // The edge's own values are within each window: repeating them changes no maximum.
            let padded = x.pad_with_same(D::Minus1, 2, 2)?.pad_with_same(D::Minus2, 2, 2)?;
            padded.max_pool2d_with_stride(5, 1)
        };
        let once = self.first.forward(x)?;
        let twice = pool(&once)?;
        let thrice = pool(&twice)?;
        let last = pool(&thrice)?;
        self.last.forward(&Tensor::cat(&[once, twice, thrice, last], 1)?)
    }
}

impl Scale {
    fn new(w: &Weights, scale: usize, inputs: usize, classes: usize) -> Result<Self, EngineError> {
        let branch = |name: &str, outputs: usize| {
            let at = w.at(name).at(scale);
            let first = Conv::new(&Place { w: at.at(0), inputs }, [3, 1])?;
            let second = Conv::new(&Place { w: at.at(1), inputs: first.outputs() }, [3, 1])?;
            let last = Conv::plain(&Place { w: at.at(2), inputs: second.outputs() }, outputs)?;
            Ok::<_, EngineError>([first, second, last])
        };
        Ok(Self { boxes: branch("cv2", 4 * BINS)?, classes: branch("cv3", classes)? })
    }

    /// `[pictures, 4 · bins + classes, places]`.
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let run = |convolutions: &[Conv; 3]| {
            convolutions.iter().try_fold(x.clone(), |x, convolution| convolution.forward(&x))
        };
        Tensor::cat(&[run(&self.boxes)?, run(&self.classes)?], 1)?.flatten_from(2)
    }
}

impl Yolo {
    /// Takes every weight of a detector that lies anywhere in a file, by the names of its export.
    pub(super) fn new(w: &Weights) -> Result<Self, EngineError> {
        let taking = Taking::below(w, "22.dfl.conv.weight")?;
        let (w, prefix) = (taking.weights(), taking.prefix());
        let place = |layer: usize, inputs: usize| Place { w: w.at(layer), inputs };
        let first = Conv::new(&place(0, 3), [3, 2])?;
        let second = Conv::new(&place(1, first.outputs()), [3, 2])?;
        let one = Stage::new(&place(2, second.outputs()), true)?;
        let to_two = Conv::new(&place(3, one.outputs()), [3, 2])?;
        let two = Stage::new(&place(4, to_two.outputs()), true)?;
        let to_three = Conv::new(&place(5, two.outputs()), [3, 2])?;
        let three = Stage::new(&place(6, to_three.outputs()), true)?;
        let to_four = Conv::new(&place(7, three.outputs()), [3, 2])?;
        let four = Stage::new(&place(8, to_four.outputs()), true)?;
        let pooling = Pooling::new(&place(9, four.outputs()))?;
        let coarse = pooling.last.outputs();
        let up_middle = Stage::new(&place(12, coarse + three.outputs()), false)?;
        let fine = Stage::new(&place(15, up_middle.outputs() + two.outputs()), false)?;
        let to_middle = Conv::new(&place(16, fine.outputs()), [3, 2])?;
        let middle_inputs = to_middle.outputs() + up_middle.outputs();
        let middle = Stage::new(&place(18, middle_inputs), false)?;
        let to_coarse = Conv::new(&place(19, middle.outputs()), [3, 2])?;
        let last = Stage::new(&place(21, to_coarse.outputs() + coarse), false)?;
        let head = w.at(22);
        let classes = rows(&head, "cv3.0.2.weight");
        let widths = [fine.outputs(), middle.outputs(), last.outputs()];
        let scale = |index: usize| Scale::new(&head, index, widths[index], classes);
        let scales = [scale(0)?, scale(1)?, scale(2)?];
        let bins = head.take("dfl.conv.weight", &[1, BINS, 1, 1])?.flatten_all()?;
        refuse_surplus(w, prefix)?;
        let widest = first.outputs().max(second.outputs());
        Ok(Self {
            stem: [first, second],
            down: [to_two, to_three, to_four],
            stages: [one, two, three, four],
            pooling,
            merged: [up_middle, fine, middle, last],
            between: [to_middle, to_coarse],
            scales,
            bins,
            classes,
            widest,
        })
    }

    /// Classes that it tells apart.
    pub(super) fn classes(&self) -> usize {
        self.classes
    }

    /// Numbers that a picture of so many pixels a side holds at most on its way through it.
    pub(super) fn working_numbers_a_picture(&self, size: usize) -> u64 {
        let pixels = size * size;
        // The first convolution's result before and after its activation and beside the second's;
        // on coarser scales there are twice the channels on a quarter of the places.
        (2 * 3 * pixels + 8 * self.widest * pixels.div_ceil(4)) as u64
    }

    /// For each place, a box (centre, width and height in pixels) and each class's probability.
    ///
    /// # Shapes
    /// `pixels: [pictures, 3, side, side]`, sides multiples of 32, to `[pictures, places, 4 +
    /// classes]`.
    pub(super) fn forward(&self, pixels: &Tensor) -> candle_core::Result<Tensor> {
        let [stem, next] = &self.stem;
        let [one, two, three, four] = &self.stages;
        let [to_two, to_three, to_four] = &self.down;
        let x = one.forward(&next.forward(&stem.forward(pixels)?)?)?;
        let two = two.forward(&to_two.forward(&x)?)?;
        let three = three.forward(&to_three.forward(&two)?)?;
        let four = four.forward(&to_four.forward(&three)?)?;
        let coarse = self.pooling.forward(&four)?;

        let [up_middle, fine, middle, last] = &self.merged;
        let [to_middle, to_coarse] = &self.between;
        let joined = |one: &Tensor, other: &Tensor| Tensor::cat(&[one, other], 1);
        let up = up_middle.forward(&joined(&doubled(&coarse)?, &three)?)?;
        let fine = fine.forward(&joined(&doubled(&up)?, &two)?)?;
        let middle = middle.forward(&joined(&to_middle.forward(&fine)?, &up)?)?;
        let last = last.forward(&joined(&to_coarse.forward(&middle)?, &coarse)?)?;

        let mut rows = Vec::with_capacity(STRIDES.len());
        for ((scale, x), stride) in self.scales.iter().zip([fine, middle, last]).zip(STRIDES) {
            rows.push(self.boxes(&scale.forward(&x)?, &x, stride)?);
        }
        Tensor::cat(&rows, 1)
    }

    /// Boxes of a scale: how far each side lies from its place, as the mean over the bins.
    fn boxes(&self, raw: &Tensor, x: &Tensor, stride: usize) -> candle_core::Result<Tensor> {
        let (pictures, _, places) = raw.dims3()?;
        let (height, width) = (x.dim(2)?, x.dim(3)?);
        let sides = raw.narrow(1, 0, 4 * BINS)?.contiguous()?;
        let sides = sides.reshape((pictures, 4, BINS, places))?.transpose(2, 3)?.contiguous()?;
        let shares = candle_nn::ops::softmax_last_dim(&sides)?;
        let sides = shares.broadcast_mul(&self.bins)?.sum(D::Minus1)?;
        let (before, after) = (sides.narrow(1, 0, 2)?, sides.narrow(1, 2, 2)?);
        let centres = centres(height, width, raw.device())?;
        let begin = centres.broadcast_sub(&before)?;
        let end = centres.broadcast_add(&after)?;
        let middle = ((&begin + &end)? / 2.0)?;
        let bounds = (Tensor::cat(&[middle, (end - begin)?], 1)? * stride as f64)?;
        let scores = candle_nn::ops::sigmoid(&raw.narrow(1, 4 * BINS, self.classes)?)?;
        Tensor::cat(&[bounds, scores], 1)?.transpose(1, 2)?.contiguous()
    }
}

impl Place<'_> {
    /// The same channels, one name further.
    fn at(&self, name: &str) -> Self {
        Self { w: self.w.at(name), inputs: self.inputs }
    }
}

/// The middle of each place, `[1, 2, places]`.
fn centres(height: usize, width: usize, device: &Device) -> candle_core::Result<Tensor> {
    let columns = (0..height).flat_map(|_| 0..width);
    let rows = (0..height).flat_map(|row| std::iter::repeat_n(row, width));
    let middles: Vec<f32> = columns.chain(rows).map(|place| place as f32 + 0.5).collect();
    Tensor::from_vec(middles, (1, 2, height * width), device)
}

fn doubled(x: &Tensor) -> candle_core::Result<Tensor> {
    x.upsample_nearest2d(2 * x.dim(2)?, 2 * x.dim(3)?)
}

/// Rows of a tensor, as far as the file says; what is not there is refused when it is taken.
fn rows(w: &Weights, name: &str) -> usize {
    w.dims(name).and_then(|dims| dims.first().copied()).unwrap_or(1)
}

/// Refuses a block that gives other channels than it takes: they are added or laid beside each other.
fn same_width(w: &Weights, found: usize, expected: usize) -> Result<(), EngineError> {
    if found == expected {
        return Ok(());
    }
    w.take("cv2.conv.weight", &[expected, expected, 3, 3]).map(drop)
}
