//! The `guidevane` binary.

fn main() {}
