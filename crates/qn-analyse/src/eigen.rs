//! `qn-analyse eigen`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Parser, ValueEnum};
use faer::Mat;
use qn_curvature::{Curvature, Operator, Options, Real, Samples};
use qn_data::Split;
use qn_run::{RunDirectory, Tensor, TensorFile, Versions};
use qn_spectrum::{DenseSymmetric, Eigenpairs, FullSpectrum, LanczosOptions, SpectrumError, Which, lanczos};
use qn_train::ui::{Verbosity, bytes};
use qn_train::{Interrupt, Usage};

use crate::operator::{CurvatureOperator, Interrupted, Watched};
use crate::report::{self, Destination, EigenReport, SCHEMA_VERSION};
use crate::table;
use crate::target::{Target, TargetArgs};

/// A precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    /// Double.
    F64,
    /// Single; sums over microbatches are double.
    F32,
}

/// A curvature matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OperatorArg {
    /// H, the Hessian.
    Hessian,
    /// G, the generalised Gauss-Newton matrix.
    Ggn,
    /// F = H - G.
    Residual,
}

impl OperatorArg {
    fn operator(self) -> Operator {
        match self {
            Self::Hessian => Operator::Hessian,
            Self::Ggn => Operator::Ggn,
            Self::Residual => Operator::Residual,
        }
    }

