//! The list of models, in pages: base models by name, then checkpoints, newest first.

use std::collections::BTreeMap;

use super::{
    ModelCursor, ModelPage, base::Base, model_failure::store_failure, published::Checkpoint,
};
use crate::jobs::{Failure, JobId, JobStore, ListQuery, Page, Principal, StateName, Store};

/// The models that a viewer may see; `None` sees everybody's.
#[derive(Clone, Copy)]
pub(super) struct Listed<'a> {
    pub(super) bases: &'a BTreeMap<String, Base>,
    pub(super) store: &'a Store,
    pub(super) viewer: Option<&'a Principal>,
}

impl Listed<'_> {
    /// A page of at most `most` models, and of at least one where there is one.
    pub(super) async fn page(
        self,
        after: Option<ModelCursor>,
        most: usize,
    ) -> Result<ModelPage, Failure> {
        let page = ModelPage { models: Vec::new(), next: None };
        let filling = Filling { models: self, page, most: most.max(1) };
        match after {
            Some(ModelCursor::OlderThan(id)) => filling.checkpoints(Some(id)).await,
            Some(ModelCursor::AfterBase(name)) => filling.bases(Some(name)).await,
            None => filling.bases(None).await,
        }
    }
}

/// A page in the making.
struct Filling<'a> {
    models: Listed<'a>,
    page: ModelPage,
    most: usize,
}

impl Filling<'_> {
    async fn bases(mut self, after: Option<String>) -> Result<ModelPage, Failure> {
        let bases = self.models.bases.iter();
        let mut left = bases.filter(|(name, _)| after.as_ref().is_none_or(|after| *name > after));
        let taken: Vec<_> = left.by_ref().take(self.most).collect();
        self.page.models = taken.iter().map(|(_, base)| base.entry()).collect();
        let more_bases = left.next().is_some();
        if self.page.models.len() < self.most {
            return self.checkpoints(None).await;
        }
        // The page is full: is there anything beyond it?
        if more_bases || !self.jobs(None, 1).await?.jobs.is_empty() {
            self.page.next = taken.last().map(|(name, _)| ModelCursor::AfterBase((*name).clone()));
        }
        Ok(self.page)
    }

    async fn checkpoints(mut self, mut before: Option<JobId>) -> Result<ModelPage, Failure> {
        loop {
            let page = self.jobs(before, self.most - self.page.models.len()).await?;
            for job in &page.jobs {
                let entry = Checkpoint::of(job).map(|found| found.entry_beside(self.models.bases));
                self.page.models.extend(entry);
            }
            let is_full = self.page.models.len() >= self.most;
            match page.next {
                Some(id) if is_full => self.page.next = Some(ModelCursor::OlderThan(id)),
                Some(id) => {
                    before = Some(id);
                    continue;
                }
                None => {}
            }
            return Ok(self.page);
        }
    }

    async fn jobs(&self, before: Option<JobId>, most: usize) -> Result<Page, Failure> {
        let query = ListQuery {
            principal: self.models.viewer.cloned(),
            states: vec![StateName::Succeeded],
            kind: Some("unlearn".to_owned()),
            before,
            limit: u32::try_from(most).unwrap_or(u32::MAX),
            ..ListQuery::default()
        };
        self.models.store.list(&query).await.map_err(|error| store_failure(&error))
    }
}
