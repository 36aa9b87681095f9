//! Step after step.

use std::time::Instant;

use anyhow::{Context as _, Result};
use candle_core::{DType, Device, Tensor};
use qn_curvature::Operator;
use qn_data::{BatchTargets, Dataset, TargetForm, epoch_batches};
use qn_run::{Augment, Checkpoint, Level, LossKind, Metric, MetricsLog, RunDirectory, Snapshot, TrainConfig};
use qn_spectrum::Stability;

use crate::model::to_f32s;
use crate::optim::{Curvatures, keeps_averages};
use crate::{Batch, BatchTarget, ClassPass, Launch, Model, Optimizer, Outcome, PlainPass, TrainError};

/// A run under way.
pub(crate) struct Trainer<'a> {
    pub(crate) config: &'a TrainConfig,
    pub(crate) launch: &'a Launch<'a>,
    pub(crate) run: RunDirectory,
    pub(crate) network: Box<dyn Model>,
    pub(crate) optimizer: Optimizer,
    pub(crate) log: MetricsLog,
    pub(crate) step: u64,
    /// Seconds of training in earlier sittings.
    pub(crate) earlier: f64,
    pub(crate) started: Instant,
    pub(crate) batch_size: usize,
    pub(crate) train_set: Dataset,
    pub(crate) test_set: Option<Dataset>,
    pub(crate) device: Device,
}

