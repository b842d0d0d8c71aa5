//! Arguments that several verbs share, and the specs that are made of them.

use std::path::{Path, PathBuf};

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use serde::de::DeserializeOwned;

use super::{CliError, remote::ServerArguments};
#[cfg(feature = "server")]
use crate::{
    engine::{ComputeSettings, ComputeType, DeviceChoice},
    spec::{KeySteps, Method, Scope},
};
use crate::{
    outcome::TimestepScores,
    spec::{
        Concept, ConceptKind, JudgeSpec, LogSnrWindow, MethodName, SamplerKind, Vocabulary,
        same_words,
    },
};

/// How much is said.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct QuietArguments {
    /// Show no progress; errors and results are still printed.
    #[arg(long, short)]
    pub(super) quiet: bool,
}

/// Which model.
#[derive(Debug, Clone, Args)]
pub(super) struct ModelArguments {
    /// The model: a diffusers folder or builtin:emoji-canvas with --local, a name of `keystep
    /// models list` with --server.
    #[arg(long, value_name = "DIR|NAME")]
    pub(super) model: Option<String>,
    /// Read the weights of a variant, such as fp16 for `diffusion_pytorch_model.fp16.safetensors`;
    /// --local alone [default: the files without a variant].
    #[cfg(feature = "server")]
    #[arg(long, value_name = "NAME", conflicts_with = "server")]
    pub(super) variant: Option<String>,
    #[cfg(feature = "server")]
    #[command(flatten)]
    pub(super) compute: ComputeArguments,
}

impl ModelArguments {
    /// The model, which no verb can do without.
    pub(super) fn name(&self) -> Result<&str, CliError> {
        self.model.as_deref().ok_or_else(|| CliError::Usage("--model is missing".to_owned()))
    }

    /// What a server would pass over, with whether it was given: flags of the model, then `more`.
    pub(super) fn only_local(&self, more: &[(&'static str, bool)]) -> Vec<(&'static str, bool)> {
        let own: &[_] = &[
            #[cfg(feature = "server")]
            ("--variant", self.variant.is_some()),
            #[cfg(feature = "server")]
            ("--device", self.compute.device.is_some()),
            #[cfg(feature = "server")]
            ("--compute-type", self.compute.compute_type.is_some()),
        ];
        [own, more].concat()
    }
}

/// Device and type, for work in this process.
#[cfg(feature = "server")]
#[derive(Debug, Clone, Copy, Default, Args)]
pub(super) struct ComputeArguments {
    /// What computes: auto, cpu, cuda or cuda:N; --local alone [default: auto, which is the first
    /// CUDA device where this build knows CUDA and one answers, else the CPU].
    #[arg(long, value_name = "DEVICE")]
    pub(super) device: Option<DeviceChoice>,
    /// What the U-Net computes in: f32, f16 or bf16, the CPU in f32 alone; trained weights stay f32;
    /// --local alone [default: f32].
    #[arg(long, value_name = "TYPE")]
    pub(super) compute_type: Option<ComputeType>,
}

#[cfg(feature = "server")]
impl ComputeArguments {
    /// The device and type to compute on, by default where they were not given.
    pub(super) fn settings(self) -> ComputeSettings {
        ComputeSettings {
            device: self.device.unwrap_or_default(),
            compute_type: self.compute_type.unwrap_or_default(),
        }
    }
}

/// This process, or which server.
#[derive(Debug, Clone, Args)]
pub(super) struct PlaceArguments {
    /// Do the work in this process, without a server.
    #[cfg(feature = "server")]
    #[arg(long, conflicts_with_all = [
        "server", "token_file", "ca_file", "client_certificate", "client_key", "json",
    ])]
    pub(super) local: bool,
    #[command(flatten)]
    pub(super) server: ServerArguments,
}

