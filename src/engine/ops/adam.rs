//! The optimiser: Adam.

use std::collections::BTreeMap;

use candle_core::{CpuStorage, DType, InplaceOp2, InplaceOp3, Layout, Result, Tensor, Var, bail};
use rayon::prelude::*;

use super::cuda;
use crate::engine::kernels::cpu;

/// Keeps the step finite where all gradients were zero.
const EPS: f64 = 1e-8;
/// Values that one task takes.
const CHUNK: usize = 65_536;

/// Adam's decays; the defaults are PyTorch's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamSettings {
    /// Decay of the mean of gradients.
    pub mean_decay: f64,
    /// Decay of the mean of squared gradients.
    pub square_decay: f64,
}

impl Default for AdamSettings {
    fn default() -> Self {
        Self { mean_decay: 0.9, square_decay: 0.999 }
    }
}

/// Adam (Kingma and Ba 2015) as `torch.optim.Adam` computes it by default: both means corrected
/// for their start at zero, epsilon 1e-8, no decay of weights.
///
/// Moments are `f32` whatever the variables are.
#[derive(Debug)]
pub struct Adam {
    settings: AdamSettings,
    moments: BTreeMap<String, Moments>,
    steps: u32,
}

/// What [`Adam`] remembers of a variable's gradients; both tensors have the variable's shape.
#[derive(Debug, Clone)]
pub struct Moments {
    /// The running mean of gradients.
    pub mean: Tensor,
    /// The running mean of squared gradients.
    pub square: Tensor,
}

impl Adam {
    /// An optimiser that has seen no gradient yet.
    pub fn new(variables: &BTreeMap<String, Var>, settings: AdamSettings) -> Result<Self> {
        let moments = variables.iter().map(|(name, variable)| {
            let zeros = || Tensor::zeros(variable.shape(), DType::F32, variable.device());
            Ok((name.clone(), Moments { mean: zeros()?, square: zeros()? }))
        });
        Ok(Self { settings, moments: moments.collect::<Result<_>>()?, steps: 0 })
    }

    /// An optimiser that goes on from saved state.
    ///
    /// The tensors become the optimiser's own and are changed in place by its steps.
    pub fn resume(settings: AdamSettings, moments: BTreeMap<String, Moments>, steps: u32) -> Self {
        Self { settings, moments, steps }
    }

    /// The moments by variable; a later step changes the tensors in place.
    pub fn moments(&self) -> &BTreeMap<String, Moments> {
        &self.moments
    }

    /// Steps taken.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// Takes a step in place, at the rate that `rates` gives for each name.
    ///
    /// Every variable must have a gradient of its shape: one that is missing tells of a broken
    /// graph, which training would otherwise pass over silently. All are checked before any
    /// variable changes.
    pub fn step(
        &mut self,
        variables: &BTreeMap<String, Var>,
        gradients: &BTreeMap<String, Tensor>,
        rates: impl Fn(&str) -> f64,
    ) -> Result<()> {
        let mut work = Vec::with_capacity(variables.len());
        for (name, variable) in variables {
            let Some(gradient) = gradients.get(name) else {
                bail!("adam: no gradient of {name}");
            };
            let Some(moments) = self.moments.get(name) else {
                bail!("adam: no moments of {name}");
            };
            for tensor in [gradient, &moments.mean, &moments.square] {
                if tensor.shape() != variable.shape() {
                    bail!("adam: {name} is {:?}, not {:?}", variable.shape(), tensor.shape());
                }
            }
            work.push((name, variable, gradient, moments));
        }
        let steps = self.steps.saturating_add(1);
        let correction = |decay: f64| 1.0 - decay.powf(f64::from(steps));
        let root = correction(self.settings.square_decay).sqrt();
        let rate = correction(self.settings.mean_decay);
        let updates = work.into_iter().map(|(name, variable, gradient, moments)| {
            let update = Update { settings: self.settings, rate: rates(name) / rate, root };
            (update, variable, gradient, moments)
        });
        let updates: Vec<_> = updates.collect();
        updates.into_par_iter().try_for_each(|(update, variable, gradient, moments)| {
            update.apply(variable, gradient, moments)
        })?;
        self.steps = steps;
        Ok(())
    }
}

