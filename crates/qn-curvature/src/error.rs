/// What can go wrong in a differentiation.
#[derive(Debug, thiserror::Error)]
pub enum CurvatureError {
    /// A number is NaN or infinite.
    #[error("{what} is not finite (first at entry {index}): {remedy}")]
    NotFinite {
        /// Which quantity.
        what: &'static str,
        /// The first bad entry.
        index: usize,
        /// What to look at.
        remedy: &'static str,
    },
    /// Sizes do not agree.
    #[error("{what} has {found} entries, expected {expected}")]
    Size {
        /// Which quantity.
        what: &'static str,
        /// What was found.
        found: usize,
        /// What it must be.
        expected: usize,
    },
    /// An operation of the graph is not known here.
    #[error("the operation {operation} cannot be differentiated")]
    Unsupported {
        /// Its name.
        operation: String,
    },
    /// The network is not as it was said to be.
    #[error(transparent)]
    Model(#[from] qn_model::ModelError),
    /// A sample that is not there is asked for.
    #[error("there is no sample {sample}: there are {n}, counted from 0")]
    Sample {
        /// The sample that was asked for.
        sample: usize,
        /// Number of samples.
        n: usize,
    },
    /// A batch normalisation is given one value a channel.
    #[error(
        "the batch normalisation '{layer}' is given one value a channel, which has no variance: train on batches of at \
         least two samples"
    )]
    NoVariance {
        /// Its layer.
        layer: String,
    },
    /// Who asked for a product did not want it any more.
    #[error("the product was stopped")]
    Stopped,
    /// Targets are not what the loss or the network's output asks for.
    #[error("the targets do not fit: {reason}")]
    Targets {
        /// What does not fit.
        reason: String,
    },
}

/// Names the first number of `values` that is not finite.
pub(crate) fn check_finite(
    what: &'static str,
    remedy: &'static str,
    mut values: impl Iterator<Item = f64>,
) -> Result<(), CurvatureError> {
    match values.position(|v| !v.is_finite()) {
        Some(index) => Err(CurvatureError::NotFinite { what, index, remedy }),
        None => Ok(()),
    }
}

pub(crate) fn check_len(what: &'static str, found: usize, expected: usize) -> Result<(), CurvatureError> {
    if found == expected { Ok(()) } else { Err(CurvatureError::Size { what, found, expected }) }
}
