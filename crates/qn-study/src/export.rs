//! Parameters and eigenvectors by the names of PyTorch's state_dict.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, bail};
use qn_model::{Graph, ParamLayout};
use qn_run::{Invalid, RunDirectory, Tensor, TensorFile};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::eigenvectors::{Eigenvectors, read_vectors, report_path};
use crate::output::{Output, beside};
use crate::report::{self, EigenReport};
use crate::target::checkpoint_step;

/// Asks for a run's parameters, or the eigenvectors that were found, as tensors by the names of PyTorch's state_dict: a
/// .safetensors file that `safetensors.torch.load_file` reads.
#[derive(Clone, Debug)]
pub struct ExportRequest {
    /// What is written.
    pub what: Exported,
    /// The run.
    pub run: PathBuf,
    /// Of parameters: those of so many steps; the last where absent.
    pub step: Option<u64>,
    /// Of eigenvectors: those in these places of the order of descending eigenvalues, from 0; those that the report lists
    /// where empty.
    pub index: Vec<usize>,
    /// The file.
    pub output: PathBuf,
}

/// What can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Exported {
    /// Each parameter and buffer, for `load_state_dict`.
    Parameters,
    /// For each parameter, or each of those of `eigen --only`, the eigenvectors' entries, [k, ...], and `eigenvalues` [k].
    Eigenvectors,
}

/// Writes the file.
///
/// # Errors
/// What is asked for is not there, or something else stands where it is to go.
pub fn export(args: &ExportRequest) -> Result<()> {
    let run = RunDirectory::open(&args.run)?;
    let graph = Graph::new(&run.read_config()?.architecture)?;
    let layout = graph.layout();
    if args.output.extension().is_none_or(|e| e != "safetensors") {
        bail!(Invalid(format!("`output` {}: give a .safetensors file", args.output.display())));
    }
    Output::Tensors("export").claim(&args.output)?;
    let mut file = match args.what {
        Exported::Parameters if !args.index.is_empty() => {
            bail!(Invalid("`index`: only eigenvectors have one".into()))
        }
        Exported::Parameters => parameters(&run, layout, args.step)?,
        Exported::Eigenvectors if args.step.is_some() => {
            bail!(Invalid("`step`: the eigenvectors are those of the run's eigen.json".into()))
        }
        Exported::Eigenvectors => eigenvectors(&run, layout, &args.index)?,
    };
    if let Value::Object(meta) = &mut file.meta {
        // What is left is no checkpoint: the optimiser's memory is gone, or there are vectors instead.
        meta.insert("kind".into(), "export".into());
    }
    Ok(file.write(&args.output)?)
}

fn parameters(run: &RunDirectory, layout: &ParamLayout, step: Option<u64>) -> Result<TensorFile> {
    let step = checkpoint_step(run, step)?;
    let mut file = TensorFile::read(&run.checkpoint_path(step))?;
    let params = layout.params().iter().map(|p| p.name.as_str());
    let names: Vec<&str> = params.chain(layout.buffers().iter().map(|b| b.name.as_str())).collect();
    file.tensors.retain(|name, _| names.contains(&name.as_str()));
    Ok(file)
}

fn eigenvectors(run: &RunDirectory, layout: &ParamLayout, index: &[usize]) -> Result<TensorFile> {
    let report = report_path(run)?;
    let found: EigenReport = report::read(&report)?;
    // Those of `eigen --only` have entries for some parameters.
    let only = &found.subject.only;
    let layout = &if only.is_empty() { layout.clone() } else { layout.only(only)? };
    let path = beside(&report, "eigenvectors.safetensors");
    let meta = TensorFile::meta_of(&path).unwrap_or_default();
    let (values, vectors) = if index.is_empty() {
        let vectors = read_vectors(&report, Some(run), layout, &found)?;
        (found.eigenvalues, vectors)
    } else {
        Eigenvectors::of(&report, Some(run), layout, found)?.at(index)?
    };
    let mut tensors = BTreeMap::from([("eigenvalues".to_owned(), Tensor::f64(&[values.len()], &values))]);
    for p in layout.params() {
        let rows = vectors.chunks_exact(layout.len()).flat_map(|row| &row[p.range()]);
        let shape: Vec<usize> = std::iter::once(values.len()).chain(p.shape.iter().copied()).collect();
        tensors.insert(p.name.clone(), Tensor::f64(&shape, &rows.copied().collect::<Vec<_>>()));
    }
    Ok(TensorFile { tensors, meta })
}