/// The last part of a step: `x -= rate · mean / (√square / root + ε)`.
#[derive(Debug, Clone, Copy)]
struct Update {
    settings: AdamSettings,
    rate: f64,
    root: f64,
}

impl Update {
    fn apply(self, variable: &Var, gradient: &Tensor, moments: &Moments) -> Result<()> {
        let Moments { mean, square } = moments;
        let AdamSettings { mean_decay, square_decay } = self.settings;
        let gradient = gradient.detach().to_dtype(DType::F32)?.contiguous()?;
        if cuda::is_fast(&[variable]) && variable.dtype() == DType::F32 {
            let Self { rate, root, .. } = self;
            let step = cuda::AdamStep { mean_decay, square_decay, rate, root, eps: EPS };
            return cuda::adam(variable, &gradient, [mean, square], step);
        }
        let fast = cpu::is_fast(&[variable, mean, square])
            && [variable.as_tensor(), mean, square].iter().all(|tensor| tensor.is_contiguous());
        if fast {
            mean.inplace_op2(&gradient, &Average { decay: mean_decay, squared: false })?;
            square.inplace_op2(&gradient, &Average { decay: square_decay, squared: true })?;
            return variable.inplace_op3(mean, square, &self);
        }
        let next = ((mean * mean_decay)? + (&gradient * (1.0 - mean_decay))?)?;
        assign(mean, &next)?;
        let next = ((square * square_decay)? + (gradient.sqr()? * (1.0 - square_decay))?)?;
        assign(square, &next)?;
        let change = (mean / ((square.sqrt()? / self.root)? + EPS)?)?;
        let next = (variable.detach().to_dtype(DType::F32)? - (change * self.rate)?)?;
        variable.set(&next.to_dtype(variable.dtype())?)
    }
}

/// Overwrites a tensor's values.
fn assign(target: &Tensor, values: &Tensor) -> Result<()> {
    if target.rank() == 0 {
        return target.reshape(1)?.slice_set(&values.reshape(1)?, 0, 0);
    }
    target.slice_set(values, 0, 0)
}

/// A step of a running mean, of gradients or of their squares.
#[derive(Debug, Clone, Copy)]
struct Average {
    decay: f64,
    squared: bool,
}

fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets())
    else {
        bail!("adam: a tensor is not contiguous f32: {layout:?}");
    };
    match values.get_mut(start..end) {
        Some(values) => Ok(values),
        None => bail!("adam: a layout reaches beyond its storage: {layout:?}"),
    }
}

impl InplaceOp2 for Average {
    fn name(&self) -> &'static str {
        "adam_average"
    }

    fn cpu_fwd(
        &self,
        moment: &mut CpuStorage,
        layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<()> {
        let moment = values_mut(moment, layout)?;
        let gradient = cpu::slice(gradient, gradient_layout)?;
        let (decay, share) = (self.decay as f32, (1.0 - self.decay) as f32);
        moment.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).for_each(|(moment, g)| {
            cpu::vectorised(
                #[inline(always)]
                || {
                    if self.squared {
                        for (moment, &g) in moment.iter_mut().zip(g) {
                            *moment = decay * *moment + share * g * g;
                        }
                    } else {
                        // torch's `lerp`.
                        for (moment, &g) in moment.iter_mut().zip(g) {
                            *moment += share * (g - *moment);
                        }
                    }
                },
            );
        });
        Ok(())
    }
}

