//! `qn-analyse figure`.

mod draw;
mod overlaps;
mod panel;
mod source;
mod spectra;
mod training;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use qn_run::write_whole;
use qn_train::Usage;

use draw::Theme;
use panel::Panel;
pub(crate) use source::Source;

use crate::output::{MARK, Output};

/// Draw a figure from reports: F.svg, or F.png.
#[derive(Args, Clone, Debug)]
pub(crate) struct FigureArgs {
    /// Which.
    #[arg(value_enum)]
    name: Name,
    /// Run directories, or the reports themselves.
    #[arg(required = true, value_name = "RUN|REPORT")]
    sources: Vec<PathBuf>,
    /// The file: .svg or .png.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// For cosines: the snapshot of step N [default: the last].
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// For training: only these runs of experiment.json, as the recipe calls them.
    #[arg(long, value_name = "RUN,...", value_delimiter = ',')]
    only: Vec<String>,
    /// Light on dark.
    #[arg(long)]
    dark: bool,
    /// Pixels of a .png to a unit of the .svg, which is 560 wide.
    #[arg(long, default_value_t = 2.0)]
    scale: f32,
}

/// Figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// The eigenvalues of eigen.json, C marked.
    Eigenvalues,
    /// Counts of all eigenvalues of full_spectrum.json.
    Spectrum,
    /// The smoothed density of density.json.
    Density,
    /// Class gradients against eigenvectors, of overlap.json, at one step.
    Cosines,
    /// Assigned cosine, overlap and rank over the steps.
    Overlap,
    /// Principal angles at the last step.
    Angles,
    /// Singular values of [V, E] with the rank's tolerance.
    Singular,
    /// Training loss and test accuracy, of runs or of experiment.json.
    Training,
    /// lambda_k and |c_k| over the steps of a quasi-Newton run.
    Lambda,
    /// rho against its limit, and the preconditioner's smallest eigenvalue, over the steps of a quasi-Newton run.
    Stability,
    /// Curvature along training, of track.json.
    Track,
}

impl Name {
    /// Whether a run has the numbers.
    pub(crate) fn can_draw(self, run: &Source) -> bool {
        match self {
            Self::Eigenvalues => run.has("eigen.json"),
            Self::Spectrum => run.has("full_spectrum.json"),
            Self::Density => run.has("density.json"),
            Self::Cosines | Self::Overlap | Self::Angles | Self::Singular => run.has("overlap.json"),
            Self::Training => true,
            Self::Lambda => run.keeps_averages(),
            Self::Stability => run.takes_newton_steps(),
            Self::Track => run.has("track.json"),
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &FigureArgs) -> Result<()> {
    if !(args.scale > 0.0 && args.scale <= 20.0) {
        bail!(Usage(format!("--scale {}: give a number above 0 and up to 20", args.scale)));
    }
    Output::Marked.claim(&args.output)?;
    let sources: Vec<Source> = args.sources.iter().map(|path| Source::new(path)).collect();
    let theme = if args.dark { Theme::Dark } else { Theme::Light };
    let choice = Choice { step: args.step, only: &args.only };
    let svg = draw::svg(&panels(args.name, &sources, choice)?, theme)?;
    let bytes = match args.output.extension().and_then(|e| e.to_str()) {
        Some("svg") => svg.replacen("</svg>", &format!("<!-- {MARK} --></svg>"), 1).into_bytes(),
        Some("png") => png(&svg, args.scale)?,
        _ => bail!(Usage(format!("--output {}: give a .svg or a .png", args.output.display()))),
    };
    make_folder(&args.output)?;
    Ok(write_whole(&args.output, &bytes)?)
}

/// A figure as SVG, light and dark.
pub(crate) fn both_themes(name: Name, sources: &[Source]) -> Result<[String; 2]> {
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

fn panels(name: Name, sources: &[Source], Choice { step, only }: Choice<'_>) -> Result<Vec<Panel>> {
    match name {
        Name::Eigenvalues => spectra::eigenvalues(sources),
        Name::Spectrum => spectra::spectrum(sources),
        Name::Density => spectra::density(sources),
        Name::Cosines => overlaps::cosines(sources, step),
        Name::Overlap => overlaps::overlap(sources),
        Name::Angles => overlaps::angles(sources),
        Name::Singular => overlaps::singular(sources),
        Name::Training => training::training(sources, only),
        Name::Lambda => training::lambda(sources),
        Name::Stability => training::stability(sources),
        Name::Track => training::track(sources),
    }
}

/// Fonts looked for by name, before any other.
const SANS_SERIF: [&str; 5] = ["DejaVu Sans", "Liberation Sans", "Noto Sans", "Arial", "Helvetica"];

/// The SVG in pixels, with the system's fonts.
fn png(svg: &str, scale: f32) -> Result<Vec<u8>> {
    use resvg::{tiny_skia, usvg};
    let mut options = usvg::Options::default();
    options.fontdb_mut().load_system_fonts();
    let families: Vec<String> =
        options.fontdb.faces().filter_map(|face| Some(face.families.first()?.0.clone())).collect();
    let known = SANS_SERIF.iter().find(|known| families.iter().any(|family| family == *known));
    let Some(family) = known.map(|name| (*name).to_owned()).or_else(|| families.first().cloned()) else {
        bail!(
            "there is no font on this system: install one (for example fonts-dejavu-core), or write an .svg"
        );
    };
    options.fontdb_mut().set_sans_serif_family(family);
    let tree = usvg::Tree::from_str(svg, &options).context("cannot read the figure back")?;
    let size = tree.size().to_int_size().scale_by(scale).context("--scale is too small")?;
    let mut pixels = tiny_skia::Pixmap::new(size.width(), size.height()).context("--scale is too large")?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(scale, scale), &mut pixels.as_mut());
    encoded(pixels).context("cannot write the PNG")
}

/// A PNG with [`MARK`] as its text.
fn encoded(pixels: resvg::tiny_skia::Pixmap) -> Result<Vec<u8>> {
    let (width, height) = (pixels.width(), pixels.height());
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.add_text_chunk("Software".into(), MARK.into())?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels.take_demultiplied())?;
    writer.finish()?;
    Ok(bytes)
}
