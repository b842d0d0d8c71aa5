//! What can go wrong with tensors, by meaning for the caller.

use super::{ComputeType, DeviceChoice, StateError};
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
        /// The model folder.
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
        /// Path of the file.
        file: String,
        /// The field, the value, the limit.
        message: String,
    },
    /// A safetensors file is damaged or hostile.
    #[error("{file} is not a whole safetensors file: {message}")]
    DamagedWeights {
        /// Path of the file.
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
    /// A file of edited tensors holds one that the model has no place for.
    #[error(
        "{file} holds the tensor \"{name}\" of shape {found:?}, which the config has no place for ({count} in all)"
    )]
    SurplusTensor {
        /// Path of the file.
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
        /// Path of the file.
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
        /// Path of the file.
        file: String,
        /// The tensor.
        name: String,
        /// Flat index.
        element: usize,
        /// The value.
        value: f32,
    },
    /// Weights that are all numbers gave something that is none.
    #[error(
        "{location} computed {computed} with the value {value}: its weights are too large to compute with; fetch the model again, or on CUDA compute in f32 or bf16"
    )]
    NonFiniteOutput {
        /// The part of the model, such as `folder/unet`.
        location: String,
        /// What it computed, such as "a picture".
        computed: &'static str,
        /// NaN or infinity.
        value: f64,
    },
    /// A weight is stored in a type that we do not compute with.
    #[error(
        "{file}: tensor \"{name}\" is stored as {dtype}, which is not supported; save the model in F32, F16 or BF16"
    )]
    UnsupportedDtype {
        /// Path of the file.
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
        /// The threshold that was exceeded.
        limit: f64,
    },
    /// The run changed what it should not.
    #[error(
        "the erasure wrecked the model: the squared change of unrelated predictions is {value:.1} times that of their own guidance, the limit is {limit:.1}; lower the learning rate or raise the preserve weight"
    )]
    WreckedModel {
        /// The damage measure.
        value: f64,
        /// The threshold that was exceeded.
        limit: f64,
    },
    /// The work does not fit into the memory that it may take, however it saves.
    #[error(
        "{work} needs at least {} of memory and may take {}; raise the memory limit, or {remedy}",
        mebibytes(*.need), mebibytes(*.limit)
    )]
    MemoryLimit {
        /// What does not fit, such as "the erasure".
        work: &'static str,
        /// Bytes that the leanest way to do it takes.
        need: u64,
        /// Bytes that it may take.
        limit: u64,
        /// What else to ask for.
        remedy: &'static str,
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
        /// The model folder.
        location: String,
    },
    /// The autoencoder has no encoder, so that nothing can begin with a picture.
    #[error(
        "the model's \"vae\" folder holds no tensor of the encoder, which reads pictures; fetch the whole autoencoder, or begin without a picture"
    )]
    NoEncoder,
    /// The tensor library refused an operation.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl EngineError {
    /// The same of a network in training, whose weights are the run's own: what they overflow in is
    /// no fault of the model's.
    pub(super) fn in_update(self, update: usize) -> Self {
        match self {
            Self::NonFiniteOutput { computed, value, .. } => {
                Self::NotFinite { what: computed, value, update }
            }
            other => other,
        }
    }
}

/// Rounded up, so that what is given as the limit is enough.
fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
