//! Replays the committed fuzz corpora (`fuzz/corpus/`) without a fuzzer. Pure; needs no server.

#[path = "../../fuzz/properties.rs"]
mod properties;

use std::fs;
use std::path::Path;

fn replay(target: &str, property: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 6, "{target} has a corpus of {} files", files.len());
    files.iter().for_each(|file| property(&fs::read(file).unwrap()));
}

#[test]
fn what_the_decoder_accepts_obeys_the_rules_over_the_corpus() {
    replay("decode", properties::decode);
}

#[test]
fn every_tuple_is_its_event_again_over_the_corpus() {
    replay("encode", properties::encode);
}

#[test]
fn settings_are_read_as_they_are_written_over_the_corpus() {
    replay("config", properties::config);
}

#[test]
fn watermarks_match_the_model_over_the_corpus() {
    replay("watermarks", properties::watermarks);
}
