//! Trajectories of the frozen model under a concept's prompts: what is measured on when steps are
//! scored, and what training takes its targets from.

mod contexts;
mod walk;

pub(super) use contexts::{ConceptPrompt, Contexts};
pub(super) use walk::{Begun, Entry, Footprint, Pairing, Stretch, Trajectory, Walk, walk, walk_on};
