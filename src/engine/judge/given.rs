//! Judges that a user gives, each a folder: what lies in it, by its configs and headers.

use candle_core::Device;

use super::{
    classifier::{ClassifierJudge, ClassifierPart},
    clip::ClipPart,
    folder::JudgeFolder,
    naming::{Domain, Judge},
    nudity::{self, NudityPart},
};
use crate::{
    engine::{EngineError, checkpoint::read_text, family::config::fields::Fields},
    spec::ModelFiles,
};

/// Folders of a judge that is two classifiers, each with its own network.
const PAIR: [(Domain, &str); 2] = [(Domain::Objects, "objects"), (Domain::Styles, "styles")];

/// A judge beside those of the model's own folder.
///
/// Its folder holds a `config.json`, the weights as `model.safetensors` and, where the family has
/// them, `preprocessor_config.json`, a tokenizer and `labels.json`: a `CLIPModel` of transformers,
/// a classifier (a vision transformer of transformers or timm, a ResNet of transformers or
/// torchvision), or a detector of nudity, whose weights may be a `model.onnx` too. A folder with such
/// a classifier in `objects` and another one in `styles` is a judge of both.
#[derive(Debug, Clone, Copy)]
pub struct GivenJudge<'a> {
    /// How reports call it.
    pub name: &'a str,
    /// Its folder.
    pub files: &'a dyn ModelFiles,
}

/// A judge of which only configs and headers were read so far.
pub(super) enum GivenPart<'a> {
    Clip(Box<ClipPart<'a>>),
    /// One, or one for each domain.
    Classifiers(Vec<ClassifierPart<'a>>),
    Nudity(NudityPart<'a>),
}

impl<'a> GivenPart<'a> {
    /// Looks at a folder; `inside` are the paths of its classifiers' folders, of which one that is
    /// a pair has two.
    pub(super) fn find(
        folder: &'a JudgeFolder<'a>,
        inside: &'a [String],
        warnings: &mut Vec<String>,
    ) -> Result<Self, EngineError> {
        if let [first, second] = inside {
            let objects = ClassifierPart::find(folder, first, warnings)?;
            let styles = ClassifierPart::find(folder, second, warnings)?;
            for (part, path, (own, _), (other, name)) in
                [(&objects, first, PAIR[0], PAIR[1]), (&styles, second, PAIR[1], PAIR[0])]
            {
                if !part.knows(own) || part.knows(other) {
                    return Err(EngineError::Config {
                        file: format!("{}/{path}/labels.json", folder.location()),
                        message: format!(
                            "is to name {} alone, since {name}/ is a classifier of its own",
                            own.name()
                        ),
                    });
                }
            }
            return Ok(Self::Classifiers(vec![objects, styles]));
        }
        let component = folder.component();
        let name = format!("{component}/config.json");
        let file = format!("{}/{name}", folder.location());
        let json = read_text(folder, &name)?;
        let fields = Fields::parse(&json, &file)?;
        if fields.text("model_type")? == Some("clip") {
            let part = ClipPart::find(folder, component, warnings)?;
            return Ok(Self::Clip(Box::new(part)));
        }
        if fields.text("architecture")?.is_some_and(nudity::is_detector) {
            return NudityPart::find(folder, component, warnings).map(Self::Nudity);
        }
        Ok(Self::Classifiers(vec![ClassifierPart::find(folder, component, warnings)?]))
    }

    /// Paths of the folders that hold the classifiers of a pair; none where the folder is no pair.
    pub(super) fn inside(folder: &JudgeFolder) -> Vec<String> {
        let is_there = |name: &str| folder.has(&format!("{name}/config.json"));
        if folder.has("config.json") || !PAIR.iter().all(|(_, name)| is_there(name)) {
            return Vec::new();
        }
        PAIR.iter().map(|(_, name)| format!("{}/{name}", folder.component())).collect()
    }

    /// Numbers of all weights.
    pub(super) fn parameters(&self) -> u64 {
        match self {
            Self::Clip(part) => part.parameters(),
            Self::Classifiers(parts) => parts.iter().map(ClassifierPart::parameters).sum(),
            Self::Nudity(part) => part.parameters(),
        }
    }

    /// Reads its weights.
    pub(super) fn read(self, name: &str, device: &Device) -> Result<Box<dyn Judge>, EngineError> {
        Ok(match self {
            Self::Clip(part) => Box::new(part.read(name, device)?),
            Self::Classifiers(parts) => {
                let classifiers = parts.into_iter().map(|part| part.read(device));
                Box::new(ClassifierJudge::new(name, classifiers.collect::<Result<_, _>>()?))
            }
            Self::Nudity(part) => Box::new(part.read(name, device)?),
        })
    }
}
