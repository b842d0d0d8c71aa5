//! Draws, scores, plans and trains a model that is not Stable Diffusion, through [`super::Family`]
//! and [`super::Denoiser`] alone.

mod linear;

use std::{
    collections::BTreeMap,
    io::{self, Cursor, Write},
};

use candle_core::{DType, Tensor};

use self::linear::{CHANNELS, OWN_SIZE, Reads, UNTRAINED, pipeline};
use super::Conditioning;
use crate::{
    engine::{
        CancelFlag, CheckpointPolicy, ErasedCheckpoint, PartReader, PauseFlag, Pipeline,
        RunContext, SavePoint, StateError, StatePart, StateStore,
        denoise::{EvaluationCounter, ScheduledDenoiser, initial_latents},
        generate::generate,
        plan,
        score::score_timesteps,
        trajectory::{Walk, walk},
        unlearn::unlearn,
    },
    outcome::Notice,
    spec::{
        Concept, ConceptKind, EsdSettings, GenerateSpec, KeySteps, KeystepSettings, KscuSettings,
        LogSnrWindow, Method, SamplerKind, Scope, ScoreSpec, StepIndex, UnlearnSpec, Vocabulary,
    },
};

const ALL: Reads = Reads { pooled: true, extra: true };

fn with_context<'a, T>(
    saving: Option<CheckpointPolicy<'a>>,
    work: impl FnOnce(&mut RunContext<'a>) -> T,
) -> T {
    // A closure of no size, whose box takes no memory.
    let report = Box::leak(Box::new(|_| ()));
    work(&mut RunContext { report, cancel: CancelFlag::default(), saving })
}

/// The family by hand: all in `f64`, a pixel at a time.
struct ByHand<'a>(&'a Pipeline);

impl ByHand<'_> {
    fn rows(&self, name: &str) -> Vec<Vec<f64>> {
        let weight = &self.0.unet_tensors.tensors[name].tensor;
        let weight = weight.to_dtype(DType::F64).unwrap();
        weight.reshape((CHANNELS, ())).unwrap().to_vec2().unwrap()
    }

    /// What each channel is shifted by.
    fn shift(&self, prompt: &Conditioning, timestep: f64) -> Vec<f64> {
        let values = |tensor: &Tensor| {
            tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap()
        };
        let inputs = [
            ("text.weight", values(&prompt.states)),
            ("pooled.weight", values(prompt.pooled.as_ref().unwrap())),
            ("extra.weight", values(prompt.extra.as_ref().unwrap())),
            ("time.weight", vec![timestep / 1000.0]),
        ];
        let mut shift = vec![0.0; CHANNELS];
        for (name, inputs) in inputs {
            for (shift, row) in shift.iter_mut().zip(self.rows(name)) {
                *shift += row.iter().zip(&inputs).map(|(weight, x)| weight * x).sum::<f64>();
            }
        }
        shift
    }

    fn predict(&self, pixel: &[f64], shift: &[f64]) -> Vec<f64> {
        let rows = self.rows("latents.weight");
        let product = |row: &Vec<f64>| row.iter().zip(pixel).map(|(w, x)| w * x).sum::<f64>();
        rows.iter().zip(shift).map(|(row, shift)| product(row) + shift).collect()
    }
}

/// The channels of the first latent's first pixel.
fn pixel(latents: &Tensor) -> Vec<f64> {
    let values = latents.to_dtype(DType::F64).unwrap().get(0).unwrap();
    values.flatten_from(1).unwrap().to_vec2::<f64>().unwrap().iter().map(|row| row[0]).collect()
}

fn assert_close(found: &[f64], expected: &[f64]) {
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-4, "{found}, {expected} by hand");
    }
}

