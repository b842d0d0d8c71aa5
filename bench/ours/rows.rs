//! Each kind of work.

use std::{collections::HashMap, error::Error, path::Path};

use candle_core::{DType, Device, Tensor, safetensors};
use keystep::{
    artifacts::open_model,
    engine::{
        Batch, CandleEngine, ErasedCheckpoint, LoneSteps, RunContext,
        checkpoint::{read_component, read_large, read_text},
        family::{Conditioning, Denoiser, Unet, UnetConfig, Vae, VaeConfig},
        nn::Weights,
        ops,
    },
    spec::{
        Concept, ConceptKind, GenerateSpec, JudgeSpec, MethodName, ModelFiles, SamplerKind, Scope,
        UnlearnSpec,
    },
};

type Failure = Box<dyn Error>;

/// Values that are compared with the other side's, at most.
const VALUES: usize = 4_096;
/// As `bench/reference/worker.py` has it.
const RATE: f64 = 1e-5;
/// Losses that are compared.
const LOSSES: usize = 8;

/// Some work that can be done again.
pub(crate) trait Row {
    /// Does it once.
    fn run(&mut self) -> Result<(), Failure>;
    /// What came of it, thinned out evenly.
    fn values(&self) -> Result<Vec<f64>, Failure>;
    /// What a reader of the figures must know.
    fn notes(&self) -> Result<String, Failure> {
        Ok(String::new())
    }
}

/// Loads a row's model and inputs.
pub(crate) fn load(work: &str, model: &str, inputs: &Path) -> Result<Box<dyn Row>, Failure> {
    let inputs = Inputs(safetensors::load(inputs, &Device::Cpu)?);
    if work == "gemm" {
        let (left, right) = (inputs.take("left")?, inputs.take("right")?);
        return Ok(Box::new(Pure::new(move || Ok(left.matmul(&right)?))));
    }
    // As loading a whole pipeline does.
    ops::keep_freed_memory();
    let files = open_model(model)?;
    match work {
        "image" => return Ok(Box::new(Image::new(files.as_ref())?)),
        "erasure" => return Ok(Box::new(Erasure::new(files.as_ref())?)),
        "vae-decode" => {
            let config = VaeConfig::parse(&read_text(files.as_ref(), "vae/config.json")?, "vae")?;
            let stored = read_component(files.as_ref(), "vae", None, &Device::Cpu)?;
            let vae = Vae::new(&Weights::frozen(&stored), &config)?;
            let latents = inputs.take("sample")?;
            return Ok(Box::new(Pure::new(move || Ok(vae.decode(&latents)?))));
        }
        _ => (),
    }
    let config = UnetConfig::parse(&read_text(files.as_ref(), "unet/config.json")?, "unet")?;
    let stored = read_large(files.as_ref(), "unet", None, None, &Device::Cpu)?;
    let sample = inputs.take("sample")?;
    let context = Conditioning::from(inputs.take("context")?);
    let timesteps = inputs.take("timesteps")?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    if work == "forward" {
        let unet = Unet::new(&Weights::frozen(&stored), &config)?;
        return Ok(Box::new(Pure::new(move || Ok(unet.forward(&sample, &timesteps, &context)?))));
    }
    let scope = match work {
        "train-kv" => Scope::CrossAttentionKeyValue,
        "train-cross" => Scope::CrossAttention,
        "train-rest" => Scope::NonCrossAttention,
        "train-all" => Scope::All,
        other => return Err(format!("\"{other}\" is no work that this program knows").into()),
    };
    let steps = LoneSteps::new(&stored, &config, &scope)?;
    let target = inputs.take("target")?;
    Ok(Box::new(Training { steps, sample, timesteps, context, target, losses: Vec::new() }))
}

struct Inputs(HashMap<String, Tensor>);

impl Inputs {
    fn take(&self, name: &str) -> Result<Tensor, Failure> {
        let tensor = self.0.get(name).ok_or_else(|| format!("the inputs hold no \"{name}\""))?;
        Ok(tensor.clone())
    }
}

fn thinned(values: &[f64]) -> Vec<f64> {
    values.iter().step_by(values.len().div_ceil(VALUES).max(1)).copied().collect()
}

/// A function of nothing but its inputs.
struct Pure<F> {
    function: F,
    last: Option<Tensor>,
}