impl PlaceArguments {
    /// The server that was named, where nothing was given that only this process understands.
    pub(super) fn server(
        &self,
        only_local: &[(&'static str, bool)],
    ) -> Result<&ServerArguments, CliError> {
        self.server.address().map_err(|error| {
            if cfg!(feature = "server") {
                CliError::Usage(format!("{error}, or use --local to work in this process"))
            } else {
                error.into()
            }
        })?;
        match only_local.iter().find(|(_, given)| *given) {
            None => Ok(&self.server),
            Some((flag, _)) => Err(CliError::Usage(format!(
                "{flag} is for --local and means nothing to a server; leave it out"
            ))),
        }
    }
}

/// What is drawn to judge an erased model, and who judges it.
#[derive(Debug, Clone, Args)]
pub(super) struct JudgingArguments {
    #[command(flatten)]
    pub(super) vocabulary: VocabularyArguments,
    /// A judge to ask beside the model's own: with --local its folder, which docs/judges.md
    /// describes; with --server its name in the server's configuration. Give it again for several.
    #[arg(long, value_name = "DIR|NAME")]
    pub(super) judge: Vec<String>,
    /// Where the pictures' seeds start.
    #[arg(long, value_name = "N", default_value_t = 500_000)]
    pub(super) seed: u64,
    /// Pictures of each prompt with the concept [default: so many that there are 32 or more].
    #[arg(long, value_name = "N")]
    pub(super) target_seeds: Option<u32>,
    /// Pictures of each prompt without it [default: 1].
    #[arg(long, value_name = "N")]
    pub(super) retain_seeds: Option<u32>,
    /// Denoising steps, 1 to 1000 [default: 20].
    #[arg(long, value_name = "N")]
    pub(super) steps: Option<u32>,
    /// Classifier-free guidance, 0 to 100 [default: 5].
    #[arg(long, value_name = "SCALE")]
    pub(super) guidance_scale: Option<f64>,
    #[command(flatten)]
    pub(super) sampler: SamplerArguments,
}

impl JudgingArguments {
    /// Puts what was given into a request's defaults.
    pub(super) fn adjust(&self, spec: &mut JudgeSpec) {
        let count = |given: Option<u32>, default| given.map_or(default, |given| given as usize);
        spec.seed = self.seed;
        spec.target_seeds = count(self.target_seeds, spec.target_seeds);
        spec.retain_seeds = count(self.retain_seeds, spec.retain_seeds);
        spec.steps = count(self.steps, spec.steps);
        spec.guidance_scale = self.guidance_scale.unwrap_or(spec.guidance_scale);
        spec.sampler = self.sampler.sampler;
    }
}

/// A share that a judgement shall be able to show.
pub(super) fn parse_shown(text: &str) -> Result<f64, String> {
    let range = JudgeSpec::SHOWN;
    let share = text.parse::<f64>().ok().filter(|share| range.contains(share));
    share.ok_or_else(|| {
        format!("give a share of {} to {}, such as 0.95", range.start(), range.end())
    })
}

/// A value that work in one of the two places needs.
pub(super) fn needed<'a, T: ?Sized>(
    value: Option<&'a T>,
    flag: &str,
    place: &str,
) -> Result<&'a T, CliError> {
    value.ok_or_else(|| CliError::Usage(format!("{flag} is missing; {place} needs it")))
}

/// What draws.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct SamplerArguments {
    /// Sampler: ddim, pndm, euler, euler-ancestral, dpmpp-2m, dpmpp-2m-karras, unipc or lcm
    /// [default: the one that the model's folder names; `evaluate` reads the base model's].
    #[arg(long, value_name = "NAME")]
    pub(super) sampler: Option<SamplerKind>,
}

/// The words of contexts and neighbours.
#[derive(Debug, Clone, Args)]
pub(super) struct VocabularyArguments {
    /// JSON file with the words that the model is known to draw: {"anything": "picture",
    /// "objects": […], "styles": […]} [default: vocabulary.json of the model].
    #[arg(long, value_name = "FILE")]
    pub(super) vocabulary: Option<PathBuf>,
}

impl VocabularyArguments {
    /// The words given, if any.
    pub(super) fn given(&self) -> Result<Option<Vocabulary>, CliError> {
        let Some(path) = &self.vocabulary else { return Ok(None) };
        let words: Vocabulary = read_json(path, "a vocabulary with objects and styles")?;
        words.validate()?;
        Ok(Some(words))
    }