    /// The name on the command line and in reports.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Hessian => "hessian",
            Self::Ggn => "ggn",
            Self::Residual => "residual",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SplitArg {
    Train,
    Test,
}

impl From<SplitArg> for Split {
    fn from(split: SplitArg) -> Self {
        match split {
            SplitArg::Train => Self::Train,
            SplitArg::Test => Self::Test,
        }
    }
}

/// Eigenvalues and eigenvectors of the loss's Hessian (or of G or F) at a trained network.
#[derive(Args, Clone, Debug)]
pub(crate) struct EigenArgs {
    /// A run directory; its last checkpoint is taken.
    pub(crate) run: Option<PathBuf>,
    /// Instead of a run: parameters by PyTorch's names in a .safetensors file.
    #[arg(long, conflicts_with = "run", value_name = "FILE")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// With --checkpoint: a preset's name, or a .toml/.json file.
    #[arg(long, conflicts_with = "run")]
    pub(crate) arch: Option<String>,
    /// With --checkpoint: digits, mnist or cifar10.
    #[arg(long, conflicts_with = "run")]
    pub(crate) data: Option<String>,
    /// Where the data sets are kept.
    #[arg(long, env = "QN_DATA", default_value = "data")]
    pub(crate) data_dir: PathBuf,
    /// Which matrix.
    #[arg(long, value_enum, default_value = "hessian")]
    pub(crate) operator: OperatorArg,
    /// Eigenpairs wanted.
    #[arg(long, short, default_value_t = 10)]
    pub(crate) k: usize,
    /// From which end: LA (largest), SA (smallest), LM (largest magnitude) or BE (both ends).
    #[arg(long, default_value = "LA")]
    pub(crate) which: Which,
    /// Build the whole matrix (P products) and find all eigenvalues.
    #[arg(long)]
    pub(crate) full: bool,
    /// Which samples the loss is taken over.
    #[arg(long, value_enum, default_value = "train")]
    pub(crate) split: SplitArg,
    /// The first N samples of the split [default: all].
    #[arg(long, value_name = "N")]
    pub(crate) samples: Option<usize>,
    /// Precision of the products.
    #[arg(long, value_enum, default_value = "f64")]
    pub(crate) dtype: Dtype,
    /// Residuals wanted, relative to the largest |eigenvalue| [default: 1e-6; 1e-5 with f32].
    #[arg(long)]
    pub(crate) tol: Option<f64>,
    /// Largest dimension of the Lanczos basis [default: 2k + 3 blocks].
    #[arg(long)]
    pub(crate) ncv: Option<usize>,
    /// Vectors multiplied at a time; at least the largest multiplicity to be seen [default: min(k, 10)].
    #[arg(long)]
    pub(crate) block: Option<usize>,
    /// Most restarts of Lanczos.
    #[arg(long, default_value_t = 300)]
    pub(crate) maxiter: usize,
    /// Seed of the starting vectors.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Samples differentiated together [default: by cache size].
    #[arg(long)]
    pub(crate) microbatch: Option<usize>,
    /// Memory for keeping forward passes between products, in GiB [default: half of what is free].
    #[arg(long, value_name = "GIB")]
    pub(crate) memory: Option<f64>,
    /// Threads [default: all processors]. Results do not depend on it.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Where the report goes, "-" for stdout [default: reports/eigen.json in the run].
    #[arg(long, value_name = "PATH|-")]
    pub(crate) json: Option<PathBuf>,
    /// Say nothing but errors and results.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

impl EigenArgs {
    /// The command line's defaults for a run.
    pub(crate) fn for_run(run: &Path) -> Self {
        #[derive(Parser)]
        struct Defaults {
            #[command(flatten)]
            eigen: EigenArgs,
        }
        Self { run: Some(run.to_owned()), ..Defaults::parse_from(["eigen"]).eigen }
    }
}

/// Single precision cannot give residuals below a few hundred roundings of 6e-8.
const F32_FLOOR: f64 = 3e-6;

/// Runs the command; gives the report and whether everything converged.
pub(crate) fn run(args: &EigenArgs, interrupt: &Interrupt) -> Result<(EigenReport, bool)> {
    let threads = qn_train::cli::set_threads(args.threads)?;
    let verbosity = if args.quiet { Verbosity::Quiet } else { Verbosity::Normal };
    let target = Target::load(&TargetArgs {
        run: args.run.as_deref(),
        checkpoint: args.checkpoint.as_deref(),
        arch: args.arch.as_deref(),
        data: args.data.as_deref(),
        data_dir: &args.data_dir,
        split: args.split.into(),
        samples: args.samples,
    })?;
    let p = target.graph.layout().len();
    if args.k == 0 || args.k > p {
        bail!(Usage(format!("--k {}: the network has {p} parameters; ask for 1 to {p} eigenpairs", args.k)));
    }
    if args.block == Some(0) || args.microbatch == Some(0) {
        bail!(Usage("--block and --microbatch must be at least 1".into()));
    }
    if args.full {
        refuse_if_too_large(p)?;
    }
    let context = Context { args, target: &target, threads, verbosity, interrupt };
    let (report, vectors) = match args.dtype {
        Dtype::F64 => context.solve::<f64>()?,
        Dtype::F32 => context.solve::<f32>()?,
    };
    write_files(args, &report, &vectors, verbosity)?;
    let converged = report.converged == report.eigenvalues.len();
    Ok((report, converged))
}

struct Context<'a> {
    args: &'a EigenArgs,
    target: &'a Target,
    threads: usize,
    verbosity: Verbosity,
    interrupt: &'a Interrupt,
}

impl Context<'_> {
    fn solve<T: Real>(&self) -> Result<(EigenReport, Mat<f64>)> {
        let started = Instant::now();
        let (args, target) = (self.args, self.target);
        let tol = args.tol.unwrap_or(if args.dtype == Dtype::F32 { 1e-5 } else { 1e-6 });
        if args.dtype == Dtype::F32 && tol < F32_FLOOR {
            self.verbosity.say(format_args!(
                "warning: --tol {tol:e} is below what f32 products can give (about {F32_FLOOR:e}); use --dtype f64"
            ));
        }
        let curvature = self.curvature::<T>()?;
        let start = curvature.loss_and_gradient()?;
        self.verbosity.say(format_args!(
            "{}: {} parameters, {} of {} samples, {} threads",
            target.arch,
            curvature.dim(),
            args.operator.as_str(),
            curvature.samples(),
            self.threads
        ));
        let operator = CurvatureOperator { curvature: &curvature, which: args.operator.operator() };
        let block = args.block.unwrap_or(args.k.min(10));
        let (pairs, spectrum) = if args.full {
            let bar = self.verbosity.bar(curvature.dim() as u64, "products");
            let watched = Watched::new(operator, &bar, self.interrupt);
            let dense = DenseSymmetric::assemble(&watched, |_| ()).map_err(unwrap_interrupt)?;
            self.verbosity
                .say(format_args!("the matrix is there; finding its {} eigenvalues", curvature.dim()));
            let all = dense.eigen()?;
            let mut pairs = all.pairs(&watched, args.k, args.which, tol).map_err(unwrap_interrupt)?;
            pairs.matvecs = watched.products();
            (pairs, Some(all))
        } else {
            let bar = self.verbosity.bar(0, "products");
            bar.unset_length();
            let watched = Watched::new(operator, &bar, self.interrupt);
            let options = LanczosOptions {
                k: args.k,
                which: args.which,
                block,
                ncv: args.ncv,
                tol,
                maxiter: args.maxiter,
                seed: args.seed,
            };
            let observe = |p: &qn_spectrum::Progress| {
                bar.set_message(format!(
                    "{} of {} pairs, worst residual {:.1e}",
                    p.converged, args.k, p.worst_residual
                ));
            };
            let pairs = lanczos(&watched, &options, observe).map_err(unwrap_interrupt)?;
            (pairs, None)
        };
        let norm = start.gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let Eigenpairs { values, vectors, residuals, converged, matvecs, iterations, stop_reason } = pairs;
        let report = EigenReport {
            schema_version: SCHEMA_VERSION,
            operator: args.operator.as_str().into(),
            arch: target.arch.clone(),
            data: target.data.name().as_str().into(),
            split: target.data.split().as_str().into(),
            samples: target.data.len(),
            data_sha256: target.data.sha256(),
            checkpoint: target.checkpoint.display().to_string(),
            step: target.step,
            params: curvature.dim(),
            dtype: if args.dtype == Dtype::F64 { "f64" } else { "f32" }.into(),
            microbatch: curvature.microbatch(),
            method: if spectrum.is_some() { "dense" } else { "lanczos" }.into(),
            k: args.k,
            which: args.which.as_str().into(),
            block,
            tol,
            eigenvalues: values,
            residuals,
            converged,
            matvecs,
            iterations,
            stop_reason,
            full_spectrum: spectrum.map(|s: FullSpectrum| s.values.into_iter().rev().collect()),
            seconds: started.elapsed().as_secs_f64(),
            loss: start.loss,
            accuracy: start.accuracy,
            gradient_norm: norm,
            layout_hash: target.graph.layout().hash(),
            seed: args.seed,
            versions: Versions::current(),
        };
        Ok((report, vectors))
    }

