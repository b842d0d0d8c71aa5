//! Classifiers that a user gives as judges: a vision transformer or a ResNet, and the words that its
//! classes stand for.

use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{Func, VarBuilder};
use candle_transformers::models::vit;

use super::{
    labels::Labels,
    naming::{Domain, Judge, softmax},
    pixels::pixels,
    preprocessor::{Preprocessor, Processor},
    resnet::ResnetConfig,
    tensors::Taken,
    vit::VitConfig,
};
use crate::{
    engine::{
        EngineError,
        checkpoint::read_text,
        family::config::fields::{Fields, refuse},
        nn::Weights,
        part::Part,
    },
    outcome::Picture,
    spec::{Concept, Field, ModelFiles, SpecError, Vocabulary},
};

/// Pictures in a pass: these networks are larger than a model's own judges.
const AT_ONCE: usize = 8;

/// What a `config.json` names, and its sizes.
#[derive(Debug)]
enum Architecture {
    Vit(VitConfig),
    Resnet(ResnetConfig),
}

/// The network of candle's.
#[derive(Debug)]
pub(super) enum Network {
    Vit(Box<vit::Model>),
    Resnet(Func<'static>),
}

/// A classifier of which configs, labels and headers were read so far.
pub(super) struct ClassifierPart<'a> {
    part: Part<'a>,
    architecture: Architecture,
    preprocessor: Preprocessor,
    labels: Labels,
}

/// A network and what its classes mean.
#[derive(Debug)]
pub(super) struct Classifier {
    location: String,
    pub(super) network: Network,
    pub(super) preprocessor: Preprocessor,
    labels: Labels,
    working_numbers: u64,
    device: Device,
}

/// One classifier, or one for each domain.
#[derive(Debug)]
pub(super) struct ClassifierJudge {
    name: String,
    classifiers: Vec<Classifier>,
}

impl Architecture {
    fn read(files: &dyn ModelFiles, folder: &str) -> Result<Self, EngineError> {
        let name = format!("{folder}/config.json");
        let file = format!("{}/{name}", files.location());
        let json = read_text(files, &name)?;
        let fields = Fields::parse(&json, &file)?;
        match (fields.text("model_type")?, fields.text("architecture")?) {
            (Some("vit"), _) => VitConfig::of_transformers(&fields, &file).map(Self::Vit),
            (Some("resnet"), _) => ResnetConfig::of_transformers(&fields, &file).map(Self::Resnet),
            (None, Some(named)) => match ResnetConfig::named(named) {
                Some(resnet) => Ok(Self::Resnet(resnet)),
                None => VitConfig::of_timm(named, &fields, &file).map(Self::Vit),
            },
            (Some(other), _) => {
                let shown: String = other.chars().take(80).collect();
                let message = format!(
                    "model_type is \"{shown}\"; judges may be of clip, vit or resnet, or name an \
                     \"architecture\" of timm, torchvision or yolov8 instead"
                );
                Err(refuse(&file, message))
            }
            (None, None) => Err(refuse(
                &file,
                "names neither a model_type (clip, vit, resnet) nor an architecture \
                 (vit_large_patch16_224, resnet50, yolov8n)",
            )),
        }
    }

    fn processor(&self) -> (Processor, Option<usize>) {
        match self {
            Self::Vit(config) => (Processor::Vit, Some(config.image_size())),
            // It has no size of its own.
            Self::Resnet(_) => (Processor::ConvNext, None),
        }
    }

    fn take(&self, w: &Weights) -> Result<Taken, EngineError> {
        match self {
            Self::Vit(config) => config.take(w),
            Self::Resnet(config) => config.take(w),
        }
    }

    fn working_numbers(&self, size: usize) -> u64 {
        let a_picture = match self {
            Self::Vit(config) => config.working_numbers_a_picture(),
            Self::Resnet(config) => config.working_numbers_a_picture(size),
        };
        AT_ONCE as u64 * a_picture
    }

    fn build(&self, taken: Taken, device: &Device) -> Result<Network, EngineError> {
        let variables = |tensors| VarBuilder::from_tensors(tensors, DType::F32, device);
        Ok(match self {
            Self::Vit(config) => Network::Vit(Box::new(config.build(taken, variables)?)),
            Self::Resnet(config) => Network::Resnet(config.build(taken, variables)?),
        })
    }
}

