//! What a `scheduler_config.json` says, checked field by field.

use serde_json::{Map, Value};

use crate::engine::{EngineError, python_json, schedule::PredictionType};

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

const CLIP_SAMPLE: &str = "clip_sample";
const STEPS_OFFSET: &str = "steps_offset";
/// What a pipeline sets whatever its file says.
const REPAIRED: [&str; 2] = [CLIP_SAMPLE, STEPS_OFFSET];

/// The fields that DDIM reads, with the defaults of `DDIMScheduler`.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) prediction_type: PredictionType,
    pub(super) spacing: Spacing,
    pub(super) steps_offset: usize,
    pub(super) set_alpha_to_one: bool,
    /// `clip_sample_range` where `clip_sample` is set.
    pub(super) clip: Option<f64>,
    /// The fields of these that the file gives; for messages.
    given: Vec<&'static str>,
    timesteps: usize,
    betas: Betas,
    /// `rescale_betas_zero_snr`: the last timestep has no signal left.
    pub(super) zero_snr: bool,
}

impl Settings {
    pub(super) fn parse(json: &str, file: &str) -> Result<Self, EngineError> {
        let values: Value = python_json::read(json)
            .map_err(|error| refuse(file, format!("is not JSON: {error}")))?;
        let Value::Object(values) = values else {
            return Err(refuse(file, "is not a JSON object".to_owned()));
        };
        let fields = Fields { values: &values, file };
        let timesteps = fields.integer("num_train_timesteps", 1_000, 1..=100_000)?;
        if fields.flag("thresholding", false)? {
            let message =
                "thresholding is true, which is unsuitable for latents; only false is supported";
            return Err(refuse(file, message.to_owned()));
        }
        let class = fields.text("_class_name", "DDIMScheduler")?;
        let class_clips = matches!(class, "DDIMScheduler" | "DDPMScheduler");
        let clip = if fields.flag(CLIP_SAMPLE, class_clips)? {
            Some(fields.number("clip_sample_range", 1.0, 0.0..=1e6)?)
        } else {
            None
        };
        let prediction_type = fields.choice(
            "prediction_type",
            "epsilon",
            &[("epsilon", PredictionType::Epsilon), ("v_prediction", PredictionType::Velocity)],
        )?;
        let zero_snr = fields.flag("rescale_betas_zero_snr", false)?;
        if zero_snr && prediction_type == PredictionType::Epsilon {
            let message = "rescale_betas_zero_snr is true and prediction_type is epsilon; noise alone says nothing of the picture, so set prediction_type to v_prediction if the model was trained to predict that, else rescale_betas_zero_snr to false";
            return Err(refuse(file, message.to_owned()));
        }
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
            steps_offset: fields.integer(STEPS_OFFSET, 0, 0..=timesteps)?,
            set_alpha_to_one: fields.flag("set_alpha_to_one", true)?,
            clip,
            given: REPAIRED.into_iter().filter(|name| fields.get(name).is_some()).collect(),
            timesteps,
            betas: fields.betas(timesteps)?,
            zero_snr,
        })
    }

    /// Sets what diffusers' `StableDiffusionPipeline` sets whatever the file says; gives what that
    /// changed, in words.
    pub(super) fn repair(&mut self, file: &str) -> Vec<String> {
        let mut repairs = Vec::new();
        let mut tell = |name: &'static str, before: &str, after: &str| {
            let is = if self.given.contains(&name) { "is" } else { "is absent, which stands for" };
            repairs.push(format!(
                "{file}: {name} {is} {before}; {after} is used, as StableDiffusionPipeline does"
            ));
        };
        if self.clip.take().is_some() {
            tell(CLIP_SAMPLE, "true", "false");
        }
        let offset = std::mem::replace(&mut self.steps_offset, 1);
        if offset != 1 {
            tell(STEPS_OFFSET, &offset.to_string(), "1");
        }
        repairs
    }

    /// `alphas_cumprod`, by timestep, of the betas as the config gives them or rescaled.
    ///
    /// The last timestep of rescaled ones alone may have no signal.
    pub(super) fn alpha_bars(&self, rescale: bool, file: &str) -> Result<Vec<f64>, EngineError> {
        let betas = match &self.betas {
            Betas::Linear { start, end } => linspace(*start, *end, self.timesteps),
            Betas::ScaledLinear { start, end } => {
                let roots = linspace(start.sqrt(), end.sqrt(), self.timesteps);
                roots.into_iter().map(|root| root * root).collect()
            }
            Betas::Cosine => cosine_betas(self.timesteps),
            Betas::Trained(betas) => betas.clone(),
        };
        let betas = if rescale { rescaled_to_zero_snr(&betas) } else { betas };
        let alpha_bars: Vec<f64> = products(&betas).map(f64::from).collect();
        for (timestep, &alpha_bar) in alpha_bars.iter().enumerate() {
            // Outside of these, the step's formulas divide by zero, but for that of the velocity
            // where nothing but noise is left.
            let inside = alpha_bar < 1.0 && alpha_bar >= f64::from(f32::MIN_POSITIVE);
            let emptied = rescale && alpha_bar == 0.0 && timestep + 1 == alpha_bars.len();
            if !inside && !emptied {
                let betas = if rescale { "betas, by rescale_betas_zero_snr," } else { "betas" };
                let message = format!(
                    "the {betas} leave a signal share of {alpha_bar} at timestep {timestep}; it must lie strictly between 0 and 1"
                );
                return Err(refuse(file, message));
            }
        }
        Ok(alpha_bars)
    }
}