    fn curvature<T: Real>(&self) -> Result<Curvature<T>> {
        let data = &self.target.data;
        let images = (0..data.len()).flat_map(|i| data.sample(i));
        let samples = Samples::new(data.sample_len(), images, data.labels().to_vec())?;
        let memory = match self.args.memory {
            Some(gib) if gib >= 0.0 => (gib * (1u64 << 30) as f64) as usize,
            Some(gib) => bail!(Usage(format!("--memory {gib}: give a number of GiB of at least 0"))),
            None => (free_memory().unwrap_or(2 << 30) / 2) as usize,
        };
        let options = Options { threads: self.threads, microbatch: self.args.microbatch, memory };
        Ok(Curvature::new(&self.target.graph, &self.target.theta, &self.target.buffers, samples, &options)?)
    }
}

/// An interruption on its way through a solver comes out as itself.
fn unwrap_interrupt(error: SpectrumError) -> anyhow::Error {
    match error {
        SpectrumError::Operator(inner) => match inner.downcast::<Interrupted>() {
            Ok(interrupted) => anyhow::Error::new(*interrupted),
            Err(other) => anyhow!(other),
        },
        SpectrumError::Count { .. } | SpectrumError::Basis { .. } => {
            anyhow::Error::new(Usage(error.to_string()))
        }
        other => other.into(),
    }
}

/// Bytes of memory that the system can give, where it tells.
fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// The dense way holds the matrix, its eigenvectors and the solver's copy.
fn refuse_if_too_large(p: usize) -> Result<()> {
    let need = 4 * (p as u64).pow(2) * 8;
    match free_memory() {
        Some(free) if need > free => bail!(
            "--full needs about {} for {p} parameters and {} is free; ask for a few pairs with --k instead",
            bytes(need),
            bytes(free)
        ),
        _ => Ok(()),
    }
}

fn write_files(
    args: &EigenArgs,
    report: &EigenReport,
    vectors: &Mat<f64>,
    verbosity: Verbosity,
) -> Result<()> {
    let default = || -> Result<PathBuf> {
        let run =
            args.run.as_deref().ok_or_else(|| Usage("--checkpoint needs --json PATH or --json -".into()))?;
        Ok(RunDirectory::open(run)?.report_path("eigen.json"))
    };
    let to = match &args.json {
        Some(path) if path.as_os_str() == "-" => Destination::Stdout,
        Some(path) => Destination::File(path.clone()),
        None => Destination::File(default()?),
    };
    if let Destination::File(path) = &to {
        write_vectors(&path.with_extension("safetensors"), report, vectors)?;
    }
    report::write(report, &to)?;
    if let Destination::File(path) = &to {
        table::print_eigen(report);
        verbosity.say(format_args!("report: {}", path.display()));
    }
    Ok(())
}

fn write_vectors(path: &Path, report: &EigenReport, vectors: &Mat<f64>) -> Result<()> {
    let (p, k) = (vectors.nrows(), vectors.ncols());
    let rows: Vec<f64> = (0..k).flat_map(|j| vectors.col(j).iter().copied()).collect();
    let mut file = TensorFile {
        meta: serde_json::json!({"kind": "eigenvectors", "layout_hash": report.layout_hash, "step": report.step}),
        ..TensorFile::default()
    };
    file.tensors.insert("eigenvectors".into(), Tensor::f64(&[k, p], &rows));
    file.tensors.insert("eigenvalues".into(), Tensor::f64(&[k], &report.eigenvalues));
    file.write(path).context("cannot write the eigenvectors")
}
