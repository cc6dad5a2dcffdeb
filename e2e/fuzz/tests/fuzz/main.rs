//! The runner that needs no nightly: replays the corpus of every target, then a fixed number of mutations from a fixed
//! seed, so that a failure comes again.
//!
//! Each target runs in a process of its own, which the parent watches: a stack overflow, an abort for want of memory or
//! an endless loop is a finding like a panic, and the input that led to it is kept. Arguments are substrings of target
//! names, as with `cargo test`; see [`USAGE`].

#![allow(clippy::unwrap_used, missing_docs)]

mod allocations;
mod child;
mod corpus;
mod now;
mod parent;
mod proof;

use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage: cargo test -p husk-fuzz -- [TARGET...] [options]
  --runs N               mutations of each target (default 20000)
  --seconds N            run each target that long instead
  --seed N               other mutations (default 1)
  --replay TARGET FILE   read one input and say what came of it
  --write-seeds          write the seeds to the corpus";

/// How much is tried.
#[derive(Debug, Clone)]
pub struct Effort {
    runs: u64,
    time: Option<Duration>,
    seed: u64,
    /// Keep nothing of what is found.
    quiet: bool,
}

fn main() -> ExitCode {
    let mut effort = Effort {
        runs: 20_000,
        time: None,
        seed: 1,
        quiet: false,
    };
    let mut filters = Vec::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .unwrap_or_else(|| panic!("{word} wants more\n{USAGE}"))
        };
        match word.as_str() {
            "--runs" => effort.runs = value().parse().unwrap(),
            "--seconds" => effort.time = Some(Duration::from_secs(value().parse().unwrap())),
            "--seed" => effort.seed = value().parse().unwrap(),
            "--quiet" => effort.quiet = true,
            "--write-seeds" => {
                corpus::write_seeds().unwrap();
                return ExitCode::SUCCESS;
            }
            "--replay" => {
                let target = husk_fuzz::find(&value()).expect("no such target");
                child::replay(target, &std::fs::read(value()).unwrap());
                return ExitCode::SUCCESS;
            }
            // The parent starts this program again like this.
            "--child" => {
                let name = value();
                let proofs = proof::TARGETS.iter().find(|t| t.name == name);
                let target = husk_fuzz::find(&name).or(proofs).unwrap();
                let fine = child::run(target, &effort).unwrap();
                return if fine {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::FAILURE
                };
            }
            "--list" => {
                husk_fuzz::TARGETS
                    .iter()
                    .for_each(|t| println!("{}: test", t.name));
                return ExitCode::SUCCESS;
            }
            "--help" => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            // libtest's options, which `cargo test` may pass on to every test.
            option if option.starts_with('-') => {}
            filter => filters.push(filter.to_owned()),
        }
    }
    let chosen = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str()));
    let targets: Vec<_> = husk_fuzz::TARGETS.iter().filter(|t| chosen(t.name)).collect();
    if !targets.is_empty() {
        let found = parent::run_all(proof::TARGETS.iter().collect(), &effort, parent::PROOF);
        assert_eq!(
            found.len(),
            proof::TARGETS.len(),
            "the runner only finds {found:?}"
        );
    }
    let total = targets.len();
    let failed = parent::run_all(targets, &effort, parent::PATIENT);
    println!(
        "test result: {} targets passed; {} failed {failed:?}",
        total - failed.len(),
        failed.len()
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
