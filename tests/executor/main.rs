//! Launches real containers on this kernel. Needs root and a static busybox.
//!
//! The executor's caller must be single-threaded, which libtest is not: this is a harness of its own that runs one case
//! after the other on the main thread. Arguments are substrings of case names, as with `cargo test`.

#![allow(clippy::unwrap_used, missing_docs)]

mod basic;
mod cgroups;
mod fixture;
mod hostile;
mod identity;
mod image_volumes;
mod mounts;
mod oci;
mod tty;
mod user_namespace;

use std::panic::catch_unwind;
use std::process::ExitCode;

pub type Case = (&'static str, fn());

fn cases() -> Vec<Case> {
    [
        basic::CASES,
        cgroups::CASES,
        user_namespace::CASES,
        identity::CASES,
        mounts::CASES,
        image_volumes::CASES,
        hostile::CASES,
        tty::CASES,
        oci::CASES,
    ]
    .concat()
}

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1).peekable();
    // The cases of `oci` start this program again as if it were husk.
    if words.next_if(|w| w == "--as-husk-oci").is_some() {
        return ExitCode::from(u8::try_from(husk::cli::oci::main(words)).unwrap_or(255));
    }
    let args: Vec<String> = words.map(|w| w.into_string().unwrap()).collect();
    let filters: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let chosen = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str()));
    if args.iter().any(|a| a == "--list") {
        cases().iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        println!("executor tests SKIPPED: launching containers needs root");
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, case) in cases().into_iter().filter(|(name, _)| chosen(name)) {
        let result = catch_unwind(case);
        assert_eq!(fixture::leftovers(), [""; 0], "{name} left a mount on the node");
        match result {
            Ok(()) => passed += 1,
            Err(_) => failed.push(name),
        }
        println!(
            "test {name} ... {}",
            if failed.last() == Some(&name) {
                "FAILED"
            } else {
                "ok"
            }
        );
    }
    println!(
        "\ntest result: {passed} passed; {} failed {failed:?}",
        failed.len()
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
