//! A run's largest eigenvalues, then its class gradients against their eigenvectors: `spectrum RUN`.

use std::path::PathBuf;

use qn_run::Unobserved;
use qn_study::{EigenRequest, OverlapRequest, ProblemRequest, eigen, overlap};

fn main() -> anyhow::Result<()> {
    let run = PathBuf::from(std::env::args().nth(1).expect("give a run directory"));
    let request = EigenRequest {
        problem: ProblemRequest { samples: Some(500), ..ProblemRequest::of_run(&run) },
        k: 12,
        // Where `overlap` looks for it, with the vectors beside it.
        to: Some(run.join("reports/eigen.json")),
        ..EigenRequest::default()
    };
    let found = eigen(&request, &Unobserved)?.report;
    for (value, residual) in found.eigenvalues.iter().zip(&found.residuals) {
        println!("{value:12.6}  residual {residual:.0e}");
    }
    let found = overlap(&OverlapRequest { run, ..OverlapRequest::default() }, &Unobserved)?;
    for snapshot in &found.snapshots {
        println!("step {:6}: mean assigned cosine {:.3}", snapshot.step, snapshot.mean_assigned_cosine);
    }
    Ok(())
}
