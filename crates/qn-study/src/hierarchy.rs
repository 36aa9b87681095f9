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

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use faer::{Mat, MatRef};
use nalgebra::DMatrix;
use qn_curvature::Operator;
use qn_run::{Invalid, LossKind, Observer, Stage};
use qn_spectrum::{DenseSymmetric, Estimate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operator::{CurvatureOperator, Watched, explain};
use crate::output::{self, Report};
use crate::problem::Problem;
use crate::report::Subject;
use crate::request::{Matrix, ProblemRequest, check_tol};
use crate::softmax_parts::{Part, Terms, Within};
use crate::solve::{Solve, Solved};
use crate::subspace::{column_space, cosines, principal_angles, unit_columns};

/// Asks how G is made of classes, pairs of classes and samples.
#[derive(Clone, Debug)]
pub struct HierarchyRequest {
    /// Of what; the loss is cross-entropy, the matrix G.
    pub problem: ProblemRequest,
    /// Eigenvalues of each part; 2C where absent.
    pub k: Option<usize>,
    /// Residuals wanted, relative to the largest eigenvalue.
    pub tol: f64,
    /// Products for a trace, where the network is too large for all of them.
    pub probes: usize,
    /// Up to how many parameters the matrices are built, so that traces are exact.
    pub dense_up_to: usize,
    /// Where the report goes; nothing is written where absent.
    pub to: Option<PathBuf>,
}

impl Default for HierarchyRequest {
    /// Residuals of 1e-6, sixty products above 3,000 parameters.
    fn default() -> Self {
        let problem = ProblemRequest { operator: Matrix::Ggn, ..ProblemRequest::default() };
        Self { problem, k: None, tol: 1e-6, probes: 60, dense_up_to: 3000, to: None }
    }
}

/// A part of G.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HierarchyPart {
    /// Its trace; the standard error is zero where it is exact.
    pub trace: Estimate,
    /// Its largest eigenvalues, descending; zeros where its rank is smaller.
    pub eigenvalues: Vec<f64>,
}

/// How G is made of classes, pairs of classes and samples: `hierarchy.json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HierarchyReport {
    /// What was analysed; the operator is G.
    #[serde(flatten)]
    pub subject: Subject,
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
    /// Wall-clock seconds.
    pub seconds: f64,
}

impl Report for HierarchyReport {
    const KIND: &'static str = "hierarchy";
    const STUDY: &'static str = "hierarchy";
}

/// Takes G apart and writes down what is found.
///
/// # Errors
/// The loss is not cross-entropy of labels, the request makes no sense, something else stands where its answer is to go,
/// or the observer wishes to stop.
pub fn hierarchy(args: &HierarchyRequest, observer: &dyn Observer) -> Result<HierarchyReport> {
    let started = Instant::now();
    output::claim::<HierarchyReport>(args.to.as_deref())?;
    check_tol(args.tol)?;
    if args.problem.operator != Matrix::Ggn {
        bail!(Invalid("hierarchy takes G apart: leave `operator` out".into()));
    }
    let problem = Problem::load(&args.problem, observer, |_| Ok(()))?;
    let terms = terms_of(&problem, args)?;
    let (p, classes) = (problem.derivatives.dim(), terms.classes);
    let k = args.k.unwrap_or(2 * classes).min(p);
    if k == 0 {
        bail!(Invalid("`k` 0: give at least 1".into()));
    }
    let stage = Stage::begin(observer, "products", 0);
    let solve = Solve {
        k,
        tol: args.tol,
        probes: args.probes,
        dense: p <= args.dense_up_to,
        seed: args.problem.seed,
    };
    let means = Means::new(&problem, &terms, args)?;
    let derivatives = &problem.derivatives;
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
    let report = HierarchyReport {
        subject: problem.subject(&args.problem),
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
        cosines: cosines(&means.centres, &vectors).row_iter().map(|r| r.iter().copied().collect()).collect(),
        in_class_means,
        in_cross_class_means,
        in_class_gradients,
        random_shares: spans.each_ref().map(|q| q.ncols() as f64 / p as f64),
        class_gradient_cosines: cosines(&gradients, &unit_columns(&means.centres))
            .diagonal()
            .as_slice()
            .to_vec(),
        angles_to_class_means: principal_angles(&gradients, &spans[0]),
        seconds: started.elapsed().as_secs_f64(),
    };
    output::write(&report, args.to.as_deref())?;
    Ok(report)
}

/// Labels and probabilities; refuses other losses than plain cross-entropy of one label a sample.
fn terms_of(problem: &Problem, args: &HierarchyRequest) -> Result<Terms> {
    let plain = problem.loss() == LossKind::CrossEntropy && args.problem.label_smoothing == 0.0;
    let classes = problem.target.graph.classes();
    match problem.target.data.labels() {
        Some(labels) if plain && args.problem.weight_decay == 0.0 && labels.len() == problem.target.data.len() => {
            Ok(Terms::new(&problem.derivatives.outputs()?, labels, classes))
        }
        _ => bail!(Invalid(
            "hierarchy is about cross-entropy of one label a sample, without `label_smoothing` or `weight_decay`".into()
        )),
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
    fn new(problem: &Problem, terms: &Terms, args: &HierarchyRequest) -> Result<Self> {
        let (p, classes) = (problem.derivatives.dim(), terms.classes);
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
            let here = problem.over(&members, args.problem.dtype)?;
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
