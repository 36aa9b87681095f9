//! ELPA's two-stage solver for matrices that several processes hold: feature `elpa`. The library is linked dynamically.
//!
//! ELPA: Auckenthaler et al., Parallel Computing 37 (2011) 783; Marek et al., J. Phys.: Condens. Matter 26 (2014) 213201. The calls are
//! those of its C interface, which the header `elpa/elpa.h` describes.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};

use mpi::ffi::RSMPI_Comm_c2f;
use mpi::raw::AsRaw as _;
use mpi::topology::SimpleCommunicator;
use qn_study::{BlockCyclic, DenseSolver};

/// The version of the interface that is spoken: that of November 2022, which later libraries know.
const INTERFACE: c_int = 20_221_109;
const OK: c_int = 0;
/// `ELPA_SOLVER_2STAGE`.
const TWO_STAGES: c_int = 2;

#[link(name = "elpa")]
unsafe extern "C" {
    fn elpa_init(version: c_int) -> c_int;
    fn elpa_allocate(error: *mut c_int) -> *mut c_void;
    fn elpa_deallocate(handle: *mut c_void, error: *mut c_int);
    fn elpa_set_integer(handle: *mut c_void, name: *const c_char, value: c_int, error: *mut c_int);
    fn elpa_setup(handle: *mut c_void) -> c_int;
    fn elpa_strerr(error: c_int) -> *const c_char;
    fn elpa_eigenvalues_double(handle: *mut c_void, a: *mut f64, values: *mut f64, error: *mut c_int);
    fn elpa_eigenvectors_double(
        handle: *mut c_void,
        a: *mut f64,
        values: *mut f64,
        q: *mut f64,
        error: *mut c_int,
    );
}

/// The library, ready for use by all processes that a launcher has started, or by this one.
#[derive(Debug)]
pub(crate) struct Elpa(());

impl Elpa {
    /// Starts the library, and MPI where no launcher has.
    ///
    /// # Errors
    /// One of them does not start.
    pub(crate) fn start() -> Result<Self, String> {
        if !mpi::is_initialized() {
            let (universe, _) = mpi::initialize_with_threading(mpi::Threading::Serialized)
                .ok_or("MPI has been started in this process already")?;
            // The library may be asked until the process ends, and the system takes back what MPI has.
            std::mem::forget(universe);
        }
        // SAFETY: a call without pointers.
        match unsafe { elpa_init(INTERFACE) } {
            OK => Ok(Self(())),
            _ => Err(format!("the ELPA library does not speak the interface of version {INTERFACE}")),
        }
    }
}

/// A problem's description in the library.
struct Handle(*mut c_void);

impl Handle {
    fn new(of: &BlockCyclic, k: usize) -> Result<Self, String> {
        let mut error = OK;
        // SAFETY: the error is there during the call.
        let handle = Self(unsafe { elpa_allocate(&mut error) });
        told(error)?;
        let world = SimpleCommunicator::world();
        // SAFETY: the world's communicator is valid while MPI is.
        let world = unsafe { RSMPI_Comm_c2f(world.as_raw()) };
        handle.set(c"na", of.n)?;
        // It takes at least one, which is not looked at where values alone are asked for.
        handle.set(c"nev", k.max(1))?;
        handle.set(c"local_nrows", of.len[0])?;
        handle.set(c"local_ncols", of.len[1])?;
        handle.set(c"nblk", of.block)?;
        handle.set_number(c"mpi_comm_parent", world)?;
        handle.set(c"process_row", of.at[0])?;
        handle.set(c"process_col", of.at[1])?;
        // SAFETY: the handle is the library's own.
        told(unsafe { elpa_setup(handle.0) })?;
        handle.set_number(c"solver", TWO_STAGES)?;
        Ok(handle)
    }

    fn set(&self, name: &CStr, value: usize) -> Result<(), String> {
        let value =
            c_int::try_from(value).map_err(|_| format!("{name:?} {value} is too large for the library"))?;
        self.set_number(name, value)
    }

    fn set_number(&self, name: &CStr, value: c_int) -> Result<(), String> {
        let mut error = OK;
        // SAFETY: the handle is the library's own, the name ends in zero, the error is there during the call.
        unsafe { elpa_set_integer(self.0, name.as_ptr(), value, &mut error) };
        told(error).map_err(|words| format!("{name:?}: {words}"))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut error = OK;
        // SAFETY: the handle is the library's own and not used any more.
        unsafe { elpa_deallocate(self.0, &mut error) };
    }
}

/// What the library says of an error.
fn told(error: c_int) -> Result<(), String> {
    if error == OK {
        return Ok(());
    }
    // SAFETY: the library gives a text that ends in zero, or nothing.
    let words = unsafe { elpa_strerr(error) };
    if words.is_null() {
        return Err(format!("error {error}"));
    }
    // SAFETY: it is there as long as the library.
    Err(unsafe { CStr::from_ptr(words) }.to_string_lossy().into_owned())
}

/// Refuses arrays that are shorter than the library will take them for.
fn check<T>(of: &BlockCyclic, a: &[T], q: &[T]) -> Result<(), String> {
    let len = of.len[0] * of.len[1];
    if a.len() < len || q.len() < len {
        return Err(format!("parts of {} and {} numbers, not {len}", a.len(), q.len()));
    }
    Ok(())
}

impl DenseSolver for Elpa {
    fn name(&self) -> &'static str {
        "elpa"
    }

    fn eigen(&self, of: &BlockCyclic, a: &mut [f64], q: &mut [f64], k: usize) -> Result<Vec<f64>, String> {
        check(of, a, q)?;
        let handle = Handle::new(of, k)?;
        let (mut values, mut error) = (vec![0.0; of.n], OK);
        let (a, q, found) = (a.as_mut_ptr(), q.as_mut_ptr(), values.as_mut_ptr());
        // SAFETY: a and q have the numbers of the part that the handle describes, the values one for each row.
        unsafe {
            match k {
                0 => elpa_eigenvalues_double(handle.0, a, found, &mut error),
                _ => elpa_eigenvectors_double(handle.0, a, found, q, &mut error),
            }
        }
        told(error).map(|()| values)
    }
}
