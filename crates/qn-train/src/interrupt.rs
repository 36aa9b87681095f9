use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Whether the user has asked the process to stop: set by SIGINT and SIGTERM, read between steps.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// Catches SIGINT and SIGTERM from now on. A second signal of the same kind ends the process at once.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn catch_signals() -> std::io::Result<Self> {
        let this = Self::default();
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            let code = exit_code(signal);
            let seen = Arc::new(std::sync::atomic::AtomicBool::new(false));
            // In this order the first signal passes the conditional exit and arms it.
            signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&seen))?;
            signal_hook::flag::register(signal, seen)?;
            signal_hook::flag::register_usize(signal, Arc::clone(&this.0), code as usize)?;
        }
        Ok(this)
    }

    /// The exit code to end with (130 or 143), if a signal has come.
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