impl<F: Fn() -> Result<Tensor, Failure>> Pure<F> {
    fn new(function: F) -> Self {
        Self { function, last: None }
    }
}

impl<F: Fn() -> Result<Tensor, Failure>> Row for Pure<F> {
    fn run(&mut self) -> Result<(), Failure> {
        self.last = Some((self.function)()?);
        Ok(())
    }

    fn values(&self) -> Result<Vec<f64>, Failure> {
        let last = self.last.as_ref().ok_or("nothing was computed")?;
        Ok(thinned(&last.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?))
    }
}

/// Forward, backward and a step of Adam.
struct Training {
    steps: LoneSteps,
    sample: Tensor,
    timesteps: Vec<f64>,
    context: Conditioning,
    target: Tensor,
    losses: Vec<f64>,
}

impl Row for Training {
    fn run(&mut self) -> Result<(), Failure> {
        let batch = Batch {
            z: &self.sample,
            timesteps: &self.timesteps,
            prompts: &self.context,
            target: &self.target,
        };
        self.losses.push(self.steps.step(batch, RATE)?);
        Ok(())
    }

    fn values(&self) -> Result<Vec<f64>, Failure> {
        Ok(self.losses.iter().take(LOSSES).copied().collect())
    }
}

/// A picture from prompt to pixels.
struct Image {
    engine: CandleEngine,
    spec: GenerateSpec,
    pixels: Vec<f64>,
}

impl Image {
    fn new(files: &dyn ModelFiles) -> Result<Self, Failure> {
        let spec = GenerateSpec {
            sampler: Some(SamplerKind::Ddim),
            ..GenerateSpec::new(vec![("a cat in neon style".to_owned(), 7)], 25, 5.0)
        };
        Ok(Self { engine: CandleEngine::load(files, None)?, spec, pixels: Vec::new() })
    }
}

impl Row for Image {
    fn run(&mut self) -> Result<(), Failure> {
        let mut ignore = |_| ();
        let mut context = RunContext::reporting(&mut ignore);
        let pictures = self.engine.generate(&self.spec, &mut context)?;
        self.pixels = pictures.iter().flat_map(|p| &p.rgb).map(|byte| f64::from(*byte)).collect();
        Ok(())
    }

    fn values(&self) -> Result<Vec<f64>, Failure> {
        Ok(thinned(&self.pixels))
    }
}

/// An object erased by the keystep preset, to its stop; and judged, once it is no longer timed.
struct Erasure {
    engine: CandleEngine,
    spec: UnlearnSpec,
    erased: Option<ErasedCheckpoint>,
}

impl Erasure {
    fn new(files: &dyn ModelFiles) -> Result<Self, Failure> {
        let engine = CandleEngine::load(files, None)?;
        let spec = UnlearnSpec {
            vocabulary: engine.vocabulary().clone(),
            ..UnlearnSpec::new(Concept::new("cat", ConceptKind::Object), MethodName::Keystep)
        };
        Ok(Self { engine, spec, erased: None })
    }
}

impl Row for Erasure {
    fn run(&mut self) -> Result<(), Failure> {
        let mut ignore = |_| ();
        let mut context = RunContext::reporting(&mut ignore);
        self.erased = Some(self.engine.unlearn(&self.spec, &mut context)?);
        Ok(())
    }

    fn values(&self) -> Result<Vec<f64>, Failure> {
        Ok(Vec::new())
    }

    fn notes(&self) -> Result<String, Failure> {
        let erased = self.erased.as_ref().ok_or("nothing was erased")?;
        let scored: u64 = erased.scores.iter().map(|scores| scores.unet_evaluations).sum();
        let mut ignore = |_| ();
        let mut context = RunContext::reporting(&mut ignore);
        let judging = JudgeSpec::new(self.spec.concepts[0].clone(), self.spec.vocabulary.clone());
        let edited = self.engine.with_erased(erased)?;
        let report = self.engine.judge(&judging, &edited, &mut context)?;
        let judged = report.verdicts.iter().map(|v| format!("{:.3} by {}", v.edited.ua, v.judge));
        Ok(format!(
            "{} updates, {} evaluations, UA {}",
            erased.log.updates.len(),
            erased.log.unet_evaluations + erased.log.check_evaluations + scored,
            judged.collect::<Vec<_>>().join(" and "),
        ))
    }
}
