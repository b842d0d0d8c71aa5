//! The noise that a model was trained to take away: the process, its levels along a run of steps,
//! and where noise is drawn.

mod ddim;
pub mod noise;
mod process;
mod run;

pub use ddim::Ddim;
pub use noise::{NoiseSource, NoiseState};
pub use process::{NoiseProcess, PredictionType, Scales};
pub use run::Schedule;
