//! All eigenvectors of a matrix, in files of some hundreds: read a file at a time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use qn_run::{Tensor, TensorFile};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::output::Output;

/// What is known of all eigenvectors, which are in files beside the report.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AllVectors {
    /// The `key` in the files' metadata, which tells that they belong to this matrix.
    pub key: String,
    /// How many files there are.
    pub files: usize,
    /// Precision of their numbers: `f64` or `f32`.
    pub storage: String,
    /// Some vectors, eight neighbours at each of sixteen places at equal distances.
    pub sampled: Vec<SampledVector>,
}

/// How good an eigenvector is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SampledVector {
    /// Its place in the order of descending eigenvalues, from 0.
    pub index: usize,
    /// The eigenvalue λ.
    pub eigenvalue: f64,
    /// |H v − λ v|, by a fresh product.
    pub residual: f64,
    /// The largest |vᵀu| over all other eigenvectors u, and |vᵀv − 1| if that is more.
    pub orthogonality: f64,
}

impl AllVectors {
    /// The largest |H v − λ v| of those that were looked at.
    pub fn worst_residual(&self) -> f64 {
        self.sampled.iter().fold(0.0, |worst, v| worst.max(v.residual))
    }

    /// The largest |vᵀu − δ| of those that were looked at with all.
    pub fn worst_orthogonality(&self) -> f64 {
        self.sampled.iter().fold(0.0, |worst, v| worst.max(v.orthogonality))
    }
}

/// Places at which vectors are looked at.
const PLACES: usize = 16;
/// Neighbours at each.
const NEIGHBOURS: usize = 8;

/// The name, without its ending, of the file that begins with the vector in this place of the order of descending
/// eigenvalues.
pub(crate) fn name(first: usize) -> String {
    format!("{first:07}")
}

/// Refuses a folder in which something else than eigenvectors stands under the name of a file of ours.
pub(crate) fn claim(folder: &Path) -> Result<()> {
    if folder.exists() && !folder.is_dir() {
        bail!("{} is there and is no folder: it is not replaced; move it away", folder.display());
    }
    for path in tensor_files(folder).unwrap_or_default() {
        Output::Tensors("eigenvectors").claim(&path)?;
    }
    Ok(())
}

