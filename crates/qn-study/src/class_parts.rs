//! Papyan's decomposition of G by classes, and where the class gradients lie in it.
//!
//! For cross-entropy, sample i of class c with probabilities p and Jacobian J gives G the term Σ_c' (p_c'/N) g gᵀ, with
//! g = Jᵀ(e_c' − p) for each class c'. The terms with c' = c are G_0. Those of the other classes split by their means, g_cc'
//! over the samples of class c and g_c over these and over c', weighted by p_c'/N:
//!
//! ```text
//! G_1 = Σ_c w_c g_c g_cᵀ                               the classes
//! G_2 = Σ_cc' w_cc' (g_cc' − g_c)(g_cc' − g_c)ᵀ        within them, their pairs with other classes
//! G_3 = Σ_cc' Σ_i (p_c'/N) (g − g_cc')(g − g_cc')ᵀ     within those, the samples
//! ```
//!
//! and G = G_0 + G_1 + G_2 + G_3 (V. Papyan, arXiv 1901.08244 and 2008.11865). G_1 has rank C at most, G_2 C(C − 2).

use std::sync::Arc;

use anyhow::{Result, bail};
use faer::{Mat, MatRef};
use nalgebra::DMatrix;
use qn_curvature::{Derivatives, Operator};
use qn_run::{Invalid, Observer, Stage};
use qn_spectrum::{DenseSymmetric, Estimate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operator::{CurvatureOperator, Watched, explain};
use crate::request::{check_probes, check_tol};
use crate::softmax_parts::{Part, Terms, Within};
use crate::solve::{Solve, Solved};
use crate::subspace::{column_space, cosines, principal_angles, unit_columns};

/// What is asked of G's parts.
#[derive(Clone, Debug)]
pub struct HierarchyOptions {
    /// Eigenvalues of each part; 2C where absent.
    pub k: Option<usize>,
    /// Residuals wanted, relative to the largest eigenvalue.
    pub tol: f64,
    /// Products for a trace, where the network is too large for all of them.
    pub probes: usize,
    /// Up to how many parameters the matrices are built, so that traces are exact.
    pub dense_up_to: usize,
    /// Seed of the random vectors.
    pub seed: u64,
}

impl HierarchyOptions {
    /// Refuses numbers that make no sense.
    pub(crate) fn check(&self) -> Result<()> {
        check_tol(self.tol)?;
        check_probes(self.probes)
    }
}

impl Default for HierarchyOptions {
    /// Residuals of 1e-6, sixty products above 3,000 parameters.
    fn default() -> Self {
        Self { k: None, tol: 1e-6, probes: 60, dense_up_to: 3000, seed: 0 }
    }
}

/// A network's derivatives over samples with one label each, the loss being their mean cross-entropy.
pub struct Labelled<'a> {
    /// Over all samples.
    pub derivatives: &'a Derivatives,
    /// Their labels.
    pub labels: &'a [u32],
    /// Number of classes C, that of the outputs.
    pub classes: usize,
    /// Over those of one class.
    pub of_class: &'a OfClass<'a>,
}

/// Gives the derivatives over the samples of a class: its number, and theirs.
pub type OfClass<'a> = dyn Fn(usize, &[usize]) -> Result<Arc<Derivatives>> + 'a;

/// A part of G.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HierarchyPart {
    /// Its trace; the standard error is zero where it is exact.
    pub trace: Estimate,
    /// Its largest eigenvalues, descending; zeros where its rank is smaller.
    pub eigenvalues: Vec<f64>,
}

/// How G is made of classes, pairs of classes and samples.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Hierarchy {
    /// `dense` where the matrices were built, otherwise `lanczos`.
    pub method: String,
    /// Number of classes C.
    pub classes: usize,
    /// The whole of G.
    pub whole: HierarchyPart,
    /// G_0, the terms of each sample's own class.
    pub own_class: HierarchyPart,
    /// G_1, of the means over a class and all others.
    pub class: HierarchyPart,
    /// G_2, of the means over a class and another, about those.
    pub cross_class: HierarchyPart,
    /// G_3, of single samples about those.
    pub within_class: HierarchyPart,
    /// The largest eigenvalues of G_1 + G_2, descending.
    pub class_and_cross_class: Vec<f64>,
    /// Whether all eigenvalues are within the tolerance.
    pub converged: bool,
    /// w_cc', row c column c': the mean over all samples of the probability of c' where the class is c.
    pub weights: Vec<Vec<f64>>,
    /// |g_c| of each class; zero where it has no sample.
    pub class_mean_norms: Vec<f64>,
    /// |v_j · g_c|/|g_c| of the eigenvectors v_j of G, row c column j.
    pub cosines: Vec<Vec<f64>>,
    /// Of each eigenvector of G, its share in the span of all g_c: the squared cosine.
    pub in_class_means: Vec<f64>,
    /// Alike in the span of all g_cc'.
    pub in_cross_class_means: Vec<f64>,
    /// Alike in the span of the class gradients, the mean gradients of logit c over class c.
    pub in_class_gradients: Vec<f64>,
    /// What a random direction has in the three spans: their dimensions over P.
    pub random_shares: [f64; 3],
    /// Of each class gradient, |cos| with g_c of its class.
    pub class_gradient_cosines: Vec<f64>,
    /// Between the span of the class gradients and that of all g_c, radians, ascending.
    pub angles_to_class_means: Vec<f64>,
}

