//! Frames whose checksum is made right, so that messages, rows and the text of values are reached.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/support/harness.rs"]
#[allow(dead_code)] // each target uses its part
mod harness;

fuzz_target!(|bytes: &[u8]| harness::frame(bytes));
