//! A volume's own threads, for whatever would block.
//!
//! Every volume has its own, so that storage that hangs holds up nobody else's. Threads
//! start when there is work for them, at most [`MAX_THREADS`], and end when there has been
//! none for a while: an idle volume has none.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Threads of one volume: enough to keep a disk's queue filled, few enough for a thousand volumes.
pub const MAX_THREADS: usize = 16;

/// Jobs that may wait. More than all shards' tasks together, so only a bug fills it.
pub const MAX_QUEUED: usize = 1 << 18;

/// A thread without work ends after this long.
pub const IDLE_EXIT: Duration = Duration::from_secs(5);

/// Bytes. The jobs keep their buffers on the heap.
const STACK_BYTES: usize = 128 << 10;

/// What the threads do.
pub trait Work: Send + Sync + 'static {
    /// One piece of it.
    type Job: Send + 'static;

    /// Do it. May block.
    fn run(&self, job: Self::Job);

    /// The last thread ends: let go of what only running jobs need.
    fn idle(&self) {}
}

struct State<J> {
    queue: VecDeque<J>,
    /// Threads that wait for a job.
    idle: usize,
    threads: usize,
    closed: bool,
}

struct Shared<W: Work> {
    name: String,
    work: Arc<W>,
    idle_exit: Duration,
    stack_bytes: usize,
    state: Mutex<State<W::Job>>,
    ready: Condvar,
}

/// See the module's text. Dropping it lets the threads finish what is queued and end.
pub struct Workers<W: Work> {
    shared: Arc<Shared<W>>,
}

impl<W: Work> Workers<W> {
    /// No thread is started yet. `name` (at most 15 bytes are shown) names the threads.
    pub fn new(name: String, work: Arc<W>, idle_exit: Duration) -> Self {
        Self::with_stack(name, work, idle_exit, STACK_BYTES)
    }

    fn with_stack(name: String, work: Arc<W>, idle_exit: Duration, stack_bytes: usize) -> Self {
        let state = State { queue: VecDeque::new(), idle: 0, threads: 0, closed: false };
        let shared = Shared { name, work, idle_exit, stack_bytes, state: Mutex::new(state), ready: Condvar::new() };
        Workers { shared: Arc::new(shared) }
    }

    /// Queue a job. `Err`: jobs that nobody will run (closed, too many queued; or no thread can be had, then
    /// with those of others that wait for one).
    pub fn push(&self, job: W::Job) -> Result<(), Vec<W::Job>> {
        let mut state = self.shared.lock();
        if state.closed || state.queue.len() >= MAX_QUEUED {
            return Err(vec![job]);
        }
        state.queue.push_back(job);
        if state.queue.len() <= state.idle {
            drop(state);
            self.shared.ready.notify_one();
            return Ok(());
        }
        if state.threads >= MAX_THREADS {
            return Ok(());
        }
        state.threads += 1;
        drop(state);
        if Shared::spawn(&self.shared).is_ok() {
            return Ok(());
        }
        // Out of threads or memory. Those that run will come to it; if there are none, nobody will.
        let mut state = self.shared.lock();
        state.threads -= 1;
        match state.threads {
            0 => Err(state.queue.drain(..).collect()),
            _ => Ok(()),
        }
    }

    /// Jobs that wait for a thread.
    pub fn queued(&self) -> usize {
        self.shared.lock().queue.len()
    }

    /// Threads that there are now.
    pub fn threads(&self) -> usize {
        self.shared.lock().threads
    }

    /// Take no further job; the threads end when the queue is empty.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.ready.notify_all();
    }
}