    /// The words given, or else the model's own.
    #[cfg(feature = "server")]
    pub(super) fn words(&self, of_model: &Vocabulary) -> Result<Vocabulary, CliError> {
        Ok(self.given()?.unwrap_or_else(|| of_model.clone()))
    }
}

/// How to erase.
#[derive(Debug, Clone, Args)]
pub(super) struct MethodArguments {
    /// The method: keystep (ours, window measured), kscu or esd (both as published).
    #[arg(long, value_name = "METHOD", default_value = "keystep", value_parser = method_parser())]
    pub(super) method: MethodName,
    /// Adam's learning rate. For keystep: the step of each tensor as a share of the tensor's root
    /// mean square [default: keystep 3e-2; kscu and esd 1e-5, as published; in `demo` their best
    /// rates on the built-in model].
    #[arg(long, value_name = "RATE")]
    pub(super) learning_rate: Option<f64>,
    /// Most updates; keystep stops earlier once the concept is gone [default: keystep 100, esd
    /// 1000, kscu 200 to 750 by kind].
    #[arg(long, value_name = "N")]
    pub(super) updates: Option<usize>,
}

#[cfg(feature = "server")]
impl MethodArguments {
    /// The preset for a kind with what was given put in.
    pub(super) fn preset(&self, kind: ConceptKind, several: bool) -> (Method, Scope) {
        let (mut method, scope) = Method::preset(self.method, kind, several);
        let (updates, rate) = match &mut method {
            Method::Keystep(settings) => (&mut settings.updates, &mut settings.relative_rate),
            Method::Kscu(settings) => (&mut settings.updates, &mut settings.learning_rate),
            Method::Esd(settings) => (&mut settings.updates, &mut settings.learning_rate),
        };
        *updates = self.updates.unwrap_or(*updates);
        *rate = self.learning_rate.unwrap_or(*rate);
        (method, scope)
    }
}

/// Where on the denoising path keystep trains.
#[derive(Debug, Clone, Args)]
#[group(multiple = false)]
pub(super) struct WindowArguments {
    /// Train between these noise levels, in natural log-SNR, such as -4.2:-0.5 (method keystep
    /// only) [default: measured first].
    #[arg(long, value_name = "LOW:HIGH", allow_hyphen_values = true, value_parser = parse_window)]
    pub(super) window: Option<LogSnrWindow>,
    /// Take the window from a scores.json of `keystep score` (method keystep only).
    #[arg(long, value_name = "FILE")]
    pub(super) scores: Option<PathBuf>,
    /// Take the window from the scores that the server knows by this digest, as `keystep score
    /// --server` prints it (method keystep only).
    #[arg(long, value_name = "SHA256")]
    #[cfg_attr(feature = "server", arg(conflicts_with = "local"))]
    pub(super) score_digest: Option<String>,
}

impl WindowArguments {
    /// The window given, and the scores that it came from.
    pub(super) fn given(
        &self,
        method: MethodName,
        concepts: &[Concept],
    ) -> Result<Option<(LogSnrWindow, Option<TimestepScores>)>, CliError> {
        let scores = self.scores.as_deref().map(|path| read_scores(path, concepts)).transpose()?;
        let Some(window) = self.window.or(scores.as_ref().map(|scores| scores.window)) else {
            return Ok(None);
        };
        if method != MethodName::Keystep {
            return Err(CliError::Usage(format!(
                "the method {} has its own key steps; --window and --scores are for keystep",
                method.name()
            )));
        }
        Ok(Some((window, scores)))
    }

    /// Puts a given window into the method; gives the scores that it came from.
    #[cfg(feature = "server")]
    pub(super) fn apply(
        &self,
        method: &mut Method,
        concepts: &[Concept],
    ) -> Result<Option<TimestepScores>, CliError> {
        let Some((window, scores)) = self.given(method.name(), concepts)? else {
            return Ok(None);
        };
        if let Method::Keystep(settings) = method {
            settings.key_steps = KeySteps::Window(window);
        }
        Ok(scores)
    }
}

