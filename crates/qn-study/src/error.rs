use std::path::PathBuf;

/// Why a study was not done. What is wrong with a request is an [`Invalid`](qn_run::Invalid) instead. Names of a request's
/// fields stand between backticks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StudyError {
    /// The observer wished it.
    #[error("interrupted; nothing was written")]
    Stopped,
    /// The observer wished it, and what was done is kept.
    #[error("interrupted; what was done is in {}, and the same command goes on from there", .0.display())]
    Kept(PathBuf),
    /// What another study leaves is missing, or is about something else.
    #[error("{words}")]
    Needs {
        /// What is wrong.
        words: String,
        /// The study.
        study: &'static str,
        /// The run that it is to be asked about, where it is known.
        run: Option<PathBuf>,
        /// Fields of its request that are to be set, with their values; those without one are to be left out.
        fields: Vec<(&'static str, Option<String>)>,
    },
    /// It cannot be done in this way.
    #[error("{0}")]
    Refused(String),
}
