//! Figures of runs and reports, as .svg or .png.

mod activations;
mod blocks;
mod draw;
mod energy;
mod hierarchy;
mod layers;
mod overlaps;
mod panel;
mod persistence;
#[cfg(feature = "png")]
mod png;
mod series;
mod shape;
mod spectra;
mod surface;
mod ticks;
mod training;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use qn_run::{Invalid, write_whole};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source::Source;
use draw::Theme;
use panel::Panel;

use crate::output::{MARK, Output};

/// Asks for a figure.
#[derive(Clone, Debug)]
pub struct FigureRequest {
    /// Which figure is drawn.
    pub name: FigureName,
    /// Run directories, or the reports themselves.
    pub sources: Vec<PathBuf>,
    /// The file: .svg or .png.
    pub output: PathBuf,
    /// For cosines: the snapshot of step N; the last where absent.
    pub step: Option<u64>,
    /// For training: only these runs of experiment.json, as the recipe calls them.
    pub only: Vec<String>,
    /// Light on dark.
    pub dark: bool,
    /// Pixels of a .png to a unit of the .svg, which is 560 wide.
    pub scale: f32,
}

/// The figures that can be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FigureName {
    /// The eigenvalues of eigen.json, C marked.
    Eigenvalues,
    /// Counts of all eigenvalues of full_spectrum.json.
    Spectrum,
    /// All positive eigenvalues of full_spectrum.json by rank, with the power law of shape.json.
    Shape,
    /// The smoothed density of density.json, and the density of log10 |eigenvalue|.
    Density,
    /// Class gradients against eigenvectors, of overlap.json, at one step.
    Cosines,
    /// Assigned cosine, overlap and rank over the steps.
    Overlap,
    /// Principal angles at the last step.
    Angles,
    /// Shares of the gradient and the class gradients in the first eigenvectors, and the layers in each, of energy.json.
    Energy,
    /// Singular values of [V, E] with the rank's tolerance.
    Singular,
    /// The eigenvalues of G and of its parts by classes, of hierarchy.json.
    Hierarchy,
    /// Norms of the blocks of H and of F between layers, of decompose.json.
    Blocks,
    /// Training loss and test accuracy, of runs or of experiment.json.
    Training,
    /// lambda_k and |c_k| over the steps of a quasi-Newton run.
    Lambda,
    /// rho against its limit, and the preconditioner's smallest eigenvalue, over the steps of a quasi-Newton run.
    Stability,
    /// Curvature along training, of track.json.
    Track,
    /// How far the top eigenvectors of any two checkpoints span one space, of persistence.json.
    Persistence,
    /// Eigenvalues, trace or density at every checkpoint, of series.json.
    Series,
    /// Eigenvalues, trace or density of every layer by itself, of layers.json.
    Layers,
    /// The largest and the mean eigenvalue in each value between layers, of activations.json.
    Activations,
    /// The loss along one or two directions, beside its quadratic model, of surface.json.
    Surface,
}

/// Draws a figure and writes it.
///
/// # Errors
/// The numbers are not there, or something else stands where it is to go.
pub fn figure(args: &FigureRequest) -> Result<()> {
    if !(args.scale > 0.0 && args.scale <= 20.0) {
        bail!(Invalid(format!("`scale` {}: give a number above 0 and up to 20", args.scale)));
    }
    Output::Marked.claim(&args.output)?;
    let sources: Vec<Source> = args.sources.iter().map(|path| Source::new(path)).collect();
    let theme = if args.dark { Theme::Dark } else { Theme::Light };
    let choice = Choice { step: args.step, only: &args.only };
    let svg = draw::svg(&panels(args.name, &sources, choice)?, theme)?;
    let bytes = match args.output.extension().and_then(|e| e.to_str()) {
        Some("svg") => svg.replacen("</svg>", &format!("<!-- {MARK} --></svg>"), 1).into_bytes(),
        Some("png") => png(&svg, args.scale)?,
        _ => bail!(Invalid(format!("`output` {}: give a .svg or a .png", args.output.display()))),
    };
    make_folder(&args.output)?;
    Ok(write_whole(&args.output, &bytes)?)
}

/// A figure as SVG, light and dark.
pub(crate) fn both_themes(name: FigureName, sources: &[Source]) -> Result<[String; 2]> {
    let panels = panels(name, sources, Choice::default())?;
    Ok([draw::svg(&panels, Theme::Light)?, draw::svg(&panels, Theme::Dark)?])
}

fn make_folder(file: &Path) -> Result<()> {
    match file.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(folder) => {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
        }
        None => Ok(()),
    }
}

/// What of a report is drawn.
#[derive(Clone, Copy, Default)]
struct Choice<'a> {
    step: Option<u64>,
    /// Runs of an experiment; all where it is empty.
    only: &'a [String],
}

fn panels(name: FigureName, sources: &[Source], Choice { step, only }: Choice<'_>) -> Result<Vec<Panel>> {
    match name {
        FigureName::Eigenvalues => spectra::eigenvalues(sources),
        FigureName::Spectrum => spectra::spectrum(sources),
        FigureName::Shape => shape::shape(sources),
        FigureName::Density => spectra::density(sources),
        FigureName::Cosines => overlaps::cosines(sources, step),
        FigureName::Overlap => overlaps::overlap(sources),
        FigureName::Angles => overlaps::angles(sources),
        FigureName::Energy => energy::energy(sources),
        FigureName::Singular => overlaps::singular(sources),
        FigureName::Hierarchy => hierarchy::hierarchy(sources),
        FigureName::Blocks => blocks::blocks(sources),
        FigureName::Training => training::training(sources, only),
        FigureName::Lambda => training::lambda(sources),
        FigureName::Stability => training::stability(sources),
        FigureName::Track => training::track(sources),
        FigureName::Persistence => persistence::persistence(sources),
        FigureName::Series => series::series(sources),
        FigureName::Layers => layers::layers(sources),
        FigureName::Activations => activations::activations(sources),
        FigureName::Surface => surface::surface(sources),
    }
}

/// The SVG in pixels.
#[cfg(feature = "png")]
fn png(svg: &str, scale: f32) -> Result<Vec<u8>> {
    png::png(svg, scale)
}

#[cfg(not(feature = "png"))]
fn png(_: &str, _: f32) -> Result<Vec<u8>> {
    bail!(Invalid("`output`: this program was built without the feature `png`: give an .svg".into()))
}
