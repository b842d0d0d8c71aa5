//! The list of models, in pages: base models by name, then checkpoints, newest first.

use super::{
    Catalogue, ModelCursor, ModelPage, model_failure::store_failure, published::Checkpoint,
};
use crate::jobs::{Failure, JobId, JobStore, ListQuery, Page, Principal, StateName};

/// A page in the making.
struct Filling<'a> {
    catalogue: &'a Catalogue,
    viewer: Option<&'a Principal>,
    page: ModelPage,
    most: usize,
}

/// A page of at most so many models; at least one is given, if there is one.
pub(super) async fn list(
    catalogue: &Catalogue,
    viewer: Option<&Principal>,
    after: Option<ModelCursor>,
    most: usize,
) -> Result<ModelPage, Failure> {
    let page = ModelPage { models: Vec::new(), next: None };
    let filling = Filling { catalogue, viewer, page, most: most.max(1) };
    match after {
        Some(ModelCursor::OlderThan(id)) => filling.checkpoints(Some(id)).await,
        Some(ModelCursor::AfterBase(name)) => filling.bases(Some(name)).await,
        None => filling.bases(None).await,
    }
}

impl Filling<'_> {
    async fn bases(mut self, after: Option<String>) -> Result<ModelPage, Failure> {
        let names = self.catalogue.bases.keys();
        let mut left = names.filter(|name| after.as_ref().is_none_or(|after| *name > after));
        let names: Vec<_> = left.by_ref().take(self.most).collect();
        self.page.models =
            names.iter().filter_map(|name| self.catalogue.base_entry(name)).collect();
        let more_bases = left.next().is_some();
        if self.page.models.len() < self.most {
            return self.checkpoints(None).await;
        }
        // The page is full: is there anything beyond it?
        if more_bases || !self.jobs(None, 1).await?.jobs.is_empty() {
            self.page.next = names.last().map(|name| ModelCursor::AfterBase((*name).clone()));
        }
        Ok(self.page)
    }

    async fn checkpoints(mut self, mut before: Option<JobId>) -> Result<ModelPage, Failure> {
        loop {
            let page = self.jobs(before, self.most - self.page.models.len()).await?;
            for job in &page.jobs {
                let entry =
                    Checkpoint::of(job).map(|found| self.catalogue.checkpoint_entry(&found));
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
            principal: self.viewer.cloned(),
            states: vec![StateName::Succeeded],
            kind: Some("unlearn".to_owned()),
            before,
            limit: u32::try_from(most).unwrap_or(u32::MAX),
            ..ListQuery::default()
        };
        self.catalogue.store.list(&query).await.map_err(|error| store_failure(&error))
    }
}