#[test]
fn a_walk_is_what_can_be_worked_out_by_hand() {
    const GUIDANCE: f64 = 3.0;
    const STEPS: usize = 5;
    let pipeline = pipeline(ALL);
    let schedule = pipeline.scheduler.schedule(STEPS).unwrap();
    let evaluations = EvaluationCounter::default();
    let denoiser = ScheduledDenoiser {
        network: &*pipeline.denoiser,
        schedule: &schedule,
        evaluations: &evaluations,
        resting: None,
    };
    let lead = pipeline.encode_prompts(&["a cat", "a dog"]).unwrap();
    let empty = pipeline.unconditional("", None).unwrap();
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(values(&empty.states).iter().all(|value| value.to_bits() == 0), "SDXL's zeros");
    assert!(values(empty.extra.as_ref().unwrap()).iter().all(|value| (value - 1.0).abs() < 1e-6));

    let shape = pipeline.latent_shape(None).unwrap();
    let latents = initial_latents(&[7, 8], shape, &pipeline.device).unwrap();
    let mut z = pixel(&latents);
    let walked = Walk {
        lead: &lead,
        counterpart: None,
        empty: &empty,
        guidance_scale: GUIDANCE,
        latents,
        steps: STEPS,
    };
    let footprints = with_context(None, |context| walk(&denoiser, walked, context)).unwrap();
    assert_eq!(evaluations.get(), (2 * 2 * STEPS) as u64);

    let hand = ByHand(&pipeline);
    for footprint in footprints {
        assert_close(&pixel(&footprint.z), &z);
        let step = footprint.step;
        let timestep = schedule.timestep(step).0 as f64;
        let with = hand.predict(&z, &hand.shift(&lead.get(0).unwrap(), timestep));
        let without = hand.predict(&z, &hand.shift(&empty.get(0).unwrap(), timestep));
        assert_close(&pixel(&footprint.lead), &with);
        assert_close(&pixel(&footprint.empty), &without);
        let (now, next) = (schedule.level(step), schedule.next_level(step));
        z = (z.iter().zip(with.iter().zip(&without)))
            .map(|(z, (with, without))| {
                let noise = without + GUIDANCE * (with - without);
                let picture = (z - (1.0 - now).sqrt() * noise) / now.sqrt();
                next.sqrt() * picture + (1.0 - next).sqrt() * noise
            })
            .collect();
    }
}

fn drawing(negative_prompt: &str, size: Option<(usize, usize)>) -> GenerateSpec {
    GenerateSpec {
        pictures: vec![("a cat".to_owned(), 1), ("a dog".to_owned(), 2), ("a cat".to_owned(), 1)],
        negative_prompt: negative_prompt.to_owned(),
        steps: 4,
        guidance_scale: 2.0,
        size,
        sampler: Some(SamplerKind::Ddim),
        init_image: None,
    }
}

/// The bytes of each picture.
fn draw(pipeline: &Pipeline, spec: &GenerateSpec) -> Vec<Vec<u8>> {
    let plan::Drawing { policy, memory } = plan::drawing(pipeline, spec).unwrap();
    assert!(memory.work > 0);
    let drawn = with_context(None, |context| generate(pipeline, spec, policy, context));
    let (pictures, evaluations) = drawn.unwrap();
    assert_eq!(evaluations, 3 * 2 * 4);
    pictures.into_iter().map(|picture| picture.rgb).collect()
}

