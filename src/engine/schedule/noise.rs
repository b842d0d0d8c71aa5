//! All randomness of the engine: one seeded generator that draws what torch's CPU generator draws,
//! so that the same prompt and seed give the picture that diffusers gives.

mod box_muller;

use box_muller::{BLOCK, box_muller};
use candle_core::{Device, Result, Shape, Tensor};
use rand_mt::Mt;
use serde::{Deserialize, Serialize};

/// Words of the twister's state.
const WORDS: usize = 624;

/// The generator behind every draw (`torch.Generator("cpu").manual_seed(seed)`: MT19937).
///
/// The noise is always made on the CPU and then moved, so that a seed means the same picture on
/// every device. Torch seeds with the low 32 bits of the seed alone; so do we, which makes the
/// seeds `1` and `1 + 2^32` the same.
#[derive(Debug, Clone)]
pub struct NoiseSource {
    twister: Mt,
    /// The second normal of the last pair that a draw of fewer than [`BLOCK`] values made. It
    /// waits in the generator across calls, untouched by longer draws, as in torch.
    pending: Option<f64>,
    /// Outputs that come before the twister's own; see [`NoiseState`].
    upcoming: std::vec::IntoIter<u32>,
}

/// Where a [`NoiseSource`] stands, for a file; [`NoiseSource::resume`] goes on from it bit for bit.
///
/// The twister does not show its words. Its next 624 outputs say as much: they determine its state
/// after them, wherever within its block it stands, since its recurrence is the same at every
/// position. A resumed source gives out those and then goes on from the state behind them, so that
/// neither saving nor resuming takes longer the more was drawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoiseState {
    upcoming: Vec<u32>,
    /// Bits of the normal that waits; a number in decimal might not come back as it went.
    pending: Option<u64>,
}

impl NoiseSource {
    /// Starts a stream; the upper 32 bits of the seed have no effect.
    pub fn new(seed: u64) -> Self {
        Self::of(Mt::new((seed & u64::from(u32::MAX)) as u32), None, Vec::new())
    }

    fn of(twister: Mt, pending: Option<f64>, upcoming: Vec<u32>) -> Self {
        Self { twister, pending, upcoming: upcoming.into_iter() }
    }

    /// What [`NoiseSource::resume`] takes; the stream itself does not move.
    pub fn state(&self) -> NoiseState {
        let mut ahead = self.clone();
        NoiseState {
            upcoming: (0..WORDS).map(|_| ahead.next_u32()).collect(),
            pending: self.pending.map(f64::to_bits),
        }
    }

    /// Goes on where a state was taken; none where it does not hold the words of one.
    pub fn resume(state: &NoiseState) -> Option<Self> {
        let words: [u32; WORDS] = state.upcoming.as_slice().try_into().ok()?;
        let pending = state.pending.map(f64::from_bits);
        Some(Self::of(Mt::from(words), pending, state.upcoming.clone()))
    }

    /// Standard normal values, those of `torch.randn(count, generator=generator)` in f32.
    ///
    /// The values are equal bit for bit to those of torch on a processor with AVX2.
    ///
    /// Draws of 16 and more fill blocks of 16 in single precision (`at::native::normal_fill`), shorter
    /// ones go pair by pair in double precision (`at::normal_distribution<double>`).
    pub fn randn(&mut self, count: usize) -> Vec<f32> {
        if count < BLOCK {
            return (0..count).map(|_| self.normal() as f32).collect();
        }
        let mut values: Vec<f32> = (0..count).map(|_| self.uniform_f32()).collect();
        for block in values.chunks_exact_mut(BLOCK) {
            box_muller(block);
        }
        if !count.is_multiple_of(BLOCK) {
            // Torch draws the last 16 values afresh rather than a short block.
            let tail = &mut values[count - BLOCK..];
            tail.fill_with(|| self.uniform_f32());
            box_muller(tail);
        }
        values
    }

    /// [`NoiseSource::randn`] in a tensor's shape (`torch.randn(shape, generator=generator)`).
    pub fn randn_tensor(&mut self, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        Tensor::from_vec(self.randn(shape.elem_count()), shape, device)
    }

    /// A number in `[0, 1)` with 53 random bits.
    ///
    /// For our own choices; not meant to repeat a call of torch.
    pub fn uniform(&mut self) -> f64 {
        (self.random64() >> 11) as f64 * (-53_f64).exp2()
    }

    /// An index below `bound`, or 0 where the bound is 0.
    ///
    /// For our own choices; not meant to repeat `torch.randint`. The bias of the multiplication is
    /// below 2^-32 for any list that fits in memory.
    pub fn index(&mut self, bound: usize) -> usize {
        ((u128::from(self.random64()) * bound as u128) >> 64) as usize
    }

