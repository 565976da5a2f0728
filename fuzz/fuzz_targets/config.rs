//! The fuzz target `config`: bytes from libFuzzer to the property of that name.
#![no_main]
#![allow(dead_code, reason = "the other properties have targets of their own")]

#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::config(data));
