//! Class gradients against eigenvectors.

use qn_run::Versions;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::chance::RandomAssigned;

/// Class gradients of every snapshot against the top eigenvectors: `overlap.json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OverlapReport {
    /// Version of this format.
    pub schema_version: u32,
    /// `averaged` (the optimiser's running averages), `batch` (one minibatch's) or `exact` (over all samples).
    pub class_gradients: String,
    /// Number of classes C.
    pub classes: usize,
    /// Eigenvectors compared with.
    pub k: usize,
    /// Number of parameters P.
    pub params: usize,
    /// Which matrix the eigenvectors belong to, and over how many samples.
    pub operator: String,
    /// Number of samples N that the matrix is a mean over.
    pub samples: usize,
    /// Eigenvalues of the vectors compared with.
    pub eigenvalues: Vec<f64>,
    /// E|cos| of two random directions in R^P: √(2 / (π P)).
    pub random_baseline: f64,
    /// `mean_assigned_cosine` for as many random directions as the last snapshot has class gradients; reports of earlier
    /// versions lack it.
    pub random_assigned: Option<RandomAssigned>,
    /// One entry a snapshot, by step.
    pub snapshots: Vec<SnapshotOverlap>,
    /// Hash of the parameter layout.
    pub layout_hash: String,
    /// Versions of the program and of the libraries that compute.
    pub versions: Versions,
}

impl OverlapReport {
    /// What the mean assigned cosine is for random directions.
    pub fn random_assigned(&self) -> RandomAssigned {
        let new = || RandomAssigned::new(self.params, self.classes, self.k);
        self.random_assigned.clone().unwrap_or_else(new)
    }
}

/// One snapshot against the eigenvectors.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotOverlap {
    /// Steps taken before the snapshot.
    pub step: u64,
    /// How many classes have a class gradient. The others, of which there was no sample, take no part in the means and are
    /// zero rows of `cosines`. Absent in reports of earlier versions, which counted them in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes_present: Option<usize>,
    /// |v_k · e_j|: row k is class k, column j eigenvector j.
    pub cosines: Vec<Vec<f64>>,
    /// Eigenvector assigned to each class; null for classes without a class gradient.
    pub assignment: Vec<Option<usize>>,
    /// Mean |cosine| of the assigned pairs.
    pub mean_assigned_cosine: f64,
    /// ‖Qᵀ E‖²_F divided by the number of classes present, Q an orthonormal basis of the class gradients.
    pub subspace_overlap: f64,
    /// Radians, ascending.
    pub principal_angles: Vec<f64>,
    /// Largest |v_j · v_k| of two classes.
    pub max_coherence: f64,
    /// |c_k|.
    pub class_gradient_norms: Vec<f64>,
    /// Rank of [V, E] with unit columns.
    pub rank: usize,
    /// s_max · max(P, C + k) · 2^-23, single precision being the snapshots'.
    pub rank_tolerance: f64,
    /// Of [V, E] with unit columns, descending.
    pub singular_values: Vec<f64>,
    /// Rank with unit columns by double precision's tolerance, 2^-29 times as large.
    pub rank_f64: usize,
    /// Rank with the class gradients as they are, by double precision's tolerance.
    pub rank_raw_f64: usize,
    /// Rank with the class gradients as they are. Beware: eigenvectors shorter than the tolerance
    /// vanish, so this one depends on |c_k|.
    pub rank_raw: usize,
    /// Its tolerance.
    pub rank_raw_tolerance: f64,
    /// Its singular values.
    pub singular_values_raw: Vec<f64>,
}

impl SnapshotOverlap {
    /// How many classes have a class gradient.
    pub fn present(&self) -> usize {
        self.classes_present.unwrap_or(self.cosines.len())
    }
}
