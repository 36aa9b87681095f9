//! Every kind of report, a row each: what the command line, the schemas, `inspect`, the page and docs/formats.md know of it.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use maud::{Markup, html};
use schemars::JsonSchema;
use serde_json::{Value, json};

use crate::StudyError;
use crate::activations::ActivationsReport;
use crate::batches::BatchesReport;
use crate::energy::EnergyReport;
use crate::experiment::ExperimentReport;
use crate::figure::FigureName;
use crate::hierarchy::HierarchyReport;
use crate::layers::LayersReport;
use crate::output::Report;
use crate::page::sections;
use crate::persistence::PersistenceReport;
use crate::report::{
    DecomposeReport, DensityReport, EigenReport, FullSpectrumReport, OverlapReport, TraceReport,
    check_version, read_any,
};
use crate::series::SeriesReport;
use crate::shape::ShapeReport;
use crate::surface::SurfaceReport;
use crate::track::TrackReport;

/// A kind of report.
pub struct ReportKind {
    /// Its `kind`; in a run it is the file reports/NAME.json.
    pub name: &'static str,
    /// The study that makes it.
    pub study: &'static str,
    /// What is in it, in Markdown.
    pub about: &'static str,
    /// What is written beside it: the ending of the file's name, or all of it where it begins with a letter, and what is
    /// in there, in Markdown.
    pub beside: &'static [(&'static str, &'static str)],
    /// What is drawn of it, with captions.
    pub figures: &'static [(FigureName, &'static str)],
    schema: fn() -> Value,
    parse: fn(Value, &Path) -> Result<AnyReport>,
}

macro_rules! kinds {
    ($($variant:ident($report:ty): $about:literal, beside $beside:expr, figures $figures:expr, section $section:expr;)*) => {
        /// A report of any kind.
        #[derive(Clone, Debug)]
        #[allow(missing_docs, clippy::large_enum_variant)]
        pub enum AnyReport {
            $($variant($report),)*
        }

        impl AnyReport {
            /// What the page says of it.
            pub(crate) fn section(&self) -> Markup {
                match self {
                    $(Self::$variant(report) => $section(report),)*
                }
            }
        }

        /// All kinds, in the order in which the page has them.
        pub static KINDS: &[ReportKind] = &[$(
            ReportKind {
                name: <$report>::KIND,
                study: <$report>::STUDY,
                about: $about,
                beside: $beside,
                figures: $figures,
                schema: schema::<$report>,
                parse: |value, path| {
                    check_version::<$report>(&value, path)?;
                    let report = serde_json::from_value(value);
                    let report = report.with_context(|| format!("{} is not a valid report", path.display()))?;
                    Ok(AnyReport::$variant(report))
                },
            },
        )*];
    };
}

kinds! {
    Eigen(EigenReport): "eigenvalues with residuals, descending",
        beside &[("eigen.safetensors", "`eigenvectors` [k, P] in that order, and `eigenvalues` [k]")],
        figures &[(FigureName::Eigenvalues, "With the number of classes marked.")],
        section sections::eigen;
    FullSpectrum(FullSpectrumReport): "with `--full`: signs of all eigenvalues, a histogram (ten bins to a decade of \
            &#124;λ&#124;, both signs), how far matrix and operator agree, times, memory; the eigenvalues themselves up to \
            10,000",
        beside &[
            ("full_spectrum.safetensors", "`eigenvalues` [P], descending, in the matrix's precision"),
            ("full_spectrum.partial", "a full spectrum under way (the matrix being assembled, or reduced), as large as \
                the matrix: the same command goes on from it and removes it"),
            ("eigenvectors/", "with `--vectors all` above 2,000 parameters: all of them in files `NNNNNNN.safetensors` that \
                begin with that place of the order, from 0, each with `eigenvectors` [k, P] and `eigenvalues` [k]; `.partial` \
                files are on their way there"),
        ],
        figures &[(FigureName::Spectrum, "Every eigenvalue, in bins of a tenth of a decade.")],
        section sections::full_spectrum;
    Shape(ShapeReport): "of full spectra: effective dimensions, stable rank, participation ratio, the widest gaps and that \
            behind &#955;_C, the power law through the tail with its goodness, and how far spectra are apart",
        beside &[],
        figures &[(FigureName::Shape, "The line is the power law that comes nearest to the tail.")],
        section sections::shape;
    Overlap(OverlapReport): "every snapshot's class gradients against the eigenvectors",
        beside &[],
        figures &[
            (FigureName::Overlap, "Every snapshot's class gradients against the last network's eigenvectors."),
            (FigureName::Angles, "At the last snapshot; 90 degrees are orthogonal."),
            (FigureName::Singular, "At the last snapshot. What lies below the tolerance does not count."),
        ],
        section sections::overlap;
    Energy(EnergyReport): "where the gradient and the class gradients lie among the eigenvectors, and the layers in each of \
            them",
        beside &[],
        figures &[(FigureName::Energy, "A direction that knows nothing of the eigenvectors has j/P in the first j.")],
        section sections::energy;
    Density(DensityReport): "the smoothed density of all eigenvalues, with standard errors, and its quadrature's nodes",
        beside &[],
        figures &[(FigureName::Density, "By stochastic Lanczos quadrature; below that of log10 |eigenvalue|.")],
        section sections::density;
    Trace(TraceReport): "trace and Frobenius norm, with standard errors",
        beside &[],
        figures &[],
        section sections::trace;
    Decompose(DecomposeReport): "how much of H is G and how much is F, with standard errors, and layer by layer",
        beside &[],
        figures &[(FigureName::Blocks, "Norms of blocks by random vectors, ten a layer.")],
        section sections::decompose;
    Hierarchy(HierarchyReport): "how G is made of classes, pairs of classes and samples, and where the class gradients lie in it",
        beside &[],
        figures &[(FigureName::Hierarchy, "Papyan's parts of G: the means over classes, with those over pairs of classes, and single samples about them.")],
        section sections::hierarchy;
    Activations(ActivationsReport): "the loss's Hessian in the values between layers, by mean over samples and sample by sample",
        beside &[],
        figures &[(FigureName::Activations, "Of the mean over samples.")],
        section sections::activations;
    Surface(SurfaceReport): "the loss along one or two directions, beside its quadratic model",
        beside &[],
        figures &[(FigureName::Surface, "The quadratic model has the loss's gradient and curvature in the middle.")],
        section sections::surface;
    Track(TrackReport): "at every checkpoint: top eigenvalues, curvature inside and outside the class gradients' span, λ_k, \
            F beside H, where the gradient lies",
        beside &[],
        figures &[(FigureName::Track, "At every checkpoint.")],
        section sections::track;
    Series(SeriesReport): "one of these studies at several checkpoints: the report of each, with its step",
        beside &[],
        figures &[(FigureName::Series, "At every checkpoint.")],
        section sections::series;
    Layers(LayersReport): "with `--per-layer`: one of these studies of every layer by itself, the other parameters being constants",
        beside &[],
        figures &[(FigureName::Layers, "Each layer's diagonal block.")],
        section sections::layers;
    Persistence(PersistenceReport): "the top eigenvectors at every checkpoint: how far any two checkpoints' span one space, \
            over how many parameters and which layers they spread, and the curvature along the gradient",
        beside &[],
        figures &[(FigureName::Persistence, "Random spaces have an overlap of k/P.")],
        section sections::persistence;
    Batches(BatchesReport): "the ends of minibatches' spectra and of all samples'",
        beside &[],
        figures &[],
        section sections::batches;
    Experiment(ExperimentReport): "what a recipe's runs came to, beside them in OUT/NAME",
        beside &[],
        figures &[],
        section |_| html! {};
}

