//! What a job asks for: validated, immutable, serializable. Pure: no tensors, no files, no clocks.

mod concept;
mod files;
mod generate;
mod judge;
mod method;
mod prompts;
mod score;
mod steps;
mod unlearn;
mod violation;
mod vocabulary;

pub use concept::{Concept, ConceptKind};
pub use files::{FileError, ModelFiles, ReadSeek};
pub use generate::GenerateSpec;
pub use judge::JudgeSpec;
pub use method::{EsdSettings, KeystepSettings, KscuSettings, Method, MethodName};
pub use prompts::{MAX_PROMPT_CHARS, Prompt, check_prompt};
pub use score::ScoreSpec;
pub use steps::{LogSnrWindow, StepIndex, Timestep};
pub use unlearn::{KeySteps, Scope, UnlearnSpec};
pub use violation::{SpecError, Violation};
pub use vocabulary::Vocabulary;
