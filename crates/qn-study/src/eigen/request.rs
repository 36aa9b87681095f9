use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use qn_spectrum::{Which, wants_library};

use crate::block_cyclic::DenseSolver;
use crate::request::ProblemRequest;
use crate::storage::Storage;

/// Asks for eigenvalues and eigenvectors of the loss's Hessian (or of G or F) at a trained network.
#[derive(Clone, Debug)]
pub struct EigenRequest {
    /// Of what.
    pub problem: ProblemRequest,
    /// Eigenpairs wanted.
    pub k: usize,
    /// From which end.
    pub which: Which,
    /// Build the whole matrix and find all eigenvalues.
    pub full: bool,
    /// With `full`: which vectors; `k` of them at `which` where absent.
    pub vectors: Option<Vectors>,
    /// With `full`: another solver, for a matrix that several processes hold together.
    pub solver: Option<Arc<dyn DenseSolver>>,
    /// With `full`: seconds between saves of what is done, from which the same request goes on.
    pub save_every: u64,
    /// Residuals wanted, relative to the largest |eigenvalue|; 1e-6, and 1e-5 with single precision, where absent.
    pub tol: Option<f64>,
    /// Largest dimension of the Lanczos basis; 64, or 4k if that is more, where absent, and less where memory is short.
    pub ncv: Option<usize>,
    /// Vectors multiplied at a time; 2 where absent.
    pub block: Option<usize>,
    /// Precision of the Lanczos basis and of the eigenvectors.
    pub storage: Storage,
    /// Most restarts of Lanczos.
    pub maxiter: usize,
    /// Project out what was found and compare the best pair of the rest with the worst that was accepted, until none is
    /// better: no copy of a repeated eigenvalue is missed.
    pub verify: bool,
    /// Where the report goes, with eigenvectors and what else belongs to it beside it; nothing is written where absent.
    pub to: Option<PathBuf>,
}

impl Default for EigenRequest {
    /// Ten of the largest.
    fn default() -> Self {
        Self {
            problem: ProblemRequest::default(),
            k: 10,
            which: Which::La,
            full: false,
            vectors: None,
            solver: None,
            save_every: 900,
            tol: None,
            ncv: None,
            block: None,
            storage: Storage::Auto,
            maxiter: 300,
            verify: false,
            to: None,
        }
    }
}

impl EigenRequest {
    /// Whether the vectors that are wanted of a matrix of order p go into files of their own: all, where they are too many
    /// for the library, and there is a place for them.
    pub(crate) fn wants_files(&self, p: usize) -> bool {
        let all = self.full && self.vectors == Some(Vectors::All);
        all && self.solver.is_none() && self.to.is_some() && !wants_library(p)
    }

    /// With `vectors` put into words of `k` and `which`, for a matrix of order p.
    pub(crate) fn resolved(&self, p: usize) -> Self {
        let (k, which) = match self.vectors {
            None => (self.k, self.which),
            Some(Vectors::All) if self.wants_files(p) => (self.k.min(p), self.which),
            Some(Vectors::All) => (p, Which::La),
            Some(Vectors::Ends(k)) => (p.min(2 * k), Which::Be),
        };
        Self { k, which, ..self.clone() }
    }
}

/// How many eigenvectors of a full spectrum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vectors {
    /// At each end.
    Ends(usize),
    /// Of all eigenvalues. Above 2,000 parameters they go into files of some hundreds beside the report, which lists `k` pairs
    /// at `which`; the memory then holds no more than the matrix.
    All,
}

impl FromStr for Vectors {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(k) => Ok(Self::Ends(k)),
            Err(_) if text == "all" => Ok(Self::All),
            Err(_) => Err("give a number or \"all\"".into()),
        }
    }
}
