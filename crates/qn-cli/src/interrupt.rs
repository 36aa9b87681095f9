//! The signals that ask the process to stop, and the exit codes that follow from them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};

/// Whether the process has been asked to stop: set by SIGINT, SIGTERM and SIGHUP, read between steps.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// Catches SIGINT, SIGTERM and SIGHUP from now on; a SIGHUP that is ignored, as under nohup, stays so. A second SIGINT
    /// or SIGTERM ends the process at once, a second SIGHUP does not: a closed terminal sends several. When memory runs
    /// out, the process says what may help and exits with 1.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn catch_signals() -> std::io::Result<Self> {
        let this = Self::default();
        for signal in [SIGINT, SIGTERM] {
            let code = exit_code(signal);
            let seen = Arc::new(AtomicBool::new(false));
            // In this order the first signal passes the conditional exit and arms it.
            signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&seen))?;
            signal_hook::flag::register(signal, seen)?;
            signal_hook::flag::register_usize(signal, Arc::clone(&this.0), code as usize)?;
        }
        if !hangup_is_ignored() {
            let code = exit_code(SIGHUP);
            signal_hook::flag::register_usize(SIGHUP, Arc::clone(&this.0), code as usize)?;
        }
        explain_aborts()?;
        Ok(this)
    }

    /// The exit code to end with (129, 130 or 143), if a signal has come.
    pub fn exit_code(&self) -> Option<u8> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            code => Some(code as u8),
        }
    }
}

fn exit_code(signal: i32) -> i32 {
    128 + signal
}

/// Lets a write that would exceed the limit on a file's size fail (EFBIG) and be told of, where SIGXFSZ would end the
/// process without a word.
pub(crate) fn let_writes_fail() -> std::io::Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map(drop)
}

/// Whether whoever has started the process wants it to outlive the terminal.
#[allow(unsafe_code)]
fn hangup_is_ignored() -> bool {
    // SAFETY: a zeroed sigaction is a valid one, and without a new action the old one is only read.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(SIGHUP, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

const OUT_OF_MEMORY: &str = "error: memory has run out (or the program had to abort for another reason, told above): \
    files that were written are whole; fewer --samples, a smaller --microbatch, less --memory or a smaller \
    --batch-size take less\n";

/// An abort is how the allocator ends a process that gets no more memory, after it has said how much it asked for.
#[allow(unsafe_code)]
fn explain_aborts() -> std::io::Result<()> {
    let end = || {
        // SAFETY: write(2) is async-signal-safe, and the text is there as long as the program.
        unsafe { libc::write(libc::STDERR_FILENO, OUT_OF_MEMORY.as_ptr().cast(), OUT_OF_MEMORY.len()) };
        signal_hook::low_level::exit(1)
    };
    // SAFETY: both calls of the handler are async-signal-safe.
    unsafe { signal_hook::low_level::register(signal_hook::consts::SIGABRT, end) }.map(drop)
}