impl Trainer<'_> {
    /// Trains to the last step.
    pub(crate) fn run(mut self) -> Result<Outcome> {
        let (observer, steps) = (self.launch.observer, self.config.steps);
        observer.progress("training", self.step, steps);
        let per_epoch = self.steps_in_epoch();
        let mut order = (u64::MAX, Vec::new());
        let mut last = None;
        if self.step == 0 && self.config.keep_checkpoints == 0 {
            // Who wants all of them wants to see the beginning.
            self.checkpoint()?;
        }
        while self.step < self.config.steps {
            let (epoch, at) = (self.step / per_epoch, (self.step % per_epoch) as usize);
            if order.0 != epoch {
                order = (epoch, self.batches(epoch));
            }
            let seen = self.take_step(epoch, &order.1[at])?;
            let end_of_epoch = self.step.is_multiple_of(per_epoch);
            let done = self.step == self.config.steps;
            if end_of_epoch || done {
                last = self.validate(self.step / per_epoch)?;
                if let Some((loss, accuracy)) = last {
                    let epoch = self.step.div_ceil(per_epoch);
                    let accuracy = accuracy.map(|a| format!("  test accuracy {:.2} %", 100.0 * a));
                    observer.say(
                        Level::Passing,
                        format_args!("epoch {epoch:>3}  test loss {loss:.4}{}", accuracy.unwrap_or_default()),
                    );
                }
            }
            if let Some((loss, accuracy)) = seen {
                let accuracy = accuracy.map(|a| format!("  accuracy {:.1} %", 100.0 * a));
                observer.status(format_args!("loss {loss:.4}{}", accuracy.unwrap_or_default()));
            }
            observer.progress("training", self.step, steps);
            let stopped = observer.should_stop();
            if done || stopped || self.step.is_multiple_of(self.config.checkpoint_every) {
                self.checkpoint()?;
            }
            if stopped && !done {
                let out = self.run.path().to_owned();
                return Err(TrainError::Interrupted { step: self.step, out }.into());
            }
        }
        if last.is_none() {
            // A run that was already complete when it was resumed.
            last = self.evaluate()?;
        }
        self.final_snapshot()?;
        let val_loss = last.map(|(loss, _)| loss);
        val_loss.into_iter().for_each(|loss| self.warn_of_huge(loss));
        let val_accuracy = last.and_then(|(_, accuracy)| accuracy);
        Ok(Outcome { steps: self.step, val_loss, val_accuracy, seconds: self.seconds() })
    }

    /// Whether there are labels, and so a share of samples that are classified correctly.
    fn tells_accuracy(&self) -> bool {
        matches!(self.train_set.form().targets, TargetForm::Labels { .. })
    }

    /// Says that a loss is far above that of who guesses, ln C: the run has not diverged, but nearly.
    fn warn_of_huge(&self, val_loss: f64) {
        let guess = (self.network.graph().classes() as f64).ln();
        if self.config.loss == LossKind::CrossEntropy && val_loss > 10.0 * guess {
            self.launch.observer.say(
                Level::Warning,
                format_args!(
                    "the test loss, {val_loss:.4}, is far above {guess:.4}, which all classes being equally likely would \
                     give: the run has come near to diverging; try a smaller `lr` or a larger `damping`"
                ),
            );
        }
    }

    /// Steps of one pass over the training data.
    fn steps_in_epoch(&self) -> u64 {
        self.train_set.len().div_ceil(self.batch_size) as u64
    }

    fn batches(&self, epoch: u64) -> Vec<Vec<usize>> {
        epoch_batches(self.train_set.len(), self.batch_size, self.config.seed, epoch)
    }

    /// Inputs and targets of a step of training, varied where that was asked.
    fn training_batch(&self, indices: &[usize]) -> Result<Batch> {
        let set = &self.train_set;
        let inputs = match self.config.augment {
            Augment::None => set.inputs(indices),
            Augment::CropFlip => set.varied_inputs(indices, self.config.seed, self.step),
        };
        self.on_device(inputs, set.batch_targets(indices), indices.len())
    }

    /// Inputs [N, ...] and targets where the network is.
    fn on_device(&self, inputs: Vec<f32>, targets: BatchTargets, n: usize) -> Result<Batch> {
        let graph = self.network.graph();
        let (input, outputs) = (graph.input().image(), graph.output().len());
        let shape = (n, input.channels, input.height, input.width);
        let inputs = Tensor::from_vec(inputs, shape, &self.device)?;
        let targets = match targets {
            BatchTargets::Labels(labels) => BatchTarget::Labels(labels),
            BatchTargets::Values(values) => {
                BatchTarget::Values(Tensor::from_vec(values, (n, outputs), &self.device)?)
            }
        };
        Ok(Batch { inputs, targets })
    }

    /// One step; gives the batch's loss and accuracy before it. A GPU is asked for them only when they are logged:
    /// it would have to be waited for.
    fn take_step(&mut self, epoch: u64, indices: &[usize]) -> Result<Option<(f64, Option<f64>)>> {
        let batch = self.training_batch(indices)?;
        let PlainPass { loss, correct, gradient, statistics } = self.pass(epoch, &batch)?;
        let logged = self.step.is_multiple_of(self.config.log_every);
        let (mut seen, mut line) = (None, None);
        if logged || self.device.is_cpu() {
            let loss = self.check_loss(epoch, &loss)?;
            let accuracy = match self.tells_accuracy() {
                true => Some(f64::from(correct.to_scalar::<f32>()?) / indices.len() as f64),
                false => None,
            };
            if logged {
                line = Some(self.measure(epoch, loss, accuracy)?);
            }
            seen = Some((loss, accuracy));
        }
        self.refresh_subspace()?;
        let along = |rows: &Tensor, which: Operator| {
            let inputs = to_f32s(&batch.inputs)?.into_iter().map(f64::from);
            Curvatures::new(self.network.as_ref(), inputs, batch.labels().iter().copied())?.along(rows, which)
        };
        self.optimizer.prepare(along)?;
        if let Some(line) = line {
            self.log_step(line)?;
        }
        let theta = self.network.theta()?;
        let gradient = match self.optimizer.elsewhere(&theta, &gradient)? {
            Some(elsewhere) => {
                self.network.set_theta(&elsewhere)?;
                self.network.plain_pass(&batch)?.gradient
            }
            None => gradient,
        };
        self.network.set_theta(&self.optimizer.step(&theta, &gradient)?)?;
        self.network.absorb(&statistics)?;
        self.step += 1;
        Ok(seen)
    }

    /// Loss and gradient of a step's batch, and its class gradients where they are averaged or kept.
    fn pass(&mut self, epoch: u64, batch: &Batch) -> Result<PlainPass> {
        let every = self.config.snapshot_every;
        let snapshot = every > 0 && self.step.is_multiple_of(every);
        let wanted = keeps_averages(self.config) || snapshot;
        let labels = match &batch.targets {
            BatchTarget::Labels(labels) if wanted && self.config.loss == LossKind::CrossEntropy => labels,
            _ => return self.network.plain_pass(batch),
        };
        let pass = self.network.class_pass(&batch.inputs, labels, self.config.class_statistics)?;
        self.optimizer.observe(&pass)?;
        if snapshot {
            self.check_loss(epoch, &pass.plain.loss)?;
            self.snapshot(&pass)?;
        }
        Ok(pass.plain)
    }

    /// The Hessian's top eigenvectors here, where the optimiser is about to need them.
    fn refresh_subspace(&mut self) -> Result<()> {
        if !self.optimizer.wants_top(self.step) {
            return Ok(());
        }
        let set = &self.train_set;
        let n = self.config.subspace_samples.min(set.len());
        let images = (0..n).flat_map(|i| set.sample(i));
        let labels = set.labels().unwrap_or_default().iter().take(n).copied();
        let curvatures = Curvatures::new(self.network.as_ref(), images, labels)?;
        self.optimizer.set_top(curvatures.top(self.network.graph().classes(), &self.device)?);
        Ok(())
    }

    /// What is known before a step: loss, λ_k and the geometry of the class gradients.
    fn measure(&mut self, epoch: u64, loss: f64, accuracy: Option<f64>) -> Result<Metric> {
        let mut metric = Metric {
            step: self.step,
            epoch,
            loss: Some(loss),
            accuracy,
            lr: Some(self.config.lr_at(self.step)),
            seconds: self.seconds(),
            ..Metric::default()
        };
        if let Some(averages) = self.optimizer.averages() {
            let lambda: Vec<f64> = averages.lambda()?.to_vec1()?;
            self.check_finite("a lambda_k", epoch, &lambda)?;
            metric.lambda = Some(lambda);
        }
        if let Some((norms, coherence)) = self.optimizer.geometry()? {
            self.check_finite("the length of a class gradient", epoch, &norms)?;
            metric.class_gradient_norms = Some(norms);
            metric.max_coherence = Some(coherence);
        }
        Ok(metric)
    }

    /// The line of a step that is prepared, with the stability of its Newton steps.
    fn log_step(&mut self, mut metric: Metric) -> Result<()> {
        if let Some(Stability { rho, ratios, preconditioner_min }) = self.optimizer.stability()? {
            metric.rho = Some(rho);
            metric.rho_limit = Some(self.config.rho_limit(self.step));
            metric.newton_ratios = Some(ratios);
            metric.preconditioner_min = Some(preconditioner_min);
        }
        Ok(self.log.append(&metric)?)
    }

    /// A batch's loss as a number.
    fn check_loss(&mut self, epoch: u64, loss: &Tensor) -> Result<f64> {
        let loss = f64::from(loss.to_dtype(DType::F32)?.to_scalar::<f32>()?);
        self.check_finite("the loss", epoch, &[loss])?;
        Ok(loss)
    }

    /// Evaluates and logs, where there is a test split.
    fn validate(&mut self, epoch: u64) -> Result<Option<(f64, Option<f64>)>> {
        let Some((loss, accuracy)) = self.evaluate()? else { return Ok(None) };
        self.log.append(&Metric {
            step: self.step,
            epoch,
            val_loss: Some(loss),
            val_accuracy: accuracy,
            seconds: self.seconds(),
            ..Metric::default()
        })?;
        Ok(Some((loss, accuracy)))
    }

    /// Loss and, where there are classes, accuracy on the test split; none where there is no such split.
    fn evaluate(&mut self) -> Result<Option<(f64, Option<f64>)>> {
        let Some(set) = &self.test_set else { return Ok(None) };
        let n = set.len();
        let (mut loss, mut correct) = (0.0, 0.0);
        let all: Vec<usize> = (0..n).collect();
        for indices in all.chunks(500) {
            let batch = self.on_device(set.inputs(indices), set.batch_targets(indices), indices.len())?;
            let (mean, hits) = self.network.evaluate(&batch)?;
            loss += mean * indices.len() as f64;
            correct += hits;
        }
        self.check_finite("the test loss", self.step / self.steps_in_epoch(), &[loss])?;
        let accuracy = self.tells_accuracy().then_some(correct / n as f64);
        Ok(Some((loss / n as f64, accuracy)))
    }

    fn snapshot(&mut self, pass: &ClassPass) -> Result<()> {
        let layout = self.network.graph().layout();
        let averaged = match self.optimizer.averages() {
            Some(averages) => to_f32s(&averages.gradients()?)?,
            None => Vec::new(),
        };
        let snapshot = Snapshot {
            step: self.step,
            layout_hash: layout.hash(),
            params: layout.len(),
            class_gradients: to_f32s(&pass.class_gradients)?,
            averaged_class_gradients: averaged,
            gradient: to_f32s(&pass.plain.gradient)?,
            lambda: pass.lambda.to_vec1()?,
        };
        if let Some((what, value)) = snapshot.not_finite() {
            self.check_finite(what, self.step / self.steps_in_epoch(), &[value])?;
        }
        Ok(snapshot.write(&self.run.snapshot_path(self.step))?)
    }

    /// The batch that the next step uses, or would have used.
    fn next_batch(&self) -> Result<Batch> {
        let per_epoch = self.steps_in_epoch();
        let batches = self.batches(self.step / per_epoch);
        self.training_batch(&batches[(self.step % per_epoch) as usize])
    }

    /// Class gradients at the end, where there are classes.
    fn final_snapshot(&mut self) -> Result<()> {
        let Batch { inputs, targets: BatchTarget::Labels(labels) } = self.next_batch()? else {
            return Ok(());
        };
        if self.config.loss != LossKind::CrossEntropy {
            return Ok(());
        }
        let pass = self.network.class_pass(&inputs, &labels, self.config.class_statistics)?;
        self.optimizer.observe(&pass)?;
        self.snapshot(&pass)
    }

    /// Saves the state, unless it has diverged: what is saved can be gone on from, its numbers and its loss are finite.
    fn checkpoint(&mut self) -> Result<()> {
        let epoch = self.step / self.steps_in_epoch();
        let checkpoint = Checkpoint {
            step: self.step,
            seconds: self.seconds(),
            parameters: to_f32s(&self.network.theta()?)?,
            buffers: self.network.buffers()?,
            optimizer: self.optimizer.state()?,
        };
        if let Some((what, value)) = checkpoint.not_finite() {
            self.check_finite(what, epoch, &[value])?;
        }
        let batch = self.next_batch()?;
        self.check_loss(epoch, &self.network.loss(&batch)?)?;
        self.log.sync()?;
        checkpoint.write(&self.run.checkpoint_path(self.step), self.network.graph().layout())?;
        // By default the newest two stay: one to go on with, one in case it is damaged.
        let keep = match self.config.keep_checkpoints {
            0 => usize::MAX,
            n => n as usize,
        };
        let steps = self.run.checkpoint_steps()?;
        for &old in steps.iter().rev().skip(keep) {
            let path = self.run.checkpoint_path(old);
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    /// A number that is not finite ends the run, and the log says so.
    fn check_finite(&mut self, what: &'static str, epoch: u64, values: &[f64]) -> Result<()> {
        let Some(&value) = values.iter().find(|v| !v.is_finite()) else { return Ok(()) };
        self.log.append(&Metric {
            step: self.step,
            epoch,
            diverged: true,
            seconds: self.seconds(),
            ..Metric::default()
        })?;
        self.log.sync()?;
        Err(self.diverged(what, value).into())
    }

    fn diverged(&self, what: &'static str, value: f64) -> TrainError {
        let checkpoint = match self.run.checkpoint_steps().ok().and_then(|s| s.last().copied()) {
            Some(step) => format!("The last checkpoint is {}", self.run.checkpoint_path(step).display()),
            None => "There is no checkpoint yet".to_owned(),
        };
        TrainError::Diverged { what, value, step: self.step, lr: self.config.lr, checkpoint }
    }

    fn seconds(&self) -> f64 {
        self.earlier + self.started.elapsed().as_secs_f64()
    }
}
