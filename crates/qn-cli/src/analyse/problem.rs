//! Options that all analyses of a curvature matrix share.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, Parser};
use qn_data::Split;
use qn_run::{Invalid, LossKind, RunDirectory};
use qn_study::{
    Asked, Dtype, LayersReport, LayersRequest, Matrix, ProblemRequest, Report, SeriesReport, SeriesRequest,
    is_series, layers, series,
};

use super::tables;
use crate::options::{named, words};
use crate::processes;
use crate::stdout::print;
use crate::talk::Talk;
use crate::terminal::Terminal;
use crate::train::set_threads;

/// What is asked, of whichever network.
#[derive(Args, Clone, Debug, PartialEq)]
pub(super) struct QuestionArgs {
    /// Instead of a run: a PyTorch state_dict in a file of safetensors or torch.save. eigen, density, trace, track and overlap
    /// take several, a folder or a pattern in quotes, and make one report along them: the last number in a name is the step.
    #[arg(long, conflicts_with = "run", value_name = "FILE", num_args = 1..)]
    checkpoint: Vec<PathBuf>,
    /// With --checkpoint: a preset's name, or a .toml/.json file.
    #[arg(long, conflicts_with = "run")]
    arch: Option<String>,
    /// With --checkpoint: digits, mnist, fashion-mnist, cifar10, cifar100, or a file of your own, FILE.npz or
    /// FILE.safetensors with x, y and perhaps x_test, y_test. With a run: where its data are now.
    #[arg(long)]
    data: Option<String>,
    /// none, auto (mean and deviation of the training split), or MEAN,STD, each one number or one a channel as
    /// 0.49:0.48:0.45 [default: the run's; otherwise the data set's own, and a file's numbers as they are].
    #[arg(long, value_name = "MEAN,STD|none|auto")]
    normalise: Option<String>,
    /// Where the data sets are kept.
    #[arg(long, env = "QN_DATA", hide_env_values = true, default_value = "data")]
    data_dir: PathBuf,
    /// Which matrix.
    #[arg(long, value_parser = words::<Matrix>(), default_value = "hessian")]
    operator: Matrix,
    /// The loss: the mean of PyTorch's loss of that name [default: the run's; otherwise cross-entropy of labels and soft
    /// labels, mse of other vectors].
    #[arg(long, value_parser = words::<LossKind>())]
    loss: Option<LossKind>,
    /// The loss that the network is known to have over these samples: another one, by more than one part in a thousand, is an
    /// error, as layers, data or normalisation are then described otherwise than they were in training.
    #[arg(long, value_name = "LOSS", allow_negative_numbers = true)]
    expect_loss: Option<f64>,
    /// With cross-entropy: the share of each label that is spread over all classes.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    label_smoothing: f64,
    /// L of a further term L/2 |theta|^2 of the loss: adds L to the diagonal of H and G.
    #[arg(long, value_name = "L", default_value_t = 0.0)]
    weight_decay: f64,
    /// Only the parameters of these names, the others being constants: names or patterns as "conv1.*" and "*.bias",
    /// separated by commas [default: all].
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    only: Vec<String>,
    /// Which samples the loss is taken over.
    #[arg(long, value_parser = named::<Split>(&["train", "test"]), default_value = "train")]
    split: Split,
    /// The first N samples of the split [default: all].
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Precision of the products.
    #[arg(long, value_parser = words::<Dtype>(), default_value = "f64")]
    dtype: Dtype,
    /// Samples differentiated together [default: by cache size].
    #[arg(long)]
    microbatch: Option<usize>,
    /// Memory for keeping forward passes between products, in GiB [default: half of what is free].
    #[arg(long, value_name = "GIB")]
    memory: Option<f64>,
    /// Threads [default: all processors]. Results do not depend on it.
    #[arg(long)]
    threads: Option<usize>,
    /// Seed of the random vectors.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Args, Clone, Debug)]
pub(super) struct ProblemArgs {
    /// A run directory; a file of parameters is given with --checkpoint.
    pub(super) run: Option<PathBuf>,
    /// Which of the run's checkpoints: that of step N [default: the last].
    #[arg(long, value_name = "N", requires = "run")]
    step: Option<u64>,
    /// Go on although a run's data are not those that it was trained on.
    #[arg(long, requires = "run")]
    changed_data: bool,
    #[command(flatten)]
    question: QuestionArgs,
    /// Where the report goes, "-" for stdout [default: reports/ in the run; needed with --checkpoint]. What else is
    /// written is beside it, as NAME.eigenvectors.safetensors; only older outputs of the same kind are replaced.
    #[arg(long, value_name = "PATH|-")]
    json: Option<PathBuf>,
    #[command(flatten)]
    pub(super) talk: Talk,
}

impl QuestionArgs {
    /// What is asked, of a network that is still to be named.
    pub(super) fn request(&self, terminal: &Terminal<'_>) -> Result<ProblemRequest> {
        Ok(ProblemRequest {
            arch: self.arch.clone(),
            data: self.data.clone(),
            normalise: self.normalise.clone(),
            data_dir: self.data_dir.clone(),
            operator: self.operator,
            loss: self.loss,
            expect_loss: self.expect_loss,
            label_smoothing: self.label_smoothing,
            weight_decay: self.weight_decay,
            only: self.only.clone(),
            split: self.split,
            samples: self.samples,
            dtype: self.dtype,
            microbatch: self.microbatch,
            memory: self.memory,
            threads: set_threads(self.threads, terminal.verbosity)?,
            seed: self.seed,
            processes: processes::here(),
            ..ProblemRequest::default()
        })
    }

