//! `DeviceEngine`: what a run asks of an engine, so that everything around the engine can be tested
//! with a scripted one in milliseconds.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    num::NonZeroUsize,
};

use crate::{
    artifacts::{EditedBytes, ErasedWeights},
    engine::{
        CandleEngine, EngineError, ErasedCheckpoint, RunContext, WorkMemory,
        evaluate::PictureStore, judge::GivenJudge,
    },
    outcome::{DeviceKind, Drawn, JudgeReport, TimestepScores, TrainingLog},
    spec::{GenerateSpec, JudgeSpec, ReadSeek, SamplerKind, ScoreSpec, UnlearnSpec, Vocabulary},
};

/// Work whose memory is planned before it begins.
#[derive(Debug, Clone, Copy)]
pub enum Undertaking<'a> {
    /// An erasure.
    Unlearn(&'a UnlearnSpec),
    /// A judgement.
    Judge(&'a JudgeSpec),
    /// A drawing.
    Generate(&'a GenerateSpec),
    /// A measurement of steps.
    Score(&'a ScoreSpec),
}

/// A model on a device. Blocking; slots that share a memory call it from several threads at once.
pub trait DeviceEngine: Sized + Send + Sync {
    /// An erased model, not yet written.
    type Erased: ErasedWeights;

    /// The words that the model is known to draw.
    fn vocabulary(&self) -> &Vocabulary;

    /// What computes.
    fn device_kind(&self) -> DeviceKind;

    /// Bytes of the weights that it does not share with a model that it was made of.
    fn own_bytes(&self) -> u64;

    /// What some work will hold at its peak; an error where that is more than the process may take
    /// however it saves.
    fn memory(&self, work: Undertaking<'_>) -> Result<WorkMemory, EngineError>;

    /// Width and height of its pictures where a request names none.
    fn own_size(&self) -> Result<(usize, usize), EngineError>;

    /// Whether there is something that can judge its pictures.
    fn can_judge(&self) -> bool;

    /// The same model with judges beside its own, which are read from their folders.
    fn with_judges(&self, given: &[GivenJudge<'_>]) -> Result<Self, EngineError>;

    /// Refuses what one of the judges could not judge, before anything is drawn.
    fn check_judges(&self, spec: &JudgeSpec) -> Result<(), EngineError>;

    /// What about the model's folder is odd and no hindrance, in words.
    fn warnings(&self) -> &[String];

    /// The same model with the edited tensors of a safetensors file; the others are shared.
    fn with_edited(
        &self,
        file: &str,
        reader: Box<dyn ReadSeek>,
        length: u64,
    ) -> Result<Self, EngineError>;

    /// The same model with an erased U-Net.
    fn with_erased(&self, erased: &Self::Erased) -> Result<Self, EngineError>;

    /// Measures which steps decide a concept.
    fn score_timesteps(
        &self,
        spec: &ScoreSpec,
        context: &mut RunContext<'_>,
    ) -> Result<TimestepScores, EngineError>;

    /// What the files of an erasure to a spec will take.
    fn edited_bytes(&self, spec: &UnlearnSpec) -> EditedBytes;

    /// Erases concepts.
    fn unlearn(
        &self,
        spec: &UnlearnSpec,
        context: &mut RunContext<'_>,
    ) -> Result<Self::Erased, EngineError>;

    /// Draws pictures and hands each over once it is done, previews every so many steps.
    fn generate(
        &self,
        spec: &GenerateSpec,
        preview_every: Option<NonZeroUsize>,
        hand_over: &mut dyn FnMut(Drawn),
        context: &mut RunContext<'_>,
    ) -> Result<(), EngineError>;

    /// What a judgement's pictures are drawn with; an error where they cannot be.
    fn judge_sampler(&self, spec: &JudgeSpec) -> Result<SamplerKind, EngineError>;

    /// Judges an edited model; called on the base model, whose pictures are looked for in a store of
    /// its own, and kept there.
    fn judge(
        &self,
        spec: &JudgeSpec,
        edited: &Self,
        store: &mut dyn PictureStore,
        context: &mut RunContext<'_>,
    ) -> Result<JudgeReport, EngineError>;

    /// What the optimisation measured.
    fn log(erased: &Self::Erased) -> &TrainingLog;

    /// The scores that were measured on the way, one for each concept.
    fn scores(erased: &Self::Erased) -> &[TimestepScores];

    /// Stretches of the base's weights that the edit changed, as files hold them: no other file of
    /// a result may hold one.
    fn erased_stretches(erased: &Self::Erased) -> Result<Vec<Vec<u8>>, EngineError>;
}

impl DeviceEngine for CandleEngine {
    type Erased = ErasedCheckpoint;

    fn vocabulary(&self) -> &Vocabulary {
        self.vocabulary()
    }

    fn device_kind(&self) -> DeviceKind {
        self.device_kind()
    }

    fn own_bytes(&self) -> u64 {
        self.own_bytes()
    }

    fn memory(&self, work: Undertaking<'_>) -> Result<WorkMemory, EngineError> {
        match work {
            Undertaking::Unlearn(spec) => self.erasure_memory(spec),
            Undertaking::Judge(spec) => self.judgement_memory(spec),
            Undertaking::Generate(spec) => self.drawing_memory(spec),
            Undertaking::Score(spec) => self.scoring_memory(spec),
        }
    }

    fn own_size(&self) -> Result<(usize, usize), EngineError> {
        self.own_size()
    }

    fn can_judge(&self) -> bool {
        self.can_judge()
    }

    fn with_judges(&self, given: &[GivenJudge<'_>]) -> Result<Self, EngineError> {
        self.with_judges(given)
    }

    fn check_judges(&self, spec: &JudgeSpec) -> Result<(), EngineError> {
        self.check_judges(spec)
    }

    fn warnings(&self) -> &[String] {
        &self.pipeline().warnings
    }

    fn with_edited(
        &self,
        file: &str,
        reader: Box<dyn ReadSeek>,
        length: u64,
    ) -> Result<Self, EngineError> {
        self.with_edited(file, reader, length)
    }

    fn with_erased(&self, erased: &ErasedCheckpoint) -> Result<Self, EngineError> {
        self.with_erased(erased)
    }

    fn score_timesteps(
        &self,
        spec: &ScoreSpec,
        context: &mut RunContext<'_>,
    ) -> Result<TimestepScores, EngineError> {
        self.score_timesteps(spec, context)
    }

    fn edited_bytes(&self, spec: &UnlearnSpec) -> EditedBytes {
        let mut bytes = EditedBytes { unet: 0, delta: 0 };
        for (name, stored) in &self.pipeline().unet_tensors.tensors {
            let bits = (stored.tensor.elem_count() * stored.dtype.bitsize()) as u64;
            bytes.unet += bits / 8;
            if spec.scope.contains(name) {
                bytes.delta += bits / 8;
            }
        }
        bytes
    }

    fn unlearn(
        &self,
        spec: &UnlearnSpec,
        context: &mut RunContext<'_>,
    ) -> Result<ErasedCheckpoint, EngineError> {
        self.unlearn(spec, context)
    }

    fn generate(
        &self,
        spec: &GenerateSpec,
        preview_every: Option<NonZeroUsize>,
        hand_over: &mut dyn FnMut(Drawn),
        context: &mut RunContext<'_>,
    ) -> Result<(), EngineError> {
        self.generate_each(spec, preview_every, hand_over, context)
    }

    fn judge_sampler(&self, spec: &JudgeSpec) -> Result<SamplerKind, EngineError> {
        self.judge_sampler(spec)
    }

    fn judge(
        &self,
        spec: &JudgeSpec,
        edited: &Self,
        store: &mut dyn PictureStore,
        context: &mut RunContext<'_>,
    ) -> Result<JudgeReport, EngineError> {
        self.judge_keeping(spec, edited, store, context)
    }

    fn log(erased: &ErasedCheckpoint) -> &TrainingLog {
        &erased.log
    }

    fn scores(erased: &ErasedCheckpoint) -> &[TimestepScores] {
        &erased.scores
    }

    fn erased_stretches(erased: &ErasedCheckpoint) -> Result<Vec<Vec<u8>>, EngineError> {
        erased.erased_stretches()
    }
}

impl ErasedWeights for ErasedCheckpoint {
    fn write_unet(&self, out: &mut dyn Write) -> io::Result<()> {
        Ok(self.write_unet(out)?)
    }

    fn write_delta(
        &self,
        metadata: &BTreeMap<String, String>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        Ok(self.write_delta(metadata, out)?)
    }
}
