//! What a folder's `scheduler_config.json` means for each sampler.

use serde_json::{Map, Value};

use super::sigmas::Spacing;
use crate::{
    engine::{EngineError, python_json},
    spec::SamplerKind,
};

/// A scheduler config, read anew for each sampler: what diffusers' `X.from_config(pipeline.scheduler.config)`
/// takes from it, after `StableDiffusionPipeline` has mended it.
///
/// Fields are checked when a sampler that knows them is opened, since others never read them.
#[derive(Debug, Clone)]
pub struct SamplerConfig {
    values: Map<String, Value>,
    file: String,
}

impl SamplerConfig {
    /// Reads a `scheduler_config.json`; `file` names it in messages.
    pub fn parse(json: &str, file: &str) -> Result<Self, EngineError> {
        let values = python_json::read(json).map_err(|error| EngineError::Config {
            file: file.to_owned(),
            message: format!("is not a JSON object: {error}"),
        })?;
        Ok(Self { values, file: file.to_owned() })
    }

    /// The sampler of the folder's own class; none where Keystep has none of it.
    pub fn own(&self) -> Option<SamplerKind> {
        let kind = match self.class()? {
            "DDIMScheduler" => SamplerKind::Ddim,
            "PNDMScheduler" => SamplerKind::Pndm,
            "EulerDiscreteScheduler" => SamplerKind::Euler,
            "EulerAncestralDiscreteScheduler" => SamplerKind::EulerAncestral,
            "DPMSolverMultistepScheduler" => {
                let karras = self.get("use_karras_sigmas").and_then(Value::as_bool);
                if karras == Some(true) { SamplerKind::Dpmpp2mKarras } else { SamplerKind::Dpmpp2m }
            }
            "UniPCMultistepScheduler" => SamplerKind::Unipc,
            "LCMScheduler" => SamplerKind::Lcm,
            _ => return None,
        };
        Some(kind)
    }

    /// What pictures are drawn with: the sampler asked for, or else the folder's own; DDIM where
    /// Keystep has none of its class.
    pub fn kind(&self, asked: Option<SamplerKind>) -> SamplerKind {
        asked.or_else(|| self.own()).unwrap_or_default()
    }

    /// The class that the config names.
    fn class(&self) -> Option<&str> {
        self.get("_class_name").and_then(Value::as_str)
    }

    /// That Keystep has no sampler of the config's class, in words; none where it has.
    pub(in crate::engine) fn foreign_class(&self) -> Option<String> {
        if self.own().is_some() {
            return None;
        }
        // A hostile name may be of any length; a message is not.
        let named = match self.class() {
            Some(class) => format!("is {:?}", class.chars().take(60).collect::<String>()),
            None => "is absent".to_owned(),
        };
        let samplers = SamplerKind::names();
        Some(format!(
            "{}: _class_name {named}, and Keystep has no such sampler; pictures are drawn with ddim \
             where none of {samplers} is asked for",
            self.file
        ))
    }

    pub(super) fn spacing(&self, default: Spacing) -> Result<Spacing, EngineError> {
        let choices = [
            ("leading", Spacing::Leading),
            ("trailing", Spacing::Trailing),
            ("linspace", Spacing::Linspace),
        ];
        let Some(value) = self.get("timestep_spacing") else { return Ok(default) };
        choices
            .into_iter()
            .find(|(name, _)| value.as_str() == Some(name))
            .map(|(_, spacing)| spacing)
            .ok_or_else(|| self.wrong("timestep_spacing", value, "leading, trailing or linspace"))
    }

    /// `steps_offset`. The pipeline makes it 1 in any config; a change of class keeps that where the
    /// file has the field, and else goes back to the class's own 0.
    pub(super) fn offset(&self, kind: SamplerKind) -> usize {
        usize::from(self.own() == Some(kind) || self.values.contains_key("steps_offset"))
    }

    /// Whether levels are spread as Karras et al. spread them.
    pub(super) fn karras(&self) -> Result<bool, EngineError> {
        self.flag("use_karras_sigmas", false)
    }

    /// Whether the last step stops at the lowest trained noise level rather than at none.
    pub(super) fn stops_at_lowest(&self) -> Result<bool, EngineError> {
        match self.get("final_sigmas_type") {
            None => Ok(false),
            Some(Value::String(text)) if text == "zero" => Ok(false),
            Some(Value::String(text)) if text == "sigma_min" => Ok(true),
            Some(value) => Err(self.wrong("final_sigmas_type", value, "zero or sigma_min")),
        }
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool, EngineError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(name, value, "true or false"))
    }

    pub(super) fn number(&self, name: &str, default: f64) -> Result<f64, EngineError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        let number = value.as_f64().filter(|number| number.abs() <= 1e6);
        number.ok_or_else(|| self.wrong(name, value, "a number from -1000000 to 1000000"))
    }

    pub(super) fn positive(&self, name: &str) -> Result<Option<f64>, EngineError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_f64().filter(|number| *number > 0.0 && *number <= 1e6);
        number.map(Some).ok_or_else(|| self.wrong(name, value, "a number above 0, 1000000 at most"))
    }

    pub(super) fn integer(
        &self,
        name: &str,
        default: usize,
        most: usize,
    ) -> Result<usize, EngineError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        number
            .filter(|number| (1..=most).contains(number))
            .ok_or_else(|| self.wrong(name, value, &format!("a whole number from 1 to {most}")))
    }

    /// Refuses a field that holds none of the values that a sampler can follow.
    pub(super) fn only(&self, name: &str, values: &[Value]) -> Result<(), EngineError> {
        match self.get(name) {
            Some(value) if !values.contains(value) => {
                let names: Vec<String> = values.iter().map(Value::to_string).collect();
                let wanted = format!("{} for this sampler; or ask for ddim", names.join(" or "));
                Err(self.wrong(name, value, &wanted))
            }
            _ => Ok(()),
        }
    }

    /// Absent and null mean the default.
    fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name).filter(|value| !value.is_null())
    }

    fn wrong(&self, name: &str, value: &Value, wanted: &str) -> EngineError {
        // A hostile value may be of any length; a message is not.
        let shown: String = value.to_string().chars().take(60).collect();
        let message = format!("{name} is {shown}; it must be {wanted}");
        EngineError::Config { file: self.file.clone(), message }
    }
}
