//! The phases of going away.
