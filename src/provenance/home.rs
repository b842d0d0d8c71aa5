//! The URIs that are ours.

/// A URI of ours. The project has no address of its own yet; nobody else can ever have this one
/// (RFC 2606), and `docs/provenance.md` says what stands behind each path.
pub(super) fn home(path: &str) -> String {
    format!("https://keystep.example/{path}")
}