    /// Puts a slice in random order (Fisher and Yates).
    ///
    /// For our own choices; not meant to repeat `torch.randperm`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.index(last + 1);
            items.swap(last, other);
        }
    }

    /// 24 random bits in `[0, 1)` (`at::uniform_real_distribution<float>`).
    fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() & 0x00FF_FFFF) as f32 * (-24_f32).exp2()
    }

    /// `at::uniform_real_distribution<double>`: the low 53 bits, where [`NoiseSource::uniform`]
    /// takes the high ones.
    fn uniform_f64(&mut self) -> f64 {
        const MASK: u64 = (1 << 53) - 1;
        (self.random64() & MASK) as f64 * (-53_f64).exp2()
    }

    /// Two draws, the first in the upper half (`CPUGeneratorImpl::random64`).
    fn random64(&mut self) -> u64 {
        let upper = u64::from(self.next_u32());
        let lower = u64::from(self.next_u32());
        upper << 32 | lower
    }

    fn next_u32(&mut self) -> u32 {
        self.upcoming.next().unwrap_or_else(|| self.twister.next_u32())
    }

    /// `at::normal_distribution<double>`: cosine first, the sine waits for the next call.
    fn normal(&mut self) -> f64 {
        if let Some(value) = self.pending.take() {
            return value;
        }
        let first = self.uniform_f64();
        let second = self.uniform_f64();
        let radius = (-2.0 * (-second).ln_1p()).sqrt();
        let theta = std::f64::consts::TAU * first;
        self.pending = Some(radius * theta.sin());
        radius * theta.cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_low_half_of_a_seed_counts() {
        let draw = |seed| NoiseSource::new(seed).randn(20);
        assert_eq!(draw(1), draw(1 + (1 << 32)));
        assert_ne!(draw(1), draw(2));
    }

    /// Draws of every kind, as a run mixes them; an odd number of short normals leaves one waiting.
    fn mixed(source: &mut NoiseSource) -> Vec<u64> {
        let mut drawn = vec![source.uniform().to_bits(), source.index(1_000) as u64];
        for count in [1, 40, 3, 16, 700, 5] {
            drawn.extend(source.randn(count).into_iter().map(|value| u64::from(value.to_bits())));
        }
        drawn
    }

    #[test]
    fn a_resumed_source_draws_what_the_first_would_have() {
        // Before the first draw, within a block, at its end, just behind it, and far on; by single
        // words, and with a normal waiting between short and long draws.
        for words in [0, 1, 2, 100, 623, 624, 625, 1_247, 1_248, 5_000] {
            for normals in [0, 1, 2, 17] {
                let mut source = NoiseSource::new(9);
                for _ in 0..words {
                    source.next_u32();
                }
                source.randn(normals);
                assert_eq!(source.pending.is_some(), normals == 1);
                let json = serde_json::to_string(&source.state()).unwrap();
                let state: NoiseState = serde_json::from_str(&json).unwrap();
                let mut resumed = NoiseSource::resume(&state).unwrap();
                assert_eq!(resumed.state(), source.state(), "after {words} words");
                // Saved again while it still gives out the words that it was resumed with.
                resumed.next_u32();
                source.next_u32();
                let mut again = NoiseSource::resume(&resumed.state()).unwrap();
                let expected: Vec<_> = (0..3).flat_map(|_| mixed(&mut source)).collect();
                for resumed in [&mut resumed, &mut again] {
                    let drawn: Vec<_> = (0..3).flat_map(|_| mixed(resumed)).collect();
                    assert!(drawn == expected, "after {words} words and {normals} normals");
                }
            }
        }
    }

    #[test]
    fn a_state_of_another_length_is_refused() {
        let NoiseState { mut upcoming, pending } = NoiseSource::new(1).state();
        upcoming.pop();
        assert!(NoiseSource::resume(&NoiseState { upcoming, pending }).is_none());
    }

    #[test]
    fn our_own_draws_stay_in_range_and_cover_it() {
        let mut source = NoiseSource::new(0);
        let mut seen = [0_usize; 7];
        for _ in 0..7_000 {
            seen[source.index(7)] += 1;
            assert!((0.0..1.0).contains(&source.uniform()));
        }
        assert!(seen.iter().all(|&count| (850..1_150).contains(&count)), "{seen:?}");
        assert_eq!((source.index(0), source.index(1)), (0, 0));
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<usize> = (0..50).collect();
        NoiseSource::new(3).shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
        NoiseSource::new(3).shuffle::<u8>(&mut []);
    }
}