impl AnyReport {
    /// Reads a report of whatever kind.
    ///
    /// # Errors
    /// It is not there, is none, of no kind that is known here, or of another version of the format.
    pub fn read(path: &Path) -> Result<Self> {
        let value = read_any(path)?;
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or("none").to_owned();
        match KINDS.iter().find(|row| row.name == kind) {
            Some(row) => (row.parse)(value, path),
            None => {
                let file = path.display();
                bail!(StudyError::Refused(format!(
                    "{file} is of kind '{kind}', which is no report of this program"
                )))
            }
        }
    }
}

impl ReportKind {
    /// Names of the files: the report's, and of those beside it.
    pub fn files(&self) -> impl Iterator<Item = String> {
        let beside = self.beside.iter().map(|(name, _)| (*name).to_owned());
        std::iter::once(format!("{}.json", self.name)).chain(beside)
    }

    /// The JSON Schema.
    pub fn schema(&self) -> Value {
        (self.schema)()
    }

    /// The kind of what a file holds, by its `kind`.
    pub fn of(value: &Value) -> Option<&'static Self> {
        let kind = value.get("kind")?.as_str()?;
        KINDS.iter().find(|row| row.name == kind)
    }
}

/// The table of all kinds for docs/formats.md.
pub fn markdown_table() -> String {
    let mut text = String::from("| file | made by | what |\n| --- | --- | --- |\n");
    for kind in KINDS {
        let mut row = |file: &str, what: &str| {
            text += &format!("| `{file}` | `{}` | {what} |\n", kind.study);
        };
        row(&format!("{}.json", kind.name), kind.about);
        kind.beside.iter().for_each(|(file, what)| row(file, what));
    }
    text
}

/// The schema of a report, with its `kind` and this version of the format.
fn schema<R: Report + JsonSchema>() -> Value {
    let mut schema = schemars::schema_for!(R).to_value();
    schema["properties"]["kind"] = json!({"const": R::KIND});
    schema["properties"]["schema_version"]["const"] = json!(crate::report::SCHEMA_VERSION);
    if let Some(required) = schema["required"].as_array_mut() {
        required.insert(0, json!("kind"));
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_a_row() {
        for kind in KINDS {
            let schema = kind.schema();
            assert_eq!(schema["properties"]["kind"]["const"], kind.name);
            assert!(schema["required"].as_array().unwrap().iter().any(|name| name == "kind"));
            assert!(schema["required"].as_array().unwrap().iter().any(|name| name == "schema_version"));
            assert!(markdown_table().contains(&format!("`{}.json`", kind.name)));
        }
        let mut names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KINDS.len());
    }

    #[test]
    fn another_version_is_refused_in_words() {
        let folder = std::env::temp_dir().join(format!("qn-registry-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let told = |text: &str| {
            let file = folder.join("r.json");
            std::fs::write(&file, text).unwrap();
            AnyReport::read(&file).unwrap_err().to_string()
        };
        let old = told(r#"{"kind": "trace", "schema_version": 1}"#);
        assert!(old.contains("of version 1 of the format, and version 2 is read here"), "{old}");
        assert!(told(r#"{"kind": "trace"}"#).contains("of no version"));
        assert!(told(r#"{"kind": "other", "schema_version": 2}"#).contains("kind 'other'"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
