//! Are the tables of two systems equal, row by row.
