//! What several tests of `wire` need.
#![allow(dead_code)] // each test binary uses its part

pub mod forms;
pub mod harness; // of the fuzz targets, too
pub mod plan;
