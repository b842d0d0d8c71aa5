//! What a principal or a certificate's name may be.

/// Characters of a principal or of a certificate's name.
pub(super) const MOST_CHARACTERS: usize = 256;

/// Whether a name can be told from others.
pub(super) fn is_plain_name(name: &str) -> bool {
    let fits = (1..=MOST_CHARACTERS).contains(&name.chars().count());
    fits && !name.contains(char::is_control)
}
