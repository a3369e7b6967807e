//! The `rdb-operator` binary.

fn main() {}
