//! What a `scheduler_config.json` says, checked field by field.

use serde_json::{Map, Value};

use crate::engine::EngineError;

/// What the network's output means (`prediction_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PredictionType {
    /// The noise in the latents: Stable Diffusion 1.x, 2.x base.
    Epsilon,
    /// A mix of noise and picture, `sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0`: Stable
    /// Diffusion 2.x at 768 pixels.
    Velocity,
}

/// How a run's timesteps are spread over the trained ones (`timestep_spacing`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spacing {
    Leading,
    Trailing,
    Linspace,
}

/// Shape of the noise schedule (`beta_schedule`, `trained_betas`).
#[derive(Debug, Clone, PartialEq)]
enum Betas {
    Linear { start: f64, end: f64 },
    ScaledLinear { start: f64, end: f64 },
    Cosine,
    Trained(Vec<f32>),
}

/// The fields that DDIM reads, with the defaults of `DDIMScheduler`.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) prediction_type: PredictionType,
    pub(super) spacing: Spacing,
    pub(super) steps_offset: usize,
    pub(super) set_alpha_to_one: bool,
    /// `clip_sample_range` where `clip_sample` is set.
    pub(super) clip: Option<f64>,
    timesteps: usize,
    betas: Betas,
}

impl Settings {
    pub(super) fn parse(json: &str, file: &str) -> Result<Self, EngineError> {
        let values: Value = serde_json::from_str(json)
            .map_err(|error| refuse(file, format!("is not JSON: {error}")))?;
        let Value::Object(values) = values else {
            return Err(refuse(file, "is not a JSON object".to_owned()));
        };
        let fields = Fields { values: &values, file };
        let timesteps = fields.integer("num_train_timesteps", 1_000, 1..=100_000)?;
        for (name, why) in [
            ("thresholding", "is unsuitable for latents"),
            ("rescale_betas_zero_snr", "leaves a step without any signal, which has no log-SNR"),
        ] {
            if fields.flag(name, false)? {
                let message = format!("{name} is true, which {why}; only false is supported");
                return Err(refuse(file, message));
            }
        }
        let class = fields.text("_class_name", "DDIMScheduler")?;
        let class_clips = matches!(class, "DDIMScheduler" | "DDPMScheduler");
        let clip = if fields.flag("clip_sample", class_clips)? {
            Some(fields.number("clip_sample_range", 1.0, 0.0..=1e6)?)
        } else {
            None
        };
        let prediction_type = fields.choice(
            "prediction_type",
            "epsilon",
            &[("epsilon", PredictionType::Epsilon), ("v_prediction", PredictionType::Velocity)],
        )?;
        let spacing = fields.choice(
            "timestep_spacing",
            "leading",
            &[
                ("leading", Spacing::Leading),
                ("trailing", Spacing::Trailing),
                ("linspace", Spacing::Linspace),
            ],
        )?;
        Ok(Self {
            prediction_type,
            spacing,
            steps_offset: fields.integer("steps_offset", 0, 0..=timesteps)?,
            set_alpha_to_one: fields.flag("set_alpha_to_one", true)?,
            clip,
            timesteps,
            betas: fields.betas(timesteps)?,
        })
    }

    /// `alphas_cumprod`, by timestep: betas in f32, the product carried in f64 and rounded to f32
    /// at every timestep, as torch does on the CPU.
    pub(super) fn alpha_bars(&self, file: &str) -> Result<Vec<f64>, EngineError> {
        let betas = match &self.betas {
            Betas::Linear { start, end } => linspace(*start, *end, self.timesteps),
            Betas::ScaledLinear { start, end } => {
                let roots = linspace(start.sqrt(), end.sqrt(), self.timesteps);
                roots.into_iter().map(|root| root * root).collect()
            }
            Betas::Cosine => cosine_betas(self.timesteps),
            Betas::Trained(betas) => betas.clone(),
        };
        let mut product = 1.0;
        let alpha_bars = betas.iter().map(|beta| {
            product *= f64::from(1.0 - beta);
            f64::from(product as f32)
        });
        let alpha_bars: Vec<f64> = alpha_bars.collect();
        for (timestep, &alpha_bar) in alpha_bars.iter().enumerate() {
            // Outside of these, the step's formulas divide by zero.
            if alpha_bar >= 1.0 || alpha_bar < f64::from(f32::MIN_POSITIVE) {
                let message = format!(
                    "the betas leave a signal share of {alpha_bar} at timestep {timestep}; it must lie strictly between 0 and 1"
                );
                return Err(refuse(file, message));
            }
        }
        Ok(alpha_bars)
    }
}