/// Reads a JSON file that the user named.
pub(super) fn read_json<T: DeserializeOwned>(
    path: &Path,
    expected: &'static str,
) -> Result<T, CliError> {
    let bytes =
        std::fs::read(path).map_err(|source| CliError::File { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| CliError::Json {
        path: path.to_owned(),
        expected,
        source,
    })
}

fn read_scores(path: &Path, concepts: &[Concept]) -> Result<TimestepScores, CliError> {
    let scores: TimestepScores = read_json(path, "a scores.json of `keystep score`")?;
    let scored = &scores.spec.concept.text;
    if concepts.iter().any(|concept| same_words(&concept.text, scored)) {
        Ok(scores)
    } else {
        Err(CliError::Usage(format!(
            "{} scores \"{}\", which is not to be erased; score the concept itself or give --window",
            path.display(),
            scores.spec.concept.text
        )))
    }
}

/// Parses `--kind`, with the kinds listed in the help.
pub(super) fn kind_parser() -> impl TypedValueParser<Value = ConceptKind> {
    PossibleValuesParser::new(ConceptKind::ALL.iter().map(|kind| kind.name()))
        .try_map(|text| text.parse::<ConceptKind>())
}

fn method_parser() -> impl TypedValueParser<Value = MethodName> {
    let names = [MethodName::Keystep, MethodName::Kscu, MethodName::Esd].map(MethodName::name);
    PossibleValuesParser::new(names).try_map(|text| text.parse::<MethodName>())
}

fn parse_window(text: &str) -> Result<LogSnrWindow, String> {
    let (low, high) =
        text.split_once(':').ok_or("give two noise levels as LOW:HIGH, such as -4.2:-0.5")?;
    let number = |part: &str| {
        part.trim()
            .parse::<f64>()
            .ok()
            .filter(|level| level.is_finite())
            .ok_or_else(|| format!("\"{part}\" is not a number"))
    };
    let window = LogSnrWindow { low: number(low)?, high: number(high)? };
    if window.low > window.high {
        return Err("LOW is above HIGH; low log-SNR is noisy, high is clean".to_owned());
    }
    Ok(window)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn windows_are_two_numbers_in_order() {
        assert_eq!(parse_window("-4.2:-0.5"), Ok(LogSnrWindow { low: -4.2, high: -0.5 }));
        for wrong in ["", "1", "2:1", "a:b", "nan:1", "0:inf"] {
            assert!(parse_window(wrong).is_err(), "{wrong}");
        }
    }

    #[cfg(feature = "server")]
    #[test]
    fn a_window_is_for_keystep_alone() {
        let window = Some(LogSnrWindow { low: -1.0, high: 1.0 });
        let arguments = WindowArguments { window, scores: None, score_digest: None };
        let preset = |name| Method::preset(name, ConceptKind::Object, false).0;
        assert!(arguments.apply(&mut preset(MethodName::Keystep), &[]).is_ok());
        assert!(matches!(
            arguments.apply(&mut preset(MethodName::Esd), &[]),
            Err(CliError::Usage(_))
        ));
    }

    #[cfg(feature = "server")]
    #[test]
    fn given_knobs_replace_the_presets() {
        let arguments = MethodArguments {
            method: MethodName::Kscu,
            learning_rate: Some(3e-4),
            updates: Some(7),
        };
        let (Method::Kscu(settings), _) = arguments.preset(ConceptKind::Style, false) else {
            panic!("another method")
        };
        assert_eq!((settings.updates, settings.first_key_step), (7, 24));
        assert!((settings.learning_rate - 3e-4).abs() < 1e-12);
    }

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        place: PlaceArguments,
    }

    #[test]
    fn what_a_server_would_pass_over_is_refused() {
        let line = Line::try_parse_from(["keystep", "--server", "http://127.0.0.1:1"]).unwrap();
        assert!(line.place.server(&[("--out", false)]).is_ok());
        let error = line.place.server(&[("--sheet", false), ("--out", true)]).unwrap_err();
        assert!(error.to_string().starts_with("--out is for --local"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[cfg(feature = "server")]
    #[test]
    fn there_is_one_place() {
        let both = ["keystep", "--local", "--server", "http://127.0.0.1:1"];
        assert!(Line::try_parse_from(both).is_err());
        assert!(Line::try_parse_from(["keystep", "--local", "--json"]).is_err());
        assert!(Line::try_parse_from(["keystep", "--local"]).unwrap().place.local);
    }
}
