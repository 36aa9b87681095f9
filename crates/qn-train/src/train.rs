//! What a training run is asked for, prepares, and ends with.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use candle_core::DType;
use qn_data::{DataName, Dataset, Split};
use qn_model::{Graph, ParamLayout, initial_parameters};
use qn_run::{
    Augment, Checkpoint, LossKind, Manifest, MetricsLog, OptimizerKind, RunDirectory, Snapshot, TrainConfig,
    Versions,
};

use crate::optim::keeps_averages;
use crate::trainer::Trainer;
use crate::ui::{Verbosity, bytes};
use crate::{Interrupt, Optimizer, Usage, check_loss, model, parse_device};

/// Why a run ended before its last step.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The loss, the parameters, or what the optimiser goes by is NaN or infinite.
    #[error(
        "{what} is {value} at step {step} with --lr {lr}: the run has diverged. {checkpoint}; try a smaller --lr or a larger --damping"
    )]
    Diverged {
        /// What is not finite.
        what: &'static str,
        /// The value.
        value: f64,
        /// At which step.
        step: u64,
        /// Learning rate η.
        lr: f64,
        /// Where the last good parameters are, in words.
        checkpoint: String,
    },
    /// A signal came; everything is saved.
    #[error("interrupted after step {step}; go on with `qn-train --resume --out {out}`")]
    Interrupted {
        /// Steps taken.
        step: u64,
        /// The run.
        out: PathBuf,
        /// Exit code to end with.
        code: u8,
    },
    /// The snapshots would not fit.
    #[error(
        "the snapshots and checkpoints need {need}, but {out} has {free} free: raise --snapshot-every, or give an --out on a larger disk"
    )]
    Disk {
        /// Memory that the run needs, with its unit.
        need: String,
        /// Memory that is free, with its unit.
        free: String,
        /// The run.
        out: PathBuf,
    },
}

/// What [`train`] is asked for.
pub struct Launch<'a> {
    /// The run's configuration; a resumed run's own is read from its directory.
    pub config: &'a TrainConfig,
    /// Where the data sets are.
    pub data_dir: &'a Path,
    /// The run directory.
    pub out: &'a Path,
    /// Go on with the run that is there.
    pub resume: bool,
    /// Go on with other data than the run was begun with.
    pub changed_data: bool,
    /// Replace the run that is there.
    pub overwrite: bool,
    /// How much to say.
    pub verbosity: Verbosity,
    /// When to stop early.
    pub interrupt: Interrupt,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Steps taken in all.
    pub steps: u64,
    /// Mean loss of the test split, where there is one.
    pub val_loss: Option<f64>,
    /// Accuracy on the test split, where there are classes too.
    pub val_accuracy: Option<f64>,
    /// Seconds of training, over all sittings.
    pub seconds: f64,
}