impl InplaceOp3 for Update {
    fn name(&self) -> &'static str {
        "adam_update"
    }

    fn cpu_fwd(
        &self,
        variable: &mut CpuStorage,
        layout: &Layout,
        mean: &CpuStorage,
        mean_layout: &Layout,
        square: &CpuStorage,
        square_layout: &Layout,
    ) -> Result<()> {
        let variable = values_mut(variable, layout)?;
        let mean = cpu::slice(mean, mean_layout)?;
        let square = cpu::slice(square, square_layout)?;
        let (rate, root, eps) = (self.rate as f32, self.root as f32, EPS as f32);
        let moments = mean.par_chunks(CHUNK).zip(square.par_chunks(CHUNK));
        variable.par_chunks_mut(CHUNK).zip(moments).for_each(|(variable, (mean, square))| {
            cpu::vectorised(
                #[inline(always)]
                || {
                    for ((x, &mean), &square) in variable.iter_mut().zip(mean).zip(square) {
                        *x -= rate * mean / (square.sqrt() / root + eps);
                    }
                },
            );
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn variables(dtype: DType) -> BTreeMap<String, Var> {
        let variable = |values: &[f32], shape: &[usize]| {
            let values = Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
            Var::from_tensor(&values.to_dtype(dtype).unwrap()).unwrap()
        };
        BTreeMap::from([
            ("p".to_owned(), variable(&[0.5, -1.25, 3.0, 1e-3], &[4])),
            ("q".to_owned(), variable(&[2.0, -0.75], &[2, 1])),
        ])
    }

    fn gradients(variables: &BTreeMap<String, Var>, step: u32) -> BTreeMap<String, Tensor> {
        let p = Tensor::new(&[0.1_f32, -2.0, 1e-9, 30.0], &Device::Cpu).unwrap();
        let q = (variables["q"].detach().sqr().unwrap() - 1.0).unwrap();
        let p = (p * (f64::from(step) - 1.5)).unwrap();
        BTreeMap::from([("p".to_owned(), p), ("q".to_owned(), q)])
    }

    fn rates(name: &str) -> f64 {
        if name == "p" { 1e-2 } else { 3e-3 }
    }

    fn assert_values(tensor: &Tensor, expected: &[f64]) {
        let values = tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap();
        for (value, expected) in values.to_vec1::<f64>().unwrap().iter().zip(expected) {
            assert!((value / expected - 1.0).abs() < 1e-6, "{value}, expected {expected}");
        }
    }

    // p = torch.tensor([0.5, -1.25, 3.0, 1e-3], requires_grad=True)
    // q = torch.tensor([[2.0], [-0.75]], requires_grad=True)
    // adam = torch.optim.Adam([{"params": [p], "lr": 1e-2}, {"params": [q], "lr": 3e-3}])
    // for step in range(5):
    //     p.grad = torch.tensor([0.1, -2.0, 1e-9, 30.0]) * (step - 1.5)
    //     q.grad = q.detach() ** 2 - 1.0
    //     adam.step()
    // p, q, adam.state[p]["exp_avg"], adam.state[p]["exp_avg_sq"]
    #[test]
    fn adam_takes_torchs_steps() {
        for dtype in [DType::F32, DType::F64] {
            let variables = variables(dtype);
            let mut adam = Adam::new(&variables, AdamSettings::default()).unwrap();
            for step in 0..5 {
                if step == 3 {
                    adam =
                        Adam::resume(AdamSettings::default(), adam.moments().clone(), adam.steps());
                }
                adam.step(&variables, &gradients(&variables, step), rates).unwrap();
            }
            assert_eq!(adam.steps(), 5);
            assert_values(
                &variables["p"],
                &[0.517_298_698, -1.267_298_7, 3.001_837_49, 0.018_298_720_9],
            );
            assert_values(&variables["q"], &[1.985_005_38, -0.734_987_617]);
            let Moments { mean, square } = &adam.moments()["p"];
            assert_values(mean, &[0.029_063_500_5, -0.581_270_039, 2.906_350_16e-10, 8.719_050_41]);
            assert_values(
                square,
                &[1.123_751_57e-4, 0.044_950_060_5, 1.123_751_44e-20, 10.113_762_9],
            );
        }
    }

    #[test]
    fn a_missing_gradient_changes_nothing() {
        let variables = variables(DType::F32);
        let mut adam = Adam::new(&variables, AdamSettings::default()).unwrap();
        let mut gradients = gradients(&variables, 0);
        gradients.remove("q");
        assert!(adam.step(&variables, &gradients, rates).is_err());
        assert_eq!(adam.steps(), 0);
        assert_values(&variables["p"], &[0.5, -1.25, 3.0, f64::from(1e-3_f32)]);
    }

    #[test]
    fn a_gradient_of_another_shape_is_refused() {
        let variables = variables(DType::F32);
        let mut adam = Adam::new(&variables, AdamSettings::default()).unwrap();
        let mut gradients = gradients(&variables, 0);
        gradients.insert("q".to_owned(), gradients["p"].clone());
        assert!(adam.step(&variables, &gradients, rates).is_err());
    }
}
