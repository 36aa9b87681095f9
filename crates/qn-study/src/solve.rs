//! The largest eigenpairs and the trace of a matrix, from all its entries or from products.

use anyhow::Result;
use qn_spectrum::{
    DenseSymmetric, Eigenpairs, Estimate, LanczosOptions, SpectrumError, SymmetricOperator, Which,
    hutch_plus_plus, lanczos,
};

use crate::operator::{descending, explain};

/// How a matrix's largest eigenvalues and its trace are found.
pub(crate) struct Solve {
    pub(crate) k: usize,
    pub(crate) tol: f64,
    pub(crate) probes: usize,
    /// Whether the matrix is built.
    pub(crate) dense: bool,
    pub(crate) seed: u64,
}

/// A matrix's trace and its largest eigenpairs, descending.
pub(crate) struct Solved {
    pub(crate) trace: Estimate,
    pub(crate) pairs: Eigenpairs,
}

impl Solve {
    pub(crate) fn run(&self, operator: &impl SymmetricOperator) -> Result<Solved> {
        let (trace, pairs) =
            if self.dense { self.densely(operator) } else { self.by_products(operator) }.map_err(explain)?;
        Ok(Solved { trace, pairs: descending(pairs) })
    }

    fn densely(&self, operator: &impl SymmetricOperator) -> Result<(Estimate, Eigenpairs), SpectrumError> {
        let matrix = DenseSymmetric::assemble::<f64>(operator, |_| ())?;
        let trace = (0..operator.dim()).map(|i| matrix.matrix()[(i, i)]).sum();
        let pairs = matrix.eigen()?.pairs(&matrix, self.k, Which::La, self.tol)?;
        Ok((Estimate { value: trace, standard_error: 0.0 }, pairs))
    }

    fn by_products(
        &self,
        operator: &impl SymmetricOperator,
    ) -> Result<(Estimate, Eigenpairs), SpectrumError> {
        let options =
            LanczosOptions { k: self.k, tol: self.tol, seed: self.seed, ..LanczosOptions::default() };
        let pairs = lanczos(operator, &options, |_| ())?;
        Ok((hutch_plus_plus(operator, self.probes, self.seed)?.trace, pairs))
    }
}
