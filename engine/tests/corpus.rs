//! Runs the fuzz targets' functions over their checked-in corpora, without a fuzzer.

#[path = "../fuzz/harness/mod.rs"]
mod harness;

use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "{} has {} files", corpus.display(), files.len());
    for file in files {
        println!("{}", file.display());
        run(&std::fs::read(&file).unwrap());
    }
}

#[test]
fn transmission() {
    replay("transmission", harness::transmission::run);
}

#[test]
fn session() {
    replay("session", harness::session::run);
}

#[test]
fn iscsi() {
    replay("iscsi", harness::iscsi::run);
}

#[test]
fn cdb() {
    replay("cdb", harness::cdb::run);
}
