//! One value of any type in any encoding, as text; see `harness::value` for the first seven bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/support/harness.rs"]
#[allow(dead_code)] // each target uses its part
mod harness;

fuzz_target!(|bytes: &[u8]| harness::value(bytes));