/// Trains to the last step, or until interrupted or diverged.
///
/// # Errors
/// [`TrainError`], or anything that is wrong with data, directory or device.
pub fn train(launch: &Launch<'_>) -> Result<Outcome> {
    let config = launch.config;
    let device = parse_device(&config.device)?;
    let (train_set, test_set) = load_data(config, launch.data_dir)?;
    let graph = Graph::new(&config.architecture)?;
    let layout = graph.layout().clone();
    check_batches(config, &graph, train_set.len())?;

    let (run, _lock) = if launch.resume {
        let run = RunDirectory::open(launch.out)?;
        let lock = run.lock()?;
        if let (Some(manifest), false) = (run.read_manifest()?, launch.changed_data) {
            refuse_changed_data(run.path(), &train_set, train_set.len(), &manifest.train_sha256)?;
            if let (Some(test_set), Some(expected)) = (&test_set, &manifest.test_sha256) {
                refuse_changed_data(run.path(), test_set, test_set.len(), expected)?;
            }
        }
        (run, lock)
    } else {
        check_disk(launch, &graph)?;
        RunDirectory::create(launch.out, launch.overwrite)?
    };
    let saved = if launch.resume { last_checkpoint(&run, &layout, launch.verbosity)? } else { None };
    if !launch.resume {
        run.write_manifest(&manifest(config, &layout, &train_set, test_set.as_ref()))?;
    }
    let (theta, buffers) = match &saved {
        Some(c) => (c.parameters.clone(), c.buffers.clone()),
        None => {
            let buffers = layout.buffers().iter().map(|b| vec![b.initial; b.len]).collect();
            (initial_parameters(&layout, config.seed), buffers)
        }
    };
    let network = model(graph, &theta, &buffers, config.loss, (DType::F32, &device))?;
    let optimizer = Optimizer::new(config, network.as_ref(), saved.as_ref().map(|c| (c.step, &c.optimizer)))?;
    let step = saved.as_ref().map_or(0, |c| c.step);
    let events = config.tensorboard.then(|| run.events_path());
    // A folder with a configuration is a run. A new one has it before its log, which would belong to nothing without it; a
    // resumed one, which may be longer, when its log has been read.
    let log = if launch.resume {
        let log = MetricsLog::resume(&run.metrics_path(), step, events.as_deref())?;
        run.write_config(config)?;
        log
    } else {
        run.write_config(config)?;
        MetricsLog::create(&run.metrics_path(), events.as_deref())?
    };
    launch.verbosity.say(format_args!(
        "{}: {} parameters, {} on {} samples of {}, {} steps from step {step}",
        config.architecture.name,
        layout.len(),
        match config.optimizer {
            OptimizerKind::Sgd => "SGD",
            OptimizerKind::Qn => "quasi-Newton",
        },
        train_set.len(),
        train_set.name(),
        config.steps,
    ));
    say_of_data(launch.verbosity, config, &train_set);
    let trainer = Trainer {
        config,
        launch,
        run,
        network,
        optimizer,
        log,
        step,
        earlier: saved.map_or(0.0, |c| c.seconds),
        started: Instant::now(),
        batch_size: config.batch_size.unwrap_or(train_set.len()).min(train_set.len()),
        train_set,
        test_set,
        device,
    };
    trainer.run()
}

/// The training samples, and the test split if there is one, as the configuration has them.
fn load_data(config: &TrainConfig, data_dir: &Path) -> Result<(Dataset, Option<Dataset>)> {
    let name: DataName = config.data.parse()?;
    let source = name.open(data_dir)?;
    let form = source.form();
    check_loss(Some(config.loss), &form)?;
    if !form.fits(config.architecture.classes) {
        return Err(Usage(format!(
            "the data ask for {} outputs and the network has {}: they are not those of this run",
            form.outputs(),
            config.architecture.classes
        ))
        .into());
    }
    let load = |split, samples| -> Result<Dataset> {
        let set = Dataset::load(&name, split, data_dir, samples)?;
        Ok(match &config.normalise {
            Some(by) => set.normalised(by)?,
            None => set,
        })
    };
    let train_set = load(Split::Train, config.samples)?;
    if config.augment != Augment::None && !train_set.can_be_varied() {
        return Err(
            Usage("--augment crop-flip takes pictures whose pixels are normalised bytes".into()).into()
        );
    }
    let test_set = if source.samples(Split::Test)? > 0 { Some(load(Split::Test, None)?) } else { None };
    Ok((train_set, test_set))
}

/// What may surprise about the data: how inputs of a file are normalised, and classes without samples.
fn say_of_data(verbosity: Verbosity, config: &TrainConfig, set: &Dataset) {
    if let Ok(DataName::File(_)) = config.data.parse() {
        match (set.normalisation(), set.has_raw_bytes()) {
            (Some(by), _) => verbosity.say(format_args!(
                "inputs are (x - mean)/std with mean {} and std {}",
                in_short(&by.mean),
                in_short(&by.std)
            )),
            (None, true) => verbosity.warn(
                "inputs are bytes from 0 to 255, taken as they are: --normalise auto, or MEAN,STD, brings them to where \
                 networks learn well",
            ),
            (None, false) => verbosity.say("inputs are taken as they are (--normalise none)"),
        }
    }
    let absent = set.absent_classes(config.architecture.classes);
    if config.loss == LossKind::CrossEntropy && !absent.is_empty() {
        let classes = config.architecture.classes;
        let list: Vec<String> = absent.iter().take(10).map(ToString::to_string).collect();
        verbosity.warn(format_args!(
            "{} of {classes} classes have no training samples: {}{}",
            absent.len(),
            list.join(", "),
            if absent.len() > 10 { ", ..." } else { "" }
        ));
    }
}

