//! Signs results that `unlearn --local` writes.

use std::{fs::File, io::Read as _};

use serde_json::json;

use crate::{
    cli::{CliError, output::Staging, unlearn::UnlearnArguments},
    jobs::Clock,
    outcome::FinishedResult,
    provenance::{Facts, LONGEST_KEY_FILE, SealedFile, Signer, Task, read_signing_key, seal},
    publishing::rfc3339,
    run::UnlearnRequest,
};

/// Who signs, and since when the work goes on.
#[derive(Debug)]
pub(super) struct LocalSeal {
    signer: Signer,
    began: String,
}

impl LocalSeal {
    /// None where nobody asked for a signature. Reads the key and tries it, before any work.
    pub(super) fn of(arguments: &UnlearnArguments) -> Result<Option<Self>, CliError> {
        let (Some(path), Some(builder_id)) = (&arguments.signing_key, &arguments.builder_id) else {
            return Ok(None);
        };
        let mut file = Vec::new();
        File::open(path)
            .and_then(|opened| opened.take(LONGEST_KEY_FILE).read_to_end(&mut file))
            .map_err(|source| CliError::File { path: path.clone(), source })?;
        let key = read_signing_key(file)
            .map_err(|source| CliError::Key { path: path.clone(), source })?;
        let signer =
            Signer::new(key, builder_id).map_err(|error| CliError::Usage(error.to_string()))?;
        Ok(Some(Self { signer, began: rfc3339(Clock::System.now()) }))
    }

    /// Adds the signatures to a result that is whole but for them.
    pub(super) fn seal(
        &self,
        request: &UnlearnRequest<'_>,
        result: &FinishedResult,
        staging: &mut Staging,
    ) -> Result<(), CliError> {
        let parameters = json!({
            "base_model": request.base_model,
            "spec": request.spec,
            "formats": request.formats,
            "evaluation": request.evaluation,
            "evaluation_sampler": request.sampler,
        });
        let facts = Facts {
            task: Task::Erasure,
            parameters: parameters.as_object().cloned().unwrap_or_default(),
            base_model: request.base_model,
            base_digest: request.base_digest,
            license: None,
            inputs: Vec::new(),
            result,
            test: None,
            invocation: "",
            started_on: Some(self.began.clone()),
            finished_on: Some(rfc3339(Clock::System.now())),
        };
        for SealedFile { name, bytes } in seal(&facts, &self.signer)? {
            staging.write(name, &bytes)?;
        }
        Ok(())
    }
}
