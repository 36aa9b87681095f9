//! What a training run prepares before its first step.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use candle_core::DType;
use qn_data::{DataName, Dataset, Split, check_loss, refuse_changed_data};
use qn_model::{Graph, ParamLayout, initial_parameters};
use qn_run::{
    Augment, Checkpoint, Invalid, Level, LossKind, Manifest, MetricsLog, Observer, OptimizerKind,
    RunDirectory, Snapshot, TrainConfig, Versions, bytes,
};

use crate::launch::{Launch, Outcome, TrainError};
use crate::optim::keeps_averages;
use crate::trainer::Trainer;
use crate::{Optimizer, model, parse_device};

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
    let saved = if launch.resume { last_checkpoint(&run, &layout, launch.observer)? } else { None };
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
    launch.observer.say(
        Level::Note,
        format_args!(
            "{}: {} parameters, {} on {} samples of {}, {} steps from step {step}",
            config.architecture.name,
            layout.len(),
            match config.optimizer {
                OptimizerKind::Sgd => "SGD",
                OptimizerKind::Qn => "quasi-Newton",
                OptimizerKind::Adam => "Adam",
                OptimizerKind::AdamW => "AdamW",
                OptimizerKind::Sam => "SAM",
            },
            train_set.len(),
            train_set.name(),
            config.steps,
        ),
    );
    say_of_data(launch.observer, config, &train_set);
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
        return Err(Invalid(format!(
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
            Invalid("`augment` crop-flip takes pictures whose pixels are normalised bytes".into()).into()
        );
    }
    let test_set = if source.samples(Split::Test)? > 0 { Some(load(Split::Test, None)?) } else { None };
    Ok((train_set, test_set))
}

/// What may surprise about the data: how inputs of a file are normalised, and classes without samples.
fn say_of_data(observer: &dyn Observer, config: &TrainConfig, set: &Dataset) {
    if let Ok(DataName::File(_)) = config.data.parse() {
        match (set.normalisation(), set.has_raw_bytes()) {
            (Some(by), _) => observer.say(Level::Note, format_args!(
                "inputs are (x - mean)/std with mean {} and std {}",
                in_short(&by.mean),
                in_short(&by.std)
            )),
            (None, true) => observer.say(Level::Warning, format_args!(
                "inputs are bytes from 0 to 255, taken as they are: `normalise` auto, or MEAN,STD, brings them to where \
                 networks learn well",
            )),
            (None, false) => observer.say(Level::Note, format_args!("inputs are taken as they are (`normalise` none)")),
        }
    }
    let absent = set.absent_classes(config.architecture.classes);
    if config.loss == LossKind::CrossEntropy && !absent.is_empty() {
        let classes = config.architecture.classes;
        let list: Vec<String> = absent.iter().take(10).map(ToString::to_string).collect();
        observer.say(
            Level::Warning,
            format_args!(
                "{} of {classes} classes have no training samples: {}{}",
                absent.len(),
                list.join(", "),
                if absent.len() > 10 { ", ..." } else { "" }
            ),
        );
    }
}

fn in_short(numbers: &[f64]) -> String {
    let some: Vec<String> = numbers.iter().take(4).map(|n| format!("{n:.4}")).collect();
    some.join(", ") + if numbers.len() > 4 { ", ..." } else { "" }
}

/// Refuses a run that would come to a batch of one sample where batch normalisation has one position a channel. The last
/// snapshot takes the batch after the last step.
fn check_batches(config: &TrainConfig, graph: &Graph, samples: usize) -> Result<(), Invalid> {
    let Some(layer) = graph.batch_norm_of_one_position() else { return Ok(()) };
    let size = config.batch_size.unwrap_or(samples).clamp(1, samples);
    let before_last = (samples.div_ceil(size) - 1) as u64;
    let (which, first) =
        if size == 1 { ("every batch", 0) } else { ("the last batch of an epoch", before_last) };
    if samples - before_last as usize * size > 1 || config.steps < first {
        return Ok(());
    }
    Err(Invalid(format!(
        "{which} has one sample ({samples} samples in batches of {size}), which gives the batch normalisation '{layer}' \
         one value a channel, and that has no variance: choose `batch_size` or `samples` so that two or more are left"
    )))
}

/// The newest checkpoint that is whole, or none.
fn last_checkpoint(
    run: &RunDirectory,
    layout: &ParamLayout,
    observer: &dyn Observer,
) -> Result<Option<Checkpoint>> {
    let steps = run.checkpoint_steps()?;
    let mut damage = None;
    for &step in steps.iter().rev() {
        match Checkpoint::read(&run.checkpoint_path(step), layout) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(e) => {
                observer.say(Level::Warning, format_args!("{e}; trying the checkpoint before it"));
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
    std::fs::create_dir_all(launch.out).with_context(|| format!("cannot make {}", launch.out.display()))?;
    let free = fs4::available_space(launch.out).context("cannot tell the free disk space")?;
    launch.observer.say(
        Level::Note,
        format_args!(
            "{snapshots} snapshots of {} each: {} on disk in all, {} free",
            bytes(each),
            bytes(need),
            bytes(free)
        ),
    );
    if need > free {
        return Err(
            TrainError::Disk { need: bytes(need), free: bytes(free), out: launch.out.to_owned() }.into()
        );
    }
    Ok(())
}
