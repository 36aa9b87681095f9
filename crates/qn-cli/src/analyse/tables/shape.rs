use qn_study::{EffectiveDimension, GapAtClasses, ShapeReport, SpectrumShape};

use crate::stdout::outln;

/// How many dimensions each spectrum has, where its gaps are, how its tail falls, and how far the spectra are apart.
pub(in super::super) fn print_shape(report: &ShapeReport) {
    for SpectrumShape { name, shape, .. } in &report.spectra {
        outln!(
            "{}: stable rank {:.2}, participation ratio {:.2}, effective rank {:.1}; negative share {:.4}",
            name,
            shape.stable_rank,
            shape.participation_ratio,
            shape.effective_rank,
            shape.negative_share
        );
        for EffectiveDimension { alpha, dimension } in &shape.effective_dimensions {
            outln!("  effective dimension at alpha {alpha:<8} {dimension:>10.2}");
        }
        let gaps: Vec<String> =
            shape.gaps.iter().map(|gap| format!("{} ({:.2})", gap.index, gap.ratio)).collect();
        outln!("  widest gaps behind eigenvalue {}", gaps.join(", "));
        if let Some(GapAtClasses { gap, wider, of }) = &shape.gap_at_classes {
            outln!(
                "  behind lambda_{} a gap of {:.3}: {wider} of the first {of} are wider",
                gap.index,
                gap.ratio
            );
        }
        if let Some(law) = &shape.tail {
            let judged = law.p_value.map_or(String::new(), |p| {
                format!("; {:.0} % of {} random data by that law fit no better", 100.0 * p, law.draws)
            });
            outln!(
                "  tail of {}: density as lambda^-{:.3} ± {:.3} from {:.3e}, distance {:.3}{judged}",
                law.values,
                law.exponent,
                law.standard_error,
                law.from,
                law.distance
            );
        }
    }
    for pair in &report.comparisons {
        let decades = pair.decades.map_or("-".into(), |d| format!("{d:.3}"));
        outln!(
            "{} and {}: distributions {:.3} apart, positive eigenvalues {decades} decades",
            pair.first,
            pair.other,
            pair.distance
        );
    }
}