#[test]
fn pictures_change_with_each_part_of_their_prompts() {
    let whole = pipeline(ALL);
    let plain = draw(&whole, &drawing("", None));
    assert_eq!(plain[0].len(), 3 * 4 * OWN_SIZE.iter().product::<usize>());
    assert_eq!(plain[0], plain[2]);
    assert_ne!(plain[0], plain[1]);
    assert_eq!(plain, draw(&whole, &drawing("", None)));
    assert_ne!(plain, draw(&whole, &drawing("a star", None)));
    for reads in [Reads { pooled: false, ..ALL }, Reads { extra: false, ..ALL }] {
        assert_ne!(plain, draw(&pipeline(reads), &drawing("", None)), "{reads:?}");
    }

    // At another size the family is given that size, with the prompt and without.
    let wide = drawing("", Some((24, 16)));
    let sized = draw(&whole, &wide);
    assert_ne!(sized, draw(&pipeline(Reads { extra: false, ..ALL }), &wide));
    let extra = |conditioning: Conditioning| conditioning.extra.unwrap().to_vec2::<f32>().unwrap();
    let picture = Some([16, 24]);
    let expected = vec![vec![2.0, 1.5]];
    assert_eq!(extra(whole.encode_prompts_at(&["a cat"], picture).unwrap()), expected);
    assert_eq!(extra(whole.unconditional("", picture).unwrap()), expected);
}

fn vocabulary() -> Vocabulary {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Vocabulary {
        anything: "emoji".to_owned(),
        objects: words(&["cat", "dog", "star", "apple"]),
        styles: words(&["flat", "neon"]),
    }
}

fn erasure(method: Method) -> UnlearnSpec {
    UnlearnSpec {
        concepts: vec![Concept::new("cat", ConceptKind::Object)],
        method,
        scope: Scope::All,
        preserve: Vec::new(),
        held_out: Vec::new(),
        vocabulary: vocabulary(),
        seed: 5,
    }
}

fn esd() -> Method {
    Method::Esd(EsdSettings {
        updates: 60,
        schedule_steps: 4,
        learning_rate: 1e-2,
        ..EsdSettings::default()
    })
}

fn kscu() -> Method {
    let (settings, _) = KscuSettings::preset(ConceptKind::Object, false);
    Method::Kscu(KscuSettings {
        updates: 60,
        first_key_step: 2,
        schedule_steps: 5,
        learning_rate: 1e-2,
        augmented_share: 0.25,
        ..settings
    })
}

fn keystep() -> Method {
    let window = LogSnrWindow { low: f64::from(f32::MIN), high: f64::from(f32::MAX) };
    Method::Keystep(KeystepSettings {
        key_steps: KeySteps::Window(window),
        updates: 60,
        schedule_steps: 4,
        relative_rate: 0.1,
        ..KeystepSettings::default()
    })
}

fn weights(erased: &ErasedCheckpoint) -> BTreeMap<&String, Vec<f32>> {
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let tensors = erased.tensors.tensors.iter();
    tensors.map(|(name, stored)| (name, values(&stored.tensor))).collect()
}

/// How much of what the concept's name does to predictions the edited model still does: 1 of all, 0
/// where it predicts as if nothing had been said.
fn left_of_the_concept(frozen: &Pipeline, edited: &Pipeline) -> f64 {
    const SAMPLES: usize = 8;
    let seeds: Vec<u64> = (100..).take(SAMPLES).collect();
    let shape = frozen.latent_shape(None).unwrap();
    let latents = initial_latents(&seeds, shape, &frozen.device).unwrap();
    let predict = |pipeline: &Pipeline, prompt: &Conditioning| {
        let prompts = prompt.select(&[0; SAMPLES]).unwrap();
        pipeline.denoiser.forward(&latents, &[500.0; SAMPLES], &prompts).unwrap()
    };
    let named = frozen.encode_prompts(&["cat"]).unwrap();
    let nothing = frozen.unconditional("", None).unwrap();
    let nothing = predict(frozen, &nothing);
    let direction = (predict(frozen, &named) - &nothing).unwrap();
    let left = (predict(edited, &named) - &nothing).unwrap();
    let product = |a: &Tensor, b: &Tensor| {
        f64::from((a * b).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap())
    };
    product(&left, &direction) / product(&direction, &direction)
}

