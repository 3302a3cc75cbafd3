//! Replays the fuzzers' corpus, and sequences made of damaged packets, on every change. What a fuzzer finds goes into
//! `fuzz/corpus/` and stays found.

use std::{fs, path::Path};

use lb_common::testing::{fuzz, malformed};

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a listing").path();
        let data = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        // Shown if the run panics.
        eprintln!("{}", path.display());
        run(&data);
        inputs += 1;
    }
    assert!(inputs >= 20, "{} holds {inputs} inputs", folder.display());
}

#[test]
fn the_corpus_of_single_packets() {
    replay("one_packet", fuzz::one_packet);
}

#[test]
fn the_corpus_of_sequences() {
    replay("sequence", fuzz::sequence);
}

#[test]
fn damaged_packets_alone_and_in_a_row() {
    for seed in 0..2_000_u64 {
        let mut row = Vec::new();
        for n in 0..8_u8 {
            let bytes = malformed(seed * 8 + u64::from(n), n != 4 && n != 6);
            let mut one = vec![n];
            one.extend(&bytes);
            fuzz::one_packet(&one);
            let bytes = &bytes[..bytes.len().min(255)];
            row.extend([n, n * 16, u8::try_from(bytes.len()).expect("cut")]);
            row.extend(bytes);
        }
        fuzz::sequence(&row);
    }
}
