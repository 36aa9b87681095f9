//! Thick-restart block Lanczos with full reorthogonalisation.

use faer::Mat;

use crate::search::Search;
use crate::{Completed, Eigenpairs, LanczosOptions, Progress, Scalar, SpectrumError, SymmetricOperator};

/// Finds extremal eigenpairs. Not converging is a result, told by [`stop_reason`](Eigenpairs::stop_reason) and the
/// residuals.
///
/// Operators so small that the basis would fill the space are solved densely instead, and so are those of at most 4,096
/// dimensions for which the restarts have used as many products as there are dimensions;
/// [`solver`](Eigenpairs::solver) says so. Where as many eigenvalues are equal as there are vectors in a block there may
/// be more of them, and where the Krylov space was an invariant one it says nothing of the rest: in both cases
/// [`complete`] looks.
///
/// Basis and vectors are in the operator's precision S. In single precision they take half of the memory, sums over them
/// are in double precision all the same, and residuals down to some 1e-7 |λ|max can be reached.
///
/// # Errors
/// k is 0 or more than n, `ncv` is too small, `tol` is negative or not finite, a product fails, or the operator is not
/// symmetric, which blocks of two and more vectors show.
pub fn lanczos<S: Scalar>(
    operator: &impl SymmetricOperator<S>,
    options: &LanczosOptions,
    observe: impl FnMut(&Progress),
) -> Result<Eigenpairs<S>, SpectrumError> {
    options.check(operator.dim())?;
    let mut search = Search::new(operator, options, observe);
    let nothing = Mat::<S>::zeros(operator.dim(), 0);
    match search.restarted(nothing.as_ref(), options)? {
        None => search.dense(),
        Some(pairs) if search.broke_down || pairs.may_lack_copies(options.block) => {
            Ok(search.complete(pairs)?.pairs)
        }
        Some(pairs) => Ok(pairs),
    }
}

/// Asks whether pairs that were found are the wanted ones, all copies of repeated eigenvalues included, by deflation:
/// what was found is projected out, and the best pair of the rest is compared with the worst accepted one. Better ones
/// are taken in, with blocks that grow, until there are none.
///
/// # Errors
/// Those of [`lanczos`].
pub fn complete<S: Scalar>(
    operator: &impl SymmetricOperator<S>,
    pairs: Eigenpairs<S>,
    options: &LanczosOptions,
    observe: impl FnMut(&Progress),
) -> Result<Completed<S>, SpectrumError> {
    options.check(operator.dim())?;
    let mut search = Search::new(operator, options, observe);
    search.matvecs = pairs.matvecs;
    search.scale = pairs.values.iter().fold(0.0, |a, v| a.max(v.abs()));
    search.complete(pairs)
}