impl Hierarchy {
    /// Takes G apart.
    ///
    /// # Errors
    /// The options make no sense, or the observer wishes to stop.
    pub fn of(of: &Labelled<'_>, options: &HierarchyOptions, observer: &dyn Observer) -> Result<Self> {
        options.check()?;
        let Labelled { derivatives, labels, classes, .. } = *of;
        let terms = Terms::new(&derivatives.outputs()?, labels, classes);
        let p = derivatives.dim();
        let k = options.k.unwrap_or(2 * classes).min(p);
        if k == 0 {
            bail!(Invalid("`k` 0: give at least 1".into()));
        }
        let stage = Stage::begin(observer, "products", 0);
        let solve = Solve {
            k,
            tol: options.tol,
            probes: options.probes,
            dense: p <= options.dense_up_to,
            seed: options.seed,
        };
        let means = Means::new(of, &terms)?;
        let g = CurvatureOperator { derivatives, which: Operator::Ggn };
        let whole = solve.run(&Watched::new(g, &stage))?;
        let own = solve.run(&Watched::new(Part { derivatives, terms: &terms, own: true }, &stage))?;
        let others = Part { derivatives, terms: &terms, own: false };
        let within = solve.run(&Watched::new(Within { others, means: means.pairs.as_ref() }, &stage))?;

        let gradients = derivatives.class_gradients()?.rows;
        let gradients = DMatrix::from_fn(p, classes, |i, c| gradients[c * p + i]);
        let vectors = nalgebra_of(whole.pairs.vectors.as_ref());
        let spans = [&means.centres, &nalgebra_of(means.pairs.as_ref()), &gradients].map(column_space);
        let [in_class_means, in_cross_class_means, in_class_gradients] = spans
            .each_ref()
            .map(|q| (q.transpose() * &vectors).column_iter().map(|c| c.norm_squared()).collect());
        let rows = cosines(&means.centres, &vectors);
        Ok(Self {
            method: if solve.dense { "dense" } else { "lanczos" }.into(),
            classes,
            class: low_rank(means.classes.as_ref(), k)?,
            cross_class: low_rank(means.crossed.as_ref(), k)?,
            class_and_cross_class: low_rank(means.pairs.as_ref(), k)?.eigenvalues,
            converged: [&whole, &own, &within].iter().all(|solved| solved.pairs.converged == k),
            whole: part(whole),
            own_class: part(own),
            within_class: part(within),
            weights: terms.weights(),
            class_mean_norms: means.centres.column_iter().map(|g| g.norm()).collect(),
            cosines: rows.row_iter().map(|r| r.iter().copied().collect()).collect(),
            in_class_means,
            in_cross_class_means,
            in_class_gradients,
            random_shares: spans.each_ref().map(|q| q.ncols() as f64 / p as f64),
            class_gradient_cosines: cosines(&gradients, &unit_columns(&means.centres))
                .diagonal()
                .as_slice()
                .to_vec(),
            angles_to_class_means: principal_angles(&gradients, &spans[0]),
        })
    }
}

/// The means, and their parts of G, each as W with W Wᵀ the part.
struct Means {
    /// The g_c along the columns, zero for classes without a sample.
    centres: DMatrix<f64>,
    /// Of G_1: √w_c g_c.
    classes: Mat<f64>,
    /// Of G_1 + G_2: √w_cc' g_cc', class after class.
    pairs: Mat<f64>,
    /// Of G_2: √w_cc' (g_cc' − g_c).
    crossed: Mat<f64>,
}

impl Means {
    fn new(of: &Labelled<'_>, terms: &Terms) -> Result<Self> {
        let (p, classes) = (of.derivatives.dim(), terms.classes);
        let count = classes * (classes - 1);
        let mut found = Self {
            centres: DMatrix::zeros(p, classes),
            classes: Mat::zeros(p, classes),
            pairs: Mat::zeros(p, count),
            crossed: Mat::zeros(p, count),
        };
        for class in 0..classes {
            let members = terms.members(class);
            let others: Vec<usize> = (0..classes).filter(|c| *c != class).collect();
            let first = class * (classes - 1);
            let weights: Vec<f64> = others.iter().map(|&c| terms.weight(&members, c)).collect();
            let total: f64 = weights.iter().sum();
            if total == 0.0 {
                continue;
            }
            // Sums of (p_c'/N) g over the members, for each c'.
            let mut sums = Mat::zeros(p, classes - 1);
            let here = (of.of_class)(class, &members)?;
            here.vjp(terms.seeds(&members, &others).as_ref(), sums.as_mut())?;
            for i in 0..p {
                let mean = sums.row(i).iter().sum::<f64>() / total;
                found.centres[(i, class)] = mean;
                found.classes[(i, class)] = total.sqrt() * mean;
                for (j, &w) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
                    found.pairs[(i, first + j)] = sums[(i, j)] / w.sqrt();
                    found.crossed[(i, first + j)] = (sums[(i, j)] / w - mean) * w.sqrt();
                }
            }
        }
        Ok(found)
    }
}

fn nalgebra_of(a: MatRef<'_, f64>) -> DMatrix<f64> {
    DMatrix::from_fn(a.nrows(), a.ncols(), |i, j| a[(i, j)])
}

/// W Wᵀ by the eigenvalues of Wᵀ W.
fn low_rank(w: MatRef<'_, f64>, k: usize) -> Result<HierarchyPart> {
    let gram = w.transpose() * w;
    let trace = (0..gram.nrows()).map(|j| gram[(j, j)]).sum();
    let values = DenseSymmetric::new(gram).and_then(|gram| gram.eigen()).map_err(explain)?.values;
    let mut eigenvalues: Vec<f64> = values.into_iter().rev().map(|v| v.max(0.0)).collect();
    eigenvalues.resize(k, 0.0);
    Ok(HierarchyPart { trace: Estimate { value: trace, standard_error: 0.0 }, eigenvalues })
}

fn part(solved: Solved) -> HierarchyPart {
    HierarchyPart { trace: solved.trace, eigenvalues: solved.pairs.values }
}
