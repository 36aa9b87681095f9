//! A run that is broken off goes on with the bits of an unbroken one, whatever its options.

use std::path::Path;

use qn_run::{RunDirectory, TensorFile, Unobserved, read_metrics};
use qn_train::{Launch, Settings, train};

const STEPS: u64 = 8;

fn run(settings: &Settings, out: &Path, resume: bool) {
    let config = settings.configure(Path::new("")).unwrap();
    let launch = Launch {
        config: &config,
        data_dir: Path::new(""),
        out,
        resume,
        changed_data: false,
        overwrite: false,
        observer: &Unobserved,
    };
    assert_eq!(train(&launch).unwrap().steps, STEPS);
}

#[test]
fn readings_schedules_and_augmentation_resume_exactly() {
    let readings = [
        "optimizer = 'sgd'\nschedule = 'cosine'\ndampening = 0.5\nweight-decay = 0.01\naugment = 'crop-flip'",
        "optimizer = 'qn'\nnewton-scale = 'lr'\nlambda = 'model'\nschedule = 'one-cycle'\nnesterov = true\naugment = 'crop-flip'",
        "optimizer = 'qn'\nlambda = 'exact'\nnewton = 'span'\ndamping = 20.0\nmomentum-on = 'gradient'\ndampening = 0.9",
    ];
    for reading in readings {
        let common = "arch = 'digits'\ndata = 'digits'\nsamples = 200\nbatch-size = '32'\nlr = 0.01\nlog-every = 1\n\
                      checkpoint-every = 1\nkeep-checkpoints = 0\n";
        let settings: Settings = toml::from_str(&format!("{common}steps = {STEPS}\n{reading}")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
        run(&settings, &whole, false);
        run(&settings, &broken, false);
        let (whole, broken) = (RunDirectory::open(&whole).unwrap(), RunDirectory::open(&broken).unwrap());
        // In the middle of the second epoch, whose order and pictures are its own.
        for step in 6..=STEPS {
            std::fs::remove_file(broken.checkpoint_path(step)).unwrap();
        }
        run(&settings, broken.path(), true);
        let last = |run: &RunDirectory| TensorFile::read(&run.checkpoint_path(STEPS)).unwrap().tensors;
        assert!(last(&whole) == last(&broken), "{reading}");
        let log = |run: &RunDirectory| {
            let mut lines = read_metrics(&run.metrics_path()).unwrap();
            lines.iter_mut().for_each(|line| line.seconds = 0.0);
            lines
        };
        assert_eq!(log(&whole), log(&broken));
        let quasi_newton = reading.contains("qn");
        let steps = log(&whole).into_iter().filter(|line| line.loss.is_some());
        assert!(
            steps
                .clone()
                .all(|line| line.rho.is_some() == quasi_newton && line.rho_limit.is_some() == quasi_newton)
        );
        assert_eq!(steps.count() as u64, STEPS);
    }
}