/// `torch.linspace` in f32: from both ends to the middle, each value rounded once.
fn linspace(start: f64, end: f64, count: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    let stride = f64::from((end - start) / (count.max(2) - 1) as f32);
    (0..count)
        .map(|index| {
            let value = if index < count / 2 || count == 1 {
                f64::from(start) + stride * index as f64
            } else {
                f64::from(end) - stride * (count - 1 - index) as f64
            };
            value as f32
        })
        .collect()
}

/// `betas_for_alpha_bar` of diffusers with its cosine and its cap of 0.999.
fn cosine_betas(count: usize) -> Vec<f32> {
    let share = |time: f64| ((time + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
    (0..count)
        .map(|index| {
            let (from, to) = (index as f64 / count as f64, (index + 1) as f64 / count as f64);
            (1.0 - share(to) / share(from)).min(0.999) as f32
        })
        .collect()
}

fn refuse(file: &str, message: String) -> EngineError {
    EngineError::Config { file: file.to_owned(), message }
}

/// Reads fields by name; absent and null mean the default.
struct Fields<'a> {
    values: &'a Map<String, Value>,
    file: &'a str,
}

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.values.get(name).filter(|value| !value.is_null())
    }

    fn wrong(&self, name: &str, value: &Value, wanted: &str) -> EngineError {
        // A hostile value may be of any length; a message is not.
        let shown: String = value.to_string().chars().take(60).collect();
        refuse(self.file, format!("{name} is {shown}; it must be {wanted}"))
    }

    fn integer(
        &self,
        name: &str,
        default: usize,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, EngineError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        let wanted = || format!("a whole number from {} to {}", range.start(), range.end());
        value
            .as_u64()
            .and_then(|number| usize::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.wrong(name, value, &wanted()))
    }

    fn number(
        &self,
        name: &str,
        default: f64,
        range: std::ops::RangeInclusive<f64>,
    ) -> Result<f64, EngineError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        let wanted = || format!("a number from {} to {}", range.start(), range.end());
        value
            .as_f64()
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.wrong(name, value, &wanted()))
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool, EngineError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(name, value, "true or false"))
    }

    fn text(&self, name: &str, default: &'a str) -> Result<&'a str, EngineError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value.as_str().ok_or_else(|| self.wrong(name, value, "a string"))
    }

    fn choice<T: Clone>(
        &self,
        name: &str,
        default: &'a str,
        choices: &[(&str, T)],
    ) -> Result<T, EngineError> {
        let chosen = self.text(name, default)?;
        choices.iter().find(|(key, _)| *key == chosen).map(|(_, choice)| choice.clone()).ok_or_else(
            || {
                let keys: Vec<&str> = choices.iter().map(|(key, _)| *key).collect();
                let wanted = format!("one of {}", keys.join(", "));
                self.wrong(name, &Value::String(chosen.to_owned()), &wanted)
            },
        )
    }

    /// A noise added at one timestep, strictly between none and all.
    fn beta(&self, name: &str, default: f64) -> Result<f64, EngineError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value
            .as_f64()
            .filter(|beta| *beta > 0.0 && *beta < 1.0)
            .ok_or_else(|| self.wrong(name, value, "a number above 0 and below 1"))
    }

    fn trained_betas(&self) -> Result<Option<Vec<f32>>, EngineError> {
        const NAME: &str = "trained_betas";
        let Some(value) = self.get(NAME) else { return Ok(None) };
        let betas: Option<Vec<f32>> =
            value.as_array().filter(|list| (1..=100_000).contains(&list.len())).and_then(|list| {
                list.iter()
                    .map(|beta| beta.as_f64().filter(|beta| *beta > 0.0 && *beta < 1.0))
                    .map(|beta| beta.map(|beta| beta as f32))
                    .collect()
            });
        let wanted = "a list of 1 to 100000 numbers above 0 and below 1";
        betas.map(Some).ok_or_else(|| self.wrong(NAME, value, wanted))
    }

    fn betas(&self, timesteps: usize) -> Result<Betas, EngineError> {
        if let Some(betas) = self.trained_betas()? {
            if betas.len() != timesteps {
                let message = format!(
                    "trained_betas has {} values, num_train_timesteps is {timesteps}; they must agree",
                    betas.len()
                );
                return Err(refuse(self.file, message));
            }
            return Ok(Betas::Trained(betas));
        }
        let (start, end) = (self.beta("beta_start", 0.0001)?, self.beta("beta_end", 0.02)?);
        self.choice(
            "beta_schedule",
            "linear",
            &[
                ("linear", Betas::Linear { start, end }),
                ("scaled_linear", Betas::ScaledLinear { start, end }),
                ("squaredcos_cap_v2", Betas::Cosine),
            ],
        )
    }
}
