//! What a job asks for: validated, immutable, serializable. Pure: no tensors, no files, no clocks.

mod attack;
mod concept;
mod field;
mod files;
mod generate;
mod init_image;
mod judge;
mod method;
mod output_format;
mod probes;
mod prompt_rules;
mod prompts;
mod sampler;
mod scope;
mod score;
mod steps;
mod suite;
#[cfg(feature = "client")]
mod suite_file;
mod unlearn;
mod violation;
mod vocabulary;
mod words;

pub use attack::{AttackName, AttackSpec};
pub use concept::{Concept, ConceptKind};
pub(crate) use field::Field;
pub use field::FieldPath;
pub use files::{FileError, ModelFiles, ReadSeek};
pub use generate::GenerateSpec;
pub use init_image::InitImage;
pub use judge::JudgeSpec;
pub use method::{EsdSettings, KeystepSettings, KscuSettings, Method, MethodName};
pub use output_format::OutputFormat;
pub use probes::{Probe, ProbesSpec};
pub use prompt_rules::MAX_PROMPT_CHARS;
pub use prompts::Prompt;
pub use sampler::SamplerKind;
pub use scope::Scope;
pub use score::ScoreSpec;
pub use steps::{KeySteps, LogSnrWindow, StepIndex, Timestep};
pub use suite::{Expectation, Suite, SuitePrompt};
#[cfg(feature = "client")]
pub use suite_file::{SuiteFileError, read_suite};
pub use unlearn::UnlearnSpec;
pub use violation::{SpecError, Violation};
pub use vocabulary::Vocabulary;
pub use words::{canonical, find_word, names_word, same_words};
