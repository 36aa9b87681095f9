//! `qn-analyse export`: parameters and eigenvectors by the names of PyTorch's state_dict.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use qn_model::{Graph, ParamLayout};
use qn_run::{RunDirectory, Tensor, TensorFile};
use qn_train::Usage;
use serde_json::Value;

use crate::output::Output;
use crate::target::checkpoint_step;

/// Write a run's parameters, or the eigenvectors that `eigen` found, as tensors by the names of PyTorch's state_dict:
/// a .safetensors file that `safetensors.torch.load_file` reads.
#[derive(Args, Clone, Debug)]
pub(crate) struct ExportArgs {
    /// What.
    #[arg(value_enum)]
    what: What,
    /// The run.
    run: PathBuf,
    /// Parameters: those of step N [default: the last].
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// The file.
    #[arg(long, short, value_name = "FILE.safetensors")]
    output: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Each parameter and buffer, for `load_state_dict`.
    Parameters,
    /// For each parameter, or each of those of `eigen --only`, the eigenvectors' entries, [k, ...], and `eigenvalues` [k].
    Eigenvectors,
}

/// Runs the command.
pub(crate) fn run(args: &ExportArgs) -> Result<()> {
    let run = RunDirectory::open(&args.run)?;
    let graph = Graph::new(&run.read_config()?.architecture)?;
    let layout = graph.layout();
    if args.output.extension().is_none_or(|e| e != "safetensors") {
        bail!(Usage(format!("--output {}: give a .safetensors file", args.output.display())));
    }
    Output::Tensors("export").claim(&args.output)?;
    let mut file = match args.what {
        What::Parameters => parameters(&run, layout, args.step)?,
        What::Eigenvectors if args.step.is_some() => {
            bail!(Usage("--step: the eigenvectors are those of the last `qn-analyse eigen`".into()))
        }
        What::Eigenvectors => eigenvectors(&run, layout)?,
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

fn eigenvectors(run: &RunDirectory, layout: &ParamLayout) -> Result<TensorFile> {
    let path = run.report_path("eigen.safetensors");
    if !path.is_file() {
        bail!("{} is missing: run `qn-analyse eigen {}` first", path.display(), run.path().display());
    }
    let mut file = TensorFile::read(&path)?;
    // Those of `eigen --only` have entries for some parameters.
    let names: Vec<String> =
        file.meta.get("only").and_then(|v| serde_json::from_value(v.clone()).ok()).unwrap_or_default();
    let layout = &if names.is_empty() { layout.clone() } else { layout.only(&names)? };
    let k = file.tensors.get("eigenvalues").map_or(0, |t| t.shape().iter().product());
    let vectors = file.get(&path, "eigenvectors", &[k, layout.len()])?;
    let values = vectors.to_f64().unwrap_or_default();
    for p in layout.params() {
        let rows = values.chunks_exact(layout.len()).flat_map(|row| &row[p.range()]);
        let shape: Vec<usize> = std::iter::once(k).chain(p.shape.iter().copied()).collect();
        file.tensors.insert(p.name.clone(), Tensor::f64(&shape, &rows.copied().collect::<Vec<_>>()));
    }
    file.tensors.remove("eigenvectors");
    Ok(file)
}
