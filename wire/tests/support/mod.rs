//! What several tests of `wire` need.
#![allow(dead_code)] // each test binary uses its part

pub mod harness;
pub mod plan;
