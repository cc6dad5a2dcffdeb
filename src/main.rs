//! The husk program. Picks the personality before any thread or runtime exists.

fn main() {}
