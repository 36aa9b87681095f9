//! One study of every layer by itself: the diagonal blocks of a matrix.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use qn_model::ParamLayout;
use qn_run::{Invalid, Observer, Stage, StopOnly};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::output::{self, Report};
use crate::report::SCHEMA_VERSION;
use crate::request::ProblemRequest;
use crate::series::{Asked, Point};
use crate::target::Target;

/// Asks for one study of each layer's block.
#[derive(Clone, Debug)]
pub struct LayersRequest {
    /// The study, and the network. The place of its own request is not looked at; of `k` eigenpairs a layer has at most
    /// as many as parameters.
    pub asked: Asked,
    /// Where the report goes; nothing is written where absent.
    pub to: Option<PathBuf>,
}

/// One study layer by layer: `layers.json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LayersReport {
    /// Of this format.
    pub schema_version: u32,
    /// One entry a layer, in the order of their parameters.
    pub layers: Vec<LayerPoint>,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// What was found of one layer, the other parameters being constants.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LayerPoint {
    /// Its name: that of its parameters up to the last dot.
    pub layer: String,
    /// The study's report; its `only` names the parameters.
    #[serde(flatten)]
    pub found: Point,
}

impl Report for LayersReport {
    const KIND: &'static str = "layers";
    const STUDY: &'static str = "eigen, density, trace";
    const WITH: &'static [&'static str] = &["per_layer"];
}

impl LayersReport {
    /// Whether all eigenpairs that were asked for are within the tolerance.
    pub fn converged(&self) -> bool {
        self.layers.iter().all(|layer| layer.found.converged())
    }
}

/// The parameters of each layer: those whose names differ after the last dot only.
fn layers_of(layout: &ParamLayout) -> Vec<(String, Range<usize>)> {
    let mut layers: Vec<(String, Range<usize>)> = Vec::new();
    for param in layout.params() {
        let name = param.layer();
        match layers.last_mut() {
            Some((last, range)) if last == name => range.end = param.range().end,
            _ => layers.push((name.to_owned(), param.range())),
        }
    }
    layers
}

/// The names of the parameters in a range.
fn names_in(layout: &ParamLayout, range: &Range<usize>) -> Vec<String> {
    let inside = layout.params().iter().filter(|param| range.contains(&param.offset));
    inside.map(|param| param.name.clone()).collect()
}

/// Asks of every layer and writes down what is found.
///
/// # Errors
/// The request makes no sense, something else stands where its answer is to go, or the observer wishes to stop.
pub fn layers(request: &LayersRequest, observer: &dyn Observer) -> Result<LayersReport> {
    let started = Instant::now();
    if request.asked.is_full() {
        bail!(Invalid(
            "`full` is for one layer at a time: name it with `only`, and leave `per_layer` out".into()
        ));
    }
    output::claim::<LayersReport>(request.to.as_deref())?;
    let problem = request.asked.problem();
    let all = Target::load(problem)?.graph.layout().clone();
    let layout = if problem.only.is_empty() {
        all
    } else {
        all.only(&problem.only).map_err(|e| Invalid(format!("`only`: {e}")))?
    };
    let named = layers_of(&layout);
    let stage = Stage::begin(observer, "layers", named.len() as u64);
    let stop = StopOnly(observer);
    let mut layers = Vec::with_capacity(named.len());
    for (layer, range) in named {
        let only = names_in(&layout, &range);
        let of = |problem: &ProblemRequest| ProblemRequest { only: only.clone(), ..problem.clone() };
        layers.push(LayerPoint { found: request.asked.of(&of, range.len(), &stop)?, layer });
        stage.advance(1);
    }
    let seconds = started.elapsed().as_secs_f64();
    let report = LayersReport { schema_version: SCHEMA_VERSION, layers, seconds };
    output::write(&report, request.to.as_deref())?;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use qn_model::{Graph, Preset};

    use super::*;

    #[test]
    fn a_layer_has_its_weights_and_its_bias() {
        let graph = Graph::new(&Preset::Digits.architecture([1, 8, 8], 10)).unwrap();
        let layout = graph.layout();
        let named = layers_of(layout).into_iter().map(|(layer, range)| (layer, names_in(layout, &range)));
        let found: Vec<(String, Vec<String>)> = named.collect();
        assert!(
            found
                .iter()
                .all(|(layer, params)| *params == [format!("{layer}.weight"), format!("{layer}.bias")])
        );
        assert_eq!(found.iter().map(|(_, params)| params.len()).sum::<usize>(), layout.params().len());
    }
}
