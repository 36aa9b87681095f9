use qn_study::BatchesReport;

use super::spread::spread;
use crate::stdout::outln;

/// The ends of minibatches' spectra.
pub(in super::super) fn print_batches(report: &BatchesReport) {
    outln!("{:>9} {:>22} {:>22}", "samples", "largest", "smallest");
    for s in &report.sizes {
        outln!("{:>9} {:>22} {:>22}", s.size, spread(&s.largest, 4), spread(&s.smallest, 4));
    }
    outln!("{:>9} {:>22.4} {:>22.4}", report.subject.samples, report.largest, report.smallest);
    outln!("± is one standard deviation over the minibatches");
}
