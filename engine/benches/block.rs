//! What the block layer and the file backstore's inline paths cost, without any network.
//!
//! `cargo bench --bench block`: nanoseconds per operation, the best and the median of
//! several rounds. A plain harness: these numbers guide, they decide nothing.

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use _engine::block::command::{Flags, Op, Request};
use _engine::block::gate::{Gate, Situation};
use _engine::block::ranges::{Acquired, Kind, Range, Ranges, Ticket};
use _engine::block::volume::{Step, Volume, VolumeSpec};
use _engine::shard::buffers::IoBuf;

const SIZE: u64 = 64 << 20;
const ROUNDS: usize = 9;

/// Time `each` so often that a round takes about 20 ms; print the best and the median round.
fn bench(name: &str, mut each: impl FnMut(u64)) {
    let mut count = 64;
    loop {
        if time(count, &mut each) > Duration::from_millis(20) || count > 1 << 24 {
            break;
        }
        count *= 2;
    }
    let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| time(count, &mut each).as_nanos() as f64 / count as f64).collect();
    rounds.sort_by(f64::total_cmp);
    println!("{name:44} {:10.1} ns best {:10.1} ns median", rounds[0], rounds[ROUNDS / 2]);
}

fn time(count: u64, each: &mut impl FnMut(u64)) -> Duration {
    let start = Instant::now();
    for n in 0..count {
        each(n);
    }
    start.elapsed()
}

/// Blocks of 4 KiB, jumping about.
fn scattered(n: u64) -> u64 {
    n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (SIZE / 4096) * 4096
}

struct Image(PathBuf);

impl Image {
    fn new(place: &str) -> Self {
        let path = Path::new(place).join(format!("blockgate-bench-{}.img", std::process::id()));
        let mut file = File::create(&path).expect("create the image");
        for _ in 0..SIZE >> 20 {
            file.write_all(&[7; 1 << 20]).expect("fill the image");
        }
        Image(path)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn open(path: &Path) -> Arc<Volume> {
    let spec = VolumeSpec {
        path: path.into(),
        direct: false,
        write_through: false,
        read_only: false,
        block_size: 512,
        offset: 0,
        length: None,
        device: false,
        suspect: None,
    };
    Volume::open(1, spec, Box::new(|_, _| ())).expect("open the image")
}

/// One request through a volume, its buffer used again; all must end inline.
fn inline(volume: &Arc<Volume>, op: Op, len: usize) -> impl FnMut(u64) + '_ {
    let mut kept = Some(IoBuf::zeroed(len));
    let span = SIZE - len as u64;
    move |n| {
        let buf = kept.take().expect("handed back each time");
        let offset = scattered(n) % span / 4096 * 4096;
        let request = Request::with_buf(op, Flags::default(), offset, buf);
        match volume.start(request, false, || unreachable!("cached data is served inline")) {
            Step::Done(request, Ok(())) => kept = request.buf,
            other => panic!("{other:?}"),
        }
    }
}

fn bench_volumes() {
    for place in ["/dev/shm", "/var/tmp"] {
        let image = Image::new(place);
        let volume = open(&image.0);
        for (len, name) in [(4 << 10, "4k"), (256 << 10, "256k")] {
            bench(&format!("{place} cached read {name}"), inline(&volume, Op::Read, len));
            // Only while it is quick is a write inline, so not where a disk is written to.
            if place == "/dev/shm" {
                bench(&format!("{place} write {name}"), inline(&volume, Op::Write, len));
            }
        }
        volume.close(Duration::from_secs(60)).expect("close");
    }
}

fn bench_gate() {
    let mut gate = Gate {
        generation: 1,
        size: SIZE,
        read_only: false,
        access: Default::default(),
        default_access: Situation::Free,
        scsi: None,
    };
    bench("gate, no nexus named", |n| {
        let _ = black_box(gate.check(black_box(n), Op::Write, scattered(n), 4096));
    });
    gate.access.extend((0..64).map(|nexus| (nexus, Situation::Free)));
    bench("gate, 64 nexuses named", |n| {
        let _ = black_box(gate.check(black_box(n % 64), Op::Write, scattered(n), 4096));
    });
}

/// `depth` ranges always in flight; one in `exclusive` of them needs its blocks alone (0: none).
fn ranges(depth: usize, exclusive: u64) -> impl FnMut(u64) {
    let mut table: Ranges<Ticket> = Ranges::new();
    let mut active = std::collections::VecDeque::new();
    let mut runnable = Vec::new();
    move |n| {
        let start = scattered(n);
        let kind = if exclusive > 0 && n % exclusive == 0 { Kind::Exclusive } else { Kind::Write };
        match table.acquire(Range { start, end: start + 4096 }, kind) {
            Acquired::Granted(ticket) => active.push_back(ticket),
            Acquired::Queued(ticket) => drop(table.park(ticket, ticket)),
        }
        if table.len() >= depth {
            let oldest = active.pop_front().expect("somebody can always go");
            table.release(oldest, &mut runnable, |_| ());
            active.extend(runnable.drain(..));
        }
    }
}

fn main() {
    bench_gate();
    bench("ranges, 128 in flight, shared", ranges(128, 0));
    bench("ranges, 128 in flight, 1 of 8 exclusive", ranges(128, 8));
    bench("ranges, 4096 in flight, 1 of 8 exclusive", ranges(4096, 8));
    bench("ranges, 4096 in flight, all exclusive", ranges(4096, 1));
    bench_volumes();
}
