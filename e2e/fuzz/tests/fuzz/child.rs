//! Runs one target: the corpus, then mutations of it.

use std::cell::RefCell;
use std::collections::HashSet;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::time::{Duration, Instant};

use husk_fuzz::mutate::{Rng, mutate};
use husk_fuzz::{Said, Target};

use crate::allocations::peak_of;
use crate::{Effort, corpus, now};

/// Inputs that said something new are kept up to this many, to be mutated further.
const MAX_KEPT: usize = 4000;
/// A run ends after so many different failures: one cause often shows in many ways.
const MAX_FAILURES: usize = 10;

thread_local! {
    /// What the panic hook saw last: message and place.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `target`; `false` if something was found.
pub fn run(target: &Target, effort: &Effort) -> std::io::Result<bool> {
    panic::set_hook(Box::new(|info| PANIC.with_borrow_mut(|p| *p = info.to_string())));
    let mut runner = Runner {
        target,
        now: now::Writer::inherited()?,
        seen: HashSet::new(),
        failures: HashSet::new(),
        inputs: Vec::new(),
        biggest: 0,
    };
    let corpus = if effort.quiet {
        let named = |(name, input): (&str, Vec<u8>)| (name.into(), input);
        (target.seeds)().into_iter().map(named).collect()
    } else {
        corpus::read(target)?
    };
    for (path, input) in corpus {
        runner.try_input(&input, Some(&path))?;
        // Even if it says what another one says.
        runner.inputs.push(input);
    }
    if runner.inputs.is_empty() {
        println!(
            "{}: the corpus is empty: {}",
            target.name,
            corpus::directory(target).display()
        );
        return Ok(false);
    }
    let replayed = runner.inputs.len();
    let mut rng = Rng::new(effort.seed, target.name);
    let begun = Instant::now();
    let mut runs = 0u64;
    while !effort.quiet && runner.failures.len() < MAX_FAILURES && effort.goes_on(runs, begun.elapsed()) {
        let input = runner.inputs[rng.below(runner.inputs.len())].clone();
        let other = &runner.inputs[rng.below(runner.inputs.len())];
        let changed = mutate(target, &input, other, &mut rng);
        runner.try_input(&changed, None)?;
        runs += 1;
    }
    println!(
        "fuzz {}: {replayed} inputs of the corpus and {runs} mutations, {} different answers, {} KiB of memory at most, \
         {} found",
        target.name,
        runner.seen.len(),
        runner.biggest >> 10,
        runner.failures.len(),
    );
    Ok(runner.failures.is_empty())
}

/// Runs one input here and now, with nothing caught: for a debugger.
pub fn replay(target: &Target, input: &[u8]) {
    let (said, peak) = peak_of(|| (target.run)(input));
    println!(
        "{}: {} bytes: {said}\n{peak} bytes of memory, {} allowed",
        target.name,
        input.len(),
        allowed(target, input)
    );
    assert!(peak <= allowed(target, input), "out of proportion");
}

fn allowed(target: &Target, input: &[u8]) -> usize {
    target.memory + target.memory_factor * input.len()
}

struct Runner<'a> {
    target: &'a Target,
    now: now::Writer,
    /// What was said, without its numbers and names.
    seen: HashSet<u64>,
    /// Places of panics and the like.
    failures: HashSet<String>,
    inputs: Vec<Vec<u8>>,
    biggest: usize,
}

impl Runner<'_> {
    fn try_input(&mut self, input: &[u8], path: Option<&Path>) -> std::io::Result<()> {
        self.now.put(input)?;
        let (outcome, peak) = peak_of(|| panic::catch_unwind(AssertUnwindSafe(|| (self.target.run)(input))));
        self.biggest = self.biggest.max(peak);
        match outcome {
            Err(_) => self.failed(input, path, PANIC.take()),
            Ok(_) if peak > allowed(self.target, input) => {
                let what = format!(
                    "out of proportion: {peak} bytes of memory for an input of {}; {} allowed",
                    input.len(),
                    allowed(self.target, input)
                );
                self.failed(input, path, what);
            }
            Ok(said) => {
                if self.seen.insert(fingerprint(&said)) && self.inputs.len() < MAX_KEPT && path.is_none() {
                    self.inputs.push(input.to_vec());
                }
            }
        }
        Ok(())
    }

    fn failed(&mut self, input: &[u8], path: Option<&Path>, what: String) {
        // One report for each place in the source.
        let place = what
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .filter(|c| !c.is_ascii_digit() || what.contains(".rs:"))
            .collect();
        if !self.failures.insert(place) {
            return;
        }
        let path = path.map_or_else(|| corpus::keep(self.target, input), Path::to_owned);
        let name = self.target.name;
        println!(
            "FOUND by {name}: {what}\n  replay: cargo test -p husk-fuzz -- --replay {name} {}",
            path.display()
        );
    }
}

/// What of a sentence tells one outcome from another: numbers, and whatever is quoted, do not.
fn fingerprint(said: &Said) -> u64 {
    let mut quoted = false;
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in said.bytes().take(4096) {
        if byte == b'"' {
            quoted = !quoted;
        }
        if !quoted && !byte.is_ascii_digit() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

impl Effort {
    fn goes_on(&self, runs: u64, elapsed: Duration) -> bool {
        match self.time {
            Some(time) => elapsed < time,
            None => runs < self.runs,
        }
    }
}