/// `torch.cumprod(1 - betas)`: carried in f64 and rounded to f32 at every timestep, as torch does on
/// the CPU.
fn products(betas: &[f32]) -> impl Iterator<Item = f32> {
    betas.iter().scan(1.0, |product, beta| {
        *product *= f64::from(1.0 - beta);
        Some(*product as f32)
    })
}

/// Betas that leave no signal at the last timestep and what they did at the first (diffusers:
/// `rescale_zero_terminal_snr`; Lin et al. 2024, algorithm 1), in f32 as torch
/// computes them.
fn rescaled_to_zero_snr(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = products(betas).map(f32::sqrt).collect();
    let (Some(&first), Some(&last)) = (roots.first(), roots.last()) else { return Vec::new() };
    let scale = first / (first - last);
    let mut before = 1.0;
    let alpha_bars = roots.into_iter().map(|root| ((root - last) * scale).powi(2));
    alpha_bars
        .map(|alpha_bar| 1.0 - alpha_bar / std::mem::replace(&mut before, alpha_bar))
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_neither_clips_nor_starts_without_an_offset() {
        let absent = [
            "clip_sample is absent, which stands for true; false is",
            "steps_offset is absent, which stands for 0; 1 is",
        ];
        for (json, expected) in [
            ("{}", &absent[..]),
            (
                r#"{"clip_sample": true, "steps_offset": 0}"#,
                &["clip_sample is true; false is used", "steps_offset is 0; 1 is used"],
            ),
            (r#"{"_class_name": "DDPMScheduler", "lambda_min_clipped": -Infinity}"#, &absent),
            (
                r#"{"_class_name": "PNDMScheduler", "steps_offset": 3, "clip_sample": true}"#,
                &["clip_sample is true", "steps_offset is 3; 1 is used"],
            ),
            (r#"{"clip_sample": false, "steps_offset": 1}"#, &[]),
            (r#"{"_class_name": "PNDMScheduler", "steps_offset": 1}"#, &[]),
        ] {
            let mut settings = Settings::parse(json, "s.json").unwrap();
            let repairs = settings.repair("s.json");
            assert_eq!((settings.clip, settings.steps_offset), (None, 1), "{json}");
            assert_eq!(repairs.len(), expected.len(), "{json}: {repairs:?}");
            for (repair, expected) in repairs.iter().zip(expected) {
                assert!(repair.starts_with(&format!("s.json: {expected}")), "{repair}");
            }
        }
    }

    #[test]
    fn a_schedule_without_signal_at_its_end_needs_a_velocity() {
        let parse = |json: &str| Settings::parse(json, "file").map_err(|error| error.to_string());
        let refused = parse(r#"{"rescale_betas_zero_snr": true}"#).unwrap_err();
        for part in ["rescale_betas_zero_snr is true", "prediction_type is epsilon"] {
            assert!(refused.contains(part), "{refused}");
        }
        let zero = |more: &str| {
            parse(&format!(
                r#"{{"rescale_betas_zero_snr": true, "prediction_type": "v_prediction"{more}}}"#
            ))
        };
        let settings = zero("").unwrap();
        let [plain, rescaled] =
            [false, true].map(|rescale| settings.alpha_bars(rescale, "file").unwrap());
        assert!((plain[0] - rescaled[0]).abs() < 1e-7 && plain[999] > 0.0);
        assert_eq!(rescaled[999].to_bits(), 0.0_f64.to_bits());
        assert!(rescaled.is_sorted_by(|before, after| before > after));
        assert!(plain.iter().zip(&rescaled).skip(1).all(|(plain, rescaled)| rescaled < plain));
        // A single timestep cannot keep its signal and lose it; nor can two that lose nothing.
        for (more, share) in [
            (r#", "num_train_timesteps": 1"#, "NaN at timestep 0"),
            (
                r#", "num_train_timesteps": 3, "trained_betas": [0.5, 0.1, 1e-12]"#,
                "0 at timestep 1",
            ),
            (r#", "num_train_timesteps": 2, "trained_betas": [0.5, 1e-12]"#, "NaN at timestep 0"),
        ] {
            let settings = zero(more).unwrap();
            let refused = settings.alpha_bars(true, "file").unwrap_err().to_string();
            assert!(refused.contains(share), "{refused}");
            assert!(refused.contains("rescale_betas_zero_snr"), "{refused}");
        }
    }

    #[test]
    fn a_field_that_is_read_must_be_a_number() {
        let refused = Settings::parse(r#"{"beta_start": NaN}"#, "file").unwrap_err().to_string();
        assert!(refused.contains("beta_start is \"NaN\""), "{refused}");
    }
}
