//! What is held in memory together: the loaded models, the job under way, and the call beside it.

use std::{collections::BTreeSet, sync::Arc};

use super::{OpenedModel, engine_failure::out_of_memory};
use crate::{engine::WorkMemory, jobs::Failure};

/// A model in memory.
#[derive(Debug)]
struct Loaded<E> {
    digest: String,
    /// Of the model whose tensors it shares, where it shares some.
    base: Option<String>,
    engine: Arc<E>,
    /// Bytes of its own.
    bytes: u64,
}

/// What a job or a call holds until its end.
#[derive(Debug, Default)]
struct Held {
    /// Digests of the models that it works with.
    models: BTreeSet<String>,
    /// Bytes that it takes at its peak beside them.
    work: u64,
}

/// Who holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    Job,
    Call,
}

/// The account of all of it.
#[derive(Debug)]
pub(super) struct Account<E> {
    /// The one used last at the end.
    loaded: Vec<Loaded<E>>,
    job: Held,
    call: Held,
    /// Most models that stay loaded.
    most_loaded: usize,
}

impl<E> Account<E> {
    pub(super) fn new(most_loaded: usize) -> Self {
        let most_loaded = most_loaded.max(1);
        Self { loaded: Vec::new(), job: Held::default(), call: Held::default(), most_loaded }
    }

    pub(super) fn find(&mut self, digest: &str) -> Option<Arc<E>> {
        let index = self.loaded.iter().position(|loaded| loaded.digest == digest)?;
        let loaded = self.loaded.remove(index);
        let engine = loaded.engine.clone();
        self.loaded.push(loaded);
        Some(engine)
    }

    pub(super) fn keep(&mut self, digest: &str, base: Option<&str>, engine: Arc<E>, bytes: u64) {
        let (digest, base) = (digest.to_owned(), base.map(str::to_owned));
        self.loaded.push(Loaded { digest, base, engine, bytes });
    }

    /// Makes room for one more model of so many bytes, before it comes, so that both need not fit.
    /// `model` names it.
    pub(super) fn make_room(
        &mut self,
        model: &OpenedModel,
        bytes: u64,
        limit: Option<u64>,
    ) -> Result<(), Failure> {
        while self.loaded.len() >= self.most_loaded && self.drop_one(&digests([model])) {}
        let Some(limit) = limit else { return Ok(()) };
        while self.total(0).saturating_add(bytes) > limit {
            if !self.drop_one(&digests([model])) {
                let what = format!("loading {}", model.name);
                return Err(out_of_memory(&what, bytes, limit, self.held_by_job()));
            }
        }
        Ok(())
    }

    /// Notes what a job or a call works with and takes. Where that does not fit beside the other one,
    /// it is refused, and nothing is noted.
    pub(super) fn admit<'a>(
        &mut self,
        holder: Holder,
        models: impl IntoIterator<Item = &'a OpenedModel>,
        memory: WorkMemory,
        limit: Option<u64>,
    ) -> Result<(), Failure> {
        let models = digests(models);
        if let Some(limit) = limit {
            while self.total(memory.program).saturating_add(memory.work) > limit {
                if !self.drop_one(&models) {
                    let of_models = self.bytes_of(&models);
                    let need = memory.total(of_models);
                    let what = match holder {
                        Holder::Job => "the job",
                        Holder::Call => "the call",
                    };
                    return Err(out_of_memory(what, need, limit, self.held_by_job()));
                }
            }
        }
        *self.held(holder) = Held { models, work: memory.work };
        Ok(())
    }

    /// A job or a call has ended.
    pub(super) fn release(&mut self, holder: Holder) {
        *self.held(holder) = Held::default();
    }

    /// Drops the models that nobody works with; says whether any went.
    pub(super) fn drop_idle(&mut self) -> bool {
        let mut dropped = false;
        while self.drop_one(&BTreeSet::new()) {
            dropped = true;
        }
        dropped
    }

    /// Drops every model: what a job works with stays until its end all the same.
    pub(super) fn clear(&mut self) {
        self.loaded.clear();
    }

    fn held(&mut self, holder: Holder) -> &mut Held {
        match holder {
            Holder::Job => &mut self.job,
            Holder::Call => &mut self.call,
        }
    }

    /// All bytes that are held, with the program's.
    fn total(&self, program: u64) -> u64 {
        let parts = self.loaded.iter().map(|loaded| loaded.bytes);
        let parts = parts.chain([self.job.work, self.call.work]);
        parts.fold(program, u64::saturating_add)
    }

    fn bytes_of(&self, models: &BTreeSet<String>) -> u64 {
        let of_these = self.loaded.iter().filter(|loaded| models.contains(&loaded.digest));
        of_these.map(|loaded| loaded.bytes).fold(0, u64::saturating_add)
    }

    fn held_by_job(&self) -> u64 {
        self.job.work.saturating_add(self.bytes_of(&self.job.models))
    }

    /// Drops the model used longest ago that nobody works with, and on which no other is built; says
    /// whether there was one.
    fn drop_one(&mut self, but: &BTreeSet<String>) -> bool {
        let is_idle = |loaded: &Loaded<E>| {
            let digest = &loaded.digest;
            let is_base = self.loaded.iter().any(|other| other.base.as_ref() == Some(digest));
            let held = [but, &self.job.models, &self.call.models];
            !is_base && held.iter().all(|models| !models.contains(digest))
        };
        match self.loaded.iter().position(is_idle) {
            Some(index) => {
                self.loaded.remove(index);
                true
            }
            None => false,
        }
    }
}

/// Of models and of those that they are made of.
fn digests<'a>(models: impl IntoIterator<Item = &'a OpenedModel>) -> BTreeSet<String> {
    let of_model = |model: &OpenedModel| {
        let base = model.edited.as_ref().map(|edited| edited.base_digest.clone());
        [Some(model.digest.clone()), base]
    };
    models.into_iter().flat_map(of_model).flatten().collect()
}
