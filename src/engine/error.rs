//! What can go wrong with tensors, by meaning for the caller.

use super::{
    device::{ComputeType, DeviceChoice},
    state::StateError,
};
use crate::spec::{FileError, SpecError};

/// Why the engine could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The request breaks a rule.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A file of the model could not be opened.
    #[error(transparent)]
    File(#[from] FileError),

    // Devices.
    /// The device that was asked for is not there.
    #[error("cannot compute on {asked}: {problem}; {remedy}")]
    NoDevice {
        /// What was asked for.
        asked: DeviceChoice,
        /// Why not.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The CPU has no arithmetic of 16 bits.
    #[error(
        "the CPU computes in f32 alone, not in {asked}; choose the compute type f32, or a CUDA device"
    )]
    UnsupportedComputeType {
        /// What was asked for.
        asked: ComputeType,
    },

    // Model folders.
    /// A part of the pipeline has no weights in a format we read.
    #[error(
        "{location} has no safetensors weights for \"{component}\" (looked for {looked_for}); {remedy}"
    )]
    MissingWeights {
        /// The folder.
        location: String,
        /// The part, such as `unet`.
        component: String,
        /// The file names that would do.
        looked_for: String,
        /// What to do.
        remedy: String,
    },
    /// A JSON file cannot be used.
    #[error("{file}: {message}")]
    Config {
        /// The file.
        file: String,
        /// The field, the value, the limit.
        message: String,
    },
    /// A safetensors file is damaged or hostile.
    #[error("{file} is not a whole safetensors file: {message}")]
    DamagedWeights {
        /// The file.
        file: String,
        /// What is wrong.
        message: String,
    },
    /// The architecture needs a tensor that no file holds.
    #[error(
        "{file} lacks the tensor \"{name}\" of shape {expected:?}; the config and the weights do not belong together"
    )]
    MissingTensor {
        /// The file or folder that should hold it.
        file: String,
        /// Its name.
        name: String,
        /// The shape that the config asks for.
        expected: Vec<usize>,
    },
    /// A file holds a tensor that the architecture has no place for.
    #[error(
        "{file} holds the tensor \"{name}\" of shape {found:?}, which the config has no place for ({count} in all)"
    )]
    SurplusTensor {
        /// The file.
        file: String,
        /// The first such name.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// How many there are.
        count: usize,
    },
    /// A tensor has another shape than the config asks for.
    #[error("{file}: tensor \"{name}\" has shape {found:?}, the config asks for {expected:?}")]
    MisshapenTensor {
        /// The file.
        file: String,
        /// Its name.
        name: String,
        /// The shape that the config asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A weight is NaN or infinite.
    #[error(
        "{file}: tensor \"{name}\" holds {value} at element {element}; the file is damaged, fetch it again"
    )]
    NonFiniteWeight {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// Flat index.
        element: usize,
        /// The value.
        value: f32,
    },
    /// A weight is stored in a type that we do not compute with.
    #[error(
        "{file}: tensor \"{name}\" is stored as {dtype}, which is not supported; save the model in F32, F16 or BF16"
    )]
    UnsupportedDtype {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// How it is stored.
        dtype: safetensors::Dtype,
    },
    /// The prompt has more tokens than the text encoder reads.
    #[error("the prompt has {tokens} tokens, the text encoder reads {limit}; shorten it")]
    PromptTooLong {
        /// Tokens with begin and end.
        tokens: usize,
        /// The model's limit.
        limit: usize,
    },

    // Runs.
    /// Asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// Asked to make room; the run goes on from its saved state when it is started again.
    #[error("paused; start the run again with its saved state to go on")]
    Paused,
    /// A run that was to pause, or that failed to save time and again, has nowhere to save.
    #[error(transparent)]
    State(#[from] StateError),
    /// A trainable tensor got no gradient: a fault of ours.
    #[error(
        "the trainable tensor \"{name}\" received no gradient in update {update}; this is a fault of Keystep"
    )]
    MissingGradient {
        /// The tensor.
        name: String,
        /// The update.
        update: usize,
    },
    /// A trainable tensor's gradient is all zeros.
    #[error(
        "the trainable tensor \"{name}\" received a zero gradient in update {update}; the loss does not depend on it: choose a narrower scope, or lower the learning rate if earlier updates went well"
    )]
    ZeroGradient {
        /// The tensor.
        name: String,
        /// The update.
        update: usize,
    },
    /// Loss or gradient is not a number.
    #[error(
        "{what} is {value} in update {update}; lower the learning rate or look for damaged weights"
    )]
    NotFinite {
        /// Loss or gradient norm.
        what: &'static str,
        /// The value.
        value: f64,
        /// The update.
        update: usize,
    },
    /// The run changed nothing that matters.
    #[error(
        "the erasure was a no-op: {measure} is {value:.2e}, at least {limit:.2e} is needed; raise the learning rate or the updates"
    )]
    NoOp {
        /// What was measured.
        measure: &'static str,
        /// Its value.
        value: f64,
        /// The limit.
        limit: f64,
    },
    /// The run changed what it should not.
    #[error(
        "the erasure wrecked the model: the squared change of unrelated predictions is {value:.1} times that of their own guidance, the limit is {limit:.1}; lower the learning rate or raise the preserve weight"
    )]
    WreckedModel {
        /// The damage measure.
        value: f64,
        /// The limit.
        limit: f64,
    },
    /// The run does not fit into the memory that it may take, however it saves.
    #[error(
        "the erasure needs at least {} of memory and may take {}; raise the memory limit, choose a narrower scope or a smaller batch, or compute with fewer threads",
        mebibytes(*.need), mebibytes(*.limit)
    )]
    MemoryLimit {
        /// Bytes that the leanest way to run it takes.
        need: u64,
        /// Bytes that it may take.
        limit: u64,
    },
    /// The scope names no tensor of this model.
    #[error(
        "the scope {scope} matches no tensor of the U-Net; name a part of a tensor's name, such as attn2"
    )]
    EmptyScope {
        /// The scope.
        scope: String,
    },
    /// The model has no judge of its own.
    #[error(
        "{location} has no \"clip\" folder to judge with; put a CLIPModel (transformers layout) there or judge on a model that has one"
    )]
    NoJudge {
        /// The folder.
        location: String,
    },
    /// The tensor library refused an operation.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// Rounded up, so that what is given as the limit is enough.
fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
