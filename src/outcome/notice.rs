//! What a run tells beside its progress.

/// What became of a run's saved state; for a log, since the result is the same either way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Training goes on from saved state.
    Resumed {
        /// The update that comes next, from 0.
        update: usize,
    },
    /// Saved state was found and cannot be used; what it holds is computed anew.
    StateIgnored {
        /// The part's file.
        file: &'static str,
        /// Why.
        reason: String,
    },
    /// State could not be saved; the run goes on.
    StateNotSaved {
        /// The part's file.
        file: &'static str,
        /// Why.
        reason: String,
    },
}

impl Notice {
    /// A short name, for machines to sort by.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Resumed { .. } => "resumed",
            Self::StateIgnored { .. } => "state_ignored",
            Self::StateNotSaved { .. } => "state_not_saved",
        }
    }
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Resumed { update } => write!(f, "training goes on at update {update}"),
            Self::StateIgnored { file, reason } => {
                write!(f, "the saved {file} is not used, what it holds is computed anew: {reason}")
            }
            Self::StateNotSaved { file, reason } => {
                write!(f, "{file} was not saved, the run goes on: {reason}")
            }
        }
    }
}
