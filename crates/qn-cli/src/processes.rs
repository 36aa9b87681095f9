//! Processes that `mpirun` or `srun` started together and that share every product: feature `mpi`.
//!
//! All of them run the same command and find the same numbers; process 0 alone prints and writes.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use qn_curvature::{Alone, Processes};
use qn_run::Invalid;
use qn_study::DenseSolver;

/// The processes of this run.
static HERE: OnceLock<Arc<dyn Processes>> = OnceLock::new();

/// How long a process other than the first waits before it tells of an error: where the first one has the same to tell, it
/// ends them all before.
const PATIENCE: Duration = Duration::from_secs(3);

/// Variables in which a launcher says how many processes it has started: Open MPI; MPICH and Intel MPI; Slurm's srun.
const LAUNCHERS: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// The processes that share the work of this one.
pub(crate) fn here() -> Arc<dyn Processes> {
    Arc::clone(HERE.get_or_init(|| Arc::new(Alone)))
}

/// Whether this process prints and writes.
pub(crate) fn is_first() -> bool {
    here().rank() == 0
}

/// Has a process other than the first wait until the first one would have ended them all; gives what its errors begin with.
pub(crate) fn before_an_error() -> String {
    if is_first() {
        return String::new();
    }
    std::thread::sleep(PATIENCE);
    format!("process {}: ", here().rank())
}

/// Refuses several processes.
pub(crate) fn only_one() -> Result<(), Invalid> {
    match here().size() {
        1 => Ok(()),
        n => Err(Invalid(format!(
            "this command is for one process, and {n} have been started: run it by itself"
        ))),
    }
}

/// The solver of the ELPA library.
///
/// # Errors
/// The program was built without it.
#[cfg(not(feature = "elpa"))]
pub(crate) fn elpa() -> Result<Arc<dyn DenseSolver>, Invalid> {
    Err(Invalid(
        "`solver` elpa: this program was built without ELPA; build it with `--features qn-cli/elpa`".into(),
    ))
}

/// The solver of the ELPA library, in the processes that a launcher has started or in this one.
#[cfg(feature = "elpa")]
pub(crate) fn elpa() -> Result<Arc<dyn DenseSolver>, Invalid> {
    Ok(Arc::new(crate::elpa::Elpa::start().map_err(Invalid)?))
}

/// How many processes a launcher says there are; none where no launcher has started this one.
fn launched() -> Option<usize> {
    let said = |name| std::env::var(name).ok()?.parse().ok();
    LAUNCHERS.into_iter().filter_map(said).max()
}

/// Membership of the processes that share the work, from [`join`] to [`Member::leave`].
pub(crate) struct Member {
    #[cfg(feature = "mpi")]
    universe: Option<mpi::environment::Universe>,
}

/// Meets the other processes, if a launcher has started several.
///
/// # Errors
/// There are several, and this program cannot meet them.
#[cfg(not(feature = "mpi"))]
pub(crate) fn join() -> Result<Member, String> {
    match launched() {
        None | Some(0 | 1) => Ok(Member {}),
        Some(n) => Err(format!(
            "a launcher has started {n} processes of this program, which was built without MPI: all would do the whole \
             work; run it by itself, or build it with `--features mpi`"
        )),
    }
}

#[cfg(not(feature = "mpi"))]
impl Member {
    /// Nobody to take leave of.
    pub(crate) fn leave(self, _: u8) {}
}

/// Meets the other processes, if a launcher has started this one.
///
/// # Errors
/// It has, and MPI does not start.
#[cfg(feature = "mpi")]
pub(crate) fn join() -> Result<Member, String> {
    if launched().is_none() {
        return Ok(Member { universe: None });
    }
    let (universe, _) = mpi::initialize_with_threading(mpi::Threading::Serialized)
        .ok_or("MPI has been started in this process already")?;
    let _ = HERE.set(Arc::new(over_mpi::World));
    Ok(Member { universe: Some(universe) })
}

#[cfg(feature = "mpi")]
impl Member {
    /// Takes leave of the others; what went wrong here ends them all.
    pub(crate) fn leave(self, code: u8) {
        use mpi::topology::{Communicator as _, SimpleCommunicator};
        if self.universe.is_some() && !matches!(code, 0 | 3) {
            SimpleCommunicator::world().abort(code.into());
        }
    }
}

#[cfg(feature = "mpi")]
mod over_mpi {
    use mpi::topology::SimpleCommunicator;
    use mpi::traits::{Communicator as _, Destination as _, Root as _, Source as _};
    use qn_curvature::Processes;

    /// Numbers in one message; MPI counts them in 32 bits.
    const MESSAGE: usize = 1 << 24;

    /// All processes that the launcher started.
    #[derive(Debug)]
    pub(super) struct World;

    fn world() -> SimpleCommunicator {
        SimpleCommunicator::world()
    }

    impl Processes for World {
        fn rank(&self) -> usize {
            world().rank() as usize
        }

        fn size(&self) -> usize {
            world().size() as usize
        }

        fn send(&self, to: usize, x: &[f64]) {
            x.chunks(MESSAGE).for_each(|part| world().process_at_rank(to as i32).send(part));
        }

        fn receive(&self, from: usize, x: &mut [f64]) {
            for part in x.chunks_mut(MESSAGE) {
                world().process_at_rank(from as i32).receive_into(part);
            }
        }

        fn broadcast(&self, x: &mut [f64]) {
            x.chunks_mut(MESSAGE).for_each(|part| world().process_at_rank(0).broadcast_into(part));
        }
    }
}