impl<W: Work> Drop for Workers<W> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<W: Work> Shared<W> {
    fn lock(&self) -> MutexGuard<'_, State<W::Job>> {
        // Jobs run outside the lock; nothing inside panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(shared: &Arc<Self>) -> io::Result<()> {
        let shared = shared.clone();
        let builder = thread::Builder::new().name(shared.name.clone()).stack_size(shared.stack_bytes);
        builder.spawn(move || shared.serve()).map(drop)
    }

    fn serve(&self) {
        while let Some(job) = self.next() {
            self.work.run(job);
        }
    }

    /// The next job; `None`: this thread has been counted out and ends.
    fn next(&self) -> Option<W::Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            let mut late = state.closed;
            if !late {
                state.idle += 1;
                let (woken, timeout) =
                    self.ready.wait_timeout(state, self.idle_exit).unwrap_or_else(PoisonError::into_inner);
                state = woken;
                state.idle -= 1;
                late = timeout.timed_out();
            }
            if late && state.queue.is_empty() {
                state.threads -= 1;
                if state.threads == 0 {
                    drop(state);
                    self.work.idle();
                }
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{channel, Receiver};
    use std::time::Instant;

    struct Count {
        done: AtomicUsize,
        idle: AtomicUsize,
    }

    impl Work for Count {
        type Job = Option<Receiver<()>>;

        fn run(&self, gate: Self::Job) {
            if let Some(gate) = gate {
                let _ = gate.recv();
            }
            self.done.fetch_add(1, Ordering::SeqCst);
        }

        fn idle(&self) {
            self.idle.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn workers(idle_exit: Duration) -> (Workers<Count>, Arc<Count>) {
        let work = Arc::new(Count { done: AtomicUsize::new(0), idle: AtomicUsize::new(0) });
        (Workers::new("test".into(), work.clone(), idle_exit), work)
    }

    fn wait_until(what: &str, mut true_yet: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !true_yet() {
            assert!(Instant::now() < deadline, "{what}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn threads_are_lazy_bounded_and_end_when_idle() {
        let (workers, work) = workers(Duration::from_millis(50));
        assert_eq!(workers.threads(), 0);
        let gates: Vec<_> = (0..100)
            .map(|_| {
                let (open, gate) = channel();
                assert!(workers.push(Some(gate)).is_ok());
                open
            })
            .collect();
        assert_eq!(workers.threads(), MAX_THREADS);
        wait_until("all threads busy", || workers.queued() == 100 - MAX_THREADS);
        drop(gates);
        wait_until("all jobs done", || work.done.load(Ordering::SeqCst) == 100);
        wait_until("idle threads end", || workers.threads() == 0);
        wait_until("and say so", || work.idle.load(Ordering::SeqCst) == 1);
        assert!(workers.push(None).is_ok(), "and start again");
        wait_until("job done", || work.done.load(Ordering::SeqCst) == 101);
    }

    #[test]
    fn one_job_after_another_takes_one_thread() {
        let (workers, work) = workers(Duration::from_secs(60));
        for n in 1..=50 {
            assert!(workers.push(None).is_ok());
            wait_until("job done", || work.done.load(Ordering::SeqCst) == n && workers.shared.lock().idle > 0);
        }
        assert_eq!(workers.threads(), 1);
    }

    #[test]
    fn jobs_that_no_thread_can_be_had_for_come_back() {
        let work = Arc::new(Count { done: AtomicUsize::new(0), idle: AtomicUsize::new(0) });
        // A stack larger than the address space: no such thread starts.
        let workers = Workers::with_stack("test".into(), work, IDLE_EXIT, 1 << 60);
        assert_eq!(workers.push(None).unwrap_err().len(), 1);
        assert_eq!((workers.threads(), workers.queued()), (0, 0));
    }

    #[test]
    fn closed_takes_nothing_but_finishes_what_it_has() {
        let (workers, work) = workers(Duration::from_secs(60));
        for _ in 0..40 {
            assert!(workers.push(None).is_ok());
        }
        workers.close();
        assert!(workers.push(None).is_err());
        wait_until("queue emptied", || work.done.load(Ordering::SeqCst) == 40);
        wait_until("threads ended", || workers.threads() == 0);
    }
}