#[test]
fn every_method_erases_and_leaves_alone_what_the_family_does_not_train() {
    let pipeline = pipeline(ALL);
    for method in [esd(), kscu(), keystep()] {
        let spec = erasure(method);
        let erased = with_context(None, |context| unlearn(&pipeline, &spec, context)).unwrap();
        let name = spec.method.name();
        let trained = ["extra.weight", "latents.weight", "pooled.weight", "text.weight"];
        assert_eq!(erased.edited, trained, "{name:?}");
        for (tensor, stored) in &erased.tensors.tensors {
            let before = &pipeline.unet_tensors.tensors[tensor];
            let is_shared = before.tensor.id() == stored.tensor.id();
            assert_eq!(is_shared, tensor == UNTRAINED, "{name:?}: {tensor}");
        }
        let edited = pipeline.with_unet(erased.tensors.clone()).unwrap();
        let left = left_of_the_concept(&pipeline, &edited);
        assert!(left < 0.7, "{name:?}: {left} of the concept is left, {:?}", erased.log);
        assert_ne!(draw(&pipeline, &drawing("", None)), draw(&edited, &drawing("", None)));
        assert!(plan::erasure(&pipeline, &spec).unwrap().work > 0);
    }
}

/// Keeps what a run saves in memory.
#[derive(Default)]
struct Bank(BTreeMap<StatePart, Vec<u8>>);

impl StateStore for Bank {
    fn load(&mut self, part: StatePart) -> Result<Option<PartReader>, StateError> {
        Ok(self
            .0
            .get(&part)
            .map(|bytes| (Box::new(Cursor::new(bytes.clone())) as Box<_>, bytes.len() as u64)))
    }

    fn save(
        &mut self,
        point: SavePoint,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), StateError> {
        let mut bytes = Vec::new();
        write(&mut bytes).unwrap();
        self.0.insert(point.part, bytes);
        Ok(())
    }
}

#[test]
fn saved_trajectories_keep_every_part_of_their_prompts() {
    let pipeline = pipeline(ALL);
    let spec = erasure(keystep());
    let mut bank = Bank::default();
    let run = |bank: &mut Bank| {
        let (mut due, mut notices) = (|| false, Vec::new());
        let mut notice = |notice: Notice| notices.push(notice);
        let saving = CheckpointPolicy {
            store: bank,
            every: 0,
            due: &mut due,
            pause: PauseFlag::default(),
            notice: &mut notice,
        };
        let erased = with_context(Some(saving), |context| unlearn(&pipeline, &spec, context));
        assert_eq!(notices, []);
        erased.unwrap()
    };
    let first = run(&mut bank);
    assert_eq!(bank.0.keys().collect::<Vec<_>>(), [&StatePart::Bank]);
    let names = |part: &str| {
        let bytes = &bank.0[&StatePart::Bank];
        String::from_utf8_lossy(bytes).matches(part).count()
    };
    assert!(names("/pooled\"") > 0 && names("/pooled\"") == names("/text\""));
    assert_eq!(names("/extra\""), names("/text\""));
    let again = run(&mut bank);
    assert_eq!(weights(&first), weights(&again));
    assert_eq!(first.log.unet_evaluations, again.log.unet_evaluations);
}

#[test]
fn steps_are_scored_and_the_gradient_share_with_them() {
    let pipeline = pipeline(ALL);
    let spec = ScoreSpec {
        steps: 4,
        trajectories: 3,
        switch_curve: false,
        scope: Scope::All,
        ..ScoreSpec::new(Concept::new("cat", ConceptKind::Object), vocabulary())
    };
    assert!(plan::scoring(&pipeline, &spec).unwrap().work > 0);
    let scores = with_context(None, |context| score_timesteps(&pipeline, &spec, context)).unwrap();
    let steps: Vec<_> = scores.steps.iter().map(|score| score.step).collect();
    assert_eq!(steps, [0, 1, 2, 3].map(StepIndex));
    for score in &scores.steps {
        assert!(score.guidance_energy.mean > 0.0 && score.gradient_share.unwrap().mean > 0.0);
    }
}