fn in_short(numbers: &[f64]) -> String {
    let some: Vec<String> = numbers.iter().take(4).map(|n| format!("{n:.4}")).collect();
    some.join(", ") + if numbers.len() > 4 { ", ..." } else { "" }
}

/// Refuses a run that would come to a batch of one sample where batch normalisation has one position a channel. The last
/// snapshot takes the batch after the last step.
fn check_batches(config: &TrainConfig, graph: &Graph, samples: usize) -> Result<(), Usage> {
    let Some(layer) = graph.batch_norm_of_one_position() else { return Ok(()) };
    let size = config.batch_size.unwrap_or(samples).clamp(1, samples);
    let before_last = (samples.div_ceil(size) - 1) as u64;
    let (which, first) =
        if size == 1 { ("every batch", 0) } else { ("the last batch of an epoch", before_last) };
    if samples - before_last as usize * size > 1 || config.steps < first {
        return Ok(());
    }
    Err(Usage(format!(
        "{which} has one sample ({samples} samples in batches of {size}), which gives the batch normalisation '{layer}' \
         one value a channel, and that has no variance: choose --batch-size or --samples so that two or more are left"
    )))
}

/// Refuses data whose first `samples` have another SHA-256 than the run's manifest says.
///
/// # Errors
/// They have.
pub fn refuse_changed_data(run: &Path, data: &Dataset, samples: usize, expected: &str) -> Result<()> {
    if data.sha256_of_first(samples).as_deref() == Some(expected) {
        return Ok(());
    }
    anyhow::bail!(
        "the {} split of {} has changed since {} was begun: its SHA-256 is not the one in manifest.json; bring the data \
         back (`qn-train fetch` checks them), or go on with --changed-data",
        data.split().as_str(),
        data.name(),
        run.display()
    )
}

/// The newest checkpoint that is whole, or none.
fn last_checkpoint(
    run: &RunDirectory,
    layout: &ParamLayout,
    verbosity: Verbosity,
) -> Result<Option<Checkpoint>> {
    let steps = run.checkpoint_steps()?;
    let mut damage = None;
    for &step in steps.iter().rev() {
        match Checkpoint::read(&run.checkpoint_path(step), layout) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(e) => {
                verbosity.warn(format_args!("{e}; trying the checkpoint before it"));
                damage = Some(e);
            }
        }
    }
    damage.map_or(Ok(None), |e| Err(e.into()))
}

fn manifest(config: &TrainConfig, layout: &ParamLayout, train: &Dataset, test: Option<&Dataset>) -> Manifest {
    Manifest {
        schema_version: 1,
        versions: Versions::current(),
        device: config.device.clone(),
        seed: config.seed,
        train_samples: train.len(),
        train_sha256: train.sha256(),
        test_sha256: test.map(Dataset::sha256),
        normalisation: train.normalisation().cloned(),
        params: layout.len(),
        layout_hash: layout.hash(),
        layout: layout.params().iter().map(|p| (p.name.clone(), p.shape.clone())).collect(),
    }
}

/// Says what the run will take on disk, and refuses what does not fit.
fn check_disk(launch: &Launch<'_>, graph: &Graph) -> Result<()> {
    let config = launch.config;
    let (classes, params) = (graph.classes(), graph.layout().len());
    let averaged = keeps_averages(config);
    let snapshots = config.steps.checked_div(config.snapshot_every).map_or(1, |n| n.saturating_add(2));
    let each = Snapshot::size(classes, params, averaged);
    let checkpoints = match config.keep_checkpoints {
        0 => config.steps.div_ceil(config.checkpoint_every) + 1,
        n => n.saturating_add(1),
    };
    let of_checkpoint = Snapshot::size(classes, 2 * params, false);
    let need = snapshots.saturating_mul(each).saturating_add(checkpoints.saturating_mul(of_checkpoint));
    std::fs::create_dir_all(launch.out)
        .with_context(|| format!("cannot make --out {}", launch.out.display()))?;
    let free = fs4::available_space(launch.out).context("cannot tell the free disk space")?;
    launch.verbosity.say(format_args!(
        "{snapshots} snapshots of {} each: {} on disk in all, {} free",
        bytes(each),
        bytes(need),
        bytes(free)
    ));
    if need > free {
        return Err(
            TrainError::Disk { need: bytes(need), free: bytes(free), out: launch.out.to_owned() }.into()
        );
    }
    Ok(())
}