/// Removes eigenvectors of other matrices.
pub(crate) fn remove_others(folder: &Path, key: &str) -> Result<()> {
    for path in tensor_files(folder).unwrap_or_default() {
        let meta = TensorFile::meta_of(&path).filter(|meta| meta["kind"] == "eigenvectors");
        if meta.is_some_and(|meta| meta["key"] != key) {
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Files of tensors in a folder, in the order of their names.
fn tensor_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("cannot read the eigenvectors in {}", folder.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut paths: Vec<_> =
        paths.into_iter().filter(|path| path.extension().is_some_and(|e| e == "safetensors")).collect();
    paths.sort();
    Ok(paths)
}

/// Eigenvalues [k] and eigenvectors [k, P], by the names that a file has them under.
pub(crate) fn tensors(eigenvalues: &[f64], eigenvectors: Tensor) -> BTreeMap<String, Tensor> {
    let values = Tensor::f64(&[eigenvalues.len()], eigenvalues);
    [("eigenvalues", values), ("eigenvectors", eigenvectors)].map(|(name, t)| (name.to_owned(), t)).into()
}

/// Vectors that follow each other, eigenvalues descending.
pub(crate) struct Rows {
    /// The first one's place.
    pub(crate) first: usize,
    pub(crate) values: Vec<f64>,
    /// One after the other.
    pub(crate) vectors: Vec<f64>,
}

/// The files of a matrix.
pub(crate) struct VectorFiles {
    folder: PathBuf,
    key: String,
    n: usize,
}

impl VectorFiles {
    pub(crate) fn new(folder: PathBuf, key: String, n: usize) -> Self {
        Self { folder, key, n }
    }

    /// Number n of the matrix's rows, and of vectors.
    pub(crate) fn order(&self) -> usize {
        self.n
    }

    /// Files of this matrix with their metadata.
    fn files(&self) -> Result<impl Iterator<Item = (PathBuf, Value)>> {
        let ours = |path: PathBuf| {
            let meta = TensorFile::meta_of(&path).filter(|meta| meta["key"] == *self.key)?;
            Some((path, meta))
        };
        Ok(tensor_files(&self.folder)?.into_iter().filter_map(ours))
    }

    /// Paths in order, with the places of the first vectors.
    fn paths(&self) -> Result<Vec<(usize, PathBuf)>> {
        let first = |(path, meta): (PathBuf, Value)| Some((meta["first"].as_u64()? as usize, path));
        let mut paths: Vec<_> = self.files()?.filter_map(first).collect();
        paths.sort();
        Ok(paths)
    }

    /// Wall-clock seconds that all of them took.
    pub(crate) fn seconds(&self) -> Result<f64> {
        Ok(self.files()?.filter_map(|(_, meta)| meta["seconds"].as_f64()).sum())
    }

    /// Reads the vectors of one file after the other; all of them must be there.
    pub(crate) fn for_each(&self, mut see: impl FnMut(Rows) -> Result<()>) -> Result<()> {
        let mut next = 0;
        for (first, path) in self.paths()? {
            if first == next {
                let rows = self.rows(first, &path)?;
                next += rows.values.len();
                see(rows)?;
            }
        }
        if next != self.n {
            bail!("the eigenvectors from {next} on are missing in {}", self.folder.display());
        }
        Ok(())
    }

    /// Eigenvalues in these places, and the vectors one after the other.
    pub(crate) fn gather(&self, places: &[usize]) -> Result<(Vec<f64>, Vec<f64>)> {
        let paths = self.paths()?;
        let (mut values, mut vectors) = (vec![0.0; places.len()], vec![0.0; places.len() * self.n]);
        let mut left = places.len();
        for (i, (first, path)) in paths.iter().enumerate() {
            let held = *first..paths.get(i + 1).map_or(self.n, |next| next.0);
            if !places.iter().any(|place| held.contains(place)) {
                continue;
            }
            let rows = self.rows(*first, path)?;
            let into = values.iter_mut().zip(vectors.chunks_exact_mut(self.n)).zip(places);
            for ((value, vector), place) in into.filter(|(_, place)| held.contains(place)) {
                *value = rows.values[place - first];
                vector.copy_from_slice(&rows.vectors[(place - first) * self.n..][..self.n]);
                left -= 1;
            }
        }
        if left > 0 {
            bail!("eigenvectors are missing in {}", self.folder.display());
        }
        Ok((values, vectors))
    }

    fn rows(&self, first: usize, path: &Path) -> Result<Rows> {
        let file = TensorFile::read(path)?;
        let values = file.tensors.get("eigenvalues").and_then(Tensor::to_f64).unwrap_or_default();
        let vectors = file.get(path, "eigenvectors", &[values.len(), self.n])?;
        Ok(Rows { first, values, vectors: vectors.to_f64().unwrap_or_default() })
    }

    /// Pairs in these places, the vectors as columns.
    pub(crate) fn pairs(&self, places: &[usize]) -> Result<(Vec<f64>, Mat<f64>)> {
        let (values, vectors) = self.gather(places)?;
        Ok((values, MatRef::from_column_major_slice(&vectors, self.n, places.len()).to_owned()))
    }

    /// What is to be said of all of them; the sampled ones' residuals come from `residuals`, given these pairs.
    pub(crate) fn examine(
        &self,
        storage: &str,
        residuals: impl FnOnce(Vec<f64>, Mat<f64>) -> Result<Vec<f64>>,
    ) -> Result<AllVectors> {
        let places = sample(self.n);
        let (eigenvalues, chosen) = self.pairs(&places)?;
        let mut worst = vec![0.0f64; places.len()];
        self.for_each(|rows| {
            let all = MatRef::from_column_major_slice(&rows.vectors, self.n, rows.values.len());
            let mut gram = Mat::zeros(places.len(), all.ncols());
            matmul(gram.as_mut(), Accum::Replace, chosen.transpose(), all, 1.0, Par::Seq);
            let found = largest(gram.as_ref(), &places, rows.first);
            worst.iter_mut().zip(found).for_each(|(worst, found)| *worst = worst.max(found));
            Ok(())
        })?;
        let residuals = residuals(eigenvalues.clone(), chosen)?;
        let sampled = places.into_iter().zip(eigenvalues).zip(residuals.into_iter().zip(worst));
        Ok(AllVectors {
            key: self.key.clone(),
            files: self.paths()?.len(),
            storage: storage.into(),
            sampled: sampled
                .map(|((index, eigenvalue), (residual, orthogonality))| SampledVector {
                    index,
                    eigenvalue,
                    residual,
                    orthogonality,
                })
                .collect(),
        })
    }
}

/// Of each row the largest |entry|, without the 1 that a vector has with itself; columns begin with place `first`.
fn largest(gram: MatRef<'_, f64>, places: &[usize], first: usize) -> Vec<f64> {
    let entry = |i: usize, j: usize| gram[(i, j)] - f64::from(u8::from(places[i] == first + j));
    let row = |i: usize| (0..gram.ncols()).fold(0.0f64, |worst, j| worst.max(entry(i, j).abs()));
    (0..places.len()).map(row).collect()
}

/// Places at which vectors are looked at, ascending.
fn sample(n: usize) -> Vec<usize> {
    let neighbours = NEIGHBOURS.min(n);
    let group = |i: usize| -> Range<usize> {
        let first = i * (n - neighbours) / (PLACES - 1);
        first..first + neighbours
    };
    let mut places: Vec<usize> = (0..PLACES).flat_map(group).collect();
    places.dedup();
    places.sort_unstable();
    places.dedup();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_are_looked_at() {
        for n in [1, 5, 8, 9, 100, 62_006] {
            let places = sample(n);
            assert!(
                places.is_sorted() && places[0] == 0 && places[places.len() - 1] == n - 1,
                "{n}: {places:?}"
            );
            assert_eq!(places.len(), if n > 128 { PLACES * NEIGHBOURS } else { places.len() });
        }
    }

    #[test]
    fn a_vector_is_not_compared_with_itself() {
        let gram = Mat::from_fn(2, 3, |i, j| if j == i + 1 { 1.0 - 1e-9 } else { 0.1 * (i + j) as f64 });
        let found = largest(gram.as_ref(), &[11, 12], 10);
        assert!((found[0] - 0.2).abs() < 1e-15 && (found[1] - 0.2).abs() < 1e-15, "{found:?}");
    }
}