impl Network {
    /// Logits, `[pictures, classes]`.
    pub(super) fn forward(&self, pixels: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Vit(network) => network.forward(pixels),
            Self::Resnet(network) => network.forward(pixels),
        }
    }
}

impl<'a> ClassifierPart<'a> {
    pub(super) fn find(
        files: &'a dyn ModelFiles,
        folder: &'a str,
        warnings: &mut Vec<String>,
    ) -> Result<Self, EngineError> {
        let architecture = Architecture::read(files, folder)?;
        let (processor, size) = architecture.processor();
        let preprocessor = Preprocessor::read(files, folder, processor, size)?;
        let mut classes = 0;
        let build = |w: &Weights| {
            classes = architecture.take(w)?.classes;
            Ok(())
        };
        let part = Part::find(files, (folder, None), build, warnings)?;
        let labels = Labels::read(files, folder, classes)?;
        Ok(Self { part, architecture, preprocessor, labels })
    }

    pub(super) fn parameters(&self) -> u64 {
        self.part.count()
    }

    pub(super) fn knows(&self, domain: Domain) -> bool {
        self.labels.knows(domain)
    }

    pub(super) fn read(self, device: &Device) -> Result<Classifier, EngineError> {
        let tensors = self.part.read(device)?;
        let taken = self.architecture.take(&Weights::frozen(&tensors))?;
        Ok(Classifier {
            location: tensors.location.clone(),
            network: self.architecture.build(taken, device)?,
            preprocessor: self.preprocessor,
            labels: self.labels,
            working_numbers: self.architecture.working_numbers(self.preprocessor.fit.size),
            device: device.clone(),
        })
    }
}

impl ClassifierJudge {
    /// A judge of classifiers that know different domains.
    pub(super) fn new(name: &str, classifiers: Vec<Classifier>) -> Self {
        Self { name: name.to_owned(), classifiers }
    }

    fn of(&self, domain: Domain) -> Result<&Classifier, EngineError> {
        let found = self.classifiers.iter().find(|classifier| classifier.labels.knows(domain));
        found.ok_or_else(|| {
            let message = format!(
                "the judge \"{}\" knows no {}; name some in its labels.json, or leave it out",
                self.name,
                domain.name()
            );
            SpecError::one(Field::Concept, message).into()
        })
    }
}

impl Judge for ClassifierJudge {
    fn name(&self) -> &str {
        &self.name
    }

    fn working_numbers(&self) -> u64 {
        self.classifiers.iter().map(|classifier| classifier.working_numbers).max().unwrap_or(0)
    }

    fn check(&self, concept: &Concept, vocabulary: &Vocabulary) -> Result<(), EngineError> {
        self.of(Domain::of(concept.kind))?;
        for domain in Domain::ALL.into_iter().filter(|domain| self.knows(*domain)) {
            self.of(domain)?.labels.classes(domain, vocabulary, &self.name)?;
        }
        Ok(())
    }

    fn knows(&self, domain: Domain) -> bool {
        self.classifiers.iter().any(|classifier| classifier.labels.knows(domain))
    }

    /// Among the classes of the domain's words alone, as CLIP chooses among them.
    fn probabilities(
        &self,
        pictures: &[Picture],
        domain: Domain,
        vocabulary: &Vocabulary,
    ) -> Result<Vec<Vec<f64>>, EngineError> {
        let classifier = self.of(domain)?;
        let classes = classifier.labels.classes(domain, vocabulary, &self.name)?;
        let classes = Tensor::new(classes, &classifier.device)?;
        let Preprocessor { fit, normalisation } = classifier.preprocessor;
        let mut all = Vec::with_capacity(pictures.len());
        for pictures in pictures.chunks(AT_ONCE) {
            let input = pixels(pictures, fit, normalisation, &classifier.device)?;
            let logits = classifier.network.forward(&input)?.index_select(&classes, 1)?;
            all.extend(softmax(&classifier.location, &logits)?);
        }
        Ok(all)
    }
}
