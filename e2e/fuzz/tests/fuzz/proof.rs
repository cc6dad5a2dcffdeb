//! Shows that the runner finds what it is there to find: each of these targets does one thing wrong.

use std::hint::black_box;

use husk_fuzz::seeds::Seed;
use husk_fuzz::{Said, Shape, Target};

/// All of them; every one must be reported.
pub const TARGETS: &[Target] = &[
    target("proof-panic", |data| panic!("{} bytes are too many", data.len())),
    target("proof-memory", |data| {
        format!("{}", vec![1u8; (64 << 20) + data.len()].len())
    }),
    target("proof-loop", |_| {
        loop {
            black_box(0);
        }
    }),
    target("proof-stack", |data| deeper(data.len() as u64).to_string()),
    target("proof-abort", |_| std::process::abort()),
];

const fn target(name: &'static str, run: fn(&[u8]) -> Said) -> Target {
    Target {
        name,
        run,
        shape: Shape::Bytes,
        words: &[],
        memory: 1 << 20,
        memory_factor: 1,
        seeds,
    }
}

fn seeds() -> Vec<Seed> {
    vec![("any", b"anything".to_vec())]
}

#[allow(unconditional_recursion)]
fn deeper(n: u64) -> u64 {
    black_box(deeper(n + 1)) + black_box(n)
}
