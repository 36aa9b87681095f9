use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use qn_data::{DataName, Dataset, Normalise, Split, architecture_for, refuse_changed_data};
use qn_model::Graph;
use qn_run::{Invalid, LossKind, RunDirectory, StateDict, TensorFile, read_parameters, state_dict};
use sha2::{Digest as _, Sha256};

use crate::ProblemRequest;

/// A trained network and the samples over which its loss is taken.
pub(crate) struct Target {
    pub(crate) arch: String,
    pub(crate) graph: Graph,
    pub(crate) theta: Vec<f64>,
    pub(crate) buffers: Vec<Vec<f64>>,
    pub(crate) data: Dataset,
    /// What a run was trained to minimise.
    pub(crate) loss: Option<LossKind>,
    pub(crate) checkpoint: PathBuf,
    /// Steps of training, where it is known.
    pub(crate) step: Option<u64>,
    /// How the parameters were found in a file of another program.
    pub(crate) notes: Vec<String>,
}

/// The step of the run's checkpoint that was asked for with `step`, or of its last.
pub(crate) fn checkpoint_step(run: &RunDirectory, asked: Option<u64>) -> Result<u64> {
    let steps = run.checkpoint_steps()?;
    let last = *steps
        .last()
        .with_context(|| format!("{} has no checkpoint yet: train it further first", run.path().display()))?;
    let step = asked.unwrap_or(last);
    if !steps.contains(&step) {
        bail!(Invalid(format!(
            "`step` {step}: {} has checkpoints of the steps {steps:?} (training with `keep_checkpoints` 0 keeps all)",
            run.path().display()
        )));
    }
    Ok(step)
}

/// Refuses data that are not those that the run's manifest tells of.
fn check_data(run: &RunDirectory, data: &Dataset) -> Result<()> {
    let Some(manifest) = run.read_manifest()? else { return Ok(()) };
    let (samples, expected) = match data.split() {
        Split::Train => (manifest.train_samples, Some(manifest.train_sha256)),
        Split::Test => (data.len(), manifest.test_sha256),
    };
    let Some(expected) = expected else { return Ok(()) };
    Ok(refuse_changed_data(run.path(), data, samples, &expected)?)
}

/// SHA-256 of parameters and buffers: what tells one network's report from another's.
pub(crate) fn fingerprint(theta: &[f64], buffers: &[Vec<f64>]) -> String {
    let mut hash = Sha256::new();
    theta.iter().chain(buffers.iter().flatten()).for_each(|x| hash.update(x.to_le_bytes()));
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

impl Target {
    /// From a run directory (one of its checkpoints, its data), or from a file of parameters.
    pub(crate) fn load(args: &ProblemRequest) -> Result<Self> {
        let asked = args.normalise.as_deref().map(str::parse::<Normalise>).transpose()?;
        let (architecture, name, checkpoint, step, of_run) = match (&args.run, &args.checkpoint) {
            (Some(run), None) => {
                let run = RunDirectory::open(run)?;
                let config = run.read_config()?;
                let step = checkpoint_step(&run, args.step)?;
                let name: DataName = args.data.as_deref().unwrap_or(&config.data).parse()?;
                let of_run = Some((config.loss, config.normalise));
                (config.architecture, name, run.checkpoint_path(step), Some(step), of_run)
            }
            (None, Some(file)) => {
                let (Some(arch), Some(data)) = (&args.arch, &args.data) else {
                    bail!(Invalid("`checkpoint` needs `arch` and `data` as well".into()));
                };
                let name: DataName = data.parse()?;
                let architecture = architecture_for(arch, &name.open(&args.data_dir)?.form())?;
                (architecture, name, file.to_owned(), None, None)
            }
            _ => bail!(Invalid("give a run directory, or `checkpoint` with `arch` and `data`".into())),
        };
        let graph = Graph::new(&architecture)?;
        let layout = graph.layout();
        let StateDict { parameters, buffers, notes } = match &args.run {
            Some(_) => state_dict(&TensorFile::read(&checkpoint)?, &checkpoint, layout)?,
            None => read_parameters(&checkpoint, layout)?,
        };
        let mut data = Dataset::load(&name, args.split, &args.data_dir, None)?;
        if !data.form().fits(architecture.classes) || data.sample_len() != graph.input().len() {
            bail!(Invalid(format!(
                "{} has samples of the shape {:?} and {} classes or targets; the network takes {:?} and has {} outputs",
                data.name(),
                data.shape(),
                data.form().outputs(),
                architecture.input,
                architecture.classes
            )));
        }
        let (loss, normalise) = of_run.map_or((None, None), |(loss, by)| (Some(loss), by));
        let by = match asked {
            Some(how) => Some(how.resolve(name.open(&args.data_dir)?.as_ref())?),
            None => normalise,
        };
        if let Some(by) = by {
            data = data.normalised(&by)?;
        }
        if let (Some(run), false) = (&args.run, args.changed_data) {
            check_data(&RunDirectory::open(run)?, &data)?;
        }
        let data = match args.samples {
            Some(samples) => data.first(samples)?,
            None => data,
        };
        let arch = architecture.name;
        Ok(Self { arch, graph, theta: parameters, buffers, data, loss, checkpoint, step, notes })
    }
}
