//! Figures of a matrix layer by layer.

use anyhow::Result;

use super::panel::{Matrix, Panel};
use crate::report::DecomposeReport;
use crate::source::Source;

/// The norms of the blocks of H and of F that belong to two layers, relative to the largest of H.
pub(super) fn blocks(sources: &[Source]) -> Result<Vec<Panel>> {
    let mut panels = Vec::with_capacity(2 * sources.len());
    for source in sources {
        let blocks = source.report::<DecomposeReport>()?.blocks;
        let largest = blocks.hessian.iter().flatten().copied().fold(f64::MIN_POSITIVE, f64::max);
        for (name, norms) in [("H", &blocks.hessian), ("F", &blocks.residual)] {
            panels.push(Panel::Matrix(Matrix {
                title: format!(
                    "{}: |{name}_lm| by layers, relative to the largest |H_lm|, {largest:.3e}",
                    source.label
                ),
                rows: "layer",
                columns: "layer",
                entries: norms.iter().map(|row| row.iter().map(|x| x / largest).collect()).collect(),
                row_names: blocks.layers.clone(),
                framed: Vec::new(),
            }));
        }
    }
    Ok(panels)
}
