//! What a job asks for: validated, immutable, serializable. Pure: no tensors, no files, no clocks.

mod concept;
mod files;
mod generate;
mod init_image;
mod judge;
mod method;
mod output_format;
mod prompt_rules;
mod prompts;
mod sampler;
mod scope;
mod score;
mod steps;
mod unlearn;
mod violation;
mod vocabulary;
mod words;

pub use concept::{Concept, ConceptKind};
pub use files::{FileError, ModelFiles, ReadSeek};
pub use generate::GenerateSpec;
pub use init_image::InitImage;
pub use judge::JudgeSpec;
pub use method::{EsdSettings, KeystepSettings, KscuSettings, Method, MethodName};
pub use output_format::OutputFormat;
pub use prompt_rules::{MAX_PROMPT_CHARS, check_prompt};
pub use prompts::Prompt;
pub use sampler::SamplerKind;
pub use scope::Scope;
pub use score::ScoreSpec;
pub use steps::{KeySteps, LogSnrWindow, StepIndex, Timestep};
pub use unlearn::UnlearnSpec;
pub use violation::{SpecError, Violation};
pub use vocabulary::Vocabulary;
pub use words::{canonical, find_word, same_words};
