//! Attacks: whether a concept comes back from a model that it was erased from, when it is sought by
//! more than its word.
//!
//! Every attack is an [`trial::Attack`] and goes through one frame: it is turned on the base model for
//! the concept (its ceiling), on the edited model, and where there must be nothing to find (its false
//! alarms). Each judge's counts stand beside each other, over pictures whose seeds and contexts the
//! attack has not seen.

mod costs;
mod drawing;
mod frame;
mod ground;
mod hunt;
mod inversion;
mod latent;
mod naming;
mod noise;
mod noised;
mod open_prompt;
mod p4d;
mod relearning;
mod ring_a_bell;
mod simplex;
mod trial;
mod unlearn_diff_atk;

pub(super) use frame::{check, run};
pub(super) use inversion::{KEPT_LATENTS, MOST_TOKENS};
pub(super) use relearning::SCOPE as RELEARNED_SCOPE;
pub(super) use trial::BATCH;
