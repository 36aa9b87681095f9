use std::path::Path;

use serde_json::json;

use crate::{RunError, Tensor, TensorFile};

/// Class gradients at one step, before the step is taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Steps taken so far.
    pub step: u64,
    /// Hash of the layout.
    pub layout_hash: String,
    /// Number of parameters P.
    pub params: usize,
    /// c_k of the minibatch, [C, P] row-major; zero rows for classes absent from it.
    pub class_gradients: Vec<f32>,
    /// The optimiser's bias-corrected averages of c_k, [C, P]; empty for SGD, which keeps none.
    pub averaged_class_gradients: Vec<f32>,
    /// Gradient of the minibatch's loss, [P].
    pub gradient: Vec<f32>,
    /// λ_k of the minibatch, eq. (12), [C].
    pub lambda: Vec<f64>,
}

impl Snapshot {
    /// Bytes on disk, for the estimate before a run.
    pub fn size(classes: usize, params: usize, averaged: bool) -> u64 {
        let (matrices, classes, params) = (if averaged { 2 } else { 1 }, classes as u64, params as u64);
        let rows = (matrices * classes).saturating_add(1);
        rows.saturating_mul(params).saturating_mul(4).saturating_add(classes * 8 + 1024)
    }

    /// The first number that is NaN or infinite, and what it is part of.
    pub fn not_finite(&self) -> Option<(&'static str, f64)> {
        let first = |values: &[f32]| values.iter().find(|v| !v.is_finite()).map(|&v| f64::from(v));
        let all = [
            ("a class gradient", first(&self.class_gradients)),
            ("an average of class gradients", first(&self.averaged_class_gradients)),
            ("the gradient", first(&self.gradient)),
            ("a lambda_k", self.lambda.iter().copied().find(|v| !v.is_finite())),
        ];
        all.into_iter().find_map(|(what, value)| Some((what, value?)))
    }

    /// Writes the file whole.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), RunError> {
        let (c, p) = (self.lambda.len(), self.params);
        let mut file = TensorFile {
            meta: json!({"kind": "snapshot", "step": self.step, "layout_hash": self.layout_hash}),
            ..TensorFile::default()
        };
        let mut add = |name: &str, tensor| file.tensors.insert(name.to_owned(), tensor);
        add("class_gradients", Tensor::f32(&[c, p], &self.class_gradients));
        if !self.averaged_class_gradients.is_empty() {
            add("averaged_class_gradients", Tensor::f32(&[c, p], &self.averaged_class_gradients));
        }
        add("gradient", Tensor::f32(&[p], &self.gradient));
        add("lambda", Tensor::f64(&[c], &self.lambda));
        file.write(path)
    }

    /// Reads a snapshot of a network with `classes` logits and this layout.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or belongs to another layout.
    pub fn read(path: &Path, classes: usize, layout: &qn_model::ParamLayout) -> Result<Self, RunError> {
        let file = TensorFile::read(path)?;
        let found: String = file.meta_field(path, "layout_hash")?;
        if found != layout.hash() {
            return Err(RunError::Layout { path: path.to_owned(), found, expected: layout.hash() });
        }
        let p = layout.len();
        let read = |name: &str, shape: &[usize]| -> Result<Vec<f32>, RunError> {
            Ok(file.get(path, name, shape)?.to_f32().unwrap_or_default())
        };
        let averaged = "averaged_class_gradients";
        Ok(Self {
            step: file.meta_field(path, "step")?,
            layout_hash: found,
            params: p,
            class_gradients: read("class_gradients", &[classes, p])?,
            averaged_class_gradients: if file.tensors.contains_key(averaged) {
                read(averaged, &[classes, p])?
            } else {
                Vec::new()
            },
            gradient: read("gradient", &[p])?,
            lambda: file.get(path, "lambda", &[classes])?.to_f64().unwrap_or_default(),
        })
    }
}
