//! A run of a sampler, from its name, a folder's config and a number of steps.

use serde_json::json;

use super::{
    Sampler, SamplerConfig,
    ddim::DdimRun,
    dpm_solver_multistep::DpmSolverMultistep,
    euler::Euler,
    lcm::Lcm,
    pndm::Pndm,
    sigmas::{self, Spacing},
    unipc::UniPc,
};
use crate::{
    engine::{EngineError, schedule::Ddim},
    spec::{Field, SamplerKind, SpecError},
};

/// Opens a run of so many steps.
pub(in crate::engine) fn open(
    kind: SamplerKind,
    config: &SamplerConfig,
    trained: &Ddim,
    steps: usize,
) -> Result<Box<dyn Sampler>, EngineError> {
    // Also checks the number of steps against the trained ones, but for what spacing does to it.
    if kind == SamplerKind::Ddim {
        return Ok(Box::new(DdimRun::new(trained.schedule(steps)?)));
    }
    let timesteps = trained.training_timesteps();
    if steps == 0 || steps > timesteps {
        let message = format!("{steps} is outside 1 to {timesteps}, the trained timesteps");
        return Err(SpecError::one(Field::Steps, message).into());
    }
    let alpha_bars = match kind {
        // Diffusers' class has no `rescale_betas_zero_snr`; it divides by the share of signal.
        SamplerKind::Pndm => trained.unscaled_alpha_bars(),
        _ => trained.alpha_bars(),
    };
    let alpha_bars = alpha_bars.iter().map(|&alpha_bar| alpha_bar as f32).collect();
    let run = Run { kind, config, trained, alpha_bars, steps };
    match kind {
        SamplerKind::Ddim | SamplerKind::Pndm => run.pndm(),
        SamplerKind::Euler => run.euler(false),
        SamplerKind::EulerAncestral => run.euler(true),
        SamplerKind::Dpmpp2m => run.dpm_solver(false),
        SamplerKind::Dpmpp2mKarras => run.dpm_solver(true),
        SamplerKind::Unipc => run.unipc(),
        SamplerKind::Lcm => run.lcm(),
    }
}

/// What a run is opened from.
struct Run<'a> {
    kind: SamplerKind,
    config: &'a SamplerConfig,
    trained: &'a Ddim,
    alpha_bars: Vec<f32>,
    steps: usize,
}

