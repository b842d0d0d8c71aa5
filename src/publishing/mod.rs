//! Results into object storage: files, model card, and last the manifest.