    /// The files that are given in place of a run.
    pub(super) fn checkpoints(&self) -> &[PathBuf] {
        &self.checkpoint
    }

    /// Whether nothing is asked.
    pub(super) fn is_empty(&self) -> bool {
        #[derive(Parser)]
        struct Nothing {
            #[command(flatten)]
            question: QuestionArgs,
            run: Option<PathBuf>,
        }
        Nothing::try_parse_from([""]).is_ok_and(|Nothing { question, .. }| question == *self)
    }
}

impl ProblemArgs {
    /// What is asked about, one network.
    pub(super) fn request(&self, terminal: &Terminal<'_>) -> Result<ProblemRequest> {
        if self.series().is_some() {
            bail!(Invalid("`checkpoint`: this command takes one file".into()));
        }
        Ok(ProblemRequest { checkpoint: self.checkpoints().first().cloned(), ..self.of_any(terminal)? })
    }

    /// What is asked about, but for the checkpoint.
    pub(super) fn of_any(&self, terminal: &Terminal<'_>) -> Result<ProblemRequest> {
        Ok(ProblemRequest {
            run: self.run.clone(),
            step: self.step,
            changed_data: self.changed_data,
            ..self.question.request(terminal)?
        })
    }

    /// The files that are given in place of a run.
    pub(super) fn checkpoints(&self) -> &[PathBuf] {
        self.question.checkpoints()
    }

    /// The checkpoints, if they are a series.
    pub(super) fn series(&self) -> Option<&[PathBuf]> {
        is_series(self.checkpoints()).then_some(self.checkpoints())
    }

    /// Where the report goes, the run's reports unless said otherwise; nowhere for stdout.
    pub(super) fn place<R: Report>(&self) -> Result<Option<PathBuf>> {
        place::<R>(self.json.as_deref(), self.run.as_deref())
    }
}

/// Nowhere for `-`, which is stdout, else the path, else the run's report of that kind.
pub(super) fn place<R: Report>(json: Option<&Path>, run: Option<&Path>) -> Result<Option<PathBuf>> {
    match (json, run) {
        _ if !processes::is_first() => Ok(None),
        (Some(path), _) if path.as_os_str() == "-" => Ok(None),
        (Some(path), _) => Ok(Some(path.to_owned())),
        (None, Some(run)) => Ok(Some(RunDirectory::open(run)?.report_path(&format!("{}.json", R::KIND)))),
        (None, None) => bail!(Invalid(
            "give a run directory, or --checkpoint with --arch, --data and --json (where the report goes)"
                .into()
        )),
    }
}

/// One study at every checkpoint of a series, printed.
pub(super) fn along(
    args: &ProblemArgs,
    checkpoints: &[PathBuf],
    asked: Asked,
    terminal: &Terminal<'_>,
) -> Result<SeriesReport> {
    let to = args.place::<SeriesReport>()?;
    let request = SeriesRequest { asked, checkpoints: checkpoints.to_vec(), to };
    let report = series(&request, terminal)?;
    show(&report, request.to.as_deref(), terminal, || tables::print_series(&report))?;
    Ok(report)
}

/// One study of every layer, printed.
pub(super) fn by_layer(args: &ProblemArgs, asked: Asked, terminal: &Terminal<'_>) -> Result<LayersReport> {
    let request = LayersRequest { asked, to: args.place::<LayersReport>()? };
    let report = layers(&request, terminal)?;
    show(&report, request.to.as_deref(), terminal, || tables::print_layers(&report))?;
    Ok(report)
}

/// Prints a report: as a table where it is in a file, as JSON where it is nowhere else.
pub(super) fn show<R: Report>(
    report: &R,
    to: Option<&Path>,
    terminal: &Terminal<'_>,
    table: impl FnOnce(),
) -> Result<()> {
    terminal.clear();
    match to {
        None => print(format_args!("{}", qn_study::to_json(report)?)),
        Some(path) => {
            table();
            terminal.note(format_args!("report: {}", path.display()));
        }
    }
    Ok(())
}