impl Run<'_> {
    fn pndm(self) -> Result<Box<dyn Sampler>, EngineError> {
        let timesteps: Vec<f64> = self.spaced(Spacing::Leading)?.collect();
        let stride = self.alpha_bars.len() / self.steps;
        // The second evaluation looks one stride up from its timestep.
        let highest = timesteps.get(1).map_or(0.0, |second| second + stride as f64);
        self.within_trained(timesteps.iter().copied().fold(highest, f64::max))?;
        let first = self.alpha_bars.first().copied().unwrap_or(1.0);
        let final_alpha_bar =
            if self.config.flag("set_alpha_to_one", false)? { 1.0 } else { first };
        Ok(Box::new(Pndm {
            timesteps: Pndm::repeat_second(&timesteps),
            alpha_bars: self.alpha_bars,
            final_alpha_bar,
            stride,
            prediction: self.trained.prediction_type(),
            outputs: Vec::new(),
            first: None,
        }))
    }

    fn euler(self, ancestral: bool) -> Result<Box<dyn Sampler>, EngineError> {
        let table = sigmas::table(&self.alpha_bars);
        // As f32, which diffusers keeps them in.
        let timesteps = self.spaced(Spacing::Linspace)?.map(|at| f64::from(at as f32));
        let mut timesteps: Vec<f64> = timesteps.collect();
        let mut levels: Vec<f64> =
            timesteps.iter().map(|&at| sigmas::interpolate(&table, at)).collect();
        let mut last = 0.0;
        if !ancestral {
            self.plain_levels()?;
            self.config.only("interpolation_type", &[json!("linear")])?;
            self.config.only("timestep_type", &[json!("discrete")])?;
            if self.config.karras()? {
                let ends = (levels.first().copied(), levels.last().copied());
                let ends = (ends.0.unwrap_or(1.0), ends.1.unwrap_or(1.0));
                levels = self.karras(ends)?;
                let at_levels = levels.iter().map(|&level| sigmas::timestep_of(level, &table));
                timesteps = at_levels.map(|at| f64::from(at as f32)).collect();
            }
            last = self.last(&table)?;
        }
        let spacing = self.config.spacing(Spacing::Linspace)?;
        Ok(Box::new(Euler {
            timesteps,
            sigmas: with_last(&levels, last),
            adds_variance: spacing == Spacing::Leading,
            ancestral,
            prediction: self.trained.prediction_type(),
        }))
    }

    fn dpm_solver(self, karras: bool) -> Result<Box<dyn Sampler>, EngineError> {
        self.plain_levels()?;
        self.config.only("algorithm_type", &[json!("dpmsolver++"), json!("deis")])?;
        let same = [json!("midpoint"), json!("logrho"), json!("bh1"), json!("bh2")];
        self.config.only("solver_type", &same)?;
        let (timesteps, levels) = self.half_log_levels(karras)?;
        Ok(Box::new(DpmSolverMultistep {
            timesteps,
            sigmas: levels,
            prediction: self.trained.prediction_type(),
            lower_order_final: self.config.flag("lower_order_final", true)?,
            euler_at_final: self.config.flag("euler_at_final", false)?,
            previous_x0: None,
        }))
    }

    fn unipc(self) -> Result<Box<dyn Sampler>, EngineError> {
        self.plain_levels()?;
        let same = [json!("bh2"), json!("midpoint"), json!("heun"), json!("logrho")];
        self.config.only("solver_type", &same)?;
        self.config.only("predict_x0", &[json!(true)])?;
        self.config.only("disable_corrector", &[json!([])])?;
        let (timesteps, levels) = self.half_log_levels(self.config.karras()?)?;
        Ok(Box::new(UniPc {
            timesteps,
            sigmas: levels,
            prediction: self.trained.prediction_type(),
            lower_order_final: self.config.flag("lower_order_final", true)?,
            x0s: Vec::new(),
            last: None,
        }))
    }

    fn lcm(self) -> Result<Box<dyn Sampler>, EngineError> {
        let trained = self.alpha_bars.len();
        let distilled = self.config.integer("original_inference_steps", 50, trained)?;
        if self.steps > distilled {
            let message = format!(
                "{} is more than {distilled}, the original_inference_steps of lcm; ask for fewer steps",
                self.steps
            );
            return Err(SpecError::one(Field::Steps, message).into());
        }
        let timesteps = Lcm::spaced(trained, distilled, self.steps);
        let share = |at: &f64| self.alpha_bars.get(*at as usize).copied().unwrap_or(1.0);
        Ok(Box::new(Lcm {
            alpha_bars: timesteps.iter().map(share).collect(),
            timesteps,
            scaling: self.config.number("timestep_scaling", 10.0)? as f32,
            prediction: self.trained.prediction_type(),
        }))
    }

    /// Timesteps from noisy to clean, as PNDM and Euler spread them.
    fn spaced(&self, default: Spacing) -> Result<impl Iterator<Item = f64> + use<>, EngineError> {
        let trained = self.alpha_bars.len();
        let pndm = self.kind == SamplerKind::Pndm;
        let timesteps = match self.config.spacing(default)? {
            Spacing::Leading => {
                let offset = self.config.offset(self.kind);
                sigmas::leading(trained / self.steps, self.steps, 0, offset)
            }
            Spacing::Trailing => sigmas::trailing(trained, self.steps),
            Spacing::Linspace => sigmas::linspace_down((trained - 1) as f64, self.steps),
        };
        Ok(timesteps.into_iter().map(move |at| if pndm { at.round_ties_even() } else { at }))
    }

    /// Timesteps and noise levels of the solvers over the log-SNR, which leave the cleanest of one
    /// timestep more than they take.
    fn half_log_levels(&self, karras: bool) -> Result<(Vec<f64>, Vec<f32>), EngineError> {
        self.config.only("solver_order", &[json!(2)])?;
        let table = sigmas::table(&self.alpha_bars);
        let (trained, count) = (table.len(), self.steps + 1);
        let (timesteps, levels) = if karras {
            let ends = (table.last(), table.first());
            let ends = (ends.0.map_or(1.0, |&s| s.into()), ends.1.map_or(1.0, |&s| s.into()));
            let levels = self.karras(ends)?;
            let at_levels = levels.iter().map(|&level| sigmas::timestep_of(level, &table));
            (at_levels.map(f64::round_ties_even).collect(), levels)
        } else {
            let timesteps: Vec<f64> = match self.config.spacing(Spacing::Linspace)? {
                Spacing::Leading => {
                    sigmas::leading(trained / count, count, 1, self.config.offset(self.kind))
                }
                Spacing::Trailing => sigmas::trailing(trained, self.steps),
                Spacing::Linspace => sigmas::linspace_down((trained - 1) as f64, count)
                    .into_iter()
                    .take(self.steps)
                    .map(f64::round_ties_even)
                    .collect(),
            };
            let levels = timesteps.iter().map(|&at| sigmas::interpolate(&table, at)).collect();
            (timesteps, levels)
        };
        let levels = with_last(&levels, self.last(&table)?);
        // Divided by the fall of a step; where two levels are one, diffusers draws nothing but NaN.
        // A last level that is met early, by `final_sigmas_type`, is as bad.
        if levels.windows(2).any(|pair| matches!(pair, [from, to] if from <= to)) {
            let message = format!(
                "{} steps of {} meet a noise level twice; ask for fewer steps, or for another sampler",
                self.steps,
                self.kind.name()
            );
            return Err(SpecError::one(Field::Steps, message).into());
        }
        Ok((timesteps, levels))
    }

    /// Karras' levels between these, from noisy to clean, or between those of the config.
    fn karras(&self, (most, least): (f64, f64)) -> Result<Vec<f64>, EngineError> {
        let given = self.kind == SamplerKind::Euler || self.kind == SamplerKind::Unipc;
        let end = |name, found| {
            let end = if given { self.config.positive(name)? } else { None };
            Ok::<_, EngineError>(end.unwrap_or(found))
        };
        Ok(sigmas::karras(end("sigma_max", most)?, end("sigma_min", least)?, self.steps))
    }

    /// What the last step reaches.
    fn last(&self, table: &[f32]) -> Result<f32, EngineError> {
        let lowest = table.first().copied().unwrap_or(0.0);
        Ok(if self.config.stops_at_lowest()? { lowest } else { 0.0 })
    }

    /// Refuses levels that are spread in a way of which Keystep has none.
    fn plain_levels(&self) -> Result<(), EngineError> {
        for name in
            ["use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas"]
        {
            self.config.only(name, &[json!(false)])?;
        }
        Ok(())
    }

    fn within_trained(&self, timestep: f64) -> Result<(), EngineError> {
        let trained = self.alpha_bars.len();
        if timestep < trained as f64 {
            return Ok(());
        }
        let message = format!(
            "{} steps of {} reach timestep {timestep}, the last is {}; ask for fewer steps",
            self.steps,
            self.kind.name(),
            trained - 1
        );
        Err(SpecError::one(Field::Steps, message).into())
    }
}

fn with_last(levels: &[f64], last: f32) -> Vec<f32> {
    levels.iter().map(|&level| level as f32).chain([last]).collect()
}
