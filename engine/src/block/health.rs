//! What requests have shown of a volume's storage: sound, degraded, or no longer to be written.
//!
//! A volume only gets worse; it is opened anew to be sound again. Reading the state on
//! the hot path is one relaxed load.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// A snapshot of a volume's health.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Why the volume is degraded; `None`: it is sound.
    pub reason: Option<String>,
    /// When it became degraded, in seconds since 1970; 0 when sound.
    pub degraded_since_s: u64,
    /// Data that was acknowledged may be lost: nothing is written until the volume is opened anew.
    pub writes_refused: bool,
}

impl Health {
    /// "ok" or "degraded".
    pub fn summary(&self) -> &'static str {
        match self.reason {
            None => "ok",
            Some(_) => "degraded",
        }
    }
}

/// Told whenever a volume gets worse (at most twice in its life): the reason, and whether writes are refused from now on.
/// Must not block.
pub type OnDegraded = Box<dyn Fn(&str, bool) + Send + Sync>;

/// Keeps one volume's [`Health`].
pub struct HealthCell {
    degraded: AtomicBool,
    writes_refused: AtomicBool,
    state: Mutex<Health>,
    on_degraded: OnDegraded,
}

impl HealthCell {
    /// A sound volume.
    pub fn new(on_degraded: OnDegraded) -> Self {
        HealthCell {
            degraded: AtomicBool::new(false),
            writes_refused: AtomicBool::new(false),
            state: Mutex::new(Health::default()),
            on_degraded,
        }
    }

    /// Must WRITE, WRITE_ZEROES, TRIM and FLUSH be refused?
    pub fn writes_refused(&self) -> bool {
        // Acquire: whoever sees the flag sees what led to it.
        self.writes_refused.load(Ordering::Acquire)
    }

    /// The storage has failed in some way. The first reason stays.
    pub fn degrade(&self, reason: impl FnOnce() -> String) {
        // A broken disk fails thousands of requests a second: say it once, cheaply.
        if self.degraded.load(Ordering::Acquire) {
            return;
        }
        self.worsen(reason(), false);
    }

    /// Acknowledged data may be lost (a failed fdatasync forgets the dirty pages): write nothing more.
    pub fn refuse_writes(&self, reason: impl FnOnce() -> String) {
        if self.writes_refused.load(Ordering::Acquire) {
            return;
        }
        self.worsen(reason(), true);
    }

    fn worsen(&self, reason: String, refuse: bool) {
        let mut state = self.lock();
        let news = state.reason.is_none() || (refuse && !state.writes_refused);
        if !news {
            return;
        }
        if state.reason.is_none() {
            state.degraded_since_s = now_s();
        }
        state.writes_refused |= refuse;
        state.reason = Some(reason.clone());
        self.degraded.store(true, Ordering::Release);
        self.writes_refused.store(state.writes_refused, Ordering::Release);
        drop(state);
        (self.on_degraded)(&reason, refuse);
    }

    /// The state now.
    pub fn snapshot(&self) -> Health {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        // A panic elsewhere cannot leave this half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for HealthCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HealthCell").field(&self.snapshot()).finish()
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    type Told = Arc<Mutex<Vec<(String, bool)>>>;

    fn cell() -> (HealthCell, Told) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let sink = told.clone();
        (HealthCell::new(Box::new(move |why, refuse| sink.lock().unwrap().push((why.into(), refuse)))), told)
    }

    #[test]
    fn the_first_reason_stays_and_is_told_once() {
        let (cell, told) = cell();
        assert_eq!(cell.snapshot().summary(), "ok");
        cell.degrade(|| "first".into());
        cell.degrade(|| "second".into());
        assert_eq!(cell.snapshot().reason.as_deref(), Some("first"));
        assert!(!cell.writes_refused());
        assert!(cell.snapshot().degraded_since_s > 0);
        assert_eq!(*told.lock().unwrap(), [("first".into(), false)]);
    }

    #[test]
    fn refusing_writes_outranks_and_stays() {
        let (cell, told) = cell();
        cell.degrade(|| "read failed".into());
        let since = cell.snapshot().degraded_since_s;
        cell.refuse_writes(|| "fdatasync failed".into());
        cell.degrade(|| "late".into());
        cell.refuse_writes(|| "later".into());
        let health = cell.snapshot();
        assert!(health.writes_refused && cell.writes_refused());
        assert_eq!(health.reason.as_deref(), Some("fdatasync failed"));
        assert_eq!(health.degraded_since_s, since);
        assert_eq!(*told.lock().unwrap(), [("read failed".into(), false), ("fdatasync failed".into(), true)]);
    }
}
