//! Whether results can be published: writes, reads back and compares a small object.

use object_store::{ObjectStoreExt, PutPayload, path::Path};

use crate::storage::Place;

/// What is written.
const TEXT: &str = "keystep writes this to see whether it may; it can be deleted at any time\n";

/// Writes below a place under a name of this daemon's alone; says what does not work.
pub(super) async fn probe_output(place: &Place, identity: &str) -> Result<(), String> {
    let name = format!(".{identity}.probe");
    let path = match place.path.as_ref() {
        "" => Path::parse(&name),
        prefix => Path::parse(format!("{prefix}/{name}")),
    };
    let path = path.map_err(|error| error.to_string())?;
    let written = place.store.put(&path, PutPayload::from_static(TEXT.as_bytes())).await;
    written.map_err(|error| format!("cannot write: {error}"))?;
    let read = async { place.store.get(&path).await?.bytes().await }.await;
    let read = read.map_err(|error| format!("cannot read back: {error}"))?;
    // Some buckets allow no deletes; the one object that stays there is overwritten next time.
    if let Err(error) = place.store.delete(&path).await {
        tracing::debug!(%error, "the probe's object stays");
    }
    if read == TEXT.as_bytes() { Ok(()) } else { Err("reads back something else".to_owned()) }
}
