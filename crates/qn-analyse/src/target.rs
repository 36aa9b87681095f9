use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use qn_data::{DataName, Dataset, Split};
use qn_model::{Architecture, Graph};
use qn_run::{RunDirectory, StateDict, TensorFile, read_parameters, state_dict};
use qn_train::Usage;

/// A trained network and the samples over which its loss is taken.
pub(crate) struct Target {
    pub(crate) arch: String,
    pub(crate) graph: Graph,
    pub(crate) theta: Vec<f64>,
    pub(crate) buffers: Vec<Vec<f64>>,
    pub(crate) data: Dataset,
    pub(crate) checkpoint: PathBuf,
    /// Steps of training, where it is known.
    pub(crate) step: Option<u64>,
    /// How the parameters were found in a file of another program.
    pub(crate) notes: Vec<String>,
}

/// The step of the run's checkpoint that was asked for with --step, or of its last.
pub(crate) fn checkpoint_step(run: &RunDirectory, asked: Option<u64>) -> Result<u64> {
    let steps = run.checkpoint_steps()?;
    let last = *steps
        .last()
        .with_context(|| format!("{} has no checkpoint yet: train it further first", run.path().display()))?;
    let step = asked.unwrap_or(last);
    if !steps.contains(&step) {
        bail!(Usage(format!(
            "--step {step}: {} has checkpoints of the steps {steps:?} (qn-train --keep-checkpoints 0 keeps all)",
            run.path().display()
        )));
    }
    Ok(step)
}

/// How a target is named on the command line.
#[derive(Clone, Debug)]
pub(crate) struct TargetArgs<'a> {
    pub(crate) run: Option<&'a Path>,
    pub(crate) step: Option<u64>,
    pub(crate) checkpoint: Option<&'a Path>,
    pub(crate) arch: Option<&'a str>,
    pub(crate) data: Option<&'a str>,
    pub(crate) data_dir: &'a Path,
    pub(crate) split: Split,
    pub(crate) samples: Option<usize>,
}

impl Target {
    /// From a run directory (one of its checkpoints, its data), or from a file of parameters.
    pub(crate) fn load(args: &TargetArgs<'_>) -> Result<Self> {
        let (architecture, data, checkpoint, step) = match (args.run, args.checkpoint) {
            (Some(run), None) => {
                let run = RunDirectory::open(run)?;
                let config = run.read_config()?;
                let step = checkpoint_step(&run, args.step)?;
                let name: DataName = args.data.unwrap_or(&config.data).parse()?;
                (config.architecture, name, run.checkpoint_path(step), Some(step))
            }
            (None, Some(file)) => {
                let (Some(arch), Some(data)) = (args.arch, args.data) else {
                    bail!(Usage("--checkpoint needs --arch and --data as well".into()));
                };
                let name: DataName = data.parse()?;
                let architecture = Architecture::named(arch, name.shape(), name.classes())?;
                (architecture, name, file.to_owned(), None)
            }
            _ => bail!(Usage("give a run directory, or --checkpoint with --arch and --data".into())),
        };
        let graph = Graph::new(&architecture)?;
        let layout = graph.layout();
        let StateDict { parameters, buffers, notes } = match args.run {
            Some(_) => state_dict(&TensorFile::read(&checkpoint)?, &checkpoint, layout)?,
            None => read_parameters(&checkpoint, layout)?,
        };
        let data = Dataset::load(data, args.split, args.data_dir, args.samples)?;
        Ok(Self { arch: architecture.name, graph, theta: parameters, buffers, data, checkpoint, step, notes })
    }
}
